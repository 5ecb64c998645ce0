"""Files of plain arrays, proved before they are used: the right size and checksum, the right names, never code.

The rule: what an archive claims of itself is checked before anything is decompressed, pickle is refused, and a file is
replaced whole by one rename. Shapes and values are the caller's to check; who made a file is nobody's to know.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_ARRAYS_BYTES: Final = 1 << 26
"""Bound on what is read into memory before it is checked, compressed or not."""

Array = npt.NDArray[np.float64]


class ArtifactError(Exception):
    """A model file is missing, damaged, foreign or of another version; the message names the file and the
    fault."""


def pack(arrays: Mapping[str, Array]) -> bytes:
    """The arrays as one compressed file, in their order; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()


def read_arrays(path: Path, *, byte_count: int, sha256: str, names: Collection[str]) -> dict[str, Array]:
    """Read a file of plain arrays that has to be exactly this one and hold exactly these names.

    Raises:
        ArtifactError: It is another one, or none.
    """
    data = read_file(path, MAX_ARRAYS_BYTES)
    if len(data) != byte_count:
        raise ArtifactError(f"{path} has {len(data)} bytes, the manifest says {byte_count}")
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ArtifactError(f"{path} was changed: its SHA-256 is {found}, not {sha256}")
    return _unpacked(path, data, names)


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a file.

    Raises:
        ArtifactError: It cannot be read, or has more than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > limit:
        raise ArtifactError(f"{path} is larger than {limit} bytes")
    return data


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _unpacked(path: Path, data: bytes, names: Collection[str]) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
        expected = {f"{name}.npy" for name in names}
        if set(members) != expected:
            raise ArtifactError(f"{path} holds {sorted(members)}, not {sorted(expected)}")
        if sum(members.values()) > MAX_ARRAYS_BYTES:
            raise ArtifactError(f"{path} would unpack to more than {MAX_ARRAYS_BYTES} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except (
        zipfile.BadZipFile, zlib.error, ValueError, KeyError, OSError, EOFError, MemoryError, OverflowError,
        NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        raise ArtifactError(f"{path} is not a file of plain arrays: {error}") from error
    # Of a member without NumPy's first bytes it gives the bytes themselves.
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ArtifactError(f"{path} is not a file of plain arrays: {', '.join(strange)} is none")
    return arrays
