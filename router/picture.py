"""Pictures for files: what every verb that draws one asks and opens alike.

The rule: matplotlib is an optional extra, loaded only to draw; it draws into memory, without a display. What could not
be drawn after a long run is refused before it.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from router.config import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = (10.0, 4.5)
_DPI = 120


def drawable(option: str, path: Path) -> None:
    """Refuse a file that no picture could be written to.

    Args:
        option: The option that named it, for the message.

    Raises:
        ConfigError: It is not named as a PNG, its directory does not exist, or matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{option}: {path}: name a file that ends in .png")
    if not path.parent.is_dir():
        raise ConfigError(f"{option}: {path.parent}: no such directory")
    if find_spec("matplotlib") is None:
        raise ConfigError(f"{option} needs matplotlib: pip install 'hybrid-router[plot]'")


def blank() -> "Figure":
    """An empty picture; `savefig` writes it."""
    # matplotlib takes half a second to load: only a picture needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
