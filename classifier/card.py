"""The model card: what a model is, what it was made from, how good it is, what it must not be trusted with.

Markdown beside the artifact, for people; no program reads it. The rule: every figure comes from the manifest or from
the report that was made with the model, so a card cannot say more than was measured; what was not measured is said to
be unknown. It holds no text of any request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from classifier.artifact import Artifact
from classifier.registry import CARD_NAME

USE: Final = (
    "Chooses between a cheap and a strong language model for one request. The score is the calibrated chance that the"
    " strong one is needed. It is no judgement of people, and not meant to be the only guard of anything that matters:"
    " callers can force a route."
)

LIMITS: Final = (
    "It sees the request, never the answer.",
    "It knows the kinds of requests its labels hold; others are scored by their structure alone.",
    "Features are hashed from the caller's words: they are the caller's data, and so is what is trained from them.",
    "A checksum proves that the files belong together, not who made them.",
)

_FIGURES: Final = (
    ("auroc", "AUROC"),
    ("auroc_low", "AUROC, low end of 95 %"),
    ("auroc_high", "AUROC, high end of 95 %"),
    ("length_auroc", "AUROC of prompt length alone"),
    ("ece", "calibration error"),
    ("brier", "Brier score"),
    ("base_brier", "Brier score of always saying the share"),
    ("apgr", "performance gap recovered"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where labels came from.

    Attributes:
        name: Of the data set, or "production outcomes".
        rows: Rows taken from it.
        licence: SPDX id or a sentence.
        attribution: Who made it and where it is; may be empty.
    """

    name: str
    rows: int
    licence: str
    attribution: str = ""


def model_card(
    artifact: Artifact,
    *,
    sources: Sequence[Source],
    figures: Mapping[str, Any] | None = None,
    sections: Mapping[str, str] | None = None,
    limits: Sequence[str] = LIMITS,
) -> str:
    """The card as Markdown.

    Args:
        artifact: The model.
        sources: What it was trained on.
        figures: Of `evaluation.Evaluation.to_dict`, from rows it had not seen; None: the manifest's own.
        sections: Heading -> Markdown, appended in order, e.g. what the gate said.
        limits: What not to trust it with, a sentence each.
    """
    manifest = artifact.manifest
    found = manifest.metrics if figures is None else figures
    lines = [
        f"# Routing classifier {artifact.digest}",
        "",
        USE,
        "",
        "| | |",
        "|---|---|",
        f"| trained | {manifest.created_time} |",
        f"| rows, needing Opus, groups | {manifest.rows}, {manifest.positive_rows}, {manifest.groups} |",
        f"| suggested threshold | {manifest.threshold:g} |",
        f"| fitted with | {', '.join(f'{name} {version}' for name, version in manifest.libraries.items())} |",
        f"| digest of the training rows | `{manifest.data_digest}` |",
        f"| settings | {', '.join(f'{name}={value}' for name, value in manifest.settings.items())} |",
        "",
        "## Trained on",
        "",
        "| source | rows | licence | attribution |",
        "|---|---|---|---|",
        *(f"| {each.name} | {each.rows} | {each.licence} | {each.attribution} |" for each in sources),
        "",
        "## How good",
        "",
        "On rows of groups or of a time the model had not seen:",
        "",
        "| figure | |",
        "|---|---|",
        *(f"| {label} | {_shown(found.get(name))} |" for name, label in _FIGURES),
        "",
    ]
    for heading, body in (sections or {}).items():
        lines += [f"## {heading}", "", body, ""]
    lines += ["## What it does not know", "", *(f"- {limit}" for limit in limits), ""]
    return "\n".join(lines)


def write_card(directory: Path, card: str) -> Path:
    """Put a card beside the artifact in `directory`; return its path."""
    path = directory / CARD_NAME
    path.write_text(card, encoding="utf-8")
    return path


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "unknown"
