"""What lives as long as the process is bounded: fed three times its limit, each structure stays at its limit."""

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.demand import Demand
from cache.economics import TokenSplit
from cache.hazard import Shares
from cache.index import PrefixIndex
from cache.plan import Breakpoint, Plan, Strategy
from cache.prompt import Block, BlockKind, CacheScope, Layer, Prompt
from classifier.route import Route
from router import attributes as names
from router.estimate import OutputForecast
from router.ledger.recent import LastCall
from router.misses import MissMemory
from router.pricing import PERIODS_LIMIT, PriceTable, UnknownPrice
from router.session_book import SessionBook
from router.settler import UNPRICED_LIMIT
from router.telemetry.aggregates import Counter, Histogram, Vocabulary
from router.telemetry.metrics import Metrics
from tests.router.rig import START_TIME_S, rigged
from tests.router.test_session_book import settled
from tests.router.test_telemetry import settlement

LIMIT = 64
SCOPE = CacheScope("anthropic", "default", "claude-opus-5-5")
_SPLIT = TokenSplit(uncached=4_000)


def marked(digest: bytes, ttl_s: int = 300) -> Plan:
    """A plan with one breakpoint."""
    point = Breakpoint(1, Layer.SYSTEM, ttl_s, 4_000, digest, "because", 0.0)
    return Plan(Strategy.A, (point,), (), 4_000, _SPLIT, _SPLIT, _SPLIT, 0.0, (), 0, 512)


def name(number: int) -> bytes:
    """A digest of its own."""
    return number.to_bytes(16, "big")


def prompt_of(number: int) -> tuple[Prompt, tuple[bytes, ...]]:
    """A context and a turn that nobody else has."""
    prompt = Prompt(
        (
            Block(Layer.CONTEXT, BlockKind.TEXT, b"c%d" % number, "user"),
            Block(Layer.TURN, BlockKind.TEXT, b"t%d" % number, "user"),
        )
    )
    return prompt, (name(2 * number), name(2 * number + 1))


def index() -> tuple[Callable[[int], None], Callable[[], int]]:
    """One prefix each, half a second apart."""
    kept = PrefixIndex(LIMIT)
    return lambda number: kept.begin(SCOPE, marked(name(number)), 0.5 * number), lambda: kept.entry_count


def demand(gap_s: float, sizes: Callable[[Demand], int]) -> tuple[Callable[[int], None], Callable[[], int]]:
    """One session each."""
    kept = Demand(max_prefixes=LIMIT, max_waiting=LIMIT)

    def feed(number: int) -> None:
        kept.arrive(SCOPE, *prompt_of(number), gap_s * number)

    return feed, lambda: sizes(kept)


def misses() -> tuple[Callable[[int], None], Callable[[], int]]:
    """One session each, as the ledger tells of it after a start."""
    kept = MissMemory(LIMIT)

    def feed(number: int) -> None:
        values = {
            "tenant": "t",
            "session": f"s{number}",
            "model": "m",
            "started_s": float(number),
            "response_id": "",
            "input_tokens": 10,
            "cached_tokens": 5,
        }
        kept.prime([LastCall(**{key: values[key] for key in LastCall.__annotations__})])

    return feed, lambda: len(kept)


def sized(kept, feed) -> tuple[Callable[[int], None], Callable[[], int]]:
    """For what tells its own length."""
    return lambda number: feed(kept, number), lambda: len(kept)


def series(kept, feed) -> tuple[Callable[[int], None], Callable[[], int]]:
    """For instruments: series exported, the one of the overflow not counted."""
    points = lambda: kept.collect(0).data.data_points  # noqa: E731
    return lambda number: feed(kept, number), lambda: len(
        [point for point in points() if names.OVERFLOW not in point.attributes]
    )


CASES = {
    "PrefixIndex": index,
    "Demand: prefixes": lambda: demand(0.5, lambda kept: len(kept._arrivals[SCOPE])),
    "Demand: turns awaited": lambda: demand(0.5, lambda kept: len(kept._waiting[SCOPE])),
    "Demand: windows of 5 minutes": lambda: demand(0.5, lambda kept: len(kept._closes_5m)),
    "Demand: windows of 1 hour": lambda: demand(0.5, lambda kept: len(kept._closes_1h)),
    "Shares: cells": lambda: sized(
        Shares(LIMIT), lambda kept, number: kept.close_5m(((f"app {number}",),), 1.0)
    ),
    "SessionBook: answers": lambda: sized(
        SessionBook(LIMIT), lambda kept, number: kept.remember("t", f"s{number}", Route.OPUS)
    ),
    "MissMemory": misses,
    "SessionBook: settlements": lambda: sized(
        SessionBook(LIMIT), lambda kept, number: kept.note(settled(f"s{number}"), None)
    ),
    "Counter": lambda: series(
        Counter("n", "1", "d", ("k",), limit=LIMIT), lambda kept, number: kept.add((number,))
    ),
    "Histogram": lambda: series(
        Histogram("n", "1", "d", ("k",), (1.0,), limit=LIMIT),
        lambda kept, number: kept.record((number,), 0.5),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_three_times_the_limit_is_held_at_the_limit(case):
    """It fills to exactly its limit, and then takes no more room, whatever still comes."""
    feed, size = CASES[case]()
    reached = []
    for number in range(3 * LIMIT):
        feed(number)
        reached.append(size())
    assert max(reached) == reached[-1] == LIMIT
    assert reached[0] == 1


def test_paths_are_shared_within_a_bound():
    """Kinds of turn past the limit are not shared, and not kept."""
    shares = Shares(LIMIT)
    for number in range(3 * LIMIT):
        assert shares.kept(((number,),)) == ((number,),)
    assert len(shares._paths) == LIMIT


def test_answer_lengths_are_forgotten_oldest_first():
    """Applications are the settings'; the bound holds even if they were not."""
    forecast = OutputForecast(LIMIT)
    for number in range(3 * LIMIT):
        forecast.observe(f"app {number}", Route.OPUS, 7)
    assert forecast.expect(f"app {3 * LIMIT - 1}", Route.OPUS, 100) == 7
    assert len(forecast._means) == LIMIT


def test_words_that_providers_choose_are_learnt_up_to_a_bound():
    """What comes later is "other"."""
    word = Vocabulary(("known",), learn=LIMIT)
    admitted = [number for number in range(3 * LIMIT) if word(f"w{number}") != names.OTHER]
    assert admitted == list(range(LIMIT))


def test_models_that_answers_name_do_not_fill_the_label_cache():
    """An answer names its model freely; what is kept of that is bounded, and so are the series."""
    metrics = Metrics()
    for number in range(3 * 256):
        metrics.record_settlement(settlement(answered_model=f"model-{number}"))
    assert len(metrics.gen_ai._labels) == 256
    assert len(metrics.gen_ai.operation_duration._series) <= 17 + 1


def test_spellings_of_priced_models_are_kept_up_to_a_bound():
    """Every date behind an undated id has its price, and none is kept for ever."""
    prices = PriceTable()
    expected = prices.price("claude-opus-5-5", START_TIME_S)
    for number in range(3 * PERIODS_LIMIT):
        assert prices.price(f"claude-opus-5-5-20{number:06d}", START_TIME_S) == expected
        assert len(prices._periods) <= PERIODS_LIMIT


async def test_models_without_a_price_are_named_up_to_a_bound():
    """The log names each once; ids come from providers, so there is no end to them."""
    async with rigged() as rig:
        for number in range(3 * UNPRICED_LIMIT):
            rig.settler.note_unpriced(f"model-{number}", UnknownPrice("no price"))
        assert len(rig.settler._unpriced) == UNPRICED_LIMIT


def test_refusals_leave_nothing_in_the_index():
    """A provider that refuses every call writes nothing, and the notes of when to look at it are cleared away."""
    index = PrefixIndex(LIMIT)
    for number in range(50 * LIMIT):
        plan = marked(name(number % 3), 3600)
        index.begin(SCOPE, plan, float(number))
        index.abandon(SCOPE, plan, float(number), number + 0.5, sent=False)
    assert index.entry_count == 0
    for number in range(3 * LIMIT):
        index.begin(SCOPE, marked(name(100 + number)), 1e6 + number)
    assert index.entry_count == LIMIT
    assert index._filed <= 4 * LIMIT + 1


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40), st.sampled_from([300, 3600]), st.sampled_from([0.0, 1.0, 4.0, 60.0, 400.0])
        ),
        max_size=120,
    )
)
def test_the_index_gives_up_what_expires_soonest(steps):
    """Whatever is put, put again and dropped: what goes is what expires first, to within a slot of 5 seconds."""
    index, now, serial = PrefixIndex(16), 0.0, count()
    for number, ttl_s, gap_s in steps:
        now += gap_s
        next(serial)
        before = dict(index.entries(SCOPE))
        plan = marked(name(number), ttl_s)
        index.begin(SCOPE, plan, now)
        index.first_byte(SCOPE, plan, now, now)
        after = dict(index.entries(SCOPE))
        assert index.entry_count == len(after) <= 16
        for digest, belief in before.items():
            if digest not in after:
                assert all(belief.expires <= kept.expires + 5.0 for kept in after.values())
