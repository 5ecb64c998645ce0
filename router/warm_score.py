"""Sessions that Flash answered and that may need Opus next: which of them are worth a look, by score and foresight.

The rule: an answer by Flash leaves nothing warm on Opus, so a session whose next turn goes there pays all of its prefix
anew, in money and in time. What says that it will is the chance foreseen of the session (`router.foresight`), and
without a foresight the score of the turn just answered. How often sessions of such a score, or of such a chance, came
to Opus in time is counted per application, so what was taken for granted at the start washes out.

Nothing is prepared here: that costs as much as deciding a request, and the answer is on its way to its caller. A hint
is kept for the task that sends warms, one for a session, the newest; and only if a warm of any size could pay, or the
policy warms by score whether it pays or not. What hints hold is what users said: in memory only, bounded.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

from cache.chances import RETURN_PRIOR, Chances, band_of
from cache.rules import TTL_5M_S
from cache.schedule import Policy, Trigger, Worth, allowed, could_pay
from router.request import Request
from router.telemetry import SpanContext

HINTS = 100
"""Sessions waiting to be looked at; the oldest are given up: one task looks at them, between the warms it sends."""


class Hint(NamedTuple):
    """A session that may need Opus next.

    Attributes:
        whose: Tenant and session.
        request: What it asked last, which its next request begins with.
        p_use: Chance that it asks Opus within five minutes.
        said: On what that rests, for people.
        foreseen: Whether it rests on a foresight.
        time_s: When it was answered.
        cause: Span of the request.
    """

    whose: tuple[str, str]
    request: Request
    p_use: float
    said: str
    foreseen: bool
    time_s: float
    cause: SpanContext


class ScoreHints:
    """What is remembered of one process's sessions on Flash. Not thread-safe; time is passed in; bounded."""

    def __init__(self, policy: Policy, least: float, *, most: int = HINTS) -> None:
        """Hint at nothing yet.

        Args:
            least: Chance foreseen, or score, in [0, 1] from which `Policy.PREDICTIVE` warms.
        """
        self._policy = policy
        self._least = least
        self._most = most
        self._chances = Chances(within_s=TTL_5M_S)
        self._hints: OrderedDict[tuple[str, str], Hint] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hints)

    @property
    def on(self) -> bool:
        """Whether the policy warms by score at all."""
        return allowed(self._policy, Trigger.SCORE)

    def answered(
        self,
        request: Request,
        score: float | None,
        foreseen: float | None,
        now_s: float,
        *,
        worth: Worth,
        cause: SpanContext,
    ) -> bool:
        """Note that Flash answered a request of a session; whether there is a hint to look at.

        Args:
            score: Chance in [0, 1] that this turn needed Opus, None when nothing scored.
            foreseen: Chance that the next one comes to Opus within five minutes, None when nothing is foreseen.
            worth: What tokens and time are worth now.
        """
        identity = request.call.identity
        chance = foreseen if foreseen is not None else score
        if chance is None or not identity.session:
            return False
        whose = (identity.tenant, identity.session)
        self._hints.pop(whose, None)
        kind = _kind(chance, foreseen is not None, identity.application)
        self._chances.close(now_s)
        p_use = self._chances.of(kind, chance if foreseen is not None else chance * RETURN_PRIOR)
        self._chances.signal(kind, whose, now_s)
        if chance < self._least if self._policy is Policy.PREDICTIVE else not could_pay(p_use, worth):
            return False
        said = f"foreseen {chance:.3f}" if foreseen is not None else f"score {chance:.3f}"
        self._hints[whose] = Hint(whose, request, p_use, said, foreseen is not None, now_s, cause)
        if len(self._hints) > self._most:
            self._hints.popitem(last=False)
        return True

    def recalled(
        self,
        application: str,
        whose: tuple[str, str],
        score: float | None,
        foreseen: float | None,
        then_s: float,
    ) -> None:
        """Count what Flash answered before this process began, as `answered` did; nothing is hinted at.

        Args:
            score: As for `answered`; likewise `foreseen`.
        """
        chance = foreseen if foreseen is not None else score
        if chance is not None:
            self._chances.signal(_kind(chance, foreseen is not None, application), whose, then_s)

    def close(self, now_s: float) -> None:
        """Count the waits that have ended by `now_s`."""
        self._chances.close(now_s)

    def followed(self, whose: tuple[str, str], now_s: float) -> None:
        """The session asked Opus: what it was hinted at for is here."""
        self._hints.pop(whose, None)
        self._chances.followed(whose, now_s)

    def closed(self, whose: tuple[str, str]) -> None:
        """The session was closed: nobody asks Opus in it any more."""
        self._hints.pop(whose, None)

    def taken(self, now_s: float) -> list[Hint]:
        """The hints to look at, oldest first, each once; of those older than a TTL nothing can come any more."""
        self._chances.close(now_s)
        hints = [hint for hint in self._hints.values() if now_s < hint.time_s + TTL_5M_S]
        self._hints.clear()
        return hints


def _kind(chance: float, foreseen: bool, application: str) -> Hashable:
    """What is counted together: chances of about a size, of one application."""
    return foreseen, band_of(chance), application
