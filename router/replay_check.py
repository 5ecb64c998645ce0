"""Whether a policy's input costs more than it used to: a check for continuous integration. Pure but for one file read.

The rule: two replays are compared only if they served the same traffic at the same rates; what is compared is the
input's cost in units of one uncached token, because output is the same under every policy and would hide a part of a
regression. Exact fractions, so that a run is never failed by rounding. It does not know policies or planners.
"""

import json
from fractions import Fraction
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from router.replay_report import Figures


_MOST = 10**9
"""Largest increase that can be asked about, of one."""


class CostLine(NamedTuple):
    """One policy's cost and the traffic it was of.

    Attributes:
        cost_units: Input cost in units of one uncached token.
        tokens: Input tokens, all of them.
        bound_units: The clairvoyant bound, which depends on traffic, minimum and rates alone; None when unknown.
    """

    policy: str
    requests: int
    tokens: int
    cost_units: float
    bound_units: float | None


class Comparison(NamedTuple):
    """Whether the increase is within the limit, and one line that says so."""

    passed: bool
    message: str


def increase(text: str) -> Fraction:
    """An allowed increase: "3%" or "3 %" is 3/100; negative asks for a decrease.

    Raises:
        ValueError: It is not a percentage.
    """
    return percentage("--max-cost-increase", text)


def percentage(option: str, text: str) -> Fraction:
    """What an option's "3%" or "3 %" is of one.

    Raises:
        ValueError: It is not a percentage.
    """
    number = text.strip().removesuffix("%").strip()
    try:
        # A power of ten may stand for more digits than there is memory.
        share = None if "e" in number.lower() else Fraction(number) / 100
    except (ValueError, ZeroDivisionError):
        share = None
    if share is not None and abs(share) > _MOST:
        raise ValueError(f"{option}: {text[:20]!r} is more than anything can cost")
    if share is None or not text.strip().endswith("%"):
        raise ValueError(f'{option}: {text!r} is not a percentage such as "3%"')
    return share


def cost_line(figures: "Figures") -> CostLine:
    """The line of a replay just made."""
    return CostLine(
        figures.policy, figures.requests, figures.split.total, figures.cost_units, figures.bound_units
    )


def saved_line(path: Path, policy: str) -> CostLine:
    """The line of `policy` in a report saved with --json.

    Raises:
        ValueError: It is no such report, or does not hold the policy.
        OSError: It cannot be read.
    """
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["policies"]
        lines = [
            CostLine(
                str(row["policy"]),
                int(row["requests"]),
                int(row["input_tokens"]),
                float(row["cost_units"]),
                None if row.get("bound_units") is None else float(row["bound_units"]),
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"--baseline: {path}: no report of replay --json ({error})") from None
    for line in lines:
        if line.policy == policy:
            if not (isfinite(line.cost_units) and isfinite(line.bound_units or 0.0)):
                raise ValueError(f"--baseline: {path}: what {policy!r} cost is not a number")
            return line
    held = ", ".join(line.policy for line in lines) or "none"
    raise ValueError(f"--baseline: {path}: has no policy {policy!r}, but {held}")


def compare(now: CostLine, before: CostLine, limit: Fraction) -> Comparison:
    """Hold one cost against another.

    Raises:
        ValueError: They are not of the same traffic, minimum and rates.
    """
    if (now.requests, now.tokens) != (before.requests, before.tokens):
        raise ValueError(
            f"the baseline is of other traffic: {before.requests:,} requests with {before.tokens:,} tokens, "
            f"not {now.requests:,} with {now.tokens:,}"
        )
    if None not in (now.bound_units, before.bound_units) and now.bound_units != before.bound_units:
        raise ValueError(
            "the baseline is of another minimum, other rates or other gaps: its clairvoyant bound differs"
        )
    spent, earlier = Fraction(now.cost_units), Fraction(before.cost_units)
    allowed = earlier * (1 + limit)
    # Floats: the ratio is only shown, and to nearly nothing it may be infinite.
    ratio = now.cost_units / before.cost_units if earlier else (inf if spent else 1.0)
    change = f"{ratio - 1:+.2%}"
    told = (
        f"input cost of {now.policy}: {now.cost_units:,.0f} units, baseline {before.policy} "
        f"{before.cost_units:,.0f}: {change}, "
    )
    if spent <= allowed:
        return Comparison(True, f"{told}within the {float(limit):.2%} allowed")
    return Comparison(False, f"{told}more than the {float(limit):.2%} allowed")
