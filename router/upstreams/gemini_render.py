"""A call in the spelling of Gemini's generateContent.

The rule: every block is serialised once, here, and the request body is those bytes joined. Gemini caches
implicitly and takes no breakpoints, so no block is markable (G-CACHE, 2026-11). Signatures go back only to
the model that made them; a step whose first call another model made gets the dummy signature Google documents
for injected calls (G-SIG, 2026-11), in every turn, so that a growing conversation keeps its bytes. Thinking
goes back only signed: summaries are for people.

A context that stands after the history is text at the head of the current turn, after its function responses: no
turn before it changes with it.

This module does no I/O.
"""

from functools import lru_cache

import msgspec

from cache.prompt import Block, BlockKind, Layer, Prompt, PromptParameters
from router.call import (
    Call,
    ContextPlacement,
    Document,
    Image,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoiceMode,
    ToolResult,
)
from router.errors import InvalidRequest
from router.upstreams.base import Rendered
from router.upstreams.conversation import (
    AGAIN,
    Conversation,
    Placed,
    converse,
    current_turn,
    given_id,
    is_blank,
    leading_result_count,
    same_model,
)
from router.upstreams.gemini_models import Traits
from router.upstreams.parameters import base64_quoted, check_call, json_object, quoted, schema_object

DUMMY_SIGNATURE = "context_engineering_is_the_way_to_go"
MAX_STOP_SEQUENCES = 5
"""G-GEN, GenerationConfig.stopSequences, 2026-11."""
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})
DOCUMENT_TYPES = frozenset({"application/pdf", "text/plain"})
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
_USER, _MODEL = "user", "model"
_MODES = {
    ToolChoiceMode.NONE: b'"mode":"NONE"',
    ToolChoiceMode.ANY: b'"mode":"ANY"',
    ToolChoiceMode.TOOL: b'"mode":"ANY","allowedFunctionNames":[%b]',
}
_NO_PARAMETERS = PromptParameters()


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What stands around the blocks.

    Attributes:
        tool_count: Leading blocks that are tools.
        system_count: Blocks after them that are system text.
        contents: Per wire content, its role and its number of blocks.
        tail: Fields after the blocks, each with a leading comma.
    """

    tool_count: int
    system_count: int
    contents: tuple[tuple[str, int], ...]
    tail: bytes


def render(call: Call, model: str, traits: Traits, *, store: bool | None) -> Rendered:
    """Spell `call` for `model`; see `Upstream.render`. `store` None leaves the project's setting."""
    check_call(call, traits.max_output_tokens, model)
    _check(call, model)
    conversation = converse(call, model, signed_text=True)
    tools = _tool_blocks(call.tools)
    system = _system_blocks(call.system)
    contents, shape, volatile = _content_blocks(call, conversation, model, traits)
    tail, parameters = _parameters(call, traits, store)
    envelope = Envelope(len(tools), len(system), shape, tail)
    if volatile is None:
        prompt = Prompt((*tools, *system, *contents), parameters)
    else:
        start = len(tools) + len(system)
        prompt = Prompt(
            (*tools, *system, *contents), parameters, start + volatile.start, start + volatile.stop - 1
        )
    return Rendered(call=call, model=model, prompt=prompt, envelope=envelope)


def request_body(rendered: Rendered) -> bytes:
    """Join the blocks of `rendered` into one request."""
    envelope: Envelope = rendered.envelope
    parts = [block.content for block in rendered.prompt.blocks]
    system_start = envelope.tool_count
    start = system_start + envelope.system_count
    pieces: list[bytes] = []
    opening = b"{"
    if envelope.system_count:
        pieces += (b'{"systemInstruction":{"parts":[', b",".join(parts[system_start:start]), b"]}")
        opening = b","
    if envelope.tool_count:
        pieces += (opening, b'"tools":[{"functionDeclarations":[', b",".join(parts[:system_start]), b"]}]")
        opening = b","
    pieces += (opening, b'"contents":[')
    opening = b""
    for role, count in envelope.contents:
        inner = parts[start] if count == 1 else b",".join(parts[start : start + count])
        pieces += (opening, b'{"role":"%b","parts":[' % role.encode(), inner, b"]}")
        opening = b","
        start += count
    pieces += (b"]", envelope.tail, b"}")
    return b"".join(pieces)


def _check(call: Call, model: str) -> None:
    if not call.max_output_tokens:
        raise InvalidRequest("max_output_tokens", f"must be at least 1 for {model}")
    if len(call.stop_sequences) > MAX_STOP_SEQUENCES:
        raise InvalidRequest(
            "stop_sequences", f"{len(call.stop_sequences)} given, {model} takes at most {MAX_STOP_SEQUENCES}"
        )
    if call.tools and call.tool_choice.disable_parallel:
        raise InvalidRequest(
            "tool_choice.disable_parallel", f"{model} cannot be kept from parallel tool calls"
        )


@lru_cache(maxsize=256)
def _tool_blocks(tools: tuple[Tool, ...]) -> tuple[Block, ...]:
    """Spell tools once per distinct set: an application's repeat with every request."""
    return tuple(_tool_block(index, tool) for index, tool in enumerate(tools))


def _tool_block(index: int, tool: Tool) -> Block:
    pieces = [b'{"name":', quoted(tool.name)]
    if tool.description:
        pieces += (b',"description":', quoted(tool.description))
    if tool.input_schema_json:
        schema = json_object(tool.input_schema_json, f"tools[{index}].input_schema_json")
        pieces += (b',"parametersJsonSchema":', schema)
    pieces.append(b"}")
    return Block(Layer.TOOLS, BlockKind.TOOL, b"".join(pieces), markable=False)


@lru_cache(maxsize=256)
def _system_blocks(system: tuple[str, ...]) -> tuple[Block, ...]:
    """Spell the system prompt once per distinct text, as for tools."""
    return tuple(
        Block(Layer.SYSTEM, BlockKind.TEXT, _text(text), markable=False)
        for text in system
        if not is_blank(text)
    )


def _content_blocks(
    call: Call, conversation: Conversation, model: str, traits: Traits
) -> tuple[list[Block], tuple[tuple[str, int], ...], range | None]:
    """Spell context and conversation; return blocks, shape of the wire contents, positions of a volatile context."""
    turns = conversation.turns
    context = [_text(text) for text in call.context if not is_blank(text)]
    after = call.context_placement is ContextPlacement.AFTER_HISTORY and turns[0].role is Role.USER
    blocks = [
        Block(Layer.CONTEXT, BlockKind.TEXT, content, _USER, markable=False)
        for content in (() if after else context)
    ]
    shape: list[tuple[str, int]] = []
    turn_start = call.turn_start
    carried = len(blocks)
    if carried and turns[0].role is not Role.USER:
        shape.append((_USER, carried))
        carried = 0
    layer, turn_layer = (Layer.HISTORY if turn_start else Layer.TURN), Layer.TURN
    speller, text, asks = _Speller(conversation.call_names, model, traits), BlockKind.TEXT, Role.USER
    for turn in turns:
        role = _USER if turn.role is asks else _MODEL
        speller.begin()
        for placed in turn.parts:
            if placed.message >= turn_start:
                layer = turn_layer
            part = placed.content
            if type(part) is Text and not part.signature:  # most parts are
                blocks.append(Block(layer, text, _text(part.text), role, False))
                continue
            kind, content = speller.spell(placed)
            blocks.append(Block(layer, kind, content, role, False))
        shape.append((role, len(turn.parts) + carried))
        carried = 0
    if not context or not after:
        return blocks, tuple(shape), None
    current = current_turn(turns)
    role, count = shape[current]
    shape[current] = (role, count + len(context))
    position = sum([length for _, length in shape[:current]]) + leading_result_count(turns[current])
    layer = blocks[position].layer
    blocks[position:position] = [
        Block(layer, BlockKind.TEXT, content, role, markable=False) for content in context
    ]
    return blocks, tuple(shape), range(position, position + len(context))


class _Speller:
    """Spells the parts of one conversation; knows the names behind call ids."""

    def __init__(self, call_names: dict[str, str], model: str, traits: Traits) -> None:
        self._names = call_names
        self._model = model
        self._traits = traits
        self._unsigned = False
        self._given: dict[str, str] = {}

    def begin(self) -> None:
        """Begin a turn; an assistant turn is one step, whose first call must be signed."""
        self._unsigned = self._traits.needs_signatures

    def spell(self, placed: Placed) -> tuple[BlockKind, bytes]:
        """Spell the turn's next part."""
        part = placed.content
        match part:
            case Text(text):
                return BlockKind.TEXT, _text(text, self._own(part.signature, part.model))
            case ToolCall():
                signature = self._own(part.signature, part.model)
                if self._unsigned and not signature:
                    signature = DUMMY_SIGNATURE
                self._unsigned = False
                return BlockKind.TOOL_CALL, _function_call(part, self._id(part), placed.field, signature)
            case ToolResult():
                return BlockKind.TOOL_RESULT, self._function_response(part, placed.field)
            case Thinking(text=text, signature=signature):
                content = b'{"text":%b,"thought":true,"thoughtSignature":%b}'
                return BlockKind.THINKING, content % (quoted(text), quoted(signature))
            case Image():
                return BlockKind.IMAGE, _inline(part, placed.field)
            case Document():
                return BlockKind.DOCUMENT, _inline(part, placed.field)

    def _id(self, part: ToolCall) -> str:
        """A call's id as it goes to Gemini: its own calls go back by the id it gave them (G-FC, 2026-11)."""
        if AGAIN not in part.id or not part.model or not same_model(part.model, self._model):
            return part.id
        given = self._given[part.id] = given_id(part.id, self._names)
        return given

    def _own(self, signature: str, model: str) -> str:
        return signature if signature and same_model(model, self._model) else ""

    def _function_response(self, part: ToolResult, field: str) -> bytes:
        texts = [inner.text for inner in part.content if isinstance(inner, Text)]
        inlined = [
            self._result_media(inner, f"{field}.tool_result.content[{index}]")
            for index, inner in enumerate(part.content)
            if not isinstance(inner, Text)
        ]
        name = part.name or self._names[part.call_id]
        # "output" and "error" are the keys Gemini reads as result and failure (G-SDK types, 2026-11)
        content = b'{"functionResponse":{"id":%b,"name":%b,"response":{"%b":%b}%b}}'
        return content % (
            quoted(self._given.get(part.call_id, part.call_id)),
            quoted(name),
            b"error" if part.is_error else b"output",
            quoted("\n".join(texts)),
            b',"parts":[%b]' % b",".join(inlined) if inlined else b"",
        )

    def _result_media(self, part: Image | Document, field: str) -> bytes:
        if not self._traits.takes_media_results:
            raise InvalidRequest(field, f"{self._model} takes only text in tool results")
        return _inline(part, field)


def _text(text: str, signature: str = "") -> bytes:
    if signature:
        return b'{"text":%b,"thoughtSignature":%b}' % (quoted(text), quoted(signature))
    return b'{"text":%b}' % quoted(text)


def _function_call(part: ToolCall, id_: str, field: str, signature: str) -> bytes:
    arguments = b"{}"
    if part.arguments_json:
        arguments = json_object(part.arguments_json, f"{field}.tool_call.arguments_json")
    content = b'{"functionCall":{"id":%b,"name":%b,"args":%b}%b}'
    signed = b',"thoughtSignature":' + quoted(signature) if signature else b""
    return content % (quoted(id_), quoted(part.name), arguments, signed)


def _inline(part: Image | Document, field: str) -> bytes:
    """Spell media by value; a document's title has no counterpart and is left out."""
    kind, accepted = ("image", IMAGE_TYPES) if isinstance(part, Image) else ("document", DOCUMENT_TYPES)
    if part.media_type not in accepted:
        raise InvalidRequest(
            f"{field}.{kind}.media_type", f"Gemini takes no {kind} of type {part.media_type!r}"
        )
    return b'{"inlineData":{"mimeType":%b,"data":%b}}' % (quoted(part.media_type), base64_quoted(part.data))


@lru_cache(maxsize=256)
def _response_schema(text: str) -> tuple[bytes, str]:
    """Bytes of a schema and their digest; an application's schema repeats. What Gemini does not know in it, it
    passes over.

    Raises:
        InvalidRequest: It is not one JSON object, or says more beside a `$ref`, which Gemini does not take
            (G-SDK, GenerateContentConfig.response_json_schema, 2026-11).
    """
    field = "output_schema_json"
    content, digest = schema_object(text, field)
    try:
        mixed = _mixed_reference(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidRequest(field, f"must be one JSON object: {error}") from error
    except RecursionError as error:
        raise InvalidRequest(field, "is nested too deeply") from error
    if mixed:
        raise InvalidRequest(field, f"sets {mixed!r} beside a $ref; Gemini takes a $ref alone")
    return content, digest


def _mixed_reference(node: object, *, named: bool = False) -> str:
    """A key that stands beside a `$ref`, "" when there is none. `named` objects hold schemas by name."""
    if isinstance(node, list):
        return next(filter(None, map(_mixed_reference, node)), "")
    if not isinstance(node, dict):
        return ""
    if "$ref" in node and not named:
        return next((key for key in node if not key.startswith("$")), "")
    for key, child in node.items():
        if named or key not in _VALUES:
            found = _mixed_reference(child, named=not named and key in _NAMED_SCHEMAS)
            if found:
                return found
    return ""


def _parameters(call: Call, traits: Traits, store: bool | None) -> tuple[bytes, PromptParameters]:
    """Spell what is not content; return it with what of it changes what the model reads."""
    fields: list[bytes] = []
    keys: list[str] = []
    choice = call.tool_choice
    if call.tools and choice.mode in _MODES:
        mode = _MODES[choice.mode]
        mode = mode % quoted(choice.name) if choice.mode is ToolChoiceMode.TOOL else mode
        fields.append(b',"toolConfig":{"functionCallingConfig":{%b}}' % mode)
        keys.append(f"tool_choice={mode.decode()}")
    config = [b'"maxOutputTokens":%d' % call.max_output_tokens]
    if call.stop_sequences:
        config.append(b'"stopSequences":[%b]' % b",".join(map(quoted, call.stop_sequences)))
    digest = ""
    if call.output_schema_json:
        schema, digest = _response_schema(call.output_schema_json)
        config.append(b'"responseMimeType":"application/json","responseJsonSchema":' + schema)
    thinking: list[bytes] = []
    effort = traits.effort(call.effort)
    if effort is not None:
        thinking.append(traits.thinking_field(effort))
        keys.append(f"effort={effort.value}")
    if call.include_thinking:
        thinking.append(b'"includeThoughts":true')
    if thinking:
        config.append(b'"thinkingConfig":{%b}' % b",".join(thinking))
    fields.append(b',"generationConfig":{%b}' % b",".join(config))
    if store is not None:
        fields.append(b',"store":true' if store else b',"store":false')
    if not digest and not keys:
        return b"".join(fields), _NO_PARAMETERS
    return b"".join(fields), PromptParameters(
        everywhere=f"format={digest}" if digest else "", messages=";".join(keys)
    )
