"""What the operator's budget, share and quality floor say of the next request, and what each call teaches them.

The rule: asking changes nothing, so `Explain` may ask. A request is counted when its first attempt goes out. Every
attempt is held at the expected cost of its route while it is in progress, retries, fallbacks and escalations too; when
it is settled, its cost takes the place of that. A call of unknown cost counts
as what was expected of it, or its bound where nothing was; a refused one as nothing. After a restart today's spend is
what the ledger has, its unknown calls at their bounds.

Each limit holds a price per needed answer (`classifier.budget`, `classifier.quota`). A floor raises the configured
value, money and share only lower it: no answer is bought for more than it is worth, and the budget has the last word.
"""

from collections.abc import Iterable
from typing import NamedTuple

from classifier import budget as budgets
from classifier import quota as quotas
from classifier.budget import START_VALUE_NANO_USD, BudgetState
from classifier.decision import Budget, Decision, RouteCosts
from classifier.profile import DAY_S, HOUR_S, Profile
from classifier.quota import Held, QuotaState
from classifier.route import Route
from router.settlement import Outcome, Settlement


class Limits(NamedTuple):
    """What the operator sets; None for no such limit.

    Attributes:
        answer_value_nano_usd: What one needed Opus answer is worth, > 0.
        day_nano_usd: Spend of a day, > 0.
        opus_share: Opus's share of the requests, in (0, 1].
        quality_floor: Estimated share of answers that do, in [0, 1).
    """

    answer_value_nano_usd: int | None = None
    day_nano_usd: int | None = None
    opus_share: float | None = None
    quality_floor: float | None = None

    @property
    def any_held(self) -> bool:
        """Whether anything is held over many requests."""
        return any(limit is not None for limit in self[1:])


class Spending:
    """The limits of one process. Not thread-safe; time is passed in."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        """Begin as if nothing had been spent; `prime` tells otherwise."""
        self._worth = limits.answer_value_nano_usd
        start = self._worth or START_VALUE_NANO_USD
        self._start = start
        self._day: BudgetState | None = None
        if limits.day_nano_usd is not None:
            self._day = budgets.begin(limits.day_nano_usd, now_s, value_nano_usd=start)
        self._share: QuotaState | None = None
        if limits.opus_share is not None:
            self._share = quotas.begin(Held.OPUS_SHARE, limits.opus_share, start)
        self._floor: QuotaState | None = None
        if limits.quality_floor is not None:
            self._floor = quotas.begin(Held.QUALITY_FLOOR, limits.quality_floor, start)

    @property
    def day(self) -> BudgetState | None:
        """The day's money as it stands; None without such a limit."""
        return self._day

    def amounts_nano_usd(self, now_s: float) -> dict[str, int]:
        """Today's money by part, for people who watch it; empty without such a limit. Changes nothing."""
        if self._day is None:
            return {}
        day = budgets.advanced(self._day, now_s)
        return {
            "limit": day.limit_nano_usd,
            "spent": day.spent_nano_usd,
            "in_progress": day.open_nano_usd,
            "reserve": round(day.reserve_nano_usd(now_s)),
        }

    def values_nano_usd(self) -> dict[str, int]:
        """What a needed Opus answer may cost by each limit."""
        held = {"day": self._day, "opus_share": self._share, "quality_floor": self._floor}
        return {name: state.value_nano_usd for name, state in held.items() if state is not None}

    def prime(self, now_s: float, spent_nano_usd: int, hours: Iterable[tuple[float, int]] = ()) -> None:
        """Take over what the ledger knows; no-op without a limit of money.

        Args:
            spent_nano_usd: Spent since midnight UTC.
            hours: (start in seconds since the epoch, calls) of the hours that had any, ascending, of some days.
        """
        if self._day is None:
            return
        self._day = budgets.begin(
            self._day.limit_nano_usd,
            now_s,
            spent_nano_usd=spent_nano_usd,
            value_nano_usd=self._start,
            profile=_profile(hours, now_s),
        )

    def budget(self, costs: RouteCosts, now_s: float) -> Budget:
        """What the limits say of a request of these expected costs."""
        value = self._worth
        if self._floor is not None:
            raised = self._floor.value_nano_usd
            value = raised if value is None else max(value, raised)
        if self._share is not None:
            value = _least(value, self._share.value_nano_usd)
        if self._day is not None:
            self._day = budgets.advanced(self._day, now_s)
            value = _least(value, self._day.value_nano_usd)
        return Budget(value, self.fits(costs.opus_nano_usd, now_s))

    def fits(self, opus_nano_usd: int | None, now_s: float) -> bool:
        """Whether the day's money holds one more call of this expected cost on Opus; an unknown one it does not."""
        if self._day is None:
            return True
        return opus_nano_usd is not None and budgets.advanced(self._day, now_s).fits(opus_nano_usd, now_s)

    def sent_again(self, expected_nano_usd: int | None) -> int:
        """Hold what another attempt at a counted request is expected to cost; gives what was set aside, nano-USD."""
        if self._day is None:
            return 0
        reserved = expected_nano_usd or 0
        self._day = budgets.held(self._day, expected_nano_usd=reserved)
        return reserved

    def sent(self, decision: Decision, expected_nano_usd: int | None, flash_nano_usd: int | None) -> int:
        """Count a request whose first attempt goes out; gives what was set aside for it, nano-USD.

        Args:
            expected_nano_usd: On the route it takes; None when unknown.
        """
        took_opus, free = decision.route is Route.OPUS, decision.by_score and not decision.explored
        score = None if decision.score is None else decision.score.value
        if self._share is not None:
            self._share = quotas.decided(self._share, score=score, took_opus=took_opus, free=free)
        if self._floor is not None:
            self._floor = quotas.decided(self._floor, score=score, took_opus=took_opus, free=free)
        if self._day is None:
            return 0
        reserved = expected_nano_usd or 0
        self._day = budgets.decided(
            self._day,
            expected_nano_usd=reserved,
            flash_nano_usd=flash_nano_usd,
            took_opus=took_opus,
            free=free,
        )
        return reserved

    def settled(self, settlement: Settlement, reserved_nano_usd: int) -> None:
        """Book a call's cost in the place of what was set aside for it.

        Args:
            reserved_nano_usd: As `sent` or `sent_again` gave it; 0 for a call of our own.
        """
        if self._day is None:
            return
        if settlement.cost is not None:
            cost = settlement.cost.total_nano_usd
        elif settlement.outcome is Outcome.REFUSED:
            cost = 0
        else:
            cost = reserved_nano_usd or settlement.intent.cost_bound_nano_usd or 0
        self._day = budgets.settled(
            budgets.advanced(self._day, settlement.settled_time_s),
            reserved_nano_usd=reserved_nano_usd,
            cost_nano_usd=cost,
        )


def _least(value: int | None, other: int) -> int:
    return other if value is None else min(value, other)


def _profile(hours: Iterable[tuple[float, int]], now_s: float) -> Profile:
    """The profile of the hours in the ledger; hours between them had no calls."""
    profile, at_s = Profile(), None
    for start_s, count in hours:
        end_s = min(start_s + HOUR_S, now_s)
        if end_s <= start_s:
            break
        while at_s is not None and at_s < start_s:
            profile, at_s = _day_passes(profile, at_s, 0)
        profile, at_s = _day_passes(profile, start_s, count, end_s)
    return profile


def _day_passes(
    profile: Profile, start_s: float, count: int, end_s: float | None = None
) -> tuple[Profile, float]:
    """One hour more, and the night's fading where it ends a day."""
    end_s = start_s + HOUR_S if end_s is None else end_s
    profile = profile.seen(start_s, end_s, count)
    return (profile.next_day() if end_s % DAY_S == 0 else profile), end_s
