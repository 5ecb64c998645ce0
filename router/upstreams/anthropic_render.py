"""A call in the spelling of Anthropic's Messages API (version 2026-10-21).

The rule: every block is serialised once, here; the request body is those bytes joined, and a breakpoint is
spliced into its block's object. So the bytes the cache plans over are the bytes on the wire. Order tools,
system, context, messages (A-CACHE, 2026-11). A context that stands after the history follows the current turn's
message: as a system entry where the model takes one, and only there is one taken: right after a user message, and
last or before an assistant's (page "mid-conversation system messages", placement rules, 2026-11); on other models
as text of that message. This module does no I/O and does not choose breakpoints.
"""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import msgspec

from cache.plan import Plan
from cache.prompt import Block, BlockKind, Layer, Prompt, PromptParameters
from cache.rules import rules_for
from router.call import (
    Call,
    ContextPlacement,
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
from router.errors import InvalidRequest
from router.upstreams.anthropic_models import Traits
from router.upstreams.base import Rendered
from router.upstreams.conversation import (
    Conversation,
    Placed,
    Turn,
    converse,
    converse_on,
    current_turn,
    is_blank,
    leading_result_count,
    without_thinking_before,
)
from router.upstreams.parameters import base64_quoted, check_call, json_object, quoted, schema_object

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_MARKS = {
    300: b',"cache_control":{"type":"ephemeral"}}',
    3600: b',"cache_control":{"type":"ephemeral","ttl":"1h"}}',
}
_USER, _ASSISTANT = str(Role.USER), str(Role.ASSISTANT)
_WIRE_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OWN_ID = "toolu_"
"""How ids that Anthropic gives to calls begin (A-TOOLS, 2026-11)."""
OPTIONAL_PROPERTY_LIMIT = 24
"""Properties of an output schema that are not required (A-STRUCT, 2026-11)."""
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
_NO_PREVIOUS = b',"diagnostics":{"previous_message_id":null}'
"""Asks for a fingerprint without a comparison; always the last of the envelope's fields."""
_NO_PARAMETERS = PromptParameters()
_EMPTY_SCHEMA = b'{"type":"object"}'
"""Sent for a tool without a schema: Anthropic requires one, of type object (A-TOOLS, 2026-11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Request fields a deployment sets for every call of one upstream; "" leaves the provider's default.

    Attributes:
        speed: "standard" or "fast" (A-FAST).
        inference_geo: "global" or "us" (A-GEO).
        service_tier: "auto" or "standard_only" (A-TIER).
        diagnostics: Whether requests carry a `diagnostics` object: the provider keeps a fingerprint of each and
            says what differs from the session's previous one (A-DIAG; not on partner clouds).
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
    messages, shape, volatile = _message_blocks(call, conversation, model, traits)
    tail, parameters = _parameters(call, model, traits, options)
    envelope = Envelope(
        head=_head(call, model),
        tool_count=len(tools),
        system_count=len(system),
        messages=shape,
        tail=tail,
    )
    if volatile is None:
        prompt = Prompt((*tools, *system, *messages), parameters)
    else:
        start = len(tools) + len(system)
        prompt = Prompt(
            (*tools, *system, *messages), parameters, start + volatile.start, start + volatile.stop - 1
        )
    return Rendered(call=call, model=model, prompt=prompt, envelope=envelope)


def render_continued(
    previous: Rendered, call: Call, model: str, traits: Traits, options: Options
) -> Rendered | None:
    """Spell `call`, whose messages begin with those of `previous`, taking over what was spelled then.

    Equal to `render(call, ...)`; what is new is all that is walked. None when the old blocks are not what `render`
    would give: other layers, a context that stands with the turn, an answer of which nothing can be sent.

    Raises:
        InvalidRequest, NotSupported: As `render`.
    """
    before = previous.call
    start = len(before.messages)
    volatile = previous.prompt.volatile_from >= 0 or (
        call.context_placement is ContextPlacement.AFTER_HISTORY and bool(call.context)
    )
    if (
        volatile
        or previous.model != model
        or len(call.messages) <= start
        or call.messages[start - 1] is not before.messages[-1]
        or call.messages[0] is not before.messages[0]
        or call.tools != before.tools
        or call.system != before.system
        or call.context != before.context
    ):
        return None
    check_call(call, traits.max_output_tokens, model)
    conversation = converse_on(call, model, start)
    if conversation is None:
        return None
    blocks: list[Block] = []
    shape: list[tuple[str, int]] = []
    _spell_turns(conversation.turns, conversation.bare_calls, call.turn_start, blocks, shape, 0)
    tail, parameters = _parameters(call, model, traits, options)
    known: Envelope = previous.envelope
    envelope = Envelope(
        head=_head(call, model),
        tool_count=known.tool_count,
        system_count=known.system_count,
        messages=(*known.messages, *shape),
        tail=tail,
    )
    return Rendered(
        call=call, model=model, prompt=previous.prompt.continued(blocks, parameters), envelope=envelope
    )


def _head(call: Call, model: str) -> bytes:
    return b'{"model":%b,"max_tokens":%d' % (quoted(model), call.max_output_tokens)


def request_body(
    rendered: Rendered, plan: Plan | None, *, stream: bool, previous_response_id: str = ""
) -> bytes:
    """Join the blocks of `rendered`, with the breakpoints of `plan`, into one request.

    Args:
        previous_response_id: Answer that the provider is to compare with, where diagnostics are on; "" for none.
            It stands outside the blocks, so no prefix depends on it.

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
        inner = contents[start] if count == 1 else b",".join(contents[start : start + count])
        pieces += (opening, b'{"role":"%b","content":[' % role.encode(), inner, b"]}")
        opening = b","
        start += count
    tail: bytes = envelope.tail
    if previous_response_id and tail.endswith(_NO_PREVIOUS):
        tail = b'%b,"diagnostics":{"previous_message_id":%b}' % (
            tail.removesuffix(_NO_PREVIOUS),
            quoted(previous_response_id),
        )
    pieces += (b"]", tail, b',"stream":true}' if stream else b"}")
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
    return tuple(Block(Layer.SYSTEM, BlockKind.TEXT, _text(text)) for text in system if not is_blank(text))


def _message_blocks(
    call: Call, conversation: Conversation, model: str, traits: Traits
) -> tuple[list[Block], tuple[tuple[str, int], ...], range | None]:
    """Spell context and conversation; return blocks, shape of the wire messages, positions of a volatile context."""
    user = _USER
    turns, bare = conversation.turns, conversation.bare_calls
    context = [_text(text) for text in call.context if not is_blank(text)]
    after = call.context_placement is ContextPlacement.AFTER_HISTORY and turns[0].role is Role.USER
    blocks: list[Block] = []
    if context and not after:
        blocks = [Block(Layer.CONTEXT, BlockKind.TEXT, content, user) for content in context]
    elif context and traits.binds_thinking:
        # A context that has moved on is missing before the thinking of the turns it stood in.
        turns = without_thinking_before(turns, current_turn(turns))
    shape: list[tuple[str, int]] = []
    turn_start = call.turn_start
    carried = len(blocks)
    if carried and turns[0].role is not Role.USER:
        shape.append((user, carried))
        carried = 0
    _spell_turns(turns, bare, turn_start, blocks, shape, carried)
    if not context or not after:
        return blocks, tuple(shape), None
    volatile = _place_context(blocks, shape, turns, context, model)
    return blocks, tuple(shape), volatile


def _spell_turns(
    turns: list[Turn],
    bare: Set[str],
    turn_start: int,
    blocks: list[Block],
    shape: list[tuple[str, int]],
    carried: int,
) -> None:
    """Append the turns to both lists; `carried` blocks before them belong to the first one's message."""
    user, assistant = _USER, _ASSISTANT
    layer = Layer.HISTORY if turn_start else Layer.TURN
    thinking, result = BlockKind.THINKING, BlockKind.TOOL_RESULT
    for turn in turns:
        role = user if turn.role is Role.USER else assistant
        for placed in turn.parts:
            if placed.message >= turn_start:
                layer = Layer.TURN
            kind, content = _spell(placed, bare)
            if kind is result and _shows_image(placed.content):
                blocks.append(Block(layer, kind, content, role, holds_image=True))
            else:
                blocks.append(Block(layer, kind, content, role, kind is not thinking))
        shape.append((role, len(turn.parts) + carried))
        carried = 0


def _place_context(
    blocks: list[Block], shape: list[tuple[str, int]], turns: list[Turn], context: list[bytes], model: str
) -> range:
    """Insert the context with the current turn, into both lists; return its positions."""
    current = current_turn(turns)
    role, count = shape[current]
    position = sum([length for _, length in shape[:current]])
    if rules_for(model).mid_conversation_system:
        position += count
        layer = blocks[position - 1].layer
        role = "system"
        shape.insert(current + 1, (role, len(context)))
    else:
        position += leading_result_count(turns[current])
        layer = blocks[position].layer
        shape[current] = (role, count + len(context))
    blocks[position:position] = [Block(layer, BlockKind.TEXT, content, role) for content in context]
    return range(position, position + len(context))


def _shows_image(part: Part) -> bool:
    return isinstance(part, ToolResult) and any(isinstance(inner, Image) for inner in part.content)


def _spell(placed: Placed, bare: Set[str]) -> tuple[BlockKind, bytes]:
    part = placed.content
    if type(part) is Text:  # most parts are
        return BlockKind.TEXT, _text(part.text)
    match part:
        case ToolCall():
            arguments = b"{}"
            if part.arguments_json:
                arguments = json_object(part.arguments_json, f"{placed.field}.tool_call.arguments_json")
            content = b'{"type":"tool_use","id":%b,"name":%b,"input":%b}'
            return BlockKind.TOOL_CALL, content % (
                quoted(wire_id(part.id, bare)),
                quoted(part.name),
                arguments,
            )
        case ToolResult():
            return BlockKind.TOOL_RESULT, _tool_result(part, placed, bare)
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


def wire_id(call_id: str, bare: Set[str] = frozenset()) -> str:
    """Return `call_id` if Anthropic takes it, else a digest of it.

    It takes its own letters, and a call of its own making only beside the thinking that led to it (A-THINK,
    2026-11). A caller may have lost that, and a call without any may have been made without: nobody can tell, so
    every call of Anthropic's among `bare` goes out as another model's does, under a digest, always the same.
    """
    if _WIRE_ID.fullmatch(call_id) and not (call_id in bare and call_id.startswith(_OWN_ID)):
        return call_id
    return "call_" + blake2b(call_id.encode(), digest_size=16).hexdigest()


def _text(text: str) -> bytes:
    return b'{"type":"text","text":%b}' % quoted(text)


_FAILED = b'{"type":"text","text":"The tool failed. What it left:"}'
"""Says so of a result that holds more than text, which may not be called an error."""


def _tool_result(part: ToolResult, placed: Placed, bare: Set[str]) -> bytes:
    head = b'{"type":"tool_result","tool_use_id":%b' % quoted(wire_id(part.call_id, bare))
    inner = b",".join(_result_content(part.content, placed))
    error = b""
    if part.is_error and all(isinstance(each, Text) for each in part.content):
        error = b',"is_error":true'
    elif (
        part.is_error
    ):  # "all content must be type text if is_error is true" (vellum-assistant#18387, 2026-03)
        inner = b"%b,%b" % (_FAILED, inner)
    return b"%b%b%b}" % (head, b',"content":[%b]' % inner if inner else b"", error)


def _result_content(content: tuple[Part, ...], placed: Placed) -> Iterator[bytes]:
    for index, inner in enumerate(content):
        field = f"{placed.field}.tool_result.content[{index}]"
        match inner:
            case Text(text):
                if not is_blank(text):  # a tool may have printed nothing; the provider takes no such block
                    yield _text(text)
            case Image():
                yield _image(inner, field)
            case Document():
                yield _document(inner, field)
            case _:
                raise InvalidRequest(field, "a tool result holds text, images and documents only")


def _image(part: Image, field: str) -> bytes:
    if part.media_type not in IMAGE_TYPES:
        raise InvalidRequest(
            f"{field}.image.media_type", f"Anthropic takes no image of type {part.media_type!r}"
        )
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
        raise InvalidRequest(
            f"{field}.document.media_type", f"Anthropic takes no document of type {part.media_type!r}"
        )
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
    schema, digest = _format_schema(call.output_schema_json) if call.output_schema_json else (b"", "")
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
    fields.append(_option_fields(options))
    if not keys and not deep_keys and options.speed in ("", "standard"):
        return b"".join(fields), _NO_PARAMETERS
    return b"".join(fields), PromptParameters(
        everywhere=";".join(deep_keys),
        system=f"speed={options.speed}" if options.speed not in ("", "standard") else "",
        messages=";".join(keys),
    )


@lru_cache(maxsize=256)
def _format_schema(text: str) -> tuple[bytes, str]:
    """Bytes of a schema Anthropic compiles, and their digest; an application's schema repeats.

    Raises:
        InvalidRequest: It is not one JSON object, or leaves what structured outputs take (A-STRUCT, 2026-11).
    """
    field = "output_schema_json"
    content, digest = schema_object(text, field)
    try:
        optional_count = _optional_count(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidRequest(field, f"must be one JSON object: {error}") from error
    except RecursionError as error:
        raise InvalidRequest(field, "is nested too deeply") from error
    if optional_count is None:
        raise InvalidRequest(
            field,
            "every object in it must set additionalProperties to false; Anthropic takes no open objects",
        )
    if optional_count > OPTIONAL_PROPERTY_LIMIT:
        raise InvalidRequest(
            field,
            f"has {optional_count} optional properties; Anthropic takes at most {OPTIONAL_PROPERTY_LIMIT}",
        )
    return content, digest


def _optional_count(node: object) -> int | None:
    """Properties of all objects below that are not required; None when one of the objects is open."""
    if isinstance(node, list):
        children = node
    elif isinstance(node, dict):
        children = []
        for key, child in node.items():
            if key in _NAMED_SCHEMAS and isinstance(child, dict):
                children.extend(child.values())
            elif key not in _VALUES:
                children.append(child)
    else:
        return 0
    count = 0
    if isinstance(node, dict) and ("properties" in node or _is_object(node.get("type"))):
        if node.get("additionalProperties") is not False:
            return None
        properties, required = node.get("properties"), node.get("required")
        names = properties.keys() if isinstance(properties, dict) else set()
        count = len(names - set(required if isinstance(required, list) else ()))
    for child in children:
        below = _optional_count(child)
        if below is None:
            return None
        count += below
    return count


def _is_object(kind: object) -> bool:
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


@lru_cache(maxsize=64)
def _option_fields(options: Options) -> bytes:
    """The fields that a deployment's options add, spelled once for each."""
    fields = []
    named: Mapping[bytes, str] = {
        b"speed": options.speed,
        b"inference_geo": options.inference_geo,
        b"service_tier": options.service_tier,
    }
    for name, value in named.items():
        if value:
            fields.append(b',"%b":%b' % (name, quoted(value)))
    if options.diagnostics:
        fields.append(_NO_PREVIOUS)
    return b"".join(fields)


def _tool_choice(call: Call, model: str, traits: Traits) -> bytes:
    """Spell the tool choice, b"" for the default or without tools."""
    choice = call.tool_choice
    if not call.tools:
        return b""
    if choice.mode in (ToolChoiceMode.ANY, ToolChoiceMode.TOOL) and not traits.forced_tool_choice:
        raise InvalidRequest(
            "tool_choice.mode", f"{model} cannot be forced to call a tool; use 'auto' or 'none'"
        )
    if choice.mode in (ToolChoiceMode.ANY, ToolChoiceMode.TOOL) and not call.max_output_tokens:
        raise InvalidRequest("tool_choice.mode", "a warming call (0 tokens) cannot be forced to call a tool")
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
