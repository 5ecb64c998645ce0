"""What a policy would have brought had it decided, estimated from the log of one that did.

Only the chosen route's answer is seen, so the log of a policy without chance cannot say what the other route would have
done. With a known chance (the logged propensity) it can. For the policies pi1 (candidate) and pi0 (champion), both of
which decide without chance, and rows with action a, its propensity e and reward y:

    IPS     lift = mean[ 1{a=pi1} y/e - 1{a=pi0} y/e ]
    SNIPS   the same within the rows on which they differ, each sum divided by its own weights, times their share
    DR      lift = mean[ m(x,pi1) - m(x,pi0) + 1{a=pi1} (y - m(x,a))/e - 1{a=pi0} (y - m(x,a))/e ]
    DM      lift = mean[ m(x,pi1) - m(x,pi0) ]: biased by what the outcome model m gets wrong; never a basis to promote

Weights 1/e are clipped at `MAX_WEIGHT`. Rows on which both do the same add exactly 0. The outcome model is fitted on
other sessions than it predicts (cross-fitting), so a bad one costs width, not truth, down to a chance of
1/`MAX_WEIGHT`.

Intervals: sessions, not rows, are drawn again (bootstrap), because turns of one session are not independent. Rows on
which the policies differ and chance had no part (propensity 1) say nothing of the route not taken; the interval takes
that route's reward at its worst for the lower end and at its best for the upper one. So a log without exploration
gives an interval as wide as the disagreement, not a narrow one around a guess. The same holds of a direction of
disagreement (candidate on Opus, or on Flash) in which each policy's route was seen on fewer than `LEAST_SEEN` rows: a
bootstrap cannot draw what chance has not shown yet. `confidence_sequence` gives bounds that
hold at every moment of looking, for those who judge the same candidate daily.

What is assumed: the propensities are true; whether an outcome was reported depends on the route and not, given the
route, on the outcome; sessions are independent of each other. It does not know where rewards come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np
import numpy.typing as npt

from classifier.array_file import Array

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

MAX_WEIGHT: Final = 1_000.0
"""Weights are clipped here. An exploration share e gives weights of 2/e, so shares from .002 on are never clipped: a
clipped weight takes part of the correction away and leaves the outcome model's error in its place, unseen by the
interval (clipped at 50, a share of .01 covered a true lift of -15 points in a fifth of 80 simulated logs)."""

LEAST_SEEN: Final = 5
"""Rows on which each policy's own route must have been seen, by direction of disagreement, for its interval to be drawn
from them."""

DRAWS: Final = 1_000
"""Bootstrap draws; the ends of a 95 % interval then vary by about a hundredth of its width."""

_DRAWS_AT_ONCE: Final = 4_000_000
"""Numbers a chunk of bootstrap draws may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What was done and what it brought; every array of shape (n,), n >= 1, rows in order of time.

    Attributes:
        opus: Whether Opus was taken.
        propensity: Chance in (0, 1] of what was done, given that a reward was seen (`observed_propensity`).
        reward: What it brought.
        session: Number of the row's session, 0 .. sessions - 1.
        bounds: Least and greatest reward there can be; None when there is no knowing, e.g. of costs.
    """

    opus: Bools
    propensity: Array
    reward: Array
    session: Ints
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __len__(self) -> int:
        return len(self.opus)

    @property
    def weights(self) -> Array:
        """1 / propensity, clipped."""
        return np.minimum(1.0 / self.propensity, MAX_WEIGHT)

    def part(self, rows: Bools) -> Trials:
        """Only some rows; sessions are numbered anew."""
        return Trials(
            opus=self.opus[rows],
            propensity=self.propensity[rows],
            reward=self.reward[rows],
            session=np.unique(self.session[rows], return_inverse=True)[1].astype(np.int64),
            bounds=self.bounds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval (or of another level, where one was asked for)."""

    value: float
    low: float
    high: float

    @property
    def standard_error(self) -> float:
        """Half the interval over 1.96: what a normal interval of that width would have."""
        return (self.high - self.low) / (2 * 1.959964)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """Reward per request of the candidate less that of the champion.

    Attributes:
        ips, snips, dr: As in the module's formulas; `dr` is what a gate goes by.
        dm: The outcome model alone, without an interval: biased.
        always_valid: Bounds of DR that hold whenever one looks (level as the interval's, per session); None without
            bounds of the reward.
        rows, sessions: What it rests on.
        differ_share: Share of rows on which the policies differ.
        supported_rows: Rows among these whose route was left to chance, often enough to be seen.
        unsupported_share: Share of all rows that differ and were not.
    """

    ips: Estimate
    snips: Estimate
    dr: Estimate
    dm: float
    always_valid: tuple[float, float] | None
    rows: int
    sessions: int
    differ_share: float
    supported_rows: int
    unsupported_share: float


def observed_propensity(propensity: Array, opus: Bools, seen: tuple[float, float]) -> Array:
    """Chance of what was done among rows whose reward is seen.

    Where users judge Flash's answers twice as often as Opus's, Flash is over-represented among judged rows; by Bayes
    the chance of a taken there is e(a) seen(a) / (e(a) seen(a) + e(b) seen(b)).

    Args:
        propensity: Logged chance of what was done, in (0, 1].
        opus: What was done.
        seen: Share of requests with a reward after (Flash, Opus), in [0, 1]; of a route never seen, 0.
    """
    own = np.where(opus, seen[1], seen[0]) * propensity
    other = np.where(opus, seen[0], seen[1]) * (1.0 - propensity)
    return np.asarray(own / (own + other))


def outcome_model(columns: Array, trials: Trials, *, folds: int = 5, penalty: float = 1.0) -> Array:
    """Expected reward of both routes for each row, from a ridge regression per route fitted on other sessions.

    A row's own session is never among those its prediction was fitted on. A route never taken in a fold's training
    rows is predicted by the mean of all rewards there.

    Args:
        columns: ndarray of shape (n, d), what is known when deciding; scaled to about unit size.
        folds: Parts the sessions are cut into, >= 2.
        penalty: Of the squared coefficients but the intercept, > 0.

    Returns:
        ndarray of shape (n, 2): Flash, Opus; within the rewards' bounds.
    """
    count = len(trials)
    design = np.column_stack([np.ones(count), columns])
    ridge = np.diag([1e-9, *[penalty] * columns.shape[1]])
    fold = trials.session % folds
    predicted = np.empty((count, 2))
    for part in range(folds):
        held, kept = fold == part, fold != part
        if not held.any():
            continue
        base = float(trials.reward[kept].mean()) if kept.any() else float(trials.reward.mean())
        for route in (0, 1):
            rows = kept & (trials.opus == bool(route))
            mine = design[rows]
            coefficients = np.linalg.solve(mine.T @ mine + ridge, mine.T @ (trials.reward[rows] - base))
            predicted[held, route] = base + design[held] @ coefficients
    return predicted if trials.bounds is None else np.clip(predicted, *trials.bounds)


def lift(
    trials: Trials,
    candidate: Bools,
    champion: Bools,
    predicted: Array,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Lift:
    """Estimate how much more reward per request the candidate brings than the champion.

    Args:
        candidate, champion: ndarrays of shape (n,): whether each would take Opus.
        predicted: ndarray of shape (n, 2) of `outcome_model`.
        seed: Of the bootstrap.
        draws: Of the bootstrap, >= 100.
        level: Of the intervals, in (0, 1).
    """
    differ = candidate != champion
    weights, did = trials.weights, (trials.opus == candidate)
    sign = np.where(differ, np.where(did, 1.0, -1.0), 0.0)
    ips = sign * weights * trials.reward
    expected = predicted[np.arange(len(trials)), trials.opus.astype(np.int64)]
    guess = differ * (_of(predicted, candidate) - _of(predicted, champion))
    dr = guess + sign * weights * (trials.reward - expected)
    unsupported = _unsupported(trials, candidate, differ, did)
    worst, best = _extremes(trials, dr, did, unsupported)
    ones, twos = differ & did, differ & ~did
    sums = _sums(
        trials.session,
        np.ones(len(trials)),
        ips,
        dr,
        worst,
        best,
        differ.astype(np.float64),
        ones * weights * trials.reward,
        ones * weights,
        twos * weights * trials.reward,
        twos * weights,
    )
    tail = (1.0 - level) / 2.0
    drawn = _drawn(sums, seed, draws)
    lows, highs = (
        np.quantile(drawn[:, 3] / drawn[:, 0], tail),
        np.quantile(drawn[:, 4] / drawn[:, 0], 1 - tail),
    )
    total = sums.sum(axis=0)
    return Lift(
        ips=_interval(total[1] / total[0], drawn[:, 1] / drawn[:, 0], tail),
        snips=_interval(float(_snips(total[None])[0]), _snips(drawn), tail),
        dr=Estimate(value=float(total[2] / total[0]), low=float(lows), high=float(highs)),
        dm=float(guess.mean()),
        always_valid=_always_valid(trials, worst, best, 1.0 - level),
        rows=len(trials),
        sessions=len(sums),
        differ_share=float(differ.mean()),
        supported_rows=int((differ & ~unsupported).sum()),
        unsupported_share=float(unsupported.mean()),
    )


def value(trials: Trials, policy: Bools, predicted: Array, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Doubly robust estimate of the reward per request under one policy, with its 95 % interval.

    Where the policy differs from what was done without chance, the outcome model alone speaks: use it for curves, not
    to promote.
    """
    did = trials.opus == policy
    own = _of(predicted, policy)
    rewards = own + did * trials.weights * (trials.reward - own)
    sums = _sums(trials.session, np.ones(len(trials)), rewards)
    drawn = _drawn(sums, seed, draws)
    return _interval(float(rewards.mean()), drawn[:, 1] / drawn[:, 0], 0.025)


def confidence_sequence(
    values: Array, low: float, high: float, miss_chance: float = 0.05
) -> tuple[Array, Array]:
    """Bounds of the mean that hold at every t at once with chance 1 - miss_chance (empirical Bernstein).

    The predictable plug-in sequence of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
    betting" (2023), theorem 2. It pays for being looked at daily with width: twice a normal interval's at a thousand
    values of unit range. The range enters too: with weights of 20, sessions are needed by the ten thousand.

    Args:
        values: ndarray of shape (n,), independent, in order of time.
        low, high: Least and greatest value there can be, low < high.
        miss_chance: In (0, 1), both sides together.

    Returns:
        Lower and upper bounds after 1, ..., n values; they only ever come closer.
    """
    scaled = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    number = np.arange(1, len(scaled) + 1)
    means = (0.5 + np.cumsum(scaled)) / (number + 1)
    before = np.concatenate([[0.5], means[:-1]])
    variances = (0.25 + np.cumsum((scaled - means) ** 2)) / (number + 1)
    variance_before = np.concatenate([[0.25], variances[:-1]])
    bet = np.minimum(
        np.sqrt(2.0 * log(2.0 / miss_chance) / (variance_before * number * np.log(number + 1.0))), 0.5
    )
    spread = np.cumsum(4.0 * (scaled - before) ** 2 * (-np.log1p(-bet) - bet) / 4.0)
    bets = np.cumsum(bet)
    centre, width = np.cumsum(bet * scaled) / bets, (log(2.0 / miss_chance) + spread) / bets
    lower = np.maximum.accumulate(np.clip(centre - width, 0.0, 1.0))
    upper = np.minimum.accumulate(np.clip(centre + width, 0.0, 1.0))
    return low + lower * (high - low), low + upper * (high - low)


def _of(predicted: Array, opus: Bools) -> Array:
    """The prediction for the route a policy takes."""
    return np.where(opus, predicted[:, 1], predicted[:, 0])


def _unsupported(trials: Trials, candidate: Bools, differ: Bools, did: Bools) -> Bools:
    """Rows of disagreement of which the log says nothing: no chance had a part, or too little was seen of it."""
    found = differ & (trials.propensity >= 1.0)
    for direction in (candidate, ~candidate):
        left = differ & direction & ~found
        if min(int((left & did).sum()), int((left & ~did).sum())) < LEAST_SEEN:
            found |= left
    return np.asarray(found)


def _extremes(trials: Trials, dr: Array, did: Bools, unsupported: Bools) -> tuple[Array, Array]:
    """`dr` with the unknown route of unsupported rows at its worst and at its best for the candidate."""
    if trials.bounds is None:
        return dr, dr
    least, most = trials.bounds
    worst = np.where(did, trials.reward - most, least - trials.reward)
    best = np.where(did, trials.reward - least, most - trials.reward)
    return np.where(unsupported, worst, dr), np.where(unsupported, best, dr)


def _always_valid(
    trials: Trials, worst: Array, best: Array, miss_chance: float
) -> tuple[float, float] | None:
    """The confidence sequence's last bounds over sessions' means."""
    if trials.bounds is None:
        return None
    reach = (trials.bounds[1] - trials.bounds[0]) * (1.0 + float(trials.weights.max()))
    sizes = np.bincount(trials.session)
    lower, _ = confidence_sequence(np.bincount(trials.session, worst) / sizes, -reach, reach, miss_chance)
    _, upper = confidence_sequence(np.bincount(trials.session, best) / sizes, -reach, reach, miss_chance)
    return float(lower[-1]), float(upper[-1])


def _sums(session: Ints, *columns: Array) -> Array:
    """Sums by session, ndarray of shape (sessions, columns)."""
    return np.column_stack([np.bincount(session, column) for column in columns])


def _drawn(sums: Array, seed: int, draws: int) -> Array:
    """Sums over sessions drawn again, ndarray of shape (draws, columns)."""
    return np.concatenate(list(_draw_chunks(sums, seed, draws)))


def _draw_chunks(sums: Array, seed: int, draws: int) -> Iterator[Array]:
    generator = np.random.default_rng(seed)
    count = len(sums)
    chunk = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, draws, chunk):
        taken = generator.integers(0, count, (min(chunk, draws - start), count))
        offsets = np.arange(len(taken))[:, None] * count
        times = np.bincount((taken + offsets).ravel(), minlength=len(taken) * count)
        yield times.reshape(len(taken), count) @ sums


def _snips(sums: Array) -> Array:
    """SNIPS lift of rows of sums, whose columns are those `lift` makes."""
    rows, differ = sums[:, 0], sums[:, 5]
    with np.errstate(invalid="ignore", divide="ignore"):
        ones = np.where(sums[:, 7] > 0.0, sums[:, 6] / sums[:, 7], np.nan)
        twos = np.where(sums[:, 9] > 0.0, sums[:, 8] / sums[:, 9], np.nan)
    # One arm unseen: there is nothing to compare. No disagreement: nothing to gain.
    return np.where(differ == 0.0, 0.0, np.nan_to_num(ones - twos) * differ / rows)


def _interval(value: float, drawn: Array, tail: float) -> Estimate:
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Estimate(value=float(value), low=float(low), high=float(high))
