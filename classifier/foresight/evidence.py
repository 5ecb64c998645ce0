"""How good a foresight is, on sessions it has not seen, beside the base rate and beside what is learnt online.

The rule: everything is compared on the same turns (those on Opus: only they leave something warm), as the chance of a
return on Opus in each window of a keep-alive, given no request before; whole spans follow from these. Intervals are
drawn over sessions, because turns of one session are not independent evidence. It does not know how a rival's chances
came about: they are passed in, one row of hazards per turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from classifier.array_file import Array
from classifier.evaluation import auroc, calibration_error
from classifier.foresight.columns import COLUMNS
from classifier.foresight.fitting import sigmoid
from classifier.foresight.table import Bools, Table
from classifier.foresight.windows import COUNT, EDGES_S, GROUP_COUNT, GROUPS, WINDOW_S, WINDOWS

SPANS_S: Final = (300.0, 3600.0)
"""Spans figures are given for: the TTLs."""
DRAWS: Final = 1_000
_FLOOR: Final = 1e-6

_STARTS_S: Final = np.arange(WINDOWS) * WINDOW_S
_ENDS_S: Final = _STARTS_S + WINDOW_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Log-loss saved against a rival per window at risk, nats; 95 % bootstrap over sessions."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanFigures:
    """Of the chance of a return on Opus within a span; None where the turns cannot carry it."""

    span_s: float
    turns: int
    returned: int
    log_loss: float
    brier: float
    ece: float
    ece_by_chance: float
    auroc: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one source of chances.

    Attributes:
        first_loss: Log-loss in the first window, nats per turn; what is decided there is whether to write.
        later_loss: Log-loss in the later ones, nats per window at risk; what keep-alives are decided by.
    """

    first_loss: float
    later_loss: float
    spans: tuple[SpanFigures, ...]


def chances_matrix(arrays: Mapping[str, Array], table: Table, *, routes_known: bool) -> tuple[Array, Array]:
    """(hazards, chances of Opus) of every window for all rows at once; shape (n, `COUNT`) each."""
    weights = arrays["window_weights"].reshape(GROUP_COUNT, len(COLUMNS))
    sums = weights[:, table.positions].sum(axis=2).T
    hazards = sigmoid(arrays["window_bases"][None, :] + sums[:, list(GROUPS)])
    if not routes_known:
        return hazards, np.repeat(table.opus_shares[:, None], COUNT, axis=1)
    route = arrays["route_weights"][table.positions].sum(axis=1)
    return hazards, sigmoid(arrays["route_bases"][list(GROUPS)][None, :] + route[:, None])


def keep_alive_matrix(hazards: Array, shares: Array) -> Array:
    """Hazards of a return on Opus as keep-alives ask for them; shape (n, `WINDOWS`)."""
    opus = hazards * shares
    return np.column_stack([opus[:, 0] + (1.0 - hazards[:, 0]) * opus[:, 1], opus[:, 2:]])


def opus_within(hazards: Array, shares: Array, span_s: float) -> Array:
    """`windows.chance_within` for all rows at once, from the turn's start on; shape (n,)."""
    edges = np.asarray(EDGES_S)
    part = np.clip((span_s - edges[:-1]) / np.diff(edges), 0.0, 1.0)
    ended = 1.0 - (1.0 - hazards) ** part
    quiet = np.cumprod(np.column_stack([np.ones(len(hazards)), 1.0 - ended[:, :-1]]), axis=1)
    return np.asarray((quiet * ended * shares).sum(axis=1))


def at_risk_and_came(table: Table) -> tuple[Bools, Bools]:
    """(turn was still quiet and watched, its next came in the window and on Opus), shape (n, `WINDOWS`) each."""
    gaps, watched = table.gaps_s[:, None], table.watched_s[:, None]
    inside = (gaps >= _STARTS_S) & (gaps < _ENDS_S)
    at_risk = table.opus[:, None] & (gaps >= _STARTS_S) & (inside | (watched >= _ENDS_S))
    return at_risk, inside & at_risk & table.next_opus[:, None]


def base_rates(table: Table) -> Array:
    """The share of each window in a table, half a return added: what is known without looking at a session."""
    at_risk, came = at_risk_and_came(table)
    return np.asarray((came.sum(axis=0) + 0.5) / (at_risk.sum(axis=0) + 1.0))


def figures(
    hazards: Array, table: Table, *, seed: int, spans: Mapping[float, Array] | None = None
) -> Figures:
    """Judge chances on the turns of a table that were on Opus.

    Args:
        hazards: Shape (n, `WINDOWS`).
        seed: Of the calibration error by chance.
        spans: Chance of a return on Opus within each of `SPANS_S`, shape (n,), where it is known better than `within`
            makes it of the hazards.
    """
    at_risk, came = at_risk_and_came(table)
    asked = spans or {span_s: within(hazards, span_s) for span_s in SPANS_S}
    losses = _losses(hazards, came) * at_risk
    return Figures(
        first_loss=float(losses[:, 0].sum() / max(1, at_risk[:, 0].sum())),
        later_loss=float(losses[:, 1:].sum() / max(1, at_risk[:, 1:].sum())),
        spans=tuple(
            found
            for span_s, chances in asked.items()
            if (found := _span(chances, table, span_s, seed)) is not None
        ),
    )


def gain(hazards: Array, rival: Array, table: Table, *, seed: int, first: int = 1) -> Gain:
    """What `hazards` save against `rival` in windows from `first` on, with an interval over sessions."""
    at_risk, came = at_risk_and_came(table)
    saved = ((_losses(rival, came) - _losses(hazards, came)) * at_risk)[:, first:].sum(axis=1)
    counted = at_risk[:, first:].sum(axis=1).astype(np.float64)
    sessions = len(table.names)
    by_session = np.bincount(table.groups, saved, sessions), np.bincount(table.groups, counted, sessions)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, sessions, (DRAWS, sessions)) if sessions else np.zeros((1, 0), dtype=int)
    means = by_session[0][drawn].sum(axis=1) / np.maximum(1.0, by_session[1][drawn].sum(axis=1))
    low, high = np.percentile(means, [2.5, 97.5])
    return Gain(mean=float(saved.sum() / max(1.0, counted.sum())), low=float(low), high=float(high))


def within(hazards: Array, span_s: float) -> Array:
    """Chance of a return on Opus within `span_s`; hazards spread evenly in each window. Shape (n,)."""
    share = np.clip((span_s - _STARTS_S) / WINDOW_S, 0.0, 1.0)
    return np.asarray(1.0 - np.prod((1.0 - np.clip(hazards, 0.0, 1.0)) ** share, axis=1))


def _span(chances: Array, table: Table, span_s: float, seed: int) -> SpanFigures | None:
    # A request on Flash ends the wait: what is asked is whether the next one comes in time and on Opus.
    seen = table.opus & ((table.gaps_s < span_s) | (table.watched_s >= span_s))
    if not seen.any():
        return None
    chances = np.clip(chances[seen], _FLOOR, 1.0 - _FLOOR)
    came = ((table.gaps_s < span_s) & table.next_opus)[seen]
    generator = np.random.default_rng(seed)
    chance_errors = [calibration_error(chances, generator.random(len(chances)) < chances) for _ in range(20)]
    return SpanFigures(
        span_s=span_s,
        turns=int(seen.sum()),
        returned=int(came.sum()),
        log_loss=float(-np.mean(np.where(came, np.log(chances), np.log1p(-chances)))),
        brier=float(np.mean((chances - came) ** 2)),
        ece=calibration_error(chances, came),
        ece_by_chance=float(np.mean(chance_errors)),
        auroc=auroc(chances, came),
    )


def _losses(hazards: Array, came: Bools) -> Array:
    clipped = np.clip(hazards, _FLOOR, 1.0 - _FLOOR)
    return np.where(came, -np.log(clipped), -np.log1p(-clipped))


def rounded(value: Any) -> Any:
    """A JSON-ready form: numbers to six digits."""
    match value:
        case float():
            return round(value, 6)
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [rounded(item) for item in value]
        case _:
            return value
