"""Warms in a replay: the service's own schedule, driven on the clock that follows the trace.

The rule: when a request has been billed, what it left warm is watched by `cache.schedule`, as in the service. How many
keep-alives it gets unless its conversation goes on is decided then, from what came before, so it can be written down
with the request, and a trace cut short gives the same decisions; each is sent when it is due, before anything later is
looked at, and the provider bills it as it bills any request. With a hold-out, a share of keep-alives is not sent, at
random by the request's name alone, and `cache.regret` judges what the others brought: traffic that loses by them gets
none for a while.

Who comes back when is counted by `Returns`, with a foresight weighed in where there is one. Shared layers are those
that a second session has used; they are kept by their uses (`Demand.use_within`), and the document's pinger sends them
every four minutes whatever happens, as it says. It knows no files and no prices but the rates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from random import Random

from cache.demand import Demand
from cache.economics import TokenSplit, cost_units
from cache.hazard import Run
from cache.idle import KeptByKind, idle_plan
from cache.prompt import CacheScope
from cache.regret import Regret, Tried
from cache.returns import Returns
from cache.rules import TTL_1H_S, TTL_5M_S
from cache.schedule import Policy, Prefix, Schedule, Trigger, Watch, Worth, allowed, shared_upkeep
from classifier.foresight.model import Forecast, Foresight
from router.foresight import Foreseer
from router.foresight_log import turn_of_row
from router.replay_pings import Idle, Left, Ping, within_5m
from router.replay_shared import PINGER_SPACING_S, Sharing
from router.replay_trace import TracePrompt, TraceRow


class Warm(StrEnum):
    """What is warmed in a replay: the policies of `cache.schedule`, and the document's pinger."""

    OFF = "off"
    SESSION_START = "session_start"
    KEEP_ALIVE = "keep_alive"
    PREDICTIVE = "predictive"
    SHARED = "shared"
    AUTO = "auto"
    FOUR_MINUTES = "four_minutes"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmSettings:
    """How a replay warms.

    Attributes:
        hold_out: Share of keep-alives that are not sent, at random.
        judged: Whether kinds of traffic that lose by keep-alives get none for a while.
        upgrades: Whether the upgrade ping may be sent: the world in which open fact A2 holds and was measured.
        output_tokens: Output a warming call cannot go without (`Facts.warm_output_tokens`).
        output_rate: Price of an output token, in units.
        seed: Of the hold-out.
        foresight: Foresees who comes back, beside what is learnt from the trace; None for that alone.
        foresight_from: Namespace and time of the first request after those it was fitted on: before it foresees
            nothing. None for one fitted on something else.
        second_units: Value of a second less to the first token, in units; `prefill_s_per_token` makes tokens seconds.
        actions: What users do that is taken to precede a request (`predictive`); None for whatever the trace tells.
        score: Score of a turn on Flash, or chance foreseen, from which `predictive` warms; in [0, 1].
    """

    policy: Warm = Warm.OFF
    hold_out: float = 0.05
    judged: bool = True
    upgrades: bool = False
    output_tokens: int = 0
    output_rate: float = 5.0
    seed: int = 0
    foresight: Foresight | None = None
    foresight_from: tuple[str, float] | None = None
    second_units: float = 0.0
    prefill_s_per_token: float = 0.0
    actions: frozenset[str] | None = None
    score: float = 0.2

    @property
    def call_units(self) -> float:
        """What a warming call costs besides its input (`Worth.call_units`)."""
        return self.output_tokens * self.output_rate

    @property
    def schedule(self) -> Policy:
        """Policy of `cache.schedule`; the document's pinger has none."""
        return Policy.OFF if self.policy is Warm.FOUR_MINUTES else Policy(self.policy.value)


@dataclass(slots=True)
class _Kept:
    """A prefix that is watched."""

    row: TraceRow
    left: Left
    plan_pings: int
    upgrades: bool
    held_out_at: int | None
    shared_key: bytes
    sent: int = 0


@dataclass(slots=True)
class KeepAlives:
    """Watches of one replay.

    Attributes:
        switched_off: Requests that got no keep-alive because their traffic had lost by them.
    """

    settings: WarmSettings
    worth: Worth
    demand: Demand
    scope: CacheScope
    tell: Callable[[Ping], None]
    returns: Returns = field(default_factory=lambda: Returns(max_waiting=200_000))
    foreseer: Foreseer = field(init=False)
    regret: Regret = field(default_factory=Regret)
    sharing: Sharing = field(default_factory=Sharing)
    switched_off: int = 0
    _schedule: Schedule = field(default_factory=lambda: Schedule(max_watches=200_000))
    _kept: dict[bytes, _Kept] = field(default_factory=dict)
    _last: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    _run: Run = ()
    _pinger_s: float = inf
    _pinged: tuple[TraceRow, Left] | None = None

    def __post_init__(self) -> None:
        foresight = self.settings.foresight if self.settings.foresight_from is None else None
        self.foreseer = Foreseer(foresight, max_sessions=200_000)
        if self.settings.policy is Warm.AUTO:
            self.demand.keep_by(KeptByKind(lambda: self.worth, self.returns, upgrades=self.settings.upgrades))

    def until(self, now_s: float) -> None:
        """Send what is due by then, in the order it is due."""
        while True:
            due_s = self._schedule.next_due_s()
            due_s = inf if due_s is None else due_s
            if min(due_s, self._pinger_s) > now_s:
                return
            if self._pinger_s <= due_s:
                self._ping_anyway(self._pinger_s)
                continue
            for watch in self._schedule.due(due_s):
                self._due(watch, due_s)

    def drained_s(self, latest_s: float) -> float:
        """Send the keep-alives still to come if no request does; give the instant of the last one or `latest_s`.

        What is shared is not kept beyond its traffic.
        """
        self._pinger_s, self._pinged = inf, None
        for key in [key for key, kept in self._kept.items() if kept.left.key == kept.shared_key]:
            self._forget(key)
        while (due_s := self._schedule.next_due_s()) is not None:
            self.until(due_s)
            latest_s = max(latest_s, due_s)
        return latest_s

    def arrived(self, row: TraceRow, found: TracePrompt, now_s: float) -> None:
        """A request has come, and is not served yet: its conversation needs no more keep-alives."""
        self._foresee_from(row)
        self.returns.close(now_s)
        self.regret.close(now_s)
        self._run = ()
        before = self._last.pop((row.namespace, row.session, row.stream), None)
        if before is not None:
            self._run = self.returns.returned(before, now_s, reused=found.returned_gap_s is not None)
            self._forget(before)

    def answered_by_flash(self, row: TraceRow, now_s: float) -> None:
        """A turn on Flash leaves nothing warm, but it changes what is foreseen of what its session has on Opus."""
        self._foresee_from(row)
        key = (row.namespace, row.session, row.stream)
        forecast = self.foreseer.answered(key, turn_of_row(row, now_s))
        prefix = self._last.get(key)
        used_s = None if prefix is None else self.returns.started_s(prefix)
        if forecast is not None and prefix is not None and used_s is not None:
            self.returns.foresee(prefix, forecast.keep_alive_hazards(max(0.0, now_s - used_s)))

    def _foresee_from(self, row: TraceRow) -> None:
        """Let the foresight begin where what it was fitted on has ended."""
        begins = self.settings.foresight_from
        if self.foreseer.model is None and begins is not None and (row.namespace, row.time_s) >= begins:
            self.foreseer.model = self.settings.foresight

    def served(
        self,
        row: TraceRow,
        found: TracePrompt,
        left: Left | None,
        shared: Left | None,
        read_tokens: int,
        now_s: float,
    ) -> Idle:
        """A request was billed and left this warm; give what is done for it unless its conversation goes on.

        Args:
            left: The longest prefix; None for nothing.
            shared: Likewise of the application's layers.
        """
        self.regret.used(found.digests, read_tokens, now_s)
        key = (row.namespace, row.session, row.stream)
        forecast = self.foreseer.answered(key, turn_of_row(row, now_s))
        others = self.sharing.used(row, found, now_s)
        if self.settings.policy is Warm.FOUR_MINUTES and shared is not None:
            self._pinged = row, shared
            self._pinger_s = min(self._pinger_s, now_s + PINGER_SPACING_S)
        shared_key = b"" if shared is None else shared.key
        if shared is not None and allowed(self.settings.schedule, Trigger.SHARED):
            self._keep_shared(row, found, shared, now_s)
        if left is None or left.key == shared_key or not allowed(self.settings.schedule, Trigger.IDLE):
            return Idle()
        return self._keep_private(row, left, shared_key, others, forecast, now_s)

    # --- what is kept

    def _keep_shared(self, row: TraceRow, found: TracePrompt, shared: Left, now_s: float) -> None:
        if self.sharing.shared_end(found) is None:
            return
        tokens = shared.blocks * row.block_tokens
        prefix = Prefix(shared.key, tokens, tokens, shared.ttl_s, True)
        self._kept[shared.key] = _Kept(row, shared, 0, False, None, shared.key)
        self._schedule.used(prefix, ("shared", row.kind), (), now_s)

    def _keep_private(
        self,
        row: TraceRow,
        left: Left,
        shared_key: bytes,
        others_blocks: int,
        forecast: Forecast | None,
        now_s: float,
    ) -> Idle:
        self._forget(left.key)
        self._last[row.namespace, row.session, row.stream] = left.key
        foreseen = () if forecast is None else forecast.keep_alive_hazards()
        self.returns.quiet(left.key, left.path, now_s, foreseen, run=self._run)
        hazards = self.returns.hazards(left.path, 0, foreseen)
        none = Idle(
            0, within_5m(hazards), None if forecast is None else forecast.opus_within(float(TTL_5M_S))
        )
        owner = "", row.kind
        if self.settings.judged and not self.regret.allowed(owner, now_s):
            self.switched_off += 1
            return none
        size = row.block_tokens
        private = max(1, left.blocks - max(others_blocks, left.base_blocks)) * size
        prefix = Prefix(left.key, left.blocks * size, private, left.ttl_s, False)
        answer = row.output_tokens if self.settings.upgrades else None
        pings, upgrades, _ = idle_plan(
            self.settings.schedule,
            prefix,
            self.worth,
            hazards,
            answer_tokens=answer,
            hour_hazards=() if answer is None else self.returns.hour_hazards(left.path),
        )
        if not pings and not upgrades:
            return none
        held_out_at = self._held_out(row, pings + upgrades)
        self._kept[left.key] = _Kept(row, left, pings, upgrades, held_out_at, shared_key)
        self._schedule.used(prefix, owner, left.path, now_s)
        return none._replace(pings=pings if held_out_at is None else min(pings, held_out_at))

    # --- what is sent

    def _due(self, watch: Watch, now_s: float) -> None:
        kept = self._kept.get(watch.prefix.key)
        if kept is None or (watch.prefix.shared and not self._shared_pays(watch, now_s)):
            self._forget(watch.prefix.key)
            return
        shared = watch.prefix.shared
        upgrade = not shared and kept.sent >= kept.plan_pings
        held_out = self._held_out(kept.row, 1, now_s) == 0 if shared else kept.sent == kept.held_out_at
        self._try(watch, upgrade, held_out, now_s)
        if held_out:
            self._forget(watch.prefix.key)
            return
        trigger = Trigger.SHARED if shared else Trigger.IDLE
        split = self._send(kept, trigger, watch.owner, upgrade, now_s)
        kept.sent += 1
        if not shared:
            self._schedule.touched(kept.shared_key, now_s)
        ended = not shared and (upgrade or kept.sent >= kept.plan_pings + kept.upgrades)
        if ended or split.read == 0:
            self._forget(watch.prefix.key)
        else:
            self._schedule.pinged(watch, now_s)

    def _shared_pays(self, watch: Watch, now_s: float) -> bool:
        if self.settings.judged and not self.regret.allowed(watch.owner, now_s):
            return False
        chance, uses = self.demand.use_within(
            self.scope, watch.prefix.key, now_s, watch.lapses_s - now_s, float(watch.prefix.ttl_s)
        )
        return shared_upkeep(self.settings.schedule, watch.prefix, self.worth, chance, uses).fires

    def _ping_anyway(self, now_s: float) -> None:
        """One round of the document's pinger."""
        assert self._pinged is not None
        row, left = self._pinged
        split = left.send(now_s, False)
        self.tell(self._ping(row, Trigger.SHARED, ("shared", row.kind), split, now_s))
        self._pinger_s = now_s + PINGER_SPACING_S

    def _send(
        self, kept: _Kept, trigger: Trigger, owner: tuple[str, str], upgrade: bool, now_s: float
    ) -> TokenSplit:
        split = kept.left.send(now_s, upgrade)
        self.tell(self._ping(kept.row, trigger, owner, split, now_s))
        self.regret.spent(kept.left.key, cost_units(split, self.worth.rates) + self.worth.call_units)
        return split

    def _ping(
        self, row: TraceRow, trigger: Trigger, owner: tuple[str, str], split: TokenSplit, now_s: float
    ) -> Ping:
        settings = self.settings
        return Ping(row, trigger, owner, split, settings.call_units, settings.output_tokens, now_s)

    def _try(self, watch: Watch, upgrade: bool, held_out: bool, now_s: float) -> None:
        """Note the decision, so that what comes of it is told."""
        prefix, rates = watch.prefix, self.worth.rates
        gain = (rates.write(prefix.ttl_s) - rates.read) * prefix.private_tokens
        self.regret.tried(
            prefix.key,
            Tried(
                owner=watch.owner,
                trigger=(Trigger.SHARED if prefix.shared else Trigger.IDLE).value,
                held_out=held_out,
                # What an earlier keep-alive bought ends a little later than this one is sent.
                from_s=now_s if watch.pings else watch.lapses_s,
                until_s=now_s + (TTL_1H_S if upgrade else prefix.ttl_s),
                tokens=prefix.tokens,
                private_tokens=prefix.private_tokens,
                gain_usd=gain * self.worth.token_usd,
                gain_s=self.worth.kappa_s * prefix.private_tokens,
            ),
            now_s,
        )

    def _forget(self, key: bytes) -> None:
        self._kept.pop(key, None)
        self._schedule.forget(key)

    def _held_out(self, row: TraceRow, pings: int, now_s: float = 0.0) -> int | None:
        """Number of the first keep-alive of this request that is held out; None when all may be sent."""
        share = self.settings.hold_out
        if share <= 0:
            return None
        draw = Random(
            f"{self.settings.seed} {row.namespace} {row.session} {row.stream} {row.sequence} {now_s}"
        )
        return next((number for number in range(pings) if draw.random() < share), None)
