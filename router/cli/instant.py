"""Times and numbers on the command line, as options give them: read, or refused by the option's name."""

from datetime import UTC, datetime
from math import isfinite

from router.config import ConfigError


def instant(option: str, text: str) -> datetime:
    """Read a date or time, UTC unless it says otherwise.

    Raises:
        ConfigError: It is neither; names `option`.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is not a date or time such as 2026-11-22T10:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def epoch_s(option: str, text: str) -> float | None:
    """Read a date or time as seconds since the epoch; "" is None.

    Raises:
        ConfigError: It is neither; names `option`.
    """
    return instant(option, text).timestamp() if text else None


def finite(option: str, value: float | None) -> None:
    """Refuse what passes every bound and is no number: not-a-number is neither below nor above any.

    Raises:
        ConfigError: It is not finite; names `option`.
    """
    if value is not None and not isfinite(value):
        raise ConfigError(f"{option}: {value} is not a number")
