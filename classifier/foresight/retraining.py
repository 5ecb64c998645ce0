"""Sessions in, a candidate, the evidence against what serves, and a verdict out.

Time goes one way, as in `classifier.retraining`: of each source, sessions by their first turn; the earliest half is
fitted on, the next 15 % bend the sigmoids, the newest 35 % judge, and what was judged is what is promoted. What is
learnt online (`Learner`, the router's own code) runs over all of it in order of time, so it has seen at least what the
candidate was fitted on when it is judged; the blend of both is reported, since that is what would serve.

A candidate passes when the lower end of what it saves against the online learner is not below zero, it is not worse
than the foresight that serves, and its chances are calibrated. The rule: equal sessions and settings give an equal
candidate and an equal verdict. It does not know the clock nor where models are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from classifier.array_file import Array
from classifier.foresight import artifact as artifacts
from classifier.foresight import evidence
from classifier.foresight.artifact import Artifact, Manifest
from classifier.foresight.card import card_of
from classifier.foresight.columns import COLUMN_VERSION
from classifier.foresight.evidence import Figures, Gain
from classifier.foresight.fitting import RIDGE, bent, fitted
from classifier.foresight.model import Foresight
from classifier.foresight.table import Session, Table, table_of
from classifier.registry import CARD_NAME, REPORT_NAME

Learner = Callable[[Sequence[Session], Array | None], Array]
"""What is learnt online over sessions of one source: hazards of a return on Opus, as known when each turn began, shape
(turns, `WINDOWS`), in the order of `table_of`. With hazards foreseen for the same turns (rows of NaN: none) it gives
what the router would make of both."""

NOT_WORSE: Final = 0.002
"""Log-loss per window by which a candidate may be worse than the foresight that serves, with its whole interval."""
LEAST_OF_ROUTE: Final = 100
"""Turns of each route it takes to learn where a session's next request goes."""
ECE_MOST: Final = 0.05
"""Calibration error beyond chance that a candidate must stay below, as for the classifier."""


class TooFewTurns(Exception):
    """The log cannot carry a foresight yet; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to retrain.

    Attributes:
        calibrate_share, judge_share: Shares of the turns in the second and the newest slice.
        least_sessions: Sessions of two turns or more it takes, >= 1.
        least_judged: Returns after the first window, and turns without one, that it must be judged by.
        seed: Of the bootstraps.
    """

    calibrate_share: float = 0.15
    judge_share: float = 0.35
    least_sessions: int = 60
    least_judged: int = 30
    seed: int = 0


class Condition(msgspec.Struct, frozen=True):
    """One condition of the verdict."""

    name: str
    passed: bool
    figures: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """What came of it.

    Attributes:
        artifact: The candidate.
        conditions: Of the verdict, all of them.
        report: JSON-ready.
    """

    artifact: Artifact
    conditions: tuple[Condition, ...]
    report: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether it may serve."""
        return all(each.passed for each in self.conditions)

    @property
    def reason(self) -> str:
        """One sentence for the registry."""
        failed = [each.name for each in self.conditions if not each.passed]
        return f"refused for {', '.join(failed)}" if failed else "; ".join(c.figures for c in self.conditions)

    def save(self, directory: Path) -> Artifact:
        """Write artifact, card and report into `directory`.

        Raises:
            OSError: It cannot be written.
        """
        artifacts.save(directory, self.artifact)
        (directory / CARD_NAME).write_text(card_of(self.artifact), encoding="utf-8")
        encoded = msgspec.json.format(msgspec.json.encode(self.report), indent=2)
        (directory / REPORT_NAME).write_bytes(encoded + b"\n")
        return self.artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One source, cut by time: how many of its sessions are in the first slice, and in the first two."""

    sessions: Sequence[Session]
    fit: int
    calibrate: int


def retrain(
    sources: Sequence[Sequence[Session]],
    learner: Learner,
    champion: Foresight | None,
    settings: Settings,
    created_time: str,
    names: Sequence[str] = (),
) -> Retrained:
    """Fit, bend and judge a candidate.

    Args:
        sources: Sessions of each log or trace, in order of their first turn, on its own clock.
        learner: What is learnt online.
        champion: The foresight that serves, None for none.
        created_time: RFC 3339 time to record.
        names: What the sources are, for people.

    Raises:
        TooFewTurns: There are too few sessions, or too few returns among those that judge.
    """
    cuts = [_cut(sessions, settings) for sessions in sources if sessions]
    several = sum(len(session.turns) > 1 for cut in cuts for session in cut.sessions)
    if several < settings.least_sessions:
        raise TooFewTurns(
            f"needs at least {settings.least_sessions} sessions of two turns or more, the log has {several}"
        )
    to_fit = table_of([session for cut in cuts for session in cut.sessions[: cut.fit]])
    to_bend = table_of([session for cut in cuts for session in cut.sessions[cut.fit : cut.calibrate]])
    judging = table_of([session for cut in cuts for session in cut.sessions[cut.calibrate :]])
    _require(judging, settings)
    arrays = bent(fitted(to_fit), to_bend)
    known = routes_known(to_fit)
    rivals = _rivals(cuts, learner, arrays, known)
    rivals["base rate"] = np.tile(evidence.base_rates(to_fit), (len(judging), 1))
    metrics = _metrics(arrays, known, judging, rivals, champion, settings)
    manifest = Manifest(
        format=artifacts.FORMAT,
        schema_version=artifacts.SCHEMA_VERSION,
        column_version=COLUMN_VERSION,
        created_time=created_time,
        settings={
            "ridge": RIDGE,
            "calibrate_share": settings.calibrate_share,
            "judge_share": settings.judge_share,
        },
        sources=list(names),
        data_digest=artifacts.digest_of_rows(_canonical(sources)),
        turns=len(to_fit),
        sessions=len(to_fit.names),
        routes_known=known,
        metrics=metrics,
    )
    artifact = artifacts.made(manifest, arrays)
    conditions = _conditions(metrics, champion)
    report = metrics | {
        "candidate": artifact.digest,
        "champion": "" if champion is None else champion.digest,
        "passed": all(each.passed for each in conditions),
        "conditions": msgspec.to_builtins(conditions),
        "turns": {"fit": len(to_fit), "calibrate": len(to_bend), "judge": len(judging)},
        "sources": list(names),
    }
    return Retrained(artifact=artifact, conditions=conditions, report=report)


def routes_known(table: Table) -> bool:
    """Whether sessions went to both routes often enough to tell where the next request goes."""
    return all(int((table.opus == opus).sum()) >= LEAST_OF_ROUTE for opus in (False, True))


def _cut(sessions: Sequence[Session], settings: Settings) -> _Source:
    total = sum(len(session.turns) for session in sessions)
    bounds = (1.0 - settings.calibrate_share - settings.judge_share, 1.0 - settings.judge_share)
    counts, before = [0, 0], 0
    for session in sessions:
        for place, bound in enumerate(bounds):
            counts[place] += before < bound * total
        before += len(session.turns)
    return _Source(sessions=sessions, fit=counts[0], calibrate=counts[1])


def _require(judging: Table, settings: Settings) -> None:
    at_risk, came = evidence.at_risk_and_came(judging)
    returns, silent = int(came[:, 1:].sum()), int((at_risk[:, 1] & (judging.gaps_s == np.inf)).sum())
    if min(returns, silent) < settings.least_judged:
        raise TooFewTurns(
            f"needs {settings.least_judged} late returns to Opus and as many sessions that ended among those it is"
            f" judged by; the log has {returns} and {silent}"
        )


def _rivals(
    cuts: Sequence[_Source], learner: Learner, arrays: dict[str, Array], known: bool
) -> dict[str, Array]:
    """Hazards learnt online, and blended with the candidate's, for the turns that judge."""
    online, blended = [], []
    for cut in cuts:
        table = table_of(cut.sessions)
        first = sum(len(session.turns) for session in cut.sessions[: cut.calibrate])
        foreseen = evidence.keep_alive_matrix(*evidence.chances_matrix(arrays, table, routes_known=known))
        foreseen[:first] = np.nan  # it was fitted or bent on these
        online.append(learner(cut.sessions, None)[first:])
        blended.append(learner(cut.sessions, foreseen)[first:])
    return {"online": np.vstack(online), "blended": np.vstack(blended)}


def _metrics(
    arrays: dict[str, Array],
    known: bool,
    judging: Table,
    rivals: dict[str, Array],
    champion: Foresight | None,
    settings: Settings,
) -> dict[str, Any]:
    seed = settings.seed
    hazards, shares = evidence.chances_matrix(arrays, judging, routes_known=known)
    spans = {span_s: evidence.opus_within(hazards, shares, span_s) for span_s in evidence.SPANS_S}
    own = evidence.keep_alive_matrix(hazards, shares)
    found: dict[str, Figures] = {"candidate": evidence.figures(own, judging, seed=seed, spans=spans)}
    if champion is not None:
        rivals = rivals | {
            "champion": evidence.keep_alive_matrix(
                *evidence.chances_matrix(
                    champion.artifact.arrays,
                    judging,
                    routes_known=champion.artifact.manifest.routes_known,
                )
            )
        }
    gains: dict[str, Gain] = {}
    for name, rival in rivals.items():
        found[name] = evidence.figures(rival, judging, seed=seed)
        gains[name] = evidence.gain(own, rival, judging, seed=seed)
    gains["blended over online"] = evidence.gain(rivals["blended"], rivals["online"], judging, seed=seed)
    gains["first window over online"] = evidence.gain(own, rivals["online"], judging, seed=seed, first=0)
    rounded: dict[str, Any] = evidence.rounded(
        {
            "figures": {name: asdict(each) for name, each in found.items()},
            "gains": {name: asdict(each) for name, each in gains.items()},
            "judged": {"turns": len(judging), "sessions": len(judging.names)},
        }
    )
    return rounded


def _conditions(metrics: dict[str, Any], champion: Foresight | None) -> tuple[Condition, ...]:
    online = metrics["gains"]["online"]
    conditions = [
        Condition(
            "gain",
            online["low"] >= 0.0,
            f"saves {_interval(online)} nats a window against what is learnt online",
        )
    ]
    if champion is not None:
        gain = metrics["gains"]["champion"]
        conditions.append(
            Condition("champion", gain["low"] >= -NOT_WORSE, f"{_interval(gain)} against {champion.digest}")
        )
    for span in metrics["figures"]["candidate"]["spans"]:
        beyond = max(0.0, span["ece"] - span["ece_by_chance"])
        conditions.append(
            Condition(
                f"calibration {span['span_s']:g} s",
                beyond < ECE_MOST,
                f"calibration error {span['ece']:.3f} within {span['span_s']:g} s, {beyond:.3f} beyond chance",
            )
        )
    return tuple(conditions)


def _interval(gain: dict[str, float]) -> str:
    return f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


def _canonical(sources: Sequence[Sequence[Session]]) -> bytes:
    return msgspec.json.encode([[(each.turns, each.until_s) for each in sessions] for sessions in sources])
