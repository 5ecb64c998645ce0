"""Which training settings suit the outcomes: a small grid, judged by cross-validation over sessions.

The rule: what counts is the log loss on held-out outcomes of production, weighted as outcomes are; rows of other labels
help to fit and never judge. One task is one setting on one fold, pure and independent, so that joblib may run them in
this process, in several, or on a Dask cluster, with equal results everywhere. Linear algebra is held to one thread in
each task: the tasks are the parallelism, and threads of threads only get in each other's way.

It does not know where tasks run: whoever calls sets joblib's backend (`on_cluster`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final

import joblib
import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from classifier.dataset import Dataset, Labelled
from classifier.encoder import EncoderEntry
from classifier.training import TrainingError, TrainingSettings, fit

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what was done)."""

BASE: Final = TrainingSettings(folds=3, ngram_scale=3.0)
"""Words count for more than in the shipped recipe: a product's words come back; those of unseen benchmarks do not."""

GRID: Final = (
    BASE,
    replace(BASE, inverse_penalty=BASE.inverse_penalty / 3),
    replace(BASE, inverse_penalty=BASE.inverse_penalty * 3),
    replace(BASE, ngram_scale=BASE.ngram_scale / 2),
)
"""The default first: on equal losses it stays. Few, because each setting costs as many fits as there are folds."""


class NoCluster(ConnectionError):
    """The Dask cluster cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One setting and its mean log loss over held-out outcomes, by fold; infinite where it could not be fitted."""

    settings: TrainingSettings
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Mean over folds."""
        return float(np.mean(self.losses))


def search(
    outcomes: Sequence[Labelled],
    others: Sequence[Labelled],
    grid: Sequence[TrainingSettings],
    *,
    folds: int,
    seed: int,
    jobs: int = 1,
    progress: Progress | None = None,
    encoder: EncoderEntry | None = None,
) -> list[Tried]:
    """Try every setting on every fold; best first, the earlier of the grid on equal losses.

    Args:
        outcomes: Labelled rows of production, which judge; sessions are never split.
        others: Rows that are always fitted on.
        folds: >= 2.
        seed: Of folds and fits.
        jobs: Tasks at a time in this process's backend; a cluster decides for itself.
        encoder: As for `training.fit`.

    Raises:
        TrainingError: No setting could be fitted.
    """
    labels = [row.label for row in outcomes]
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    parts = list(splitter.split(np.zeros(len(labels)), labels, groups=[row.group for row in outcomes]))
    tasks = [(number, fold) for number in range(len(grid)) for fold in range(len(parts))]
    rows, rest = tuple(outcomes), tuple(others)
    run = joblib.Parallel(n_jobs=jobs, return_as="generator")
    losses = run(
        joblib.delayed(held_out_loss)(rows, rest, grid[number], kept.tolist(), held.tolist(), seed, encoder)
        for number, fold in tasks
        for kept, held in (parts[fold],)
    )
    found: list[list[float]] = [[] for _ in grid]
    for step, ((number, fold), loss) in enumerate(zip(tasks, losses, strict=True), start=1):
        found[number].append(loss)
        if progress is not None:
            progress(step, len(tasks), f"setting {number + 1} of {len(grid)}, fold {fold + 1}")
    tried = [Tried(settings=settings, losses=tuple(loss)) for settings, loss in zip(grid, found, strict=True)]
    tried.sort(key=lambda each: each.loss)
    if not np.isfinite(tried[0].loss):
        raise TrainingError("no setting could be fitted on every fold; give more outcomes or more labels")
    return tried


def held_out_loss(
    outcomes: Sequence[Labelled],
    others: Sequence[Labelled],
    settings: TrainingSettings,
    kept: Sequence[int],
    held: Sequence[int],
    seed: int,
    encoder: EncoderEntry | None = None,
) -> float:
    """Weighted mean log loss on held-out rows of a model of the kept ones and `others`; infinite if there is none."""
    with threadpool_limits(limits=1):
        try:
            fitted = fit(Dataset((*(outcomes[row] for row in kept), *others)), settings, seed, encoder)
        except TrainingError:
            return float("inf")
        model = fitted.to_model("")
        rows = [outcomes[row] for row in held]
        scores = np.asarray([model.score_features(row.extracted()).value for row in rows])
    clipped = np.clip(scores, 1e-6, 1.0 - 1e-6)
    needed = np.asarray([row.label for row in rows], dtype=np.bool_)
    weights = np.asarray([row.weight for row in rows])
    return float(np.average(-np.where(needed, np.log(clipped), np.log1p(-clipped)), weights=weights))


@contextmanager
def on_cluster(address: str) -> Iterator[int]:
    """Run joblib's tasks on the Dask cluster at `address` while the context is open; yields its worker threads.

    The workers need this package installed, in this version.

    Args:
        address: Of the scheduler, e.g. tcp://scheduler:8786.

    Raises:
        NoCluster: dask.distributed is not installed, nobody answers there, or there are no workers.
    """
    try:
        distributed: Any = import_module("dask.distributed")
    except ImportError:
        raise NoCluster("a cluster needs dask.distributed: pip install 'hybrid-router[training]'") from None
    try:
        client = distributed.Client(address, timeout="10s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise NoCluster(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise NoCluster(f"the Dask cluster at {address} has no workers")
        with joblib.parallel_config(backend="dask", client=client, wait_for_workers_timeout=10):
            yield threads
