"""Providers count the calls of each answer anew; the conversation keeps every id once, and each gets its own back."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.call import Message, Part, Text, ToolCall, ToolResult
from router.upstreams.anthropic_models import traits_of as opus_traits
from router.upstreams.anthropic_render import Options
from router.upstreams.anthropic_render import render as opus_render
from router.upstreams.anthropic_render import request_body as opus_body
from router.upstreams.anthropic_reply import parse_reply
from router.upstreams.anthropic_stream import AnthropicFold
from router.upstreams.conversation import CallIds, given_id
from router.upstreams.gemini_models import traits_of
from router.upstreams.gemini_render import render, request_body
from router.upstreams.gemini_reply import Answer, decode_frames
from router.upstreams.gemini_stream import GeminiFold
from tests.router.upstreams.samples import FLASH, OPUS, SEARCH, assistant, call, user

Wire = dict[str, Any]


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "a--2", "a--2--2", "--2", "x--1"]), max_size=4), max_size=6)
)
def test_every_id_is_given_once_and_known_again(answers: list[list[str]]) -> None:
    """Whatever ids come again, the conversation's are distinct; and what an answer renamed leads to what it was."""
    messages: list[Message] = []
    for given_ids in answers:
        ids = CallIds(messages)
        found = [ids.free(id_) for id_ in given_ids]
        messages.append(assistant(*(ToolCall(id_, "search", "{}", "", FLASH) for id_ in found)))
    taken = [part.id for message in messages for part in message.parts if isinstance(part, ToolCall)]
    assert len(set(taken)) == len(taken)
    told = [id_ for given_ids in answers for id_ in given_ids]
    for ours, theirs in zip(taken, told, strict=True):
        assert given_id(ours, set(taken)) in (theirs, given_id(theirs, set(taken)))


def test_an_answer_that_repeats_one_id_takes_no_longer_for_each() -> None:
    """The number put behind an id goes on from the last: from 1 each time 20,000 calls would hold the loop for 30 s."""
    ids = CallIds(())
    found = [ids.free("a") for _ in range(20_000)]
    assert (found[0], found[1], found[-1]) == ("a", "a--2", "a--20000")


def asked_again() -> tuple[Message, ...]:
    """A step of Gemini's, answered by its own reading of `call_0`, then the same id from the model again."""
    frame = {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {
                            "functionCall": {"id": f"call_{n}", "name": "search", "args": {}},
                            "thoughtSignature": "c2ln",
                        }
                        for n in (0, 1)
                    ]
                },
                "finishReason": "STOP",
            }
        ]
    }
    messages: tuple[Message, ...] = (user("Find both."),)
    for streamed in (False, True, False):
        body = json.dumps(frame).encode()
        parts: tuple[Part, ...]
        if streamed:
            fold = GeminiFold(FLASH, "", "", messages)
            fold.feed(b"data: " + body + b"\r\n\r\n")
            parts = fold.finish()[-1].reply.parts  # type: ignore[union-attr]
        else:
            answer = Answer(FLASH, "", messages)
            (decoded,) = decode_frames(body)
            answer.take_parts(decoded, [])
            parts = answer.reply().parts
        calls = [part for part in parts if isinstance(part, ToolCall)]
        results = user(*(ToolResult(part.id, (Text(part.id),)) for part in calls))
        messages = (*messages, Message(assistant().role, parts), results)
    return messages


def test_gemini_gets_its_own_ids_back() -> None:
    """In call and result: a signature is of a call by the id it was given."""
    body = json.loads(
        request_body(render(call(*asked_again(), tools=(SEARCH,)), FLASH, traits_of(FLASH), store=None))
    )
    for content in body["contents"][1:]:
        ids = [(part.get("functionCall") or part["functionResponse"])["id"] for part in content["parts"]]
        assert ids == ["call_0", "call_1"]


def test_claude_gets_every_id_once() -> None:
    """It refuses a conversation in which two calls share one: a loop that Gemini began could not go on."""
    rendered = opus_render(call(*asked_again(), tools=(SEARCH,)), OPUS, opus_traits(OPUS), Options())
    body = json.loads(opus_body(rendered, None, stream=False))
    blocks: list[Wire] = [block for message in body["messages"][1:] for block in message["content"]]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert len(calls) == len(set(calls)) == 6
    assert calls == results


def test_claudes_ids_are_kept_apart_as_well() -> None:
    """Whole or streamed, an id the conversation has gets a number; the deltas say the same as the answer."""
    had = (user("x"), assistant(ToolCall("toolu_1", "search", "{}")), user(ToolResult("toolu_1", ())))
    block = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {}}
    message = {"type": "message", "content": [block, block], "stop_reason": "tool_use"}
    whole = parse_reply(json.dumps(message).encode(), OPUS, "", "", had)
    events: list[Wire] = [
        {"type": "message_start", "message": {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": block},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ]
    chunks = AnthropicFold(OPUS, "", "", had).feed(
        b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in events)
    )
    assert [part.id for part in whole.parts if isinstance(part, ToolCall)] == ["toolu_1--2", "toolu_1--3"]
    assert chunks[-1].reply.parts == whole.parts  # type: ignore[union-attr]
    assert [getattr(chunk, "id", "") for chunk in chunks if getattr(chunk, "name", "")] == [
        "toolu_1--2",
        "toolu_1--3",
    ]
