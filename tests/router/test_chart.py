"""Curves as text and as a picture: the text fits a terminal, the picture is a PNG others can read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from router.chart import Series, draw, text_chart

numbers = st.floats(-1e6, 1e6)
points = st.lists(st.tuples(numbers, st.floats(0, 1)), min_size=1, max_size=20)


@given(points, points)
def test_the_text_fits_eighty_columns(one: list[tuple[float, float]], two: list[tuple[float, float]]) -> None:
    """Whatever the figures; every curve's mark is there, and the names of both axes."""
    lines = text_chart(
        [Series("by threshold", "o", one), Series("by value", "*", two)],
        "USD per day",
        "estimated quality",
    )
    assert max(map(len, lines)) <= 80
    assert any("*" in line for line in lines[1:])
    assert "estimated quality" in lines[0]


def test_the_picture_is_a_png_with_both_curves(tmp_path: Path) -> None:
    """Read back by the library that reads them: its size, and more colours for two curves than for one."""
    colours = []
    for count in (1, 2):
        path = tmp_path / f"{count}.png"
        curves = [
            Series("by threshold", "o", [(0.0, 0.5), (10.0, 0.9)]),
            Series("by value", "*", [(0.0, 0.6), (10.0, 1.0)]),
        ]
        draw(path, curves[:count], "USD per day", "estimated quality")
        pixels = imread(path)
        assert pixels.shape[:2] == (540, 1200)
        strong = pixels[(pixels.max(axis=2) - pixels.min(axis=2)) > 0.5]
        colours.append(len({tuple(pixel) for pixel in strong.round(1).tolist()}))
    assert 0 < colours[0] < colours[1]


def test_nothing_is_not_drawn() -> None:
    """No points, no chart."""
    with pytest.raises(ValueError, match="nothing"):
        text_chart([Series("a", "o", [])], "x", "y")
