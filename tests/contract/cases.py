"""What a case of the contract is: a call, what the provider is told to answer, and what must come of it.

A case holds for both providers; where they differ it says how, by provider name. Expectations on the wire are paths
into the request's JSON, so that a case reads as a line of the mapping tables in router/upstreams/README.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.call import Call, FinishReason, Identity, Message, Part, Role, Text, Tool, ToolCall
from router.sandbox import Call as ScriptedCall
from router.sandbox import Text as ScriptedText

OPUS, FLASH = "claude-opus-5-5", "gemini-3.8-flash"
MODELS = {"anthropic": OPUS, "gemini": FLASH}
ABSENT: Any = object()
"""Stands for a field that must not be on the wire."""

CITY = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}'
WEATHER = Tool("weather", "Tell the weather of a city.", CITY)
NOW = Tool("now", "", '{"type":"object"}')

Sent = Mapping[str, Any]
"""Values by path into the request, e.g. {"messages.0.content.1.type": "image"}."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case, for both providers.

    Attributes:
        name: The outcome it states.
        call: What is asked.
        says: What the provider answers, empty to let it choose.
        thinking: Tokens it thinks before, None to let it choose.
        stop: By provider, its own word for why it stopped; left out, the natural one.
        finish: Ours for it, for both providers or by provider; None to leave it open.
        parts: Kinds of the answer's parts, for both or by provider; None to leave them open.
        sent: By provider, what the request holds.
        refused: By provider, the field that is refused before the call; nothing is then sent.
        unplayed: Providers whose sandbox does not play this content; what is rendered is checked, nothing is sent.
        unbilled: Providers that do not bill the answer.
        streamed: By provider, False where the call has no streamed form.
        facts: Values of the Reply's other fields, by provider.
    """

    name: str
    call: Call
    says: tuple[ScriptedText | ScriptedCall, ...] = ()
    thinking: int | None = 0
    stop: Mapping[str, str] = field(default_factory=dict)
    finish: FinishReason | Mapping[str, FinishReason] | None = FinishReason.END_TURN
    parts: tuple[type[Part], ...] | Mapping[str, tuple[type[Part], ...]] | None = (Text,)
    sent: Mapping[str, Sent] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    unplayed: frozenset[str] = frozenset()
    unbilled: frozenset[str] = frozenset()
    streamed: Mapping[str, bool] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def expected(self, name: str, provider: str) -> Any:
        """The expectation `name` for one provider."""
        value = getattr(self, name)
        return value.get(provider) if isinstance(value, Mapping) else value


def both(field_name: str) -> dict[str, str]:
    """Refused by either provider, naming `field_name`."""
    return dict.fromkeys(MODELS, field_name)


def user(*parts: Part | str) -> Message:
    """A user message; strings are text parts."""
    return Message(Role.USER, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(*parts: Part | str) -> Message:
    """An assistant message; strings are text parts."""
    return Message(Role.ASSISTANT, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def call(*messages: Message | str, **fields: Any) -> Call:
    """A call; strings are user messages."""
    fields.setdefault("max_output_tokens", 600)
    fields.setdefault("identity", Identity(request_id="contract"))
    return Call(messages=tuple(user(m) if isinstance(m, str) else m for m in messages), **fields)


def asks(call_id: str, city: str = "Oslo") -> ToolCall:
    """A call of the weather tool by nobody in particular."""
    return ToolCall(call_id, "weather", f'{{"city":"{city}"}}')


def value_at(body: Any, path: str) -> Any:
    """What stands at a path of a request, ABSENT for nothing."""
    for step in path.split("."):
        try:
            body = body[int(step)] if isinstance(body, list) else body[step]
        except (KeyError, IndexError, TypeError):
            return ABSENT
    return body
