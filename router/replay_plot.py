"""A picture of a replay: what each policy's input cost, against no caching and the clairvoyant bound, and its tokens.

The rule: the picture shows what the report says and computes nothing. matplotlib is an optional extra, loaded only to
draw; it draws into memory, without a display.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.config import ConfigError

if TYPE_CHECKING:
    from router.replay_report import Figures

_INCHES = (10.0, 4.5)
_DPI = 120
_BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.08), "ncols": 4, "frameon": False}
"""A legend within the axes would stand on the bars."""
_PARTS = (("read", "read"), ("written 5m", "write_5m"), ("written 1h", "write_1h"), ("uncached", "uncached"))


def drawable(path: Path) -> None:
    """Refuse, before a long run, what could not be drawn after it.

    Raises:
        ValueError: The file is not named as a PNG.
        ConfigError: matplotlib is not installed, or the directory does not exist.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"--plot: {path}: name a file that ends in .png")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot: {path.parent}: no such directory")
    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'hybrid-router[plot]'")


def draw(path: Path, found: "Sequence[Figures]", title: str) -> None:
    """Write the picture.

    Raises:
        OSError: The file cannot be written.
    """
    # matplotlib takes half a second to load: only a picture needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    costs, tokens = figure.subplots(1, 2)
    places = list(range(len(found)))
    names = [each.policy for each in found]
    relative = [each.relative_cost for each in found]
    errors = [
        [max(0.0, each.relative_cost - each.interval[0]) for each in found],
        [max(0.0, each.interval[1] - each.relative_cost) for each in found],
    ]
    costs.bar(places, relative, yerr=errors, capsize=4, color="tab:blue")
    costs.axhline(1.0, color="gray", linewidth=1, label="no caching")
    first = found[0]
    if first.bound_units is not None and first.split.total:
        bound = first.bound_units / first.split.total
        costs.axhline(bound, color="tab:green", linestyle="--", linewidth=1, label="clairvoyant bound")
    costs.set_xticks(places, names)
    costs.set_ylabel("input cost / no caching, 95 % interval")
    costs.legend(**_BELOW)
    below = [0.0] * len(found)
    for label, part in _PARTS:
        shares = [getattr(each.split, part) / max(1, each.split.total) for each in found]
        tokens.bar(places, shares, bottom=below, label=label)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    tokens.set_xticks(places, names)
    tokens.set_ylabel("share of input tokens")
    tokens.legend(**_BELOW)
    figure.savefig(path)
