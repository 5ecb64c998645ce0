"""Padding of an application's shared layers with the operator's filler, on the Opus route only.

The rule: `cache.padding` decides from what settled calls showed; here the decision becomes one system block after the
application's own, cut once from the filler and the same bytes for everyone while the decision stands. Preparing a
request only reads what stands, so `Explain` shows what `Generate` sends. A cut that the provider neither reads nor
writes is proved too short: it is lengthened a few times, then given up for an hour, and for longer each time. State is
per process and starts unpadded: after a restart, evidence is gathered anew.

It does not know whether the filler helps or harms the answers: it is the operator's text, and theirs to judge.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from math import ceil

import msgspec
import msgspec.structs

from cache.padding import (
    Evidence,
    PadDecision,
    PadReason,
    PadSize,
    Standing,
    Traffic,
    bare_rate,
    decide,
    retry_wait_s,
)
from cache.plan import COUNT_ERROR, Strategy
from cache.prompt import Prompt
from cache.rules import TTL_1H_S, TTL_5M_S, rules_for
from cache.tokens import TokenEstimator
from router.applications import Application, Applications
from router.beliefs import CacheView
from router.call import Call
from router.filler import Filler
from router.padding_bill import billed_scale, cached_tokens, filler_span
from router.pricing import PriceTable, UnknownPrice
from router.request import Request
from router.usage import Usage

logger = logging.getLogger(__name__)

VARIANT_LIMIT = 16
"""Variants of one application's opening (thinking, effort, output format) whose last use is remembered."""
LENGTHENING_LIMIT = 3
"""Times a cut that was proved too short is lengthened before it is given up."""
LENGTHENING = 0.15
"""What it grows by at least, as a share of the model's minimum."""
_FORGETTING = 0.9


class Padding(msgspec.Struct, frozen=True, gc=False):
    """How one application's shared layers stand now.

    Attributes:
        system: The application's system blocks with the filler behind them; without it when not padded.
        position: Index of the filler's block in the prompt, or where it would be.
        padded: Whether `system` holds the filler.
        shared_tokens: Tokens before the filler, measured while unpadded; 0 before the first settled call.
        decision: Why; None before the first settled call.
    """

    application: Application
    system: tuple[str, ...]
    position: int
    padded: bool = False
    shared_tokens: int = 0
    decision: PadDecision | None = None

    def applied(self, call: Call) -> Call:
        """The call with the filler in it, as Opus gets it."""
        return msgspec.structs.replace(call, system=self.system) if self.padded else call

    def bare(self, prompt: Prompt) -> Prompt:
        """A padded prompt without the filler, as Flash gets it."""
        return prompt.without(self.position)


class _Use(msgspec.Struct, frozen=True, gc=False):
    """The last use of one variant of an opening: when it began, when it could be read, the cut marked in it."""

    started_s: float
    readable_s: float
    cut: str


class _State(msgspec.Struct):
    """What is known of one application.

    Attributes:
        shared_tokens: Of its shared layers, measured while unpadded.
        shared_counted: Whether the provider's counter gave them.
        padded_tokens: With the filler; 0 while unpadded.
        cached: Whether the provider was seen to cache the cut that stands.
        lengthening_count: Times it was lengthened since it was first put in.
        refusal_count: Times padding was given up since the provider last cached a cut.
    """

    current: Padding
    strategy_ttls_s: tuple[int, ...]
    traffic: Traffic
    last_uses: OrderedDict[bytes, _Use]
    shared_tokens: float = 0.0
    shared_counted: bool = False
    padded_tokens: int = 0
    cached: bool = False
    lengthening_count: int = 0
    refusal_count: int = 0
    standing: Standing = Standing()


class Paddings:
    """The applications that may be padded."""

    def __init__(
        self,
        applications: Applications,
        filler: str,
        *,
        model: str,
        strategy: Strategy,
        prices: PriceTable,
        estimator: TokenEstimator,
    ) -> None:
        """Start unpadded.

        Args:
            filler: The operator's text; "" pads nothing.
            model: Id of the Opus model.
            strategy: The service's default.
            estimator: The one that learns from settled calls; only read here.
        """
        self._filler = Filler(filler, model=model, estimator=estimator)
        self._model = model
        self._rules = rules_for(model)
        self._prices = prices
        self._states: dict[str, _State] = {}
        self._padded: Callable[[Padding], None] | None = None
        for name in applications.names() if self._filler else ():
            application = applications.get(name)
            ttls_s = _ttls_s(Strategy(application.cache_strategy or strategy.value))
            if application.pad and ttls_s and (application.system or application.tools):
                self._states[name] = _State(_bare(application), ttls_s, Traffic(), OrderedDict())

    def tell(self, padded: Callable[[Padding], None] | None) -> None:
        """Let `padded` know of each filler that is cut; None for nobody."""
        self._padded = padded

    def evidence(self, application: str) -> Evidence:
        """What was observed of an application that may be padded."""
        return self._states[application].traffic.evidence()

    def standing(self, request: Request) -> Padding | None:
        """How the shared layers of `request` stand; None when it can not be padded.

        It can not when its application is not to be, when it brings tools or system text of its own (which then are no
        longer everyone's), or when it is not to be cached.
        """
        state = self._states.get(request.application.name)
        if state is None:
            return None
        call, application = request.call, request.application
        if (
            len(call.system) != len(application.system)
            or len(call.tools) != len(application.tools)
            or not call.cache_allowed
            or request.strategy == "none"
        ):
            return None
        return state.current

    def learn(
        self, padding: Padding, view: CacheView, usage: Usage, *, started_s: float, readable_s: float
    ) -> None:
        """Take a settled Opus call in, and decide anew.

        Args:
            padding: What `standing` gave for the call.
            view: What was planned over the prompt as sent.
            started_s: When it was sent; `readable_s`: when what it wrote could be read.
        """
        state = self._states[padding.application.name]
        try:
            rates = self._prices.rates(self._model, started_s)
        except UnknownPrice:
            return  # Without prices nothing can be known to pay.
        shared = prefix = view.counts[padding.position - 1] * billed_scale(view, padding.position, usage)
        current = padding.padded and padding.system is state.current.system
        if padding.padded:
            span = filler_span(padding, view, usage)
            shared, prefix = span.start, span.end
            if span.measured:
                self._filler.measure(padding.system[-1], prefix - shared)
            if current:
                state.padded_tokens = prefix
        else:
            # While padded the old measure stands: the filler's tokens per byte would pull at it.
            before = state.shared_tokens or shared
            state.shared_counted = len(view.counted.counts) >= padding.position
            if state.shared_counted:
                before = shared
            state.shared_tokens = _FORGETTING * before + (1 - _FORGETTING) * shared
        state.traffic.rate(
            bare_rate(
                rates,
                read_tokens=usage.cache_read_tokens,
                write_5m_tokens=usage.cache_write_5m_tokens,
                write_1h_tokens=usage.cache_write_1h_tokens,
                prefix_tokens=prefix,
                padding_tokens=prefix - shared,
                minimum_tokens=self._rules.minimum_tokens,
            )
        )
        self._note_use(state, padding, view, usage, started_s, readable_s)
        if current:
            self._check_length(state, padding, view, usage)
        self._decide(state, padding.application, started_s)

    def _note_use(
        self,
        state: _State,
        padding: Padding,
        view: CacheView,
        usage: Usage,
        started_s: float,
        readable_s: float,
    ) -> None:
        """Count the gap to the last use of the same opening, and whether it was read as it should have been."""
        cut = padding.system[-1] if padding.padded and _marked(padding, view) else ""
        # The digest before the filler: tools, own system text and parameters, whether padded or not.
        variant = view.digests[padding.position - 1]
        last = state.last_uses.pop(variant, None)
        if last is None:
            if state.last_uses:
                state.traffic.gap(float("inf"))
        else:
            gap_s = max(0.0, started_s - last.started_s)
            state.traffic.gap(gap_s)
            # A cut nobody ever cached is too short, which says nothing of how long entries are held.
            known = bool(cached_tokens(usage)) or state.cached
            if cut and cut == last.cut and known and last.readable_s <= started_s and gap_s < TTL_5M_S:
                state.traffic.test(usage.cache_read_tokens > 0)
            started_s = max(started_s, last.started_s)
        state.last_uses[variant] = _Use(started_s, readable_s, cut)
        if len(state.last_uses) > VARIANT_LIMIT:
            state.last_uses.popitem(last=False)

    def _check_length(self, state: _State, padding: Padding, view: CacheView, usage: Usage) -> None:
        """Lengthen the cut that stands when the call proves that it does not reach the minimum.

        A prefix under the minimum is processed without caching and without an error (A-CACHE, 2026-11), so what was
        marked and neither read nor written is under it.
        """
        if cached_tokens(usage):
            state.cached, state.refusal_count = True, 0
            return
        minimum = self._rules.minimum_tokens
        if state.cached or not (_marked(padding, view) or state.padded_tokens < minimum):
            return
        cut, needed = padding.system[-1], ceil(minimum * (1 + self._filler.margin())) - padding.shared_tokens
        needed = max(needed, self._filler.tokens(cut) + ceil(LENGTHENING * minimum))
        longer = self._filler.cut(needed)
        if state.lengthening_count < LENGTHENING_LIMIT and len(longer) > len(cut):
            state.lengthening_count += 1
            self._put(state, padding.application, padding.shared_tokens, longer)
            logger.info(
                "application %s: a prefix padded to about %d tokens was not cached; lengthened to about %d",
                padding.application.name,
                padding.shared_tokens + self._filler.tokens(cut),
                state.padded_tokens,
            )
        else:
            state.traffic.refuse()

    def _decide(self, state: _State, application: Application, now_s: float) -> None:
        shared = round(state.shared_tokens)
        standing = state.standing
        minimum = self._rules.minimum_tokens
        padded_tokens = state.padded_tokens if standing.padded else shared
        if not standing.padded:
            if standing.changed_s is not None and state.refusal_count:
                wait_s = retry_wait_s(state.refusal_count)
                if state.traffic.evidence().not_cached and now_s - standing.changed_s >= wait_s:
                    state.traffic.forget_tests()
            if shared < minimum:
                # What the provider counted needs no margin but its counter's own.
                counted = shared if state.shared_counted else 0
                margin = self._filler.margin()
                padded_tokens = ceil(minimum + counted * COUNT_ERROR + (minimum - counted) * margin)
                padded_tokens = min(padded_tokens, shared + self._filler.available_tokens)
        decision = decide(
            PadSize(max(shared, 1), max(padded_tokens, 1), minimum),
            state.traffic.evidence(),
            standing,
            rates=self._prices.rates(self._model, now_s),
            ttls_s=state.strategy_ttls_s,
            now_s=now_s,
        )
        if decision.pad is standing.padded:
            state.current = msgspec.structs.replace(state.current, decision=decision)
            return
        state.standing = Standing(decision.pad, now_s)
        if decision.pad:
            state.lengthening_count = 0
            self._put(state, application, shared, self._filler.cut(padded_tokens - shared), decision)
        else:
            state.refusal_count += decision.reason is PadReason.NOT_CACHED
            state.padded_tokens = 0
            state.current = msgspec.structs.replace(_bare(application), decision=decision)
        logger.info("application %s: %s", application.name, decision)

    def _put(
        self,
        state: _State,
        application: Application,
        shared_tokens: int,
        cut: str,
        decision: PadDecision | None = None,
    ) -> None:
        """Let `cut` stand behind the application's system blocks."""
        state.cached = False
        state.padded_tokens = shared_tokens + self._filler.tokens(cut)
        state.current = Padding(
            application,
            (*application.system, cut),
            state.current.position,
            padded=True,
            shared_tokens=shared_tokens,
            decision=decision,
        )
        if self._padded is not None:
            self._padded(state.current)


def _marked(padding: Padding, view: CacheView) -> bool:
    """Whether the provider was asked to cache a prefix that holds the filler."""
    marks = view.plan.breakpoints
    return bool(marks) and marks[-1].position >= padding.position


def _bare(application: Application) -> Padding:
    return Padding(application, application.system, len(application.tools) + len(application.system))


def _ttls_s(strategy: Strategy) -> tuple[int, ...]:
    """Lifetimes a strategy may choose for the shared layers."""
    match strategy:
        case Strategy.NONE:
            return ()
        case Strategy.AUTO:
            return (TTL_5M_S, TTL_1H_S)
        case _:
            return (TTL_5M_S,)
