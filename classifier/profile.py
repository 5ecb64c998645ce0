"""How traffic spreads over the hours of a day, learnt from counts; uniform until something was seen.

The rule: requests per hour of the day over the time that hour was watched, both fading by half in three days, on a
uniform prior of half an hour. An hour nobody watched counts as the mean of those that were. Days are UTC. Weekdays are
not told apart: what a budget needs is the shape of the rest of today, and today's own level corrects the rest. Pure;
time is passed in.
"""

from __future__ import annotations

from typing import NamedTuple

HOURS = 24
DAY_S = 86_400
HOUR_S = 3_600
_KEPT_PER_DAY = 0.5 ** (1 / 3)
_PRIOR_S = 1_800.0


class Profile(NamedTuple):
    """Traffic seen, by hour of the day (UTC).

    Attributes:
        counts: Requests of each hour, faded.
        watched_s: Seconds each hour was watched, faded alike.
    """

    counts: tuple[float, ...] = (0.0,) * HOURS
    watched_s: tuple[float, ...] = (0.0,) * HOURS

    def seen(self, start_s: float, end_s: float, count: float) -> Profile:
        """The profile after `count` requests between two instants less than a day apart, spread evenly."""
        counts, watched = list(self.counts), list(self.watched_s)
        span = end_s - start_s
        for hour, part_s in _parts(start_s, end_s):
            counts[hour] += count * part_s / span
            watched[hour] += part_s
        return Profile(tuple(counts), tuple(watched))

    def next_day(self) -> Profile:
        """The profile a day later: what was seen counts less."""
        return Profile(
            tuple([count * _KEPT_PER_DAY for count in self.counts]),
            tuple([part * _KEPT_PER_DAY for part in self.watched_s]),
        )

    def rates(self) -> tuple[float, ...]:
        """Expected requests per second in each hour; all alike, 1, when nothing was seen."""
        total_s = sum(self.watched_s)
        mean = sum(self.counts) / total_s if total_s > 0 else 0.0
        if mean <= 0:
            return (1.0,) * HOURS
        return tuple(
            [
                (count + mean * _PRIOR_S) / (watched + _PRIOR_S)
                for count, watched in zip(self.counts, self.watched_s, strict=True)
            ]
        )


def expected(rates: tuple[float, ...], start_s: float, end_s: float) -> float:
    """Requests expected between two instants at most a day apart, by the rates of `Profile.rates`."""
    return sum([rates[hour] * part_s for hour, part_s in _parts(start_s, end_s)])


def _parts(start_s: float, end_s: float) -> list[tuple[int, float]]:
    """(hour of the day, seconds of it) between two instants."""
    parts = []
    while start_s < end_s:
        hour_end = (start_s // HOUR_S + 1) * HOUR_S
        stop = min(end_s, hour_end)
        parts.append((int(start_s // HOUR_S) % HOURS, stop - start_s))
        start_s = stop
    return parts
