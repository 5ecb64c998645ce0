"""What the ledger proves of one application: its bill, its traffic, the sizes of its layers.

The rule: the bill is the ledger's own sum. Layer sizes are estimated from the settings unless the provider's counts
prove them: a user's very first request can read the shared layers only, so what it read is their size, and what a
known user's new session reads beyond it is the user's context. Token counts are carried to another tokenizer by its
ratio for prose. Records are read once, a page at a time, and not kept. It does not know prices.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from math import sqrt
from statistics import median
from typing import NamedTuple

from cache.prompt import Block, BlockKind, Layer, Prompt
from cache.rules import UnknownModel
from cache.tokens import TokenEstimator
from router.applications import Application
from router.assumed_traffic import Use
from router.call import Call, Identity, Message, Role, Text
from router.ledger import Filter, LedgerReader
from router.settlement import Purpose, Settlement
from router.upstreams.anthropic_models import traits_of
from router.upstreams.anthropic_render import Options, render

_DAY_S = 86_400.0
_SAMPLE = 5_000
"""Settlements looked at to learn the shared layers' exact size."""
_CONTEXT_SAMPLE = 1_000
_CREDIBLE = 0.4
"""Relative distance from the estimate within which a first read is taken for the shared layers."""
_Z = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the ledger says of the application's Opus calls.

    Attributes:
        cost_nano_usd: Sum over calls of known cost, as `GetCosts` gives it.
        no_caching_nano_usd: The same calls uncached, over those where both are known; None when none is.
        compared_nano_usd: What these did cost.
        unknown_calls: Calls of unknown cost, not in the sum.
        days: Time observed.
        interval: 95 % interval of the cost of a day, from the spread of whole days; None below three.
    """

    calls: int
    cost_nano_usd: int
    no_caching_nano_usd: int | None
    compared_nano_usd: int
    unknown_calls: int
    days: Fraction
    interval: tuple[float, float] | None


class Sizes(NamedTuple):
    """Tokens of the layers known from the settings; `uncertainty` is the relative error, 0 when counted."""

    tools_tokens: float
    shared_tokens: float
    context_tokens: float | None
    uncertainty: float


def estimated(application: Application, model: str) -> Sizes:
    """Sizes of the application's shared layers, estimated from the bytes that would be sent."""
    estimator = TokenEstimator()
    call = Call(
        identity=Identity(request_id=""),
        tools=application.tools,
        system=application.system,
        messages=(Message(Role.USER, (Text("?"),)),),
        max_output_tokens=application.max_output_tokens,
    )
    prompt = render(call, model, traits_of(model), Options()).prompt
    counts = estimator.cumulative_tokens(prompt, model)
    tools_end, system_end = prompt.ends[Layer.TOOLS], prompt.ends[Layer.SYSTEM]
    tools = counts[tools_end] if tools_end >= 0 else 0
    shared = counts[system_end] if system_end >= 0 else tools
    return Sizes(tools, shared, None, estimator.uncertainty(model))


class Scale:
    """Tokens of one model per token of another, for prose; 1 for a model nobody knows."""

    def __init__(self, model: str) -> None:
        self._own = _prose_tokens(model)
        self._known: dict[str, float] = {}

    def of(self, model: str) -> float:
        """Tokens here per token counted by `model`."""
        factor = self._known.get(model)
        if factor is None:
            try:
                factor = self._own / _prose_tokens(model)
            except UnknownModel:
                factor = 1.0
            self._known[model] = factor
        return factor


def _prose_tokens(model: str) -> int:
    prompt = Prompt((Block(Layer.TURN, BlockKind.TEXT, bytes(40_000), "user"),))
    return TokenEstimator().cumulative_tokens(prompt, model)[-1]


def spent_on(reader: LedgerReader, where: Filter) -> Spent | None:
    """What the ledger adds up to; None when it holds no such call."""
    total = reader.totals(where)
    if not total.calls:
        return None
    per_day = [row.cost.total_nano_usd for row in reader.costs(("day",), where)]
    first_s, last_s = _span(reader, where)
    begin_s = first_s if where.since_s is None else where.since_s
    end_s = last_s if where.until_s is None else where.until_s
    known = total.no_caching.calls > 0
    return Spent(
        calls=total.calls,
        cost_nano_usd=total.cost.total_nano_usd,
        no_caching_nano_usd=total.no_caching.baseline_nano_usd if known else None,
        compared_nano_usd=total.no_caching.cost_nano_usd,
        unknown_calls=total.unknown_calls,
        days=max(Fraction(1), Fraction(end_s - begin_s) / Fraction(_DAY_S)),
        interval=_day_interval(per_day[1:-1]),
    )


def _span(reader: LedgerReader, where: Filter) -> tuple[float, float]:
    """First and last start, to the second; hours are the finest the ledger groups by, so the ends are read."""
    hours = [row.group["hour"] for row in reader.costs(("hour",), where)]
    first = next(reader.settlements(where), None)
    first_s = _epoch_s(hours[0]) if first is None else first.intent.started_time_s
    last_s = first_s
    since_last_hour = Filter(
        since_s=max(_epoch_s(hours[-1]), where.since_s or 0.0), until_s=where.until_s, equal=where.equal
    )
    for settlement in reader.settlements(since_last_hour):
        last_s = settlement.intent.started_time_s
    return first_s, last_s


def _epoch_s(hour: str) -> float:
    return datetime.fromisoformat(hour.replace("Z", "+00:00")).timestamp()


def _day_interval(whole_days: Sequence[int]) -> tuple[float, float] | None:
    """95 % interval of the mean of whole days; None below three of them."""
    count = len(whole_days)
    if count < 3:
        return None
    mean = sum(whole_days) / count
    spread = sqrt(sum((value - mean) ** 2 for value in whole_days) / (count - 1) / count)
    return max(0.0, mean - _Z * spread), mean + _Z * spread


def proved(sizes: Sizes, reader: LedgerReader, where: Filter, scale: Scale) -> Sizes:
    """The sizes, with those that the first settlements prove; estimates stay where they do not."""
    users: OrderedDict[tuple[str, str], None] = OrderedDict()
    sessions: set[tuple[str, str]] = set()
    first_reads: Counter[float] = Counter()
    later_reads: list[float] = []
    for number, settlement in enumerate(reader.settlements(where)):
        if number >= _SAMPLE:
            break
        intent, usage = settlement.intent, settlement.usage
        if usage is None or intent.purpose is not Purpose.USER or not intent.user or not intent.session:
            continue
        factor = scale.of(intent.model)
        read = usage.cache_read_tokens - _filler_tokens(settlement)
        user, session = (intent.tenant, intent.user), (intent.tenant, intent.session)
        if user not in users:
            if read > 0 and factor == 1.0:
                first_reads[read] += 1
            users[user] = None
        elif session not in sessions and read > 0 and len(later_reads) < _CONTEXT_SAMPLE:
            later_reads.append(read * factor)
        sessions.add(session)
    low, high = sizes.shared_tokens * (1 - _CREDIBLE), sizes.shared_tokens * (1 + _CREDIBLE)
    credible = [(count, tokens) for tokens, count in first_reads.items() if low <= tokens <= high]
    if not credible:
        return sizes
    shared = max(credible)[1]
    beyond = [tokens - shared for tokens in later_reads if tokens > shared]
    return Sizes(
        tools_tokens=sizes.tools_tokens * shared / sizes.shared_tokens,
        shared_tokens=shared,
        context_tokens=median(beyond) if beyond else None,
        uncertainty=0.0,
    )


def uses_of(settlements: Iterable[Settlement], scale: Scale) -> Iterator[Use]:
    """Requests of users whose usage is known, without our filler; calls of our own are on the bill, but no use."""
    for settlement in settlements:
        intent, usage = settlement.intent, settlement.usage
        if usage is None or intent.purpose is not Purpose.USER:
            continue
        factor = scale.of(intent.model)
        yield Use(
            intent.started_time_s,
            (intent.tenant, intent.user) if intent.user else None,
            (intent.tenant, intent.session) if intent.session else None,
            (usage.input_tokens - _filler_tokens(settlement)) * factor,
            usage.output_tokens * factor,
        )


def _filler_tokens(settlement: Settlement) -> int:
    """Filler in the call's input: put in by us, so that padding is judged on the prompt as it was asked."""
    return settlement.cache.padding_tokens if settlement.cache else 0
