"""Streams of the Anthropic face through the real SDK: order, sums, and what a cut costs (A-STREAM, 2026-11)."""

import json

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sandbox import Call, Family, Fault, SandboxSettings, Text, count
from router.sandbox.anthropic_answer import json_pieces

TOOL = {
    "name": "find",
    "description": "d",
    "input_schema": {"type": "object", "properties": {"q": {"type": "string"}, "n": {"type": "integer"}}},
}


async def events_of(bench, kit, **kw):
    body = {"model": kit.OPUS, "max_tokens": 4000, "messages": [kit.user("Why?")], "stream": True} | kw
    return [event async for event in await bench.claude.messages.create(**body)]


async def test_events_come_in_the_documented_order(bench, kit):
    """Start, thinking (omitted: signature only), interim usage, text, input JSON beginning with "", usage, stop."""
    bench.sandbox.script(Text("One two three four."), Call("find", {"q": "a b", "n": 3}), thinking_tokens=50)
    events = await events_of(bench, kit, tools=[TOOL])
    kinds = [e.type for e in events]
    assert kinds[:5] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
    ]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert events[2].delta.type == "signature_delta"
    interim, final = [e for e in events if e.type == "message_delta"]
    assert (interim.delta.stop_reason, interim.usage.output_tokens) == (None, 50)
    assert (final.delta.stop_reason, final.usage.output_tokens_details.thinking_tokens) == ("tool_use", 50)
    pieces = [
        e.delta.partial_json
        for e in events
        if getattr(getattr(e, "delta", None), "partial_json", None) is not None
    ]
    assert pieces[0] == ""
    assert json.loads("".join(pieces)) == {"q": "a b", "n": 3}
    assert events[0].message.usage.output_tokens == 1


async def test_raw_frames_have_name_data_and_ping(bench, kit):
    """Each frame is `event:` and `data:`, the type inside equals the name; there is a ping and no end marker."""
    body = {"model": kit.OPUS, "max_tokens": 20, "messages": [kit.user("Why?")], "stream": True}
    _, raw = await bench.post(body)
    frames = raw.decode().split("\n\n")
    assert frames.pop() == ""
    names = []
    for frame in frames:
        head, data = frame.split("\n")
        names.append(head.removeprefix("event: "))
        assert json.loads(data.removeprefix("data: "))["type"] == names[-1]
    assert "ping" in names
    assert names[-1] == "message_stop"


@pytest.mark.parametrize("display", ["omitted", "summarized"])
async def test_stream_and_unary_give_the_same_answer(bench, kit, display):
    """Same request, same text, thinking, stop reason and usage in both forms."""
    kw = {"thinking": {"type": "adaptive", "display": display}, "output_config": {"effort": "max"}}
    whole = await bench.ask(max_tokens=4000, **kw)
    async with bench.claude.messages.stream(
        model=kit.OPUS, max_tokens=4000, messages=[kit.user("Why?")], **kw
    ) as stream:
        streamed = await stream.get_final_message()
    text = [b.text for b in whole.content if b.type == "text"]
    assert text == [b.text for b in streamed.content if b.type == "text"]
    thoughts = [b.thinking for b in whole.content if b.type == "thinking"]
    assert thoughts == [b.thinking for b in streamed.content if b.type == "thinking"]
    assert bool(thoughts[0]) == (display == "summarized")
    assert (whole.stop_reason, whole.usage.output_tokens) == (
        streamed.stop_reason,
        streamed.usage.output_tokens,
    )


async def test_without_interim_usage_only_the_end_reports(make_bench, kit):
    """The vendor's documented form: one `message_delta`."""
    bench = make_bench(SandboxSettings(interim_usage=False))
    bench.sandbox.script(Text("One."), thinking_tokens=50)
    events = await events_of(bench, kit)
    assert [e.type for e in events].count("message_delta") == 1


def readable_output(events):
    """What a reader knows it must pay for a cut stream: last usage report plus the text and input seen since."""
    known = 0
    for event in events:
        match event.type:
            case "message_start":
                floor = event.message.usage.output_tokens
            case "message_delta":
                known = event.usage.output_tokens
            case "content_block_start" if event.content_block.type == "tool_use":
                known += count(Family.CLAUDE_NEW, event.content_block.name)
            case "content_block_delta" if event.delta.type == "text_delta":
                known += count(Family.CLAUDE_NEW, event.delta.text)
            case "content_block_delta" if event.delta.type == "input_json_delta":
                known += count(Family.CLAUDE_NEW, event.delta.partial_json)
    return max(floor, known)


@pytest.mark.parametrize("reads", range(1, 17))
async def test_client_that_leaves_pays_for_exactly_what_it_read(bench, kit, reads):
    """Wherever the reader closes, the bill is the input plus the output up to that event, and incomplete."""
    bench.sandbox.script(Text(kit.words(30)), Call("find", {"q": "a b", "n": 3}), thinking_tokens=50)
    stream = await bench.claude.messages.create(
        model=kit.OPUS, max_tokens=4000, messages=[kit.user("Why?")], tools=[TOOL], stream=True
    )
    seen = []
    async for event in stream:
        seen.append(event)
        if len(seen) == reads:
            break
    await stream.close()
    (line,) = bench.sandbox.invoice
    assert (line.complete, line.status) == (False, "disconnected")
    assert line.output_tokens == readable_output(seen)
    assert line.uncached_input_tokens == seen[0].message.usage.input_tokens


@pytest.mark.parametrize("after", range(1, 16))
async def test_cut_stream_is_billed_up_to_the_cut(bench, kit, after):
    """The server closes after k events, without message_stop: what was sent is what is billed."""
    bench.sandbox.inject(Fault(kind="cut", after_events=after))
    bench.sandbox.script(Text(kit.words(30)), thinking_tokens=50)
    seen = await events_of(bench, kit)
    (line,) = bench.sandbox.invoice
    assert seen[-1].type != "message_stop"
    assert (line.complete, line.status, line.output_tokens) == (False, "cut", readable_output(seen))


async def test_whole_stream_is_billed_as_its_last_usage_says(bench, kit):
    """The final cumulative usage equals the sum of the events and the invoice line."""
    for n in range(12):
        events = await events_of(bench, kit, messages=[kit.user(f"Why {n}?")], tools=[TOOL])
        final = next(e for e in reversed(events) if e.type == "message_delta")
        line = bench.sandbox.invoice.lines[-1]
        assert (line.complete, line.output_tokens) == (True, final.usage.output_tokens)
        assert readable_output(events[:-2]) == max(1, final.usage.output_tokens)


async def test_a_reader_can_count_a_cut_answer_by_difference(bench, kit):
    """count_tokens(text as one user message) is overhead plus count(text); a full stop costs one token."""

    async def counted(text):
        answer = await bench.claude.messages.count_tokens(model=kit.OPUS, messages=[kit.user(text)])
        return answer.input_tokens

    overhead = await counted(".") - 1
    text = "The plan explains the customer's data by design."
    assert await counted(text) - overhead == count(Family.CLAUDE_NEW, text)


async def test_error_event_mid_stream_raises_and_bills_what_came(bench, kit):
    """An `error` event after HTTP 200 ends the stream; the SDK raises with the event's type."""
    bench.sandbox.inject(Fault(kind="error_event", after_events=6))
    bench.sandbox.script(Text(kit.words(30)), thinking_tokens=0)
    seen = []
    stream = await bench.claude.messages.create(
        model=kit.OPUS, max_tokens=99, messages=[kit.user("Why?")], stream=True
    )

    async def read():
        async for event in stream:
            seen.append(event)  # noqa: PERF401

    with pytest.raises(anthropic.APIStatusError) as raised:
        await read()
    assert raised.value.type == "overloaded_error"
    assert bench.sandbox.invoice.lines[0].output_tokens == readable_output(seen)


async def test_refusal_without_output_is_not_billed(bench, kit):
    """`stop_reason: refusal` before any output: content empty, details given, no invoice line."""
    message = await bench.ask(messages=[kit.user("[[sandbox stop=refusal]] no")])
    assert (message.stop_reason, message.content, message.usage.output_tokens) == ("refusal", [], 0)
    assert message.stop_details.type == "refusal"
    assert len(bench.sandbox.invoice) == 0
    said = await bench.ask(messages=[kit.user("[[sandbox stop=refusal tokens=9]] no")])
    assert (said.stop_reason, bench.sandbox.invoice.lines[0].output_tokens - said.usage.output_tokens) == (
        "refusal",
        0,
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4), st.sampled_from(list(Family)))
def test_input_pieces_concatenate_and_sum(args, family):
    """The pieces of a tool input are its JSON, and their tokens add up to its tokens."""
    pieces = json_pieces(args)
    whole = Call("f", args).args_json
    assert "".join(pieces) == whole
    assert sum(count(family, p) for p in pieces) == count(family, whole)
