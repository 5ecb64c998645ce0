"""Replayed bills are the sandbox's bills: the same requests, marked alike, are billed alike, token for token.

Two models of the provider's cache were written apart: `router.replay_provider` over block ids, which judges plans in
replays, and the sandbox over request bodies, which answers the real adapter. Each row here is spelled as the request it
stands for (every block weighs in the sandbox what the row says), sent by the adapter with the replay's breakpoints at
the row's time, and the usage that comes back is compared with the replay's.

Both are the same world under the sandbox settings of `WORLD`, which settle what the provider's page leaves open:

    layered_entries=True   what is written past a live entry lapses with it (fact A2, the cautious reading)
    refresh="all"          a hit restarts the clock of every live entry it contains (fact A1)
    latency_scale=0        an entry can be read at once; a trace knows no first bytes

The 20 positions of lookback are in both, because these rows say where their blocks end.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import lru_cache
from random import Random
from typing import NamedTuple

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.economics import Rates, TokenSplit
from cache.plan import Breakpoint, Plan, Strategy, plan
from cache.prefix import prefix_digests
from cache.prompt import Layer
from cache.rules import rules_for
from router.call import Call, Identity, Message, Role, Text, Tool
from router.month import BLOCK_TOKENS, SIZES, Kind, Sizes, Workload, layer_ends, month
from router.replay import Policy, Settings, replay
from router.replay_provider import ReferenceCache
from router.replay_trace import TraceRow, block_at
from router.sandbox import Sandbox, SandboxSettings, VirtualClock
from router.upstreams.anthropic import AnthropicUpstream

WORLD = SandboxSettings(layered_entries=True, refresh="all", latency_scale=0.0)
START_S = 1_795_305_600.0
"""A Sunday's midnight, a whole number, so that a TTL's very last instant is spelled exactly."""
NAME_WORDS = 5
"""Words of at most four letters that spell a block's id; each is one token in every family."""
TURN_TOKENS, SYSTEM_TOKENS = 4, 2
"""What the sandbox adds per message and for the system prompt."""
TOOL_SCHEMA = '{"type":"object"}'
RATES = {"claude-opus-4-5-20251101": 0.1, "claude-opus-5": 0.1, "claude-opus-5-5": 0.05}
SMALL = Sizes(tools=800, system=1200, context=500, query=500, kept=800, output=800)
"""The seed's 2,500 shared and user tokens, cut so that Opus 4.5's own 496 tokens of tool instructions fit in."""


class Witness:
    """A sandbox that is asked what a row stands for."""

    def __init__(self, model: str, client: httpx2.AsyncClient, sandbox: Sandbox, clock: VirtualClock) -> None:
        self.upstream = AnthropicUpstream(model=model, api_key="k", http_client=client)
        self.sandbox, self.clock, self.model = sandbox, clock, model
        self._tool_words: dict[int, int] = {}

    async def bill(self, row: TraceRow, marks: Sequence[tuple[int, int]]) -> TokenSplit:
        """Send the row with these marks, (blocks, TTL), at its time."""
        self.clock.advance(START_S + row.time_s - self.clock.now())
        rendered = self.upstream.render(await self._call(row))
        assert [block.layer for block in rendered.prompt.blocks] == [end.layer for end in row.layers]
        positions = {end.blocks: position for position, end in enumerate(row.layers)}
        digests = prefix_digests(rendered.prompt)
        points = tuple(
            Breakpoint(positions[blocks], row.layers[positions[blocks]].layer, ttl_s, 0, b"", "", 0.0)
            for blocks, ttl_s in marks
        )
        bare = plan(
            rendered.prompt,
            digests,
            [0] * len(digests),
            [None] * len(digests),
            rules=rules_for(self.model),
            rates=Rates(1.25, 2.0, 0.1),
            strategy=Strategy.NONE,
            now=0.0,
        )
        chosen: Plan = bare._replace(breakpoints=points)
        usage = (await self.upstream.generate(rendered, chosen, 20.0)).usage
        assert usage is not None
        assert usage.input_tokens == row.input_tokens  # the blocks weigh what the row says
        return TokenSplit(
            usage.cache_read_tokens,
            usage.cache_write_5m_tokens,
            usage.cache_write_1h_tokens,
            usage.uncached_input_tokens,
        )

    async def _call(self, row: TraceRow) -> Call:
        texts: dict[Layer, list[str]] = {layer: [] for layer in Layer}
        start = 0
        for end, layer in row.layers:
            name, tokens = block_at(row.runs, end), (end - start) * BLOCK_TOKENS
            if layer is Layer.TOOLS:
                tokens = await self._words_of_tool(tokens)
            elif layer is Layer.SYSTEM:
                tokens -= SYSTEM_TOKENS
            elif layer is not Layer.TURN or texts[Layer.HISTORY] or not texts[Layer.CONTEXT]:
                # The first question stands in the context's message, everything else opens one of its own.
                joins = layer is Layer.HISTORY and not texts[Layer.HISTORY] and texts[Layer.CONTEXT]
                tokens -= 0 if joins else TURN_TOKENS
            texts[layer].append(words(name, tokens))
            start = end
        said = texts[Layer.HISTORY] + texts[Layer.TURN]
        return Call(
            identity=Identity(request_id="replay"),
            tools=tuple(Tool("find", text, TOOL_SCHEMA) for text in texts[Layer.TOOLS]),
            system=tuple(texts[Layer.SYSTEM]),
            context=tuple(texts[Layer.CONTEXT]),
            messages=tuple(
                Message(Role.ASSISTANT if place % 2 else Role.USER, (Text(text),))
                for place, text in enumerate(said)
            ),
            max_output_tokens=16,
        )

    async def _words_of_tool(self, tokens: int) -> int:
        """Words of a description that make the tool weigh `tokens`, by the sandbox's own counter."""
        if tokens not in self._tool_words:
            trial = 50
            asked = Call(
                identity=Identity(request_id="count"),
                tools=(Tool("find", words(1, trial), TOOL_SCHEMA),),
                messages=(Message(Role.USER, (Text("w"),)),),
                max_output_tokens=16,
            )
            reply = await self.upstream.generate(self.upstream.render(asked), None, 20.0)
            assert reply.usage is not None
            rest = reply.usage.input_tokens - trial - TURN_TOKENS - 1
            self._tool_words[tokens] = tokens - rest
        return self._tool_words[tokens]


@lru_cache(maxsize=4096)
def words(name: int, tokens: int) -> str:
    """A text of exactly `tokens` tokens in every family, distinct per name."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    spelled = ""
    while name:
        name, digit = divmod(name, 36)
        spelled = digits[digit] + spelled
    spelled = spelled.rjust(4 * NAME_WORDS, "0")
    assert len(spelled) == 4 * NAME_WORDS < 4 * tokens
    parts = [spelled[at : at + 4] for at in range(0, len(spelled), 4)]
    return " ".join(parts + ["w"] * (tokens - NAME_WORDS))


@pytest.fixture(params=list(RATES))
async def witness(request: pytest.FixtureRequest) -> AsyncIterator[Witness]:
    clock = VirtualClock(START_S)
    sandbox = Sandbox(WORLD, clock=clock)
    async with httpx2.AsyncClient(transport=sandbox.transport()) as client:
        found = Witness(request.param, client, sandbox, clock)
        yield found
        await found.upstream.close()


def settings_of(model: str) -> Settings:
    return Settings(rules_for(model).minimum_tokens, Rates(1.25, 2.0, RATES[model]), model)


async def differences(
    witness: Witness, billed: Iterable[tuple[TraceRow, Sequence[tuple[int, int]], TokenSplit]]
) -> list[tuple[int, TokenSplit, TokenSplit]]:
    """(place, replay's split, sandbox's split) of every request the two disagree about."""
    found = []
    for place, (row, marks, split) in enumerate(billed):
        seen = await witness.bill(row, marks)
        if seen != split:
            found.append((place, split, seen))
    return found


@pytest.mark.parametrize("policy", Policy)
async def test_a_generated_month_is_billed_alike(witness: Witness, policy: Policy) -> None:
    """Three days across a deploy, every policy, at sizes around each model's minimum."""
    rows = list(month(Workload(SMALL, 100, 3, 4, users=20)))
    assert len(rows) > 200
    assert len({row.runs[1] for row in rows}) > 1  # a deploy
    served = list(replay(rows, policy, settings_of(witness.model)))
    assert await differences(witness, [(s.row, s.marks, s.split) for s in served]) == []


async def test_an_agentic_month_is_billed_alike(witness: Witness) -> None:
    """Longer prompts and mixed TTLs, as AUTO marks them; hours and minutes both occur."""
    rows = list(month(Workload(SIZES[Kind.AGENTIC], 60, 3, 2, users=5)))
    served = list(replay(rows, Policy.AUTO, settings_of(witness.model)))
    assert await differences(witness, [(s.row, s.marks, s.split) for s in served]) == []
    assert sum(s.split.write_1h for s in served) > 0 < sum(s.split.write_5m for s in served)
    assert sum(s.split.read for s in served) > 0


GAPS_S = (
    0.0,
    7.0,
    20.0,
    60.0,
    60.0,
    150.0,
    290.0,
    299.0,
    300.0,
    301.0,
    700.0,
    1700.0,
    3599.0,
    3600.0,
    3601.0,
)


def conversations(random: Random, requests: int) -> list[TraceRow]:
    """Growing conversations of two users that share layers, lapse to the second and meet deploys."""
    rows: list[TraceRow] = []
    now_s, deploy, started = 0.0, 0, 4
    open_: list[tuple[int, int]] = [(number, 0) for number in range(4)]
    for _ in range(requests):
        now_s += random.choice(GAPS_S)
        deploy += random.random() < 0.02
        place = random.randrange(len(open_))
        session, turn = open_[place]
        if turn == 7 or random.random() < 0.05:
            open_[place] = (started, 0)
            started += 1
        else:
            open_[place] = (session, turn + 1)
        layers = layer_ends(SMALL, turn)
        runs = (
            (1, 8),
            (10_000 * (deploy + 1), 12),
            (10**9 + 10**6 * deploy + 1000 * (session % 2), 5),
            (10**12 + 10**9 * deploy + 10**4 * session, layers[-1].blocks - 25),
        )
        tokens = layers[-1].blocks * BLOCK_TOKENS
        rows.append(
            TraceRow("hand", str(session), "main", turn, now_s, tokens, 800, 100, runs, layers=layers)
        )
    return rows


def any_marks(random: Random, row: TraceRow, hour_blocks: int | None) -> list[tuple[int, int]]:
    """Up to four marks on any blocks, or none; for an hour up to `hour_blocks`, for 5 minutes past them.

    None draws the line anew for every request, so that hours come to stand on minutes that lapse under them.
    """
    ends = [end.blocks for end in row.layers]
    if hour_blocks is None:
        hour_blocks = random.choice([0, *ends])
    chosen = sorted(random.sample(ends, random.randrange(min(4, len(ends)) + 1)))
    return [(end, 3600 if end <= hour_blocks else 300) for end in chosen]


def reference_bills(
    rows: Sequence[TraceRow],
    marks: Sequence[Sequence[tuple[int, int]]],
    minimum_tokens: int,
    *,
    lookback: bool = True,
) -> list[TokenSplit]:
    cache = ReferenceCache(minimum_tokens)
    return [
        cache.serve(
            row.runs,
            whole_blocks=row.whole_blocks,
            input_tokens=row.input_tokens,
            block_tokens=row.block_tokens,
            marks=marked,
            now_s=row.time_s,
            ends=row.position_ends if lookback else (),
        )
        for row, marked in zip(rows, marks, strict=True)
    ]


@pytest.mark.parametrize("hour_blocks", [0, 8, 20, 25, 56, 1000, None])
async def test_any_marks_are_billed_alike(witness: Witness, hour_blocks: int | None) -> None:
    """Marks no planner would set: none over a warm entry, old entries past the last mark, gaps to the second."""
    random = Random(hour_blocks or 0)
    rows = conversations(random, 250)
    marks = [any_marks(random, row, hour_blocks) for row in rows]
    splits = reference_bills(rows, marks, rules_for(witness.model).minimum_tokens)
    assert await differences(witness, zip(rows, marks, splits, strict=True)) == []
    shortest = max(SMALL.tools, rules_for(witness.model).minimum_tokens)
    # Few conversations grow past a floor of 4,096.
    assert sum(split.read > 0 for split in splits) > (30 if shortest == SMALL.tools else 3)
    assert sum(split.uncached > 0 for split in splits) > 10
    if hour_blocks is not None:
        assert any(split.write_1h for split in splits) == (hour_blocks * BLOCK_TOKENS >= shortest)


class Step(NamedTuple):
    """A request: seconds since the one before, whose it is, turns since its last one, and what it marks.

    Attributes:
        marks: Places of blocks, counted from the last; taken up to four and for an hour up to the `hours`-th.
    """

    gap_s: float
    session: int
    turns: int
    marks: tuple[int, ...]
    hours: int


def step() -> st.SearchStrategy[Step]:
    places = st.lists(st.integers(0, 45), max_size=4, unique=True)
    return st.builds(
        Step,
        st.sampled_from(GAPS_S),
        st.integers(0, 2),
        st.sampled_from([1, 1, 1, 5, 10, 11]),
        places.map(tuple),
        st.integers(0, 4),
    )


def told(steps: Sequence[Step]) -> tuple[list[TraceRow], list[list[tuple[int, int]]]]:
    """Rows and marks: conversations that share tools, system and context, and grow by up to 22 blocks at once."""
    rows, marks, turns, now_s = [], [], Counter[int](), 0.0
    for each in steps:
        now_s += each.gap_s
        turn = min(20, turns[each.session] + each.turns)
        turns[each.session] = turn
        layers = layer_ends(SMALL, turn)
        runs = (
            (1, 8),
            (10_000, 12),
            (10**9, 5),
            (10**12 + 10**6 * each.session, layers[-1].blocks - CONTEXT_END),
        )
        tokens = layers[-1].blocks * BLOCK_TOKENS
        name = str(each.session)
        rows.append(TraceRow("hand", name, "main", turn, now_s, tokens, 800, 100, runs, layers=layers))
        ends = sorted({layers[-1 - place].blocks for place in each.marks if place < len(layers)})
        marks.append([(end, 3600 if place < each.hours else 300) for place, end in enumerate(ends)])
    return rows, marks


async def compared(
    model: str, rows: Sequence[TraceRow], marks: Sequence[Sequence[tuple[int, int]]]
) -> object:
    """Differences, and the bills as the reference has them."""
    clock = VirtualClock(START_S)
    sandbox = Sandbox(WORLD, clock=clock)
    splits = reference_bills(rows, marks, rules_for(model).minimum_tokens)
    async with httpx2.AsyncClient(transport=sandbox.transport()) as client:
        found = Witness(model, client, sandbox, clock)
        different = await differences(found, zip(rows, marks, splits, strict=True))
        await found.upstream.close()
    return different


@settings(max_examples=25, deadline=None)
@given(st.lists(step(), min_size=2, max_size=14), st.sampled_from(["claude-opus-5", "claude-opus-5-5"]))
def test_whatever_is_marked_whenever_is_billed_alike(steps: list[Step], model: str) -> None:
    """Any marks on any blocks at any gaps, turns that outgrow the lookback included: the same reads and writes."""
    rows, marks = told(steps)
    assert asyncio.run(compared(model, rows, marks)) == []


async def test_what_is_past_the_lookback_is_not_read(witness: Witness) -> None:
    """An entry 19 positions before the mark is read, one 20 before is not, and a second mark within reach finds it."""
    start = Step(0.0, 0, 1, (0,), 0)
    for turns, more, read in ((9, (), True), (10, (), False), (10, (3,), True)):
        steps = [start, Step(20.0, 0, turns, (0, *more), 0)]
        rows, marks = told(steps)
        rows = [row._replace(time_s=row.time_s + 10_000 * turns + 100_000 * len(more)) for row in rows]
        splits = reference_bills(rows, marks, rules_for(witness.model).minimum_tokens)
        assert await differences(witness, zip(rows, marks, splits, strict=True)) == []
        if rules_for(witness.model).minimum_tokens <= rows[0].input_tokens:
            assert (splits[1].read > 0) == read
        anywhere = reference_bills(rows, marks, rules_for(witness.model).minimum_tokens, lookback=False)
        assert (anywhere != splits) == (not read and anywhere[1].read > 0)


CONTEXT_END, FIRST_END, SECOND_END = 25, 30, 43
"""Blocks of `SMALL`: of what a user's conversations share, and of the first two turns' prompts."""


async def test_hours_on_minutes_lapse_and_come_back_alike(witness: Witness) -> None:
    """A 1h part on a lapsed 5m part is out of reach until that part is written again; it keeps its hour then."""

    def asked(turn: int, now_s: float, session: int) -> TraceRow:
        row = conversations(Random(0), 1)[0]
        layers = layer_ends(SMALL, turn)
        runs = (*row.runs[:2], (10**9, 5), (10**12 + 10**4 * session, layers[-1].blocks - CONTEXT_END))
        tokens = layers[-1].blocks * BLOCK_TOKENS
        return row._replace(time_s=now_s, input_tokens=tokens, runs=runs, layers=layers, sequence=turn)

    steps = [
        (asked(0, 0.0, 1), [(CONTEXT_END, 300)]),
        (asked(1, 60.0, 1), [(SECOND_END, 3600)]),  # an hour on minutes
        (
            asked(1, 400.0, 1),
            [(CONTEXT_END, 300), (SECOND_END, 300)],
        ),  # the minutes have passed: nothing is read
        (asked(0, 690.0, 2), [(CONTEXT_END, 300)]),  # another conversation of the user
        (asked(1, 980.0, 1), [(SECOND_END, 300)]),  # the minutes live, and the hour was not taken back
    ]
    rows, marks = [row for row, _ in steps], [marked for _, marked in steps]
    splits = reference_bills(rows, marks, rules_for(witness.model).minimum_tokens)
    assert await differences(witness, zip(rows, marks, splits, strict=True)) == []
    if rules_for(witness.model).minimum_tokens <= CONTEXT_END * BLOCK_TOKENS:
        assert [split.read // BLOCK_TOKENS for split in splits] == [
            0,
            CONTEXT_END,
            0,
            CONTEXT_END,
            SECOND_END,
        ]


async def test_totals_are_the_invoice(witness: Witness) -> None:
    """What the replay sums up is what the sandbox's invoice says."""
    rows = list(month(Workload(SMALL, 60, 1, 1, users=10)))
    served = list(replay(rows, Policy.C, settings_of(witness.model)))
    await witness.bill(rows[0]._replace(time_s=0.0), ())  # weighs the tool before the invoice is counted
    witness.sandbox.invoice.clear()
    assert await differences(witness, [(s.row, s.marks, s.split) for s in served]) == []
    totals = witness.sandbox.invoice.totals()
    assert totals.requests == len(rows)
    assert totals.read_tokens == sum(s.split.read for s in served)
    assert totals.write_5m_tokens == sum(s.split.write_5m for s in served)
    assert totals.write_1h_tokens == sum(s.split.write_1h for s in served)
    assert totals.uncached_input_tokens == sum(s.split.uncached for s in served)
