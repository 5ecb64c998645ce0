"""The runner against a real grpc.aio server with scripted answers: order, tool loops, failures, leaving."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from io import StringIO

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from router import progress
from router.call import Document, Effort, Image, Message, Role, Text, Thinking, Tool, ToolCall, ToolResult
from router.convert_workload import explain_request, generate_request, messages_to_proto
from router.demo import NO_FINISHED, Progress, run_workload
from router.timeline import RequestConstraints, Workload, WorkloadRequest
from router.v1 import accounting_pb2, content_pb2, router_service_pb2, routing_pb2
from router.v1.router_service_pb2_grpc import (
    RouterServiceServicer,
    RouterServiceStub,
    add_RouterServiceServicer_to_server,
)

SECRET = "tell-nobody"


def text_answer(text: str = "fine") -> router_service_pb2.Answer:
    part = content_pb2.Part(text=content_pb2.TextPart(text=text))
    return router_service_pb2.Answer(parts=[part], finish_reason="FINISH_REASON_END_TURN", model="m-1")


def tool_answer(*calls: tuple[str, str]) -> router_service_pb2.Answer:
    parts = [
        content_pb2.Part(tool_call=content_pb2.ToolCallPart(id=id, name=name, arguments_json="{}"))
        for id, name in calls
    ]
    return router_service_pb2.Answer(parts=parts, finish_reason="FINISH_REASON_TOOL_CALL")


def accounting() -> accounting_pb2.Accounting:
    return accounting_pb2.Accounting(
        usage=accounting_pb2.Usage(
            input_tokens=100,
            cache_read_tokens=60,
            cache_write_5m_tokens=10,
            uncached_input_tokens=30,
            output_tokens=5,
            complete=True,
        ),
        cost=accounting_pb2.Cost(total_nano_usd=70, cache_read_nano_usd=20, output_nano_usd=50),
        counterfactuals=accounting_pb2.Counterfactuals(no_caching_nano_usd=90, all_flash_nano_usd=0),
        cache_report=accounting_pb2.CacheReport(
            plan=accounting_pb2.CachePlan(breakpoints=[accounting_pb2.Breakpoint()], expected_read_tokens=64),
            misses=[accounting_pb2.CacheMiss(cause="MISS_CAUSE_TTL_LAPSED", missed_tokens=4)],
        ),
        attempts=[
            accounting_pb2.Attempt(number=1, route="ROUTE_FLASH", outcome="UPSTREAM_OVERLOADED"),
            accounting_pb2.Attempt(number=2, route="ROUTE_OPUS", outcome="ok"),
        ],
        total_nano_usd=75,
        first_byte_duration=Duration(nanos=250_000_000),
        duration=Duration(seconds=1),
    )


DECISION = routing_pb2.Decision(
    route="ROUTE_FLASH",
    reason="DECISION_REASON_SCORE_BELOW_THRESHOLD",
    score=0.0,
    propensity=1.0,
    model="m-0",
)

Script = Callable[[router_service_pb2.Prompt, router_service_pb2.Caller], router_service_pb2.Answer]


class ScriptedRouter(RouterServiceServicer):
    """Answers by a script, and remembers what it was asked and how its streams ended."""

    def __init__(self, script: Script, hold_for: int, when_held: Callable[[], None]) -> None:
        self.script = script
        self.hold_for = hold_for
        self.when_held = when_held
        self.seen: list[router_service_pb2.Prompt] = []
        self.callers: list[router_service_pb2.Caller] = []
        self.in_flight = self.most_in_flight = 0
        self.left = asyncio.Event()
        self.hold = asyncio.Event()

    async def _answer(self, request) -> router_service_pb2.Answer:
        self.seen.append(request.prompt)
        self.callers.append(request.caller)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.in_flight >= self.hold_for and not self.hold.is_set():
                self.when_held()
                self.hold.set()
            await self.hold.wait()
            return self.script(request.prompt, request.caller)
        finally:
            self.in_flight -= 1

    async def Generate(self, request, context):
        try:
            answer = await self._answer(request)
        except LookupError as error:
            info = AnyMessage()
            info.Pack(ErrorInfo(reason=str(error.args[0])))
            status = Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message=SECRET, details=[info])
            await context.abort_with_status(rpc_status.to_status(status))
        return router_service_pb2.GenerateResponse(
            request_id="q-1", decision=DECISION, answer=answer, accounting=accounting()
        )

    async def StreamGenerate(self, request, context):
        event = router_service_pb2.StreamGenerateResponse
        try:
            yield event(decided=router_service_pb2.Decided(request_id="q-2", decision=DECISION))
            answer = await self._answer(request)
            for part in answer.parts:
                yield event(delta=router_service_pb2.ContentDelta(text=part.text.text))
            if answer.finish_reason == content_pb2.FINISH_REASON_OTHER:
                await asyncio.Event().wait()  # never ends on its own
            if answer.finish_reason == content_pb2.FINISH_REASON_PAUSED:
                return
            yield event(finished=router_service_pb2.Finished(answer=answer, accounting=accounting()))
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def Explain(self, request, context):
        raise AssertionError("the runner never asks for an explanation")


@asynccontextmanager
async def serving(script: Script, *, hold_for: int = 1, when_held: Callable[[], None] = lambda: None):
    """Serve; answers wait until `hold_for` requests are in flight, and for a call of `when_held` then."""
    servicer = ScriptedRouter(script, hold_for, when_held)
    server = grpc.aio.server()
    add_RouterServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield RouterServiceStub(channel), servicer
    finally:
        await server.stop(None)


def turn(text: str, **fields) -> WorkloadRequest:
    fields = {"id": text, "continues": True, **fields}
    return WorkloadRequest(messages=(Message(Role.USER, (Text(text),)),), **fields)


def workload(*requests: WorkloadRequest, steps: int = 0) -> Workload:
    return Workload(source="test", format="workload", requests=requests, max_tool_steps=steps)


def spoken(prompt: router_service_pb2.Prompt) -> list[str]:
    return [
        part.text.text or part.WhichOneof("kind") for message in prompt.messages for part in message.parts
    ]


async def test_session_grows_by_the_routers_own_answers():
    """A turn is sent after all turns before it and the answers the router gave them, unchanged."""
    async with serving(lambda prompt, _: text_answer(f"re: {spoken(prompt)[-1]}")) as (stub, servicer):
        await run_workload(
            stub, workload(turn("a", session="s"), turn("b", session="s"), turn("c", session="t"))
        )
    asked = sorted(map(spoken, servicer.seen), key="".join)
    assert asked == [["a"], ["a", "re: a", "b"], ["c"]]


async def test_row_holds_the_bill_and_no_content():
    """Everything the router reports of a call is in its row; prompt and answer are not."""
    async with serving(lambda *_: text_answer(SECRET)) as (stub, _):
        rows = await run_workload(
            stub, workload(turn(SECRET, id="r", user="u", tenant="t", application="app"))
        )
    row = rows[0]
    assert (row.status, row.request_id, row.id, row.user, row.application) == ("OK", "q-1", "r", "u", "app")
    assert (row.route, row.model, row.finish_reason) == ("opus", "m-1", "end_turn")
    assert (row.reason, row.score, row.threshold) == ("score_below_threshold", 0.0, None)
    assert row.tokens == {
        "input": 100,
        "uncached_input": 30,
        "cache_read": 60,
        "cache_write_5m": 10,
        "cache_write_1h": 0,
        "output": 5,
    }
    assert row.cost_nano_usd is not None
    assert (sum(row.cost_nano_usd.values()), row.total_nano_usd, row.hit) == (70, 75, True)
    assert row.counterfactuals_nano_usd == {"no_caching": 90, "all_flash": 0}
    assert row.misses == (("ttl_lapsed", 4, None),)
    assert (row.breakpoint_count, row.expected_read_tokens) == (1, 64)
    assert (row.first_byte_s, row.duration_s) == (0.25, 1.0)
    assert row.attempts == (("flash", "UPSTREAM_OVERLOADED"), ("opus", "ok"))
    assert row.client_total_s is not None
    assert SECRET not in repr(row.to_json())


async def test_tool_calls_are_answered_until_the_model_speaks():
    """Each call gets its canned result in the next message; a tool without one answers with an error."""

    def script(prompt, _):
        steps = sum(message.role == content_pb2.ROLE_ASSISTANT for message in prompt.messages)
        return text_answer() if steps else tool_answer(("c1", "known"), ("c2", "other"))

    async with serving(script) as (stub, servicer):
        request = turn("a", session="s", tool_results={"known": '{"x":1}'})
        rows = await run_workload(stub, workload(request, turn("b", session="s"), steps=3))
    assert [(row.id, row.step) for row in rows] == [("a", 0), ("a", 1), ("b", 0)]
    first, second = (part.tool_result for part in servicer.seen[1].messages[-1].parts)
    assert (first.tool_call_id, first.content[0].text.text, first.is_error) == ("c1", '{"x":1}', False)
    assert (second.tool_call_id, second.is_error) == ("c2", True)
    assert [message.role for message in servicer.seen[2].messages] == [1, 2, 1, 2, 1]


async def test_endless_tool_loop_stops_and_its_open_call_is_answered_with_the_next_turn():
    """After `max_tool_steps` the loop ends; the open call's result then opens the next turn's message."""

    def script(prompt, _):
        return text_answer() if spoken(prompt)[-1] == "b" else tool_answer((f"c{len(prompt.messages)}", "t"))

    async with serving(script) as (stub, servicer):
        rows = await run_workload(stub, workload(turn("a", session="s"), turn("b", session="s"), steps=2))
    assert [(row.id, row.step) for row in rows] == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    last = servicer.seen[-1].messages[-1]
    assert [part.WhichOneof("kind") for part in last.parts] == ["tool_result", "text"]
    assert last.parts[0].tool_result.tool_call_id == servicer.seen[-1].messages[-2].parts[0].tool_call.id


async def test_failed_call_is_a_row_and_its_turn_is_left_out():
    """A failure is counted by status and stable reason, its message is dropped, and the session goes on."""

    def script(prompt, _):
        if spoken(prompt)[-1] == "bad":
            raise LookupError("UPSTREAM_OVERLOADED")
        return text_answer()

    async with serving(script) as (stub, servicer):
        rows = await run_workload(
            stub, workload(turn("a", session="s"), turn("bad", session="s"), turn("c", session="s"))
        )
    assert [row.status for row in rows] == ["OK", "UNAVAILABLE", "OK"]
    assert (rows[1].error_reason, rows[1].total_nano_usd, rows[1].tokens) == (
        "UPSTREAM_OVERLOADED",
        None,
        None,
    )
    assert SECRET not in repr(rows[1])
    assert spoken(servicer.seen[2]) == ["a", "fine", "c"]


async def test_stream_is_read_to_its_bill():
    """A streamed request gives the same row as a unary one, and when its first content came."""
    async with serving(lambda *_: text_answer()) as (stub, _):
        rows = await run_workload(stub, workload(turn("a", stream=True), turn("b")))
    streamed, unary = rows
    assert (streamed.status, streamed.request_id, streamed.route) == ("OK", "q-2", "opus")
    assert streamed.tokens == unary.tokens
    assert streamed.client_first_event_s is not None
    assert unary.client_first_event_s is None


async def test_left_stream_is_cancelled_at_the_server():
    """Leaving after n events ends the RPC for the server, costs nothing known, and is no failure."""
    endless = router_service_pb2.Answer(parts=text_answer().parts, finish_reason="FINISH_REASON_OTHER")
    async with serving(lambda *_: endless) as (stub, servicer):
        rows = await run_workload(stub, workload(turn("a", stream=True, cancel_after_events=2)))
        await asyncio.wait_for(servicer.left.wait(), 5)
    assert (rows[0].status, rows[0].cancelled, rows[0].failed) == ("CANCELLED", True, False)
    assert (rows[0].route, rows[0].known_cost_nano_usd) == ("flash", None)


async def test_stream_that_ends_before_it_is_left_is_answered():
    """A short answer may end before the event at which the client would have left."""
    async with serving(lambda *_: text_answer()) as (stub, _):
        rows = await run_workload(stub, workload(turn("a", stream=True, cancel_after_events=3)))
    assert (rows[0].status, rows[0].cancelled) == ("OK", False)


async def test_stream_without_its_last_event_is_a_failure():
    """A stream that ends in order but without the bill is the server's fault, and counted."""
    cut = router_service_pb2.Answer(parts=text_answer().parts, finish_reason="FINISH_REASON_PAUSED")
    async with serving(lambda *_: cut) as (stub, _):
        rows = await run_workload(stub, workload(turn("a", stream=True)))
    assert (rows[0].status, rows[0].error_reason, rows[0].failed) == ("DATA_LOSS", NO_FINISHED, True)


async def test_requests_in_flight_are_bounded_and_one_per_session():
    """However many are due, at most `concurrency` are in flight, and a session waits for its own answer."""
    requests = [turn(f"{s}{i}", session=s) for i in range(3) for s in "abcdef"]
    async with serving(lambda *_: text_answer(), hold_for=3) as (stub, servicer):
        rows = await run_workload(stub, workload(*requests), concurrency=3)
    assert len(rows) == 18
    assert servicer.most_in_flight == 3
    last = next(prompt for prompt in servicer.seen if spoken(prompt)[-1] == "a2")
    assert spoken(last) == ["a0", "fine", "a1", "fine", "a2"]


async def test_clock_passes_idle_time_only_when_older_calls_have_ended():
    """The clock gets exactly the idle seconds, and never runs more than `overlap_s` ahead of a call."""
    passed: list[float] = []
    passed_in_flight: list[float] = []
    requests = (turn("a"), turn("b", after_s=20.0), turn("c", after_s=400.0))
    async with serving(
        lambda *_: text_answer(), hold_for=2, when_held=lambda: passed_in_flight.extend(passed)
    ) as (stub, _):
        rows = await run_workload(stub, workload(*requests), clock_advance=passed.append, overlap_s=30.0)
    assert passed_in_flight == [20.0]
    assert passed == [20.0, 400.0]
    assert [row.at_s for row in rows] == [0.0, 20.0, 420.0]


async def test_without_a_clock_idle_seconds_are_ignored():
    """Against a router whose time cannot be moved only the order remains: both are in flight at once."""
    async with serving(lambda *_: text_answer(), hold_for=2) as (stub, _):
        rows = await run_workload(stub, workload(turn("a"), turn("b", after_s=4000.0)))
    assert [row.status for row in rows] == ["OK", "OK"]


async def test_whole_conversation_replaces_what_the_session_holds():
    """Recorded messages are sent as they are; the router's own answers do not enter them."""
    whole = turn("new", session="s", continues=False)
    async with serving(lambda *_: text_answer()) as (stub, servicer):
        await run_workload(stub, workload(turn("a", session="s"), whole, turn("b", session="s")))
    assert [spoken(prompt) for prompt in servicer.seen] == [["a"], ["new"], ["new", "fine", "b"]]


async def test_progress_ends_with_all_done_and_sums_what_was_told():
    """The last report counts every request and call, failures apart, and the known cost."""

    def script(prompt, _):
        if spoken(prompt)[-1] == "bad":
            raise LookupError("X")
        return text_answer()

    reports: list[Progress] = []
    seen: list[int] = []
    async with serving(script) as (stub, _):
        await run_workload(
            stub,
            workload(turn("a"), turn("bad"), turn("c")),
            on_progress=reports.append,
            on_row=lambda row: seen.append(row.number),
        )
    assert reports[0] == Progress(total=3)
    assert reports[-1] == Progress(total=3, done=3, calls=3, failed=1, routes={"opus": 2}, cost_nano_usd=150)
    assert sorted(seen) == [1, 2, 3]


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"overlap_s": -1.0}, {"timeout_s": 0.0}])
async def test_arguments_out_of_range_are_refused(options):
    """Nothing is sent with limits that mean nothing."""
    with pytest.raises(ValueError, match="concurrency must be"):
        await run_workload(None, workload(), **options)


class TestRequests:
    def test_every_field_is_spelt(self):
        """What a workload says of a request reaches the wire, and is the same for all three RPCs."""
        request = turn(
            "a",
            session="s",
            tenant="t",
            user="u",
            application="app",
            system=("sys",),
            tools=(Tool("n", "d", "{}"),),
            user_context=("c",),
            max_output_tokens=9,
            effort=Effort.XHIGH,
            cache_strategy="c",
            labels={"k": "v"},
            action="act",
            constraints=RequestConstraints(forced_route="opus", cost_ceiling_nano_usd=7, no_fallback=True),
        )
        proto = generate_request(request, messages_to_proto(request.messages))
        assert (proto.prompt.application, list(proto.prompt.system), proto.prompt.tools[0].name) == (
            "app",
            ["sys"],
            "n",
        )
        assert (proto.prompt.effort, proto.prompt.max_output_tokens) == (content_pb2.EFFORT_XHIGH, 9)
        assert proto.prompt.cache_strategy == accounting_pb2.CACHE_STRATEGY_C
        assert list(proto.prompt.user_context) == ["c"]
        assert (proto.caller.tenant, proto.caller.user, proto.caller.session) == ("t", "u", "s")
        assert (dict(proto.caller.labels), proto.caller.action) == ({"k": "v"}, "act")
        assert (proto.constraints.forced_route, proto.constraints.cost_ceiling_nano_usd) == (
            routing_pb2.ROUTE_OPUS,
            7,
        )
        assert proto.constraints.no_fallback
        assert not proto.constraints.HasField("quality_floor")
        assert explain_request(request, proto.prompt.messages).prompt == proto.prompt

    def test_every_kind_of_part_is_spelt(self):
        """A conversation at rest loses nothing on its way to the wire."""
        parts = (
            Image("image/png", b"i"),
            Document("text/plain", b"d", "title"),
            ToolResult("c", (Text("r"),), is_error=True),
        )
        said = (Thinking("m", "t", "s", redacted=True), ToolCall("c", "n", "{}", "sig", "m"))
        asked, answered = messages_to_proto((Message(Role.USER, parts), Message(Role.ASSISTANT, said)))
        image, document, result = asked.parts
        thinking, call = answered.parts
        assert (image.image.data, document.document.title, result.tool_result.is_error) == (
            b"i",
            "title",
            True,
        )
        assert result.tool_result.content[0].text.text == "r"
        assert (thinking.thinking.signature, thinking.thinking.redacted) == ("s", True)
        assert (call.tool_call.arguments_json, call.tool_call.signature) == ("{}", "sig")


class TestProgress:
    @given(st.integers(1, 300), st.integers(1, 20))
    def test_lines_are_few_and_the_last_is_written(self, total, steps):
        """At most `steps` lines, each further on, the last one when all is done."""
        written: list[str] = []
        update = progress.lines(written.append, steps=steps)
        for done in range(total + 1):
            update(Progress(total=total, done=done))
        assert len(written) <= steps
        assert written[-1].startswith(f"{total}/{total} requests")

    def test_bar_shows_the_figures(self):
        """On a terminal the bar carries the same figures as the lines."""
        out = StringIO()
        with progress.bar(Console(file=out, force_terminal=True, width=100)) as update:
            update(Progress(total=2, done=2, failed=1, routes={"opus": 1}, cost_nano_usd=5))
        assert "opus 1, 1 failed, $0.000000005" in out.getvalue()
