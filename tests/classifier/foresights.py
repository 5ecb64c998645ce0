"""Sessions with a known law, and foresights made by hand."""

from random import Random

import numpy as np

from classifier.foresight import artifact as artifacts
from classifier.foresight.artifact import Artifact, Manifest
from classifier.foresight.columns import COLUMN_VERSION, COLUMNS
from classifier.foresight.history import Turn
from classifier.foresight.model import Foresight
from classifier.foresight.table import Session
from classifier.foresight.windows import COUNT, EDGES_S, GROUP_COUNT

HAZARDS = {
    "tool_call": (0.7, 0.5, *(0.02,) * (COUNT - 2)),
    "end_turn": (0.1, 0.15, 0.5, 0.3, *(0.03,) * (COUNT - 4)),
}
"""Chance of the next turn in each window, by how the last one ended."""
STAYS = {True: 0.9, False: 0.25}
"""Chance that the next turn goes to Opus, by whether the last one did."""


def sessions(count: int, seed: int = 0, *, spacing_s: float = 600.0, turns: int = 12) -> list[Session]:
    """Sessions that begin one after another and follow `HAZARDS` and `STAYS`; all were watched for a day more."""
    random, found = Random(seed), []
    for number in range(count):
        now, opus, made = number * spacing_s, True, list[Turn]()
        while len(made) < turns:
            finish = random.choice(["tool_call", "tool_call", "end_turn"])
            made.append(
                Turn(now, opus, finish, 0.8 if opus else 0.3, 4_000 + 500 * len(made), 200, 5.0, "desk")
            )
            gap_s = _gap_s(random, HAZARDS[finish])
            if gap_s is None:
                break
            now += gap_s
            opus = random.random() < STAYS[opus]
        found.append(Session(f"s{number}", tuple(made), count * spacing_s + 86_400.0))
    return found


def _gap_s(random: Random, hazards: tuple[float, ...]) -> float | None:
    for window, hazard in enumerate(hazards):
        if random.random() < hazard:
            return random.uniform(EDGES_S[window], EDGES_S[window + 1])
    return None


def arrays_of(hazards: tuple[float, ...], *, weight: float = 0.0) -> dict[str, np.ndarray]:
    """Arrays of a foresight that says the same of every session."""
    chances = np.clip(np.asarray(hazards), 1e-6, 1 - 1e-6)
    return {
        "window_weights": np.full(GROUP_COUNT * len(COLUMNS), weight),
        "window_bases": np.log(chances / (1 - chances)),
        "route_weights": np.zeros(len(COLUMNS)),
        "route_bases": np.full(GROUP_COUNT, 20.0),
    }


def artifact_of(arrays: dict[str, np.ndarray], *, routes_known: bool = True, note: str = "") -> Artifact:
    """A proved artifact of these arrays."""
    manifest = Manifest(
        format=artifacts.FORMAT,
        schema_version=artifacts.SCHEMA_VERSION,
        column_version=COLUMN_VERSION,
        created_time="2026-11-23T00:00:00Z",
        settings={"note": note},
        sources=["by hand"],
        data_digest="",
        turns=1,
        sessions=1,
        routes_known=routes_known,
        metrics={},
    )
    return artifacts.made(manifest, arrays)


def saying(hazards: tuple[float, ...], **options: object) -> Foresight:
    """A foresight that says the same of every session."""
    return Foresight(artifact_of(arrays_of(hazards), **options))
