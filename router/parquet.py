"""The library that reads and writes Parquet, loaded where it is needed.

The rule: pyarrow takes half a second and 60 MB to load, and only Parquet needs it, so nothing imports it at the top;
whoever lacks it is told which extra has it.

It does not know what is in a file.
"""

from typing import Any

from router.config import ConfigError


def pyarrow_and_parquet() -> tuple[Any, Any]:
    """Give `pyarrow` and `pyarrow.parquet`.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("Parquet needs pyarrow: pip install 'hybrid-router[training]'") from None
    return pyarrow, parquet
