"""A picture of a replay: what each policy's input cost, against no caching and the clairvoyant bound, and its tokens.

The rule: the picture shows what the report says and computes nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.picture import blank

if TYPE_CHECKING:
    from router.replay_report import Figures

_ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 4, "frameon": False}
"""A legend within the axes would stand on the bars, one below on their names."""
_SIDE_BY_SIDE = 3
"""Names that have room beside each other."""
_PARTS = (("read", "read"), ("written 5m", "write_5m"), ("written 1h", "write_1h"), ("uncached", "uncached"))


def draw(path: Path, found: "Sequence[Figures]", title: str) -> None:
    """Write the picture.

    Raises:
        OSError: The file cannot be written.
    """
    figure = blank()
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
        costs.axhline(
            bound, color="tab:green", linestyle="--", linewidth=1, label="clairvoyant, no keep-alives"
        )
    _name(costs, names)
    costs.set_ylabel("input cost / no caching, 95 % interval")
    costs.legend(**_ABOVE)
    below = [0.0] * len(found)
    for label, part in _PARTS:
        shares = [getattr(each.split, part) / max(1, each.split.total) for each in found]
        tokens.bar(places, shares, bottom=below, label=label)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    _name(tokens, names)
    tokens.set_ylabel("share of input tokens")
    tokens.legend(**_ABOVE)
    figure.savefig(path)


def _name(axes: Any, names: Sequence[str]) -> None:
    """Name the bars; many of them aslant."""
    if len(names) <= _SIDE_BY_SIDE:
        axes.set_xticks(range(len(names)), names)
    else:
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize="small")
