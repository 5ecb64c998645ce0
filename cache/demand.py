"""How soon prefixes are used again, counted from the past.

The rule: shared and user prefixes are told apart by their digest and get a rate each; a conversation's prefix
is new with every turn, so its return is counted per kind of turn instead.

    tools, system, context   decayed arrivals and exposure per (scope, digest), on a Gamma prior fitted to the
                             prior forecast: P(next < d) = 1 - (b / (b + d)) ** a
    history, turn            share of returns within 5 minutes, and from there within the hour, per (kind,
                             turn state), shrunk to the turn state and from there to the prior

A gap is counted when its window CLOSES, not when the return comes: otherwise quick returns would be counted
before the slow ones and every forecast would start too high. What has not closed is not known. Time is passed
in; memory is bounded; it does not know routes, so feed it the requests of the route whose cache is asked
about.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from cache.forecast import LATER_TURN, Forecast, Forecasts, prior_forecasts
from cache.prompt import BlockKind, CacheScope, Layer, Prompt
from cache.rules import TTL_1H_S, TTL_5M_S

_PRIOR_ARRIVALS = 0.5
"""Weight of the prior rate: half an arrival, so that two or three real ones outweigh it."""
_PSEUDO_COUNT = 25.0
"""Returns a parent's share counts for in its child; below about 25 observations the parent decides."""
_FORGETTING = 0.999
_KEYED = (Layer.TOOLS, Layer.SYSTEM, Layer.CONTEXT)


@dataclass(slots=True)
class _Arrivals:
    """Decayed arrivals of one prefix and the decayed time over which they came."""

    last: float
    count: float = 0.0
    exposure_s: float = 0.0

    def advance(self, now: float, decay_per_s: float) -> None:
        elapsed = max(0.0, now - self.last)
        kept = exp(-decay_per_s * elapsed)
        self.count *= kept
        self.exposure_s = self.exposure_s * kept + (1 - kept) / decay_per_s
        self.last = max(self.last, now)


@dataclass(slots=True)
class _Returns:
    """Closed windows and how many saw a return: within 5 minutes, and from then within the hour."""

    windows_5m: float = 0.0
    returns_5m: float = 0.0
    windows_1h: float = 0.0
    returns_1h: float = 0.0

    def shrunk_to(self, parent: tuple[float, float]) -> tuple[float, float]:
        """(share within 5 minutes, share of the rest within the hour), given the parent's."""
        return (
            (self.returns_5m + _PSEUDO_COUNT * parent[0]) / (self.windows_5m + _PSEUDO_COUNT),
            (self.returns_1h + _PSEUDO_COUNT * parent[1]) / (self.windows_1h + _PSEUDO_COUNT),
        )


@dataclass(slots=True, eq=False)
class _Exposure:
    """A turn that waits for its next one."""

    started: float
    states: tuple[str, str]
    scope: CacheScope
    digest: bytes
    gap_s: float | None = None


class Demand:
    """Arrivals seen by one process. Not thread-safe; time is passed in and never runs backwards."""

    def __init__(
        self, *, half_life_s: float = 6 * 3600.0, max_prefixes: int = 50_000, max_waiting: int = 200_000
    ) -> None:
        """Start knowing nothing.

        Args:
            half_life_s: Seconds after which an arrival counts half.
            max_prefixes: Shared and user prefixes remembered per scope; the longest unused go first.
            max_waiting: Turns whose next one is awaited; beyond it the oldest are given up uncounted.
        """
        self._decay_per_s = log(2) / half_life_s
        self._max_prefixes = max_prefixes
        self._max_waiting = max_waiting
        self._arrivals: dict[CacheScope, OrderedDict[bytes, _Arrivals]] = {}
        self._returns: dict[tuple[str, str], _Returns] = {}
        self._waiting: dict[CacheScope, dict[bytes, _Exposure]] = {}
        self._closes_5m: deque[_Exposure] = deque()
        self._closes_1h: deque[_Exposure] = deque()

    def arrive(
        self, scope: CacheScope, prompt: Prompt, digests: Sequence[bytes], now: float, kind: str = ""
    ) -> None:
        """Count one request that uses this prompt's prefixes.

        Args:
            kind: Class of traffic that returns alike (application, API key, endpoint); few values.
        """
        self._close(now)
        arrivals = self._arrivals.get(scope)
        if arrivals is None:
            arrivals = self._arrivals[scope] = OrderedDict()
        for layer in _KEYED:
            end = prompt.ends[layer]
            if end < 0:
                continue
            seen = arrivals.get(digests[end])
            if seen is None:
                arrivals[digests[end]] = _Arrivals(now)
                if len(arrivals) > self._max_prefixes:
                    arrivals.popitem(last=False)
            else:
                seen.advance(now, self._decay_per_s)
                seen.count += 1
                arrivals.move_to_end(digests[end])
        self._return(scope, prompt, digests, now, kind)

    def forecasts(
        self, scope: CacheScope, prompt: Prompt, digests: Sequence[bytes], now: float, kind: str = ""
    ) -> Forecasts:
        """Chance of the next use of each layer's prefix after a request that starts `now`.

        Returns:
            One forecast per layer, indexed by `Layer`; the prior where nothing was seen. Changes nothing.
        """
        continues = self._continues(scope, prompt, digests)
        prior = LATER_TURN if continues else prior_forecasts(prompt)
        arrivals = self._arrivals.get(scope) or OrderedDict[bytes, _Arrivals]()
        found = []
        for layer in _KEYED:
            end = prompt.ends[layer]
            seen = arrivals.get(digests[end]) if end >= 0 else None
            found.append(prior[layer] if seen is None else self._keyed(seen, prior[layer], now))
        turn = self._turn_forecast(_turn_state(prompt, continues), prior[Layer.TURN], kind)
        return (*found, turn, turn)

    @property
    def entry_count(self) -> int:
        """Prefixes remembered and turns awaited."""
        kept = sum(len(arrivals) for arrivals in self._arrivals.values())
        return kept + sum(len(waiting) for waiting in self._waiting.values())

    def _keyed(self, seen: _Arrivals, prior: Forecast, now: float) -> Forecast:
        elapsed = max(0.0, now - seen.last)
        kept = exp(-self._decay_per_s * elapsed)
        # A request that has not been counted yet is itself an arrival.
        arrivals = _PRIOR_ARRIVALS + seen.count * kept + (1 if elapsed > 0 else 0)
        exposure_s = seen.exposure_s * kept + (1 - kept) / self._decay_per_s
        p_5m = _return_chance(arrivals, exposure_s, TTL_5M_S, prior.p_5m)
        return Forecast(p_5m, max(p_5m, _return_chance(arrivals, exposure_s, TTL_1H_S, prior.p_1h)))

    def _turn_forecast(self, state: str, prior: Forecast, kind: str) -> Forecast:
        beyond = 1 - prior.p_5m
        shares = (prior.p_5m, (prior.p_1h - prior.p_5m) / beyond if beyond > 0 else 0.0)
        for key in (("", state), (kind, state)) if kind else (("", state),):
            returns = self._returns.get(key)
            if returns is not None:
                shares = returns.shrunk_to(shares)
        p_5m, later = shares
        return Forecast(p_5m, p_5m + (1 - p_5m) * later)

    def _continues(self, scope: CacheScope, prompt: Prompt, digests: Sequence[bytes]) -> bool:
        """Whether a prompt without history extends one whose next turn is awaited.

        Some clients grow one user message instead of adding turns; for the cache that is the same conversation.
        """
        waiting = self._waiting.get(scope)
        if not waiting or prompt.ends[Layer.HISTORY] >= 0:
            return False
        first = prompt.stable_end + 1
        return any(digests[position] in waiting for position in range(len(digests) - 1, first - 1, -1))

    def _return(
        self, scope: CacheScope, prompt: Prompt, digests: Sequence[bytes], now: float, kind: str
    ) -> None:
        """Match this request to the turn it continues, and await its own next one."""
        stable_end = prompt.stable_end
        if len(digests) - 1 <= stable_end:
            return
        waiting = self._waiting.setdefault(scope, {})
        earlier = None
        for position in range(len(digests) - 1, stable_end, -1):
            earlier = waiting.pop(digests[position], None)
            if earlier is not None:
                earlier.gap_s = now - earlier.started
                break
        state = _turn_state(prompt, continues=earlier is not None)
        exposure = _Exposure(now, (kind, state), scope, digests[-1])
        waiting[digests[-1]] = exposure
        self._closes_5m.append(exposure)
        self._closes_1h.append(exposure)
        if len(self._closes_1h) > self._max_waiting:
            self._forget(self._closes_1h.popleft())
        if len(self._closes_5m) > self._max_waiting:
            self._closes_5m.popleft()

    def _close(self, now: float) -> None:
        """Count the windows that have ended by `now`."""
        while self._closes_5m and self._closes_5m[0].started + TTL_5M_S <= now:
            exposure = self._closes_5m.popleft()
            returned = exposure.gap_s is not None and exposure.gap_s < TTL_5M_S
            for returns in self._kept(exposure):
                returns.windows_5m = returns.windows_5m * _FORGETTING + 1
                returns.returns_5m = returns.returns_5m * _FORGETTING + returned
        while self._closes_1h and self._closes_1h[0].started + TTL_1H_S <= now:
            exposure = self._closes_1h.popleft()
            self._forget(exposure)
            if exposure.gap_s is not None and exposure.gap_s < TTL_5M_S:
                continue
            returned = exposure.gap_s is not None and exposure.gap_s < TTL_1H_S
            for returns in self._kept(exposure):
                returns.windows_1h = returns.windows_1h * _FORGETTING + 1
                returns.returns_1h = returns.returns_1h * _FORGETTING + returned

    def _kept(self, exposure: _Exposure) -> list[_Returns]:
        kind, state = exposure.states
        keys = (("", state), (kind, state)) if kind else (("", state),)
        return [self._returns.setdefault(key, _Returns()) for key in keys]

    def _forget(self, exposure: _Exposure) -> None:
        waiting = self._waiting.get(exposure.scope)
        if waiting is not None and waiting.get(exposure.digest) is exposure:
            del waiting[exposure.digest]


def _turn_state(prompt: Prompt, continues: bool) -> str:
    """Kind of turn, as far as returns differ: a tool loop comes back in seconds, a first turn seldom."""
    if prompt.blocks and prompt.blocks[-1].kind is BlockKind.TOOL_RESULT:
        return "tool_loop"
    return "later" if continues or prompt.ends[Layer.HISTORY] >= 0 else "first"


def _return_chance(arrivals: float, exposure_s: float, within_s: float, prior: float) -> float:
    """P(next arrival within `within_s`) under a Gamma rate whose prior alone would give `prior`."""
    base_s = within_s / (pow(1 - prior, -1 / _PRIOR_ARRIVALS) - 1)
    silent: float = pow((base_s + exposure_s) / (base_s + exposure_s + within_s), arrivals)
    return 1 - silent
