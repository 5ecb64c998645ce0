"""A Messages request in the words of `replies`: what its answer depends on.

Rule: the answer depends on the whole prompt and its parameters through one digest, and on the few facts
that shape it.
"""

from __future__ import annotations

from router.sandbox.anthropic_prompt import Prompt
from router.sandbox.anthropic_request import MessagesRequest
from router.sandbox.anthropic_rules import running_turn
from router.sandbox.replies import Ask, Tool


def last_user_texts(asked: MessagesRequest) -> list[str]:
    """Return the texts of the last user turn; none when an assistant prefill comes last."""
    last = asked.turns[-1]
    if last.role == "system" and len(asked.turns) > 1:
        last = asked.turns[-2]
    return [b.text for b in last.blocks if b.kind == "text"] if last.role == "user" else []


def ask_of(asked: MessagesRequest, prompt: Prompt, texts: list[str]) -> Ask:
    """Restate a request that is to be answered; `texts` are those of its last user turn."""
    assert asked.max_tokens is not None
    room = asked.model.context_tokens - prompt.total_tokens
    thinking = asked.thinking in ("adaptive", "enabled") or (
        asked.thinking == "between_tools" and asked.turns[-1].blocks[0].kind == "tool_result"
    )
    rounds = len(asked.turns) - 1 - running_turn(asked.turns)
    return Ask(
        digest=prompt.digest,
        family=asked.model.family,
        last_text=texts[-1] if texts else "",
        tools=tuple(Tool(t.name, t.schema) for t in asked.tools if not t.server),
        choice=asked.tool_name or asked.tool_choice,
        parallel=asked.parallel,
        tool_rounds=(rounds + 1) // 2,
        max_tokens=max(0, min(asked.max_tokens, room)),
        stop_sequences=asked.stop_sequences,
        effort=(asked.effort or "medium") if thinking else None,
        always_thinks=asked.thinking == "enabled",
        thinking_budget=asked.budget_tokens,
        schema=asked.format_schema,
        prelude=asked.model.id != "claude-opus-5-5",
        room_bound=room < asked.max_tokens,
    )
