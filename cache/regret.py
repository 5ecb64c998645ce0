"""What came of warms: each settled as used, wasted or superfluous, and judged against those held out at random.

The rule: a decision to warm has a window, from the instant the prefix would have lapsed (or, if it was cold, from the
decision) to the end of what the warm bought. Then

    used          a request came in the window and read it
    superfluous   a request came before the window and would have read it anyway
    wasted        none came in time, or it read nothing

A request in the window would have paid `gain` more without the warm: its tokens written instead of read, and that is
known of warmed prefixes too, because when a request comes does not depend on the warm. So each warm is its own
comparison, and those held out correct what that leaves out: the difference between what they were taken to lose and
what they lost. benefit = mean(predicted - actual - cost over the warmed) + mean(actual - predicted over the held out),
which is unbiased whatever the prediction is worth, and as narrow as it is good. Without two of each it is not told.

An owner (tenant and application) whose warms do not earn their keep is switched off: when, of `LEAST` or more, the
lower end of what a warm brought lately is under zero. After `REPROBE_S` it may try again, judged anew. Whoever keeps
what was settled gives it back at the next start (`restore`), and owners are judged as if there had been no end;
decisions that were open then are lost. Time is passed in; bounded.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, sqrt
from typing import NamedTuple

LEAST = 30
"""Warms of an owner below which it is not judged."""
FORGETTING = 0.99
"""Weight a warm keeps after the next one of its owner: the last hundred decide, not what once paid."""
REPROBE_S = 6 * 3600.0
_ONE_SIDED = 1.2816
"""Of a normal distribution 90 % lie above its mean less so many deviations."""
_TWO_SIDED = 1.96
_HALF_S = 1e-9

Owner = tuple[str, str]


class Result(StrEnum):
    """What a warm proved to be."""

    USED = "used"
    WASTED = "wasted"
    SUPERFLUOUS = "superfluous"
    HELD_OUT = "held_out"


@dataclass(slots=True, kw_only=True)
class Tried:
    """A decision to warm, until it is settled.

    Attributes:
        held_out: Whether it was not sent, at random.
        from_s: Start of its window; likewise the end.
        tokens: All of the prefix; `private_tokens` of it would be lost.
        gain_usd: What a request in the window saves if it reads them.
        gain_s: Seconds by which its first token comes earlier.
        name: Names the decision, once and for all: what keeps verdicts tells them apart by it.
        foresight: Digest of the model that foresaw the request, "" where none did.
        decided_s: When it was noted; set by `Regret.tried`.
        cost_usd: What the warm cost; 0 when held out, None while it is not known.
    """

    owner: Owner
    trigger: str
    held_out: bool
    from_s: float
    until_s: float
    tokens: int
    private_tokens: int
    gain_usd: float
    gain_s: float
    name: str = ""
    foresight: str = ""
    decided_s: float = 0.0
    cost_usd: float | None = None
    result: Result | None = None
    read_share: float = 0.0
    in_window: bool = False


class Settled(NamedTuple):
    """A decision, settled.

    Attributes:
        time_s: Start of its window.
        benefit_usd: Of a warm: predicted loss without it, less the actual one and its cost. Of one held out: actual
            loss less the predicted one.
        benefit_s: The same in seconds to the first token; a warm costs none.
        name, foresight, decided_s, until_s, gain_usd: As in `Tried`.
        settled_s: When it was settled.
        came: Whether a request came in its window.
    """

    time_s: float
    owner: Owner
    trigger: str
    result: Result
    cost_usd: float
    benefit_usd: float
    benefit_s: float
    name: str
    foresight: str
    decided_s: float
    until_s: float
    settled_s: float
    came: bool
    gain_usd: float

    @property
    def saved_usd(self) -> float:
        """What a warm spared its request, USD, >= 0; 0 for one held out."""
        return 0.0 if self.result is Result.HELD_OUT else self.benefit_usd + self.cost_usd


class Past(NamedTuple):
    """What a warm of an earlier process brought, as far as its owner is judged by it; as in `Settled`."""

    owner: Owner
    settled_s: float
    benefit_usd: float
    benefit_s: float


class Moments(NamedTuple):
    """Of the benefits of several decisions, USD, and of their gains in seconds."""

    size: int
    total_usd: float
    squares_usd: float
    total_s: float


class Estimate(NamedTuple):
    """Mean benefit of a warm and its 95 % interval, USD; mean gain in seconds."""

    usd: float
    low_usd: float
    high_usd: float
    seconds: float


@dataclass(slots=True)
class _Record:
    """Sums of an owner's warms since it was last allowed, the older the less they weigh."""

    number: int = 0
    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    off_until_s: float = -inf

    def low(self) -> float:
        mean = self.total / self.count
        variance = max(0.0, self.squares / self.count - mean * mean) * self.count / (self.count - 1)
        return mean - _ONE_SIDED * sqrt(variance / self.count)


class Regret:
    """Decisions of one process, open and settled. Not thread-safe; time is passed in."""

    def __init__(
        self,
        *,
        second_usd: float = 0.0,
        max_open: int = 20_000,
        max_settled: int = 100_000,
        max_owners: int = 10_000,
    ) -> None:
        """Value a second at `second_usd` when an owner is judged; beyond the bounds the oldest are given up."""
        self._second_usd = second_usd
        self._max_open = max_open
        self._max_owners = max_owners
        self._open: OrderedDict[bytes, Tried] = OrderedDict()
        self._soonest_s = inf
        self._settled: deque[Settled] = deque(maxlen=max_settled)
        self._records: OrderedDict[Owner, _Record] = OrderedDict()

    @property
    def open_count(self) -> int:
        """Decisions that are not settled."""
        return len(self._open)

    def allowed(self, owner: Owner, now: float) -> bool:
        """Whether this owner's prefixes may be warmed, by what came of the last ones."""
        record = self._records.get(owner)
        return record is None or now >= record.off_until_s

    def tried(self, key: bytes, tried: Tried, now: float) -> Sequence[Settled]:
        """Note a decision; an open one on the same prefix is settled by what is known of it."""
        done = self._end([key], now)
        tried.decided_s = now
        self._open[key] = tried
        self._soonest_s = min(self._soonest_s, tried.until_s)
        if len(self._open) > self._max_open:
            self._open.popitem(last=False)
        return done

    def switched_off(self, now: float) -> int:
        """How many owners' prefixes may not be warmed."""
        # In one step, as another thread may ask.
        return sum([now < record.off_until_s for record in tuple(self._records.values())])

    def restore(self, past: Iterable[Past]) -> None:
        """Judge owners by what was settled before this process began, oldest first; nothing of it is settled again."""
        for each in past:
            self._judge(each, each.settled_s)

    def spent(self, key: bytes, cost_usd: float) -> None:
        """Note what a warm cost."""
        tried = self._open.get(key)
        if tried is not None and not tried.held_out:
            tried.cost_usd = cost_usd

    def awaits(self, key: bytes) -> bool:
        """Whether a warm of this prefix was decided on and nobody knows yet what it cost: it is on its way."""
        tried = self._open.get(key)
        return tried is not None and not tried.held_out and tried.cost_usd is None

    def forget(self, key: bytes) -> None:
        """A decision that was not carried out after all."""
        self._open.pop(key, None)

    def used(self, digests: Sequence[bytes], read_tokens: int, started_s: float) -> Sequence[Settled]:
        """A request with these prefixes started then and read so many tokens; settle what it was awaited for."""
        if not self._open:
            return ()
        found = [digest for digest in digests if digest in self._open]
        for key in found:
            tried = self._open[key]
            if started_s >= tried.until_s:
                continue
            tried.in_window = started_s >= tried.from_s - _HALF_S
            base = tried.tokens - tried.private_tokens
            tried.read_share = max(0.0, min(1.0, (read_tokens - base) / tried.private_tokens))
            tried.result = (
                Result.HELD_OUT
                if tried.held_out
                else Result.SUPERFLUOUS
                if not tried.in_window
                else Result.USED
                if tried.read_share > 0.5
                else Result.WASTED
            )
        return self._end(found, started_s)

    def close(self, now: float) -> Sequence[Settled]:
        """Settle what nobody came for in time."""
        if now < self._soonest_s:
            return ()
        ended = self._end([key for key, tried in self._open.items() if tried.until_s <= now], now)
        self._soonest_s = min([tried.until_s for tried in self._open.values()], default=inf)
        return ended

    def settled(self, wanted: Callable[[Settled], bool] = lambda _: True) -> list[Settled]:
        """What is settled, oldest first."""
        return [each for each in self._settled if wanted(each)]

    def _end(self, keys: Sequence[bytes], now: float) -> list[Settled]:
        ended = []
        for key in keys:
            tried = self._open.pop(key, None)
            if tried is None or (tried.cost_usd is None and not tried.held_out):
                continue  # never sent, or nobody knows what it cost
            settled = _settle(tried, now)
            self._settled.append(settled)
            if not tried.held_out:
                self._judge(settled, now)
            ended.append(settled)
        return ended

    def _judge(self, settled: Settled | Past, now: float) -> None:
        record = self._records.setdefault(settled.owner, _Record())
        self._records.move_to_end(settled.owner)
        if len(self._records) > self._max_owners:
            self._records.popitem(last=False)
        brought = settled.benefit_usd + self._second_usd * settled.benefit_s
        record.number += 1
        record.count = record.count * FORGETTING + 1
        record.total = record.total * FORGETTING + brought
        record.squares = record.squares * FORGETTING + brought * brought
        if record.number >= LEAST and record.low() < 0:
            self._records[settled.owner] = _Record(off_until_s=now + REPROBE_S)


def _settle(tried: Tried, now: float) -> Settled:
    predicted = 1.0 if tried.in_window else 0.0
    actual = predicted * (1 - tried.read_share)
    if tried.held_out:
        result, cost, saved = Result.HELD_OUT, 0.0, actual - predicted
    else:
        result, cost, saved = tried.result or Result.WASTED, tried.cost_usd or 0.0, predicted - actual
    return Settled(
        time_s=tried.from_s,
        owner=tried.owner,
        trigger=tried.trigger,
        result=result,
        cost_usd=cost,
        benefit_usd=saved * tried.gain_usd - cost,
        benefit_s=saved * tried.gain_s,
        name=tried.name,
        foresight=tried.foresight,
        decided_s=tried.decided_s,
        until_s=tried.until_s,
        settled_s=now,
        came=tried.in_window,
        gain_usd=tried.gain_usd,
    )


def estimate(settled: Sequence[Settled]) -> Estimate | None:
    """Mean benefit of a warm against the hold-out; None without two warms and two held out."""
    warmed = [each for each in settled if each.result is not Result.HELD_OUT]
    return estimate_of(
        _moments(warmed), _moments([each for each in settled if each.result is Result.HELD_OUT])
    )


def estimate_of(warmed: Moments, held: Moments) -> Estimate | None:
    """As `estimate`, from sums."""
    if warmed.size < 2 or held.size < 2:
        return None
    usd, variance = _mean(warmed)
    off_usd, off_variance = _mean(held)
    half = _TWO_SIDED * sqrt(variance / warmed.size + off_variance / held.size)
    seconds = warmed.total_s / warmed.size + held.total_s / held.size
    mean = usd + off_usd
    return Estimate(mean, mean - half, mean + half, seconds)


def _moments(settled: Sequence[Settled]) -> Moments:
    return Moments(
        len(settled),
        sum([each.benefit_usd for each in settled]),
        sum([each.benefit_usd**2 for each in settled]),
        sum([each.benefit_s for each in settled]),
    )


def _mean(moments: Moments) -> tuple[float, float]:
    """(Mean, variance of the values)."""
    mean = moments.total_usd / moments.size
    spread = max(0.0, moments.squares_usd - moments.size * mean * mean)
    return mean, spread / (moments.size - 1)
