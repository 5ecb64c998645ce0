"""A call in the spelling of Anthropic's Messages API (version 2026-10-21).

The rule: every block is serialised once, here; the request body is those bytes joined, and a breakpoint is
spliced into its block's object. So the bytes the cache plans over are the bytes on the wire. Order tools,
system, context, messages (A-CACHE, 2026-11). This module does no I/O and does not choose breakpoints.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import msgspec

from cache.plan import Plan
from cache.prompt import Block, BlockKind, Layer, Prompt, PromptParameters
from router.call import (
    Call,
    Document,
    Image,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoiceMode,
    ToolResult,
)
from router.errors import InvalidRequest, NotSupported
from router.upstreams.anthropic_models import Traits
from router.upstreams.base import Rendered
from router.upstreams.conversation import Conversation, Placed, converse
from router.upstreams.parameters import base64_quoted, check_call, json_object, quoted, schema_object

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_MARKS = {
    300: b',"cache_control":{"type":"ephemeral"}}',
    3600: b',"cache_control":{"type":"ephemeral","ttl":"1h"}}',
}
_WIRE_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_EMPTY_SCHEMA = b'{"type":"object"}'
"""Sent for a tool without a schema: Anthropic requires one, of type object (A-TOOLS, 2026-11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Request fields a deployment sets for every call of one upstream; "" leaves the provider's default.

    Attributes:
        speed: "standard" or "fast" (A-FAST).
        inference_geo: "global" or "us" (A-GEO).
        service_tier: "auto" or "standard_only" (A-TIER).
        diagnostics: Whether requests carry a `diagnostics` object, so that later ones can be compared
            (A-DIAG).
    """

    speed: str = ""
    inference_geo: str = ""
    service_tier: str = ""
    diagnostics: bool = False


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What stands around the blocks.

    Attributes:
        head: The object's opening and the fields before the blocks.
        tool_count: Leading blocks that are tools.
        system_count: Blocks after them that are system text.
        messages: Per wire message, its role and its number of blocks.
        tail: Fields after the blocks, each with a leading comma.
    """

    head: bytes
    tool_count: int
    system_count: int
    messages: tuple[tuple[str, int], ...]
    tail: bytes


def render(call: Call, model: str, traits: Traits, options: Options) -> Rendered:
    """Spell `call` for `model`; see `Upstream.render`."""
    check_call(call, traits.max_output_tokens, model)
    conversation = converse(call, model)
    tools = _tool_blocks(call.tools)
    system = _system_blocks(call.system)
    messages, shape = _message_blocks(call, conversation)
    tail, parameters = _parameters(call, model, traits, options)
    envelope = Envelope(
        head=b'{"model":%b,"max_tokens":%d' % (quoted(model), call.max_output_tokens),
        tool_count=len(tools),
        system_count=len(system),
        messages=shape,
        tail=tail,
    )
    prompt = Prompt((*tools, *system, *messages), parameters)
    return Rendered(call=call, model=model, prompt=prompt, envelope=envelope)


def request_body(rendered: Rendered, plan: Plan | None, *, stream: bool) -> bytes:
    """Join the blocks of `rendered`, with the breakpoints of `plan`, into one request.

    Raises:
        ValueError: If a breakpoint stands on a block that cannot carry one.
    """
    envelope: Envelope = rendered.envelope
    contents = [block.content for block in rendered.prompt.blocks]
    if plan is not None:
        for point in plan.breakpoints:
            if not rendered.prompt.blocks[point.position].markable:
                raise ValueError(f"block {point.position} cannot carry a breakpoint")
            contents[point.position] = contents[point.position][:-1] + _MARKS[point.ttl_s]
    pieces = [envelope.head]
    system_start = envelope.tool_count
    start = system_start + envelope.system_count
    if envelope.tool_count:
        pieces += (b',"tools":[', b",".join(contents[:system_start]), b"]")
    if envelope.system_count:
        pieces += (b',"system":[', b",".join(contents[system_start:start]), b"]")
    opening = b',"messages":['
    for role, count in envelope.messages:
        pieces += (
            opening,
            b'{"role":"%b","content":[' % role.encode(),
            b",".join(contents[start : start + count]),
        )
        pieces.append(b"]}")
        opening = b","
        start += count
    pieces += (b"]", envelope.tail, b',"stream":true}' if stream else b"}")
    return b"".join(pieces)


@lru_cache(maxsize=256)
def _tool_blocks(tools: tuple[Tool, ...]) -> tuple[Block, ...]:
    """Spell tools once per distinct set: an application's repeat with every request."""
    return tuple(_tool_block(index, tool) for index, tool in enumerate(tools))


def _tool_block(index: int, tool: Tool) -> Block:
    schema = _EMPTY_SCHEMA
    if tool.input_schema_json:
        schema = json_object(tool.input_schema_json, f"tools[{index}].input_schema_json")
    description = b',"description":' + quoted(tool.description) if tool.description else b""
    content = b'{"name":%b%b,"input_schema":%b}' % (quoted(tool.name), description, schema)
    return Block(Layer.TOOLS, BlockKind.TOOL, content)


@lru_cache(maxsize=256)
def _system_blocks(system: tuple[str, ...]) -> tuple[Block, ...]:
    """Spell the system prompt once per distinct text, as for tools."""
    return tuple(Block(Layer.SYSTEM, BlockKind.TEXT, _text(text)) for text in system if text)


def _message_blocks(
    call: Call, conversation: Conversation
) -> tuple[list[Block], tuple[tuple[str, int], ...]]:
    """Spell context and conversation; return the blocks and the shape of the wire messages."""
    user, assistant = Role.USER.value, Role.ASSISTANT.value
    blocks = [Block(Layer.CONTEXT, BlockKind.TEXT, _text(text), user) for text in call.context if text]
    shape: list[tuple[str, int]] = []
    turn_start = call.turn_start
    turns = conversation.turns
    carried = len(blocks)
    if carried and turns[0].role is not Role.USER:
        shape.append((user, carried))
        carried = 0
    layer = Layer.HISTORY if turn_start else Layer.TURN
    for turn in turns:
        role = user if turn.role is Role.USER else assistant
        for placed in turn.parts:
            if placed.message >= turn_start:
                layer = Layer.TURN
            kind, content = _spell(placed)
            blocks.append(Block(layer, kind, content, role, kind is not BlockKind.THINKING))
        shape.append((role, len(turn.parts) + carried))
        carried = 0
    return blocks, tuple(shape)


def _spell(placed: Placed) -> tuple[BlockKind, bytes]:
    part = placed.content
    if type(part) is Text:  # most parts are
        return BlockKind.TEXT, _text(part.text)
    match part:
        case ToolCall():
            arguments = b"{}"
            if part.arguments_json:
                arguments = json_object(part.arguments_json, f"{placed.field}.tool_call.arguments_json")
            content = b'{"type":"tool_use","id":%b,"name":%b,"input":%b}'
            return BlockKind.TOOL_CALL, content % (quoted(wire_id(part.id)), quoted(part.name), arguments)
        case ToolResult():
            return BlockKind.TOOL_RESULT, _tool_result(part, placed)
        case Thinking(text=text, signature=signature, redacted=redacted):
            if redacted:
                return BlockKind.THINKING, b'{"type":"redacted_thinking","data":%b}' % quoted(signature)
            content = b'{"type":"thinking","thinking":%b,"signature":%b}'
            return BlockKind.THINKING, content % (quoted(text), quoted(signature))
        case Image():
            return BlockKind.IMAGE, _image(part, placed.field)
        case Document():
            return BlockKind.DOCUMENT, _document(part, placed.field)
        case Text(text):
            return BlockKind.TEXT, _text(text)


def wire_id(call_id: str) -> str:
    """Return `call_id` if Anthropic takes its letters, else a digest of it."""
    if _WIRE_ID.fullmatch(call_id):
        return call_id
    return "call_" + blake2b(call_id.encode(), digest_size=16).hexdigest()


def _text(text: str) -> bytes:
    return b'{"type":"text","text":%b}' % quoted(text)


def _tool_result(part: ToolResult, placed: Placed) -> bytes:
    head = b'{"type":"tool_result","tool_use_id":%b' % quoted(wire_id(part.call_id))
    error = b',"is_error":true' if part.is_error else b""
    inner = b",".join(_result_content(part.content, placed))
    return b"%b%b%b}" % (head, b',"content":[%b]' % inner if inner else b"", error)


def _result_content(content: tuple[Part, ...], placed: Placed) -> Iterator[bytes]:
    for index, inner in enumerate(content):
        field = f"{placed.field}.tool_result.content[{index}]"
        match inner:
            case Text(text):
                if text:
                    yield _text(text)
            case Image():
                yield _image(inner, field)
            case Document():
                yield _document(inner, field)
            case _:
                raise InvalidRequest(field, "a tool result holds text, images and documents only")


def _image(part: Image, field: str) -> bytes:
    if part.media_type not in IMAGE_TYPES:
        raise NotSupported(f"{field}: Anthropic takes no image of type {part.media_type!r}")
    source = b'{"type":"image","source":{"type":"base64","media_type":%b,"data":%b}}'
    return source % (quoted(part.media_type), base64_quoted(part.data))


def _document(part: Document, field: str) -> bytes:
    title = b',"title":' + quoted(part.title) if part.title else b""
    if part.media_type == "application/pdf":
        source = b'{"type":"base64","media_type":"application/pdf","data":%b}' % base64_quoted(part.data)
    elif part.media_type == "text/plain":
        try:
            text = part.data.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{field}.document.data", "a text/plain document must be UTF-8") from error
        source = b'{"type":"text","media_type":"text/plain","data":%b}' % quoted(text)
    else:
        raise NotSupported(f"{field}: Anthropic takes no document of type {part.media_type!r}")
    return b'{"type":"document","source":%b%b}' % (source, title)


def _parameters(call: Call, model: str, traits: Traits, options: Options) -> tuple[bytes, PromptParameters]:
    """Spell what is not content; return it with what of it enters the cache prefix (A-CACHE, 2026-11).

    Whether thinking and effort also end the reuse of tools and system is "model-specific" there. Until a model is
    measured they count as if they did: a belief that is too cold costs an estimate, one too warm breaks a promise.
    """
    fields: list[bytes] = []
    keys: list[str] = []
    deep_keys: list[str] = []
    choice = _tool_choice(call, model, traits)
    if choice:
        fields.append(b',"tool_choice":' + choice)
        keys.append(f"tool_choice={choice.decode()}")
    if call.include_thinking and traits.adaptive_thinking:
        fields.append(b',"thinking":{"type":"adaptive","display":"summarized"}')
        if not traits.thinks_by_default:  # display alone may change without harm (A-THINK)
            deep_keys.append("thinking=adaptive")
    effort = traits.effort(call.effort)
    if effort:
        deep_keys.append(f"effort={effort.value}")
    schema, digest = (
        schema_object(call.output_schema_json, "output_schema_json") if call.output_schema_json else (b"", "")
    )
    if schema and not call.max_output_tokens:
        raise InvalidRequest("max_output_tokens", "a warming call (0 tokens) cannot ask for an output schema")
    if digest:
        deep_keys.append(f"format={digest}")
    if effort or schema:
        inner = [b'"effort":' + quoted(effort.value)] if effort else []
        if schema:
            inner.append(b'"format":{"type":"json_schema","schema":%b}' % schema)
        fields.append(b',"output_config":{%b}' % b",".join(inner))
    if call.stop_sequences:
        fields.append(b',"stop_sequences":[%b]' % b",".join(map(quoted, call.stop_sequences)))
    fields.extend(_option_fields(options))
    return b"".join(fields), PromptParameters(
        everywhere=";".join(deep_keys),
        system=f"speed={options.speed}" if options.speed not in ("", "standard") else "",
        messages=";".join(keys),
    )


def _option_fields(options: Options) -> Iterator[bytes]:
    named: Mapping[bytes, str] = {
        b"speed": options.speed,
        b"inference_geo": options.inference_geo,
        b"service_tier": options.service_tier,
    }
    for name, value in named.items():
        if value:
            yield b',"%b":%b' % (name, quoted(value))
    if options.diagnostics:
        yield b',"diagnostics":{"previous_message_id":null}'


def _tool_choice(call: Call, model: str, traits: Traits) -> bytes:
    """Spell the tool choice, b"" for the default or without tools."""
    choice = call.tool_choice
    if not call.tools:
        return b""
    if choice.mode in (ToolChoiceMode.ANY, ToolChoiceMode.TOOL) and not traits.forced_tool_choice:
        raise InvalidRequest(
            "tool_choice.mode", f"{model} cannot be forced to call a tool; use 'auto' or 'none'"
        )
    parallel = b',"disable_parallel_tool_use":true' if choice.disable_parallel else b""
    match choice.mode:
        case ToolChoiceMode.AUTO:
            return b'{"type":"auto"%b}' % parallel if parallel else b""
        case ToolChoiceMode.NONE:
            return b'{"type":"none"}'
        case ToolChoiceMode.ANY:
            return b'{"type":"any"%b}' % parallel
        case ToolChoiceMode.TOOL:
            return b'{"type":"tool","name":%b%b}' % (quoted(choice.name), parallel)
