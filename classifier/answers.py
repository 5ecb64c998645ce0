"""Recorded answers of many models, and requests whose kind alone is known -> labelled rows to train and judge on.

Two kinds of public file, one JSON object per line (`.gz` allowed):

    answers     id, source, prompt, scores {model: quality in [0, 1]}, optional kind, category, routellm_contaminated
    requests    id, source, kind, prompt, optional tools, system                       (no model has answered them)

Rule: a row's `label` is what happened to ONE pair of models, its source's in `NEED_PAIRS`: 1 when the strong one was
right and the weak one wrong. One greedy answer of one model is a noisy witness, so rows of a source are ordered by
something steadier, their `rank`: it averages the weak and the strong model with those that are about as good, and is
drawn to the mean of the row's subject when it is trained on. Reports always judge by labels of real pairs.

What no model answered carries an assumption instead, stated in `KIND_TARGETS` and in the model card: commands and
function calls suffice with Flash, open complex requests want Opus.

It does not know features, models of ours or files of other forms (`dataset` reads our own label files).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from classifier.dataset import DatasetError, LabelledSample, lines_of
from classifier.sample import Sample

Row = TypeVar("Row", bound=msgspec.Struct)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models whose recorded answers are compared; `sources` have answers of both."""

    name: str
    weak: str
    strong: str
    sources: tuple[str, ...]


_MIXTRAL, _GPT4 = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"
_FLASH, _OPUS, _SONNET = "gemini-1.5-flash", "claude-3-opus-20240229", "claude-3-5-sonnet-20241022"
_FLASH2, _GPT4O, _PRO2 = "gemini-1.5-flash-002", "gpt-4o-2024-05-13", "gemini-1.5-pro-002"
_HAIKU, _LLAMA = "claude-3-haiku-20240307", "meta-llama-3.1-8b-instruct"

PAIRS: Final = (
    Pair(name="mixtral_gpt4", weak=_MIXTRAL, strong=_GPT4, sources=("mmlu", "gsm8k", "mt_bench")),
    Pair(name="flash15_opus3", weak=_FLASH, strong=_OPUS, sources=("gsm8k", "math_l5", "crux", "bfcl_v1")),
    Pair(name="flash15_sonnet35", weak=_FLASH, strong=_SONNET, sources=("gsm8k", "math_l5", "crux")),
    Pair(name="haiku3_sonnet35", weak=_HAIKU, strong=_SONNET, sources=("gsm8k", "math_l5", "crux")),
    Pair(name="flash15_gpt4o", weak=_FLASH2, strong=_GPT4O, sources=("mmlu_pro",)),
    Pair(name="flash15_pro15", weak=_FLASH2, strong=_PRO2, sources=("mmlu_pro",)),
    Pair(name="llama8b_gpt4o", weak=_LLAMA, strong=_GPT4O, sources=("mmlu_pro",)),
)  # fmt: skip
"""Pairs a report compares, weak > strong."""

NEED_PAIRS: Final = {
    "mmlu": PAIRS[0], "gsm8k": PAIRS[2], "crux": PAIRS[2], "mmlu_pro": PAIRS[4],
}  # fmt: skip
"""Source -> the pair that says whether Opus was needed: the Flash of its year against the best model of the
other side that answered it (for Claude: 3.5 Sonnet, which stood above Opus 3)."""

KIND_TARGETS: Final = {
    "assistant_command": 0.03,
    "out_of_scope": 0.03,
    "function_call": 0.03,
    "function_call_irrelevant": 0.03,
    "open_instruction": 0.4,
    "open_complex": 0.9,
}
"""Kind -> assumed chance that Opus is needed; nobody measured it."""

KIND_SHARE_OF_ROWS: Final = 0.2
"""Most a kind without answers may weigh, as a share of the rows with answers: 7,500 commands must not drown them."""

_NEAR_WEAK: Final = 0.05
"""A model stands in for the weak one when its mean quality differs by at most this."""

_NEAR_STRONG: Final = 0.02
"""A model stands in for the strong one when its mean quality is at most this much lower."""

_FAILS_SHARE: Final = 0.35
"""Of the target, how much counts that the weak models fail, whether or not the strong ones are right: difficulty is
seen with less noise than benefit, and ranks unseen questions better."""

_OWN_SHARE: Final = 0.45
"""Of a rank, how much is the row's own where many models answered; the rest is its subject's mean."""

_OPTION: Final = re.compile(r"\n\(?A[.)] ")
_NOT_WORDS: Final = re.compile(r"\W+")


class _AnswersRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an answers file; fields a router would not see may be missing."""

    id: str
    source: str
    prompt: str
    scores: dict[str, float]
    kind: str | None = None
    category: str | None = None
    routellm_contaminated: bool | None = None


class _RequestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a requests file."""

    id: str
    prompt: str | None = None
    text: str | None = None
    kind: str | None = None
    source: str | None = None
    tools: list[Any] | int | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One prompt with the quality of every recorded answer to it.

    Attributes:
        contaminated: In RouteLLM's own list of contaminated prompts; its pair is judged without them.
        subject: The benchmark's own word for what the prompt is about; a router never sees it.
    """

    id: str
    source: str
    kind: str
    prompt: str
    scores: dict[str, float]
    contaminated: bool = False
    subject: str | None = None


def read_answers(path: Path) -> tuple[Answered, ...]:
    """Read an answers file.

    Raises:
        DatasetError: A line is wrong; the message names line and field.
    """
    rows: list[Answered] = []
    for number, row in _decoded(path, _AnswersRow):
        if not row.scores or any(not 0.0 <= score <= 1.0 for score in row.scores.values()):
            raise DatasetError(str(path), number, "scores must hold at least one quality, each within [0, 1]")
        rows.append(
            Answered(
                id=row.id,
                source=row.source,
                kind=row.kind or row.source,
                prompt=row.prompt,
                scores=row.scores,
                contaminated=bool(row.routellm_contaminated),
                subject=row.category,
            )
        )
    if not rows:
        raise DatasetError(str(path), None, "holds no rows")
    return tuple(rows)


def requests(path: Path) -> Iterator[tuple[str, Sample, str | None, str | None]]:
    """Stream the rows of a file of requests as (id, sample, kind, source); other fields are ignored.

    Raises:
        DatasetError: A line is wrong; the message names line and field.
    """
    for number, row in _decoded(path, _RequestRow):
        tools = row.tools or 0
        if isinstance(tools, int) and tools < 0:
            raise DatasetError(str(path), number, f"tools must be >= 0, got {tools}")
        text = row.text if row.prompt is None else row.prompt
        if text is None:
            raise DatasetError(str(path), number, "Object missing required field `prompt` (or `text`)")
        sample = Sample.bounded(
            text=text,
            tools_offered_count=tools if isinstance(tools, int) else len(tools),
            system_characters=len(row.system or ""),
        )
        yield row.id, sample, row.kind, row.source


def labelled_answers(answers: Sequence[Answered]) -> list[LabelledSample]:
    """One row per prompt whose source has a need pair and whose pair answered: label, rank, group, qualities."""
    sources = sorted({row.source for row in answers} & set(NEED_PAIRS))
    rows: list[LabelledSample] = []
    for source in sources:
        pair = NEED_PAIRS[source]
        mine = [
            row for row in answers
            if row.source == source and pair.weak in row.scores and pair.strong in row.scores
        ]  # fmt: skip
        if not mine:
            continue
        ranks, own_share = _ranks(mine, pair)
        rows += [
            LabelledSample(
                id=row.id,
                sample=Sample.bounded(text=row.prompt),
                label=int(row.scores[pair.strong] > row.scores[pair.weak]),
                rank=float(rank),
                subject=row.subject,
                own_share=own_share,
                group=question(row.prompt),
                kind=row.source,
                flash_quality=row.scores[pair.weak],
                opus_quality=row.scores[pair.strong],
            )
            for row, rank in zip(mine, ranks, strict=True)
        ]
    return rows


def labelled_requests(path: Path, answered_rows: int) -> list[LabelledSample]:
    """Rows of a requests file with the assumed target of their kind; kinds without one are left out.

    Args:
        answered_rows: Rows with recorded answers beside them; bounds what a kind may weigh (`KIND_SHARE_OF_ROWS`).
    """
    found = [(identity, sample, kind) for identity, sample, kind, _ in requests(path) if kind in KIND_TARGETS]
    counts = {kind: sum(other == kind for _, _, other in found) for kind in KIND_TARGETS}
    most = max(KIND_SHARE_OF_ROWS * answered_rows, 200.0)
    return [
        LabelledSample(
            id=identity,
            sample=sample,
            label=int(KIND_TARGETS[kind] >= 0.5),
            target=KIND_TARGETS[kind],
            weight=min(1.0, most / counts[kind]),
            group=question(sample.text),
            kind=kind,
        )
        for identity, sample, kind in found
        if kind is not None
    ]


def question(prompt: str) -> str:
    """A prompt's group: its words without answer options, so that MMLU and MMLU-Pro share a question's group."""
    stem = _OPTION.split(prompt, maxsplit=1)[0]
    words = _NOT_WORDS.sub(" ", stem.lower()).strip()
    return f"{words[:200]}#{len(words)}" if words else prompt[:200] or "empty"


def _ranks(rows: Sequence[Answered], pair: Pair) -> tuple[Floats, float]:
    """What orders a source's rows, shape (rows,): (1 + benefit) / 2, so in [0, 1]; and how much of it is a row's own.

    Where two models answered there is only the pair's own benefit, one coin toss of either: the subject's mean says
    more. Where many did, those about as good as the pair's are averaged, and half of what a row says is its own.
    """
    models = sorted({model for row in rows for model in row.scores})
    if len(models) == 2:
        benefit = np.array([row.scores[pair.strong] - row.scores[pair.weak] for row in rows])
        return (1.0 + benefit) / 2.0, 0.0
    qualities = np.array([[row.scores.get(model, np.nan) for model in models] for row in rows])
    means = np.nanmean(qualities, axis=0)
    weak, strong = models.index(pair.weak), models.index(pair.strong)
    as_strong = means >= means[strong] - _NEAR_STRONG
    as_weak = (np.abs(means - means[weak]) <= _NEAR_WEAK) & ~as_strong
    as_weak[weak] = True
    fails = 1.0 - (np.nanmean(qualities[:, as_weak], axis=1) + qualities[:, weak]) / 2.0
    right = (np.nanmean(qualities[:, as_strong], axis=1) + qualities[:, strong]) / 2.0
    raw = fails * (_FAILS_SHARE + (1.0 - _FAILS_SHARE) * right)
    needed = np.mean(qualities[:, strong] > qualities[:, weak])
    benefit = np.clip(raw * (needed / max(raw.mean(), 1e-9)), 0.0, 1.0)
    return (1.0 + benefit) / 2.0, _OWN_SHARE


def _decoded(path: Path, form: type[Row]) -> Iterator[tuple[int, Row]]:
    decoder = msgspec.json.Decoder(form)
    for number, line in lines_of(path):
        try:
            yield number, decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise DatasetError(str(path), number, f"{error}") from error
