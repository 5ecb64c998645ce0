"""Figures of a replay: the bill, where the tokens went, and how good the chances were.

The rule: figures are sums over requests, kept as they are served, so memory does not grow with the trace but for a
pair of numbers per session and a few per request. Warms are part of every sum, and told apart: each belongs to the
session whose request it followed. Shares are of all input tokens. The interval is of the ratio of sums, by resampling
whole sessions: requests of one session are not independent. Chances are judged two ways: P(warm) against whether what
was believed warm was read, and P(return in 5 minutes) against what the trace then held; a turn whose window the trace
does not close is left out. With a price the bill is in money too, output included, as the ledger books it: exact per
request, rounded to a nano-USD there.
"""

from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cache.economics import Rates, TokenSplit, cost_units
from cache.facts import ASSUMED, Facts
from cache.regret import Estimate, Regret, estimate
from cache.rules import TTL_5M_S
from router.cost import total_nano_usd, uncached_nano_usd
from router.pricing import Price
from router.replay import Policy, Served
from router.replay_pings import Ping
from router.usage import Usage

BINS = 10
RESAMPLES = 1000


class Bin(NamedTuple):
    """Requests whose chance fell into one tenth; `predicted` and `observed` are means."""

    low: float
    requests: int
    predicted: float
    observed: float


class Reliability(NamedTuple):
    """How good a chance was.

    Attributes:
        requests: Requests judged.
        brier: Mean squared difference of chance and outcome; None without requests.
        bins: Those that are not empty, ascending.
        ece: Mean difference of chance and share in bins of equal mass (`classifier.evaluation`); None unasked.
        auroc: Chance that what came was given the higher chance; None unasked, or with one outcome only.
    """

    requests: int
    brier: float | None
    bins: tuple[Bin, ...]
    ece: float | None = None
    auroc: float | None = None


class Figures(NamedTuple):
    """What a replay came to; costs in units of one uncached input token.

    Attributes:
        split: Input tokens by how they were billed.
        cost_units: Input cost.
        relative_cost: Cost over that of no caching.
        interval: 2.5 and 97.5 % points of `relative_cost`, sessions resampled.
        warm: Of the chance that what was believed warm is read.
        returns: Of the chance of a return within 5 minutes; without requests unless the policy forecasts.
        next_turn: Of the chance that the conversation goes on within 5 minutes, as keep-alives are decided by.
        foreseen: Of the same by the foresight alone; without requests where there is none.
        decision_p50_us: Median time of a decision in microseconds; None when it was not measured.
        decision_p99_us: Its 99 % point.
        bill_nano_usd: Input and output; None without a price.
        uncached_nano_usd: The same with nothing cached.
        bound_units: Least any caching without keep-alives could have cost (`router.replay_bound`); None unknown.
        warms: Warms sent.
        warm_units: What they cost, part of `cost_units`.
        warm_estimate: What one brought, judged against those held out, in units for dollars; None where it is not told.
        switched_off: Warms that were not sent because their traffic had lost by them; one for a request's keep-alives.
        first_token_s: Mean seconds to the first token by the assumed line: a constant, and prefill of what is not read.
    """

    policy: str
    requests: int
    sessions: int
    split: TokenSplit
    cost_units: float
    relative_cost: float
    interval: tuple[float, float]
    warm: Reliability
    returns: Reliability
    decision_p50_us: float | None
    decision_p99_us: float | None
    bill_nano_usd: int | None = None
    uncached_nano_usd: int | None = None
    bound_units: float | None = None
    warms: int = 0
    warm_units: float = 0.0
    warm_estimate: Estimate | None = None
    switched_off: int = 0
    first_token_s: float = 0.0
    next_turn: Reliability = Reliability(0, None, ())
    foreseen: Reliability = Reliability(0, None, ())

    @property
    def warm_share(self) -> float:
        """Share of the input's cost that went into warms."""
        return self.warm_units / self.cost_units if self.cost_units else 0.0

    @property
    def regret(self) -> float | None:
        """What it cost above the clairvoyant bound, as a share of the cost without caching; None without a bound."""
        if self.bound_units is None or not self.split.total:
            return None
        return (self.cost_units - self.bound_units) / self.split.total

    @property
    def saving(self) -> float | None:
        """Share of the bill that caching saved, output included; None without a price."""
        if self.bill_nano_usd is None or not self.uncached_nano_usd:
            return None
        return 1 - self.bill_nano_usd / self.uncached_nano_usd

    def to_dict(self) -> dict[str, object]:
        """As a value for JSON."""
        return {
            "policy": self.policy,
            "requests": self.requests,
            "sessions": self.sessions,
            "input_tokens": self.split.total,
            "tokens": self.split._asdict(),
            "read_share": _share(self.split.read, self.split),
            "write_share": _share(self.split.write_5m + self.split.write_1h, self.split),
            "cost_units": self.cost_units,
            "relative_cost": self.relative_cost,
            "relative_cost_interval_95": list(self.interval),
            "p_warm": _reliability_dict(self.warm),
            "p_return_5m": _reliability_dict(self.returns),
            "p_next_5m": _reliability_dict(self.next_turn),
            "p_foreseen_5m": _reliability_dict(self.foreseen),
            "decision_us": {"p50": self.decision_p50_us, "p99": self.decision_p99_us},
            "bill_nano_usd": self.bill_nano_usd,
            "uncached_nano_usd": self.uncached_nano_usd,
            "saving": self.saving,
            "bound_units": self.bound_units,
            "regret": self.regret,
            "warms": self.warms,
            "warm_units": self.warm_units,
            "warm_share": self.warm_share,
            "warm_estimate_units": None if self.warm_estimate is None else self.warm_estimate._asdict(),
            "switched_off": self.switched_off,
            "first_token_s": self.first_token_s,
        }


@dataclass(slots=True)
class _Chances:
    """Sums per bin: count, chances, outcomes, squared differences; each chance with its outcome where it ranks."""

    ranks: bool = False
    sums: list[list[float]] = field(default_factory=lambda: [[0.0] * 4 for _ in range(BINS)])
    chances: "array[float]" = field(default_factory=lambda: array("d"))
    outcomes: bytearray = field(default_factory=bytearray)

    def add(self, chance: float, outcome: bool) -> None:
        if self.ranks:
            self.chances.append(chance)
            self.outcomes.append(outcome)
        kept = self.sums[min(int(chance * BINS), BINS - 1)]
        kept[0] += 1
        kept[1] += chance
        kept[2] += outcome
        kept[3] += (chance - outcome) ** 2

    def reliability(self) -> Reliability:
        count = sum(kept[0] for kept in self.sums)
        ece = area = None
        if self.chances:
            # SciPy takes a second to load: only who has chances to rank waits for it.
            from classifier.evaluation import auroc, calibration_error

            chances, came = np.array(self.chances), np.array(self.outcomes, dtype=np.bool_)
            ece, area = calibration_error(chances, came), auroc(chances, came)
        return Reliability(
            int(count),
            sum(kept[3] for kept in self.sums) / count if count else None,
            tuple(
                Bin(number / BINS, int(kept[0]), kept[1] / kept[0], kept[2] / kept[0])
                for number, kept in enumerate(self.sums)
                if kept[0]
            ),
            ece,
            area,
        )


class Tally:
    """Sums of one replay."""

    def __init__(
        self,
        policy: Policy,
        rates: Rates,
        price: Price | None = None,
        *,
        name: str = "",
        facts: Facts = ASSUMED,
        partial: bool = False,
    ) -> None:
        """Start at zero; without a price there is no bill in money.

        Args:
            name: To be told apart by; "" for the policy's.
            partial: Whether requests came before those counted, whose warms are not of these.
        """
        self._partial = partial
        self._name = name or policy.value
        self._facts = facts
        self._warms, self._warm_units, self._first_token_s, self._switched_off = 0, 0.0, 0.0, 0
        self._price = price
        self._bill_nano_usd = self._uncached_nano_usd = 0
        self._rates = rates
        self._tokens = [0, 0, 0, 0]
        self._requests = 0
        self._sessions: dict[tuple[str, str], list[float]] = {}
        self._warm, self._returns = _Chances(), _Chances()
        self._next, self._foreseen = _Chances(ranks=True), _Chances(ranks=True)
        self._began_s: float | None = None
        self._open: dict[tuple[str, str, str], Served] = {}
        self._waiting: deque[tuple[Served, tuple[str, str, str]]] = deque()
        self._decision_ns: list[int] = []

    def add(self, served: Served) -> None:
        """Count one request; they come in the order they were served."""
        row = served.row
        if self._began_s is None:
            self._began_s = served.now_s
        self._requests += 1
        self._tokens = [kept + new for kept, new in zip(self._tokens, served.split, strict=True)]
        session = self._sessions.setdefault((row.namespace, row.session), [0.0, 0.0])
        session[0] += cost_units(served.split, self._rates)
        session[1] += row.input_tokens
        self._switched_off += served.switched_off
        facts = self._facts
        self._first_token_s += facts.first_byte_s + facts.prefill_s_per_token * (
            row.input_tokens - served.split.read
        )
        if self._price is not None:
            usage = Usage(
                input_tokens=row.input_tokens,
                cache_read_tokens=served.split.read,
                cache_write_5m_tokens=served.split.write_5m,
                cache_write_1h_tokens=served.split.write_1h,
                output_tokens=row.output_tokens,
            )
            self._bill_nano_usd += total_nano_usd(usage, self._price)
            self._uncached_nano_usd += uncached_nano_usd(usage, self._price)
        self._warm.add(served.p_hit, served.held)
        self._decision_ns.append(served.decision_ns)
        if served.forecast is not None or served.p_next is not None:
            self._judge_returns(served)

    def add_warm(self, ping: Ping) -> None:
        """Count one warm."""
        units = cost_units(ping.split, self._rates) + ping.extra_units
        self._warms += 1
        self._warm_units += units
        session = self._sessions.setdefault((ping.row.namespace, ping.row.session), [0.0, 0.0])
        session[0] += units
        if self._price is not None:
            usage = Usage(
                input_tokens=ping.split.total,
                cache_read_tokens=ping.split.read,
                cache_write_5m_tokens=ping.split.write_5m,
                cache_write_1h_tokens=ping.split.write_1h,
                output_tokens=ping.output_tokens,
            )
            self._bill_nano_usd += total_nano_usd(usage, self._price)

    def figures(self, regret: Regret | None = None) -> Figures:
        """What it came to.

        Args:
            regret: What judged the warms; None without.

        Raises:
            ValueError: Nothing was added.
        """
        if not self._requests:
            raise ValueError("no request was replayed")
        split = TokenSplit(*self._tokens)
        sums = np.array(list(self._sessions.values()))
        measured = np.array(self._decision_ns) / 1000
        timed = bool(measured.any())
        units = float(sums[:, 0].sum())
        return Figures(
            self._name,
            self._requests,
            len(sums),
            split,
            units,
            units / split.total if split.total else 1.0,
            _interval(sums),
            self._warm.reliability(),
            self._returns.reliability(),
            float(np.percentile(measured, 50)) if timed else None,
            float(np.percentile(measured, 99)) if timed else None,
            self._bill_nano_usd if self._price is not None else None,
            self._uncached_nano_usd if self._price is not None else None,
            warms=self._warms,
            warm_units=self._warm_units,
            warm_estimate=None if regret is None else self._estimate(regret),
            switched_off=self._switched_off,
            first_token_s=self._first_token_s / self._requests,
            next_turn=self._next.reliability(),
            foreseen=self._foreseen.reliability(),
        )

    def _estimate(self, regret: Regret) -> Estimate | None:
        began_s = self._began_s
        if not self._partial or began_s is None:
            return estimate(regret.settled())
        return estimate(regret.settled(lambda each: each.decided_s >= began_s))

    def _judge_returns(self, served: Served) -> None:
        row = served.row
        while self._waiting and self._waiting[0][0].now_s + TTL_5M_S <= served.now_s:
            earlier, key = self._waiting.popleft()
            if self._open.get(key) is earlier:  # nobody came back in time
                del self._open[key]
                self._judged(earlier, returned=False)
        key = (row.namespace, row.session, row.stream)
        awaited = self._open.pop(key, None)
        if awaited is not None:
            self._judged(awaited, returned=served.returned_gap_s is not None)
        self._open[key] = served
        self._waiting.append((served, key))

    def _judged(self, served: Served, *, returned: bool) -> None:
        if served.forecast is not None:
            self._returns.add(served.forecast.p_5m, returned)
        if served.p_next is not None:
            self._next.add(served.p_next, returned)
        if served.p_foreseen is not None:
            self._foreseen.add(served.p_foreseen, returned)


def _interval(sums: np.ndarray) -> tuple[float, float]:
    """2.5 and 97.5 % points of the ratio of the columns' sums under resampling of rows; same rows, same interval."""
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(RESAMPLES):
        cost, tokens = sums[random.integers(0, len(sums), len(sums))].sum(axis=0)
        ratios.append(cost / tokens if tokens else 1.0)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def _share(tokens: int, split: TokenSplit) -> float:
    return tokens / split.total if split.total else 0.0


def _reliability_dict(found: Reliability) -> dict[str, object]:
    return {
        "requests": found.requests,
        "brier": found.brier,
        "ece": found.ece,
        "auroc": found.auroc,
        "bins": [bin_._asdict() for bin_ in found.bins],
    }
