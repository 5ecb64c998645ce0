"""Recorded answers become labels and ranks; requests of known kind become rows with a stated assumption."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.answers import (
    KIND_TARGETS,
    NEED_PAIRS,
    Answered,
    labelled_answers,
    labelled_requests,
    question,
    read_answers,
    requests,
)
from classifier.dataset import DatasetError, read

PAIR = NEED_PAIRS["crux"]


def answered(number: int, weak: float, strong: float, **others: float) -> Answered:
    return Answered(
        id=f"crux/{number}",
        source="crux",
        kind="code",
        prompt=f"what does program {number} print",
        scores={PAIR.weak: weak, PAIR.strong: strong, **others},
    )


def written(path: Path, *rows: Any) -> Path:
    text = "\n".join(json.dumps(row) for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_label_is_the_pairs_own_outcome() -> None:
    """1 only where the strong model was right and the weak one wrong; both qualities are kept."""
    rows = labelled_answers([answered(0, 0, 1), answered(1, 1, 1), answered(2, 0, 0), answered(3, 1, 0)])
    assert [row.label for row in rows] == [1, 0, 0, 0]
    assert [(row.flash_quality, row.opus_quality) for row in rows] == [(0, 1), (1, 1), (0, 0), (1, 0)]


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0])] * 4), min_size=1, max_size=40))
def test_ranks_are_within_their_range_and_no_chances(outcomes: list[tuple[float, ...]]) -> None:
    """Whatever the answers: within [0, 1], for order only; the chance stays the label's."""
    rows = labelled_answers(
        [answered(n, w, s, other=a, another=b) for n, (w, s, a, b) in enumerate(outcomes)]
    )
    ranks = [row.rank for row in rows if row.rank is not None]
    assert len(ranks) == len(outcomes)
    assert all(0.0 <= rank <= 1.0 for rank in ranks)
    assert {row.target for row in rows} == {None}


def test_rank_listens_to_models_about_as_good() -> None:
    """Of two prompts the weak model failed, the one its peers failed, too, ranks higher, and half of it is its own."""
    rows = [answered(n, n % 2, 1, peer=n % 2) for n in range(20)]
    rows += [answered(20, 0, 1, peer=0), answered(21, 0, 1, peer=1), answered(22, 1, 1, peer=0)]
    found = labelled_answers(rows)
    ranks = {row.id: row.rank or 0.0 for row in found}
    assert ranks["crux/20"] > ranks["crux/21"] > 0
    assert all(0.0 < row.own_share < 1.0 for row in found)


def test_with_two_models_a_row_says_nothing_of_its_own() -> None:
    """Its rank is the pair's benefit, harm included, and counts for its subject only."""
    found = labelled_answers([answered(0, 0, 1), answered(1, 1, 1), answered(2, 0, 0), answered(3, 1, 0)])
    assert [(row.rank, row.own_share) for row in found] == [(1.0, 0.0), (0.5, 0.0), (0.5, 0.0), (0.0, 0.0)]


def test_rows_without_both_models_have_no_label() -> None:
    """A missing answer is not a wrong one."""
    lone = Answered(id="a", source="crux", kind="code", prompt="x", scores={PAIR.weak: 1.0})
    assert labelled_answers([lone]) == []


def test_one_question_with_other_options_is_one_group() -> None:
    """MMLU and MMLU-Pro share questions: they differ in options, numbering and case only."""
    four = question("Which planet is largest?\nA. Mars\nB. Jupiter\nAnswer:")
    ten = question("which planet is  largest?\nA. Venus\nB. Mars\nC. Jupiter\nAnswer:")
    assert four == ten != question("Which planet is smallest?\nA. Mars\nB. Jupiter")


def test_requests_of_known_kind_carry_the_stated_assumption(tmp_path: Path) -> None:
    """Each kind has its target; a kind without one is left out; a frequent one weighs no more than its share."""
    many = [{"id": f"c{n}", "kind": "assistant_command", "prompt": f"do {n}"} for n in range(400)]
    other = {"id": "o", "kind": "open_complex", "prompt": "prove", "tools": [{}], "system": "abc"}
    path = written(tmp_path / "r.jsonl.gz", *many, other, {"id": "x", "kind": "poem", "prompt": "write"})
    rows = {row.id: row for row in labelled_requests(path, 100)}
    assert len(rows) == 401
    assert rows["c0"].target == KIND_TARGETS["assistant_command"]
    assert rows["c0"].label == 0
    assert sum(row.weight for row in rows.values() if row.kind == "assistant_command") == pytest.approx(200)
    assert rows["o"].label == 1
    assert (rows["o"].sample.tools_offered_count, rows["o"].sample.system_characters) == (1, 3)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"id": "a", "source": "s", "prompt": "x"}, "scores"),
        ({"id": "a", "source": "s", "prompt": 3, "scores": {"m": 1}}, r"\$\.prompt"),
        ({"id": "a", "source": "s", "prompt": "x", "scores": {"m": 2}}, "scores"),
        ({"id": "a", "source": "s", "prompt": "x", "scores": {}}, "scores"),
    ],
)
def test_wrong_lines_are_refused_by_number_and_field(tmp_path: Path, row: Any, fault: str) -> None:
    """The second line's fault is named as such."""
    good = {"id": "g", "source": "s", "prompt": "x", "scores": {"m": 1}, "more": [1]}
    with pytest.raises(DatasetError, match=f"line 2: .*{fault}"):
        read_answers(written(tmp_path / "a.jsonl", good, row))


def test_requests_stream_and_ignore_what_they_do_not_know(tmp_path: Path) -> None:
    """A labelled file is a file of requests; only id and prompt are needed."""
    path = written(tmp_path / "a.jsonl", {"id": "g", "source": "s", "prompt": "x", "scores": {"m": 1}})
    ((identity, sample, kind, source),) = requests(path)
    assert (identity, sample.text, kind, source) == ("g", "x", None, "s")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"id": "a", "prompt": "\xff\xfe"}', "line 2"),
        (b'{"id": "a", "prompt": "\\ud800"}', "line 2"),
        (b'{"id": "a", "prompt": "\\udc00 low half"}', "line 2"),
        (b"[" * 100_000, "line 2"),
        (b'{"id": "a", "prompt": "x", "tools": -1}', "line 2: tools must be >= 0, got -1"),
    ],
)
def test_lines_that_are_no_text_or_count_are_refused_by_number(
    tmp_path: Path, line: bytes, fault: str
) -> None:
    """Bytes that are no UTF-8, half a surrogate pair, fewer tools than none: a clear stop, not a traceback."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"id": "g", "prompt": "fine"}\n' + line + b"\n")
    with pytest.raises(DatasetError, match=fault):
        list(requests(path))


@pytest.mark.parametrize("damage", [b"\xff" * 8, b""])
def test_a_damaged_archive_is_told(tmp_path: Path, damage: bytes) -> None:
    """Flipped bytes and half a file alike, in requests and in labels."""
    path = written(tmp_path / "r.jsonl.gz", *[{"id": str(n), "prompt": f"words {n}"} for n in range(500)])
    raw = path.read_bytes()
    middle = len(raw) // 2
    path.write_bytes(raw[:middle] + (damage and damage + raw[middle + len(damage) :]))
    with pytest.raises(DatasetError, match=r"cannot be read|line"):
        list(requests(path))
    with pytest.raises(DatasetError, match=r"cannot be read|line"):
        read(path)
