"""From the wire to a Request: every limit of the contract is checked here, naming field, value and limit.

The rule: what passes is complete and acceptable to at least one upstream's grammar, and nothing is repaired
silently. Limits are constants with their reason; which model takes which parameter is the adapters' to say.
"""

from collections.abc import Iterable, Sequence

import msgspec

from classifier.route import Route
from router.applications import Application, Applications
from router.call import (
    Call,
    Document,
    Effort,
    Identity,
    Image,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolResult,
)
from router.errors import InvalidRequest
from router.held_session import MESSAGE_OVERHEAD_BYTES, Held, byte_count_of
from router.request import Demands, Request
from router.sampling import Past
from router.tool_schema import fault_of, is_tool_name, kind_of
from router.v1 import accounting_pb2, content_pb2, router_service_pb2, routing_pb2, session_service_pb2

MESSAGE_LIMIT = 100_000
"""Messages per request (A-ERR, 2026-11)."""
TOOL_LIMIT = 512
"""Tools per request; far above what models use well."""
STOP_SEQUENCE_LIMIT = 5
"""Gemini takes at most 5 (G-GEN, 2026-11)."""
STOP_SEQUENCE_CHARACTER_LIMIT = 256
OUTPUT_TOKEN_LIMIT = 128_000
"""Largest answer of any configured model (A-MODELS, 2026-11)."""
IDENTIFIER_CHARACTER_LIMIT = 128
LABEL_LIMIT = 16
LABEL_KEY_CHARACTER_LIMIT = 64
LABEL_VALUE_CHARACTER_LIMIT = 128
ACTION_CHARACTER_LIMIT = 64
FOLLOW_UP_LIMIT = 10_000
IMAGE_BYTE_LIMIT = 5 << 20
DOCUMENT_BYTE_LIMIT = 20 << 20
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
DOCUMENT_TYPES = frozenset({"application/pdf", "text/plain"})

_ROLES = {content_pb2.ROLE_USER: Role.USER, content_pb2.ROLE_ASSISTANT: Role.ASSISTANT}
_EFFORTS = {
    content_pb2.EFFORT_UNSPECIFIED: None,
    content_pb2.EFFORT_LOW: Effort.LOW,
    content_pb2.EFFORT_MEDIUM: Effort.MEDIUM,
    content_pb2.EFFORT_HIGH: Effort.HIGH,
    content_pb2.EFFORT_XHIGH: Effort.XHIGH,
    content_pb2.EFFORT_MAX: Effort.MAX,
}
_MODES = {
    content_pb2.ToolChoice.MODE_UNSPECIFIED: ToolChoiceMode.AUTO,
    content_pb2.ToolChoice.MODE_AUTO: ToolChoiceMode.AUTO,
    content_pb2.ToolChoice.MODE_NONE: ToolChoiceMode.NONE,
    content_pb2.ToolChoice.MODE_ANY: ToolChoiceMode.ANY,
    content_pb2.ToolChoice.MODE_TOOL: ToolChoiceMode.TOOL,
}
_ROUTES = {
    routing_pb2.ROUTE_UNSPECIFIED: None,
    routing_pb2.ROUTE_FLASH: Route.FLASH,
    routing_pb2.ROUTE_OPUS: Route.OPUS,
}
_STRATEGIES = {
    accounting_pb2.CACHE_STRATEGY_UNSPECIFIED: "",
    accounting_pb2.CACHE_STRATEGY_NONE: "none",
    accounting_pb2.CACHE_STRATEGY_A: "a",
    accounting_pb2.CACHE_STRATEGY_B: "b",
    accounting_pb2.CACHE_STRATEGY_C: "c",
    accounting_pb2.CACHE_STRATEGY_AUTO: "auto",
}

_DEFAULT_CHOICE = ToolChoice()

AnyRequest = (
    router_service_pb2.GenerateRequest
    | router_service_pb2.StreamGenerateRequest
    | router_service_pb2.ExplainRequest
)


def request_from_proto(
    proto: AnyRequest, applications: Applications, request_id: str, held: Held | None = None
) -> Request:
    """Check a request and give it the router's own form.

    Args:
        held: Session that the request is a turn of: its application, user and user context hold where the request
            gives none, and its history comes before the messages.

    Raises:
        InvalidRequest: A field is missing, malformed or out of its range.
        NotFound: The application is not registered.
    """
    prompt = proto.prompt
    if held is not None:
        _check_layers_are_held(prompt, held)
    application = applications.get(
        _identifier("prompt.application", prompt.application, IDENTIFIER_CHARACTER_LIMIT)
        if held is None
        else held.application
    )
    tools = _tools(prompt.tools, application)
    demands = _demands(proto.constraints)
    context = _texts("prompt.user_context", prompt.user_context)
    call = Call(
        identity=_identity(proto.caller, application.name, request_id, "" if held is None else held.user),
        tools=tools,
        system=application.system + _texts("prompt.system", prompt.system),
        context=context if context or held is None else held.context,
        messages=_messages(prompt.messages)
        if held is None
        else held.messages + _turn_messages(prompt.messages, held),
        tool_choice=_tool_choice(prompt.tool_choice, tools)
        if prompt.HasField("tool_choice")
        else _DEFAULT_CHOICE,
        max_output_tokens=_max_output_tokens(prompt.max_output_tokens, application),
        stop_sequences=_stop_sequences(prompt.stop_sequences),
        effort=_enum("prompt.effort", prompt.effort, _EFFORTS, content_pb2.Effort),
        output_schema_json=_schema("prompt.output_schema_json", prompt.output_schema_json),
        include_thinking=prompt.include_thinking,
        cache_allowed=not proto.constraints.no_cache,
    )
    return Request(
        call=call,
        application=application,
        demands=demands,
        action=_identifier("caller.action", proto.caller.action, ACTION_CHARACTER_LIMIT),
        strategy=_enum(
            "prompt.cache_strategy", prompt.cache_strategy, _STRATEGIES, accounting_pb2.CacheStrategy
        ),
    )


def opened_from_proto(
    proto: session_service_pb2.OpenSessionRequest,
    applications: Applications,
    *,
    session: str,
    idle_ttl_s: float,
    idle_ttl_limit_s: float,
    message_limit: int,
    now_s: float,
) -> Held:
    """Check what a session is opened with.

    Args:
        session: Id to use when the request gives none.
        idle_ttl_s: How long it is kept when unused, if the request does not say.

    Raises:
        InvalidRequest: A field is malformed or out of its range.
        NotFound: The application is not registered.
    """
    name = _identifier("application", proto.application, IDENTIFIER_CHARACTER_LIMIT)
    if proto.HasField("idle_ttl"):
        idle_ttl_s = proto.idle_ttl.seconds + proto.idle_ttl.nanos / 1e9
        if not 0 < idle_ttl_s <= idle_ttl_limit_s:
            raise InvalidRequest(
                "idle_ttl", f"is {idle_ttl_s:g} s; it must be over 0 and at most {idle_ttl_limit_s:g} s"
            )
    if len(proto.messages) > message_limit:
        raise InvalidRequest(
            "messages", f"has {len(proto.messages)} entries; a session holds at most {message_limit}"
        )
    try:
        messages = tuple([_message(index, message) for index, message in enumerate(proto.messages)])
        if messages:
            _check_begins_with_user(messages)
            _check_tool_pairing(messages)
    except InvalidRequest as error:  # a session is no prompt
        raise InvalidRequest(error.field.removeprefix("prompt."), error.problem) from None
    context = _texts("user_context", proto.user_context)
    return Held(
        tenant=_identifier("tenant", proto.tenant, IDENTIFIER_CHARACTER_LIMIT),
        session=_identifier("session", proto.session, IDENTIFIER_CHARACTER_LIMIT) or session,
        application=applications.get(name).name,
        user=_identifier("user", proto.user, IDENTIFIER_CHARACTER_LIMIT),
        context=context,
        messages=messages,
        byte_count=byte_count_of(context)
        + sum([message.ByteSize() + MESSAGE_OVERHEAD_BYTES for message in proto.messages]),
        created_s=now_s,
        used_s=now_s,
        idle_ttl_s=idle_ttl_s,
        past=Past().with_messages(messages),
    )


def _check_layers_are_held(prompt: router_service_pb2.Prompt, held: Held) -> None:
    """A turn brings no layer that its session holds."""
    if prompt.application and prompt.application != held.application:
        raise InvalidRequest(
            "prompt.application",
            f"is {prompt.application[:80]!r}, and the session was opened with {held.application!r}; leave it empty",
        )
    for field, given in (("system", prompt.system), ("tools", prompt.tools)):
        if given:
            problem = "is given by the application the session was opened with; leave it empty"
            if not held.application:
                problem = "a held session without an application has none; register one, or send whole conversations"
            raise InvalidRequest(f"prompt.{field}", problem)


def _turn_messages(protos: Sequence[content_pb2.Message], held: Held) -> tuple[Message, ...]:
    """The new turn of a held session: only the user's, and results for all calls of the last answer."""
    if not protos:
        raise InvalidRequest("prompt.messages", "is empty; at least one user message is needed")
    messages = tuple([_message(index, proto) for index, proto in enumerate(protos)])
    open_calls = held.open_calls()
    for index, message in enumerate(messages):
        if message.role is not Role.USER:
            raise InvalidRequest(
                f"prompt.messages[{index}].role",
                "is ROLE_ASSISTANT; the server holds this session and its answers: send only the new turn",
            )
        for position, part in enumerate(message.parts):
            if isinstance(part, ToolResult):
                if part.call_id not in open_calls:
                    raise InvalidRequest(
                        f"prompt.messages[{index}].parts[{position}].tool_result.tool_call_id",
                        f"{part.call_id[:80]!r} answers no open call of the session's last answer",
                    )
                open_calls.remove(part.call_id)
    if open_calls:
        raise InvalidRequest(
            "prompt.messages",
            f"tool call {open_calls[0][:80]!r} of the session's last answer has no result in this turn; "
            "every call needs one before anything else is said",
        )
    return messages


def _identity(
    caller: router_service_pb2.Caller, application: str, request_id: str, user: str = ""
) -> Identity:
    told = caller.labels
    labels = {key: told[key] for key in told}  # dict(told) takes twice as long
    if len(labels) > LABEL_LIMIT:
        raise InvalidRequest("caller.labels", f"has {len(labels)} entries; at most {LABEL_LIMIT} are allowed")
    for key, value in labels.items():
        if not 0 < len(key) <= LABEL_KEY_CHARACTER_LIMIT:
            raise InvalidRequest(
                "caller.labels",
                f"key {key[:80]!r} has {len(key)} characters; 1 to {LABEL_KEY_CHARACTER_LIMIT} are allowed",
            )
        if len(value) > LABEL_VALUE_CHARACTER_LIMIT or not (key.isprintable() and value.isprintable()):
            _identifier("caller.labels", key, LABEL_KEY_CHARACTER_LIMIT)
            _identifier(f"caller.labels[{key!r}]", value, LABEL_VALUE_CHARACTER_LIMIT)
    return Identity(
        request_id=request_id,
        tenant=_identifier("caller.tenant", caller.tenant, IDENTIFIER_CHARACTER_LIMIT),
        application=application,
        user=_identifier("caller.user", caller.user, IDENTIFIER_CHARACTER_LIMIT) or user,
        session=_identifier("caller.session", caller.session, IDENTIFIER_CHARACTER_LIMIT),
        labels=labels,
    )


def _demands(constraints: routing_pb2.Constraints) -> Demands:
    floor = constraints.quality_floor if constraints.HasField("quality_floor") else None
    if floor is not None and not 0.0 <= floor <= 1.0:
        raise InvalidRequest("constraints.quality_floor", f"is {floor:g}; it must be from 0 to 1")
    ceiling = constraints.cost_ceiling_nano_usd if constraints.HasField("cost_ceiling_nano_usd") else None
    if ceiling is not None and ceiling <= 0:
        raise InvalidRequest("constraints.cost_ceiling_nano_usd", f"is {ceiling}; it must be greater than 0")
    follow_ups = (
        constraints.expected_follow_up_count if constraints.HasField("expected_follow_up_count") else None
    )
    if follow_ups is not None and not 0 <= follow_ups <= FOLLOW_UP_LIMIT:
        raise InvalidRequest(
            "constraints.expected_follow_up_count", f"is {follow_ups}; it must be from 0 to {FOLLOW_UP_LIMIT}"
        )
    return Demands(
        forced_route=_enum("constraints.forced_route", constraints.forced_route, _ROUTES, routing_pb2.Route),
        quality_floor=floor,
        cost_ceiling_nano_usd=ceiling,
        expected_follow_ups=follow_ups,
        fallback_allowed=not constraints.no_fallback,
        exploration_allowed=not constraints.no_exploration,
        escalation_allowed=not constraints.no_escalation,
    )


def _max_output_tokens(value: int, application: Application) -> int:
    if not 0 <= value <= OUTPUT_TOKEN_LIMIT:
        raise InvalidRequest(
            "prompt.max_output_tokens",
            f"is {value}; it must be from 1 to {OUTPUT_TOKEN_LIMIT}, or 0 for the application's default",
        )
    return value or application.max_output_tokens


def _stop_sequences(values: Sequence[str]) -> tuple[str, ...]:
    if len(values) > STOP_SEQUENCE_LIMIT:
        raise InvalidRequest(
            "prompt.stop_sequences", f"has {len(values)} entries; at most {STOP_SEQUENCE_LIMIT} are allowed"
        )
    for index, value in enumerate(values):
        field = f"prompt.stop_sequences[{index}]"
        if not value.strip():
            raise InvalidRequest(field, "holds only white space; the providers refuse that")
        _bounded(field, value, STOP_SEQUENCE_CHARACTER_LIMIT)
    return tuple(values)


def _tools(protos: Sequence[content_pb2.Tool], application: Application) -> tuple[Tool, ...]:
    if not protos:
        return application.tools
    if application.tools:
        raise InvalidRequest(
            "prompt.tools", f"application {application.name!r} brings its own tools; send one or the other"
        )
    if len(protos) > TOOL_LIMIT:
        raise InvalidRequest("prompt.tools", f"has {len(protos)} entries; at most {TOOL_LIMIT} are allowed")
    tools = []
    seen: set[str] = set()
    for index, proto in enumerate(protos):
        field = f"prompt.tools[{index}]"
        if not is_tool_name(proto.name):
            raise InvalidRequest(
                f"{field}.name",
                f"{proto.name[:140]!r} must be 1 to 128 letters, digits, '_' or '-', and begin with a letter or '_'",
            )
        if proto.name in seen:
            raise InvalidRequest(f"{field}.name", f"{proto.name!r} is used twice")
        seen.add(proto.name)
        schema = proto.input_schema_json or '{"type":"object"}'
        if fault := fault_of(schema):
            raise InvalidRequest(f"{field}.input_schema_json", fault)
        tools.append(Tool(proto.name, proto.description, schema))
    return tuple(tools)


def _tool_choice(proto: content_pb2.ToolChoice, tools: tuple[Tool, ...]) -> ToolChoice:
    mode = _enum("prompt.tool_choice.mode", proto.mode, _MODES, content_pb2.ToolChoice.Mode)
    if mode in (ToolChoiceMode.ANY, ToolChoiceMode.TOOL) and not tools:
        raise InvalidRequest("prompt.tool_choice.mode", f"{mode.value!r} needs tools; the request has none")
    if mode is ToolChoiceMode.TOOL:
        if not any(tool.name == proto.tool_name for tool in tools):
            raise InvalidRequest(
                "prompt.tool_choice.tool_name", f"{proto.tool_name[:140]!r} is not among the tools"
            )
    elif proto.tool_name:
        raise InvalidRequest("prompt.tool_choice.tool_name", "is only allowed with MODE_TOOL")
    return ToolChoice(mode, proto.tool_name, proto.disable_parallel)


def _messages(protos: Sequence[content_pb2.Message]) -> tuple[Message, ...]:
    if not protos:
        raise InvalidRequest("prompt.messages", "is empty; at least one user message is needed")
    if len(protos) > MESSAGE_LIMIT:
        raise InvalidRequest(
            "prompt.messages", f"has {len(protos)} entries; at most {MESSAGE_LIMIT} are allowed"
        )
    messages = tuple([_message(index, proto) for index, proto in enumerate(protos)])
    _check_begins_with_user(messages)
    if messages[-1].role is not Role.USER:
        raise InvalidRequest(
            f"prompt.messages[{len(messages) - 1}].role",
            "is ROLE_ASSISTANT; a request ends with ROLE_USER (the models take no prefilled answer)",
        )
    _check_tool_pairing(messages)
    return messages


def _check_begins_with_user(messages: tuple[Message, ...]) -> None:
    if messages[0].role is not Role.USER:
        raise InvalidRequest(
            "prompt.messages[0].role", "is ROLE_ASSISTANT; a conversation begins with ROLE_USER"
        )


def _message(index: int, proto: content_pb2.Message) -> Message:
    role = _ROLES.get(proto.role)
    if role is None:
        raise InvalidRequest(
            f"prompt.messages[{index}].role",
            f"is {proto.role}; it must be ROLE_USER ({1}) or ROLE_ASSISTANT ({2})",
        )
    parts = proto.parts
    if not parts:
        raise InvalidRequest(f"prompt.messages[{index}].parts", "is empty; at least one part is needed")
    if len(parts) == 1:  # most messages are one part
        return Message(role, (_part(index, 0, parts[0], role),))
    return Message(role, tuple([_part(index, position, part, role) for position, part in enumerate(parts)]))


def _part(message: int, position: int, proto: content_pb2.Part, role: Role) -> Part:
    kind = proto.WhichOneof("kind")
    if kind == "text":  # Most parts are; a field is spelled out only when there is something to say about it.
        words = proto.text
        text, signature = words.text, words.signature
        # A signature may stand on empty text: a model's token that belongs to no words.
        if (not text or text.isspace()) and not signature:
            raise InvalidRequest(
                f"prompt.messages[{message}].parts[{position}].text.text",
                "holds only white space; the providers refuse that",
            )
        return Text(text, signature, words.model)
    field = f"prompt.messages[{message}].parts[{position}]"
    match kind:
        case "tool_call":
            _require_role(field, kind, role, Role.ASSISTANT)
            return _tool_call(f"{field}.tool_call", proto.tool_call)
        case "tool_result":
            _require_role(field, kind, role, Role.USER)
            return _tool_result(f"{field}.tool_result", proto.tool_result)
        case "thinking":
            _require_role(field, kind, role, Role.ASSISTANT)
            if not proto.thinking.model:
                raise InvalidRequest(
                    f"{field}.thinking.model", "is empty; only the model that made it can read it"
                )
            return Thinking(
                proto.thinking.model, proto.thinking.text, proto.thinking.signature, proto.thinking.redacted
            )
        case "image":
            _require_role(field, kind, role, Role.USER)
            return _image(f"{field}.image", proto.image)
        case "document":
            _require_role(field, kind, role, Role.USER)
            return _document(f"{field}.document", proto.document)
        case _:
            raise InvalidRequest(
                field, "has no content; set one of text, image, document, tool_call, tool_result, thinking"
            )


def _require_role(field: str, kind: str, role: Role, wanted: Role) -> None:
    if role is not wanted:
        raise InvalidRequest(f"{field}.{kind}", f"is only allowed in messages of role {wanted.value}")


def _tool_call(field: str, proto: content_pb2.ToolCallPart) -> ToolCall:
    if not proto.id:
        raise InvalidRequest(f"{field}.id", "is empty")
    _bounded(f"{field}.id", proto.id, IDENTIFIER_CHARACTER_LIMIT)
    if not is_tool_name(proto.name):
        raise InvalidRequest(f"{field}.name", f"{proto.name[:140]!r} is not a tool name")
    arguments = _schema(f"{field}.arguments_json", proto.arguments_json) or "{}"
    return ToolCall(proto.id, proto.name, arguments, proto.signature, proto.model)


def _tool_result(field: str, proto: content_pb2.ToolResultPart) -> ToolResult:
    if not proto.tool_call_id:
        raise InvalidRequest(f"{field}.tool_call_id", "is empty")
    content: list[Text | Image | Document] = []
    for index, part in enumerate(proto.content):
        where = f"{field}.content[{index}]"
        match part.WhichOneof("kind"):
            case "text":
                # Unlike a message's text, a tool may truthfully have printed nothing.
                content.append(Text(part.text.text))
            case "image":
                content.append(_image(f"{where}.image", part.image))
            case "document":
                content.append(_document(f"{where}.document", part.document))
            case other:
                raise InvalidRequest(
                    where, f"is {other or 'empty'}; a tool result holds text, image or document parts"
                )
    return ToolResult(proto.tool_call_id, tuple(content), "", proto.is_error)


def _image(field: str, proto: content_pb2.ImagePart) -> Image:
    if proto.media_type not in IMAGE_TYPES:
        raise InvalidRequest(
            f"{field}.media_type",
            f"{proto.media_type[:80]!r} must be one of {', '.join(sorted(IMAGE_TYPES))}",
        )
    _check_bytes(f"{field}.data", proto.data, IMAGE_BYTE_LIMIT)
    return Image(proto.media_type, proto.data)


def _document(field: str, proto: content_pb2.DocumentPart) -> Document:
    if proto.media_type not in DOCUMENT_TYPES:
        raise InvalidRequest(
            f"{field}.media_type",
            f"{proto.media_type[:80]!r} must be one of {', '.join(sorted(DOCUMENT_TYPES))}",
        )
    _check_bytes(f"{field}.data", proto.data, DOCUMENT_BYTE_LIMIT)
    if proto.media_type == "text/plain":
        try:
            proto.data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{field}.data", f"is not UTF-8 at byte {error.start}") from None
    return Document(proto.media_type, proto.data, proto.title)


def _check_bytes(field: str, data: bytes, limit: int) -> None:
    if not data:
        raise InvalidRequest(field, "is empty")
    if len(data) > limit:
        raise InvalidRequest(field, f"has {len(data)} bytes; at most {limit} are allowed")


def _check_tool_pairing(messages: tuple[Message, ...]) -> None:
    """Every call is answered in the next user turn, every result answers a call of the turn before (A-TOOLS)."""
    open_calls: dict[str, str] = {}
    seen: set[str] = set()
    for index, message in enumerate(messages):
        if message.role is Role.ASSISTANT:
            for part in message.parts:
                if isinstance(part, ToolCall):
                    field = f"prompt.messages[{index}]"
                    if part.id in seen:
                        raise InvalidRequest(
                            field, f"tool call id {part.id[:80]!r} is used twice in the conversation"
                        )
                    seen.add(part.id)
                    open_calls[part.id] = field
            continue
        for position, part in enumerate(message.parts):
            if isinstance(part, ToolResult) and open_calls.pop(part.call_id, None) is None:
                raise InvalidRequest(
                    f"prompt.messages[{index}].parts[{position}].tool_result.tool_call_id",
                    f"{part.call_id[:80]!r} answers no open call of the message before",
                )
        following = messages[index + 1] if index + 1 < len(messages) else None
        if open_calls and (following is None or following.role is Role.ASSISTANT):
            call_id, where = next(iter(open_calls.items()))
            raise InvalidRequest(
                where,
                f"tool call {call_id[:80]!r} has no result in the next user message; every call needs one",
            )


def _schema(field: str, text: str) -> str:
    """Check that `text` is empty or a JSON object; its bytes are kept as they are."""
    if not text:
        return ""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(field, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(field, f"must be a JSON object, not {kind_of(value)}")
    return text


def _texts(field: str, values: Iterable[str]) -> tuple[str, ...]:
    texts = tuple(values)
    for index, text in enumerate(texts):
        if _is_blank(text):
            raise InvalidRequest(f"{field}[{index}]", "holds only white space; the providers refuse that")
    return texts


def _is_blank(text: str) -> bool:
    """Whether nothing but white space is in it; told at the first letter, without copying a long text."""
    return not text or text.isspace()


def _identifier(field: str, text: str, limit: int) -> str:
    """Check a name that goes into the ledger, labels and tables as it is."""
    if len(text) <= limit and text.isprintable():
        return text
    if not text.isprintable():
        raise InvalidRequest(field, f"{text[:80]!r} holds a character that cannot be printed")
    return _bounded(field, text, limit)


def _bounded(field: str, text: str, limit: int) -> str:
    if len(text) > limit:
        raise InvalidRequest(field, f"has {len(text)} characters; at most {limit} are allowed")
    return text


def _enum(field: str, value: int, table: dict, kind: object):  # type: ignore[no-untyped-def, type-arg]
    if value not in table:
        names = ", ".join(kind.keys())  # type: ignore[attr-defined]
        raise InvalidRequest(field, f"is {value}, which this release does not know; known: {names}")
    return table[value]
