"""Request traces without text, and the prompts they stand for.

The rule: a trace row spells its prompt as ids of equal-sized blocks, and an id names the block AND everything before
it. So a prefix's name is the id of its last block, and no text has to be made up: a block's content is that name,
and its tokens are exact. What a trace does not record is where messages begin, so the boundaries a planner may mark
are put where the past puts them:

    tools, system   at the recorded sizes
    history         the conversation's previous prompt and answer, cut where that was cut
    turn            the rest; the last `TAIL_TOKENS` are a block of their own, because recorded prompts often end in a
                    short piece that the next request replaces, and what fills no whole block takes no mark

A row that knows its layers (`TraceRow.layers`) is laid out as it says instead.

Some rows are no requests to Opus, and say what was known before one (router/REPLAY.md has the format): a turn that
Flash answered, with its score, and an event, as the opening of a session or what a user did.

Nothing here looks past the row it is given. It does not know time, prices or plans.
"""

import gzip
import json
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import NamedTuple

from cache.prompt import Block, BlockKind, Layer, Prompt
from router.timeline import WorkloadError

TAIL_TOKENS = 256
"""Tokens at the end of a prompt taken for a block of their own (at least one block of the trace)."""

OPENED = "open"
"""The event of a session that was opened; every other is named after what the user did."""

_RUNS = (BlockKind.TOOL_CALL, BlockKind.TOOL_RESULT)

Runs = tuple[tuple[int, int], ...]
"""Block ids as (first id, count), ascending by one within a run."""


class LayerEnd(NamedTuple):
    """Where a block of a prompt ends, in whole trace blocks from the prompt's start, and the layer it stands in."""

    blocks: int
    layer: Layer


class Shape(NamedTuple):
    """What a block of a prompt is, as far as planning asks."""

    kind: BlockKind
    role: str
    markable: bool


class TraceRow(NamedTuple):
    """One recorded request, or what was recorded between requests.

    Attributes:
        namespace: Ids of different namespaces are not comparable.
        time_s: Arrival, seconds from the start of the namespace.
        input_tokens: Whole prompt.
        output_tokens: The answer.
        block_tokens: Tokens of a block; the last may be partial.
        kind: Class of traffic: the model that was called, "" where none is recorded.
        added: Kinds of content since the previous request ("text", "tool_result", ...).
        tools_tokens: 0 where not recorded.
        system_tokens: 0 where not recorded.
        layers: Ends of the prompt's blocks, ascending, the last at `whole_blocks`; empty where not known.
        stop: Why the answer ended, as the provider spelled it; "" where not recorded.
        answered_s: Seconds the answer took, None where not recorded.
        shapes: What the block that ends at each of `layers` is; empty where not known, for text of users.
        volatile: First and last of them that are a context behind the history; None for none.
        marks: (prefix in blocks, TTL in seconds) of each breakpoint that was sent; None where not recorded.
        event: What happened, where the row is no request: `OPENED`, or a user's action; "" for a request. Its prompt is
            what the session's next request was known to begin with, empty for what its last one said.
        opus: Whether Opus answered; a turn on Flash leaves nothing warm and is not billed here.
        score: Chance given beforehand that the turn needed Opus; None where nothing scored.
    """

    namespace: str
    session: str
    stream: str
    sequence: int
    time_s: float
    input_tokens: int
    output_tokens: int
    block_tokens: int
    runs: Runs
    kind: str = ""
    added: tuple[str, ...] = ()
    tools_tokens: int = 0
    system_tokens: int = 0
    layers: tuple[LayerEnd, ...] = ()
    stop: str = ""
    answered_s: float | None = None
    shapes: tuple[Shape, ...] = ()
    volatile: tuple[int, int] | None = None
    marks: tuple[tuple[int, int], ...] | None = None
    event: str = ""
    opus: bool = True
    score: float | None = None

    @property
    def billed(self) -> bool:
        """Whether it is a request to Opus, which a replay decides and bills."""
        return self.opus and not self.event

    @property
    def position_ends(self) -> tuple[int, ...]:
        """Where the positions end that the provider looks back over, in trace blocks; () where nobody knows.

        A run of adjacent tool calls is one position, and so is a run of adjacent results.
        """
        kinds = [shape.kind if shape.kind in _RUNS else None for shape in self.shapes]
        last = len(self.layers) - 1
        return tuple(
            [
                end.blocks
                for place, end in enumerate(self.layers)
                if place == last or not kinds or kinds[place] is None or kinds[place] is not kinds[place + 1]
            ]
        )

    @property
    def whole_blocks(self) -> int:
        """Blocks that are full, so that an entry can end there."""
        return min(sum(count for _, count in self.runs), self.input_tokens // self.block_tokens)


class TracePrompt(NamedTuple):
    """A prompt for the planner.

    Attributes:
        digests: Name of each prefix.
        ends: Whole trace blocks of the prefix ending at each block of the prompt.
        returned_gap_s: Seconds since the request whose prompt this one extends; None where it extends none.
    """

    prompt: Prompt
    digests: tuple[bytes, ...]
    ends: tuple[int, ...]
    returned_gap_s: float | None


def read_trace(path: Path) -> list[TraceRow]:
    """Rows of a trace, JSON lines (.gz allowed), in the order they are served: by namespace, then by time.

    Raises:
        WorkloadError: A line is no such row; the message names file, line and field.
        OSError: The file cannot be read.
    """
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as lines
    ):
        try:
            rows = [_row(str(path), number, line) for number, line in enumerate(lines, 1) if line.strip()]
        except (EOFError, zlib.error):
            raise WorkloadError(str(path), 0, "its compression is broken, or its end is missing") from None
        except UnicodeDecodeError:
            raise WorkloadError(str(path), 0, "not UTF-8") from None
    if not any(row.billed for row in rows):
        raise WorkloadError(str(path), 0, "no requests in it")
    return in_order(rows)


def in_order(rows: Iterable[TraceRow]) -> list[TraceRow]:
    """Rows in the order they are served."""
    return sorted(rows, key=lambda row: (row.namespace, row.time_s, row.stream, row.sequence))


_ROUTES = {"opus": True, "flash": False}
_MOST = 1 << 53
"""Largest number in a row: beyond it JSON's numbers are not exact everywhere."""
_MOST_ID = 1 << 78
"""Largest id of a block: a prefix is named by it in ten bytes."""
_MOST_S = 1e11
"""Longest recording, three thousand years: minutes are still told apart by then."""


def _name(value: object) -> str:
    """What a row calls something, a number as text; "" for nothing.

    Raises:
        TypeError: It is no name.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return str(value)
    raise TypeError(f"{value!r} is no name"[:80])


def _row(source: str, number: int, line: str) -> TraceRow:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise WorkloadError(source, number, f"not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deep; a number of too many digits
        raise WorkloadError(source, number, f"not JSON that can be read: {error}") from None
    try:
        if found.get("event"):
            found = {"seq": -1, "out": 0, "bs": 1, "blocks": []} | found
            found.setdefault("in", sum(int(count) for _, count in found["blocks"]) * int(found["bs"]))
        row = TraceRow(
            namespace=_name(found["ns"]),
            session=_name(found["session"]),
            stream=_name(found["stream"]),
            sequence=int(found["seq"]),
            time_s=float(found["t"]),
            input_tokens=int(found["in"]),
            output_tokens=int(found["out"]),
            block_tokens=int(found["bs"]),
            runs=tuple([(int(first), int(count)) for first, count in found["blocks"]]),
            kind=_name(found.get("model")),
            added=tuple(found.get("new") or ()),
            tools_tokens=int(found.get("tools_tok") or 0),
            system_tokens=int(found.get("system_tok") or 0),
            stop=_name(found.get("stop")),
            answered_s=None if found.get("api_s") is None else float(found["api_s"]),
            event=str(found.get("event") or ""),
            opus=_ROUTES[found.get("route") or "opus"],
            score=None if found.get("score") is None else float(found["score"]),
        )
    except KeyError as error:
        if found.get("route") not in (None, "", *_ROUTES):
            raise WorkloadError(source, number, "is opus or flash", field="route") from None
        raise WorkloadError(source, number, "missing", field=str(error.args[0])) from None
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise WorkloadError(source, number, f"not a request of a trace: {error}") from None
    if row.block_tokens < 1 or row.input_tokens < 0 or any(count < 1 for _, count in row.runs):
        raise WorkloadError(source, number, "block size and run lengths must be positive", field="blocks")
    return _checked(source, number, row)


def _checked(source: str, number: int, row: TraceRow) -> TraceRow:
    """The row, if its numbers are ones that can be reckoned with."""
    if not abs(row.time_s) <= _MOST_S:  # nan is not, either
        raise WorkloadError(source, number, f"is a number of seconds, at most {_MOST_S:g}", field="t")
    if row.answered_s is not None and not 0.0 <= row.answered_s <= _MOST_S:
        raise WorkloadError(source, number, "is a number of seconds, 0 or more", field="api_s")
    for named, tokens in (
        ("in", row.input_tokens),
        ("out", row.output_tokens),
        ("bs", row.block_tokens),
        ("tools_tok", row.tools_tokens),
        ("system_tok", row.system_tokens),
    ):
        if not 0 <= tokens <= _MOST:
            raise WorkloadError(source, number, f"is a number of tokens, from 0 to {_MOST:,}", field=named)
    if any(abs(first) > _MOST_ID or count > _MOST for first, count in row.runs):
        raise WorkloadError(
            source, number, f"an id is at most {_MOST_ID:,}, and a run {_MOST:,}", field="blocks"
        )
    if row.score is not None and not 0.0 <= row.score <= 1.0:
        raise WorkloadError(source, number, "is a chance, from 0 to 1", field="score")
    return row


@dataclass(slots=True)
class _Conversation:
    """What is kept of a stream's latest prompt."""

    row: TraceRow
    whole: int
    ends: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)


class PromptBuilder:
    """Turns rows, in the order they are served, into prompts."""

    def __init__(self, minimum_tokens: int = 0) -> None:
        """Start having seen nothing.

        Args:
            minimum_tokens: Blocks that end before it take no mark. The first block of a chat's prompts is the same
                for everyone, and a prompt that has little more would seem to be continued by all of them.
        """
        self._minimum_tokens = minimum_tokens
        self._conversations: dict[tuple[str, str, str], _Conversation] = {}
        self._namespaces: dict[str, int] = {}
        self._remainders = 0

    def prompt(self, row: TraceRow) -> TracePrompt:
        """The prompt of one row; only rows given before have a part in it."""
        key = (row.namespace, row.session, row.stream)
        whole, size = row.whole_blocks, row.block_tokens
        number = self._namespaces.setdefault(row.namespace, len(self._namespaces))
        if row.layers:
            return self._laid_out(row, number, key)
        before = self._conversations.get(key)
        common = 0 if before is None else min(common_blocks(before.row.runs, row.runs), before.whole, whole)
        tail = max(1, ceil(TAIL_TOKENS / size))
        gap_s = None
        now = _Conversation(row, whole)
        history = common
        if before is not None:
            if common >= before.whole - tail:
                gap_s = row.time_s - before.row.time_s
                history = ceil((before.row.input_tokens + before.row.output_tokens) / size)
            kept = bisect_right(before.ends, common)
            now.ends, now.blocks, now.names = before.ends[:kept], before.blocks[:kept], before.names[:kept]
        if not now.ends:
            for end, layer in _recorded_ends(row, whole):
                self._append(now, number, end, layer)
        history = max(min(history, whole - 1), now.ends[-1] if now.ends else 0)
        if before is not None:
            self._append(now, number, history, Layer.HISTORY)
        blocks, names, ends = self._turn(row, number, now, whole, tail)
        self._conversations[key] = now
        return TracePrompt(Prompt(blocks), names, ends, gap_s)

    def known(self, row: TraceRow) -> TracePrompt:
        """What an event's row says the next request begins with; no conversation goes on by it."""
        number = self._namespaces.setdefault(row.namespace, len(self._namespaces))
        now, whole = _Conversation(row, row.whole_blocks), row.whole_blocks
        ends: Sequence[tuple[int, Layer]] = row.layers
        if not ends:
            ends = [*_recorded_ends(row, whole + 1), (whole, Layer.CONTEXT)]
        for end, layer in ends:
            self._append(now, number, end, layer, minimum_tokens=0)
        return TracePrompt(Prompt(tuple(now.blocks)), tuple(now.names), tuple(now.ends), None)

    def _turn(
        self, row: TraceRow, number: int, now: _Conversation, whole: int, tail: int
    ) -> tuple[tuple[Block, ...], tuple[bytes, ...], tuple[int, ...]]:
        """Blocks, names and ends of the whole prompt; `now` is left with the turn as history of the next."""
        kept = len(now.ends)
        kind = BlockKind.TOOL_RESULT if row.added == ("tool_result",) else BlockKind.TEXT
        for end in (whole - tail, whole):
            self._append(now, number, end, Layer.HISTORY, kind)
        turn = [
            Block(Layer.TURN, block.kind, block.content, block.role, block.markable, block.token_count)
            for block in now.blocks[kept:]
        ]
        names, ends = list(now.names), list(now.ends)
        self._add_remainder(row, turn, names, ends, kind)
        return (*now.blocks[:kept], *turn), tuple(names), tuple(ends)

    def _add_remainder(
        self, row: TraceRow, blocks: list[Block], names: list[bytes], ends: list[int], kind: BlockKind
    ) -> None:
        """Add what fills no whole block, which takes no mark and has no like."""
        remainder = row.input_tokens - (ends[-1] if ends else 0) * row.block_tokens
        if remainder > 0 or not ends:
            self._remainders += 1
            name = b"part" + self._remainders.to_bytes(12, "big")
            blocks.append(Block(Layer.TURN, kind, name, "user", False, max(0, remainder)))
            names.append(name)
            ends.append(row.whole_blocks)

    def _laid_out(self, row: TraceRow, namespace: int, key: tuple[str, str, str]) -> TracePrompt:
        """The prompt of a row that knows its layers; what it extends is the row before it of its stream."""
        before = self._conversations.get(key)
        now = self._conversations[key] = _Conversation(row, row.whole_blocks)
        gap_s = None
        if before is not None and common_blocks(before.row.runs, row.runs) >= before.whole:
            gap_s = row.time_s - before.row.time_s
        for end, layer in row.layers:
            self._append(now, namespace, end, layer, minimum_tokens=0)
        blocks, names, ends = now.blocks, now.names, now.ends
        now.blocks, now.names, now.ends = [], [], []
        if row.shapes:
            blocks = [
                block._replace(kind=shape.kind, role=shape.role, markable=shape.markable)
                for block, shape in zip(blocks, row.shapes, strict=True)
            ]
        self._add_remainder(row, blocks, names, ends, BlockKind.TEXT)
        first, last = row.volatile or (-1, -1)
        prompt = Prompt(tuple(blocks), volatile_from=first, volatile_end=last)
        return TracePrompt(prompt, tuple(names), tuple(ends), gap_s)

    def _append(
        self,
        now: _Conversation,
        namespace: int,
        end: int,
        layer: Layer,
        kind: BlockKind = BlockKind.TEXT,
        *,
        minimum_tokens: int | None = None,
    ) -> None:
        """Add the block that ends there, unless nothing is left for it."""
        start, size = now.ends[-1] if now.ends else 0, now.row.block_tokens
        if end <= start:
            return
        name = namespace.to_bytes(6, "big") + block_at(now.row.runs, end).to_bytes(10, "big", signed=True)
        role = "" if layer <= Layer.SYSTEM else "user"
        kind = BlockKind.TOOL if layer is Layer.TOOLS else kind
        markable = end * size >= (self._minimum_tokens if minimum_tokens is None else minimum_tokens)
        now.blocks.append(Block(layer, kind, name, role, markable, (end - start) * size))
        now.names.append(name)
        now.ends.append(end)


def common_blocks(left: Runs, right: Runs) -> int:
    """Leading blocks two prompts have in common."""
    total = 0
    for (first, count), (other, other_count) in zip(left, right, strict=False):
        if first != other:
            return total
        total += min(count, other_count)
        if count != other_count:
            return total
    return total


def block_at(runs: Sequence[tuple[int, int]], end: int) -> int:
    """Id of the last block of the prefix of `end` >= 1 blocks."""
    for first, count in runs:
        if end <= count:
            return first + end - 1
        end -= count
    raise ValueError("the prompt is shorter than that")


def _recorded_ends(row: TraceRow, whole: int) -> list[tuple[int, Layer]]:
    tools = row.tools_tokens // row.block_tokens
    system = (row.tools_tokens + row.system_tokens) // row.block_tokens
    return [(end, layer) for end, layer in ((tools, Layer.TOOLS), (system, Layer.SYSTEM)) if 0 < end < whole]
