"""Keeps count of how each classifier's decisions turned out, to tell when a new one does worse than the one before.

The rule: a trial is a request whose route the score decided (not a forced one, a follow-up, a drawn one, ...). It is
bad when Flash was taken and what followed says that was wrong: somebody judged it bad or that Opus was needed (a score
below a half, where no verdict came), the answer was discarded and Opus asked instead, or Flash refused. One bad word is
enough; it may be taken back. The share of bad trials is taken twice: of those that anybody or anything judged, which is
right where a part of the requests is judged either way, and of all, which is right where only complaints come in. The
new model is worse if either share rose; each gets half of the chance to be wrong.

Of each of the last few models the last `TRIALS` requests are kept, by id, so that late feedback finds its request and
every one counts once. Feedback that is ahead of its request waits for it. A new model is on trial for its first
`TRIALS` decisions; then it is settled. This module decides nothing: it says how much worse the new one is at least
(`classifier.guard`).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from classifier.guard import ALPHA, Tally, worsening
from router.feedback import Feedback, Verdict

TRIALS = 10_000
"""Requests kept for each of two models, about 200 bytes each: a share of 5 % is then known within about a point."""
EARLY_LIMIT = 1_000
"""Requests whose feedback came first; those of other deciders never get here and are dropped by age."""
MODELS = 3

_BY_SCORE = frozenset({"score_above_threshold", "score_below_threshold", "budget"})
_FAILED = ""
"""Stands for what happened, among the names of who judged; no source is called so."""


def is_bad(feedback: Feedback) -> bool:
    """Whether a judgement of a Flash answer says that it would not do."""
    if feedback.verdict is None:
        return feedback.score is not None and feedback.score < 0.5
    return feedback.verdict in (Verdict.BAD, Verdict.OPUS_NEEDED)


class Tallies(NamedTuple):
    """Trials of one model, of which as many are bad in both.

    Attributes:
        all: Every decision.
        judged: Those that anybody or anything judged.
    """

    all: Tally
    judged: Tally


class _Trials:
    """The last requests of one model: whether Opus was taken, and who judged them bad or not."""

    __slots__ = ("bad", "judged", "requests")

    def __init__(self) -> None:
        self.requests: OrderedDict[str, tuple[bool, dict[str, bool] | None]] = OrderedDict()
        self.judged = 0
        self.bad = 0

    def add(self, request_id: str, opus: bool) -> None:
        if request_id in self.requests:
            return  # recalled from the ledger, and seen
        self.requests[request_id] = (opus, None)
        if len(self.requests) > TRIALS:
            _, (_, said) = self.requests.popitem(last=False)
            self._count(said, -1)

    def mark(self, request_id: str, source: str, bad: bool) -> None:
        """Note what one source says of a request; of one that Opus answered nothing is bad."""
        opus, said = self.requests[request_id]
        self._count(said, -1)
        if said is None:
            said = {}
            self.requests[request_id] = (opus, said)
        said[source] = bad and not opus
        self._count(said, 1)

    def _count(self, said: dict[str, bool] | None, times: int) -> None:
        if said is not None:
            self.judged += times
            self.bad += times * any(said.values())

    @property
    def tallies(self) -> Tallies:
        return Tallies(all=Tally(len(self.requests), self.bad), judged=Tally(self.judged, self.bad))


@dataclass(frozen=True, slots=True)
class Trial:
    """A model on trial against the one before.

    Attributes:
        worsening: Lower bound in [-1, 1] of how much larger its share of bad outcomes is, of all decisions or of the
            judged ones, whichever is more.
    """

    model: str
    before: str
    tallies: Tallies
    tallies_before: Tallies
    worsening: float


class Guard:
    """Counts outcomes by model; all methods take a microsecond but `trial`, which takes a few hundred."""

    def __init__(self) -> None:
        self._trials: OrderedDict[str, _Trials] = OrderedDict()
        self._early: OrderedDict[str, dict[str, bool]] = OrderedDict()
        self._on_trial = ("", "")

    def arm(self, model: str, before: str) -> None:
        """Put a model on trial against the one before, by their digests; what it did earlier does not count."""
        self._trials.pop(model, None)
        if before in self._trials:
            self._trials.move_to_end(before)
        self._on_trial = (model, before)

    def disarm(self) -> None:
        """End the trial; counting goes on."""
        self._on_trial = ("", "")

    def decided(self, model: str, request_id: str, *, reason: str, opus: bool, failed: bool) -> bool:
        """Note a request at the end of its first attempt.

        Args:
            reason: The rule that decided.
            failed: Whether Flash's answer was a refusal, or was discarded for Opus's.

        Returns:
            Whether the trial may have got a bad outcome.
        """
        if reason not in _BY_SCORE or not model:
            return False
        trials = self._trials.get(model)
        if trials is None:
            trials = self._trials[model] = _Trials()
            if len(self._trials) > MODELS:
                self._trials.popitem(last=False)
        trials.add(request_id, opus)
        if failed:
            trials.mark(request_id, _FAILED, True)
        for source, bad in self._early.pop(request_id, _NOTHING).items():
            trials.mark(request_id, source, bad)
            failed = failed or bad
        if model == self._on_trial[0] and len(trials.requests) >= TRIALS:
            self.disarm()
        return failed

    def judged(self, feedback: Feedback) -> None:
        """Note a judgement of a request, before or after its end."""
        request_id, bad = feedback.request_id, is_bad(feedback)
        for trials in self._trials.values():
            if request_id in trials.requests:
                trials.mark(request_id, feedback.source, bad)
                return
        self._early.setdefault(request_id, {})[feedback.source] = bad
        if len(self._early) > EARLY_LIMIT:
            self._early.popitem(last=False)

    def tallies(self, model: str) -> Tallies:
        """Trials of a model by its digest."""
        trials = self._trials.get(model)
        return Tallies(Tally(0, 0), Tally(0, 0)) if trials is None else trials.tallies

    def trial(self) -> Trial | None:
        """How the model on trial does, None when none is."""
        model, before = self._on_trial
        if not model:
            return None
        after, earlier = self.tallies(model), self.tallies(before)
        bounds = [worsening(old, new, ALPHA / 2) for old, new in zip(earlier, after, strict=True)]
        return Trial(model, before, after, earlier, max(bounds))


_NOTHING: dict[str, bool] = {}
