"""Decided requests out of the ledger or a Parquet file, as the rows a classifier is retrained from.

The rule: rows are read and handed on in batches, so memory does not grow with the ledger or the file; the ledger is
opened read-only, beside a running server. A request is one row whatever its attempts. Parquet holds the same columns
in row groups, so a file written from several ledgers, or by another system, is read the same way. No row holds text.

It does not know how rows are weighed (`classifier.outcomes`) or used (`classifier.retraining`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import msgspec

from classifier.features import Features
from classifier.logged import LoggedRequest, kind_of
from classifier.outcomes import Judgement, outcome_of
from classifier.route import Route
from router.ledger import DATABASE, DecidedRequest, LedgerReader, Place
from router.parquet import pyarrow_and_parquet

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS: Final = 2_000
"""Rows read or written at a time: a few megabytes."""

KIND_LABEL: Final = "kind"
"""Label of a request that names its sort for reports."""


FALLBACK: Final = "fallback"
"""Reason under which a request is booked whose first attempt already went to the other route."""


class TrainingLogError(ValueError):
    """A file of training rows cannot be used; the message names the file and the fault."""


def from_ledger(
    place: Place, since_s: float | None = None, until_s: float | None = None
) -> Iterator[LoggedRequest]:
    """Yield the rows of a ledger by start of the request.

    Args:
        place: Server of the ledger, its directory, or its database file.
        since_s: Earliest start, inclusive, seconds since the epoch; None for no limit.
        until_s: Latest start, exclusive.

    Raises:
        FileNotFoundError: There is no ledger.
        StoreError: It cannot be read, or an older release wrote it.
    """
    if isinstance(place, Path) and place.is_dir():
        place /= DATABASE
    with LedgerReader.open(place) as reader:
        for request in reader.decided(since_s, until_s, batch=BATCH_ROWS):
            yield logged(request)


def logged(request: DecidedRequest) -> LoggedRequest:
    """One decided request as a training row."""
    decision = request.decision
    # Held back between decision and sending, its first attempt went to the other route: no chance and no cut made it
    # so, and the record's are those of the route that was decided and not taken.
    diverted = decision.reason == FALLBACK
    outcome = outcome_of(
        Route(request.answered_route),
        request.finish_reason,
        request.discarded,
        [
            Judgement(
                each.source, None if each.verdict is None else each.verdict.value, each.score, each.time_s
            )
            for each in request.feedback
        ],
    )
    return LoggedRequest(
        request_id=request.request_id,
        session=_session(request),
        time_s=request.started_time_s,
        tenant=request.tenant,
        application=request.application,
        kind=request.labels.get(KIND_LABEL) or _kind(decision.features),
        features=decision.features,
        score=decision.score,
        threshold=None if diverted else decision.threshold,
        opus=request.route == Route.OPUS,
        propensity=1.0 if diverted else decision.propensity,
        explored=decision.explored and not diverted,
        reason=decision.reason,
        model_digest=decision.model_digest,
        cost_nano_usd=request.cost_nano_usd,
        flash_nano_usd=decision.expected_flash_nano_usd,
        opus_nano_usd=decision.expected_opus_nano_usd,
        answer_value_nano_usd=decision.answer_value_nano_usd,
        opus_leaves_nano_usd=decision.opus_leaves_nano_usd,
        shadow_score=decision.shadow_score,
        shadow_digest=decision.shadow_digest,
        label=outcome.label,
        weight=outcome.weight,
        quality=outcome.quality,
        evidence=outcome.evidence,
        answered_opus=request.answered_route == Route.OPUS,
        finish=request.finish_reason,
        input_tokens=request.attempts[-1].input_tokens,
        output_tokens=request.attempts[-1].output_tokens,
        duration_s=request.attempts[-1].duration_s,
    )


def _session(request: DecidedRequest) -> str:
    """A name of the session that no other tenant's can equal; the request's own where it had none."""
    return f"{request.tenant}/{request.session}" if request.session else f"request/{request.request_id}"


def _kind(packed: str) -> str:
    try:
        return kind_of(Features.unpack(packed)) if packed else ""
    except ValueError:
        return ""  # of another feature version: counted as unusable where rows are gathered


def write_parquet(path: Path, rows: Iterable[LoggedRequest]) -> int:
    """Write rows to a Parquet file, replacing one that is there; return how many.

    Raises:
        ConfigError: pyarrow is not installed.
        OSError: The file cannot be written.
    """
    arrow, parquet = pyarrow_and_parquet()
    schema = _schema(arrow)
    count, rest = 0, iter(rows)
    partial = path.with_name(f".{path.name}.partial")
    with parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        while batch := list(islice(rest, BATCH_ROWS)):
            writer.write_table(arrow.Table.from_pylist(msgspec.to_builtins(batch), schema=schema))
            count += len(batch)
    partial.replace(path)
    return count


def from_parquet(
    path: Path, since_s: float | None = None, until_s: float | None = None
) -> Iterator[LoggedRequest]:
    """Yield the rows of a Parquet file, in its order, a batch in memory at a time.

    Columns that are missing take the defaults of `LoggedRequest`, where there are any; unknown ones are not read.

    Raises:
        ConfigError: pyarrow is not installed.
        TrainingLogError: The file is no Parquet file of such rows, or a row of it is wrong.
    """
    arrow, parquet = pyarrow_and_parquet()
    known = get_type_hints(LoggedRequest)
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            columns = [name for name in file.schema_arrow.names if name in known]
            for number, batch in enumerate(file.iter_batches(batch_size=BATCH_ROWS, columns=columns)):
                for index, row in enumerate(batch.to_pylist()):
                    found = _checked(row, f"{path}, row {number * BATCH_ROWS + index + 1}")
                    if (since_s is None or found.time_s >= since_s) and (
                        until_s is None or found.time_s < until_s
                    ):
                        yield found
    except arrow.ArrowException as error:
        raise TrainingLogError(f"{path} is not a Parquet file that can be read: {error}") from error


def parquet_rows(path: Path) -> int:
    """Rows of a Parquet file, from its footer alone.

    Raises:
        TrainingLogError: It is no Parquet file.
    """
    arrow, parquet = pyarrow_and_parquet()
    try:
        return int(parquet.read_metadata(path).num_rows)
    except arrow.ArrowException as error:
        raise TrainingLogError(f"{path} is not a Parquet file that can be read: {error}") from error


_SHARES: Final = ("propensity", "weight", "quality", "score", "shadow_score")


def _checked(row: dict[str, Any], where: str) -> LoggedRequest:
    try:
        found = msgspec.convert(row, LoggedRequest)
    except msgspec.ValidationError as error:
        raise TrainingLogError(f"{where}: {error}") from error
    for name in _SHARES:
        value = getattr(found, name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise TrainingLogError(f"{where}: {name} is {value}, not within [0, 1]")
    if found.propensity == 0.0:
        raise TrainingLogError(f"{where}: propensity is 0, but what was done had some chance")
    if found.label not in (None, 0, 1):
        raise TrainingLogError(f"{where}: label is {found.label}, not 0 or 1")
    return found


_ARROW: Final = {str: "string", float: "float64", int: "int64", bool: "bool_"}


def _schema(arrow: Any) -> pyarrow.Schema:
    fields = []
    for name, hint in get_type_hints(LoggedRequest).items():
        plain = next(kind for kind in _ARROW if hint in (kind, kind | None))
        fields.append(arrow.field(name, getattr(arrow, _ARROW[plain])(), nullable=hint is not plain))
    return arrow.schema(fields)
