"""The card of a foresight: what it was made from, how good it is beside what is learnt online, what not to trust."""

from __future__ import annotations

from typing import Any

from classifier.foresight.artifact import Artifact

_LIMITS = (
    "It foresees sessions like those it was fitted on. Elsewhere it may be wrong; the router weighs it against what it"
    " learns itself, per application, and it then costs a fraction of a nat, once.",
    "It sees when requests came, on which route, how their answers ended and how long they were; never what was said.",
    "It does not know the time of day.",
    "A checksum proves that the files belong together, not who made them.",
)


def card_of(artifact: Artifact) -> str:
    """The card as Markdown; every figure is the manifest's."""
    manifest, metrics = artifact.manifest, artifact.manifest.metrics
    lines = [
        f"# Foresight {artifact.digest}",
        "",
        "The chance that a session's next request comes in time and goes to Opus, for keep-alives and warms.",
        "",
        f"Made {manifest.created_time} from {manifest.turns:,} turns of {manifest.sessions:,} sessions:",
        "",
        *[f"- {source}" for source in manifest.sources],
        "",
        f"## On {metrics['judged']['turns']:,} turns of {metrics['judged']['sessions']:,} sessions it had not seen",
        "",
        "| chances | first window, nats | later windows, nats | span | Brier | calibration error (by chance) | AUROC |",
        "|---|---|---|---|---|---|---|",
        *[_row(name, each) for name, each in metrics["figures"].items()],
        "",
        "Log-loss saved per later window, 95 % over sessions:",
        "",
        *[
            f"- {name}: {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
            for name, gain in metrics["gains"].items()
        ],
        "",
        "## What not to trust it with",
        "",
        *[f"- {limit}" for limit in _LIMITS],
        "",
    ]
    return "\n".join(lines)


def _row(name: str, figures: dict[str, Any]) -> str:
    spans = figures["spans"]
    columns = (
        " / ".join([f"{span['span_s']:g} s" for span in spans]),
        " / ".join([f"{span['brier']:.4f}" for span in spans]),
        " / ".join([f"{span['ece']:.3f} ({span['ece_by_chance']:.3f})" for span in spans]),
        " / ".join(["-" if span["auroc"] is None else f"{span['auroc']:.3f}" for span in spans]),
    )
    return f"| {name} | {figures['first_loss']:.4f} | {figures['later_loss']:.4f} | {' | '.join(columns)} |"
