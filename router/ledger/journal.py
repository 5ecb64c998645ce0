"""The append-only journal: what survives a kill of this process before anything else knows of it.

The rule: one line per record, "crc32 kind json\\n", written by a single `os.write` before the caller goes on.
Written bytes belong to the kernel, so a SIGKILL loses none of them; a power cut may lose those since the last
`sync`, which another thread calls. Lines go to numbered segments; a segment is removed by who knows that the
store has all of it. A segment is never appended to after a restart, so only its last line can be torn by a
crash.

This module does not know what records mean. Reading tolerates anything: a torn last line and damaged lines
are reported and handed back raw, and every line with a right checksum is found.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

_NAME = re.compile(r"segment-(\d{10})\.log")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND


@dataclass(frozen=True, slots=True)
class Line:
    """A whole line as read back."""

    kind: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A line that could not be read; `torn` when it is the unfinished end of a segment."""

    raw: bytes
    torn: bool


class Journal:
    """Append lines to numbered segments in one directory.

    Appends come from one thread at a time; `sync` and `retire` may run beside them in another.

    Args:
        directory: Where the segments are; exists.
        first: Number of the segment to begin with; must not exist.
        segment_bytes: Size from which a new segment is begun.

    Raises:
        OSError: The first segment cannot be made.
    """

    def __init__(self, directory: Path, *, first: int, segment_bytes: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._number = first
        self._fd = _create(directory, first)
        self._size = 0
        self._torn = False
        self._closed: dict[int, int] = {}
        self._unsynced_name = True

    @property
    def segment(self) -> int:
        """Number of the segment that takes the next line."""
        return self._number

    def append(self, kind: bytes, body: bytes) -> bool:
        """Write one line; when this returns, a kill of the process does not lose it.

        Args:
            kind: One byte.
            body: Any bytes without a newline.

        Returns:
            Whether the segment is full now, see `rotate_if_full`.

        Raises:
            OSError: It could not be written whole; nothing of it will be read back.
        """
        payload = kind + b" " + body
        line = b"%08x %b\n" % (crc32(payload), payload)
        if self._torn:
            line = b"\n" + line
        written = 0
        try:
            written = os.write(self._fd, line)
        finally:
            if written != len(line):
                self._undo()
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes could be written to the journal")
        self._torn = False
        self._size += written
        return self._size >= self._segment_bytes

    def rotate_if_full(self) -> int | None:
        """Begin a new segment when this one is full; return the number of the one that ended, else None."""
        if self._size < self._segment_bytes:
            return None
        try:
            fd = _create(self._directory, self._number + 1)
        except OSError:
            return None  # a longer segment is no harm; the next line tries again
        ended = self._number
        self._closed[ended] = self._fd
        self._number, self._fd, self._size, self._torn = ended + 1, fd, 0, False
        self._unsynced_name = True
        return ended

    def sync(self) -> None:
        """Wait until everything written so far would survive a power cut."""
        # The current segment is read first: if it ends in between, it is among the ended ones too.
        current = self._fd
        if self._unsynced_name:
            self._unsynced_name = False
            sync_directory(self._directory)
        for fd in {*self._closed.values(), current}:
            _fdatasync(fd)

    def retire(self, number: int) -> None:
        """Remove an ended segment, all of which the store has durably."""
        fd = self._closed.pop(number, None)
        if fd is not None:
            os.close(fd)
        segment_path(self._directory, number).unlink(missing_ok=True)

    def close(self, *, remove: bool) -> None:
        """Stop; with `remove`, also delete the last segment, all of which the store has durably."""
        for fd in (*self._closed.values(), self._fd):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._closed.clear()
        if remove:
            segment_path(self._directory, self._number).unlink(missing_ok=True)

    def _undo(self) -> None:
        """Cut off a half-written line, or at least separate the next one from it."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._torn = True


def segments(directory: Path) -> list[int]:
    """Return the numbers of the segments in `directory`, oldest first."""
    matches = (_NAME.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def segment_path(directory: Path, number: int) -> Path:
    """Return where segment `number` is."""
    return directory / f"segment-{number:010d}.log"


def read_segment(path: Path) -> Iterator[Line | Damage]:
    """Yield the lines of a segment in order, and what of it is damaged."""
    with path.open("rb") as file:
        for raw in file:
            if raw == b"\n":
                continue
            yield _parsed(raw)


def _parsed(raw: bytes) -> Line | Damage:
    """Check one line's frame and checksum."""
    if not raw.endswith(b"\n"):
        return Damage(raw, torn=True)
    checksum, payload = raw[:8], raw[9:-1]
    if raw[8:9] != b" " or payload[1:2] != b" " or checksum != b"%08x" % crc32(payload):
        return Damage(raw, torn=False)
    return Line(payload[:1], payload[2:])


def sync_directory(directory: Path) -> None:
    """Wait until the names in `directory` would survive a power cut."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _create(directory: Path, number: int) -> int:
    return os.open(segment_path(directory, number), _FLAGS, 0o600)


def _fdatasync(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:  # macOS has no fdatasync
        os.fsync(fd)
