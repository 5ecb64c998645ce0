"""A table of turns in, an unproved foresight out: penalised logistic regression by Newton's method.

The rule: each group of windows has weights of its own, pulled to zero, and a base for each window, pulled weakly to a
rate below any keep-alive's break-even; so what was never seen is not expected. The chance of Opus is fitted on the
turns that were followed, likewise. Equal tables give equal weights: there is no randomness. NumPy alone, seconds for a
hundred thousand turns.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from classifier.array_file import Array
from classifier.foresight.columns import COLUMNS
from classifier.foresight.table import Table
from classifier.foresight.windows import COUNT, GROUP_COUNT, GROUPS

RIDGE: Final = 10.0
"""Pull of weights to zero, in units of half a squared weight. 3 to 30 differ by less than .002 in log-loss on the
recorded traces."""
BASE_PULL: Final = 1.0
BASE_PRIOR: Final = -3.476
"""Log odds of .03, the prior of `cache.returns`."""
TOLERANCE: Final = 1e-6
"""Twice the loss, in nats over all rows, that a further step could still take off."""
BEND_PULL: Final = 20.0
"""How strongly slope and shift are held at 1 and 0, in rows, as in `classifier.retraining`."""


def fitted(table: Table) -> dict[str, Array]:
    """Arrays of a foresight (`artifact.ARRAYS`) fitted on all rows of a table."""
    weights, bases = np.zeros((GROUP_COUNT, len(COLUMNS))), np.full(COUNT, BASE_PRIOR)
    for group in range(GROUP_COUNT):
        windows = [window for window in range(COUNT) if GROUPS[window] == group]
        at_risk = np.column_stack([table.at_risk(window) for window in windows])
        rows = np.flatnonzero(at_risk.any(axis=1))
        came = np.column_stack([table.came(window) for window in windows])
        weights[group], bases[windows] = _fit(
            table.positions[rows],
            at_risk[rows].astype(np.float64),
            (came & at_risk)[rows].astype(np.float64),
            BASE_PRIOR,
        )
    returned = table.windows_of_return()
    rows = np.flatnonzero(returned < COUNT)
    groups = np.asarray([*GROUPS, 0])[returned[rows]]
    chosen = (groups[:, None] == np.arange(GROUP_COUNT)[None, :]).astype(np.float64)
    to_opus = chosen * table.next_opus[rows, None]
    route_weights, route_bases = _fit(table.positions[rows], chosen, to_opus, 0.0)
    return {
        "window_weights": weights.ravel(),
        "window_bases": bases,
        "route_weights": route_weights,
        "route_bases": route_bases,
    }


def bent(arrays: dict[str, Array], table: Table) -> dict[str, Array]:
    """The same with slope and shift of each group, and of the route, fitted to newer turns under a pull to 1 and 0."""
    weights = arrays["window_weights"].reshape(GROUP_COUNT, len(COLUMNS)).copy()
    bases = arrays["window_bases"].copy()
    for group in range(GROUP_COUNT):
        windows = [window for window in range(COUNT) if GROUPS[window] == group]
        sums = weights[group][table.positions].sum(axis=1)
        seen = [(table.at_risk(window), window) for window in windows]
        x = np.concatenate([bases[window] + sums[at_risk] for at_risk, window in seen])
        y = np.concatenate([table.came(window)[at_risk] for at_risk, window in seen]).astype(np.float64)
        slope, shift = bend(x, y)
        weights[group] *= slope
        bases[windows] = slope * bases[windows] + shift
    returned = table.windows_of_return()
    rows = np.flatnonzero(returned < COUNT)
    groups = np.asarray([*GROUPS, 0])[returned[rows]]
    x = arrays["route_bases"][groups] + arrays["route_weights"][table.positions[rows]].sum(axis=1)
    slope, shift = bend(x, table.next_opus[rows].astype(np.float64))
    return {
        "window_weights": weights.ravel(),
        "window_bases": bases,
        "route_weights": slope * arrays["route_weights"],
        "route_bases": slope * arrays["route_bases"] + shift,
    }


def bend(x: Array, y: Array) -> tuple[float, float]:
    """(a, b) of the most likely sigmoid(a x + b) under a pull to (1, 0); a stays above 0."""
    found, start = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    design = np.column_stack([x, np.ones(len(x))])
    for _ in range(50):
        chance = sigmoid(design @ found)
        gradient = design.T @ (chance - y) + BEND_PULL * (found - start)
        curvature = (design * (chance * (1.0 - chance))[:, None]).T @ design + BEND_PULL * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found = found - step * min(1.0, 1.0 / float(np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    return max(0.05, float(found[0])), float(found[1])


def sigmoid(values: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))


def _fit(
    positions: npt.NDArray[np.int32], counted: Array, came: Array, base_prior: float
) -> tuple[Array, Array]:
    """Weights of all columns and one base per kind; what is on in no row weighs nothing, and costs no time."""
    used = np.unique(positions)
    design = np.zeros((len(positions), len(used)))
    design[np.arange(len(positions))[:, None], np.searchsorted(used, positions)] = 1.0
    weights = np.zeros(len(COLUMNS))
    weights[used], bases = _solve(design, counted, came, base_prior)
    return weights, bases


def _solve(design: Array, counted: Array, came: Array, base_prior: float) -> tuple[Array, Array]:
    """Weights of the columns and one base per kind of observation.

    Args:
        design: Shape (n, columns).
        counted: 1.0 where row i was observed in kind k, shape (n, kinds).
        came: 1.0 where it came true as well.
    """
    columns, kinds = design.shape[1], counted.shape[1]
    found = np.zeros(columns + kinds)
    found[columns:] = base_prior
    start = found.copy()
    pull = np.concatenate([np.full(columns, RIDGE), np.full(kinds, BASE_PULL)])
    loss = _loss(design, counted, came, found, pull, start)
    for _ in range(60):
        chance = sigmoid((design @ found[:columns])[:, None] + found[None, columns:])
        error = counted * chance - came
        spread = counted * chance * (1.0 - chance)
        gradient = np.concatenate([design.T @ error.sum(axis=1), error.sum(axis=0)]) + pull * (found - start)
        curvature = np.diag(pull)
        curvature[:columns, :columns] += (design * spread.sum(axis=1)[:, None]).T @ design
        across = design.T @ spread
        curvature[:columns, columns:] += across
        curvature[columns:, :columns] += across.T
        curvature[columns:, columns:] += np.diag(spread.sum(axis=0))
        step = np.linalg.solve(curvature, gradient)
        if float(gradient @ step) < TOLERANCE:
            break
        found, loss = _descended(design, counted, came, pull, start, found, step, loss)
    return found[:columns], found[columns:]


def _descended(
    design: Array,
    counted: Array,
    came: Array,
    pull: Array,
    start: Array,
    found: Array,
    step: Array,
    loss: float,
) -> tuple[Array, float]:
    """The end of a step that is halved until it does not raise the loss, and the loss there."""
    share = 1.0
    while share > 1e-6:
        there = found - share * step
        there_loss = _loss(design, counted, came, there, pull, start)
        if there_loss <= loss:
            return there, there_loss
        share /= 2.0
    return found, loss


def _loss(design: Array, counted: Array, came: Array, at: Array, pull: Array, start: Array) -> float:
    columns = design.shape[1]
    values = (design @ at[:columns])[:, None] + at[None, columns:]
    losses = np.logaddexp(0.0, values) * counted - values * came
    return float(losses.sum() + 0.5 * (pull * (at - start) ** 2).sum())
