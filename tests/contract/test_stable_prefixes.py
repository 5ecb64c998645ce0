"""What an adapter sends of a prompt is the same bytes every time, and the cache's names are names of those bytes.

Each rule is held against both adapters, by their own wire: Anthropic's body in the order tools, system, messages;
Gemini's with its system instruction ahead of the tools.
"""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cache.belief import Belief
from cache.economics import Rates
from cache.forecast import Forecast
from cache.plan import Strategy, plan
from cache.prefix import extend_digests, prefix_digests
from cache.prompt import Layer
from cache.rules import rules_for
from cache.tokens import TokenEstimator
from router.call import Call, ContextPlacement, Image, Text, ToolCall, ToolResult
from router.upstreams import anthropic_render, gemini_render
from router.upstreams.anthropic_models import traits_of as claude_traits
from router.upstreams.base import Rendered
from router.upstreams.gemini_models import traits_of as gemini_traits
from tests.contract.generated_calls import CLAUDE_MODELS, FLASH, OPUS, TOOLS, calls, continuations, variants
from tests.router.upstreams.samples import assistant, call, user

Levels = tuple[object, object, object]


@dataclass(frozen=True)
class Adapter:
    """One provider's spelling as the tests see it.

    Attributes:
        body: A rendered call as the bytes of a request without breakpoints.
        levels: From the parsed body, what ends reuse of everything, of system on, and of the messages.
        order: Layers in the order of the wire.
    """

    name: str
    render: Callable[[Call], Rendered]
    body: Callable[[Rendered], bytes]
    levels: Callable[[Call, dict[str, Any]], Levels]
    order: tuple[Layer, ...]

    def __repr__(self) -> str:
        return self.name


def claude(model: str) -> Adapter:
    traits = claude_traits(model)

    def levels(asked: Call, body: dict[str, Any]) -> Levels:
        config = body.get("output_config", {})
        thinking = None if traits.thinks_by_default else body.get("thinking", {}).get("type")
        everywhere = (config.get("effort"), thinking, asked.output_schema_json.strip())
        pictured = '"type": "image"' in json.dumps(body["messages"])
        return everywhere, body.get("speed"), (json.dumps(body.get("tool_choice")), pictured)

    return Adapter(
        model,
        lambda asked: anthropic_render.render(asked, model, traits, anthropic_render.Options()),
        lambda rendered: anthropic_render.request_body(rendered, None, stream=False),
        levels,
        (Layer.TOOLS, Layer.SYSTEM),
    )


def gemini(model: str) -> Adapter:
    def levels(asked: Call, body: dict[str, Any]) -> Levels:
        config = body["generationConfig"].get("thinkingConfig", {})
        pictured = any(isinstance(part, Image) for message in asked.messages for part in message.parts)
        level = config.get("thinkingLevel")
        return asked.output_schema_json.strip(), None, (json.dumps(body.get("toolConfig")), level, pictured)

    return Adapter(
        model,
        lambda asked: gemini_render.render(asked, model, gemini_traits(model), store=False),
        gemini_render.request_body,
        levels,
        (Layer.SYSTEM, Layer.TOOLS),
    )


ADAPTERS = st.sampled_from([*map(claude, CLAUDE_MODELS), gemini(FLASH)])


def prefixes(adapter: Adapter, asked: Call, rendered: Rendered) -> Iterator[object]:
    """For each block, what the provider has been sent up to and with it: bytes of the body, and the parameters that
    reach it.
    """
    body = adapter.body(rendered)
    blocks = rendered.prompt.blocks
    everywhere, system, messages = adapter.levels(asked, json.loads(body))
    by_wire = sorted(
        range(len(blocks)),
        key=lambda i: (
            adapter.order.index(blocks[i].layer) if blocks[i].layer in adapter.order else len(adapter.order),
            i,
        ),
    )
    spans, at = {}, 0
    for position in by_wire:
        start = body.index(blocks[position].content, at)
        at = start + len(blocks[position].content)
        spans[position] = (start, at)
    opened: dict[int, int] = {}  # where each stretch of the body begins: tools, system, messages
    sent: list[bytes] = [b"", b"", b""]
    for position, block in enumerate(blocks):
        level = min(int(block.layer), 2)
        start, end = spans[position]
        # A stretch of messages begins with its opening, so that the role of its first message is part of it.
        opened.setdefault(level, body.rindex(b'{"role"', 0, start) if level == 2 else start)
        sent[level] = body[opened[level] : end]
        yield (
            everywhere,
            system if level >= 1 else None,
            messages if level >= 2 else None,
            *sent[: level + 1],
        )


@settings(max_examples=90)
@given(ADAPTERS, st.data())
def test_prefixes_are_named_alike_exactly_when_they_are_sent_alike(
    adapter: Adapter, data: st.DataObject
) -> None:
    """Of any two calls: equal digests at two blocks, equal bytes up to them under equal parameters, and the reverse."""
    asked = data.draw(calls())
    other = data.draw(variants(asked))
    named: dict[bytes, object] = {}
    sent: dict[object, bytes] = {}
    for each in (asked, other):
        rendered = adapter.render(each)
        digests = prefix_digests(rendered.prompt)
        for digest, prefix in zip(digests, prefixes(adapter, each, rendered), strict=True):
            assert named.setdefault(digest, prefix) == prefix
            assert sent.setdefault(prefix, digest) == digest


@settings(max_examples=40)
@given(ADAPTERS, calls())
def test_rendering_is_a_function_of_the_call(adapter: Adapter, asked: Call) -> None:
    """Equal calls, whoever built them, are equal bytes; and the call is as it was."""
    twin = deepcopy(asked)
    first, second = adapter.render(asked), adapter.render(twin)
    assert adapter.body(first) == adapter.body(second)
    assert first.prompt == second.prompt
    assert asked == twin == deepcopy(asked)


@settings(max_examples=40)
@given(ADAPTERS, calls())
def test_tools_keep_their_order_and_schemas_their_bytes(adapter: Adapter, asked: Call) -> None:
    """Nothing is sorted: the key order of a schema and the order of tools are the caller's."""
    body = adapter.body(adapter.render(asked))
    at = 0
    for tool in asked.tools:
        at = body.index(json.dumps(tool.name).encode(), at)
        if tool.input_schema_json:
            at = body.index(tool.input_schema_json.encode(), at)
    assert asked.output_schema_json.strip().encode() in body


@settings(max_examples=50)
@given(ADAPTERS, st.data())
def test_a_conversation_only_grows(adapter: Adapter, data: st.DataObject) -> None:
    """A turn later every block before what moves on with the turn has the bytes it had, also when parallel results come
    in another order; the digests follow, unless a first image changes them from the messages on.
    """
    asked = data.draw(calls())
    now = adapter.render(asked).prompt
    later = adapter.render(data.draw(continuations(asked))).prompt
    kept = len(now.blocks) if now.volatile_from < 0 else now.volatile_from
    assert [(b.role, b.kind, b.content) for b in later.blocks[:kept]] == [
        (b.role, b.kind, b.content) for b in now.blocks[:kept]
    ]
    digests = prefix_digests(now)
    assert prefix_digests(later)[:kept] == digests[:kept]
    assert extend_digests(later, now, digests) == prefix_digests(later)


@settings(max_examples=40)
@given(ADAPTERS, st.data())
def test_another_context_with_the_turn_rewrites_nothing_before_it(
    adapter: Adapter, data: st.DataObject
) -> None:
    """Where it stands with the turn, its texts are no part of any prefix that ends before it."""
    asked = replace(data.draw(calls()), context_placement=ContextPlacement.AFTER_HISTORY, context=("one",))
    now = adapter.render(asked).prompt
    other = adapter.render(replace(asked, context=("another", "and more"))).prompt
    assert other.volatile_from == now.volatile_from >= 0
    kept = now.volatile_from
    assert prefix_digests(now)[:kept] == prefix_digests(other)[:kept]
    assert [b.content for b in now.blocks[now.volatile_end + 1 :]] == [
        b.content for b in other.blocks[other.volatile_end + 1 :]
    ]
    assert now.recurring_end in (kept - 1, len(now.blocks) - 1)


def without_marks(value: Any) -> Any:
    """A parsed body without breakpoints, key order kept."""
    if isinstance(value, dict):
        return {k: without_marks(v) for k, v in value.items() if k != "cache_control"}
    return [without_marks(v) for v in value] if isinstance(value, list) else value


@settings(max_examples=40)
@given(st.sampled_from(CLAUDE_MODELS), calls(), st.sampled_from(Strategy), st.data())
def test_a_plan_changes_nothing_but_its_marks(
    model: str, asked: Call, strategy: Strategy, data: st.DataObject
) -> None:
    """The body with a plan, its marks taken out, is the body without one, key for key."""
    rendered = claude(model).render(asked)
    prompt = rendered.prompt
    digests = prefix_digests(prompt)
    warm = data.draw(st.sets(st.integers(0, len(digests) - 1), max_size=3))
    counts = TokenEstimator().cumulative_tokens(prompt, model)
    beliefs = [
        Belief(counts[i], True, 300, 200.0, 0.0, 0.9) if i in warm else None for i in range(len(digests))
    ]
    planned = plan(
        prompt,
        digests,
        counts,
        beliefs,
        rules=rules_for(model),
        rates=Rates(1.25, 2.0, 0.05),
        strategy=strategy,
        now=0.0,
        forecasts=[Forecast(0.7, 0.9)] * 5,
    )
    plain, marked = (
        json.loads(anthropic_render.request_body(rendered, p, stream=True)) for p in (None, planned)
    )
    assert json.dumps(without_marks(marked)) == json.dumps(plain)
    assert json.dumps(marked).count("cache_control") == len(planned.breakpoints)


def test_geminis_parts_stand_in_its_own_order() -> None:
    """System instruction, tools, contents: what is shared is ahead of what is not."""
    adapter = gemini(FLASH)
    body = adapter.body(adapter.render(call(user("q"), tools=TOOLS[:1], system=("s",), context=("c",))))
    assert list(json.loads(body))[:3] == ["systemInstruction", "tools", "contents"]


@pytest.mark.parametrize("adapter", [claude(OPUS)], ids=repr)
def test_an_image_within_a_tools_result_counts_as_an_image(adapter: Adapter) -> None:
    """The provider loses the messages' cache when the first image comes, wherever it stands (A-CACHE, 2026-11)."""

    asked = (user("q"), assistant(ToolCall("c", "find", "{}")))
    plain, pictured = (
        adapter.render(call(*asked, user(ToolResult("c", (part,))))).prompt
        for part in (Text("r"), Image("image/png", b"x"))
    )
    assert (plain.has_image, pictured.has_image) == (False, True)
    assert prefix_digests(plain)[0] != prefix_digests(pictured)[0]
