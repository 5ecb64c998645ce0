"""Label files: read whole or refused with line, field and limit; groups never split."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.dataset import (
    MAX_LINE_BYTES,
    Dataset,
    DatasetError,
    LabelledFeatures,
    LabelledSample,
    parse,
    read,
    write,
)
from classifier.features import extract
from classifier.sample import Sample
from tests.classifier.samples import sample_of, samples

GOOD = {"id": "a", "text": "turn it off", "label": 0}


def lines(*rows: dict[str, object]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def test_documented_fields_are_read() -> None:
    """Prompt, tools and system are the file's own spellings; sample fields come as they are."""
    (row,) = parse(
        lines(
            GOOD
            | {
                "weight": 2.5,
                "group": "g",
                "kind": "command",
                "tools": [{"name": "light"}, {"name": "blind"}],
                "system": "You run a house.",
                "effort": "low",
                "flash_quality": 0.25,
                "opus_quality": 1,
            }
        ),
        "labels",
    ).rows
    assert (row.weight, row.group, row.kind, row.flash_quality, row.opus_quality) == (
        2.5,
        "g",
        "command",
        0.25,
        1,
    )
    assert sample_of(row) == Sample.bounded(
        text="turn it off", tools_offered_count=2, system_characters=16, effort="low"
    )


def test_group_defaults_to_the_id_and_prompt_is_text() -> None:
    """A row without a group is a group of its own."""
    (row,) = parse(lines({"id": "a", "prompt": "hello", "label": 1}), "labels").rows
    assert (row.group, sample_of(row).text, row.label) == ("a", "hello", 1)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "x", "label": 0}, "id must be text of 1 to 256 characters, got NoneType"),
        (GOOD | {"id": ""}, "got 0 characters"),
        (GOOD | {"label": 2}, "label must be 0 or 1, got 2"),
        (GOOD | {"label": True}, "label must be 0 or 1, got True"),
        ({"id": "a", "text": "x"}, "label must be 0 or 1, got None"),
        (GOOD | {"weight": 0}, "weight must be a number > 0, got 0"),
        (GOOD | {"weight": "2"}, "weight must be a finite number"),
        (GOOD | {"prompt": "x"}, "needs text or prompt, and only one"),
        ({"id": "a", "label": 0}, "needs text or prompt"),
        (GOOD | {"text": " "}, "text is empty"),
        (GOOD | {"wieght": 2}, "wieght is not a field"),
        (GOOD | {"tools": "three"}, "tools_offered_count must be int, got str"),
        (GOOD | {"tools": 2, "tools_offered_count": 2}, "both tools and tools_offered_count"),
        (GOOD | {"system": 5}, "system must be text"),
        (GOOD | {"effort": "huge"}, "effort must be one of low"),
        (GOOD | {"flash_quality": 1.5}, r"flash_quality must be within \[0, 1\]"),
        (GOOD | {"rank": -0.5}, r"rank must be within \[0, 1\]"),
        (GOOD | {"own_share": 2}, r"own_share must be within \[0, 1\]"),
        (GOOD | {"subject": 7}, "subject must be text"),
        (GOOD | {"group": "g" * 300}, "group must be text of 1 to 256 characters, got 300"),
    ],
)
def test_faults_are_named_with_their_line(row: dict[str, object], fault: str) -> None:
    """The first fault of a file is reported with its line number, field and limit."""
    with pytest.raises(DatasetError, match=fault) as caught:
        parse([*lines(GOOD | {"id": "first"}), b"", *lines(row)], "labels.jsonl")
    assert caught.value.line == 3
    assert str(caught.value).startswith("labels.jsonl, line 3: ")


def test_errors_do_not_quote_prompts() -> None:
    """Label files hold callers' words; errors name types and limits instead."""
    with pytest.raises(DatasetError) as caught:
        parse([b'{"id": "a", "label": 0, "text": ["my secret"]}'], "labels")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("line", [b"{", b"[1]", b'"text"', b"\xff\xfe"])
def test_lines_that_are_not_objects_are_refused(line: bytes) -> None:
    """Every line is a JSON object."""
    with pytest.raises(DatasetError, match="line 1"):
        parse([line], "labels")


def test_repeated_ids_and_empty_files_are_refused() -> None:
    """An id names one row; a file without rows trains nothing."""
    with pytest.raises(DatasetError, match="id 'a' is already used on line 1"):
        parse(lines(GOOD, GOOD), "labels")
    with pytest.raises(DatasetError, match="holds no rows"):
        parse([b"\n"], "labels")


def test_oversized_lines_are_not_read_into_memory(tmp_path: Path) -> None:
    """A line beyond the limit ends the reading with its number."""
    path = tmp_path / "labels.jsonl"
    path.write_bytes(lines(GOOD)[0] + b"\n" + b"x" * (MAX_LINE_BYTES + 1))
    with pytest.raises(DatasetError, match=f"line 2: is longer than {MAX_LINE_BYTES} bytes"):
        read(path)


def test_missing_and_damaged_files_are_dataset_errors(tmp_path: Path) -> None:
    """No path and no byte of a file surfaces another exception."""
    with pytest.raises(DatasetError, match="cannot be read"):
        read(tmp_path / "absent.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines(GOOD)[0])[:-9])
    with pytest.raises(DatasetError, match="cannot be read"):
        read(tmp_path / "cut.jsonl.gz")


def _is_written(sample: Sample) -> bool:
    """Whether a label file can hold it: text that is not blank, and no lone surrogate, which is not Unicode text."""
    words = (sample.text, sample.previous_user_text, sample.application or "", sample.action or "")
    return bool(sample.text.strip()) and not any(
        "\ud800" <= char <= "\udfff" for word in words for char in word
    )


@given(st.lists(samples().filter(_is_written), min_size=1, max_size=4))
def test_written_rows_read_back_equal(chosen: list[Sample]) -> None:
    """A row survives its line, whatever its text."""
    rows = tuple(
        LabelledSample(id=f"r{index}", group="g", label=index % 2, weight=1.5, kind="k", sample=sample)
        for index, sample in enumerate(chosen)
    )
    encoded = [json.dumps(row.to_row()).encode() for row in rows]
    assert parse(encoded, "labels") == Dataset(rows)


def test_compressed_files_read_as_plain_ones(tmp_path: Path) -> None:
    """Compression changes neither rows nor digest."""
    rows = parse(lines(GOOD, GOOD | {"id": "b", "label": 1}), "labels").rows
    for name in ("plain.jsonl", "packed.jsonl.gz"):
        write(tmp_path / name, rows)
    assert read(tmp_path / "plain.jsonl") == read(tmp_path / "packed.jsonl.gz")
    assert read(tmp_path / "plain.jsonl").digest() == read(tmp_path / "packed.jsonl.gz").digest()


def test_digest_changes_with_any_label() -> None:
    """Two datasets of one digest are one dataset."""
    assert parse(lines(GOOD), "x").digest() == parse(lines(dict(reversed(GOOD.items()))), "y").digest()
    assert parse(lines(GOOD), "x").digest() != parse(lines(GOOD | {"label": 1}), "x").digest()


@given(st.lists(st.integers(0, 8), min_size=2, max_size=40), st.floats(0.05, 0.9), st.integers(0, 5))
def test_group_split_keeps_groups_whole(groups: list[int], share: float, seed: int) -> None:
    """No group is on both sides, no row is lost, and the split repeats."""
    dataset = parse(
        lines(*({"id": str(i), "text": "x", "label": 0, "group": f"g{g}"} for i, g in enumerate(groups))), "x"
    )
    kept, held_out = dataset.split_by_group(share, seed)
    assert not set(kept.groups) & set(held_out.groups)
    assert len(kept) + len(held_out) == len(dataset)
    assert len(held_out) >= share * len(dataset)
    assert (kept, held_out) == dataset.split_by_group(share, seed)


class TestFeatureRows:
    """A ledger without texts can be trained on."""

    def test_a_row_of_features_reads_back_equal(self) -> None:
        """Labels, groups and qualities stand beside packed features as they do beside text."""
        row = LabelledFeatures(
            id="a", features=extract(Sample.bounded(text="prove it")), label=1, group="s1", opus_quality=1.0
        )
        assert parse([msgspec.json.encode(row.to_row())], "x").rows == (row,)
        assert row.text_characters == pytest.approx(8)

    def test_features_beside_text_are_refused(self) -> None:
        """Two spellings of one request could disagree."""
        row = {"id": "a", "label": 1, "text": "x", "features": extract(Sample.bounded(text="x")).pack()}
        with pytest.raises(DatasetError, match="text"):
            parse([msgspec.json.encode(row)], "x")
