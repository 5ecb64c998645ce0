"""Why a call read less than its session had left: named only when it is so, in the tokens that were billed."""

import msgspec.structs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.diagnose import MissCause, Shortfall
from cache.economics import bill
from cache.prompt import Layer
from classifier.route import Route
from router.call import Call, Image, Message, Role, Text, Tool
from router.convert_response import MISS_CAUSES
from router.cost import total_nano_usd
from router.ledger.recent import LastCall
from router.misses import THREAD_LIMIT, MissMemory, _priced, had_read
from router.preparation import usage_of
from router.pricing import PriceTable
from router.request import Request
from router.settlement import Purpose
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.anthropic_render import Options, request_body
from router.v1 import accounting_pb2
from tests.router.rig import START_TIME_S, Rig, asked, rigged, said

SYSTEM = " ".join(f"Rule {number}: name the record for every figure you give." for number in range(120))
CONTEXT = " ".join(f"Note {number}: Ann prefers tables to prose." for number in range(70))
TOOL = Tool("find", "Find a record.", '{"type":"object"}')


async def send(rig: Rig, request: Request):
    """One call on Opus, settled as serving does; the attempt."""
    prepared = rig.prepare(request)
    attempt = rig.settler.open(prepared, Route.OPUS, number=1, stream=False, trace_id="", fell_back=False)
    rendered = rig.preparation.rendered_for(prepared, Route.OPUS)
    attempt.answered(await rig.upstreams[Route.OPUS].generate(rendered, prepared.plan_for(Route.OPUS), 5.0))
    return attempt


def turn(number: int, **layers) -> Request:
    """The `number`-th request of one session, which says the same things every time."""
    messages = [said("Which tickets are overdue?")]
    for index in range(1, number):
        messages += [said("Three of them are. " * 40, Role.ASSISTANT), said(f"And in week {index}?")]
    request = asked(
        *messages,
        route=Route.OPUS,
        request_id=f"r-{number}-{len(layers)}",
        session="s",
        system=layers.pop("system", (SYSTEM,)),
        context=layers.pop("context", (CONTEXT,)),
    )
    return msgspec.structs.replace(
        request, call=msgspec.structs.replace(request.call, tools=layers.pop("tools", (TOOL,)))
    )


async def test_a_conversation_that_goes_well_misses_nothing():
    """Cold, warm, warm: nothing was left unread, whatever the first estimates were off by."""
    async with rigged() as rig:
        for number in (1, 2, 3, 4):
            attempt = await send(rig, turn(number))
            assert attempt.misses == ()
            assert attempt.settlement.cache.miss_cause == ""
            rig.clock.advance(30)


async def test_a_first_estimate_that_is_far_off_is_not_a_miss():
    """The token estimate of dense text errs by a tenth and more before usage corrects it; a read of all is a read."""
    dense = " ".join(f"{number:x}{number * 7919 % 99991}" for number in range(1200))
    async with rigged() as rig:
        first = await send(rig, turn(1, system=(dense,)))
        estimated, counted = (
            first._prepared.views[Route.OPUS].plan.total_tokens,
            first.settlement.usage.input_tokens,
        )
        assert abs(estimated - counted) > 0.06 * counted, "the case is gone: choose another text"
        rig.clock.advance(30)
        second = await send(rig, turn(2, system=(dense,)))
    assert second.settlement.usage.cache_read_tokens == first.settlement.usage.cache_write_tokens
    assert second.misses == ()


CHANGES = {
    "ttl_lapsed": (301, {}),
    "tools": (30, {"tools": (msgspec.structs.replace(TOOL, description="Find any record."),)}),
    "system": (30, {"system": (SYSTEM + " And be brief.",)}),
    "context": (30, {"context": (CONTEXT + " She moved to Oslo.",)}),
}


@pytest.mark.parametrize("cause", CHANGES)
async def test_a_miss_is_named_and_priced(cause: str):
    """The cause, the tokens that were billed twice, and what that cost against a read."""
    pause_s, layers = CHANGES[cause]
    async with rigged() as rig:
        await send(rig, turn(1))
        rig.clock.advance(30)
        second = await send(rig, turn(2))
        left = second.settlement.usage.cache_read_tokens + second.settlement.usage.cache_write_tokens
        rig.clock.advance(pause_s)
        third = await send(rig, turn(3, **layers))
        price = rig.settler.prices.price("claude-opus-5-5", rig.clock.now())
    (miss,) = third.misses
    usage = third.settlement.usage
    assert miss.cause == third.settlement.cache.miss_cause == cause
    assert miss.missed_tokens == left - usage.cache_read_tokens
    saved = total_nano_usd(usage, price) - total_nano_usd(had_read(usage, left), price)
    assert miss.lost_nano_usd == saved > 0
    assert miss.detail
    (record,) = third.settlement.cache.misses
    assert (record.cause, record.block_index, record.lost_nano_usd) == (
        miss.cause,
        miss.block_index,
        miss.lost_nano_usd,
    )
    assert record.layer == miss.layer.name.lower()


async def test_what_was_believed_and_whether_it_held_is_booked():
    """Nothing believed on the first call, all of it read on the second, not on the third."""
    async with rigged() as rig:
        first = await send(rig, turn(1))
        rig.clock.advance(30)
        second = await send(rig, turn(2))
        rig.clock.advance(30)
        rig.sandbox.reset()
        third = await send(rig, turn(3))
    booked = [attempt.settlement.cache for attempt in (first, second, third)]
    assert [record.held for record in booked] == [None, True, False]
    assert booked[0].p_hit is None
    assert all(0.9 < record.p_hit <= 1 for record in booked[1:])


async def test_an_edited_turn_is_told_from_a_changed_image():
    """Both change the messages; only an image's coming or going is the image's fault."""
    image = Image("image/png", b"\x89PNG\r\n\x1a\n" + bytes(64))
    for last, cause in ((Text("And what of Q3?"), "history_edited"), (image, "image")):
        async with rigged() as rig:
            await send(rig, turn(2))
            rig.clock.advance(30)
            request = turn(3)
            edited = list(request.call.messages)
            edited[0] = Message(Role.USER, (Text("Which tickets are late?"), last))
            call: Call = msgspec.structs.replace(request.call, messages=tuple(edited))
            attempt = await send(rig, msgspec.structs.replace(request, call=call))
        assert [miss.cause for miss in attempt.misses] == [cause]


async def test_sessions_are_apart_and_no_session_is_not_compared():
    """What another conversation changed is no miss of this one; a nameless one has nothing to be compared with."""
    async with rigged() as rig:
        await send(rig, turn(2))
        rig.clock.advance(30)
        other = turn(1, context=("Bob prefers prose. " * 60,))
        identity = msgspec.structs.replace(other.call.identity, session="t")
        attempt = await send(
            rig, msgspec.structs.replace(other, call=msgspec.structs.replace(other.call, identity=identity))
        )
    assert attempt.misses == ()


# --- the price of a miss

PRICE = PriceTable().price("claude-opus-5-5", START_TIME_S)
MARKS = st.lists(st.tuples(st.integers(1, 20_000), st.sampled_from([300, 3600])), max_size=4)


@given(st.integers(0, 20_000), MARKS, st.integers(0, 20_000), st.integers(0, 20_000))
def test_the_alternative_is_what_the_provider_bills_for_a_deeper_hit(total, marks, hit, deeper):
    """Moving the read's end is the A, B, C rule with another A; it never costs more."""
    marks = [mark for mark in marks if mark[0] <= total]
    hit, deeper = min(hit, total), min(max(hit, deeper), total)
    usage = usage_of(bill(total, marks, hit), 10)
    assert had_read(usage, deeper) == usage_of(bill(total, marks, deeper), 10)
    assert total_nano_usd(had_read(usage, deeper), PRICE) <= total_nano_usd(usage, PRICE)


@given(
    st.integers(0, 3000),
    MARKS,
    st.lists(st.integers(1, 3000), min_size=1, max_size=5),
)
def test_parts_are_never_negative_and_add_up_to_the_whole(read, marks, sizes):
    """Priced end after end, dearest first, to the nano-dollar."""
    ends = [read + sum(sizes[: number + 1]) for number in range(len(sizes))]
    usage = usage_of(bill(20_000, marks, read), 10)
    found = [
        Shortfall(MissCause.EVICTED, None, None, size, end) for size, end in zip(sizes, ends, strict=True)
    ]
    lost = [miss.lost_nano_usd for miss in _priced(found, usage, PRICE, ("", None))]
    assert lost == sorted(lost, reverse=True)
    assert min(lost) >= 0
    assert sum(lost) == total_nano_usd(usage, PRICE) - total_nano_usd(had_read(usage, ends[-1]), PRICE)


# --- the provider's own word

USAGE = usage_of(bill(5000, [(4000, 300)], 0), 10)


@pytest.mark.parametrize(
    ("ours", "theirs", "named"),
    [
        ("evicted", "tools_changed", "tools"),
        ("evicted", "system_changed", "system"),
        ("unknown", "messages_changed", "history_edited"),
        ("unknown", "model_changed", "model"),
        ("evicted", "previous_message_not_found", "evicted"),
        ("unknown", "unavailable", "unknown"),
        ("ttl_lapsed", "messages_changed", "ttl_lapsed"),
        ("system", "tools_changed", "system"),
    ],
)
def test_the_providers_word_is_taken_only_where_ours_is_by_exclusion(ours, theirs, named):
    """What values prove stays; the provider's word is shown in any case."""
    part = Shortfall(MissCause(ours), 0, Layer.TOOLS, 4000, 4000)
    (miss,) = _priced([part], USAGE, PRICE, (theirs, 3900))
    assert (miss.cause, miss.provider_cause, miss.provider_missed_tokens) == (named, theirs, 3900)
    assert miss.missed_tokens == 4000


def test_the_providers_word_stands_beside_the_part_it_explains():
    """One word for a call of two parts: beside the one we could not prove."""
    parts = [
        Shortfall(MissCause.EVICTED, 0, Layer.TOOLS, 1000, 1000),
        Shortfall(MissCause.TTL_LAPSED, 2, Layer.CONTEXT, 3000, 4000),
    ]
    misses = _priced(parts, USAGE, PRICE, ("tools_changed", 4000))
    assert [(miss.cause, miss.provider_cause) for miss in misses] == [
        ("ttl_lapsed", ""),
        ("tools", "tools_changed"),
    ]


def test_the_previous_answer_is_named_outside_the_blocks():
    """With diagnostics on only; another id changes no digest, as there is none over it."""
    call = turn(1).call
    for on, expected in (
        (True, b'"diagnostics":{"previous_message_id":"msg_1"}'),
        (False, b'"stream":true}'),
    ):
        upstream = AnthropicUpstream(model="claude-opus-5-5", api_key="k", options=Options(diagnostics=on))
        rendered = upstream.render(call)
        body = request_body(rendered, None, stream=True, previous_response_id="msg_1")
        assert expected in body
        assert (b"diagnostics" in body) is on


# --- memory


def test_every_cause_has_its_word_in_the_contract():
    """All thirteen, each another."""
    assert set(MISS_CAUSES) == {cause.value for cause in MissCause}
    assert set(MISS_CAUSES.values()) == set(accounting_pb2.MissCause.values()) - {0}


def last_call(session: str, started_s: float, response_id: str) -> LastCall:
    return LastCall("acme", session, "claude-opus-5", started_s, 5000, 4000, response_id)


def test_memory_is_bounded_and_the_newest_call_counts():
    """The longest unused session goes first, primed or not."""
    memory = MissMemory(2)
    memory.prime(
        [last_call("a", 3, "new"), last_call("a", 1, "old"), last_call("b", 2, "b"), last_call("c", 0, "c")]
    )
    identity = turn(1).call.identity
    known = [
        memory.previous_response_id(msgspec.structs.replace(identity, session=session)) for session in "abc"
    ]
    assert known == ["new", "b", ""]
    assert len(memory) == 2


async def test_a_request_in_doubt_keeps_what_was_left_before_it():
    """Two requests without usage after a good one: what the good one left is still known, the rest is in doubt."""
    async with rigged() as rig:
        good = await send(rig, turn(2))
        rig.clock.advance(30)
        for _ in range(2):
            prepared = rig.prepare(turn(3))
            attempt = rig.settler.open(
                prepared, Route.OPUS, number=1, stream=False, trace_id="", fell_back=False
            )
            attempt.left(RuntimeError("a fault of this service"))
            rig.clock.advance(1)
        rig.clock.advance(30)
        last = await send(rig, turn(3))
    read = last.settlement.usage.cache_read_tokens
    assert read == good.settlement.usage.cache_write_tokens
    assert [miss.cause for miss in last.misses] == ["unknown"]
    assert last.misses[0].missed_tokens == last.settlement.usage.cache_write_tokens


def broken_off(rig: Rig, request: Request) -> None:
    """One call on Opus that was sent and of which no usage came."""
    prepared = rig.prepare(request)
    attempt = rig.settler.open(prepared, Route.OPUS, number=1, stream=False, trace_id="", fell_back=False)
    attempt.left(RuntimeError("a fault of this service"))


async def test_what_a_request_without_usage_changed_is_not_held_against_the_next():
    """The one in doubt had the new system prompt already: whether it wrote it is unknown, and nothing changed since."""
    deployed = {"system": (SYSTEM + " And be brief.",)}
    async with rigged() as rig:
        await send(rig, turn(2))
        rig.clock.advance(30)
        broken_off(rig, turn(3, **deployed))
        rig.clock.advance(30)
        last = await send(rig, turn(4, **deployed))
    assert [miss.cause for miss in last.misses] == ["unknown"]


def of_helper(*messages: Message) -> Request:
    """A request of the same session with a prompt of its own, without tools."""
    system = " ".join(f"Step {number}: search and name the source." for number in range(150))
    return asked(*messages, route=Route.OPUS, request_id=f"h-{len(messages)}", session="s", system=(system,))


async def test_a_helper_that_takes_turns_with_the_main_thread_makes_no_miss():
    """Each is compared with its own last request; the first of each continues nothing."""
    talk = [said("Search the tickets.")]
    async with rigged() as rig:
        for number in (1, 2, 3, 4):
            for request in (turn(number), of_helper(*talk)):
                attempt = await send(rig, request)
                assert attempt.misses == ()
                assert number == 1 or attempt.settlement.usage.cache_read_tokens > 1000
                rig.clock.advance(20)
            talk += [said("Found in the archive. " * 30, Role.ASSISTANT), said(f"Search week {number}.")]


async def test_a_helper_between_does_not_hide_what_the_main_thread_missed():
    """A deploy changes the main thread's tools: its own last request tells, not the helper's that came later."""
    async with rigged() as rig:
        main = await send(rig, turn(2))
        rig.clock.advance(20)
        await send(rig, of_helper(said("Search the tickets.")))
        rig.clock.advance(20)
        changed = (msgspec.structs.replace(TOOL, description="Find any record."),)
        after = await send(rig, turn(3, tools=changed))
        rig.clock.advance(20)
        back = await send(rig, turn(4))
    (miss,) = after.misses
    assert (miss.cause, miss.missed_tokens) == ("tools", main.settlement.usage.cache_write_tokens)
    assert back.settlement.usage.cache_read_tokens >= main.settlement.usage.cache_write_tokens
    assert back.misses == ()


async def test_branches_of_one_conversation_make_no_miss():
    """As many as are remembered ask something else after the same turns, in turn, and then go on."""
    start = list(turn(2).call.messages)
    branches = [[*start[:-1], said(f"Branch {number}: what of this one?")] for number in range(THREAD_LIMIT)]
    async with rigged() as rig:
        await send(rig, turn(2))
        for _ in range(3):
            for number, messages in enumerate(branches):
                rig.clock.advance(5)
                call = msgspec.structs.replace(turn(2).call, messages=tuple(messages))
                identity = msgspec.structs.replace(call.identity, request_id=f"b-{number}-{len(messages)}")
                call = msgspec.structs.replace(call, identity=identity)
                attempt = await send(rig, msgspec.structs.replace(turn(2), call=call))
                assert attempt.misses == ()
                messages += [said("Two of them. " * 40, Role.ASSISTANT), said("And then?")]


async def remembered(rig: Rig, memory: MissMemory, session: str, request: Request) -> int:
    """Note in `memory` what a call left, settled as serving does; its blocks."""
    prepared = rig.prepare(request)
    view = prepared.views[Route.OPUS]
    learned = rig.beliefs.learn(view, USAGE, started_s=rig.clock.now(), first_byte_at_s=rig.clock.now())
    identity = msgspec.structs.replace(request.call.identity, session=session)
    memory.remember(identity, view, USAGE, learned, started_s=0.0, first_byte_at_s=1.0, response_id=session)
    return len(view.digests)


async def test_memory_is_bounded_by_the_blocks_of_all_sessions():
    """The longest unused session makes room; one that goes on replaces itself; what is in doubt counts as well."""
    async with rigged() as rig:
        size = await remembered(rig, MissMemory(), "x", turn(3))
        memory = MissMemory(100, block_limit=3 * size)
        for session in "abc":
            await remembered(rig, memory, session, turn(3))
        assert (len(memory), memory.block_count) == (3, 3 * size)
        await remembered(rig, memory, "a", turn(3))
        assert (len(memory), memory.block_count) == (3, 3 * size)
        await remembered(rig, memory, "d", turn(3))
        assert (len(memory), memory.block_count) == (3, 3 * size)
        identity = turn(1).call.identity
        names = [
            memory.previous_response_id(msgspec.structs.replace(identity, session=session))
            for session in "abcd"
        ]
        assert names == ["a", "", "c", "d"]
        prepared = rig.prepare(turn(3))
        memory.doubt(
            msgspec.structs.replace(identity, session="d"), prepared.views[Route.OPUS], started_s=2.0
        )
        assert (len(memory), memory.block_count) == (2, 3 * size)  # of a and d, and d's in doubt
        assert memory.previous_response_id(msgspec.structs.replace(identity, session="d")) == "d"


async def test_a_session_that_is_larger_than_the_memory_is_not_remembered():
    """The bound holds whatever one prompt is; a request beside it is still kept if there is room for it alone."""
    async with rigged() as rig:
        small = await remembered(rig, MissMemory(), "x", turn(1))
        memory = MissMemory(100, block_limit=small)
        await remembered(rig, memory, "a", turn(1))
        await remembered(rig, memory, "b", turn(9))
        assert (len(memory), memory.block_count) == (0, 0)
        await remembered(rig, memory, "a", turn(1))
        await remembered(rig, memory, "a", turn(1, system=(SYSTEM + " Be brief.",)))
        assert (len(memory), memory.block_count) == (1, small)


async def test_what_a_request_in_doubt_shares_with_the_one_before_it_is_certain():
    """Entries of both are suspected: proved where the earlier one left them, in doubt past that."""
    async with rigged() as rig:
        memory = MissMemory()
        await remembered(rig, memory, "s", turn(2))
        prepared = rig.prepare(turn(3))
        view, identity = prepared.views[Route.OPUS], turn(3).call.identity
        memory.doubt(identity, view, started_s=2.0)
        suspects = memory.suspects(identity, view, USAGE, rig.beliefs, started_s=3.0)
    certain = [entry.certain for entry in suspects.entries]
    assert certain == sorted(certain, reverse=True)
    assert set(certain) == {True, False}


async def test_a_session_keeps_only_so_many_conversations():
    """Of each the last request, the newest first."""
    async with rigged() as rig:
        memory = MissMemory()
        sizes = [
            await remembered(rig, memory, "a", turn(number, system=(f"{SYSTEM} Version {number}.",)))
            for number in range(1, THREAD_LIMIT + 3)
        ]
    assert memory.block_count == sum(sizes[-THREAD_LIMIT:])


async def test_our_own_calls_are_not_a_sessions_last_call():
    """What keeps a prefix warm or probes the provider says nothing of what the session asked."""
    async with rigged() as rig:
        await send(rig, turn(1))
        (user,) = await rig.settlements()
        for number, purpose in enumerate(set(Purpose) - {Purpose.USER}):
            intent = msgspec.structs.replace(
                user.intent,
                request_id=f"own-{number}",
                purpose=purpose,
                model="another",
                started_time_s=user.intent.started_time_s + 10 + number,
            )
            rig.ledger.journal_intent(intent)
            rig.ledger.settle(msgspec.structs.replace(user, intent=intent))
        await rig.ledger.flush()
        (found,) = await rig.ledger.last_calls("opus", START_TIME_S, 10)
    assert (found.model, found.started_s) == ("claude-opus-5-5", START_TIME_S)


async def test_the_ledger_tells_each_sessions_last_call():
    """Newest per session, of the route and the time asked for."""
    async with rigged() as rig:
        for number in (1, 2):
            await send(rig, turn(number))
            rig.clock.advance(30)
        usage = (await rig.settlements())[-1].usage
        (found,) = await rig.ledger.last_calls("opus", START_TIME_S, 10)
        assert await rig.ledger.last_calls("flash", START_TIME_S, 10) == []
        assert await rig.ledger.last_calls("opus", rig.clock.now(), 10) == []
    assert (found.session, found.model, found.started_s) == ("s", "claude-opus-5-5", START_TIME_S + 30)
    assert found.cached_tokens == usage.cache_read_tokens + usage.cache_write_tokens
    assert found.response_id
