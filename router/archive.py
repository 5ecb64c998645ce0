"""Calls of the ledger as Parquet, to keep or to analyse elsewhere, and read back as the settlements they were.

The rule: a column of the ledger is a column of the file, under its name: money as whole nano-USD (int64), tokens as
int64, times as seconds since the epoch, what is unknown as null; `record` holds the settlement (of an interrupted call
the intent) as JSON, so nothing is lost. Calls are read a page at a time, by start, so that memory is bounded and a
running router is not held up; what is settled meanwhile may or may not be in. A file appears whole or not at all, and
none is replaced unless asked. No prompt and no answer text is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.config import ConfigError
from router.ledger import Filter, LedgerReader, codec
from router.ledger.database import Database
from router.ledger.groups import CALL_GROUPS, conditions
from router.ledger.past import SINCE, past_costs
from router.parquet import pyarrow_and_parquet
from router.settlement import Settlement

if TYPE_CHECKING:
    import pyarrow

PAGE_ROWS = 4_000
"""Calls read and written at a time: a row group; about 12 MB."""
FILE = "calls.parquet"
"""Name of a day's file, in its folder day=YYYY-MM-DD."""
_TEXT = (
    "request_id", "kind", "outcome", "purpose", "role", "route", "upstream", "model", "answered_model", "tenant",
    "application", "user", "session", "labels", "strategy", "miss_cause", "finish_reason", "error", "discarded",
    "reason",
)  # fmt: skip
_TIMES = ("started_time_s", "settled_time_s", "duration_s", "first_byte_s")
_WHOLE = (
    "attempt",
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "thinking_tokens", "padding_tokens",
    "cost_nano_usd", "uncached_input_nano_usd", "cache_write_5m_nano_usd", "cache_write_1h_nano_usd",
    "cache_read_nano_usd", "output_text_nano_usd", "thinking_nano_usd", "tools_nano_usd", "padding_nano_usd",
    "cost_bound_nano_usd",
    "no_caching_nano_usd", "all_opus_nano_usd", "all_flash_nano_usd", "all_opus_no_caching_nano_usd",
    "never_switch_nano_usd",
)  # fmt: skip
_CHANCES = ("score", "threshold", "propensity", "p_hit")
_TRUTH = ("usage_complete", "explored", "held")
COLUMNS = {
    **dict.fromkeys(_TEXT, "string"),
    **dict.fromkeys(_TIMES, "float64"),
    **dict.fromkeys(_WHOLE, "int64"),
    **dict.fromkeys(_CHANCES, "float64"),
    **dict.fromkeys(_TRUTH, "bool_"),
    "record": "string",
}
"""Columns of a file and their types, as pyarrow names them: those of the ledger's table but for the row's number."""

Told = Callable[[int, int], None]
"""Hears how many calls of how many are written."""


class ArchiveExists(ConfigError):
    """A file is there already, and was not to be replaced."""


def export(
    reader: LedgerReader,
    out: Path,
    where: Filter,
    *,
    force: bool = False,
    tell: Told = lambda done, whole: None,
) -> tuple[int, list[Path]]:
    """Write calls to one file (`out` ends in .parquet) or to a file a day under a folder.

    Args:
        force: Replace files that are there.

    Returns:
        How many calls, and the files.

    Raises:
        ArchiveExists: See `force`; nothing was written. Not even by force is a day's file replaced when some of the
            day's calls are in sums by now: the file may be all that is left of them.
        ConfigError: pyarrow is not installed.
        StoreError: The ledger cannot be read.
        OSError: A file cannot be written.
    """
    single = out.suffix == ".parquet"
    days = reader.costs(("day",), where)
    paths = [out] if single else [out / f"day={row.group['day']}" / FILE for row in days]
    taken = [path for path in paths if path.exists()]
    if taken and not force:
        raise ArchiveExists(f"{taken[0]} is there already; --force replaces it")
    if taken and not single and (partly := _moved_days(reader) & {row.group["day"] for row in days}):
        kept = [path for path in taken if path.parent.name.removeprefix("day=") in partly]
        if kept:
            raise ArchiveExists(
                f"{kept[0]} is there already, and some of its day's calls are in sums and nowhere else: move it away,"
                " or go on without writing files"
            )
    whole, done, written = sum(row.calls for row in days), 0, []
    schema, rows = _schema(), _rows(reader, where)
    for day, calls in [("", rows)] if single else groupby(rows, _day):
        path = out if single else out / f"day={day}" / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        for count in _write(path, schema, calls):
            done += count
            tell(done, whole)
        written.append(path)
    return done, written


def _moved_days(reader: LedgerReader) -> set[str]:
    """Return the days of which calls are kept as sums."""
    if reader.version < SINCE:
        return set()
    return {row.group["day"] for row in reader.ask(partial(past_costs, group_by=("day",)), version=SINCE)}


def archived(path: Path) -> Iterator[Settlement]:
    """Yield the settlements of a file, in its order; interrupted calls have none.

    Raises:
        ConfigError: pyarrow is not installed, or the file is none of calls.
    """
    arrow, parquet = pyarrow_and_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PAGE_ROWS, columns=["kind", "record"]):
                for row in batch.to_pylist():
                    if row["kind"] == "settled":
                        yield codec.decode_settlement(row["record"].encode())
    except (arrow.ArrowException, codec.Undecodable) as error:
        raise ConfigError(f"{path} is not a file of calls: {error}") from error


def _write(path: Path, schema: pyarrow.Schema, calls: Iterator[Sequence[Any]]) -> Iterator[int]:
    """Write calls to a file that appears when all are in it; yield how many, a row group at a time."""
    arrow, parquet = pyarrow_and_parquet()
    part = path.with_name(f".{path.name}.part")
    try:
        with parquet.ParquetWriter(part, schema, compression="zstd") as writer:
            for page in _pages(calls):
                columns = [
                    arrow.array([_value(name, row[index]) for row in page], schema.field(name).type)
                    for index, name in enumerate(schema.names)
                ]
                writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
                yield len(page)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _pages(calls: Iterator[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    page = []
    for call in calls:
        page.append(call)
        if len(page) == PAGE_ROWS:
            yield page
            page = []
    if page:
        yield page


def _value(name: str, value: Any) -> Any:
    if name == "record":
        return bytes(value).decode()
    return bool(value) if name in _TRUTH and value is not None else value


def _rows(reader: LedgerReader, where: Filter) -> Iterator[Sequence[Any]]:
    """Yield calls by start, each page by a question of its own."""
    after: tuple[float, int] | None = None
    while page := reader.ask(partial(_page, where=where, after=after)):
        for place, call in page:
            yield call
            after = place


def _page(
    connection: Database, where: Filter, after: tuple[float, int] | None
) -> list[tuple[tuple[float, int], Sequence[Any]]]:
    condition, bound = conditions(where, CALL_GROUPS)
    if after is not None:
        condition, bound = f"{condition} AND (started_time_s, id) > (?, ?)", (*bound, *after)
    rows = connection.execute(
        f"SELECT started_time_s, id, {', '.join(COLUMNS)} FROM calls WHERE {condition}"
        f" ORDER BY started_time_s, id LIMIT {PAGE_ROWS}",
        bound,
    )
    return [((row[0], row[1]), row[2:]) for row in rows]


def _day(call: Sequence[Any]) -> str:
    return datetime.fromtimestamp(call[len(_TEXT)], UTC).strftime("%Y-%m-%d")


def _schema() -> pyarrow.Schema:
    arrow, _ = pyarrow_and_parquet()
    return arrow.schema([(name, getattr(arrow, kind)()) for name, kind in COLUMNS.items()])
