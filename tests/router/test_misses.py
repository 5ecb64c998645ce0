"""Why a call read less than its session had left: named only when it is so, in the tokens that were billed."""

import msgspec.structs
import pytest

from classifier.route import Route
from router.call import Call, Image, Message, Role, Text, Tool
from router.request import Request
from tests.router.rig import Rig, asked, rigged, said

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
    assert miss.cause == third.settlement.cache.miss_cause == cause
    assert miss.missed_tokens == left - third.settlement.usage.cache_read_tokens
    per_input, per_read, *_ = price.for_input(left).femto_usd
    assert miss.lost_nano_usd == miss.missed_tokens * (per_input - per_read) // 1_000_000 > 0
    assert miss.detail


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
