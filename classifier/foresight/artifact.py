"""A foresight on disk: one JSON manifest and one file of arrays, checked before use; data, never code.

The same rules as for `classifier.artifact` (`classifier.array_file` does the reading): size, checksum, names, shapes,
dtype, finiteness and the version of the columns are proved before anything is used, pickle is refused, the arrays' file
is named by its content and the manifest is replaced last.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from classifier.array_file import Array, ArtifactError, pack, read_arrays, read_file, replace_file
from classifier.artifact import LARGEST, MANIFEST_NAME, MAX_MANIFEST_BYTES, arrays_entry, digest_of
from classifier.foresight.columns import COLUMN_VERSION, COLUMNS
from classifier.foresight.windows import COUNT, GROUP_COUNT

FORMAT: Final = "hybrid-router-foresight"
SCHEMA_VERSION: Final = 1
_ARRAYS_NAME: Final = re.compile(r"weights-[0-9a-f]{16}\.npz")

ARRAYS: Final[dict[str, int]] = {
    "window_weights": GROUP_COUNT * len(COLUMNS),
    "window_bases": COUNT,
    "route_weights": len(COLUMNS),
    "route_bases": GROUP_COUNT,
}
"""Array -> length; all one-dimensional float64, finite, at most `LARGEST`; weights of groups one after another."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the artifact is.

    Attributes:
        format, schema_version, column_version: Must equal this code's.
        created_time: RFC 3339 time of training, as the trainer was told.
        settings: Training settings as given.
        sources: What it was fitted on, for people.
        data_digest: SHA-256 of the turns it was fitted on.
        turns, sessions: Size of the training data.
        routes_known: Whether it was fitted on sessions that went to both routes; else the chance of Opus is the
            share of the session's own turns (`history.opus_share`).
        metrics: Figures on sessions it did not see.
        arrays_name, arrays_bytes, arrays_sha256: The file of arrays.
    """

    format: str
    schema_version: int
    column_version: int
    created_time: str
    settings: dict[str, Any]
    sources: list[str]
    data_digest: str
    turns: int
    sessions: int
    routes_known: bool
    metrics: dict[str, Any]
    arrays_name: str = ""
    arrays_bytes: int = 0
    arrays_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A checked manifest with its arrays.

    Attributes:
        digest: First 12 hex digits of the SHA-256 of the manifest's bytes; names the model everywhere.
    """

    manifest: Manifest
    digest: str
    arrays: Mapping[str, Array]


def made(manifest: Manifest, arrays: Mapping[str, Array]) -> Artifact:
    """An artifact of these, not on disk yet; the manifest's `arrays_*` are filled in.

    Raises:
        ArtifactError: It would not load again.
    """
    _check("arrays to save", arrays)
    whole = msgspec.structs.replace(manifest, **arrays_entry(_packed(arrays)))
    encoded = _encoded(whole)
    return Artifact(manifest=_decoded("manifest", encoded), digest=digest_of(encoded), arrays=arrays)


def save(directory: Path, artifact: Artifact) -> None:
    """Write the artifact into `directory`, made when missing, replacing one that is there.

    Raises:
        OSError: The directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("weights-*.npz"):
        if old.name != artifact.manifest.arrays_name:
            old.unlink()
    replace_file(directory / artifact.manifest.arrays_name, _packed(artifact.arrays))
    replace_file(directory / MANIFEST_NAME, _encoded(artifact.manifest))


def load(directory: Path) -> Artifact:
    """Read and check the artifact in `directory`.

    Raises:
        ArtifactError: Anything at all is wrong with it.
    """
    path = directory / MANIFEST_NAME
    encoded = read_file(path, MAX_MANIFEST_BYTES)
    manifest = _decoded(str(path), encoded)
    arrays_path = directory / manifest.arrays_name
    arrays = read_arrays(
        arrays_path, byte_count=manifest.arrays_bytes, sha256=manifest.arrays_sha256, names=ARRAYS
    )
    _check(str(arrays_path), arrays)
    return Artifact(manifest=manifest, digest=digest_of(encoded), arrays=arrays)


def digest_of_rows(rows: bytes) -> str:
    """The manifest's name for its training data."""
    return hashlib.sha256(rows).hexdigest()


def _packed(arrays: Mapping[str, Array]) -> bytes:
    return pack({name: arrays[name] for name in ARRAYS})


def _encoded(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


def _decoded(where: str, encoded: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ArtifactError(f"{where} is not a manifest of a foresight: {error}") from error
    if manifest.format != FORMAT:
        raise ArtifactError(f"{where} is of format {manifest.format!r}, not {FORMAT!r}")
    for name, supported in (("schema_version", SCHEMA_VERSION), ("column_version", COLUMN_VERSION)):
        if (found := getattr(manifest, name)) != supported:
            raise ArtifactError(f"{where} has {name} {found}, this code reads {supported}; retrain it")
    if not _ARRAYS_NAME.fullmatch(manifest.arrays_name):
        raise ArtifactError(
            f"{where} names an arrays file {manifest.arrays_name!r} that is not of this format"
        )
    return manifest


def _check(where: str, arrays: Mapping[str, Array]) -> None:
    for name, length in ARRAYS.items():
        array = arrays.get(name)
        if array is None:
            raise ArtifactError(f"{where}: array {name} is missing")
        if array.dtype != np.float64 or array.shape != (length,):
            raise ArtifactError(
                f"{where}: array {name} is {array.dtype} of shape {array.shape}, not float64 of ({length},)"
            )
        if not np.isfinite(array).all() or not (np.abs(array) <= LARGEST).all():
            raise ArtifactError(f"{where}: array {name} holds values that are not finite, or beyond bounds")
