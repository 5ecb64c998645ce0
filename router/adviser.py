"""Advice for one application in money: the ledger's traffic, the settings and the price table, put to `cache.advice`.

The rule: what was spent is the ledger's own sum, to the nano-dollar; what would be spent is the same requests priced
another way, so answers are paid alike in every column and only input differs. Sums over a time are scaled to a month
of 30 days by the time observed, at least one day. Layer sizes are estimated from the settings, unless the ledger
proves them (`router.booked_traffic`).

Traffic may be assumed instead of observed (`router.assumed_traffic`). Where prompts change size with a deploy the
latest settings are taken for all of the time observed. Other models are compared in price only, with the same answers;
long-context tiers are taken at the mean request.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from cache.advice import Advice, advise, lower_minimum
from cache.decision import Alternative, Facts, Verdict
from cache.facts import ASSUMED
from cache.facts import Facts as OpenFacts
from cache.observed import Lane, Observed
from cache.rules import CacheRules, UnknownModel, known_models, rules_for
from cache.setup import SEED_B, Stable, best_setup, input_units, kept_by_provider
from classifier.route import Route
from router.applications import Application, Applications
from router.assumed_traffic import Assumption, Use, assumed_uses
from router.booked_traffic import Scale, Sizes, Spent, estimated, proved, spent_on, uses_of
from router.config import Config, ConfigError
from router.cost import FEMTO_PER_NANO
from router.facts_file import applying
from router.ledger import Filter, LedgerReader
from router.money import NANO_PER_USD
from router.pricing import Price, PriceTable, UnknownPrice
from router.tariff import price_table

MONTH_DAYS = 30
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        model: Opus model to advise on, "" for the settings'.
        requests_per_day: Volume to scale observed traffic to, None for what was observed.
        context_tokens: Size of the user context, None to learn it from the ledger.
        now_s: Instant whose prices hold, seconds since the epoch.
    """

    application: str
    now_s: float
    model: str = ""
    since_s: float | None = None
    until_s: float | None = None
    requests_per_day: float | None = None
    context_tokens: int | None = None


class MonthRow(NamedTuple):
    """One line of the monthly table; None where it is unknown."""

    name: str
    month_nano_usd: int | None
    saving_nano_usd: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All there is to print.

    Attributes:
        requests_per_month: Requests the table is for.
        unit_nano_usd: One unit: an uncached input token, in nano-USD, exact.
        exact_sizes: Whether the provider's counts proved the shared layers' size.
        seen_days: Days between first and last request, not rounded up.
    """

    application: str
    rules: CacheRules
    facts: Facts
    advice: Advice
    spent: Spent | None
    rows: tuple[MonthRow, ...]
    requests_per_month: Fraction
    unit_nano_usd: Fraction
    exact_sizes: bool
    seen_days: float
    snippet: str

    def monthly_nano_usd(self, units_per_request: float) -> int:
        """Units per request as money per month."""
        return round(Fraction(units_per_request) * self.unit_nano_usd * self.requests_per_month)


def report(
    question: Question,
    config: Config,
    reader: LedgerReader | None,
    *,
    assumption: Assumption | None = None,
    assume: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Advise on one application.

    Args:
        reader: The ledger, None when there is none.
        assumption: Traffic to take where the ledger holds none; it then needs no ledger.
        assume: Take it whatever the ledger holds.
        progress: Called now and then with (requests read, requests in all).

    Raises:
        ConfigError: The model cannot be advised on, or there is nothing to advise from.
        NotFound: No such application in the settings.
    """
    application = Applications(config.applications).get(question.application)
    prices = price_table(config)
    rules, price = _opus(question.model or config.opus.model, prices, question.now_s)
    where = Filter(
        since_s=question.since_s,
        until_s=question.until_s,
        equal={"application": question.application, "route": Route.OPUS.value},
    )
    sizes = estimated(application, rules.model)
    scale = Scale(rules.model)
    spent = None if reader is None or assume else spent_on(reader, where)
    exact, context = False, question.context_tokens
    if reader is not None and spent is not None:
        assumption = None
        sizes = proved(sizes, reader, where, scale)
        exact = sizes.uncertainty == 0
        if context is None and sizes.context_tokens is not None:
            context = round(sizes.context_tokens)
    elif assumption is not None:
        context = assumption.context_tokens
    else:
        raise ConfigError(
            f"no Opus request of {question.application!r} is in the ledger; "
            "--requests-per-day N asks about assumed traffic"
        )
    sizes = sizes._replace(context_tokens=context)
    # Other floors and tokenizers ride along, so one pass over the ledger prices every model.
    others = _other_models(application, rules, sizes.shared_tokens, prices, question.now_s)
    lanes = [Lane(minimum_tokens=rules.minimum_tokens)]
    short = rules.minimum_tokens - sizes.shared_tokens
    if short > 0:
        lanes.append(Lane(minimum_tokens=rules.minimum_tokens, added_tokens=short))
    lanes += [
        Lane(
            minimum_tokens=other.rules.minimum_tokens,
            factor=other.factor,
            added_tokens=other.shared_tokens - other.factor * sizes.shared_tokens,
        )
        for other in others
    ]
    observed = Observed(lanes)
    if reader is not None and spent is not None:
        uses = _counted(uses_of(reader.settlements(where), scale), spent.calls, progress)
    else:
        assert assumption is not None
        uses = assumed_uses(assumption, sizes.shared_tokens)
    outputs = 0.0
    for use in uses:
        observed.add(use.started_s, use.user, use.session, use.input_tokens)
        outputs += use.output_tokens
    return _report(
        question, application, config, rules, price, sizes, observed, outputs, others, spent, exact
    )


def _counted(uses: Iterable[Use], total: int, progress: Callable[[int, int], None]) -> Iterator[Use]:
    for done, use in enumerate(uses, 1):
        if done % 1000 == 0:
            progress(done, total)
        yield use


# --- other models


class _Other(NamedTuple):
    """Another model of the catalogue, with its tokens per token of the model asked about."""

    rules: CacheRules
    price: Price
    factor: float
    shared_tokens: float

    def stable(self, context_tokens: float) -> Stable:
        """The stable layers in its tokens."""
        return Stable(self.shared_tokens, context_tokens * self.factor)


def _opus(model: str, prices: PriceTable, now_s: float) -> tuple[CacheRules, Price]:
    try:
        rules = rules_for(model)
        price = prices.price(rules.model, now_s)
    except (UnknownModel, UnknownPrice) as error:
        raise ConfigError(f"--model: {error}") from error
    if rules.upstream != "anthropic":
        raise ConfigError(f"--model: {rules.model!r} is {rules.upstream}'s; breakpoints are Anthropic's")
    return rules, price


def _other_models(
    application: Application, rules: CacheRules, shared_tokens: float, prices: PriceTable, now_s: float
) -> tuple[_Other, ...]:
    """The other Opus models that can be priced; an estimate proved wrong is taken as equally wrong for them."""
    estimate = estimated(application, rules.model).shared_tokens
    proved = shared_tokens / estimate if estimate else 1.0
    found = []
    for other in known_models():
        if other.model == rules.model or not other.model.startswith("claude-opus-"):
            continue
        try:
            price = prices.price(other.model, now_s)
        except UnknownPrice:
            continue
        tokens = estimated(application, other.model).shared_tokens * proved
        found.append(_Other(other, price, Scale(other.model).of(rules.model), tokens))
    return tuple(found)


def _report(
    question: Question,
    application: Application,
    config: Config,
    rules: CacheRules,
    price: Price,
    sizes: Sizes,
    observed: Observed,
    output_tokens: float,
    others: Sequence[_Other],
    spent: Spent | None,
    exact: bool,
) -> Report:
    stable = Stable(sizes.shared_tokens, sizes.context_tokens or 0.0)
    lane, rest = observed.lanes[0], observed.lanes[-len(others) :] if others else ()
    padded = observed.lanes[1] if len(observed.lanes) > 1 + len(others) else None
    seen_days = 0.0
    if observed.first_s is not None and observed.last_s is not None:
        seen_days = (observed.last_s - observed.first_s) / _DAY_S
    per_day = _requests_per_day(question, observed, spent)
    rates = price.for_input(round(lane.input_tokens / max(1, lane.requests))).rates()
    answers = output_tokens / max(1, lane.requests)
    own = _bill_units(observed, lane, stable, price, answers)
    unit = Fraction(
        price.for_input(round(lane.input_tokens / max(1, lane.requests))).femto_usd[0], FEMTO_PER_NANO
    )
    asked = not question.model or question.model == config.opus.model
    opened = applying(config, question.now_s).facts if asked else ASSUMED
    facts = Facts(
        model=rules.model,
        rates=rates,
        tools_tokens=sizes.tools_tokens,
        stable=stable,
        uncertainty=sizes.uncertainty,
        context_known=sizes.context_tokens is not None,
        observed=observed,
        lane=lane,
        padded=padded,
        assumed=spent is None,
        requests_per_day=float(per_day),
        latency_value=_latency_value(config, opened, unit),
        answer_tokens=answers,
        upgrade_verified=opened.upgrade_ping_verified,
        alternatives=tuple(
            Alternative(
                model=other.rules.model,
                minimum_tokens=other.rules.minimum_tokens,
                relative_cost=_bill_units(
                    observed,
                    other_lane,
                    other.stable(stable.context_tokens),
                    other.price,
                    answers * other.factor,
                )
                / own,
            )
            for other, other_lane in zip(others, rest, strict=True)
            if own
        ),
    )
    advice = advise(facts)
    months = per_day * MONTH_DAYS
    return Report(
        application=question.application,
        rules=rules,
        facts=facts,
        advice=advice,
        spent=spent,
        rows=_rows(
            facts, advice, spent, unit, Fraction(answers) * _output_nano(price, lane), months, question
        ),
        requests_per_month=months,
        unit_nano_usd=unit,
        exact_sizes=exact,
        seen_days=seen_days,
        snippet=snippet(question.application, advice, facts),
    )


def _latency_value(config: Config, facts: OpenFacts, unit_nano_usd: Fraction) -> float:
    """Worth of the time that reading one token anew takes, in units, by what the operator says a second is worth."""
    if not unit_nano_usd:
        return 0.0
    return config.warming.second_usd * facts.prefill_s_per_token * NANO_PER_USD / float(unit_nano_usd)


def _requests_per_day(question: Question, observed: Observed, spent: Spent | None) -> Fraction:
    if question.requests_per_day is not None:
        return Fraction(question.requests_per_day)
    assert spent is not None
    return observed.request_count / spent.days


def _output_nano(price: Price, lane: Lane) -> Fraction:
    """Nano-USD per answered token."""
    mean = round(lane.input_tokens / max(1, lane.requests))
    return Fraction(price.for_input(mean).femto_usd[4], FEMTO_PER_NANO)


def _bill_units(observed: Observed, lane: Lane, stable: Stable, price: Price, answer_tokens: float) -> float:
    """Femto-USD of all requests at their best setup, answers included."""
    if not lane.requests:
        return 0.0
    priced = price.for_input(round(lane.input_tokens / lane.requests))
    _, units = best_setup(observed, lane, stable, priced.rates())
    return units * priced.femto_usd[0] + lane.requests * answer_tokens * priced.femto_usd[4]


def _rows(
    facts: Facts,
    advice: Advice,
    spent: Spent | None,
    unit_nano: Fraction,
    answer_nano: Fraction,
    months: Fraction,
    question: Question,
) -> tuple[MonthRow, ...]:
    """The monthly table: what is, what was without caching, what the setups would cost."""
    lane, observed = facts.lane, facts.observed
    requests = max(1, lane.requests)

    def month(units: float) -> int:
        return round((Fraction(units) / requests * unit_nano + answer_nano) * months)

    uncached = month(advice.uncached_units)
    rows = []
    if spent is not None:
        saving = None
        if spent.no_caching_nano_usd is not None:
            saving = _scaled(spent.no_caching_nano_usd - spent.compared_nano_usd, spent, question)
        rows.append(MonthRow("as observed", _scaled(spent.cost_nano_usd, spent, question), saving))
    rows.append(MonthRow("without caching", uncached, 0))
    seed = kept_by_provider(SEED_B, lane, facts.stable)
    plans = [("the document's options A and B", input_units(observed, lane, facts.stable, seed, facts.rates))]
    plans.append(("recommended", advice.setup_units))
    if advice.warm_units < advice.setup_units:
        plans.append(("recommended, with keep-alives", advice.warm_units))
    rows += [MonthRow(name, month(units), uncached - month(units)) for name, units in plans]
    return tuple(rows)


def _scaled(nano_usd: int, spent: Spent, question: Question) -> int:
    """A sum of the ledger as a month of 30 days, or as a month of the requests per day asked for."""
    if question.requests_per_day is None:
        return round(nano_usd * MONTH_DAYS / spent.days)
    return round(Fraction(nano_usd, spent.calls) * Fraction(question.requests_per_day) * MONTH_DAYS)


def snippet(application: str, advice: Advice, facts: Facts) -> str:
    """Settings that follow the advice, as TOML that `config check` takes; what cannot be set is a comment."""
    strategy = "auto" if advice.setup.caches else "none"
    verdict = advice.tree.verdict
    lines = [f'[applications."{application}"]']
    if verdict is Verdict.UNDECIDED:
        lines.insert(0, "# too little evidence so far; auto writes only what it expects to be read")
        strategy = "auto"
    lines.append(f'cache_strategy = "{strategy}"')
    if advice.padding_tokens:
        lines += [
            f"pad = true  # needs a filler of {advice.padding_tokens:,.0f} tokens or more that help, such as examples:",
            "# [cache]",
            '# filler_file = "filler.md"',
        ]
    for decision in advice.tree.walk():
        if decision.verdict is Verdict.OTHER_MODEL and (best := lower_minimum(facts)) is not None:
            lines += ["# cheaper at the same traffic, if its answers are good enough:", "# [opus]"]
            lines.append(f'# model = "{best.model}"')
    return "\n".join(lines) + "\n"
