"""The ledger: durable truth about every call, whatever becomes of this process.

The rule: an intent is in the journal before its call may spend money, a settlement before `settle` returns;
both are one `write` to the kernel, so they survive a SIGKILL. A thread of its own brings them to the store.
On opening, the journal of a process that died is replayed; an intent that nothing settled becomes an
interrupted call: outcome and cost unknown, bounded by what it could have cost at most, and listed. Nothing is
    in the store twice.

One process at a time has the ledger open for writing; readers may come and go. No prompt or answer text is
kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Self, TypeVar
from uuid import uuid4

from router.clock import Clock
from router.errors import LedgerUnavailable
from router.feedback import Feedback, Receipt
from router.ledger import codec
from router.ledger.codec import IntentRecord, SettlementRecord, WarmRecord
from router.ledger.groups import DAY_S, Filter
from router.ledger.journal import Journal, sync_directory
from router.ledger.judged import DecidedRequest
from router.ledger.misses import CachingRow, MissRow
from router.ledger.past import Past, whole_days
from router.ledger.place import DATABASE, Server, driver
from router.ledger.queries import Interrupted, LedgerReader
from router.ledger.readers import Readers
from router.ledger.recent import LastCall, PastFirstByte, Turn
from router.ledger.recovery import Recovery, recover
from router.ledger.sqlite import SqliteStore
from router.ledger.store import LedgerStore, StoreError
from router.ledger.sums import CostRow
from router.ledger.warms import PastWarm, WarmRow
from router.ledger.writer import SegmentEnded, Writer
from router.settlement import Intent, Settlement
from router.warm_verdict import WarmVerdict

_LOG = logging.getLogger("router.ledger")
_T = TypeVar("_T")

JOURNAL = "journal"
OWNER = "owner"
"""File beside the journal that names it to a server which several routers share."""


class LedgerLocked(Exception):
    """Another process has the ledger open for writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """How the ledger behaves.

    Attributes:
        interval_s: How long a batch gathers before it is committed and the journal synced; a power cut (not a
            crash) can take back this much.
        retry_s: Wait after a failure of the store.
        segment_bytes: Size from which the journal begins a new segment.
        max_pending: Records that may wait for the store; at this many, intents are refused, and at twice as
            many settlements are left to the journal alone.
        sync: Whether the journal is synced to the disk at all; False only for throw-away ledgers.
        judged_within_s: How long after its start a request may be judged (`feedback`).
        keep_s: How long calls are kept, a day at least; then only their sums by day are (`past`). For ever by default.
        close_s: How long closing waits for a server that does not answer before it leaves the rest to the journal.
    """

    interval_s: float = 0.1
    retry_s: float = 1.0
    segment_bytes: int = 16 * 1024 * 1024
    max_pending: int = 50_000
    sync: bool = True
    judged_within_s: float = inf
    keep_s: float = inf
    close_s: float = 10.0

    def __post_init__(self) -> None:
        if self.keep_s < DAY_S:
            raise ValueError(f"calls are kept for a day at least, not {self.keep_s} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStats:
    """What the ledger has done since it was opened.

    Attributes:
        pending: Records the store does not have yet.
        intents: Intents journalled.
        settlements: Settlements accepted.
        refused: Intents refused because they could not be journalled or too much is pending.
        unjournalled: Settlements that are in memory only until the store has them, for want of a journal.
        dropped: Settlements the store will get only from the journal, on the next opening, or never: see the
            log.
        stored: Settlements new in the store.
        repeated: Settlements it already had.
        conflicting: Settlements that contradict one; kept aside.
        batches: Commits.
        failures: Failures of the store; `last_failure` says the latest.
        pruned: Old calls moved into sums because of `LedgerSettings.keep_s`.
    """

    pending: int
    intents: int
    settlements: int
    refused: int
    unjournalled: int
    dropped: int
    stored: int
    repeated: int
    conflicting: int
    batches: int
    failures: int
    last_failure: str
    pruned: int = 0


class Ledger:
    """The append-only list of calls. Make one with `Ledger.open`."""

    def __init__(
        self,
        directory: Path,
        *,
        readers: Readers,
        lock_fd: int,
        journal: Journal,
        writer: Writer,
        recovery: Recovery,
        settings: LedgerSettings,
        prefix_key: bytes,
        remove: bool,
    ) -> None:
        self._directory = directory
        self._readers = readers
        self._lock_fd = lock_fd
        self._journal = journal
        self._writer = writer
        self._settings = settings
        self._remove = remove
        self._turn = threading.Lock()
        self._closed = False
        self._intents = 0
        self._settlements = 0
        self._refused = 0
        self._unjournalled = 0
        self._dropped = 0
        self.recovery = recovery
        self.prefix_key = prefix_key
        """Under which prompts are named in this ledger (`router.prefix_notes`); not for showing."""

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        clock: Clock,
        settings: LedgerSettings | None = None,
        store: LedgerStore | None = None,
        server: Server | None = None,
        remove: bool = False,
    ) -> Self:
        """Open the ledger in a directory, making it if need be, and replay what a dead process left.

        Blocks for as long as the replay takes (about a second per 20,000 calls).

        Args:
            path: A directory of the ledger's own, on a local disk; the journal is here in any case.
            clock: Time for what was found interrupted.
            settings: None for the defaults.
            store: Where records go, closed with the ledger; None for the one of the place.
            server: Where the database is, and where the ledger's own queries look; None for SQLite in the directory.
            remove: Delete the directory on closing.

        Raises:
            LedgerLocked: Another process, or this one, has it open.
            StoreError: The database cannot be opened, or its server is away.
            SchemaTooNew: A newer release made it.
            OSError: The directory cannot be used.
        """
        settings = settings or LedgerSettings()
        directory = Path(path)
        journal_directory = directory / JOURNAL
        journal_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock_fd = _lock(directory)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, lock_fd)
            if store is None:
                store = _store(directory, server, clock.now())
            undo.callback(store.close)
            recovery = recover(store, journal_directory, clock.now())
            prefix_key = store.prefix_key()
            journal = Journal(
                journal_directory, first=recovery.last_segment + 1, segment_bytes=settings.segment_bytes
            )
            undo.pop_all()
        writer = Writer(
            store,
            journal,
            now_s=clock.now,
            interval_s=settings.interval_s,
            retry_s=settings.retry_s,
            sync=settings.sync,
            judged_within_s=settings.judged_within_s,
            keep_s=settings.keep_s,
        )
        writer.start()
        return cls(
            directory,
            readers=Readers(server or directory / DATABASE),
            lock_fd=lock_fd,
            journal=journal,
            writer=writer,
            recovery=recovery,
            settings=settings,
            prefix_key=prefix_key,
            remove=remove,
        )

    @classmethod
    def temporary(cls, *, clock: Clock) -> Self:
        """Open an empty ledger that is deleted when it is closed, for tests and replays."""
        directory = tempfile.mkdtemp(prefix="hybrid-router-ledger-")
        return cls.open(directory, clock=clock, settings=LedgerSettings(sync=False), remove=True)

    def journal_intent(self, intent: Intent) -> None:
        """Note that a call is about to be made; only when this returns may it be made.

        Raises:
            LedgerUnavailable: The intent is not safe; nothing may be sent.
        """
        try:
            if self._writer.pending() >= self._settings.max_pending:
                raise LedgerUnavailable(
                    f"{self._settings.max_pending} records wait for the ledger's database: the limit"
                )
            body = codec.encode(intent)
            with self._turn:
                if self._closed:
                    raise LedgerUnavailable("the ledger is closed")
                is_full = self._journal.append(codec.INTENT, body)
                self._writer.put(IntentRecord(intent, body))
                if is_full:
                    self._rotate()
        except OSError as error:
            self._refused += 1
            raise LedgerUnavailable(f"the journal cannot be written: {error.strerror or error}") from error
        except LedgerUnavailable:
            self._refused += 1
            raise
        self._intents += 1

    def settle(self, settlement: Settlement) -> None:
        """Note what became of a call; when this returns, a crash does not lose it.

        Never raises for the ledger's own trouble: the money is spent, and the answer should reach the caller.
        A settlement that cannot be journalled waits in memory for the store; the log and `stats` tell.
        Settling the same again does nothing; settling otherwise is kept aside, counted and logged.
        """
        self._settlements += 1
        try:
            body = codec.encode(settlement)
        except (TypeError, ValueError, OverflowError) as error:
            self._dropped += 1
            _LOG.error(
                "settlement %s cannot be kept; it will show as interrupted: %s", _name(settlement), error
            )
            return
        with self._turn:
            if self._closed:
                self._dropped += 1
                _LOG.error(
                    "settlement %s came after the ledger was closed; it will show as interrupted",
                    _name(settlement),
                )
                return
            journalled, is_full = True, False
            try:
                is_full = self._journal.append(codec.SETTLEMENT, body)
            except OSError as error:
                journalled = False
                self._unjournalled += 1
                _LOG.error("settlement %s is in memory only, no journal: %s", _name(settlement), error)
            if self._writer.pending() < 2 * self._settings.max_pending:
                self._writer.put(SettlementRecord(settlement, body))
                if is_full:
                    self._rotate()
                return
        self._dropped += 1
        _LOG.error(
            "settlement %s does not fit in memory; %s",
            _name(settlement),
            "the next opening replays it from the journal" if journalled else "it will show as interrupted",
        )

    def warm(self, verdict: WarmVerdict) -> None:
        """Note what a decision to warm came to; when this returns, a crash does not lose it.

        Never raises for the ledger's own trouble: a verdict is a lesson, and its money is booked with its call. One
        that cannot be journalled waits in memory for the store; the log tells. The first verdict on a decision stands.
        """
        body = codec.encode(verdict)
        with self._turn:
            if self._closed:
                _LOG.error("the verdict on %s came after the ledger was closed", verdict.warm_id)
                return
            try:
                self._journal.append(codec.WARM, body)
            except OSError as error:
                _LOG.error("the verdict on %s is in memory only, no journal: %s", verdict.warm_id, error)
            if self._writer.pending() >= 2 * self._settings.max_pending:
                _LOG.error("the verdict on %s does not fit in memory", verdict.warm_id)
                return
            self._writer.put(WarmRecord(verdict, body))
            self._rotate()

    async def feedback(self, feedback: Feedback) -> Receipt:
        """Keep how a request turned out; when this returns, it is in journal and store, and survives a power cut.

        A kill on the way is as if it had not been sent, or as if it had; sending it again settles which.

        Raises:
            LedgerUnavailable: Nobody knows yet; the same may be sent again.
        """
        try:
            return await asyncio.wrap_future(self._judge(feedback))
        except (StoreError, OSError) as error:
            raise LedgerUnavailable(f"the ledger's database failed: {error}") from error

    def feedback_blocking(self, feedback: Feedback) -> Receipt:
        """Do what `feedback` does, blocking the calling thread."""
        try:
            return self._judge(feedback).result()
        except (StoreError, OSError) as error:
            raise LedgerUnavailable(f"the ledger's database failed: {error}") from error

    def _judge(self, feedback: Feedback) -> Future[Receipt]:
        """Journal a feedback and hand it to the writer; its answer is sure to come."""
        if self._writer.pending() >= self._settings.max_pending:
            raise LedgerUnavailable(
                f"{self._settings.max_pending} records wait for the ledger's database: the limit"
            )
        body = codec.encode(feedback)
        with self._turn:
            if self._closed:
                raise LedgerUnavailable("the ledger is closed")
            try:
                self._journal.append(codec.FEEDBACK, body)
            except OSError as error:
                raise LedgerUnavailable(
                    f"the journal cannot be written: {error.strerror or error}"
                ) from error
            done = self._writer.judge(feedback)
            self._rotate()
        return done

    @property
    def dropped(self) -> int:
        """Settlements that are not on their way into the store: see `LedgerStats`."""
        return self._dropped

    def lag_s(self) -> float:
        """Age of the oldest settlement that is in the journal only, seconds; 0 when the store has them all."""
        return self._writer.lag_s()

    async def flush(self) -> None:
        """Wait until everything noted so far is in the store.

        Raises:
            LedgerUnavailable: The store failed; the records stay in memory and journal.
        """
        try:
            await asyncio.wrap_future(self._flush())
        except (StoreError, OSError) as error:
            raise LedgerUnavailable(f"the ledger's database failed: {error}") from error

    def flush_blocking(self) -> None:
        """Do what `flush` does, blocking the calling thread."""
        try:
            self._flush().result()
        except (StoreError, OSError) as error:
            raise LedgerUnavailable(f"the ledger's database failed: {error}") from error

    def _flush(self) -> Future[None]:
        """Ask the writer to commit; its answer is sure to come."""
        with self._turn:
            if self._closed:
                raise LedgerUnavailable("the ledger is closed")
            return self._writer.flush()

    def prune_blocking(self, before_s: float, limit: int = 1_000) -> int:
        """Move about `limit` of the oldest calls that began before a day's beginning into sums by day.

        Returns:
            How many were moved; 0 when none is left.

        Raises:
            ValueError: It is not a day's beginning, UTC.
            LedgerUnavailable: The store failed; nothing was moved.
        """
        if before_s != whole_days(before_s):
            raise ValueError("calls are moved into sums by whole days, UTC")
        with self._turn:
            if self._closed:
                raise LedgerUnavailable("the ledger is closed")
            done = self._writer.prune(before_s, limit)
        try:
            return done.result()
        except (StoreError, OSError) as error:
            raise LedgerUnavailable(f"the ledger's database failed: {error}") from error

    async def close(self) -> None:
        """Commit everything and let go; what is still open shows as interrupted on the next opening."""
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Do what `close` does, blocking the calling thread. Closing twice does nothing."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            stopped = self._writer.stop()
        failure = self._stopped(stopped)
        self._writer.join()
        durable = self._writer.close_store() and failure is None
        self._readers.close()
        self._journal.close(remove=durable)
        os.close(self._lock_fd)
        if self._remove:
            shutil.rmtree(self._directory, ignore_errors=True)
        elif failure is not None:
            _LOG.error("the ledger closed with its store failing; the journal has the rest: %s", failure)

    def _stopped(self, stopped: Future[None]) -> BaseException | None:
        """Wait for the writer to stop; return why it could not commit everything, None when it did."""
        while True:
            try:
                return stopped.exception(self._settings.close_s)
            except TimeoutError:
                _LOG.error("the ledger's database does not answer; what it lacks stays in the journal")
                self._writer.break_off()

    def stats(self) -> LedgerStats:
        """Return what has been done so far."""
        counts = self._writer.counts
        return LedgerStats(
            pending=self._writer.pending(),
            intents=self._intents,
            settlements=self._settlements,
            refused=self._refused,
            unjournalled=self._unjournalled,
            dropped=self._dropped,
            stored=counts.stored,
            repeated=counts.repeated,
            conflicting=counts.conflicting,
            batches=counts.batches,
            failures=counts.failures,
            last_failure=counts.last_failure,
            pruned=counts.pruned,
        )

    async def costs(self, group_by: Sequence[str] = (), where: Filter | None = None) -> list[CostRow]:
        """Return costs by group, everything noted so far included; see `LedgerReader.costs`."""
        return await self._read(lambda reader: reader.costs(group_by, where))

    async def totals(self, where: Filter | None = None) -> CostRow:
        """Return the sum over all calls; see `LedgerReader.totals`."""
        return await self._read(lambda reader: reader.totals(where))

    async def caching(self, group_by: Sequence[str] = (), where: Filter | None = None) -> list[CachingRow]:
        """Return what the cache did on Opus, by group; see `LedgerReader.caching`."""
        return await self._read(lambda reader: reader.caching(group_by, where))

    async def misses(self, group_by: Sequence[str] = (), where: Filter | None = None) -> list[MissRow]:
        """Return what was missed, by group; see `LedgerReader.misses`."""
        return await self._read(lambda reader: reader.misses(group_by, where))

    async def warms(self, group_by: Sequence[str] = (), where: Filter | None = None) -> list[WarmRow]:
        """Return what decisions to warm came to, by group; see `LedgerReader.warms`."""
        return await self._read(lambda reader: reader.warms(group_by, where))

    async def past(self, where: Filter | None = None) -> Past | None:
        """Return what a question's window has lost to sums by day; see `past.past_of`."""
        return await self._read(lambda reader: reader.past(where))

    async def last_warms(self, limit: int) -> list[PastWarm]:
        """Return the last decisions to warm that were settled, in that order; see `LedgerReader.last_warms`."""
        return await self._read(lambda reader: reader.last_warms(limit))

    async def interrupted(self, where: Filter | None = None) -> list[Interrupted]:
        """Return the calls whose process died before it settled them; see `LedgerReader.interrupted`."""
        return await self._read(lambda reader: reader.interrupted(where))

    async def last_calls(self, route: str, since_s: float, limit: int) -> list[LastCall]:
        """Return what recent sessions asked last on a route; see `LedgerReader.last_calls`."""
        return await self._read(lambda reader: reader.last_calls(route, since_s, limit))

    async def last_turns(self, since_s: float, limit: int) -> list[Turn]:
        """Return the last answered turns of sessions; see `LedgerReader.last_turns`."""
        return await self._read(lambda reader: reader.last_turns(since_s, limit))

    async def first_bytes(self, route: str, since_s: float, limit: int) -> list[PastFirstByte]:
        """Return how long streamed answers took to begin; see `LedgerReader.first_bytes`."""
        return await self._read(lambda reader: reader.first_bytes(route, since_s, limit))

    async def settlements(self, where: Filter | None = None, *, page: int = 500) -> AsyncIterator[Settlement]:
        """Yield settlements by start time, reading `page` of them at a time off the loop."""
        after: tuple[float, int] | None = None
        while True:
            rows = await self._read(
                partial(LedgerReader.settlement_page, where=where, after=after, limit=page)
            )
            for _, settlement in rows:
                yield settlement
            if len(rows) < page:
                return
            after = rows[-1][0]

    async def feedback_for(self, request_ids: Sequence[str]) -> dict[str, tuple[Feedback, ...]]:
        """Return how requests turned out; see `LedgerReader.feedback_for`."""
        return await self._read(lambda reader: reader.feedback_for(request_ids))

    async def decided(
        self, since_s: float | None = None, until_s: float | None = None, *, batch: int = 500
    ) -> AsyncGenerator[DecidedRequest, None]:
        """Yield decided requests by start time, reading `batch` of them at a time off the loop; see `LedgerReader`."""
        after: tuple[float, int] | None = None
        while True:
            rows = await self._read(
                partial(LedgerReader.decided_page, since_s=since_s, until_s=until_s, after=after, limit=batch)
            )
            for _, request in rows:
                yield request
            if len(rows) < batch:
                return
            after = rows[-1][0]

    async def _read(self, query: Callable[[LedgerReader], _T]) -> _T:
        """Run a query in a thread on a connection of its own, after everything noted so far is committed."""
        await self.flush()
        return await asyncio.to_thread(self._readers.ask, query)

    def _rotate(self) -> None:
        """Begin a new journal segment when it is time; the writer ends the old one."""
        ended = self._journal.rotate_if_full()
        if ended is not None:
            self._writer.put(SegmentEnded(ended))


def _name(settlement: Settlement) -> str:
    return f"{settlement.intent.request_id}/{settlement.intent.attempt}"


def _store(directory: Path, server: Server | None, now_s: float) -> LedgerStore:
    """Open the store of a place."""
    if server is None:
        return SqliteStore(directory / DATABASE, now_s)
    store: LedgerStore = driver().PostgresStore(server, owner_of(directory), now_s)
    return store


def owner_of(directory: Path) -> str:
    """Return the id of the journal in a directory, drawn when it is asked for the first time."""
    path = directory / OWNER
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    owner = uuid4().hex
    part = path.with_name(f".{OWNER}.part")
    part.write_text(owner, encoding="ascii")
    os.replace(part, path)
    sync_directory(directory)
    return owner


def _lock(directory: Path) -> int:
    """Take the ledger's lock file; the kernel gives it back when this process ends, however it ends."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise LedgerLocked(
            f"the ledger in {directory} is open in process {owner}; stop it or use another directory"
        ) from error
    os.ftruncate(fd, 0)
    os.write(fd, str(os.getpid()).encode())
    return fd
