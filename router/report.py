"""What a run of requests did and cost: rows in, a summary out, and the summary as tables, text or JSON.

The rule: pure arithmetic on what the router reported for each call; sums are integers and exact. What is
unknown is left out of sums and counted beside them, never taken as zero. No row holds prompt or answer text.

It does not know what a provider will bill: a call that failed or was left has no cost here, only in the
ledger, and `Reconciliation` sets the ledger against an invoice.

Words used:
    hit rate       cache read tokens / all input tokens, over calls Opus answered with known usage
    saving         counterfactual minus cost, over calls where both are known; negative when it cost more
    first byte     from the start of the request to the first byte of the answer, as the router reports
    total          from sending to the end, as the client saw it
    p50, p90, p99  nearest rank: the smallest value that so many percent of the calls did not exceed
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, TypeVar

from router.money import ratio

COST_PARTS = (
    "uncached_input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "thinking",
    "tools",
    "other_attempts",
)
"""Parts a cost is made of; `other_attempts` are failed tries of requests that another try answered."""

TOKEN_KINDS = (
    "input",
    "uncached_input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "thinking",
)
"""Token counts; input is all of uncached, read and written, and thinking is part of output."""

COUNTERFACTUALS = {
    "no_caching": "same route and answer, all input uncached",
    "all_opus": "the same calls on Opus, as its cache was planned",
    "all_flash": "the same calls on Flash",
    "all_opus_no_caching": "the same calls on Opus, all input uncached",
}
"""Counterfactuals and what they mean; the last is what neither routing nor caching would have cost."""
MEANINGS = {**COUNTERFACTUALS, "never_switch": "the same calls on the route their session began on"}
"""What each of them means, for people; with the one that is known only where a session's beginning was seen."""

PERCENTS = (50, 90, 99)

_Word = TypeVar("_Word", str, tuple[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One call to the router, without its content.

    Attributes:
        number: 1-based order in which it was sent.
        id: Name in the workload.
        step: 0 for the request itself, n for its nth tool step.
        at_s: Virtual seconds since the start of the workload when it was due.
        status: gRPC status name, "OK" when answered; "CANCELLED" when the client left it.
        error_reason: Stable reason of the error, "" when none or not told.
        cancelled: Whether this client left the stream on purpose.
        route, reason, score, threshold, propensity, model: The decision; "" or None when none was told.
        tokens: Count by TOKEN_KINDS, None when the router did not report usage; "thinking" is absent when the
            provider did not tell it apart.
        cost_nano_usd: By COST_PARTS without `other_attempts`, of the attempt that answered; None unknown.
        total_nano_usd: Of all attempts; None when any is unknown.
        counterfactuals_nano_usd: By counterfactual, those that are known.
        hit: Whether any token was read from the cache; None when usage is unknown.
        misses: (cause, missed tokens, lost nano-USD or None) of each miss.
        breakpoint_count: Breakpoints planned; None when no plan was reported.
        first_byte_s, duration_s: As the router reports; None when it does not.
        client_first_event_s: From sending to the first content event of a stream; None for a unary call.
        client_total_s: From sending to the end, as the client saw it.
        attempts: (route, outcome) of each try.
    """

    number: int
    id: str
    step: int = 0
    request_id: str = ""
    session: str = ""
    tenant: str = ""
    user: str = ""
    application: str = ""
    stream: bool = False
    at_s: float = 0.0
    status: str = "OK"
    error_reason: str = ""
    cancelled: bool = False
    route: str = ""
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    propensity: float | None = None
    model: str = ""
    finish_reason: str = ""
    tokens: Mapping[str, int] | None = None
    usage_complete: bool | None = None
    cost_nano_usd: Mapping[str, int] | None = None
    total_nano_usd: int | None = None
    counterfactuals_nano_usd: Mapping[str, int] = field(default_factory=dict)
    hit: bool | None = None
    misses: tuple[tuple[str, int, int | None], ...] = ()
    breakpoint_count: int | None = None
    expected_read_tokens: int | None = None
    first_byte_s: float | None = None
    duration_s: float | None = None
    client_first_event_s: float | None = None
    client_total_s: float | None = None
    attempts: tuple[tuple[str, str], ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the call ended with an error that was not this client's own doing."""
        return self.status != "OK" and not self.cancelled

    @property
    def known_cost_nano_usd(self) -> int | None:
        """Cost of all attempts, else of the one that answered, else None."""
        if self.total_nano_usd is not None or self.cost_nano_usd is None:
            return self.total_nano_usd
        return sum(self.cost_nano_usd.values())

    def to_json(self) -> dict[str, Any]:
        """Return the row as a JSON object; unknown is null."""
        row: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Mapping):
                value = dict(value)
            elif isinstance(value, tuple):
                value = [list(item) for item in value]
            row[entry.name] = value
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """Money of some rows.

    Attributes:
        parts_nano_usd: By COST_PARTS; they sum to `total_nano_usd`.
        known_count: Rows whose cost is in the sums.
        unknown_count: Rows whose cost is unknown in whole, or in part (an attempt of unknown cost).
    """

    parts_nano_usd: Mapping[str, int]
    known_count: int
    unknown_count: int

    @property
    def total_nano_usd(self) -> int:
        """Sum of all parts."""
        return sum(self.parts_nano_usd.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSummary:
    """Rows of one route; share is of all rows whose route is known."""

    route: str
    count: int
    share: Fraction
    tokens: Mapping[str, int]
    tokens_unknown_count: int
    bill: Bill


@dataclass(frozen=True, slots=True, kw_only=True)
class HitRate:
    """Cache reads on Opus, over calls it answered with known usage; rates are None when there are none."""

    calls: int
    calls_with_read: int
    input_tokens: int
    read_tokens: int

    @property
    def of_tokens(self) -> Fraction | None:
        """Read tokens / input tokens."""
        return ratio(self.read_tokens, self.input_tokens)

    @property
    def of_calls(self) -> Fraction | None:
        """Calls with at least one token read / calls."""
        return ratio(self.calls_with_read, self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Cost against one counterfactual, over rows where both are known."""

    name: str
    counterfactual_nano_usd: int
    cost_nano_usd: int
    known_count: int
    unknown_count: int

    @property
    def saving_nano_usd(self) -> int:
        """Counterfactual minus cost; negative when the calls cost more than they would have."""
        return self.counterfactual_nano_usd - self.cost_nano_usd

    @property
    def share(self) -> Fraction | None:
        """Saving / counterfactual, None when nothing is known."""
        return ratio(self.saving_nano_usd, self.counterfactual_nano_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds at PERCENTS, nearest rank; empty when no row has the figure."""

    name: str
    count: int
    at: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MissSummary:
    """Misses of one cause; `lost_nano_usd` sums those that are known."""

    cause: str
    count: int
    missed_tokens: int
    lost_nano_usd: int
    lost_unknown_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The ledger's total against a provider's or the sandbox's invoice.

    Attributes:
        ledger_nano_usd: Sum of the ledger's settlements of known cost, with the floor of those broken off.
        invoice_nano_usd: What was invoiced for the same calls.
        unknown_bound_nano_usd: The most that calls of unknown cost can have cost, 0 when there are none.
        incomplete_bound_nano_usd: The most that broken-off calls can have cost beyond the floor that is booked.
        incomplete_count: How many these are.
    """

    ledger_nano_usd: int
    invoice_nano_usd: int
    unknown_bound_nano_usd: int = 0
    incomplete_bound_nano_usd: int = 0
    incomplete_count: int = 0

    @property
    def difference_nano_usd(self) -> int:
        """Invoice minus ledger."""
        return self.invoice_nano_usd - self.ledger_nano_usd

    @property
    def agrees(self) -> bool:
        """Whether the difference is within what was not seen: exactly 0 when everything was."""
        unseen_nano_usd = self.unknown_bound_nano_usd + self.incomplete_bound_nano_usd
        return 0 <= self.difference_nano_usd <= unseen_nano_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run in figures.

    Attributes:
        call_count: Rows; each is one call to the router.
        answered_count: Rows with status OK.
        cancelled_count: Rows this client left on purpose.
        errors: Count by status, the client's own cancellations apart.
        failures: The same by status and reason, "" where none was told.
        routes: By count, most first; rows without a known route are in `no_route_count` only.
        extra_attempt_count: Attempts beyond the first of their request.
    """

    call_count: int
    answered_count: int
    cancelled_count: int
    errors: Mapping[str, int]
    failures: Mapping[tuple[str, str], int]
    routes: tuple[RouteSummary, ...]
    no_route_count: int
    reasons: Mapping[str, int]
    tokens: Mapping[str, int]
    bill: Bill
    hit_rate: HitRate
    savings: tuple[Saving, ...]
    latencies: tuple[Latency, ...]
    misses: tuple[MissSummary, ...]
    extra_attempt_count: int
    reconciliation: Reconciliation | None = None


def summarise(rows: Iterable[Row], reconciliation: Reconciliation | None = None) -> Summary:
    """Sum rows up; their order does not matter."""
    rows = tuple(rows)
    routed = [row for row in rows if row.route]
    by_route = Counter(row.route for row in routed)
    return Summary(
        call_count=len(rows),
        answered_count=sum(row.status == "OK" for row in rows),
        cancelled_count=sum(row.cancelled for row in rows),
        errors=_counted(row.status for row in rows if row.failed),
        failures=_counted((row.status, row.error_reason) for row in rows if row.failed),
        routes=tuple(
            _route_summary(route, [row for row in routed if row.route == route], len(routed))
            for route, _ in sorted(by_route.items(), key=lambda entry: (-entry[1], entry[0]))
        ),
        no_route_count=len(rows) - len(routed),
        reasons=_counted(row.reason for row in rows if row.reason),
        tokens=_tokens(rows),
        bill=_bill(rows),
        hit_rate=_hit_rate(rows),
        savings=_savings(rows),
        latencies=(
            _latency("first byte", [row.first_byte_s for row in rows if row.status == "OK"]),
            _latency("total", [row.client_total_s for row in rows if row.status == "OK"]),
        ),
        misses=_misses(rows),
        extra_attempt_count=sum(max(0, len(row.attempts) - 1) for row in rows),
        reconciliation=reconciliation,
    )


def summary_json(summary: Summary) -> dict[str, Any]:
    """Return the summary as a JSON object: money in nano-USD, shares as numbers, unknown as null."""
    hit = summary.hit_rate
    bound = summary.reconciliation
    return {
        "calls": summary.call_count,
        "answered": summary.answered_count,
        "cancelled": summary.cancelled_count,
        "errors": dict(summary.errors),
        "extra_attempts": summary.extra_attempt_count,
        "routes": [
            {
                "route": route.route,
                "calls": route.count,
                "share": float(route.share),
                "tokens": dict(route.tokens),
                "tokens_unknown_calls": route.tokens_unknown_count,
                "cost": _bill_json(route.bill),
            }
            for route in summary.routes
        ],
        "no_route_calls": summary.no_route_count,
        "reasons": dict(summary.reasons),
        "tokens": dict(summary.tokens),
        "cost": _bill_json(summary.bill),
        "hit_rate": {
            "definition": "cache read tokens / input tokens, calls answered by Opus with known usage",
            "of_tokens": _number(hit.of_tokens),
            "of_calls": _number(hit.of_calls),
            "read_tokens": hit.read_tokens,
            "input_tokens": hit.input_tokens,
            "calls": hit.calls,
            "calls_with_read": hit.calls_with_read,
        },
        "savings": [
            {
                "against": saving.name,
                "definition": MEANINGS.get(saving.name, ""),
                "counterfactual_nano_usd": saving.counterfactual_nano_usd,
                "cost_nano_usd": saving.cost_nano_usd,
                "saving_nano_usd": saving.saving_nano_usd,
                "share": _number(saving.share),
                "known_calls": saving.known_count,
                "unknown_calls": saving.unknown_count,
            }
            for saving in summary.savings
        ],
        "latency_s": {
            entry.name.replace(" ", "_"): {"calls": entry.count}
            | {f"p{percent}": value for percent, value in entry.at.items()}
            for entry in summary.latencies
        },
        "misses": [
            {
                "cause": miss.cause,
                "count": miss.count,
                "missed_tokens": miss.missed_tokens,
                "lost_nano_usd": miss.lost_nano_usd,
                "lost_unknown": miss.lost_unknown_count,
            }
            for miss in summary.misses
        ],
        "reconciliation": None
        if bound is None
        else {
            "ledger_nano_usd": bound.ledger_nano_usd,
            "invoice_nano_usd": bound.invoice_nano_usd,
            "difference_nano_usd": bound.difference_nano_usd,
            "unknown_bound_nano_usd": bound.unknown_bound_nano_usd,
            "incomplete_calls": bound.incomplete_count,
            "incomplete_bound_nano_usd": bound.incomplete_bound_nano_usd,
            "agrees": bound.agrees,
        },
    }


def _bill_json(bill: Bill) -> dict[str, Any]:
    return {
        "total_nano_usd": bill.total_nano_usd,
        "parts_nano_usd": dict(bill.parts_nano_usd),
        "known_calls": bill.known_count,
        "unknown_calls": bill.unknown_count,
    }


def _number(share: Fraction | None) -> float | None:
    return None if share is None else float(share)


def _counted(values: Iterable[_Word]) -> dict[_Word, int]:
    return dict(sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0])))


def _route_summary(route: str, rows: Sequence[Row], routed_count: int) -> RouteSummary:
    return RouteSummary(
        route=route,
        count=len(rows),
        share=Fraction(len(rows), routed_count),
        tokens=_tokens(rows),
        tokens_unknown_count=sum(row.tokens is None for row in rows),
        bill=_bill(rows),
    )


def _tokens(rows: Iterable[Row]) -> dict[str, int]:
    known = [row.tokens for row in rows if row.tokens is not None]
    return {kind: sum(tokens.get(kind, 0) for tokens in known) for kind in TOKEN_KINDS}


def _bill(rows: Sequence[Row]) -> Bill:
    parts = dict.fromkeys(COST_PARTS, 0)
    known = unknown = 0
    for row in rows:
        if row.cost_nano_usd is not None:
            known += 1
            for name, value in row.cost_nano_usd.items():
                parts[name] += value
            if row.total_nano_usd is not None:
                parts["other_attempts"] += row.total_nano_usd - sum(row.cost_nano_usd.values())
        unknown += row.cost_nano_usd is None or row.total_nano_usd is None
    return Bill(parts_nano_usd=parts, known_count=known, unknown_count=unknown)


def _hit_rate(rows: Sequence[Row]) -> HitRate:
    known = [row.tokens for row in rows if row.route == "opus" and row.tokens is not None]
    return HitRate(
        calls=len(known),
        calls_with_read=sum(tokens["cache_read"] > 0 for tokens in known),
        input_tokens=sum(tokens["input"] for tokens in known),
        read_tokens=sum(tokens["cache_read"] for tokens in known),
    )


def _savings(rows: Sequence[Row]) -> tuple[Saving, ...]:
    seen = {name for row in rows for name in row.counterfactuals_nano_usd}
    return tuple(_saving(name, rows) for name in [*COUNTERFACTUALS, *sorted(seen - COUNTERFACTUALS.keys())])


def _saving(name: str, rows: Sequence[Row]) -> Saving:
    counterfactual = cost = known = 0
    for row in rows:
        otherwise = row.counterfactuals_nano_usd.get(name)
        if otherwise is not None and row.cost_nano_usd is not None:
            known += 1
            counterfactual += otherwise
            cost += sum(row.cost_nano_usd.values())
    return Saving(
        name=name,
        counterfactual_nano_usd=counterfactual,
        cost_nano_usd=cost,
        known_count=known,
        unknown_count=len(rows) - known,
    )


def _latency(name: str, values: Iterable[float | None]) -> Latency:
    known = sorted(value for value in values if value is not None)
    at = {percent: known[-(-len(known) * percent // 100) - 1] for percent in PERCENTS} if known else {}
    return Latency(name=name, count=len(known), at=at)


def _misses(rows: Iterable[Row]) -> tuple[MissSummary, ...]:
    by_cause: dict[str, list[tuple[int, int | None]]] = {}
    for row in rows:
        for cause, tokens, lost in row.misses:
            by_cause.setdefault(cause, []).append((tokens, lost))
    summaries = [
        MissSummary(
            cause=cause,
            count=len(entries),
            missed_tokens=sum(tokens for tokens, _ in entries),
            lost_nano_usd=sum(lost for _, lost in entries if lost is not None),
            lost_unknown_count=sum(lost is None for _, lost in entries),
        )
        for cause, entries in by_cause.items()
    ]
    return tuple(sorted(summaries, key=lambda miss: (-miss.lost_nano_usd, -miss.missed_tokens, miss.cause)))
