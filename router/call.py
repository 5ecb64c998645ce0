"""One request as the router sees it, whatever route it takes: content, parameters and who asks.

The rule: immutable values, provider neutral. Spelling for a provider's wire is the adapters' business; what neither
provider has is refused in `convert`, before a Call exists. Nothing here does I/O or reads a clock.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Role(StrEnum):
    """Who speaks in a message."""

    USER = "user"
    ASSISTANT = "assistant"


class Effort(StrEnum):
    """How hard the model should think; adapters map it to each model's own levels."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"
    MAX = "max"


class ToolChoiceMode(StrEnum):
    """Whether the model may, must or must not call a tool."""

    AUTO = "auto"
    NONE = "none"
    ANY = "any"
    TOOL = "tool"


class ContextPlacement(StrEnum):
    """Where the user context stands among the messages."""

    BEFORE_HISTORY = "before_history"
    """Ahead of the first message: cached with all before it, and a change rewrites the whole conversation."""
    AFTER_HISTORY = "after_history"
    """With the current turn: sent anew in each turn, and a change rewrites nothing."""


class FinishReason(StrEnum):
    """Why the answer ended; one enum for both providers."""

    END_TURN = "end_turn"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_CALL = "tool_call"
    REFUSAL = "refusal"
    CONTEXT_WINDOW = "context_window"
    PAUSED = "paused"
    MALFORMED = "malformed"
    OTHER = "other"


class Text(msgspec.Struct, frozen=True, gc=False):
    """Plain text. `signature` is a provider's opaque token on it (Gemini), valid only for `model`."""

    text: str
    signature: str = ""
    model: str = ""


class Image(msgspec.Struct, frozen=True, gc=False):
    """An image by value."""

    media_type: str
    data: bytes


class Document(msgspec.Struct, frozen=True, gc=False):
    """A document by value; PDF or plain text."""

    media_type: str
    data: bytes
    title: str = ""


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """A model's request to run a tool.

    Attributes:
        id: Router-wide id, stable across a change of route.
        arguments_json: JSON object as text; bytes are kept because key order is part of a cached prefix.
        signature: Opaque provider token that must come back with the call, "" for none; valid only for `model`.
        model: Model id that made the call, "" when unknown.
    """

    id: str
    name: str
    arguments_json: str
    signature: str = ""
    model: str = ""


class ToolResult(msgspec.Struct, frozen=True, gc=False):
    """What a tool returned for the call `call_id`."""

    call_id: str
    content: tuple["Text | Image | Document", ...]
    name: str = ""
    is_error: bool = False


class Thinking(msgspec.Struct, frozen=True, gc=False):
    """A model's thinking, opaque, returned as given and only to the model that made it.

    Attributes:
        model: Model id that made it.
        text: Visible summary, often empty.
        signature: Opaque proof; for a redacted block the encrypted data.
        redacted: Whether the provider encrypted the content.
    """

    model: str
    text: str
    signature: str
    redacted: bool = False


Part = Text | Image | Document | ToolCall | ToolResult | Thinking


class Message(msgspec.Struct, frozen=True, gc=False):
    """Parts by one speaker, at least one."""

    role: Role
    parts: tuple[Part, ...]


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A tool the model may call.

    Attributes:
        name: ^[a-zA-Z_][a-zA-Z0-9_-]{0,127}$ , what both providers accept.
        description: What it does, for the model.
        input_schema_json: JSON Schema of its arguments as JSON text; bytes kept as given.
    """

    name: str
    description: str
    input_schema_json: str


class ToolChoice(msgspec.Struct, frozen=True, gc=False):
    """Whether a tool is to be called; `name` only with mode TOOL."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    name: str = ""
    disable_parallel: bool = False


class Identity(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who asks and under what name it is booked; all opaque strings, "" for none."""

    request_id: str
    tenant: str = ""
    application: str = ""
    user: str = ""
    session: str = ""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request: the prompt's content by layer, and its parameters.

    Attributes:
        tools: Layer "tools", in the order they are sent.
        system: Layer "system": text blocks, in order.
        context: Layer "context": text about the user.
        context_placement: Where `context` stands.
        messages: The conversation, oldest first; starts with a user message and ends with one.
        max_output_tokens: Upper bound of the answer, thinking included, > 0.
        effort: None for the model's default.
        output_schema_json: JSON Schema the answer must match, "" for free text.
        include_thinking: Whether summaries of thinking are wanted in the answer.
        cache_allowed: False when the caller forbids cache breakpoints for this request.
    """

    identity: Identity
    tools: tuple[Tool, ...] = ()
    system: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    context_placement: ContextPlacement = ContextPlacement.BEFORE_HISTORY
    messages: tuple[Message, ...]
    tool_choice: ToolChoice = ToolChoice()
    max_output_tokens: int
    stop_sequences: tuple[str, ...] = ()
    effort: Effort | None = None
    output_schema_json: str = ""
    include_thinking: bool = False
    cache_allowed: bool = True

    @property
    def turn_start(self) -> int:
        """Index of the first message of the turn: what follows the last assistant message."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role is Role.ASSISTANT:
                return index + 1
        return 0
