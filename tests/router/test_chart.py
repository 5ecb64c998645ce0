"""Curves as text and as a picture: the text fits a terminal, the picture is a PNG others can read."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.chart import PIXELS, Series, png_chart, text_chart

numbers = st.floats(-1e6, 1e6)
points = st.lists(st.tuples(numbers, st.floats(0, 1)), min_size=1, max_size=20)


@given(points, points)
def test_the_text_fits_eighty_columns(one: list[tuple[float, float]], two: list[tuple[float, float]]) -> None:
    """Whatever the figures; every curve's mark is there, and the names of both axes."""
    lines = text_chart(
        [Series("by threshold", "o", (0, 0, 0), one), Series("by value", "*", (0, 0, 0), two)],
        "USD per day",
        "estimated quality",
    )
    assert max(map(len, lines)) <= 80
    assert any("*" in line for line in lines[1:])
    assert "estimated quality" in lines[0]


def test_the_picture_is_a_png_with_both_curves() -> None:
    """Signature, checksums, size and pixels, read back by the format's own rules."""
    red, blue = (200, 0, 0), (0, 0, 200)
    found = png_chart(
        [
            Series("by threshold", "o", red, [(0.0, 0.5), (10.0, 0.9)]),
            Series("by value", "*", blue, [(0.0, 0.6), (10.0, 1.0)]),
        ],
        "USD per day",
        "est. quality",
    )
    assert found.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(found):
        (size,) = struct.unpack(">I", found[at : at + 4])
        kind, body = found[at + 4 : at + 8], found[at + 8 : at + 8 + size]
        assert struct.unpack(">I", found[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + body),)
        chunks[kind], at = body, at + 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (width, height, depth, colour) == (*PIXELS, 8, 2)
    raw = zlib.decompress(chunks[b"IDAT"])
    assert len(raw) == height * (1 + 3 * width)
    for pixel in (bytes(red), bytes(blue)):
        assert raw.count(pixel * 3) > 20


def test_nothing_is_not_drawn() -> None:
    """No points, no chart."""
    with pytest.raises(ValueError, match="nothing"):
        text_chart([Series("a", "o", (0, 0, 0), [])], "x", "y")
