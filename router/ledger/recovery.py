"""What happens to the journal of a process that died: replay it, keep damage aside, name open calls.

The rule: replay is idempotent. Every settlement found goes to the store, which keeps each once; an intent
that no settlement and no earlier row answers becomes an interrupted call. Segments are removed only when the
store has all of that durably, so a crash in the middle of a replay only means that the next one does it
again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from router.feedback import Feedback, Received
from router.ledger import codec
from router.ledger.codec import (
    FeedbackRecord,
    IntentRecord,
    Record,
    SettlementRecord,
    Undecodable,
    WarmRecord,
)
from router.ledger.journal import Damage, Line, read_segment, segment_path, segments, sync_directory
from router.ledger.store import NOTHING_BROUGHT, Brought, LedgerStore
from router.warm_verdict import WarmVerdict

_LOG = logging.getLogger("router.ledger")
_BATCH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What opening the ledger found.

    Attributes:
        last_segment: Highest segment number seen, 0 for none.
        segments: Segments replayed.
        settlements: Settlements in them that the store did not have.
        repeated: Settlements in them that it had.
        conflicting: Settlements that contradict one; kept aside.
        interrupted: Calls newly known as interrupted.
        torn_lines: Unfinished last lines: records whose writer died before going on; nothing was
            acknowledged.
        damaged_lines: Whole lines that cannot be read; kept aside as they are.
        feedback: Judgements in them that the store did not have.
        warms: Verdicts on warms in them that the store did not have.
    """

    last_segment: int = 0
    segments: int = 0
    settlements: int = 0
    repeated: int = 0
    conflicting: int = 0
    interrupted: int = 0
    torn_lines: int = 0
    damaged_lines: int = 0
    feedback: int = 0
    warms: int = 0


def recover(store: LedgerStore, directory: Path, now_s: float) -> Recovery:
    """Bring the store up to date with the journal in `directory` and empty the journal.

    Args:
        store: Open, used by no one else.
        directory: Where the segments are.
        now_s: Time at which interrupted calls are found, seconds since the epoch.

    Raises:
        StoreError: The store failed; the journal is still there.
        OSError: The journal cannot be read.
    """
    numbers = segments(directory)
    open_intents = {record.key: record for record in store.open_intents()}
    held_open = set(open_intents)
    settled = _Settled(store, now_s)
    judgements: list[Feedback] = []
    verdicts: list[WarmVerdict] = []
    torn = damaged = 0
    for number in numbers:
        kept_aside = []
        for item in read_segment(segment_path(directory, number)):
            record = _record(item)
            match record:
                case IntentRecord():
                    open_intents.setdefault(record.key, record)
                case SettlementRecord():
                    open_intents.pop(record.key, None)
                    settled.add(record)
                case FeedbackRecord():
                    judgements.append(record.feedback)
                case WarmRecord():
                    verdicts.append(record.verdict)
                case Damage(torn=True):
                    torn += 1
                case Damage():
                    damaged += 1
                    kept_aside.append(record.raw)
        _keep_aside(directory, number, kept_aside)
    settled.end()
    # What the store held open is in no sum; of what the journal alone has that cannot be told.
    held = [record for key, record in open_intents.items() if key in held_open]
    others = [record for key, record in open_intents.items() if key not in held_open]
    interrupted = store.interrupt(held, now_s, late=True) if held else 0
    interrupted += store.interrupt(others, now_s) if others else 0
    kept = _keep_feedback(store, judgements)
    warms = store.keep_warms(verdicts) if verdicts else 0
    if numbers and store.make_durable():
        for number in numbers:
            segment_path(directory, number).unlink(missing_ok=True)
    recovery = Recovery(
        last_segment=max(numbers, default=0),
        segments=len(numbers),
        settlements=settled.stored,
        repeated=settled.repeated,
        conflicting=settled.conflicting,
        interrupted=interrupted,
        torn_lines=torn,
        damaged_lines=damaged,
        feedback=kept,
        warms=warms,
    )
    if interrupted or torn or damaged or settled.stored or settled.conflicting or kept or warms:
        _LOG.warning("the ledger was not closed in order: %s", recovery)
    return recovery


def _keep_feedback(store: LedgerStore, judgements: Sequence[Feedback]) -> int:
    """Keep judgements once their requests are all in the store; return how many were not there.

    Those of unknown requests were refused, or would have been; they are dropped. None is too old here: the time to
    judge was when it came.
    """
    new = 0
    for start in range(0, len(judgements), _BATCH):
        receipts = store.keep_feedback(judgements[start : start + _BATCH], {}, -inf)
        new += sum(receipt.received in (Received.RECORDED, Received.REPLACED) for receipt in receipts)
    return new


class _Settled:
    """Settlements on their way into the store, in the journal's order and a batch at a time.

    Those of days that are kept as sums by now are in these sums if the journal had brought them before; those that came
    after the last one it brought are in none, because another router of the server pruned while this one was away.
    """

    def __init__(self, store: LedgerStore, now_s: float) -> None:
        self._store = store
        self._now_s = now_s
        self._before_s = store.pruned_before_s
        self._last = store.last_brought()
        self._is_behind = self._last == NOTHING_BROUGHT
        """Whether what comes now came after the last one that was brought, for certain."""
        self._old: list[SettlementRecord] = []
        """Of days that are kept as sums, as long as that is not certain."""
        self._batch: list[SettlementRecord] = []
        self._newest: Brought | None = None
        self.stored = self.repeated = self.conflicting = 0

    def add(self, record: SettlementRecord) -> None:
        """Take the next one of the journal."""
        self._newest = Brought.of(record)
        if self._last is None or self._is_behind:
            self._take(record)
            return
        if record.settlement.intent.started_time_s < self._before_s:
            self._old.append(record)
        else:
            self._take(record)
        if record.key == (self._last.request_id, self._last.attempt):
            for each in self._old:
                self._take(each)
            self._write()
            self._old, self._is_behind = [], True

    def end(self) -> None:
        """Write what has gathered; where the journal has no line of the last that was brought, time tells."""
        last = None if self._is_behind else self._last
        late: list[SettlementRecord] = []
        for each in self._old:
            if last is not None and each.settlement.settled_time_s > last.settled_time_s:
                late.append(each)
            else:
                self._take(each)
        self._write()
        if last is None or self._newest is None or self._newest.settled_time_s <= last.settled_time_s:
            return
        self._is_behind = True
        for each in late:
            self._take(each)
        self._write()
        self._store.write((), (), self._now_s, brought=self._newest)

    def _take(self, record: SettlementRecord) -> None:
        self._batch.append(record)
        if len(self._batch) >= _BATCH:
            self._write()

    def _write(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        # Each batch notes how far the journal has been brought: a start that dies here must not begin over.
        brought = Brought.of(batch[-1]) if self._is_behind else None
        written = self._store.write(batch, (), self._now_s, brought=brought, late=self._is_behind)
        self.stored += written.stored
        self.repeated += written.repeated
        self.conflicting += written.conflicting


def _record(item: Line | Damage) -> Record | Damage:
    """Return the record of a line; one that this release cannot read counts as damaged."""
    if isinstance(item, Damage):
        return item
    try:
        return codec.decode(item.kind, item.body)
    except Undecodable:
        return Damage(item.kind + b" " + item.body + b"\n", torn=False)


def _keep_aside(directory: Path, number: int, lines: Sequence[bytes]) -> None:
    """Keep damaged lines beside the journal for a person to look at; replaying again writes the same file."""
    if not lines:
        return
    path = directory / f"damaged-{number:010d}.log"
    path.write_bytes(b"".join(lines))
    path.chmod(0o600)
    sync_directory(directory)
