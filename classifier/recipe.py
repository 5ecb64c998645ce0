"""The shipped model's recipe: which rows, at which weights, from which files; and the card that says so.

Rule: what ships is made by one command from files named on its line (`hybrid-router train`, see the README), and the
card beside the artifact names every source with its licence, what a label means, and how good the recipe was on
groups it had not seen. No text of any source is in the artifact.

It does not know how to fit (`training`) or to compare (`comparison`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from classifier.answers import KIND_TARGETS, NEED_PAIRS, Answered, labelled_answers, labelled_requests
from classifier.artifact import Manifest
from classifier.dataset import Dataset, Labelled

SOURCE_WEIGHTS: Final = {"mmlu": 3.0, "gsm8k": 12.0, "crux": 8.0}
"""Source -> weight of its rows: a few hundred problems must not be read by the weights of thousands of others."""

OWN_WEIGHT: Final = 3.0
"""Weight of our own labels and of open complex requests: few rows, and the kinds a service is asked for most."""

CARD_NAME: Final = "MODEL_CARD.md"


class Source(NamedTuple):
    """Where labelled rows come from, as its licence asks to be told."""

    licence: str
    attribution: str


SOURCES: Final = {
    "mmlu": Source("MIT (questions); Apache-2.0 (answers)", "Hendrycks et al.; answers: lm-sys/RouteLLM 0b64fda"),
    "gsm8k": Source(
        "MIT (questions); Apache-2.0 (answers)",
        "Cobbe et al., OpenAI; answers: lm-sys/RouteLLM 0b64fda, WildEval/ZeroEval 8c1485e",
    ),
    "crux": Source("MIT (questions); Apache-2.0 (answers)", "CRUXEval, Meta; answers: WildEval/ZeroEval 8c1485e"),
    "mmlu_pro": Source("MIT (questions); Apache-2.0 (answers)", "TIGER-AI-Lab/MMLU-Pro f418b11, ff991b5"),
    "assistant_command": Source(
        "CC BY 3.0", "CLINC150, Larson et al. 2019, clinc/oos-eval 828f809; hashed, reweighted"
    ),
    "out_of_scope": Source(
        "CC BY 3.0", "CLINC150, Larson et al. 2019, clinc/oos-eval 828f809; hashed, reweighted"
    ),
    "function_call": Source("Apache-2.0", "Berkeley Function-Calling Leaderboard, ShishirPatil/gorilla 6ea5797"),
    "function_call_irrelevant": Source(
        "Apache-2.0", "Berkeley Function-Calling Leaderboard, ShishirPatil/gorilla 6ea5797"
    ),
    "open_complex": Source("Apache-2.0", "Arena-Hard v0.1, lm-sys/arena-hard-auto efc012e"),
    "open_instruction": Source("Apache-2.0", "Self-Instruct user tasks, yizhongw/self-instruct 0b26cca"),
}  # fmt: skip
"""Source of answers or kind of request -> licence and attribution, as published with the data (2026-11)."""


def assemble(answers: Sequence[Answered], request_files: Sequence[Path], own: Sequence[Labelled]) -> Dataset:
    """Rows with recorded answers, rows of known kind and our own labels as one weighted dataset."""
    measured = [
        replace(row, weight=SOURCE_WEIGHTS.get(row.kind or "", 1.0)) for row in labelled_answers(answers)
    ]
    rows: list[Labelled] = list(measured)
    for path in request_files:
        rows += [
            replace(row, weight=row.weight * OWN_WEIGHT) if row.kind == "open_complex" else row
            for row in labelled_requests(path, len(measured))
        ]
    if not rows:
        return Dataset(tuple(own))
    return Dataset((*rows, *(replace(row, weight=row.weight * OWN_WEIGHT) for row in own)))


def card(manifest: Manifest, digest: str, dataset: Dataset, compared: Sequence[dict[str, Any]]) -> str:
    """The model card as Markdown.

    Args:
        compared: `comparison.Figures.to_dict()` of cross-fitted scores; may be empty.
    """
    counts = Counter(row.kind for row in dataset.rows if row.kind in SOURCES)
    own = len(dataset) - sum(counts.values())
    held = manifest.metrics
    parts = [
        f"# Model card: routing classifier {digest}",
        "",
        f"Trained {manifest.created_time} from {manifest.rows:,} rows in {manifest.groups:,} groups "
        f"(data digest {manifest.data_digest[:12]}, seed {manifest.seed}). The artifact holds hashed weights and "
        "weights of counts, no text.",
        "",
        "**What a score means.** A calibrated estimate of the chance that Flash's answer would not do and Opus's "
        f"would. Suggested threshold {manifest.threshold:g}.",
        "",
        "## Data",
        "",
        "| source or kind | rows | label | licence | attribution |",
        "|---|---|---|---|---|",
    ]
    for name, count in sorted(counts.items(), key=lambda item: str(item[0])):
        source = SOURCES[str(name)]
        pair = NEED_PAIRS.get(str(name))
        meant = (
            f"{pair.strong} right and {pair.weak} wrong"
            if pair
            else f"assumed chance {KIND_TARGETS[str(name)]:g}"
        )
        parts.append(f"| {name} | {count:,} | {meant} | {source.licence} | {source.attribution} |")
    parts += [
        f"| own labels | {own:,} | one author's judgement | Apache-2.0 | this project |",
        "",
        "Labels of answered prompts rest on one greedy answer per model, so a rerun would flip some; training averages "
        "models about as good as the pair's and the questions of a subject. The models are of 2023/24 and stand in for "
        "today's pair. No model "
        "answered the requests of known kind: that commands and function calls suffice with Flash, and that open "
        "complex requests want Opus, is an assumption.",
        "",
        "## Figures on groups not seen in fitting",
        "",
        f"All rows: AUROC {_shown(held.get('auroc'))} [{_shown(held.get('auroc_low'))}, "
        f"{_shown(held.get('auroc_high'))}], by prompt length {_shown(held.get('length_auroc'))}; Brier "
        f"{_shown(held.get('brier'))}; ECE {_shown(held.get('ece'))}. These are development figures: features, "
        "settings and targets were chosen with the same data.",
    ]
    if compared:
        parts += [
            "",
            "APGR (random .5) on recorded outcomes, 95 % paired bootstrap over prompts:",
            "",
            "| pair | source | n | gap | APGR | less length | less TF-IDF + ridge | CPT50 | CPT80 | AUROC | ECE |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in compared:
            parts.append(
                f"| {row['pair']} | {row['source']} | {row['rows']:,} | {row['gap']:.3f} | {row['apgr']:.3f} "
                f"{_between(row['apgr_interval'])} | {_between(row['over_length'])} | {_between(row['over_ridge'])} | "
                f"{row['cpt50']:.0%} | {row['cpt80']:.0%} | {_shown(row['auroc'])} | {_shown(row['ece'])} |"
            )
    parts += [
        "",
        "| kind | rows | needed | mean score | at or above the threshold |",
        "|---|---|---|---|---|",
        *(
            f"| {kind['kind']} | {kind['rows']:,} | {kind['needed_share']:.3f} | {kind['score_mean']:.3f} "
            f"| {kind['opus_share']:.3f} |"
            for kind in held.get("kinds", [])
        ),
        "",
        "## Known to fail",
        "",
        "It sees no answers. Within one benchmark it ranks difficulty little better than chance where the two models "
        "are nearly equal (GSM8K). Scores of exam questions stay low because the recorded pairs seldom differ: the "
        "threshold, not the score, says what a needed answer is worth. Languages other than English rest on few rows. "
        "No prices are assumed.",
        "",
    ]
    return "\n".join(parts)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _between(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"
