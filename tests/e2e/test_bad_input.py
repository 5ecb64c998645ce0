"""What a client gets for a request that cannot be served: code, field, value, limit; and the server lives on."""

from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, ResourceInfo

from router.config import ServerConfig
from router.v1 import content_pb2, routing_pb2
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import assistant, config, generate, prose, tool_call, tool_result, user
from tests.e2e.service import TIMEOUT_S, Service, detail, serving, status_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = '{"type":"object"}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Service]:
    """One router for the whole table: what one bad request leaves behind is met by the next."""
    async with serving() as running:
        yield running


@pytest.fixture
def _nothing_sent(service: Service) -> Iterator[None]:
    """No provider is called and nothing is booked for a request that is refused."""
    before = len(service.invoice), service.ledger.stats().intents
    yield
    assert (len(service.invoice), service.ledger.stats().intents) == before


def plain() -> pb.GenerateRequest:
    """A good request without an application, which brings its own tools."""
    return generate(user("Which tickets are overdue?"), application="")


def changed(change: Callable[[pb.GenerateRequest], object]) -> pb.GenerateRequest:
    """A good request made bad."""
    request = plain()
    change(request)
    return request


def tools(*named: tuple[str, str]) -> Callable[[pb.GenerateRequest], object]:
    """Give the request these tools: (name, schema)."""
    made = [content_pb2.Tool(name=name, input_schema_json=schema) for name, schema in named]
    return lambda request: request.prompt.tools.extend(made)


def put(path: str, value: object) -> Callable[[pb.GenerateRequest], object]:
    """Set a scalar field, e.g. "prompt.effort"; enums take unknown numbers."""

    def change(request: pb.GenerateRequest) -> None:
        *way, last = path.split(".")
        node = request
        for name in way:
            node = getattr(node, name)
        setattr(node, last, value)

    return change


def talk(*messages: content_pb2.Message) -> Callable[[pb.GenerateRequest], object]:
    """Replace the conversation."""

    def change(request: pb.GenerateRequest) -> None:
        del request.prompt.messages[:]
        request.prompt.messages.extend(messages)

    return change


def labels(**found: str) -> Callable[[pb.GenerateRequest], object]:
    """Set the labels."""
    return lambda request: request.caller.labels.update(found)


def picture(media_type: str, data: bytes = b"x") -> content_pb2.Message:
    """A user message that is one image."""
    image = content_pb2.ImagePart(media_type=media_type, data=data)
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(image=image)])


def nothing(role: int = content_pb2.ROLE_USER) -> content_pb2.Message:
    """A message with one part that holds nothing."""
    return content_pb2.Message(role=role, parts=[content_pb2.Part()])


M0 = "prompt.messages[0]"
BAD: dict[str, tuple[Callable[[pb.GenerateRequest], object], str, tuple[str, ...]]] = {
    "nothing at all": (lambda request: request.Clear(), "prompt.messages", ("empty",)),
    "schema is no JSON": (tools(("a", '{"type":')), "prompt.tools[0].input_schema_json", ("JSON",)),
    "schema is an array": (tools(("a", "[1]")), "prompt.tools[0].input_schema_json", ("object", "array")),
    "schema is null": (tools(("a", "null")), "prompt.tools[0].input_schema_json", ("object", "null")),
    "schema is absurdly deep": (tools(("a", "[" * 20_000)), "prompt.tools[0].input_schema_json", ("JSON",)),
    "tool twice": (tools(("a", SCHEMA), ("a", SCHEMA)), "prompt.tools[1].name", ("'a'", "twice")),
    "tool name with a space": (tools(("a b", SCHEMA)), "prompt.tools[0].name", ("'a b'", "128")),
    "tool name too long": (tools(("a" * 129, SCHEMA)), "prompt.tools[0].name", ("128",)),
    "tool name with a newline": (tools(("a\n", SCHEMA)), "prompt.tools[0].name", ("128",)),
    "tool name empty": (tools(("", SCHEMA)), "prompt.tools[0].name", ("''",)),
    "too many tools": (
        tools(*((f"t{number}", SCHEMA) for number in range(513))),
        "prompt.tools",
        ("513", "512"),
    ),
    "tools beside the application's": (
        lambda request: (put("prompt.application", "desk")(request), tools(("a", SCHEMA))(request)),
        "prompt.tools",
        ("'desk'",),
    ),
    "role unset": (talk(content_pb2.Message(parts=user("x").parts)), f"{M0}.role", ("0", "ROLE_USER")),
    "role unknown": (
        talk(content_pb2.Message(role=77, parts=user("x").parts)),
        f"{M0}.role",
        ("77", "ROLE_USER"),
    ),
    "effort unknown": (put("prompt.effort", 77), "prompt.effort", ("77",)),
    "route unknown": (put("constraints.forced_route", 77), "constraints.forced_route", ("77",)),
    "strategy unknown": (put("prompt.cache_strategy", 77), "prompt.cache_strategy", ("77",)),
    "tool choice unknown": (put("prompt.tool_choice.mode", 77), "prompt.tool_choice.mode", ("77",)),
    "tool choice without tools": (
        put("prompt.tool_choice.mode", 3),
        "prompt.tool_choice.mode",
        ("any", "tools"),
    ),
    "chosen tool not offered": (
        lambda request: (
            tools(("a", SCHEMA))(request),
            request.prompt.tool_choice.MergeFrom(content_pb2.ToolChoice(mode="MODE_TOOL", tool_name="b")),
        ),
        "prompt.tool_choice.tool_name",
        ("'b'",),
    ),
    "tool named without its mode": (
        put("prompt.tool_choice.tool_name", "a"),
        "prompt.tool_choice.tool_name",
        ("MODE_TOOL",),
    ),
    "negative output": (put("prompt.max_output_tokens", -1), "prompt.max_output_tokens", ("-1", "128000")),
    "endless output": (
        put("prompt.max_output_tokens", 128_001),
        "prompt.max_output_tokens",
        ("128001", "128000"),
    ),
    "ceiling of nothing": (
        put("constraints.cost_ceiling_nano_usd", 0),
        "constraints.cost_ceiling_nano_usd",
        ("0",),
    ),
    "negative ceiling": (
        put("constraints.cost_ceiling_nano_usd", -5),
        "constraints.cost_ceiling_nano_usd",
        ("-5",),
    ),
    "floor above one": (
        put("constraints.quality_floor", 1.5),
        "constraints.quality_floor",
        ("1.5", "0 to 1"),
    ),
    "floor is not a number": (
        put("constraints.quality_floor", float("nan")),
        "constraints.quality_floor",
        ("nan", "0 to 1"),
    ),
    "negative follow-ups": (
        put("constraints.expected_follow_up_count", -1),
        "constraints.expected_follow_up_count",
        ("-1", "10000"),
    ),
    "too many labels": (labels(**{f"k{number}": "v" for number in range(17)}), "caller.labels", ("17", "16")),
    "label value too long": (labels(team="x" * 129), "caller.labels['team']", ("129", "128")),
    "label key too long": (labels(**{"k" * 65: "v"}), "caller.labels", ("65", "64")),
    "tenant too long": (put("caller.tenant", "t" * 129), "caller.tenant", ("129", "128")),
    "session too long": (put("caller.session", "t" * 129), "caller.session", ("129", "128")),
    "action too long": (put("caller.action", "t" * 65), "caller.action", ("65", "64")),
    "prefilled answer": (
        talk(user("x"), assistant("It is")),
        "prompt.messages[1].role",
        ("ROLE_ASSISTANT", "prefill"),
    ),
    "assistant speaks first": (talk(assistant("Hi"), user("x")), f"{M0}.role", ("ROLE_USER",)),
    "unanswered tool call": (
        talk(user("x"), tool_call("c1", "a"), user("and?")),
        "prompt.messages[1]",
        ("'c1'", "result"),
    ),
    "answer to no call": (
        talk(user("x"), assistant("y"), tool_result("c9", "z")),
        "prompt.messages[2].parts[0].tool_result.tool_call_id",
        ("'c9'",),
    ),
    "answer too late": (
        talk(user("x"), tool_call("c1", "a"), tool_result("c1", "z"), assistant("y"), tool_result("c1", "z")),
        "prompt.messages[4].parts[0].tool_result.tool_call_id",
        ("'c1'",),
    ),
    "tool call id used twice": (
        talk(
            user("x"),
            tool_call("c1", "a"),
            tool_result("c1", "z"),
            tool_call("c1", "a"),
            tool_result("c1", "z"),
        ),
        "prompt.messages[3]",
        ("'c1'", "twice"),
    ),
    "tool arguments are no object": (
        talk(user("x"), tool_call("c1", "a", "[1]"), tool_result("c1", "z")),
        "prompt.messages[1].parts[0].tool_call.arguments_json",
        ("object",),
    ),
    "tool call by the user": (
        talk(content_pb2.Message(role=content_pb2.ROLE_USER, parts=tool_call("c1", "a").parts)),
        f"{M0}.parts[0].tool_call",
        ("assistant",),
    ),
    "empty text": (talk(user("")), f"{M0}.parts[0].text.text", ("white space",)),
    "blank text": (talk(user(" \n\t")), f"{M0}.parts[0].text.text", ("white space",)),
    "message without parts": (
        talk(content_pb2.Message(role=content_pb2.ROLE_USER)),
        f"{M0}.parts",
        ("empty",),
    ),
    "part without content": (talk(nothing()), f"{M0}.parts[0]", ("text",)),
    "blank system": (lambda request: request.prompt.system.append(" "), "prompt.system[0]", ("white space",)),
    "blank context": (
        lambda request: request.prompt.user_context.append(""),
        "prompt.user_context[0]",
        ("white space",),
    ),
    "image of an unknown type": (
        talk(picture("image/tiff")),
        f"{M0}.parts[0].image.media_type",
        ("image/tiff", "image/png"),
    ),
    "image without bytes": (talk(picture("image/png", b"")), f"{M0}.parts[0].image.data", ("empty",)),
    "image too large": (
        talk(picture("image/png", bytes((5 << 20) + 1))),
        f"{M0}.parts[0].image.data",
        (str((5 << 20) + 1), str(5 << 20)),
    ),
    "too many stop sequences": (
        lambda request: request.prompt.stop_sequences.extend("abcdef"),
        "prompt.stop_sequences",
        ("6", "5"),
    ),
    "blank stop sequence": (
        lambda request: request.prompt.stop_sequences.append(" "),
        "prompt.stop_sequences[0]",
        ("white",),
    ),
    "output schema is no object": (
        put("prompt.output_schema_json", "3"),
        "prompt.output_schema_json",
        ("object", "number"),
    ),
}


@pytest.mark.usefixtures("_nothing_sent")
@pytest.mark.parametrize("name", BAD)
async def test_a_wrong_field_is_named_with_value_and_limit(service: Service, name: str) -> None:
    """INVALID_ARGUMENT; the message and google.rpc.BadRequest name path, value and limit."""
    change, field, words = BAD[name]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.generate(changed(change))
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    status = status_of(error)
    assert status.message == error.details()
    violation = detail(status, BadRequest).field_violations[0]
    assert violation.field == field
    assert error.details() == f"{violation.field}: {violation.description}"
    assert [word for word in words if word not in violation.description] == []
    assert detail(status, ErrorInfo).reason == "INVALID_REQUEST"
    assert detail(status, ErrorInfo).domain == "hybrid-router"


@pytest.mark.usefixtures("_nothing_sent")
@pytest.mark.parametrize("name", ["nothing at all", "prefilled answer", "floor above one"])
async def test_streams_and_explanations_refuse_alike(service: Service, name: str) -> None:
    """One check serves the three RPCs."""
    for ask in (service.stream, service.explain):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(changed(BAD[name][0]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert detail(status_of(caught.value), BadRequest).field_violations[0].field == BAD[name][1]


@pytest.mark.usefixtures("_nothing_sent")
async def test_an_unknown_application_is_not_found(service: Service) -> None:
    """NOT_FOUND with the name that was asked for and the names there are."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.generate(generate(user("x"), application="desk-2"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "'desk-2'" in caught.value.details()
    assert "desk" in caught.value.details().split("registered:")[1]
    resource = detail(status_of(caught.value), ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("application", "desk-2")


async def test_a_message_too_large_is_refused_by_its_size() -> None:
    """RESOURCE_EXHAUSTED from the transport, before anything is decoded; the next request is served."""
    limit = 1 << 16
    async with serving(
        config(server=ServerConfig(listen="127.0.0.1:0", message_bytes_limit=limit))
    ) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.generate(generate(user("x" * (limit + 1))))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(limit) in caught.value.details()
        await service.generate(generate(user("And now?")))


@pytest.mark.usefixtures("_nothing_sent")
async def test_a_prompt_no_model_holds_is_refused(service: Service) -> None:
    """Longer than every context window: FAILED_PRECONDITION that says how long and how long it may be; not sent."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.generate(generate(user(prose("Fact", 130_000))))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION, caught.value.details()
    assert "tokens" in caught.value.details()


@pytest.mark.usefixtures("_nothing_sent")
@pytest.mark.parametrize("timeout_s", [0.05, 0.1])
async def test_too_little_time_is_refused_before_money_is_spent(service: Service, timeout_s: float) -> None:
    """A deadline no provider can meet: DEADLINE_EXCEEDED, and nobody was called."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.generate(generate(user("Quick!")), timeout_s=timeout_s)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.usefixtures("_nothing_sent")
async def test_a_ceiling_below_every_route_says_what_it_would_take(service: Service) -> None:
    """RESOURCE_EXHAUSTED with a QuotaFailure: waiting does not help, and nothing was spent."""
    request = plain()
    request.constraints.cost_ceiling_nano_usd = 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.generate(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(status_of(caught.value), ErrorInfo).reason == "BUDGET_EXCEEDED"


async def test_the_server_lives_on_and_quotes_the_callers_request_id(service: Service) -> None:
    """After the whole table, the same server still answers; an error carries the id the caller chose."""
    for change, _, _ in BAD.values():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.router.Generate(
                changed(change), timeout=TIMEOUT_S, metadata=(("x-request-id", "my-id"),)
            )
        assert detail(status_of(caught.value), RequestInfo).request_id == "my-id"
    billed = len(service.invoice)
    response = await service.generate(plain())
    assert response.decision.route in (routing_pb2.ROUTE_FLASH, routing_pb2.ROUTE_OPUS)
    assert len(service.invoice) == billed + 1


@pytest.mark.usefixtures("_nothing_sent")
@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff rubbish", b"\x0a\x7f", b"\x0a\x04\x0a\x02\xff\xfe"],
    ids=["rubbish", "truncated", "a string that is no UTF-8"],
)
@pytest.mark.parametrize("method", ["Generate", "Explain"])
async def test_bytes_that_are_no_message_are_refused_with_details(
    service: Service, method: str, data: bytes
) -> None:
    """A broken client of any language gets INVALID_ARGUMENT with details, not gRPC's bare UNKNOWN."""
    call = service.channel.unary_unary(f"/router.v1.RouterService/{method}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(data, timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(status_of(caught.value), BadRequest).field_violations[0].field == "request"
    assert f"{len(data)} bytes" in caught.value.details()
