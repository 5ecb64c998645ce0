"""The journal: whole lines survive anything, damage is found and named, a full disk leaves no half record."""

import os
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.ledger.journal import Damage, Journal, Line, read_segment, segment_path, segments

BODIES = st.lists(st.binary(min_size=1, max_size=40).filter(lambda body: b"\n" not in body), max_size=8)


def written(bodies, directory):
    """Write one segment and return its path."""
    journal = Journal(directory, first=1, segment_bytes=1 << 20)
    for body in bodies:
        journal.append(b"S", body)
    journal.close(remove=False)
    return segment_path(directory, 1)


@given(BODIES)
def test_lines_come_back_in_order(bodies):
    """What was appended is read back, byte for byte."""
    with tempfile.TemporaryDirectory() as directory:
        path = written(bodies, Path(directory))
        assert list(read_segment(path)) == [Line(b"S", body) for body in bodies]


@given(BODIES, st.data())
def test_a_cut_loses_nothing_before_it(bodies, data):
    """A crash in the middle of a write tears at most the last line."""
    with tempfile.TemporaryDirectory() as directory:
        path = written(bodies, Path(directory))
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        found = list(read_segment(path))
        whole = content[:cut].count(b"\n")
        assert found[:whole] == [Line(b"S", body) for body in bodies[:whole]]
        torn = content[:cut].rpartition(b"\n")[2]
        assert found[whole:] == ([Damage(torn, torn=True)] if torn else [])


@given(BODIES.filter(bool), st.data())
def test_a_flipped_byte_is_found_and_harms_no_other_line(bodies, data):
    """Any damaged byte shows; lines that do not touch it are all there."""
    with tempfile.TemporaryDirectory() as directory:
        path = written(bodies, Path(directory))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        damaged = bytes(content[:at]).count(b"\n")
        path.write_bytes(content)
        found = list(read_segment(path))
        assert any(isinstance(item, Damage) for item in found)
        # A damaged newline joins two lines; anything else harms its own line only.
        lines = [item for item in found if isinstance(item, Line)]
        assert lines[:damaged] == [Line(b"S", body) for body in bodies[:damaged]]
        assert set(bodies[damaged + 2 :]) <= {line.body for line in lines}


def test_a_full_segment_is_followed_by_another(tmp_path):
    """Segments end at their size, keep their order, and go one by one."""
    journal = Journal(tmp_path, first=7, segment_bytes=50)
    ended = []
    for number in range(6):
        journal.append(b"I", b"%020d" % number)
        ended.append(journal.rotate_if_full())
    journal.sync()
    assert ended == [None, 7, None, 8, None, 9]
    assert segments(tmp_path) == [7, 8, 9, 10]
    journal.retire(7)
    assert segments(tmp_path) == [8, 9, 10]
    journal.close(remove=True)
    assert segments(tmp_path) == [8, 9]


def test_a_segment_is_never_written_to_twice(tmp_path):
    """A new journal refuses a number that exists: old lines are never mixed with new ones."""
    Journal(tmp_path, first=1, segment_bytes=50).close(remove=False)
    with pytest.raises(FileExistsError):
        Journal(tmp_path, first=1, segment_bytes=50)


def test_a_half_written_line_is_taken_back(tmp_path):
    """When the disk takes half a line, the call fails, and the next line stands where the half one was."""
    journal = Journal(tmp_path, first=1, segment_bytes=1 << 20)
    journal.append(b"S", b"first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
    try:
        with pytest.raises(OSError, match="only 13 of"):
            journal.append(b"S", b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.append(b"S", b"second")
    journal.close(remove=False)
    assert list(read_segment(segment_path(tmp_path, 1))) == [Line(b"S", b"first"), Line(b"S", b"second")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error(tmp_path):
    """A line that the disk does not take raises instead of being forgotten."""
    journal = Journal(tmp_path, first=1, segment_bytes=1 << 20)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._fd)
    os.close(full)
    with pytest.raises(OSError, match="No space left"):
        journal.append(b"S", b"first")
    journal.close(remove=False)


def test_a_line_after_one_that_could_not_be_cut_off_is_readable(tmp_path, monkeypatch):
    """Where even the half line cannot be taken back, the next one begins on a line of its own."""
    journal = Journal(tmp_path, first=1, segment_bytes=1 << 20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: (_ for _ in ()).throw(OSError("read-only")))
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, limits[1]))
    try:
        with pytest.raises(OSError, match="only 5 of"):
            journal.append(b"S", b"lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.append(b"S", b"kept")
    journal.close(remove=False)
    damage, line = read_segment(segment_path(tmp_path, 1))
    assert isinstance(damage, Damage)
    assert line == Line(b"S", b"kept")
