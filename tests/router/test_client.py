"""The client without a server: requests as they are spelled, errors as they are read, and what is tried again."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import errors as server_errors
from router import status
from router.client import (
    Conflict,
    Conversation,
    DeadlineExceeded,
    Exhausted,
    Fields,
    Finished,
    InvalidRequest,
    NotFound,
    Refused,
    ServerFault,
    Settings,
    TextDelta,
    Unavailable,
    Violation,
    assistant,
    document,
    image,
    text_of,
    tool,
    tool_calls,
    tool_result,
    user,
)
from router.client.errors import DETAILS_KEY, REQUEST_ID_KEY, CallFailed, failure_of
from router.client.events import event_of
from router.client.requests import costs_request, open_request, request_of
from router.client.settings import service_config, stream_wait_s
from router.v1 import (
    accounting_pb2,
    content_pb2,
    feedback_service_pb2,
    operator_service_pb2,
    router_service_pb2,
    routing_pb2,
    session_service_pb2,
)

ALLOWED = {"grpc", "google", "router", "typing_extensions"}


def test_importing_the_client_loads_grpc_and_protobuf_and_nothing_of_the_server() -> None:
    """A caller pays neither the SDKs' start nor scikit-learn's memory, and drags no part of the service along."""
    report = (
        "import sys, grpc, google.protobuf; before = set(sys.modules); import router.client;"
        "print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = ran.stdout.split()
    assert "router.client.aio" in loaded
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - ALLOWED
    assert foreign == set()
    parts = ("router.client", "router.v1", "google.protobuf", "google.rpc", "google._upb", "grpc")
    ours = [name for name in loaded if name.split(".")[0] in ALLOWED and name not in ("router", "google")]
    assert [name for name in ours if not name.startswith(parts) and name != "typing_extensions"] == []


class TestRequests:
    """Keywords are fields of the contract."""

    def request(self, messages: object = "Hello", **fields: object) -> router_service_pb2.GenerateRequest:
        return request_of(router_service_pb2.GenerateRequest, messages, {}, fields)

    def test_every_field_of_the_contract_has_a_keyword(self) -> None:
        """A field that is added to the protos is missed here until the client can set it."""
        spelled = {"output_schema_json": "output_schema", "forced_route": "route", "messages": None}
        fields = {
            spelled.get(field.name, field.name)
            for kind in (router_service_pb2.Prompt, router_service_pb2.Caller, routing_pb2.Constraints)
            for field in kind.DESCRIPTOR.fields
        }
        assert fields - {None} == set(Fields.__annotations__)

    def test_every_keyword_sets_its_own_field(self) -> None:
        """What was said is what is sent, under the same name."""
        made = self.request(
            application="support",
            system="Be brief.",
            tools=[tool("find", "Find it.", {"type": "object", "properties": {}})],
            user_context=["Plan: enterprise.", "Zone: Oslo."],
            tool_choice=content_pb2.ToolChoice(mode=content_pb2.ToolChoice.MODE_NONE),
            max_output_tokens=7,
            stop_sequences=["END"],
            effort="xhigh",
            output_schema={"type": "object", "required": ["b", "a"]},
            include_thinking=True,
            cache_strategy="c",
            session_version=0,
            tenant="acme",
            user="u-1",
            session="s-1",
            labels={"team": "legal"},
            action="open",
            route="opus",
            quality_floor=0.9,
            cost_ceiling_nano_usd=5,
            no_cache=True,
            expected_follow_up_count=0,
            no_fallback=True,
            no_exploration=True,
            no_escalation=True,
        )
        assert made == router_service_pb2.GenerateRequest(
            prompt=router_service_pb2.Prompt(
                application="support",
                system=["Be brief."],
                tools=[
                    content_pb2.Tool(
                        name="find",
                        description="Find it.",
                        input_schema_json='{"type":"object","properties":{}}',
                    )
                ],
                user_context=["Plan: enterprise.", "Zone: Oslo."],
                messages=[user("Hello")],
                tool_choice=content_pb2.ToolChoice(mode=content_pb2.ToolChoice.MODE_NONE),
                max_output_tokens=7,
                stop_sequences=["END"],
                effort=content_pb2.EFFORT_XHIGH,
                output_schema_json='{"type":"object","required":["b","a"]}',
                include_thinking=True,
                cache_strategy=accounting_pb2.CACHE_STRATEGY_C,
                session_version=0,
            ),
            caller=router_service_pb2.Caller(
                tenant="acme", user="u-1", session="s-1", labels={"team": "legal"}, action="open"
            ),
            constraints=routing_pb2.Constraints(
                forced_route=routing_pb2.ROUTE_OPUS,
                quality_floor=0.9,
                cost_ceiling_nano_usd=5,
                no_cache=True,
                expected_follow_up_count=0,
                no_fallback=True,
                no_exploration=True,
                no_escalation=True,
            ),
        )

    def test_what_is_not_said_is_not_set(self) -> None:
        """The server's defaults apply, and an optional field that is 0 is told from one that is absent."""
        made = self.request()
        assert made.prompt == router_service_pb2.Prompt(messages=[user("Hello")])
        assert not made.prompt.HasField("session_version")
        assert made.constraints.ByteSize() == made.caller.ByteSize() == 0
        assert self.request(session_version=0).prompt.HasField("session_version")

    def test_messages_are_taken_in_every_shape(self) -> None:
        """A string is what the user says, a list keeps its order, a conversation is its messages."""
        chat = Conversation([user("One"), assistant("Two"), user("Three")])
        expected = [user("One"), assistant("Two"), user("Three")]
        assert list(self.request("One").prompt.messages) == [user("One")]
        assert list(self.request(user("One")).prompt.messages) == [user("One")]
        assert list(self.request(["One", assistant("Two"), "Three"]).prompt.messages) == expected
        assert list(self.request(chat).prompt.messages) == expected

    def test_the_clients_own_keywords_hold_unless_a_call_gives_its_own(self) -> None:
        """So a service names its application and tenant once."""
        defaults: Fields = {"application": "support", "tenant": "acme", "route": "opus"}
        made = request_of(
            router_service_pb2.StreamGenerateRequest, "Hi", defaults, {"tenant": "b", "route": "flash"}
        )
        assert (made.prompt.application, made.caller.tenant) == ("support", "b")
        assert made.constraints.forced_route == routing_pb2.ROUTE_FLASH

    def test_a_whole_request_goes_out_as_it_is(self) -> None:
        """Defaults do not touch it, and keywords beside it are refused rather than ignored."""
        whole = self.request(route="opus", tenant="own")
        made = request_of(router_service_pb2.ExplainRequest, whole, {"tenant": "acme"}, {})
        assert (made.prompt, made.caller, made.constraints) == (whole.prompt, whole.caller, whole.constraints)
        with pytest.raises(TypeError, match="takes no keywords, got tenant"):
            request_of(router_service_pb2.ExplainRequest, whole, {}, {"tenant": "acme"})

    @pytest.mark.parametrize(
        ("fields", "error", "says"),
        [
            ({"temperature": 1}, TypeError, "unknown keywords: temperature"),
            ({"route": "haiku"}, ValueError, "'haiku' is none of flash, opus"),
            ({"effort": "unspecified"}, ValueError, "none of low, medium, high, xhigh, max"),
            ({"cache_strategy": "d"}, ValueError, "none of none, a, b, c, auto"),
        ],
    )
    def test_what_cannot_be_spelled_is_refused_here(
        self, fields: dict[str, object], error: type[Exception], says: str
    ) -> None:
        """A typing mistake costs no round trip and says what would be right."""
        with pytest.raises(error, match=says):
            self.request(**fields)

    def test_costs_are_asked_for_by_name_and_instant(self) -> None:
        """Every dimension of the contract has its name; a time without a zone is nobody's."""
        values = operator_service_pb2.CostDimension.DESCRIPTOR.values
        names = [each.name.removeprefix("COST_DIMENSION_").lower() for each in values]
        rest = {"label_key": "", "start": None, "end": None, "tenant": "", "application": ""}
        assert [costs_request(name, **rest).dimension for name in ["total", *names[1:]]] == list(
            range(len(names))
        )
        noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
        made = costs_request("day", **(rest | {"start": noon, "end": noon + timedelta(days=1)}))
        assert (made.start_time.ToSeconds(), made.end_time.ToSeconds()) == (1795348800, 1795435200)
        with pytest.raises(ValueError, match="start has no time zone"):
            costs_request("day", **(rest | {"start": noon.replace(tzinfo=None)}))

    def test_a_session_is_opened_for_the_clients_tenant_unless_another_is_named(self) -> None:
        """The client's own keywords hold here, too."""
        made = open_request(
            session="s",
            user_context="One block.",
            messages=[user("Hello")],
            idle_ttl_s=1.5,
            defaults={"tenant": "acme", "application": "support", "route": "opus"},
            given={"tenant": None, "application": "other", "user": "u"},
        )
        assert made == session_service_pb2.OpenSessionRequest(
            session="s",
            application="other",
            tenant="acme",
            user="u",
            user_context=["One block."],
            messages=[user("Hello")],
            idle_ttl={"seconds": 1, "nanos": 500_000_000},
        )


def parts_of_answers() -> st.SearchStrategy[content_pb2.Part]:
    """Parts as a model may answer them, with what must survive."""
    words = st.text(max_size=20)
    return st.one_of(
        st.builds(lambda text, sign: content_pb2.Part(text={"text": text, "signature": sign}), words, words),
        st.builds(
            lambda text, sign, redacted: content_pb2.Part(
                thinking={"model": "m", "text": text, "signature": sign, "redacted": redacted}
            ),
            words,
            words,
            st.booleans(),
        ),
        st.builds(
            lambda name, sign: content_pb2.Part(
                tool_call={"id": name, "name": name, "arguments_json": '{"b":1, "a":2}', "signature": sign}
            ),
            words,
            words,
        ),
    )


class TestConversation:
    """What the caller holds."""

    @given(st.lists(parts_of_answers(), min_size=1, max_size=5))
    def test_an_answer_is_kept_to_the_byte(self, parts: list[content_pb2.Part]) -> None:
        """Thinking, signatures and the key order of arguments go back as they came."""
        answer = router_service_pb2.Answer(parts=parts)
        chat = Conversation()
        chat.say("Hello")
        chat.add(Finished(answer, accounting_pb2.Accounting(), 0))
        assert chat.messages[-1].role == content_pb2.ROLE_ASSISTANT
        kept = [part.SerializeToString(deterministic=True) for part in chat.messages[-1].parts]
        assert kept == [part.SerializeToString(deterministic=True) for part in parts]
        assert [call.id for call in chat.open_calls] == [call.id for call in tool_calls(answer)]

    def test_open_calls_are_answered_together_before_the_next_word(self) -> None:
        """Every call of an answer is answered in the next message, or no model takes the conversation."""
        calls = [content_pb2.ToolCallPart(id=name, name="find", arguments_json="{}") for name in "ab"]
        chat = Conversation([user("Find both")])
        chat.add(router_service_pb2.Answer(parts=[content_pb2.Part(tool_call=call) for call in calls]))
        with pytest.raises(ValueError, match="2 tool calls wait for results"):
            chat.say("And?")
        first = tool_result(calls[0], "found")
        for wrong in ((first,), (first, first), (first, tool_result("c")), ()):
            with pytest.raises(ValueError, match="2 open tool calls need one result each"):
                chat.answer_calls(*wrong)
        assert len(chat.messages) == 2
        chat.answer_calls(tool_result("b", is_error=True), first)
        assert chat.open_calls == []
        assert chat.messages[-1] == content_pb2.Message(
            role=content_pb2.ROLE_USER,
            parts=[
                content_pb2.Part(tool_result={"tool_call_id": "b", "is_error": True}),
                content_pb2.Part(
                    tool_result={
                        "tool_call_id": "a",
                        "content": [content_pb2.Part(text=content_pb2.TextPart(text="found"))],
                    }
                ),
            ],
        )

    def test_an_empty_answer_leaves_no_empty_message(self) -> None:
        """A refusal without content would be refused as history."""
        chat = Conversation([user("Hello")])
        chat.add(router_service_pb2.Answer(finish_reason=content_pb2.FINISH_REASON_REFUSAL))
        assert chat.messages == [user("Hello")]

    def test_parts_and_texts_mix(self) -> None:
        """Images and documents by value, beside words; text_of reads the words only."""
        made = user("See", image("image/png", b"\x89"), document("application/pdf", b"%", "Lease"))
        assert [part.WhichOneof("kind") for part in made.parts] == ["text", "image", "document"]
        assert made.parts[2].document.title == "Lease"
        answer = router_service_pb2.Answer(
            parts=[content_pb2.Part(thinking={"text": "hm"}), *user("One ", "two").parts]
        )
        assert text_of(answer) == "One two"


class TestErrors:
    """From status to type."""

    @pytest.mark.parametrize(
        ("raised", "kind"),
        [
            (server_errors.InvalidRequest("prompt.messages", "is empty"), InvalidRequest),
            (server_errors.NotFound("application", "x"), NotFound),
            (server_errors.NoRoute("none"), Refused),
            (server_errors.Conflict("moved on"), Conflict),
            (server_errors.BudgetExceeded("spent"), Exhausted),
            (server_errors.Overloaded(3, 0.25), Exhausted),
            (server_errors.DeadlineTooShort(0.01, 0.1), DeadlineExceeded),
            (server_errors.LedgerUnavailable("full"), Unavailable),
            (server_errors.RouterError("odd"), ServerFault),
        ],
    )
    def test_what_the_server_says_is_what_the_caller_reads(
        self, raised: server_errors.RouterError, kind: type[CallFailed]
    ) -> None:
        """Code, reason and request id survive the wire, and every kind of error has a class of its own."""
        said = status.status_of(raised, request_id="r-1")
        error = failure_of(said.code, said.details, said.trailing_metadata, "sent")
        assert type(error) is kind
        assert (error.code, error.reason, error.request_id) == (said.code, raised.reason, "r-1")
        assert error.message == str(raised)
        assert raised.reason in str(error)
        assert "r-1" in str(error)

    def test_details_are_read(self) -> None:
        """The field that is wrong, the wait that helps, and the facts."""
        said = status.status_of(server_errors.InvalidRequest("prompt.messages[0].role", "is not set"))
        error = failure_of(said.code, said.details, said.trailing_metadata, "sent")
        assert error.violations == (Violation("prompt.messages[0].role", "is not set"),)
        assert error.retry_delay_s is None
        assert error.request_id == "sent"
        said = status.status_of(server_errors.Overloaded(3, 0.25))
        assert failure_of(said.code, said.details, said.trailing_metadata, "").retry_delay_s == 0.25
        said = status.incident_status("beef", request_id="r-2")
        error = failure_of(said.code, said.details, said.trailing_metadata, "")
        assert (type(error), error.facts["incident"]) == (ServerFault, "beef")

    @pytest.mark.parametrize("metadata", [(), ((DETAILS_KEY, b"\xff\xff\xff"),), ((DETAILS_KEY, b""),)])
    def test_an_error_without_readable_details_is_still_one(self, metadata: object) -> None:
        """A proxy's status has none: code and message suffice."""
        error = failure_of(grpc.StatusCode.UNAVAILABLE, "no healthy upstream", metadata, "r-3")
        assert type(error) is Unavailable
        assert (error.reason, error.violations, error.retry_delay_s) == ("", (), None)
        assert str(error) == "UNAVAILABLE: no healthy upstream [request r-3]"

    def test_no_code_is_left_without_a_class(self) -> None:
        """Every code but OK has one; those of the server's table have one that says more than "fault"."""
        made = {code: type(failure_of(code, "", (), "")) for code in grpc.StatusCode}
        assert all(issubclass(kind, CallFailed) for kind in made.values())
        vague = {code for code in set(status.STATUS.values()) if made[code] is ServerFault}
        assert vague == {grpc.StatusCode.INTERNAL}

    def test_both_ends_name_the_request_id_alike(self) -> None:
        """The client cannot import the server's constant; this holds them together."""
        assert REQUEST_ID_KEY == status.REQUEST_ID_KEY


class TestRetries:
    """What is tried again, and when."""

    def test_the_channel_retries_methods_that_exist(self) -> None:
        """A misspelt method would silently never be retried; opening and closing a session never are."""
        (methods,) = service_config(Settings(attempt_limit=3))["methodConfig"]
        assert methods["retryPolicy"]["maxAttempts"] == 3
        assert methods["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
        known = {
            (service.full_name, method.name)
            for file in (router_service_pb2, session_service_pb2, operator_service_pb2, feedback_service_pb2)
            for service in file.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }
        named = {(each["service"], each["method"]) for each in methods["name"]}
        assert named <= known
        assert {method for _, method in named} == {
            "Generate",
            "Explain",
            "GetSession",
            "GetCosts",
            "SubmitFeedback",
        }

    def test_one_attempt_means_no_retry(self) -> None:
        """The switch for callers who would rather fail than perhaps pay twice."""
        assert "methodConfig" not in service_config(Settings(attempt_limit=1))

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"timeout_s": 0}, "timeout_s must be positive"),
            ({"attempt_limit": 6}, "1 to 5"),
            ({"attempt_limit": 0}, "1 to 5"),
            ({"backoff_s": 6}, "at most backoff_limit_s"),
            ({"keepalive_s": 29}, "at least 30"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, changes: dict[str, float], says: str) -> None:
        """Where they are made, not at the first call."""
        with pytest.raises(ValueError, match=says):
            Settings(**changes)

    @given(
        failed=st.integers(1, 6),
        remaining_s=st.floats(0, 200),
        draw=st.floats(0, 1, exclude_max=True),
        asked_s=st.none() | st.floats(0, 20),
    )
    def test_a_stream_waits_as_asked_within_its_bounds(
        self, failed: int, remaining_s: float, draw: float, asked_s: float | None
    ) -> None:
        """At least what the server asks, never past the deadline, never more tries than allowed."""
        settings = Settings()
        error = Unavailable(grpc.StatusCode.UNAVAILABLE, "", retry_delay_s=asked_s)
        wait_s = stream_wait_s(
            error, failed_count=failed, remaining_s=remaining_s, settings=settings, draw=draw
        )
        backoff_s = min(settings.backoff_s * 2 ** (failed - 1), settings.backoff_limit_s)
        longest_s = max(asked_s or 0.0, backoff_s * 1.2)
        if wait_s is None:
            assert (
                failed >= settings.attempt_limit
                or (asked_s or 0.0) > settings.retry_wait_limit_s
                or longest_s >= remaining_s
            )
        else:
            assert failed < settings.attempt_limit
            assert max(asked_s or 0.0, backoff_s * 0.8) <= wait_s <= longest_s
            assert wait_s < remaining_s

    @pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "UNAVAILABLE"])
    def test_nothing_else_is_tried_again(self, code: grpc.StatusCode) -> None:
        """Even when it comes with a wait: what may have been billed is the caller's to repeat."""
        error = failure_of(code, "", (), "")
        error.retry_delay_s = 0.1
        assert stream_wait_s(error, failed_count=1, remaining_s=9, settings=Settings(), draw=0.5) is None


def test_event_kinds_of_a_later_server_are_passed_over() -> None:
    """The contract asks for it; what is known is still told."""
    assert event_of(router_service_pb2.StreamGenerateResponse()) is None
    assert event_of(router_service_pb2.StreamGenerateResponse(delta={"part_index": 1})) is None
    known = router_service_pb2.StreamGenerateResponse(delta={"part_index": 1, "text": "a"})
    assert event_of(known) == TextDelta(1, "a")


def test_an_enums_number_is_no_name() -> None:
    """Names are taken, and what is none is answered with those there are."""
    with pytest.raises(ValueError, match="2 is none of flash, opus"):
        request_of(router_service_pb2.GenerateRequest, "hi", {}, {"route": 2})  # type: ignore[typeddict-item]


def test_an_empty_application_of_a_session_is_none_of_the_clients() -> None:
    """Like a request's: "" is an answer, None leaves the client's own."""
    made = open_request(
        session="s",
        user_context=(),
        messages=[],
        idle_ttl_s=None,
        defaults={"tenant": "acme", "application": "support"},
        given={"tenant": None, "application": "", "user": None},
    )
    assert (made.tenant, made.application, made.user) == ("acme", "", "")
