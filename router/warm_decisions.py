"""Whether an order that pays is sent all the same, and what each decision came to: hold-out, regret and verdicts.

The rule: a decision is drawn once; whichever way it falls, it is judged by what comes (`cache.regret`), and told to
telemetry and ledger when it is settled. An owner whose warms lose is switched off, and nothing of its is decided. It
does not know why an order pays, nor how it is sent.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from cache.regret import Regret, Settled, Tried
from cache.rules import TTL_1H_S, TTL_5M_S
from cache.schedule import WarmOrder
from router.foresight import Foreseer
from router.warm_settings import WarmingSettings
from router.warm_verdict import verdict_of
from router.warm_worth import Worths
from router.warmer import Sent, WarmerParts, new_name

JITTER_S = {TTL_5M_S: 10.0, TTL_1H_S: 120.0}
"""Keep-alives go out up to this much earlier, so that what was used together is not pinged together."""
HELD_OUT = "held out at random, so that what the others bring can be told"
_SESSIONS = 20_000


class Decisions:
    """Decisions of one process, and chance."""

    def __init__(
        self,
        parts: WarmerParts,
        settings: WarmingSettings,
        worths: Worths,
        draw: Callable[[], float],
        foreseer: Foreseer,
    ) -> None:
        """Keep references; `draw` gives a number in [0, 1)."""
        self._parts = parts
        self._settings = settings
        self._worths = worths
        self._draw = draw
        self._foreseer = foreseer
        # Until when a session's warms are held out, by tenant and session.
        self._held_out: OrderedDict[tuple[str, str], float] = OrderedDict()
        self.regret = Regret(second_usd=settings.second_usd)

    def drawn(
        self,
        found: WarmOrder,
        owner: tuple[str, str],
        from_s: float,
        until_s: float,
        lost_tokens: int,
        *,
        foreseen: bool,
    ) -> tuple[str, str]:
        """Name of the decision, and why an order that pays is not sent all the same, "" when it is.

        Either way it is judged by what comes, but for an owner that is switched off.

        Args:
            foreseen: Whether it rests on what was foreseen.
        """
        now_s = self._parts.settler.clock.now()
        self.close(now_s)
        if not self.regret.allowed(owner, now_s):
            self._parts.telemetry.record_warm(found.trigger.value, "switched_off")
            return "", (
                "warms of this tenant and application cost more than they brought; they are tried again later"
            )
        held_out = self._draw() >= 1 - self._settings.hold_out
        worth, prefix = self._worths.at(now_s), found.prefix
        saved_units = (worth.rates.write(prefix.ttl_s) - worth.rates.read) * lost_tokens
        tried = Tried(
            owner=owner,
            trigger=found.trigger.value,
            held_out=held_out,
            from_s=from_s,
            until_s=until_s,
            tokens=prefix.tokens,
            private_tokens=lost_tokens,
            gain_usd=saved_units * worth.token_usd,
            gain_s=worth.kappa_s * lost_tokens,
            name=new_name(),
            foresight=self._foreseer.digest if foreseen else "",
        )
        self.tell(self.regret.tried(prefix.key, tried, now_s))
        return tried.name, HELD_OUT if held_out else ""

    def hold_out(self, whose: tuple[str, str], until_s: float) -> None:
        """Leave a session cold until then: drawn again it would be warmed after all, having lost nothing."""
        self._held_out.pop(whose, None)
        self._held_out[whose] = until_s
        if len(self._held_out) > _SESSIONS:
            self._held_out.popitem(last=False)

    def is_held_out(self, whose: tuple[str, str], now_s: float) -> bool:
        """Whether a session is left cold."""
        return now_s < self._held_out.get(whose, now_s)

    def book(self, key: bytes, sent: Sent) -> None:
        """Note what an order cost; one that was not sent is not judged."""
        if sent.settlement is None or sent.settlement.cost is None:
            self.regret.forget(key)
        else:
            self.regret.spent(key, sent.settlement.cost.total_nano_usd / 1e9)

    def used(self, digests: Sequence[bytes], read_tokens: int, started_s: float) -> None:
        """A user's request with these prefixes started then and read so many tokens of them."""
        if self.regret.open_count:
            self.tell(self.regret.used(digests, read_tokens, started_s))

    def close(self, now_s: float) -> None:
        """Settle what nobody came for in time."""
        self.tell(self.regret.close(now_s))

    def tell(self, settled: Sequence[Settled]) -> None:
        """Tell telemetry and ledger what decisions came to."""
        for each in settled:
            self._parts.telemetry.record_warm_verdict(each)
            self._parts.settler.ledger.warm(verdict_of(each, self._settings.policy.value))

    def standing(self) -> tuple[int, int]:
        """Settle what has ended; (decisions still open, tenants and applications switched off)."""
        now_s = self._parts.settler.clock.now()
        self.close(now_s)
        return self.regret.open_count, self.regret.switched_off(now_s)

    def jitter_s(self, ttl_s: int) -> float:
        """How much earlier a keep-alive of this TTL goes out, seconds."""
        return self._draw() * JITTER_S.get(ttl_s, 0.0)
