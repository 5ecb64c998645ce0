"""Features: total, finite, bounded, without text, and the same wherever they are computed."""

from __future__ import annotations

import binascii
import json
import struct
import subprocess
import sys
from math import isfinite
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given

from classifier.features import (
    COLUMNS_OF_VERSION_2,
    DETAIL_NAMES,
    FEATURE_VERSION,
    NAME_BUCKETS,
    NGRAM_BUCKETS,
    STRUCTURE_NAMES,
    Features,
    Measures,
    extract,
    measure,
    name_buckets,
    name_surfaces,
    ngram_surfaces,
)
from classifier.sample import Sample
from classifier.words import words
from tests.classifier.samples import samples


def named(sample: Sample) -> dict[str, float]:
    return dict(zip(STRUCTURE_NAMES, extract(sample).structure, strict=True))


@given(samples())
def test_every_sample_has_finite_bounded_features(sample: Sample) -> None:
    """Any text in any language gives one finite number per name and buckets within range."""
    features = extract(sample)
    assert len(features.structure) == len(STRUCTURE_NAMES)
    assert all(isfinite(value) and abs(value) < 25.0 for value in features.structure)
    assert all(0 <= bucket < NGRAM_BUCKETS for bucket in features.ngrams)
    assert all(0 <= bucket < NAME_BUCKETS for bucket in features.names)


@given(samples())
def test_surfaces_name_exactly_the_buckets(sample: Sample) -> None:
    """Explanation derives the same buckets as scoring, so every weight can be shown with its words."""
    assert set(ngram_surfaces(sample.text)) == set(extract(sample).ngrams)
    assert set(name_surfaces(sample)) == set(extract(sample).names)


@given(samples())
def test_features_survive_a_row_without_text(sample: Sample) -> None:
    """A ledger row reads back equal; it holds numbers only."""
    features = extract(sample)
    row = json.loads(json.dumps(features.to_row()))
    assert Features.from_row(row) == features
    flat = [*row["ngrams"], *row["names"], *row["structure"], row["feature_version"]]
    assert all(isinstance(value, int | float) for value in flat)


@given(samples())
def test_buckets_are_the_checksums_of_words(sample: Sample) -> None:
    """The sorted array of the serving path holds the documented hashes, spelled out here one by one."""
    encoded = [word.encode() for word in words(sample.text)]
    expected = {crc32(word) % NGRAM_BUCKETS for word in encoded}
    expected |= {crc32(b"\x02" + word) % NGRAM_BUCKETS for word in encoded[:1]}
    assert extract(sample).ngrams == expected
    measured, structure = measure(sample)
    assert measured.tolist() == sorted(expected)
    assert structure == extract(sample).structure


def test_hashes_do_not_depend_on_the_process() -> None:
    """Another interpreter with another hash seed computes the same buckets."""
    code = (
        "from classifier.features import extract; from classifier.sample import Sample;"
        "print(sorted(extract(Sample.bounded(text='prove that p is prime', application='crm')).ngrams))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().count(",") == 5


def test_kind_shows_in_the_structure() -> None:
    """A command, an analysis, a tool result and code differ in the columns named after them."""
    command = named(Sample.bounded(text="turn off the lights", tools_offered_count=3))
    assert (command["opens_with_command"], command["tools_and_short"], command["analysis_words"]) == (1, 1, 0)
    analysis = named(Sample.bounded(text="Compare both contracts and justify which risk is worse. Why?"))
    assert analysis["opens_with_analysis"] == 1
    assert analysis["analysis_words"] >= 2
    assert analysis["ends_with_question"] == 1
    loop = named(Sample.bounded(text="", tool_result_count=2, tool_loop=True))
    assert loop["is_empty"] == loop["tool_loop"] == 1
    code = named(Sample.bounded(text="```python\ndef f(x):\n    return {x: 1}\n```"))
    assert code["code_fence"] == 1
    assert code["code_words"] >= 2
    assert code["code_punctuation_share"] > 0


def test_layout_of_a_task_is_counted() -> None:
    """Answer options, numbers, indentation and brackets are read off the text; plain requests have none."""
    asked = named(Sample.bounded(text="What is 12345 / 5?\nA. 2469\nB. 2470\nC. none of these\nAnswer:"))
    assert asked["options"] == 3.0
    assert asked["numeric_option_share"] == pytest.approx(2 / 3)
    assert asked["number_digits"] == 5.0
    assert asked["stem_characters_log"] < asked["text_characters_log"]
    code = named(Sample.bounded(text="def f(a):\n    for b in a:\n        g(b)"))
    assert code["indent_log"] == pytest.approx(np.log1p(8))
    assert code["brackets_log"] == pytest.approx(np.log1p(2))
    plain = named(Sample.bounded(text="thanks a lot"))
    assert [plain[name] for name in DETAIL_NAMES if name != "stem_characters_log"] == [0.0] * 8


def test_names_of_different_kinds_do_not_share_a_bucket() -> None:
    """An application and an action of one name are two features."""
    (application,) = extract(Sample.bounded(text="x", application="report")).names
    (action,) = extract(Sample.bounded(text="x", action="report")).names
    assert application != action


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"feature_version": FEATURE_VERSION + 1}, "feature_version"),
        ({"ngrams": [NGRAM_BUCKETS]}, "ngrams"),
        ({"names": [-1]}, "names"),
        ({"structure": [0.0]}, "structure"),
    ],
)
def test_foreign_feature_rows_are_refused(change: dict[str, object], fault: str) -> None:
    """A stored row of another version or shape is refused rather than scored."""
    row = extract(Sample.bounded(text="hello")).to_row() | change
    with pytest.raises(ValueError, match=fault):
        Features.from_row(row)


class TestPacked:
    """Features travel as text and come back equal."""

    @given(samples())
    def test_what_was_packed_comes_back_equal(self, sample: Sample) -> None:
        """Whatever the request, and whether its measures or its record were packed."""
        features = extract(sample)
        assert Features.unpack(features.pack()) == features
        assert Measures(*measure(sample), name_buckets(sample)).pack() == features.pack()

    @given(samples())
    def test_the_packed_form_is_short(self, sample: Sample) -> None:
        """It stands in every row of a ledger: 2 bytes a bucket and 8 a number, a third more as text."""
        features = extract(sample)
        packed = 21 + 2 * (len(features.ngrams) + len(features.names)) + 8 * len(STRUCTURE_NAMES)
        assert len(features.pack()) <= (packed + 2) // 3 * 4

    @pytest.mark.parametrize(
        "text", ["", "?", "AAAA", extract(Sample.bounded(text="hi")).pack()[:-4], "\u00e9" * 40]
    )
    def test_foreign_text_is_refused(self, text: str) -> None:
        """Nothing but what `pack` wrote is read."""
        with pytest.raises(ValueError, match=r"packed features|feature_version|ASCII"):
            Features.unpack(text)

    @given(samples())
    def test_what_version_2_packed_is_read_with_its_missing_columns_unknown(self, sample: Sample) -> None:
        """Rows written before the history was told train the next model: their columns are where they were."""
        features = extract(sample)
        known = features.structure[:COLUMNS_OF_VERSION_2]
        bits = sum(1 << place for place, value in enumerate(known) if value)
        ngrams, names = sorted(features.ngrams), features.names
        raw = struct.pack("<BHHQ", 2, len(ngrams), len(names), bits)
        raw += struct.pack(f"<{bits.bit_count()}d", *[value for value in known if value])
        raw += struct.pack(f"<{len(ngrams) + len(names)}H", *ngrams, *names)
        read = Features.unpack(binascii.b2a_base64(raw, newline=False).decode())
        assert read.structure == known + (0.0,) * (len(STRUCTURE_NAMES) - COLUMNS_OF_VERSION_2)
        assert (read.ngrams, read.names) == (features.ngrams, names)
        row = features.to_row() | {"feature_version": 2, "structure": list(known)}
        assert Features.from_row(row) == read

    def test_another_version_is_refused(self) -> None:
        """A later release's buckets mean something else."""
        raw = bytearray(binascii.a2b_base64(extract(Sample.bounded(text="hi")).pack()))
        raw[0] = FEATURE_VERSION + 1
        with pytest.raises(ValueError, match="feature_version"):
            Features.unpack(binascii.b2a_base64(raw, newline=False).decode())
