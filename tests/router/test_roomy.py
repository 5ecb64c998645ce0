"""Room for frames: no depth at which a call costs a piece of memory of its own."""

import resource
import sys

import pytest

from router.roomy import with_room

DEPTHS = 300
CALLS = 50


def _nothing() -> None:
    pass


def _worst(depth: int = DEPTHS) -> int:
    """Most page faults that `CALLS` calls take at any depth from here: a fresh chunk takes at least one a call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(CALLS):
        _nothing()
    here = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return max(here, _worst(depth - 1)) if depth else here


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="of CPython's stack")
def test_no_depth_pays_for_a_chunk_with_every_call() -> None:
    """However deep, calls find room; without it some depth of any 200 takes new memory every time."""
    found: list[int] = []
    with_room(lambda: found.append(_worst()))
    assert found[0] < CALLS


def test_errors_pass_through() -> None:
    """What the function raises is what the caller gets."""

    def fails() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        with_room(fails)
