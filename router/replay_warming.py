"""Keep-alives in a replay: the service's own schedule, driven on the clock that follows the trace.

The rule: when a request has been billed, what it left warm is watched by `cache.schedule`, as in the service; how many
keep-alives it gets unless its conversation goes on is decided then, from what came before, and each is sent when it is
due, before anything that happens later is looked at. The provider bills it as it bills any request. So a decision can
be written down with its request, and a trace cut short gives the same ones.

Who comes back when is learnt from this trace by `Returns`; anything else that gives a chance of a return per window
can stand in its place (`ReturnModel`). With a hold-out, a share of keep-alives is not sent, at random by the request's
name alone, and `cache.regret` judges what the others brought: who loses by them gets none for a while.

Shared layers are kept by `Demand`, as in the service, where sessions share them: from what layers a row knows, once a
second session has used them. It knows no files and no prices but the rates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from cache.demand import Demand
from cache.economics import TokenSplit
from cache.hazard import Path
from cache.idle import KeptByKind, idle_plan
from cache.regret import Regret, Tried
from cache.returns import ReturnModel, Returns
from cache.rules import TTL_1H_S, TTL_5M_S
from cache.schedule import Policy, Prefix, Schedule, Trigger, Watch, Worth, allowed
from classifier.foresight.model import Foresight
from router.foresight import Foreseer
from router.foresight_log import turn_of_row
from router.replay_trace import TracePrompt, TraceRow


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmSettings:
    """How a replay warms.

    Attributes:
        hold_out: Share of keep-alives that are not sent, at random.
        judged: Whether kinds of traffic that lose by keep-alives get none for a while.
        upgrades: Whether the upgrade ping may be sent: the world in which open fact A2 holds and was measured.
        call_units: What a warming call costs besides its input, in units (`Worth.call_units`).
        seed: Of the hold-out.
        foresight: Foresees who comes back, beside what is learnt from the trace; None for that alone.
    """

    policy: Policy = Policy.OFF
    hold_out: float = 0.05
    judged: bool = True
    upgrades: bool = False
    call_units: float = 0.0
    seed: int = 0
    foresight: Foresight | None = None


class Ping(NamedTuple):
    """A warm that was sent and billed.

    Attributes:
        row: Request whose prefix it kept.
        owner: Whose keep-alives are judged with it.
        extra_units: What it cost besides its input, in units.
    """

    row: TraceRow
    trigger: Trigger
    owner: tuple[str, str]
    split: TokenSplit
    extra_units: float
    now_s: float


class Left(NamedTuple):
    """What a request left warm.

    Attributes:
        key: Name of the longest prefix that is warm.
        blocks: Its whole trace blocks.
        ttl_s: Its TTL.
        base_blocks: Part of it that outlives it by a longer TTL.
        path: Kind of its turn.
        send: Sends it again at an instant and gives its bill; with True, with the answer behind it, for an hour.
    """

    key: bytes
    blocks: int
    ttl_s: int
    base_blocks: int
    path: Path
    send: Callable[[float, bool], TokenSplit]


@dataclass(slots=True)
class _Kept:
    """A prefix that is watched."""

    row: TraceRow
    left: Left
    plan_pings: int
    upgrades: bool
    held_out_at: int | None
    sent: int = 0


@dataclass(slots=True)
class _Sharing:
    """Who used a prefix that sessions may share: the last session, and when one other than it last did."""

    session: tuple[str, str]
    others_s: float | None = None
    last_s: float = 0.0


@dataclass(slots=True)
class KeepAlives:
    """Watches of one replay."""

    settings: WarmSettings
    worth: Worth
    demand: Demand
    tell: Callable[[Ping], None]
    returns: ReturnModel = field(default_factory=lambda: Returns(max_waiting=200_000))
    foreseer: Foreseer = field(init=False)
    regret: Regret = field(default_factory=Regret)
    _schedule: Schedule = field(default_factory=lambda: Schedule(max_watches=200_000))
    _kept: dict[bytes, _Kept] = field(default_factory=dict)
    _last: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    _sharing: dict[bytes, _Sharing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.foreseer = Foreseer(self.settings.foresight, max_sessions=200_000)
        if self.settings.policy is Policy.AUTO:
            self.demand.keep_by(KeptByKind(lambda: self.worth, self.returns))

    def until(self, now_s: float) -> None:
        """Send what is due by then, in the order it is due."""
        while (due_s := self._schedule.next_due_s()) is not None and due_s <= now_s:
            for watch in self._schedule.due(due_s):
                self._due(watch, due_s)

    def drained_s(self, latest_s: float) -> float:
        """Send all that is still to come if nothing else does; give the instant of the last one or `latest_s`."""
        while (due_s := self._schedule.next_due_s()) is not None:
            self.until(due_s)
            latest_s = max(latest_s, due_s)
        return latest_s

    def arrived(self, row: TraceRow, found: TracePrompt, now_s: float) -> None:
        """A request has come, and is not served yet: its conversation needs no more keep-alives."""
        self.returns.close(now_s)
        self.regret.close(now_s)
        before = self._last.pop((row.namespace, row.session, row.stream), None)
        if before is not None:
            self.returns.returned(before, now_s, reused=found.returned_gap_s is not None)
            self._forget(before)

    def served(
        self, row: TraceRow, found: TracePrompt, left: Left | None, read_tokens: int, now_s: float
    ) -> int:
        """A request was billed and left this warm; give the keep-alives it gets unless its conversation goes on."""
        self.regret.used(found.digests, read_tokens, now_s)
        others = self._others_blocks(row, found, now_s)
        if left is None or not allowed(self.settings.policy, Trigger.IDLE):
            return 0
        key = (row.namespace, row.session, row.stream)
        self._forget(left.key)
        self._last[key] = left.key
        forecast = self.foreseer.answered(key, turn_of_row(row, now_s))
        foreseen = () if forecast is None else forecast.keep_alive_hazards()
        self.returns.quiet(left.key, left.path, now_s, foreseen)
        owner = _owner(row)
        if self.settings.judged and not self.regret.allowed(owner, now_s):
            return 0
        size = row.block_tokens
        private = max(1, left.blocks - max(others, left.base_blocks)) * size
        prefix = Prefix(left.key, left.blocks * size, private, left.ttl_s, False)
        answer = row.output_tokens if self.settings.upgrades else None
        hazards = self.returns.hazards(left.path, 0, foreseen)
        found_plan = idle_plan(self.settings.policy, prefix, self.worth, hazards, answer_tokens=answer)
        pings, upgrades = found_plan.pings, found_plan.upgrades
        if not pings and not upgrades:
            return 0
        held_out_at = self._held_out(row, pings + upgrades)
        self._kept[left.key] = _Kept(row, left, pings, upgrades, held_out_at)
        self._schedule.used(prefix, owner, left.path, now_s)
        return pings if held_out_at is None else min(pings, held_out_at)

    # --- the parts

    def _due(self, watch: Watch, now_s: float) -> None:
        kept = self._kept.get(watch.prefix.key)
        if kept is None:
            self._schedule.forget(watch.prefix.key)
            return
        upgrade = kept.sent >= kept.plan_pings
        held_out = kept.sent == kept.held_out_at
        self._try(watch, upgrade, held_out, now_s)
        if held_out:
            self._forget(watch.prefix.key)
            return
        split = kept.left.send(now_s, upgrade)
        extra = self.worth.call_units
        self.tell(Ping(kept.row, Trigger.IDLE, watch.owner, split, extra, now_s))
        rates = self.worth.rates
        spent = split.read * rates.read + split.write_5m * rates.write_5m + split.write_1h * rates.write_1h
        self.regret.spent(watch.prefix.key, spent + split.uncached + extra)
        kept.sent += 1
        wrote = split.read == 0
        if wrote or upgrade or kept.sent >= kept.plan_pings + kept.upgrades:
            self._forget(watch.prefix.key)
        else:
            self._schedule.pinged(watch, now_s)

    def _try(self, watch: Watch, upgrade: bool, held_out: bool, now_s: float) -> None:
        """Note the decision, so that what comes of it is told."""
        prefix, rates = watch.prefix, self.worth.rates
        from_s = now_s if watch.pings else watch.lapses_s
        gain = (rates.write(prefix.ttl_s) - rates.read) * prefix.private_tokens
        self.regret.tried(
            prefix.key,
            Tried(
                owner=watch.owner,
                trigger=Trigger.IDLE.value,
                held_out=held_out,
                from_s=from_s,
                until_s=now_s + (TTL_1H_S if upgrade else prefix.ttl_s),
                tokens=prefix.tokens,
                private_tokens=prefix.private_tokens,
                gain_usd=gain * self.worth.token_usd,
                gain_s=0.0,
            ),
            now_s,
        )

    def _forget(self, key: bytes) -> None:
        self._kept.pop(key, None)
        self._schedule.forget(key)

    def _held_out(self, row: TraceRow, pings: int) -> int | None:
        """Number of the first keep-alive of this request that is held out; None when all may be sent."""
        share = self.settings.hold_out
        if share <= 0:
            return None
        draw = Random(f"{self.settings.seed} {row.namespace} {row.session} {row.stream} {row.sequence}")
        return next((number for number in range(pings) if draw.random() < share), None)

    def _others_blocks(self, row: TraceRow, found: TracePrompt, now_s: float) -> int:
        """Blocks of this prompt that other sessions keep warm: used by one of them within 5 minutes."""
        session, blocks = (row.namespace, row.session), 0
        for end in found.prompt.ends[:3]:
            if end < 0:
                continue
            seen = self._sharing.get(found.digests[end])
            if seen is None:
                self._sharing[found.digests[end]] = _Sharing(session, None, now_s)
                continue
            if seen.session != session:
                seen.others_s, seen.session = seen.last_s, session
            seen.last_s = now_s
            if seen.others_s is not None and now_s - seen.others_s < TTL_5M_S:
                blocks = max(blocks, found.ends[end])
        return blocks


def _owner(row: TraceRow) -> tuple[str, str]:
    return "", row.kind
