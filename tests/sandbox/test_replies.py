"""Composed answers keep their budgets and obey tools, whatever the request."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from router.sandbox import Call, Family, SandboxSettings, Text
from router.sandbox.directives import NOTHING
from router.sandbox.replies import Ask, ScriptedReply, Tool, compose, part_tokens

SETTINGS = SandboxSettings()
TOOLS = (
    Tool("find", {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}),
    Tool("put", {"type": "object"}),
)

asks = st.builds(
    Ask,
    digest=st.binary(min_size=4, max_size=8),
    family=st.sampled_from(list(Family)),
    last_text=st.sampled_from(["", "Why?", "Explain the plan in detail. " * 20]),
    tools=st.sampled_from([(), TOOLS]),
    choice=st.sampled_from(["auto", "none", "any", "find"]),
    parallel=st.booleans(),
    tool_rounds=st.integers(0, 3),
    max_tokens=st.integers(0, 600),
    stop_sequences=st.sampled_from([(), ("the",), (".", "by")]),
    effort=st.sampled_from([None, "low", "medium", "max"]),
    thinking_budget=st.sampled_from([None, 10]),
    schema=st.sampled_from(
        [None, {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}]
    ),
)


@given(asks)
def test_answer_stays_within_its_budget_and_is_repeatable(ask):
    """Thinking plus content never exceed `max_tokens`; the counts are those of the parts; same ask, same answer."""
    reply = compose(ask, NOTHING, None, SETTINGS)
    content = sum(part_tokens(ask.family, p) for p in reply.parts)
    assert reply.output_tokens == reply.thinking_tokens + content <= ask.max_tokens
    assert reply.thinking_tokens <= (0 if ask.effort is None else ask.thinking_budget or ask.max_tokens)
    assert reply == compose(ask, NOTHING, None, SETTINGS)


@given(asks)
def test_calls_obey_the_choice(ask):
    """No calls without tools or with "none"; the named tool only; one call when not parallel."""
    calls = [p for p in compose(ask, NOTHING, None, SETTINGS).parts if isinstance(p, Call)]
    if not ask.tools or ask.choice == "none":
        assert calls == []
    if ask.choice == "find":
        assert {c.name for c in calls} <= {"find"}
    if not ask.parallel:
        assert len(calls) <= 1
    if ask.choice == "auto" and ask.tool_rounds >= SETTINGS.max_tool_rounds:
        assert calls == []


@given(asks)
def test_text_never_contains_a_stop_sequence(ask):
    """The answer ends before the first one, and says which."""
    reply = compose(ask, NOTHING, None, SETTINGS)
    assert not any(s in p.text for s in ask.stop_sequences for p in reply.parts if isinstance(p, Text))
    assert reply.stop_sequence in (None, *ask.stop_sequences)


def test_thinking_grows_with_effort_and_is_sometimes_absent():
    """Over many requests a higher effort thinks more; adaptive models skip thinking on some."""

    def thoughts(effort):
        digests = [hashlib.sha256(bytes([i])).digest() for i in range(200)]
        base = {"family": Family.CLAUDE_NEW, "last_text": "Why?", "max_tokens": 8_000, "effort": effort}
        return [compose(Ask(digest=d, **base), NOTHING, None, SETTINGS).thinking_tokens for d in digests]

    low, medium, high = (thoughts(e) for e in ("low", "medium", "high"))
    assert sum(low) < sum(medium) < sum(high)
    assert 0 in medium


def test_scripted_parts_replace_the_prose_but_not_the_budget():
    """A dictated answer is still cut at `max_tokens`."""
    ask = Ask(digest=b"x", family=Family.CLAUDE_NEW, last_text="", max_tokens=3)
    reply = compose(ask, NOTHING, ScriptedReply(parts=(Text("a b c d"),)), SETTINGS)
    assert (reply.parts, reply.stop) == ((Text("a b c"),), "max_tokens")
