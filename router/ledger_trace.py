"""The calls of a ledger as rows of a trace, for `hybrid-router replay`.

The rule: a row's prompt is rebuilt from the names the ledger keeps (`router.prompt_body`), never guessed: a call whose
prompt, or what that builds on, is not kept has no row and is counted. Blocks are of one token, so a row spells a prompt
as long runs of ids, and equal prefixes have equal ids whichever call, session or router they came from. What a block
weighs is settled once, by the first call that is replayed with it: the provider's own figures (what it counted of
openings, what was cached up to the last breakpoint, the whole input) are exact, and between them the estimates are
scaled to fit; so the rows of calls on Opus have exactly the input that was billed.

A conversation is a prompt that begins with the whole of an earlier one, whatever session it names. Prompts that nobody
used for a day are forgotten, and those unused longest when there are too many blocks: no cache lives that long.

It reads the ledger a page at a time, up to the call that was last when it began, so a pass can be made again. It knows
no prices and no policies.
"""

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from weakref import WeakValueDictionary

from cache.economics import TokenSplit
from cache.prompt import Layer
from cache.rules import TTL_1H_S
from router.ledger import CostRow, Filter, LedgerReader, Place, prefixes
from router.ledger.prefixes import PromptCall
from router.prompt_body import Piece, PromptBody, Undecodable, decode, layers_of
from router.replay_trace import LayerEnd, Runs, Shape, TraceRow

PAGE_CALLS = 1_000
BLOCK_LIMIT = 300_000
"""Blocks that are remembered, about 130 MB."""
IDLE_S = 86_400.0
"""A day: longer than any cache lives, and than the planner's memory of who returns."""
_ROOM = 40
"""Bits of ids that a run of blocks has to itself, so that whatever extends it goes on where it ends."""
_SCALES = (0.2, 5.0)
"""An estimate that is further off than this says that figures and prompt do not belong together."""
_LEARNING_RATE = 0.05


@dataclass(slots=True)
class Booked:
    """Sums of calls as they are booked.

    Attributes:
        cost_nano_usd: Of those whose cost is known.
        unpriced: Those whose cost is not.
    """

    calls: int = 0
    read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    uncached: int = 0
    output_tokens: int = 0
    cost_nano_usd: int = 0
    unpriced: int = 0

    def add(self, call: PromptCall) -> None:
        """Count one call with usage."""
        split = split_of(call)
        self.calls += 1
        self.read += split.read
        self.write_5m += split.write_5m
        self.write_1h += split.write_1h
        self.uncached += split.uncached
        self.output_tokens += call.output_tokens or 0
        self.cost_nano_usd += call.cost_nano_usd or 0
        self.unpriced += call.cost_nano_usd is None

    @property
    def split(self) -> TokenSplit:
        """Input tokens by how they were billed."""
        return TokenSplit(self.read, self.write_5m, self.write_1h, self.uncached)


@dataclass(slots=True)
class Seen:
    """What one pass over a ledger met.

    Attributes:
        replayed: Calls that became rows and went to Opus, as booked.
        left_out: Calls on Opus with usage whose prompt is unknown, as booked.
        flash: Calls on Flash that became rows.
        flash_left_out: Calls on Flash that were asked for and have no prompt.
        without_usage: Calls of which the provider never told what it billed; no rows.
        inexact: Rows whose figures and estimates do not fit, so that their input is not the billed one.
        strategies: How often each strategy planned the calls of `replayed`.
        models: How often each model answered them.
    """

    replayed: Booked = field(default_factory=Booked)
    left_out: Booked = field(default_factory=Booked)
    flash: int = 0
    flash_left_out: int = 0
    without_usage: int = 0
    inexact: int = 0
    strategies: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)


def split_of(call: PromptCall) -> TokenSplit:
    """Input of a call with usage by how it was billed."""
    read, write_5m = call.cache_read_tokens or 0, call.cache_write_5m_tokens or 0
    write_1h = call.cache_write_1h_tokens or 0
    return TokenSplit(read, write_5m, write_1h, (call.input_tokens or 0) - read - write_5m - write_1h)


class LedgerTrace:
    """The calls of a window as rows; each pass over `rows` reads the ledger anew and sees the same calls."""

    def __init__(
        self, place: Place, where: Filter, *, every_call: bool = False, flash_turns: bool = False
    ) -> None:
        """Look how many calls there are.

        Args:
            where: Which calls, by start and group.
            every_call: Also those that went to Flash, as if Opus had been asked; their input is estimated.
            flash_turns: Also those that went to Flash, as what they were: turns that say what may come next.

        Raises:
            FileNotFoundError: There is no such file.
            StoreError: The ledger cannot be read, or is of a release that kept no prompts.
        """
        self.place, self._asked = place, where
        users = {**where.equal, "purpose": "user"}
        on_both = every_call or flash_turns
        self._where = replace(where, equal=users if on_both else {**users, "route": "opus"})
        on_opus = {**where.equal, "route": "opus"}
        with LedgerReader.open(place) as reader:
            self._until = reader.ask(prefixes.last_number, version=prefixes.SINCE)
            self.expected = reader.totals(self._where).calls
            answered = reader.costs(
                ("model", "strategy"), replace(where, equal={**on_opus, "purpose": "user"})
            )
            self.warms = reader.totals(replace(where, equal={**on_opus, "purpose": "warm"}))
            """What was spent on warms in the window; no rows."""
        self.model = _most(answered, "model")
        """Model that answered most of the calls on Opus; "" without any."""
        self.strategy = _most(answered, "strategy")
        """Strategy that planned most of them; likewise."""
        self.every_call = every_call
        self.seen = Seen()
        """Of the last pass that was begun."""

    def with_flash_turns(self) -> "LedgerTrace":
        """The same window with the turns that Flash answered, and their scores, between the requests to Opus."""
        return LedgerTrace(self.place, self._asked, flash_turns=True)

    def rows(self) -> Iterator[TraceRow]:
        """Yield a row for each call whose prompt is known, by start.

        Raises:
            StoreError: The ledger cannot be read.
        """
        seen = self.seen = Seen()
        origin_s: float | None = None
        with LedgerReader.open(self.place) as reader:
            rebuilding = Rebuilding(partial(_named, reader))
            for call in self._calls(reader):
                if call.outcome == "refused":
                    continue
                if call.input_tokens is None:
                    seen.without_usage += 1
                    continue
                if origin_s is None:
                    origin_s = call.started_s
                row = rebuilding.row(call, call.started_s - origin_s)
                _count(seen, call, row)
                if row is not None:
                    yield row if self.every_call else row._replace(opus=call.route == "opus")

    def _calls(self, reader: LedgerReader) -> Iterator[PromptCall]:
        after: tuple[float, int] | None = None
        while True:
            page = reader.ask(
                partial(
                    prefixes.page,
                    where=self._where,
                    until_number=self._until,
                    after=after,
                    limit=PAGE_CALLS,
                ),
                version=prefixes.SINCE,
            )
            yield from page
            if len(page) < PAGE_CALLS:
                return
            after = page[-1].started_s, page[-1].number


def _most(rows: Sequence[CostRow], name: str) -> str:
    """The value of a group that most calls have, "" if none has any."""
    calls: Counter[str] = Counter()
    for row in rows:
        calls[row.group[name]] += row.calls if row.group[name] else 0
    return max(calls, key=lambda value: calls[value], default="")


def _named(reader: LedgerReader, prompt: int, before_number: int) -> tuple[int, bytes] | None:
    return reader.ask(
        lambda connection: prefixes.named(connection, prompt, before_number), version=prefixes.SINCE
    )


def _count(seen: Seen, call: PromptCall, row: TraceRow | None) -> None:
    if call.route != "opus":
        seen.flash += row is not None
        seen.flash_left_out += row is None
        return
    (seen.left_out if row is None else seen.replayed).add(call)
    if row is not None:
        model = call.answered_model or call.model
        seen.inexact += row.input_tokens != call.input_tokens
        seen.strategies[call.strategy] = seen.strategies.get(call.strategy, 0) + 1
        seen.models[model] = seen.models.get(model, 0) + 1


class _Node:
    """A block on a path of blocks; the path is the prefix.

    Attributes:
        depth: Blocks of the prefix.
        first_id: Id of its first token; -1 until it has been weighed, like `end`.
        end: Tokens of the prefix.
        extended: Whether some block goes on with its ids.
        conversation: Of the latest prompt that ended here; None where none did.
    """

    __slots__ = ("__weakref__", "conversation", "depth", "end", "extended", "first_id", "parent", "piece")

    def __init__(self, parent: "_Node | None", piece: Piece) -> None:
        self.parent, self.piece = parent, piece
        self.depth: int = 1 if parent is None else parent.depth + 1
        self.first_id = self.end = -1
        self.extended = False
        self.conversation: _Conversation | None = None


@dataclass(slots=True, eq=False)
class _Conversation:
    """Prompts of which each begins with the one before."""

    number: int
    rows: int = 0


Find = Callable[[int, int], tuple[int, bytes] | None]
"""Number and body of the first prompt of a name before a number; see `prefixes.named`."""


class Rebuilding:
    """Prompts rebuilt from what the ledger keeps, and weighed."""

    def __init__(self, find: Find, block_limit: int = BLOCK_LIMIT) -> None:
        """Start knowing nothing; what a prompt builds on and is not known yet is asked of `find`."""
        self._find = find
        self._block_limit = block_limit
        self._nodes: WeakValueDictionary[int, _Node] = WeakValueDictionary()
        self._ends: OrderedDict[int, tuple[_Node, float]] = OrderedDict()
        self._spaces = 0
        self._conversations = 0
        self._ratio = 1.0

    def row(self, call: PromptCall, time_s: float) -> TraceRow | None:
        """The row of a call, None where its prompt is unknown.

        Args:
            call: One with usage; those on Opus in the order of their start.
            time_s: Of the row.
        """
        found = self._prompt(call)
        if found is None:
            return None
        body, path = found
        self._weigh(call, body, path)
        last = path[-1]
        conversation = self._conversation(path)
        last.conversation = conversation
        conversation.rows += 1
        self._remember(last, time_s)
        pieces = [node.piece for node in path]
        tools_tokens = _end(path, Layer.TOOLS)
        name = f"{call.tenant}/{call.session}" if call.session else f"conversation {conversation.number}"
        return TraceRow(
            namespace="ledger",
            session=name,
            stream=str(conversation.number),
            sequence=conversation.rows - 1,
            time_s=time_s,
            input_tokens=last.end,
            output_tokens=call.output_tokens or 0,
            block_tokens=1,
            runs=_runs(path),
            kind=call.application,
            tools_tokens=tools_tokens,
            system_tokens=max(0, _end(path, Layer.SYSTEM) - tools_tokens),
            layers=tuple(
                [LayerEnd(node.end, layer) for node, layer in zip(path, layers_of(body, pieces), strict=True)]
            ),
            stop=call.finish_reason,
            answered_s=call.duration_s,
            shapes=tuple([Shape(piece.kind, piece.role, piece.markable) for piece in pieces]),
            volatile=body.volatile,
            marks=tuple([(path[place].end, ttl_s) for place, ttl_s in body.marks]),
            score=call.score,
        )

    def pieces(self, call: PromptCall) -> tuple[PromptBody, tuple[Piece, ...]] | None:
        """The blocks of a call's prompt with what is kept beside them; None where they are unknown."""
        found = self._prompt(call)
        return None if found is None else (found[0], tuple([node.piece for node in found[1]]))

    def _prompt(self, call: PromptCall) -> tuple[PromptBody, list[_Node]] | None:
        """The blocks of a call's prompt, first to last, with what is kept beside them."""
        if call.body is None:
            return None
        try:
            body = decode(call.body)
            last = self._grown(body, call.number)
        except Undecodable:
            return None
        if last is None or body.partial or any(place >= last.depth for place, _ in body.marks):
            return None
        return body, _path(last)

    def _grown(self, body: PromptBody, number: int) -> _Node | None:
        """The last block of a prompt; None when something it builds on is not kept."""
        builds = [body]
        node: _Node | None = None
        while (parent := builds[-1].parent) is not None:
            node = self._nodes.get(parent)
            if node is not None:
                break
            found = self._find(parent, number)
            if found is None:
                return None
            number = found[0]
            builds.append(decode(found[1]))
        for build in reversed(builds):
            if build.shared > (0 if node is None else node.depth):
                return None
            while node is not None and node.depth > build.shared:
                node = node.parent
            for piece in build.pieces:
                known = self._nodes.get(piece.name)
                if known is None:
                    known = self._nodes[piece.name] = _Node(node, piece)
                node = known
        return node

    def _weigh(self, call: PromptCall, body: PromptBody, path: Sequence[_Node]) -> None:
        """Settle what those blocks weigh that no row before had."""
        start = bisect_left(path, True, key=lambda node: node.end < 0)
        before = path[start - 1].end if start else 0
        for place, tokens in sorted(_known_tokens(call, body, path, start).items()):
            if place >= start:
                before = self._fit(path[start : place + 1], before, tokens)
                start = place + 1
        if start < len(path):
            estimate = sum(node.piece.tokens for node in path[start:])
            self._fit(path[start:], before, before + round(estimate * self._ratio))

    def _fit(self, nodes: Sequence[_Node], before: int, after: int) -> int:
        """Let blocks fill the tokens between two figures, in proportion to their estimates; give where they end.

        Figures that leave no room for them, or make them several times what was estimated, are not used.
        """
        estimates = [max(1, node.piece.tokens) for node in nodes]
        whole, room = sum(estimates), after - before
        if room < len(nodes) or not _SCALES[0] <= room / whole <= _SCALES[1]:
            room = max(len(nodes), round(whole * self._ratio))
        else:
            self._ratio += _LEARNING_RATE * (room / whole - self._ratio)
        done = 0
        for place, (node, estimate) in enumerate(zip(nodes, estimates, strict=True)):
            done += estimate
            # Every block weighs something, so that each ends at a place of its own.
            least, most = (
                (node.parent.end if node.parent else 0) + 1,
                before + room - (len(nodes) - 1 - place),
            )
            node.end = min(max(before + round(done * room / whole), least), most)
            node.first_id = self._id_after(node.parent)
        return before + room

    def _id_after(self, parent: _Node | None) -> int:
        """Where the ids of a block begin: behind its parent's, unless another went on there."""
        if parent is None or parent.extended:
            self._spaces += 1
            return self._spaces << _ROOM
        parent.extended = True
        return parent.first_id + parent.end - (0 if parent.parent is None else parent.parent.end)

    def _conversation(self, path: Sequence[_Node]) -> _Conversation:
        """The one that a prompt goes on with, or a new one."""
        for node in reversed(path):
            if node.conversation is not None:
                return node.conversation
        self._conversations += 1
        return _Conversation(self._conversations)

    def _remember(self, last: _Node, now_s: float) -> None:
        ends = self._ends
        ends[last.piece.name] = last, now_s
        ends.move_to_end(last.piece.name)
        while len(ends) > 1 and (
            len(self._nodes) > self._block_limit or next(iter(ends.values()))[1] < now_s - IDLE_S
        ):
            ends.popitem(last=False)


def _known_tokens(call: PromptCall, body: PromptBody, path: Sequence[_Node], start: int) -> dict[int, int]:
    """Blocks past `start` at which the tokens of the prefix are known exactly, and these."""
    known: dict[int, int] = {}
    if body.counted and start < body.counted <= len(path):
        known[body.counted - 1] = sum(node.piece.tokens for node in path[: body.counted])
    if call.route != "opus" or call.input_tokens is None:
        return known
    split = split_of(call)
    if body.marks and split.total > split.uncached:
        hours = [place for place, ttl_s in body.marks if ttl_s >= TTL_1H_S]
        if hours and split.write_1h and split.write_5m:
            known[hours[-1]] = split.read + split.write_1h
        known[body.marks[-1][0]] = split.total - split.uncached
    known[len(path) - 1] = call.input_tokens
    return known


def _end(path: Sequence[_Node], layer: Layer) -> int:
    """Tokens of the prefix that ends with a stable layer, 0 where there is none of it."""
    return max([node.end for node in path if node.piece.layer is layer], default=0)


def _path(last: _Node) -> list[_Node]:
    path: list[_Node] = []
    node: _Node | None = last
    while node is not None:
        path.append(node)
        node = node.parent
    path.reverse()
    return path


def _runs(path: Sequence[_Node]) -> Runs:
    """Ids of a prompt's tokens as (first id, count)."""
    runs: list[tuple[int, int]] = []
    start = first_id = end = 0
    next_id = -1
    for node in path:
        if node.first_id != next_id:
            if end > start:
                runs.append((first_id, end - start))
            start, first_id = end, node.first_id
        next_id = node.first_id + node.end - end
        end = node.end
    runs.append((first_id, end - start))
    return tuple(runs)
