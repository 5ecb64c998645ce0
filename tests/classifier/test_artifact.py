"""Artifacts: what is saved loads equal; what was tampered with, cut, foreign or of another version does not
load."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier import artifact
from classifier.array_file import MAX_ARRAYS_BYTES, ArtifactError
from classifier.artifact import ARRAYS, LAYOUTS, MANIFEST_NAME, SCHEMA_VERSION
from classifier.features import COLUMNS_OF_VERSION_2
from classifier.history import NO_HISTORY
from classifier.model import Model
from classifier.sample import Sample
from classifier.training import TrainedModel

TIME = "2026-11-22T00:00:00Z"


@pytest.fixture
def saved(trained: TrainedModel, tmp_path: Path) -> Path:
    trained.save(tmp_path / "m", TIME)
    return tmp_path / "m"


def rewrite(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest as JSON."""
    path = directory / MANIFEST_NAME
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))


def replace_arrays(directory: Path, packed: bytes) -> None:
    """Put other bytes in the arrays' place with a manifest that vouches for them."""
    rewrite(directory, lambda manifest: manifest.update(artifact.arrays_entry(packed)))
    name = json.loads((directory / MANIFEST_NAME).read_bytes())["arrays_name"]
    (directory / name).write_bytes(packed)


def arrays_of(directory: Path) -> dict[str, Any]:
    return dict(artifact.load(directory).arrays)


def packed_raw(arrays: dict[str, Any], *, allow_pickle: bool = False) -> bytes:
    """Pack without the checks of `pack_arrays`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=allow_pickle, **arrays)
    return buffer.getvalue()


def test_saved_models_load_equal(saved: Path, model: Model) -> None:
    """Scores, digest and manifest survive the disk."""
    loaded = Model.load(saved)
    sample = Sample.bounded(text="Compare the two plans")
    assert loaded.score(sample) == model.score(sample)
    assert loaded.digest == model.digest
    assert loaded.manifest == model.manifest
    assert loaded.manifest.created_time == TIME


def test_saving_twice_is_the_same_and_leaves_no_litter(saved: Path, trained: TrainedModel) -> None:
    """Equal models have equal bytes; a newer model replaces the arrays of the older."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    trained.save(saved, TIME)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    arrays = arrays_of(saved)
    arrays["name_weights"] = arrays["name_weights"] + 1.0
    artifact.save(saved, artifact.load(saved).manifest, arrays)
    assert len(list(saved.iterdir())) == 2
    assert artifact.load(saved).arrays["name_weights"].min() >= 0.5


@pytest.mark.parametrize("offset", [0, 200, -1])
def test_one_changed_byte_of_the_arrays_is_noticed(saved: Path, offset: int) -> None:
    """The checksum covers every byte."""
    (path,) = saved.glob("weights-*.npz")
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="was changed"):
        Model.load(saved)


def test_cut_and_missing_files_are_noticed(saved: Path) -> None:
    """A half-copied artifact does not load."""
    (path,) = saved.glob("weights-*.npz")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="bytes, the manifest says"):
        Model.load(saved)
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        Model.load(saved)
    (saved / MANIFEST_NAME).unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read"):
        Model.load(saved)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda m: m.update(format="pickle"), "format"),
        (lambda m: m.update(schema_version=99), "schema_version 99"),
        (lambda m: m.update(sample_version=99), "sample_version 99"),
        (lambda m: m.update(feature_version=99), "feature_version 99"),
        (lambda m: m.update(extra=1), "not a classifier manifest"),
        (lambda m: m.pop("bias"), "not a classifier manifest"),
        (lambda m: m.update(bias="0"), "not a classifier manifest"),
        (lambda m: m.update(threshold=1.5), "threshold"),
        (lambda m: m.update(created_time="yesterday"), "created_time 'yesterday'"),
        (lambda m: m.update(created_time=""), "created_time"),
        (lambda m: m.update(created_time="12026-11-23T00:00:00Z"), "created_time"),
        (lambda m: m.update(calibration_slope=-1.0), "calibration_slope"),
        (lambda m: m.update(bias=1e308), "bias"),
        (lambda m: m.update(calibration_slope=1e308), "calibration_slope"),
        (lambda m: m.update(calibration_intercept=-1e308), "calibration_intercept"),
        (lambda m: m.update(arrays_name="../../etc/passwd"), "arrays file"),
        (lambda m: m.update(arrays_name="weights-0.npz"), "arrays file"),
    ],
)
def test_foreign_manifests_are_refused(
    saved: Path, change: Callable[[dict[str, Any]], object], fault: str
) -> None:
    """Another format, version, field, type or path is refused by name."""
    rewrite(saved, change)
    with pytest.raises(ArtifactError, match=fault):
        Model.load(saved)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"bias": NaN}',
        b"\x80\x04.",
        b'{"metrics": {"a": ' + b"[" * 60_000,
        b'{"created_time": "\xff"}',
    ],
    ids=["empty", "brace", "list", "nan", "pickle", "deep", "no UTF-8"],
)
def test_manifests_that_are_not_json_objects_are_refused(saved: Path, text: bytes) -> None:
    """Whatever stands in the manifest's place, the answer is an artifact error."""
    (saved / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(ArtifactError, match="not a classifier manifest"):
        Model.load(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(saved: Path, value: float) -> None:
    """One bad weight would poison every score."""
    arrays = arrays_of(saved)
    arrays["structure_weights"] = arrays["structure_weights"].copy()
    arrays["structure_weights"][3] = value
    replace_arrays(saved, packed_raw(arrays))
    with pytest.raises(ArtifactError, match="not finite"):
        Model.load(saved)


def test_weights_so_large_that_no_request_could_be_scored_are_refused(saved: Path) -> None:
    """Finite each, not finite in sum: it would load, and then fail every request."""
    arrays = arrays_of(saved)
    replace_arrays(
        saved, packed_raw(arrays | {"ngram_weights": np.full_like(arrays["ngram_weights"], 1e308)})
    )
    with pytest.raises(ArtifactError, match="array ngram_weights holds values beyond"):
        Model.load(saved)


def npy_of(length: int) -> bytes:
    """The head of an array of that length, and nothing behind it."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({length},), }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


@pytest.mark.parametrize(
    "member",
    [pickle.dumps(list(range(9))), b"", npy_of(10**13), npy_of(10**30), npy_of(-5)],
    ids=["no array", "empty", "terabytes", "no number of the machine's", "negative"],
)
def test_members_that_are_no_arrays_are_refused(saved: Path, member: bytes) -> None:
    """Checksums agree, NumPy fails in ways of its own or hands bytes on: an artifact error all the same."""
    arrays = arrays_of(saved)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ARRAYS:
            file = io.BytesIO()
            np.lib.format.write_array(file, arrays[name])
            archive.writestr(f"{name}.npy", member if name == "name_weights" else file.getvalue())
    replace_arrays(saved, buffer.getvalue())
    with pytest.raises(ArtifactError, match="not a file of plain arrays"):
        Model.load(saved)


@pytest.mark.parametrize(
    "array", [np.zeros(7), np.zeros((ARRAYS["name_weights"], 1)), np.zeros(1024, np.float32)]
)
def test_misshapen_arrays_are_refused(saved: Path, array: Any) -> None:
    """Shape and dtype are part of the format."""
    replace_arrays(saved, packed_raw(arrays_of(saved) | {"name_weights": array}))
    with pytest.raises(ArtifactError, match="array name_weights is"):
        Model.load(saved)


def test_other_sets_of_arrays_are_refused(saved: Path) -> None:
    """No array may be missing, none may be extra."""
    arrays = arrays_of(saved)
    replace_arrays(saved, packed_raw(arrays | {"more": np.zeros(1)}))
    with pytest.raises(ArtifactError, match="holds"):
        Model.load(saved)


class Exploit:
    """Would write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_loading_runs_no_code(saved: Path, tmp_path: Path) -> None:
    """A pickled object among the arrays is refused without being opened, even with matching checksums."""
    trap = tmp_path / "ran"
    arrays = arrays_of(saved) | {"name_weights": np.array([Exploit(trap)], dtype=object)}
    packed = packed_raw(arrays, allow_pickle=True)
    replace_arrays(saved, packed)
    with pytest.raises(ArtifactError, match="not a file of plain arrays"):
        Model.load(saved)
    replace_arrays(saved, pickle.dumps(Exploit(trap)))
    with pytest.raises(ArtifactError, match="not a file of plain arrays"):
        Model.load(saved)
    assert not trap.exists()


def test_archives_that_would_burst_memory_are_refused(saved: Path) -> None:
    """The unpacked size is bounded before anything is unpacked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ARRAYS:
            size = MAX_ARRAYS_BYTES + 1 if name == "name_weights" else 8
            archive.writestr(f"{name}.npy", b"\0" * size)
    replace_arrays(saved, buffer.getvalue())
    with pytest.raises(ArtifactError, match="would unpack to more than"):
        Model.load(saved)


def test_bad_arrays_are_not_saved(saved: Path) -> None:
    """Saving refuses what loading would refuse, and leaves the old model in place."""
    loaded = artifact.load(saved)
    with pytest.raises(ArtifactError, match="ngram_idf"):
        artifact.save(
            saved, loaded.manifest, dict(loaded.arrays) | {"ngram_idf": np.zeros(ARRAYS["ngram_idf"])}
        )
    assert artifact.load(saved).digest == loaded.digest


def test_digest_names_the_manifest(saved: Path) -> None:
    """The digest is the manifest's own checksum, so it can be recomputed with any tool."""
    data = (saved / MANIFEST_NAME).read_bytes()
    assert Model.load(saved).digest == hashlib.sha256(data).hexdigest()[:12]


def test_a_model_of_the_version_before_scores_as_it_did(saved: Path, model: Model) -> None:
    """What an operator trained before the session's history was told goes on serving, and weighs none of it."""
    old = first_tables(arrays_of(saved))
    for name in ("structure_weights", "structure_means"):
        old[name] = old[name][:COLUMNS_OF_VERSION_2]
    del old["encoder_weights"]
    replace_arrays(saved, packed_raw(old))
    rewrite(saved, lambda manifest: manifest.update(schema_version=2, sample_version=1, feature_version=2))
    loaded = Model.load(saved)
    plain = Sample.bounded(text="Compare the two plans", previous_route="opus")
    told = Sample.bounded(
        text="Compare the two plans",
        previous_route="opus",
        history=NO_HISTORY.after("flash", "refusal").judged("bad"),
    )
    assert loaded.score(plain).value == model.score(plain).value
    assert loaded.score(told).value == loaded.score(plain).value


def first_tables(arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays as they were before each layout of a task had tables of its own."""
    names = ("ngram_weights", "name_weights", "structure_weights", "encoder_weights")
    old = arrays | {name: arrays[name][: ARRAYS[name] // LAYOUTS] for name in names}
    del old["layout_biases"]
    return old


def test_a_model_without_layouts_says_of_each_what_it_says_of_all(saved: Path, model: Model) -> None:
    """A model of the schema before scores questions with and without options by its only tables, and saves as new."""
    replace_arrays(saved, packed_raw(first_tables(arrays_of(saved))))
    rewrite(saved, lambda manifest: manifest.update(schema_version=3))
    loaded = Model.load(saved)
    for text in (
        "Compare the two plans",
        "Which?\nA) x\nB) y\n",
        "Which?\n" + "".join(f"{c}) x\n" for c in "ABCDEFGH"),
    ):
        sample = Sample.bounded(text=text)
        assert loaded.score(sample).raw == pytest.approx(model.score(sample).raw, abs=1e-12)
    again = artifact.save(saved, loaded.manifest, loaded.artifact.arrays)
    assert again.manifest.schema_version == SCHEMA_VERSION
    assert Model.load(saved).score(sample) == Model(again).score(sample)


@pytest.mark.parametrize("misshapen", [np.zeros(7), np.array(0.0), np.zeros((1024, 1))])
def test_misshapen_tables_of_an_old_model_are_refused(saved: Path, misshapen: Any) -> None:
    """What cannot be repeated for the layouts is an artifact error, too."""
    replace_arrays(saved, packed_raw(first_tables(arrays_of(saved)) | {"name_weights": misshapen}))
    rewrite(saved, lambda manifest: manifest.update(schema_version=3))
    with pytest.raises(ArtifactError, match="array name_weights is"):
        Model.load(saved)


def test_a_new_model_of_too_few_columns_is_refused(saved: Path) -> None:
    """Only the old version may lack columns."""
    arrays = arrays_of(saved)
    arrays["structure_weights"] = arrays["structure_weights"][:COLUMNS_OF_VERSION_2]
    replace_arrays(saved, packed_raw(arrays))
    with pytest.raises(ArtifactError, match="structure_weights"):
        Model.load(saved)
