"""Warms ahead of requests in a replay: at a session's opening, after a user's action, while Flash answers.

The rule: as in the service (`router.warming`), by what was known then. An opening or an action names a session, and
what its next request begins with: what the row spells, or else the session's last prompt (the answer's blocks have no
name before the next request). A turn on Flash is such a signal by its score, or by the chance foreseen. How often each
kind was followed by a request to Opus within five minutes is counted (`cache.chances`) and shrunk to the service's
priors. The policies `session_start` and `predictive` then warm whether it pays or not, AUTO where the chance pays,
which it never does unless a second is worth something. A warm can be read as soon as it is sent: a trace knows no
first bytes. It bills nothing itself.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from cache.chances import (
    ACTION_PRIOR,
    LISTED_PRIOR,
    RETURN_PRIOR,
    SESSION_PRIOR,
    Chances,
    band_of,
)
from cache.economics import TokenSplit, cost_units
from cache.regret import Regret, Tried
from cache.rules import TTL_5M_S
from cache.schedule import Policy, Prefix, Trigger, Worth, ahead, allowed, could_pay
from router.foresight import Foreseer
from router.replay_pings import Ping
from router.replay_trace import OPENED, TracePrompt, TraceRow
from router.replay_warming import WarmSettings

_SESSIONS = 50_000
"""Prompts remembered; the longest unused go first."""

Whose = tuple[str, str, str]


class Offer(NamedTuple):
    """A warm that could be sent now.

    Attributes:
        key: Name of the prefix; `tokens` of it, `warm_tokens` of them believed warm with chance `p_hit`.
        expected: Its bill if belief holds.
        send: Sends it and gives its bill.
    """

    key: bytes
    tokens: int
    p_hit: float
    warm_tokens: int
    expected: TokenSplit
    send: Callable[[], TokenSplit]


def could_warm_ahead(policy: Policy, worth: Worth) -> bool:
    """Whether a policy ever warms ahead of a request; AUTO does not where even a certain one would not pay."""
    if policy is Policy.AUTO:
        return could_pay(1.0, worth)
    return allowed(policy, Trigger.SESSION_START) or allowed(policy, Trigger.PREDICTION)


@dataclass(slots=True)
class Ahead:
    """Signals of one replay, and the warms they bring about.

    Attributes:
        offered: What could be warmed of this prompt at that instant; None for nothing.
        switched_off: Signals that brought no warm because their traffic had lost by them.
    """

    settings: WarmSettings
    worth: Worth
    regret: Regret
    foreseer: Foreseer
    offered: Callable[[TraceRow, TracePrompt, float], Offer | None]
    tell: Callable[[Ping], None]
    switched_off: int = 0
    _chances: Chances = field(default_factory=lambda: Chances(within_s=TTL_5M_S))
    _scores: Chances = field(default_factory=lambda: Chances(within_s=TTL_5M_S))
    _last: OrderedDict[Whose, tuple[TraceRow, TracePrompt]] = field(default_factory=OrderedDict)
    _held_out: OrderedDict[Whose, float] = field(default_factory=OrderedDict)

    def asked(self, row: TraceRow, found: TracePrompt, now_s: float) -> None:
        """A request to Opus came: what its session was awaited for is here."""
        self._remember(row, found)
        self._chances.followed(_whose(row), now_s)
        self._scores.followed(_whose(row), now_s)

    def answered_by_flash(self, row: TraceRow, found: TracePrompt, now_s: float) -> None:
        """Flash answered a turn: its session may need Opus next."""
        self._remember(row, found)
        policy, whose = self.settings.schedule, _whose(row)
        foreseen = self.foreseer.opus_within(whose, float(TTL_5M_S), now_s)
        chance = row.score if foreseen is None else foreseen
        if chance is None or not allowed(policy, Trigger.SCORE):
            return
        kind = (foreseen is not None, band_of(chance), row.kind)
        p_use = self._scores.of(kind, chance if foreseen is not None else chance * RETURN_PRIOR)
        self._scores.signal(kind, whose, now_s)
        if policy is not Policy.PREDICTIVE or chance >= self.settings.score:
            self._consider(Trigger.SCORE, row, row, found, p_use, now_s)

    def happened(self, row: TraceRow, known: TracePrompt, now_s: float) -> None:
        """A session was opened, or its user did something.

        Args:
            known: What the row spells of the next request.
        """
        policy, whose, settings = self.settings.schedule, _whose(row), self.settings
        trigger = Trigger.SESSION_START if row.event == OPENED else Trigger.PREDICTION
        if not allowed(policy, trigger):
            return
        listed = settings.actions is None or row.event in settings.actions
        prior = SESSION_PRIOR if row.event == OPENED else LISTED_PRIOR if listed else ACTION_PRIOR
        foreseen = self.foreseer.opus_within(whose, float(TTL_5M_S), now_s)
        if foreseen is not None:
            # An action that is listed says more than the session's past; any other event may say nothing.
            prior = max(prior, foreseen) if listed and row.event != OPENED else foreseen
        kind = (row.event, row.kind)
        p_use = self._chances.of(kind, prior)
        self._chances.signal(kind, whose, now_s)
        if trigger is Trigger.PREDICTION and policy is Policy.PREDICTIVE and not listed:
            return
        spelled, found = (row, known) if known.digests else self._last.get(whose, (row, known))
        if found.digests:
            self._consider(trigger, row, spelled, found, p_use, now_s)

    def _consider(
        self,
        trigger: Trigger,
        row: TraceRow,
        spelled: TraceRow,
        found: TracePrompt,
        p_use: float,
        now_s: float,
    ) -> None:
        """Warm what `spelled` and `found` say, for the sake of `row`, if that is worth it and nobody objects."""
        policy, worth = self.settings.schedule, self.worth
        if policy is Policy.AUTO and not could_pay(p_use, worth):
            return
        offer = self.offered(spelled, found, now_s)
        if offer is None:
            return
        prefix = Prefix(offer.key, offer.tokens, offer.tokens, TTL_5M_S, False)
        spent = cost_units(offer.expected, worth.rates)
        if not ahead(policy, prefix, worth, p_use, offer.p_hit, offer.warm_tokens, spent).fires:
            return
        owner, whose = ("", row.kind), _whose(row)
        if now_s < self._held_out.get(whose, now_s):
            return  # drawn again it would be sent after all, and the one held out would have lost nothing
        self.regret.close(now_s)
        if self.settings.judged and not self.regret.allowed(owner, now_s):
            self.switched_off += 1
            return
        held_out = self._drawn(row, now_s)
        self.regret.tried(offer.key, self._tried(owner, trigger, offer, held_out, now_s), now_s)
        if held_out:
            self._held_out[whose] = now_s + TTL_5M_S
            if len(self._held_out) > _SESSIONS:
                self._held_out.popitem(last=False)
            return
        split = offer.send()
        settings = self.settings
        self.tell(Ping(row, trigger, owner, split, settings.call_units, settings.output_tokens, now_s))
        self.regret.spent(offer.key, cost_units(split, worth.rates) + worth.call_units)

    def _tried(
        self, owner: tuple[str, str], trigger: Trigger, offer: Offer, held_out: bool, now_s: float
    ) -> Tried:
        cold, rates = max(1, offer.tokens - offer.warm_tokens), self.worth.rates
        return Tried(
            owner=owner,
            trigger=trigger.value,
            held_out=held_out,
            from_s=now_s,
            until_s=now_s + TTL_5M_S,
            tokens=offer.tokens,
            private_tokens=cold,
            gain_usd=(rates.write_5m - rates.read) * cold * self.worth.token_usd,
            gain_s=self.worth.kappa_s * cold,
        )

    def _drawn(self, row: TraceRow, now_s: float) -> bool:
        """Whether this one is held out, by its name alone."""
        named = f"{self.settings.seed} {row.namespace} {row.session} {row.stream} {row.event} {now_s}"
        return Random(named).random() < self.settings.hold_out

    def _remember(self, row: TraceRow, found: TracePrompt) -> None:
        self._last[_whose(row)] = row, found
        self._last.move_to_end(_whose(row))
        if len(self._last) > _SESSIONS:
            self._last.popitem(last=False)


def _whose(row: TraceRow) -> Whose:
    return row.namespace, row.session, row.stream
