"""From the wire to a Request: whatever bytes a client sends, the answer is a Request or an error that names a field.

Requests are drawn in two ways: any message the schema allows, and good requests with something arbitrary merged in,
so that the checks behind the first one are reached too.
"""

import json
from collections.abc import Callable

import httpx2
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.route import Route
from router.applications import Applications
from router.call import Effort, Role, Text, ToolCall, ToolChoiceMode, ToolResult
from router.config import ApplicationConfig, ToolConfig
from router.convert_request import request_from_proto
from router.errors import InvalidRequest, NotFound, NotSupported
from router.request import Request
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.gemini import GeminiUpstream
from router.v1 import content_pb2, router_service_pb2, routing_pb2

APPLICATIONS = Applications(
    {
        "desk": ApplicationConfig(
            system=("Be brief.",), tools=(ToolConfig(name="find"),), max_output_tokens=77, cache_strategy="a"
        )
    }
)
WORDS = st.sampled_from(
    [
        *(
            "",
            " ",
            "desk",
            "find",
            "c1",
            "c2",
            "image/png",
            "text/plain",
            "application/pdf",
            "hello",
            "\x00",
            "é😀",
        ),
        *(
            '{"type":"object"}',
            "{}",
            "[]",
            "null",
            '{"a":',
            "3",
            '"x"',
            "[" * 3000,
            "x" * 129,
            "claude-opus-5-5",
        ),
    ]
)
NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 7, 100, 2**31 - 1, -(2**31)])


def messages_of(descriptor: Descriptor, depth: int = 5) -> st.SearchStrategy:
    """Any message of a type: every field present or not, enums with numbers nobody defined, values at the edges."""

    def fill(chosen: dict) -> object:
        message = GetMessageClass(descriptor)()
        for field, value in chosen.items():
            _set(message, field, value)
        return message

    optional = {
        field.name: st.deferred(lambda field=field: _values(field, depth)) for field in descriptor.fields
    }
    return st.fixed_dictionaries({}, optional=optional).map(fill)


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return st.dictionaries(WORDS, WORDS, max_size=18)
    if field.message_type is not None:
        one = (
            messages_of(field.message_type, depth - 1)
            if depth
            else st.just(GetMessageClass(field.message_type)())
        )
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        one = st.binary(max_size=4) if field.type == FieldDescriptor.TYPE_BYTES else WORDS
    elif field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        one = st.sampled_from([0.0, 0.5, 1.0, 1.5, -0.1, float("nan"), float("inf")])
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        one = st.booleans()
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        one = st.integers(min_value=0, max_value=9)
    else:
        one = NUMBERS
    return st.lists(one, max_size=4) if field.is_repeated else one


def _set(message: object, name: str, value: object) -> None:
    field = message.DESCRIPTOR.fields_by_name[name]
    if isinstance(value, dict):
        getattr(message, name).update(value)
    elif field.is_repeated:
        getattr(message, name).extend(value)
    elif field.message_type is not None:
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


ANY = messages_of(router_service_pb2.GenerateRequest.DESCRIPTOR)


def good() -> router_service_pb2.GenerateRequest:
    """A request nobody refuses, with a tool loop in it."""
    return router_service_pb2.GenerateRequest(
        prompt=router_service_pb2.Prompt(
            messages=[
                content_pb2.Message(role="ROLE_USER", parts=[_text("Sum up account A-17.")]),
                content_pb2.Message(
                    role="ROLE_ASSISTANT",
                    parts=[content_pb2.Part(tool_call=content_pb2.ToolCallPart(id="c1", name="find"))],
                ),
                content_pb2.Message(
                    role="ROLE_USER",
                    parts=[
                        content_pb2.Part(
                            tool_result=content_pb2.ToolResultPart(
                                tool_call_id="c1", content=[_text("12 EUR")]
                            )
                        )
                    ],
                ),
            ],
            tools=[content_pb2.Tool(name="find", input_schema_json='{"type": "object", "b":1,  "a":2}')],
        )
    )


def _text(text: str) -> content_pb2.Part:
    return content_pb2.Part(text=content_pb2.TextPart(text=text))


def merged(request: router_service_pb2.GenerateRequest) -> router_service_pb2.GenerateRequest:
    """A good request with an arbitrary one merged into it."""
    result = good()
    result.MergeFrom(request)
    return result


@st.composite
def one_part_changed(draw: st.DrawFn) -> router_service_pb2.GenerateRequest:
    """A good conversation in which one part, or one message, is replaced by any other."""
    request = good()
    index = draw(st.integers(min_value=0, max_value=2))
    if draw(st.booleans()):
        request.prompt.messages[index].parts[0].CopyFrom(draw(messages_of(content_pb2.Part.DESCRIPTOR, 3)))
    else:
        request.prompt.messages[index].CopyFrom(draw(messages_of(content_pb2.Message.DESCRIPTOR, 3)))
    return request


@pytest.fixture(scope="module")
def upstreams():
    """Both adapters, for what they can spell; they never send."""
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda request: httpx2.Response(500)))
    return (
        AnthropicUpstream(model="claude-opus-5-5", api_key="k", http_client=client),
        GeminiUpstream(model="gemini-3.8-flash", api_key="k", http_client=client),
    )


@settings(max_examples=200)
@given(request=ANY | ANY.map(merged) | one_part_changed())
def test_any_message_is_a_request_or_a_named_error(request, upstreams):
    """Never anything but Request, InvalidRequest and NotFound; what passes can be spelled or is refused by a field."""
    before = request.SerializeToString(deterministic=True)
    found = outcome(lambda: request_from_proto(request, APPLICATIONS, "id-1"), InvalidRequest, NotFound)
    assert request.SerializeToString(deterministic=True) == before
    match found:
        case InvalidRequest():
            assert found.field.split(".")[0] in ("prompt", "caller", "constraints"), found
            assert found.problem
            assert len(str(found)) < 700, "fits a status, whatever was sent"
        case NotFound():
            assert found.name == request.prompt.application
        case Request(call=call):
            assert call.messages[0].role is call.messages[-1].role is Role.USER
            assert 1 <= call.max_output_tokens <= 128_000
            for upstream in upstreams:
                rendered = outcome(
                    lambda upstream=upstream: upstream.render(call), InvalidRequest, NotSupported
                )
                assert isinstance(rendered, Exception) or rendered.prompt.blocks
        case _:
            raise AssertionError(found)


def outcome(work: Callable[[], object], *expected: type[Exception]) -> object:
    """What `work` returns, or the expected exception it raises."""
    try:
        return work()
    except expected as error:
        return error


def test_everything_that_was_sent_arrives():
    """Bytes of schemas and arguments are kept, layers keep their order, and every parameter is there."""
    request = good()
    prompt = request.prompt
    prompt.system.extend(["one", "two"])
    prompt.user_context.append("Ann likes tables.")
    prompt.max_output_tokens = 123
    prompt.stop_sequences.extend(["END", "STOP"])
    prompt.effort = content_pb2.EFFORT_XHIGH
    prompt.output_schema_json = '{"z": 1,"a":{}}'
    prompt.tool_choice.MergeFrom(
        content_pb2.ToolChoice(mode="MODE_TOOL", tool_name="find", disable_parallel=True)
    )
    request.caller.MergeFrom(
        router_service_pb2.Caller(
            tenant="acme", user="u", session="s", labels={"team": "red"}, action="open_page"
        )
    )
    request.constraints.MergeFrom(
        routing_pb2.Constraints(
            forced_route="ROUTE_OPUS",
            quality_floor=0.0,
            cost_ceiling_nano_usd=5,
            expected_follow_up_count=0,
            no_cache=True,
            no_fallback=True,
        )
    )
    checked = request_from_proto(request, APPLICATIONS, "id-1")
    call, demands = checked.call, checked.demands
    assert (call.system, call.context) == (("one", "two"), ("Ann likes tables.",))
    assert call.tools[0].input_schema_json == '{"type": "object", "b":1,  "a":2}'
    assert call.output_schema_json == '{"z": 1,"a":{}}'
    assert (call.max_output_tokens, call.stop_sequences, call.effort) == (123, ("END", "STOP"), Effort.XHIGH)
    assert (call.tool_choice.mode, call.tool_choice.name) == (ToolChoiceMode.TOOL, "find")
    assert call.tool_choice.disable_parallel
    assert not call.cache_allowed
    identity = call.identity
    assert (identity.request_id, identity.tenant, identity.user, identity.session) == (
        "id-1",
        "acme",
        "u",
        "s",
    )
    assert (dict(identity.labels), checked.action) == ({"team": "red"}, "open_page")
    assert demands.forced_route is Route.OPUS
    # Zero that was sent is a demand; only what was left out is none.
    assert (demands.quality_floor, demands.cost_ceiling_nano_usd, demands.expected_follow_ups) == (0.0, 5, 0)
    assert not demands.fallback_allowed
    kinds = [type(part) for message in call.messages for part in message.parts]
    assert kinds == [Text, ToolCall, ToolResult]


def test_what_was_left_out_is_none():
    """Absent demands are None, not 0; absent parameters are the application's or the model's own."""
    request = router_service_pb2.GenerateRequest()
    request.prompt.application = "desk"
    request.prompt.messages.add(role="ROLE_USER").parts.append(_text("Hi"))
    checked = request_from_proto(request, APPLICATIONS, "id-1")
    demands = checked.demands
    assert (demands.forced_route, demands.quality_floor) == (None, None)
    assert (demands.cost_ceiling_nano_usd, demands.expected_follow_ups) == (None, None)
    assert demands.fallback_allowed
    assert (checked.call.effort, checked.call.max_output_tokens, checked.strategy) == (None, 77, "")
    assert checked.call.tools is APPLICATIONS.get("desk").tools


def test_an_applications_system_comes_first():
    """What a caller adds stands behind the shared blocks, so that everyone's prompt opens alike."""
    request = router_service_pb2.GenerateRequest()
    request.prompt.application = "desk"
    request.prompt.system.append("For Ann only.")
    request.prompt.messages.add(role="ROLE_USER").parts.append(_text("Hi"))
    assert request_from_proto(request, APPLICATIONS, "id-1").call.system == ("Be brief.", "For Ann only.")


def test_nested_json_of_any_depth_is_refused_not_crashed_on():
    """A schema nested deeper than a parser follows is bad input like any other."""
    request = good()
    request.prompt.output_schema_json = '{"a":' * 50_000 + "1" + "}" * 50_000
    with pytest.raises(InvalidRequest, match="output_schema_json"):
        request_from_proto(request, APPLICATIONS, "id-1")
    request.prompt.output_schema_json = json.dumps({"type": "object"})
    assert request_from_proto(request, APPLICATIONS, "id-1")
