"""How much may be spent on warms: dollars an hour and requests a minute.

The rule: token buckets that fill with time, each holding at most what an interval grants, so a quiet day does not buy
a burst later. A warm is admitted if every bucket has room for what it is expected to cost, and charged what it cost in
truth once that is known. Time is passed in.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """So much per interval; may be overdrawn by what could not be foreseen.

    Attributes:
        per_interval: What an interval grants, and the most it holds; >= 0.
        interval_s: Seconds of an interval, > 0.
    """

    per_interval: float
    interval_s: float
    level: float = 0.0
    at_s: float | None = None

    def left(self, now_s: float) -> float:
        """What may be spent at `now_s`; negative when overdrawn."""
        if self.at_s is None:
            self.level = self.per_interval
        else:
            grown = self.per_interval * max(0.0, now_s - self.at_s) / self.interval_s
            self.level = min(self.per_interval, self.level + grown)
        self.at_s = now_s
        return self.level

    def spend(self, amount: float, now_s: float) -> None:
        """Take `amount`; give back with a negative one."""
        self.level = min(self.per_interval, self.left(now_s) - amount)


class Pace:
    """Dollars an hour and requests a minute of all warms."""

    def __init__(self, *, usd_per_hour: float, requests_per_minute: float) -> None:
        """Start with full buckets; 0 admits nothing."""
        self._usd = Bucket(usd_per_hour, 3600.0)
        self._requests = Bucket(requests_per_minute, 60.0)

    def refusal(self, cost_usd: float, now_s: float) -> str:
        """Why a warm of this expected cost may not be sent now, "" when it may. Changes nothing but the clock."""
        if self._requests.left(now_s) < 1:
            return f"{self._requests.per_interval:g} warms a minute are sent already"
        if self._usd.left(now_s) < cost_usd:
            return f"the budget of ${self._usd.per_interval:g} an hour is spent"
        return ""

    def charge(self, cost_usd: float, now_s: float) -> None:
        """One warm is sent, at its expected cost."""
        self._requests.spend(1, now_s)
        self._usd.spend(cost_usd, now_s)

    def restore(self, usd: float, requests: int, now_s: float) -> None:
        """An earlier process spent so much in the last hour, and sent so many in the last minute."""
        self._usd.spend(usd, now_s)
        self._requests.spend(requests, now_s)

    def correct(self, off_usd: float, now_s: float) -> None:
        """A warm cost so much more than expected; less when negative."""
        self._usd.spend(off_usd, now_s)
