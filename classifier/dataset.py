"""Labelled requests: read, checked line by line, split by group.

One JSON object per line, plain or gzip-compressed (`.gz`). Fields:

    id              text, unique in the file
    text            the user's text of the turn (`prompt` is accepted as another name for it)
    label           1 if Opus was needed (Flash's answer would not do and Opus's would), else 0
    weight          > 0, default 1: how much the row counts
    target          chance in [0, 1] that Opus is needed, to train on instead of the label where more is known than
                    one outcome; reports judge by the label
    group           rows of one group are paraphrases or one session and never split; default: the id
    kind            free word for the sort of request; reports are broken down by it
    tools           tools offered: a list of schemas (counted, not read) or their count
    system          the system prompt (measured, not read)
    flash_quality, opus_quality   measured quality in [0, 1] of both routes' answers, where known
    rank            (1 + benefit of Opus) / 2, so in [0, 1], that orders rows of one kind where more is known than one
                    outcome; needs both qualities, and says nothing across kinds
    subject         free word for what a row of its kind is about: rows that share it share what is known of their rank
    own_share       share in [0, 1], default 1, of the row's own rank in what is trained on; the rest is its subject's
                    mean: one answer of one model says less of a question than the subject does
    and every field of `classifier.sample.Sample` but `text`

or, where a ledger kept no text, the same with `features` (what `Features.pack` wrote) instead of `text` and the fields
of a sample.

Rule: a file is read whole or refused with the line, the field, the value and the limit of its first fault; an
unknown field is a fault, because a misspelt one would silently train on nothing. Values of text are never
quoted in errors.

It does not know where labels come from, nor whether they are right.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import expm1, isfinite
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import msgspec

from classifier.features import STRUCTURE_NAMES, Features, extract
from classifier.sample import Sample

MAX_LINE_BYTES: Final = 1 << 20
"""Longest line that is read; a labelled request is kilobytes."""

MAX_NAME_CHARACTERS: Final = 256
"""Longest id, group or kind."""

_OWN_FIELDS: Final = frozenset(
    {
        "id", "text", "prompt", "label", "weight", "target", "group", "kind", "tools", "system", "flash_quality",
        "opus_quality", "rank", "subject", "own_share",
    }
)  # fmt: skip


_DESCRIBING: Final = frozenset(
    {
        "id", "label", "weight", "target", "group", "kind", "flash_quality", "opus_quality", "rank", "subject",
        "own_share", "features",
    }
)  # fmt: skip
_LENGTH: Final = STRUCTURE_NAMES.index("text_characters_log")


class DatasetError(Exception):
    """A label file cannot be used; the message names the file, the line, the field and the fault."""

    def __init__(self, where: str, line: int | None, message: str) -> None:
        super().__init__(f"{where}: {message}" if line is None else f"{where}, line {line}: {message}")
        self.where, self.line = where, line


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSample:
    """One labelled request; fields as in the module's format."""

    id: str
    sample: Sample
    label: int
    weight: float = 1.0
    target: float | None = None
    group: str
    kind: str | None = None
    flash_quality: float | None = None
    opus_quality: float | None = None
    rank: float | None = None
    subject: str | None = None
    own_share: float = 1.0

    def extracted(self) -> Features:
        """What the model sees of it."""
        return extract(self.sample)

    @property
    def text_characters(self) -> float:
        """Characters of the text the model saw."""
        return float(len(self.sample.text))

    def to_row(self) -> dict[str, Any]:
        """A JSON-ready row that reads back equal."""
        return _described(self) | self.sample.to_row()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFeatures:
    """One labelled request of which only the features were kept; fields as in the module's format."""

    id: str
    features: Features
    label: int
    weight: float = 1.0
    target: float | None = None
    group: str
    kind: str | None = None
    flash_quality: float | None = None
    opus_quality: float | None = None
    rank: float | None = None
    subject: str | None = None
    own_share: float = 1.0

    def extracted(self) -> Features:
        """What the model sees of it."""
        return self.features

    @property
    def text_characters(self) -> float:
        """Characters of the text the model saw."""
        return expm1(self.features.structure[_LENGTH])

    def to_row(self) -> dict[str, Any]:
        """A JSON-ready row that reads back equal."""
        return _described(self) | {"features": self.features.pack()}


Labelled = LabelledSample | LabelledFeatures


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled requests in file order; ids are unique."""

    rows: tuple[Labelled, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> list[int]:
        """One 0 or 1 per row."""
        return [row.label for row in self.rows]

    @property
    def groups(self) -> list[str]:
        """One group name per row."""
        return [row.group for row in self.rows]

    @property
    def group_count(self) -> int:
        """Distinct groups."""
        return len(set(self.groups))

    def digest(self) -> str:
        """SHA-256 of the rows in canonical form: equal data, equal digest, whatever the file's spelling."""
        hasher = hashlib.sha256()
        for row in self.rows:
            hasher.update(msgspec.json.encode(row.to_row(), order="sorted") + b"\n")
        return hasher.hexdigest()

    def split_by_group(self, held_out_share: float, seed: int) -> tuple[Dataset, Dataset]:
        """Split into (kept, held out) so that no group is on both sides.

        Groups are drawn in a seeded order until at least `held_out_share` of the rows are held out.

        Args:
            held_out_share: Share of rows to hold out, in (0, 1).
            seed: Of the order.
        """
        if not 0.0 < held_out_share < 1.0:
            raise ValueError(f"held_out_share must be within (0, 1), got {held_out_share}")
        sizes = Counter(self.groups)
        order = sorted(sizes)
        random.Random(seed).shuffle(order)
        drawn: set[str] = set()
        rows = 0
        for group in order:
            if rows >= held_out_share * len(self):
                break
            drawn.add(group)
            rows += sizes[group]
        return (
            Dataset(tuple(row for row in self.rows if row.group not in drawn)),
            Dataset(tuple(row for row in self.rows if row.group in drawn)),
        )


def _described(row: Labelled) -> dict[str, Any]:
    """What a row says beside its sample or features."""
    described: dict[str, Any] = {"id": row.id, "label": row.label, "group": row.group}
    for name in ("weight", "own_share"):
        if (value := getattr(row, name)) != 1.0:
            described[name] = value
    for name in ("target", "kind", "flash_quality", "opus_quality", "rank", "subject"):
        if (value := getattr(row, name)) is not None:
            described[name] = value
    return described


def read(path: Path) -> Dataset:
    """Read a label file.

    Raises:
        DatasetError: The file cannot be read, or a line of it is wrong.
    """
    try:
        with _open(path) as file:
            return parse(_lines(file, str(path)), str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(str(path), None, f"cannot be read: {error}") from error


def parse(lines: Iterable[bytes], where: str) -> Dataset:
    """Check the lines of a label file; blank lines are skipped but counted.

    Args:
        lines: JSON objects, one per line.
        where: Name of the file for errors.

    Raises:
        DatasetError: A line is wrong, an id repeats, or there are no rows.
    """
    rows: list[Labelled] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _row(line)
        except ValueError as error:
            raise DatasetError(where, number, str(error)) from error
        if row.id in seen:
            raise DatasetError(where, number, f"id {row.id!r} is already used on line {seen[row.id]}")
        seen[row.id] = number
        rows.append(row)
    if not rows:
        raise DatasetError(where, None, "holds no rows")
    return Dataset(tuple(rows))


def write(path: Path, rows: Sequence[Labelled]) -> None:
    """Write rows as a label file; compressed if the name ends in `.gz`."""
    encoded = b"".join(msgspec.json.encode(row.to_row()) + b"\n" for row in rows)
    path.write_bytes(gzip.compress(encoded, mtime=0) if path.suffix == ".gz" else encoded)


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Stream the lines of a file that are not blank, with their 1-based numbers; compressed if it ends in `.gz`.

    Raises:
        DatasetError: The file cannot be read, or a line is too long.
    """
    try:
        with _open(path) as file:
            for number, line in enumerate(_lines(file, str(path)), start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(str(path), None, f"cannot be read: {error}") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _lines(file: BinaryIO, where: str) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DatasetError(where, number, f"is longer than {MAX_LINE_BYTES} bytes")
        yield line


def _row(line: bytes) -> Labelled:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, got {type(row).__name__}")
    identity = _name(row, "id")
    label = row.get("label")
    if isinstance(label, bool) or label not in (0, 1):
        raise ValueError(f"label must be 0 or 1, got {label!r:.40}")
    weight = _number(row, "weight", 1.0)
    if weight is None or weight <= 0.0:
        raise ValueError(f"weight must be a number > 0, got {row['weight']!r:.40}")
    described: dict[str, Any] = {
        "id": identity,
        "label": int(label),
        "weight": weight,
        "target": _quality(row, "target"),
        "group": _name(row, "group") if "group" in row else identity,
        "kind": _name(row, "kind") if row.get("kind") is not None else None,
        "flash_quality": _quality(row, "flash_quality"),
        "opus_quality": _quality(row, "opus_quality"),
        "rank": _quality(row, "rank"),
        "subject": _name(row, "subject") if row.get("subject") is not None else None,
        "own_share": 1.0 if (share := _quality(row, "own_share")) is None else share,
    }
    if "features" in row:
        return LabelledFeatures(features=_features(row), **described)
    return LabelledSample(sample=_sample(row), **described)


def _features(row: Mapping[str, Any]) -> Features:
    """The row's packed features; beside them nothing of a sample may stand."""
    strange = sorted(set(row) - _DESCRIBING)
    if strange:
        raise ValueError(
            f"has features and {strange[0]:.40}; features take the place of every field of a sample"
        )
    if not isinstance(row["features"], str):
        raise ValueError(f"features must be text, got {type(row['features']).__name__}")
    return Features.unpack(row["features"])


def _sample(row: Mapping[str, Any]) -> Sample:
    """The row's sample: its own spellings turned into fields, the rest taken as they are."""
    if ("text" in row) == ("prompt" in row):
        raise ValueError("needs text or prompt, and only one of them")
    values = {name: value for name, value in row.items() if name not in _OWN_FIELDS}
    values["text"] = row["text"] if "text" in row else row["prompt"]
    if "tools" in row:
        if "tools_offered_count" in row:
            raise ValueError("has both tools and tools_offered_count; give one")
        tools = row["tools"]
        values["tools_offered_count"] = (
            len(tools) if isinstance(tools, list) else 0 if tools is None else tools
        )
    if "system" in row:
        if "system_characters" in row:
            raise ValueError("has both system and system_characters; give one")
        system = row["system"]
        if system is not None and not isinstance(system, str):
            raise ValueError(f"system must be text, got {type(system).__name__}")
        values["system_characters"] = len(system or "")
    sample = Sample.from_row(values)
    if not (sample.text.strip() or sample.tool_result_count or sample.has_image or sample.has_document):
        raise ValueError("text is empty, and the turn has no tool result, image or document")
    return sample


def _name(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARACTERS:
        shown = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise ValueError(f"{field} must be text of 1 to {MAX_NAME_CHARACTERS} characters, got {shown}")
    return value


def _number(row: Mapping[str, Any], field: str, default: float | None) -> float | None:
    value = row.get(field, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{field} must be a finite number, got {value!r:.40}")
    return float(value)


def _quality(row: Mapping[str, Any], field: str) -> float | None:
    value = _number(row, field, None)
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValueError(f"{field} must be within [0, 1], got {value}")
    return value
