"""A trained model on disk: one JSON manifest and one file of arrays, checked before use; data, never code.

    <directory>/manifest.json            what it is, what it was made from, how good it was, checksums
    <directory>/weights-<sha256>.npz     float64 arrays named in `ARRAYS`

Rule: nothing is used before it is proved: size, checksum, names, shapes, dtype, finiteness, and the versions
of the sample and the features it was fit on. Arrays are read with pickle refused. The arrays' file is named
by its content and the manifest is replaced last and atomically, so a crash while saving leaves the old model
or the new one.

A checksum proves that the files belong together, not who made them: whoever may write the directory may
change the model. It does not know how the arrays were learned (`training`) or how they score (`model`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from classifier import features, sample
from classifier.array_file import Array, ArtifactError, pack, read_arrays, read_file, replace_file
from classifier.encoder import COLUMNS as ENCODER_COLUMNS
from classifier.encoder import EncoderEntry
from classifier.features import COLUMNS_OF_VERSION_2, NAME_BUCKETS, NGRAM_BUCKETS, STRUCTURE_NAMES

FORMAT: Final = "hybrid-router-classifier"
SCHEMA_VERSION: Final = 4
"""Version of the manifest and of the set of arrays."""

READABLE_VERSIONS: Final = (2, 3, 4)
"""Versions that load: 2 had no columns for the session's history, and its models score as if they weighed nothing; up
to 3 one table of weights held for every layout of a task."""

MANIFEST_NAME: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 1 << 20
"""Bound on what is read into memory before it is checked."""

TREES: Final = 80
TREE_NODES: Final = 7
TREE_LEAVES: Final = 8
"""Complete trees of depth 3 over the structure; a model with fewer has trees of zeros."""

ALWAYS_LEFT: Final = 1e300
"""Threshold of a node that decides nothing."""

LAYOUTS: Final = 3
"""Layouts of a task: answered freely, by one of few options, by one of many; each has its tables of weights."""

FEW_OPTIONS: Final = 5
"""Most answer options that are few."""

ARRAYS: Final[dict[str, int]] = {
    "ngram_weights": LAYOUTS * NGRAM_BUCKETS,
    "ngram_idf": NGRAM_BUCKETS,
    "name_weights": LAYOUTS * NAME_BUCKETS,
    "structure_weights": LAYOUTS * len(STRUCTURE_NAMES),
    "structure_means": len(STRUCTURE_NAMES),
    "layout_biases": LAYOUTS,
    "tree_columns": TREES * TREE_NODES,
    "tree_thresholds": TREES * TREE_NODES,
    "tree_leaves": TREES * TREE_LEAVES,
    "encoder_weights": LAYOUTS * ENCODER_COLUMNS,
}
"""Array -> length; all one-dimensional float64, finite; `ngram_idf` > 0. Tables of the layouts stand one after another;
`layout_biases` are what each adds to the manifest's bias. Trees stand one after another, nodes level by
level: node i goes to 2i+1 if its column <= its threshold, else to 2i+2; leaves are in units of the raw score."""

LARGEST: Final = 1e9
"""Bound on every number but thresholds of nodes: larger ones load and then fail, or blind, every single request."""

_LEAST_VERSION: Final = {"encoder_weights": 3, "layout_biases": 4}
"""Array -> schema version it came with."""

_ARRAYS_NAME: Final = re.compile(r"weights-[0-9a-f]{16}\.npz")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the artifact is; see `ARRAYS` for the arrays beside it.

    Attributes:
        format: Must be `FORMAT`.
        schema_version, sample_version, feature_version: Must be among the versions this code reads.
        created_time: RFC 3339 time of training, as the trainer was told.
        libraries: Library -> version that fitted it; information, not a requirement.
        seed: Seed of every random choice in training.
        settings: Training settings as given.
        data_digest: SHA-256 of the training rows in canonical form.
        rows, positive_rows, groups: Size of the training data.
        bias: Decision value of a sample answered freely, with average structure and no words, trees aside.
        calibration_slope, calibration_intercept: value = sigmoid(slope * raw + intercept).
        threshold: Threshold the training suggests, in [0, 1].
        metrics: Out-of-group figures of the training report.
        arrays_name, arrays_bytes, arrays_sha256: The file of arrays.
        encoder: The text encoder it was fitted with, None for none.
    """

    format: str
    schema_version: int
    sample_version: int
    feature_version: int
    created_time: str
    libraries: dict[str, str]
    seed: int
    settings: dict[str, Any]
    data_digest: str
    rows: int
    positive_rows: int
    groups: int
    bias: float
    calibration_slope: float
    calibration_intercept: float
    threshold: float
    metrics: dict[str, Any]
    arrays_name: str
    arrays_bytes: int
    arrays_sha256: str
    encoder: EncoderEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A checked manifest with its arrays.

    Attributes:
        manifest: As read or about to be written.
        digest: First 12 hex digits of the SHA-256 of the manifest's bytes; names the model everywhere.
        arrays: One array per name in `ARRAYS`.
    """

    manifest: Manifest
    digest: str
    arrays: Mapping[str, Array]


def pack_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Serialise the arrays of `ARRAYS`; equal arrays give equal bytes.

    Raises:
        ArtifactError: An array is missing, misshapen or not finite.
    """
    _check_arrays("arrays to save", arrays)
    return pack({name: arrays[name] for name in ARRAYS})


def arrays_entry(packed: bytes) -> dict[str, Any]:
    """The manifest's three fields about the file of arrays."""
    sha256 = hashlib.sha256(packed).hexdigest()
    return {
        "arrays_name": f"weights-{sha256[:16]}.npz",
        "arrays_bytes": len(packed),
        "arrays_sha256": sha256,
    }


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's bytes: indented JSON with sorted keys, so that diffs read and digests are stable."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


def digest_of(manifest_bytes: bytes) -> str:
    """The short name of a model, from its manifest's bytes."""
    return hashlib.sha256(manifest_bytes).hexdigest()[:12]


def save(directory: Path, manifest: Manifest, arrays: Mapping[str, Array]) -> Artifact:
    """Write the artifact into `directory`, replacing one that is there, and return it as `load` would.

    Args:
        directory: Created if missing; other files in it are left alone.
        manifest: Its `arrays_*` fields and versions are filled in here.

    Raises:
        ArtifactError: The arrays or the manifest would not load again.
        OSError: The directory cannot be written.
    """
    packed = pack_arrays(arrays)
    # What was read of an older version was completed by `load`, so it is of this one now.
    manifest = msgspec.structs.replace(
        manifest,
        schema_version=SCHEMA_VERSION,
        sample_version=sample.SAMPLE_VERSION,
        feature_version=features.FEATURE_VERSION,
        **arrays_entry(packed),
    )
    encoded = encode_manifest(manifest)
    artifact = Artifact(
        manifest=_decode_manifest("manifest", encoded), digest=digest_of(encoded), arrays=arrays
    )
    directory.mkdir(parents=True, exist_ok=True)
    old = _arrays_name_in(directory)
    replace_file(directory / manifest.arrays_name, packed)
    replace_file(directory / MANIFEST_NAME, encoded)
    if old is not None and old != manifest.arrays_name:
        (directory / old).unlink(missing_ok=True)
    return artifact


def load(directory: Path) -> Artifact:
    """Read and check the artifact in `directory`.

    Raises:
        ArtifactError: Anything at all is wrong with it.
    """
    manifest_path = directory / MANIFEST_NAME
    encoded = read_file(manifest_path, MAX_MANIFEST_BYTES)
    manifest = _decode_manifest(str(manifest_path), encoded)
    arrays_path = directory / manifest.arrays_name
    arrays = read_arrays(
        arrays_path,
        byte_count=manifest.arrays_bytes,
        sha256=manifest.arrays_sha256,
        names=[name for name in ARRAYS if _LEAST_VERSION.get(name, 0) <= manifest.schema_version],
    )
    if manifest.schema_version < 3:
        arrays["encoder_weights"] = np.zeros(ENCODER_COLUMNS)
    if manifest.feature_version == 2:
        _append_columns(arrays)
    if manifest.schema_version < 4:
        _repeat_tables(arrays)
    _check_arrays(str(arrays_path), arrays)
    return Artifact(manifest=manifest, digest=digest_of(encoded), arrays=arrays)


def _decode_manifest(where: str, encoded: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ArtifactError(f"{where} is not a classifier manifest: {error}") from error
    if manifest.format != FORMAT:
        raise ArtifactError(f"{where} is of format {manifest.format!r}, not {FORMAT!r}")
    for name, readable in (
        ("schema_version", READABLE_VERSIONS),
        ("sample_version", sample.READABLE_VERSIONS),
        ("feature_version", features.READABLE_VERSIONS),
    ):
        if (found := getattr(manifest, name)) not in readable:
            known = " or ".join(map(str, readable))
            raise ArtifactError(f"{where} has {name} {found}, this code reads {known}; retrain the model")
    if not _ARRAYS_NAME.fullmatch(manifest.arrays_name):
        raise ArtifactError(
            f"{where} names an arrays file {manifest.arrays_name!r} that is not of this format"
        )
    if not _is_time(manifest.created_time):
        raise ArtifactError(
            f"{where} has created_time {manifest.created_time[:40]!r}, which is no RFC 3339 time; retrain the model"
        )
    if not 0.0 <= manifest.threshold <= 1.0:
        raise ArtifactError(f"{where} has threshold {manifest.threshold}, not within [0, 1]")
    if manifest.calibration_slope <= 0.0:
        raise ArtifactError(f"{where} has calibration_slope {manifest.calibration_slope}, which must be > 0")
    for name in ("bias", "calibration_slope", "calibration_intercept"):
        if not abs(found := getattr(manifest, name)) <= LARGEST:
            raise ArtifactError(f"{where} has {name} {found:g}, more than {LARGEST:g}")
    return manifest


def _is_time(text: str) -> bool:
    """Whether it is a time that can be shown as one: a date is, too; the year 10000 is not."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _append_columns(arrays: dict[str, Array]) -> None:
    """Give a model of feature version 2 the columns it did not know, at no weight, if it has not got them yet."""
    for name in ("structure_weights", "structure_means"):
        if arrays[name].shape == (COLUMNS_OF_VERSION_2,):
            arrays[name] = np.pad(arrays[name], (0, len(STRUCTURE_NAMES) - COLUMNS_OF_VERSION_2))


def _repeat_tables(arrays: dict[str, Array]) -> None:
    """Let a model that knows no layouts say of each what it says of all; arrays of a wrong length stay wrong."""
    for name in ("ngram_weights", "name_weights", "structure_weights", "encoder_weights"):
        if arrays[name].shape == (ARRAYS[name] // LAYOUTS,):
            arrays[name] = np.tile(arrays[name], LAYOUTS)
    arrays["layout_biases"] = np.zeros(LAYOUTS)


def _check_arrays(where: str, arrays: Mapping[str, Array]) -> None:
    for name, length in ARRAYS.items():
        array = arrays.get(name)
        if array is None:
            raise ArtifactError(f"{where}: array {name} is missing")
        if array.dtype != np.float64 or array.shape != (length,):
            raise ArtifactError(
                f"{where}: array {name} is {array.dtype} of shape {array.shape}, not float64 of ({length},)"
            )
        if not np.isfinite(array).all():
            raise ArtifactError(f"{where}: array {name} holds values that are not finite")
        if name != "tree_thresholds" and not (np.abs(array) <= LARGEST).all():
            raise ArtifactError(f"{where}: array {name} holds values beyond {LARGEST:g}")
    if not (arrays["ngram_idf"] > 0.0).all():
        raise ArtifactError(f"{where}: array ngram_idf holds values that are not > 0")
    columns = arrays["tree_columns"]
    if not ((columns >= 0.0) & (columns < len(STRUCTURE_NAMES)) & (columns == np.floor(columns))).all():
        raise ArtifactError(f"{where}: array tree_columns holds values that are no structure column")


def _arrays_name_in(directory: Path) -> str | None:
    """The arrays file the manifest there names, if it is one of ours; damaged ones are simply replaced."""
    try:
        return _decode_manifest("", read_file(directory / MANIFEST_NAME, MAX_MANIFEST_BYTES)).arrays_name
    except ArtifactError:
        return None
