"""Whether a model of the registry may become the champion without anybody insisting.

The rule, for the command, the RPC and retraining alike: it passed the gate against the model that serves now, or it
served before without force and stood; and it was never taken back. Whatever else is so is told as the reason why not,
and somebody who insists has that reason noted beside their own. This module reads the registry and changes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from classifier.registry import REPORT_NAME, Change, How, Registry


class Consent(NamedTuple):
    """What the registry says of promoting a model.

    Attributes:
        given: Whether it may be promoted without force.
        how: What is noted as having made it champion, without force.
        reason: Why, or why not.
    """

    given: bool
    how: How
    reason: str


def consent(registry: Registry, digest: str, serving: str) -> Consent:
    """Say whether `digest` may be promoted in place of `serving`.

    Args:
        digest: Of a model of the registry, in full.
        serving: Digest of the model that scores now, of the registry or not.

    Raises:
        RegistryError: The history cannot be read.
    """
    history = registry.history()
    if digest == serving and history and history[-1].digest == digest:
        return Consent(True, How.OPERATOR, "serves already")
    taken_back = last_taken_back(history, digest)
    if taken_back is not None:
        return Consent(False, How.OPERATOR, f"it served and was taken back: {taken_back.reason}")
    if _stood(history, digest):
        return Consent(True, How.OPERATOR, "served before")
    report = gate_report(registry.path / digest)
    verdict = report.get("verdict")
    if not isinstance(verdict, dict) or report.get("candidate") != digest:
        return Consent(False, How.OPERATOR, "no gate has judged it")
    if verdict.get("passed") is not True:
        return Consent(False, How.OPERATOR, f"the gate refused it{_failed(verdict)}")
    judged_against = report.get("champion")
    if judged_against != serving:
        return Consent(False, How.OPERATOR, f"it was judged against {judged_against}, but {serving} serves")
    return Consent(True, How.GATE, "passed the gate")


def last_taken_back(history: tuple[Change, ...], digest: str) -> Change | None:
    """The last rollback that took this model back, by the guard or by hand; None when there was none."""
    found = [change for change in history if change.how is How.ROLLBACK and change.previous == digest]
    return found[-1] if found else None


def gate_report(directory: Path) -> dict[str, Any]:
    """What the gate said of the model in `directory`; empty where it said nothing that can be read."""
    try:
        report = json.loads((directory / REPORT_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _stood(history: tuple[Change, ...], digest: str) -> bool:
    """Whether a model last came to serve without force."""
    reigns = [change for change in history if change.how is not How.ROLLBACK and change.digest == digest]
    return bool(reigns) and reigns[-1].how is not How.FORCE


def _failed(verdict: dict[str, Any]) -> str:
    """The conditions that were not met, as far as the report says."""
    conditions = verdict.get("conditions")
    names = [
        str(each.get("name"))
        for each in (conditions if isinstance(conditions, list) else ())
        if isinstance(each, dict) and not each.get("passed")
    ]
    return f" for {', '.join(names)}" if names else ""
