"""Money, shares and percentages as text, exact: integers in, no floating-point number on the way.

The rule: nano-USD (1e-9 USD) are shown with all nine decimals, so what is shown adds up; unknown is shown
as such.
"""

from fractions import Fraction

NANO_PER_USD = 1_000_000_000
UNKNOWN = "unknown"


def usd(nano_usd: int | None) -> str:
    """Spell nano-USD as USD, e.g. 12345678 as "$0.012345678"; a minus sign goes before the "$"."""
    if nano_usd is None:
        return UNKNOWN
    whole, part = divmod(abs(nano_usd), NANO_PER_USD)
    return f"{'-' if nano_usd < 0 else ''}${whole:,}.{part:09d}"


def percent(share: Fraction | None, *, signed: bool = False) -> str:
    """Spell a share as a percentage with one decimal, half away from zero; "unknown" for None."""
    if share is None:
        return UNKNOWN
    tenths = int(abs(share) * 1000 + Fraction(1, 2))
    sign = "-" if share < 0 and tenths else "+" if signed and tenths else ""
    return f"{sign}{tenths // 10}.{tenths % 10} %"


def ratio(part: int, whole: int) -> Fraction | None:
    """Return `part / whole` exactly, None when there is no whole to have a part of."""
    return Fraction(part, whole) if whole else None
