"""The thread that carries records from memory to the store, in batches, and journal segments to their end.

The rule: a record waits in memory until its batch is committed; a batch that fails is tried again until it
works, so the journal's segments stay until then. Intents reach the store only when they outlive their
segment: most calls cost one INSERT. Nothing here decides whether a record may enter; the ledger does, by
    `pending`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import inf

from router.feedback import Feedback, Receipt
from router.ledger.codec import IntentRecord, Key, SettlementRecord, WarmRecord
from router.ledger.journal import Journal
from router.ledger.past import whole_days
from router.ledger.store import Brought, LedgerStore, StoreError
from router.settlement import Purpose

_LOG = logging.getLogger("router.ledger")

PRUNE_CALLS = 250
"""Old calls moved into sums at a time: about 10 ms, which is what a settlement then waits for at most."""
PRUNE_REST_S = 600.0
"""How long to wait for a day to end, or for the store to work again."""


@dataclass(slots=True, eq=False)
class Judgement:
    """A feedback to keep; whoever waits for `done` wants to know what came of it, None when no one does any more."""

    feedback: Feedback
    done: Future[Receipt] | None


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """Everything of journal segment `number` has been handed over before this."""

    number: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Whoever waits for `done` wants to know that everything before this is committed."""

    done: Future[None]


@dataclass(frozen=True, slots=True)
class Prune:
    """Whoever waits for `done` wants so many of the oldest calls that began before moved into sums (`past`)."""

    before_s: float
    limit: int
    done: Future[int]


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing comes after this."""

    done: Future[None]


Item = IntentRecord | SettlementRecord | WarmRecord | Judgement | SegmentEnded | Flush | Prune | Stop


@dataclass(slots=True)
class WriterCounts:
    """What the writer has done since it started; read by other threads, written by its own."""

    batches: int = 0
    stored: int = 0
    repeated: int = 0
    conflicting: int = 0
    failures: int = 0
    last_failure: str = ""
    pruned: int = 0


@dataclass(slots=True)
class _Batch:
    """What is taken from the queue and not yet committed."""

    settled: list[SettlementRecord] = field(default_factory=list)
    warms: list[WarmRecord] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    flushes: list[Future[None]] = field(default_factory=list)
    prunes: list[Prune] = field(default_factory=list)
    stop: Future[None] | None = None


class Writer:
    """Owns the store and its thread.

    Args:
        store: Where records go; used only by the thread from `start` on.
        journal: Whose segments are synced with every batch and removed when done with.
        now_s: Time for what is put aside, seconds since the epoch.
        interval_s: How long a batch gathers; also the most a power cut can take back.
        retry_s: How long to wait after a failure of the store.
        sync: Whether to sync the journal with every batch.
        judged_within_s: How long after its start a request may be judged.
        keep_s: How long calls are kept, from then on as sums by day; for ever by default.
    """

    def __init__(
        self,
        store: LedgerStore,
        journal: Journal,
        *,
        now_s: Callable[[], float],
        interval_s: float,
        retry_s: float,
        sync: bool,
        judged_within_s: float = inf,
        keep_s: float = inf,
    ) -> None:
        self._store = store
        self._journal = journal
        self._now_s = now_s
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._sync = sync
        self._judged_within_s = judged_within_s
        self._keep_s = keep_s
        self._kept_from_s = -inf
        self._rest_s = None if keep_s == inf else interval_s
        self._queue: deque[Item] = deque()
        self._batch = _Batch()
        self._waiting_since_s: float | None = None
        self._open: dict[Key, IntentRecord] = {}
        self._kept: set[Key] = set()
        self._unretired: list[int] = []
        self._durable = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self.counts = WriterCounts()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand over one item; cheap, and safe from any thread."""
        self._queue.append(item)
        if self._waiting_since_s is None and isinstance(item, SettlementRecord):
            self._waiting_since_s = self._now_s()
        if not self._wake.is_set():
            self._wake.set()

    def pending(self) -> int:
        """Records in memory that the store does not have yet, about."""
        batch = self._batch
        return len(self._queue) + len(batch.settled) + len(batch.warms) + len(batch.judgements)

    def lag_s(self) -> float:
        """Age of the oldest settlement the store does not have yet, seconds; 0 when it has them all."""
        since_s = self._waiting_since_s
        return 0.0 if since_s is None else max(0.0, self._now_s() - since_s)

    def flush(self) -> Future[None]:
        """Return a future that is done when everything put so far is committed and the journal synced."""
        done: Future[None] = Future()
        self.put(Flush(done))
        self._hurry.set()
        return done

    def judge(self, feedback: Feedback) -> Future[Receipt]:
        """Hand over a feedback; the future tells what came of it once that is committed."""
        done: Future[Receipt] = Future()
        self.put(Judgement(feedback, done))
        return done

    def prune(self, before_s: float, limit: int) -> Future[int]:
        """Return a future that tells how many of the oldest calls were moved into sums; see `LedgerStore.prune`."""
        done: Future[int] = Future()
        self.put(Prune(before_s, limit, done))
        self._hurry.set()
        return done

    def stop(self) -> Future[None]:
        """Commit everything, keep open intents in the store, end the thread; the future tells how it went."""
        done: Future[None] = Future()
        self.put(Stop(done))
        self._hurry.set()
        return done

    def break_off(self) -> None:
        """Make a write that waits for a store that does not answer fail now; its records stay in the journal."""
        self._store.break_off()

    def join(self) -> None:
        """Wait for the thread to end, after `stop`."""
        self._thread.join()

    def close_store(self) -> bool:
        """Release the store, after `join`; return whether no journal segment is needed any more."""
        retired = not self._unretired
        self._store.close()
        return retired and self._durable

    def _run(self) -> None:
        """Commit batches until told to stop."""
        while True:
            self._wake.wait(self._rest_s)
            if not self._hurry.is_set():
                self._hurry.wait(self._interval_s)
            self._wake.clear()
            self._hurry.clear()
            self._take()
            batch = self._batch
            try:
                self._commit(batch)
            except Exception as error:  # the edge of this thread: a bug too must not hang its callers
                self._failed(batch, error)
                if batch.stop is not None:
                    batch.stop.set_exception(error)
                    return
                self._hurry.wait(self._retry_s)
                self._wake.set()
                continue
            for done in batch.flushes:
                done.set_result(None)
            if batch.stop is not None:
                batch.stop.set_result(None)
                return
            self._keep_days()

    def _keep_days(self) -> None:
        """Move some of what is too old into sums, when nothing else waits; a day's calls go once it is over."""
        if self._keep_s == inf or self._queue:
            return
        before_s = whole_days(self._now_s() - self._keep_s)
        self._rest_s = PRUNE_REST_S
        if before_s <= self._kept_from_s:
            return
        try:
            count = self._store.prune(before_s, PRUNE_CALLS)
        except Exception as error:  # the next try is soon enough, and nothing waits for it
            _LOG.error(
                "old calls could not be moved into sums, tried again in %.0f s: %s", PRUNE_REST_S, error
            )
            return
        self.counts.pruned += count
        if count:
            self._rest_s = self._interval_s
        else:
            self._kept_from_s = before_s

    def _take(self) -> None:
        """Move what is queued into the batch."""
        batch, queue, opened = self._batch, self._queue, self._open
        while queue:
            item = queue.popleft()
            match item:
                case IntentRecord():
                    opened[item.key] = item
                case SettlementRecord():
                    opened.pop(item.key, None)
                    batch.settled.append(item)
                case WarmRecord():
                    batch.warms.append(item)
                case Judgement():
                    if item.done is not None and not item.done.set_running_or_notify_cancel():
                        item.done = None
                    batch.judgements.append(item)
                case SegmentEnded():
                    batch.ended.append(item.number)
                case Flush():
                    if item.done.set_running_or_notify_cancel():
                        batch.flushes.append(item.done)
                case Prune():
                    if item.done.set_running_or_notify_cancel():
                        batch.prunes.append(item)
                case Stop():
                    batch.stop = item.done

    def _commit(self, batch: _Batch) -> None:
        """Write a batch; keep open intents and remove segments when some ended."""
        if self._sync:
            self._journal.sync()
        parting = bool(batch.ended) or batch.stop is not None
        keep = [record for key, record in self._open.items() if key not in self._kept] if parting else []
        if batch.settled or keep:
            brought = Brought.of(batch.settled[-1]) if batch.settled else None
            written = self._store.write(batch.settled, keep, self._now_s(), brought=brought)
            self.counts.batches += 1
            self.counts.stored += written.stored
            self.counts.repeated += written.repeated
            self.counts.conflicting += written.conflicting
            if written.conflicting:
                _LOG.error("%d settlements contradict what is settled; kept aside", written.conflicting)
            self._kept.update(record.key for record in keep)
            if self._kept:
                self._kept.difference_update(record.key for record in batch.settled)
            batch.settled = []  # what fails from here on must not write them again
        if batch.warms:
            self._store.keep_warms([record.verdict for record in batch.warms])
            batch.warms = []
        if batch.judgements:
            self._judge(batch)
        while batch.prunes:
            asked = batch.prunes[0]
            asked.done.set_result(self._store.prune(asked.before_s, asked.limit))
            del batch.prunes[0]
        self._unretired.extend(batch.ended)
        self._batch = _Batch()
        # What came in while this batch was written has waited for less than it, so the age starts anew.
        self._waiting_since_s = self._now_s() if self._queue else None
        if not self._unretired and batch.stop is None:
            return
        self._durable = self._store.make_durable()
        if self._durable:
            for number in self._unretired:
                self._journal.retire(number)
            self._unretired.clear()

    def _judge(self, batch: _Batch) -> None:
        """Keep a batch's feedback, after the settlements that came before it."""
        open_requests = {
            record.intent.request_id: record.intent.tenant
            for record in self._open.values()
            if record.intent.purpose is Purpose.USER
        }
        receipts = self._store.keep_feedback(
            [each.feedback for each in batch.judgements], open_requests, self._now_s() - self._judged_within_s
        )
        judgements, batch.judgements = batch.judgements, []
        for judgement, receipt in zip(judgements, receipts, strict=True):
            if judgement.done is not None:
                judgement.done.set_result(receipt)

    def _failed(self, batch: _Batch, error: Exception) -> None:
        """Note a failure; whoever waits for a flush learns of it, the records stay for the next try."""
        self.counts.failures += 1
        self.counts.last_failure = str(error)
        _LOG.error(
            "the ledger's store failed, %d records wait in memory and journal: %s",
            self.pending(),
            error,
            exc_info=None if isinstance(error, StoreError | OSError) else error,
        )
        for done in batch.flushes:
            done.set_exception(error)
        batch.flushes.clear()
        for asked in batch.prunes:
            asked.done.set_exception(error)
        batch.prunes.clear()
        # They are in the journal, and kept with the next try; but no one should wait for that.
        for judgement in batch.judgements:
            if judgement.done is not None:
                judgement.done.set_exception(error)
                judgement.done = None
