"""The server interceptor over real gRPC on loopback: what callers, spans and metrics see, case by case."""

import asyncio
import logging
import re
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from opentelemetry.trace import get_current_span

from router import attributes as names
from router import interceptors
from router.errors import NotFound, Overloaded, UpstreamInterrupted, UpstreamOverloaded
from router.interceptors import ServerInterceptor, current_request, new_request_id
from router.telemetry import Telemetry, from_environ
from tests.otlp_collector import otlp_collector

SERVICE = "test.v1.Echo"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PROMPT = "my secret prompt"


class Events:
    """What happened inside the handlers, awaited by tests."""

    def __init__(self):
        self.arrivals = asyncio.Queue()
        self.closed = asyncio.Event()
        self.proceed = asyncio.Event()
        self.seen = []
        self.in_flight = lambda: 0

    async def hang(self):
        self.arrivals.put_nowait(None)
        try:
            await self.proceed.wait()
        finally:
            self.closed.set()


def handlers(events):
    """One handler per edge case; messages are bytes."""

    async def echo(request, context):
        events.seen.append((current_request(), get_current_span()))
        return request

    async def aborts(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    async def aborts_internal(request, context):
        await context.abort(grpc.StatusCode.DATA_LOSS, "lost")

    async def sets_code(request, context):
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        context.set_details("not now")
        return b""

    async def sets_int_code(request, context):
        context.set_code(grpc.StatusCode.ALREADY_EXISTS.value[0])
        return b""

    async def refuses(request, context):
        raise NotFound("session", "s-1")

    async def overloaded(request, context):
        raise UpstreamOverloaded("anthropic", "busy", retry_after_s=2.0)

    async def crashes(request, context):
        try:
            raise KeyError(PROMPT)
        except KeyError as error:
            raise ValueError(f"cannot parse {PROMPT}") from error

    async def grouped(request, context):
        async def fail():
            raise NotFound("prefix", "p-1")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async def hangs(request, context):
        await events.hang()

    async def fails_when_left(request, context):
        try:
            await events.hang()
        except asyncio.CancelledError:
            raise NotFound("caller", "gone") from None

    async def yields(request, context):
        for number in range(3):
            events.seen.append((current_request(), get_current_span()))
            yield b"%d" % number

    async def writes(request, context):
        for number in range(3):
            await context.write(b"%d" % number)

    async def yields_then_hangs(request, context):
        yield b"first"
        await events.hang()

    async def floods(request, context):
        try:
            while True:
                yield bytes(200_000)
        finally:
            await asyncio.sleep(0)  # a finally that awaits, as settling does
            events.seen.append((current_request(), events.in_flight()))
            events.closed.set()

    async def yields_then_breaks(request, context):
        yield b"first"
        raise UpstreamInterrupted("anthropic", "connection reset")

    async def yields_then_aborts(request, context):
        yield b"first"
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "no more")

    async def writes_then_aborts(request, context):
        await context.write(b"first")
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "no more")

    async def yields_then_crashes(request, context):
        yield b"first"
        raise ValueError(PROMPT)

    async def writes_then_waits(request, context):
        await context.write(b"first")
        events.arrivals.put_nowait(None)
        await events.proceed.wait()
        await context.write(b"last")

    async def sets_odd_code(request, context):
        context.set_code(grpc.StatusCode.OK)
        return request

    async def adds(requests, context):
        return b"".join([request async for request in requests])

    async def mirrors(requests, context):
        async for request in requests:
            yield request.upper()

    def blocking(request, context):
        return request

    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    return {
        **{
            handler.__name__: unary(handler)
            for handler in (
                echo,
                aborts,
                aborts_internal,
                sets_code,
                sets_int_code,
                sets_odd_code,
                refuses,
                overloaded,
                crashes,
                grouped,
                hangs,
                fails_when_left,
                blocking,
            )
        },
        **{
            handler.__name__: stream(handler)
            for handler in (
                yields,
                writes,
                yields_then_hangs,
                floods,
                yields_then_breaks,
                yields_then_aborts,
                writes_then_aborts,
                yields_then_crashes,
                writes_then_waits,
            )
        },
        "adds": grpc.stream_unary_rpc_method_handler(adds),
        "mirrors": grpc.stream_stream_rpc_method_handler(mirrors),
    }


class World:
    """A served interceptor, a channel to it, and where its spans arrive."""

    def __init__(self, telemetry, collector, interceptor, events, channel, server):
        self.telemetry = telemetry
        self.collector = collector
        self.interceptor = interceptor
        self.events = events
        self.channel = channel
        self.server = server

    def unary(self, method, request=b"x", **options):
        return self.channel.unary_unary(f"/{SERVICE}/{method}")(request, **options)

    def stream(self, method, request=b"x", **options):
        return self.channel.unary_stream(f"/{SERVICE}/{method}")(request, **options)

    async def server_span(self, method):
        """The exported span of the one RPC to `method`."""
        name = f"{SERVICE}/{method}"
        await self.collector.wait_for(lambda: name in [span.name for span in self.collector.spans])
        return self.collector.span(name)

    def rpc_series(self, method):
        """(status code, error type, count) of every duration series of `method`."""
        metric = {each.name: each for each in self.telemetry._metrics.collect()}[
            names.RPC_SERVER_CALL_DURATION
        ]
        return [
            (
                point.attributes[names.RPC_STATUS_CODE],
                point.attributes.get(names.ERROR_TYPE, ""),
                point.count,
            )
            for point in metric.data.data_points
            if point.attributes[names.RPC_METHOD] == f"{SERVICE}/{method}"
        ]


@asynccontextmanager
async def serving(max_in_flight=10, sampler="always_on", **environ):
    events = Events()
    async with otlp_collector() as collector:
        settings = from_environ(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                "OTEL_METRICS_EXPORTER": "otlp",
                "OTEL_TRACES_SAMPLER": sampler,
                "OTEL_BSP_SCHEDULE_DELAY": "5",
                "OTEL_METRIC_EXPORT_INTERVAL": "600000",
                **environ,
            },
            server_address="router.test",
            server_port=443,
        )
        telemetry = Telemetry.build(settings)
        interceptor = ServerInterceptor(telemetry, max_in_flight=max_in_flight)
        events.in_flight = lambda: interceptor.in_flight
        server = grpc.aio.server(interceptors=[interceptor])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers(events)),))
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
        reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield World(telemetry, collector, interceptor, events, channel, server)
        finally:
            await server.stop(0)
            await telemetry.shutdown()


@pytest.fixture
async def world():
    async with serving() as served:
        yield served


async def failure_of(call):
    """The error a call or stream ends with."""

    async def drain():
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drain()
    return caught.value


def reason_of(error):
    """ErrorInfo.reason of a failed call."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return ""


async def test_server_span_is_child_of_the_callers_trace(world):
    """Name, kind, parent and attributes follow the RPC conventions; the scope and resource are ours."""
    await world.unary("echo", metadata=(("traceparent", TRACEPARENT), ("tracestate", "a=1")))
    span = await world.server_span("echo")
    assert (span.trace_id, span.parent_span_id) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
    assert (span.kind, span.status, span.scope) == ("SERVER", "UNSET", "hybrid_router")
    assert span.attributes[names.RPC_SYSTEM] == "grpc"
    assert span.attributes[names.RPC_METHOD] == f"{SERVICE}/echo"
    assert span.attributes[names.RPC_STATUS_CODE] == "OK"
    assert (span.attributes[names.SERVER_ADDRESS], span.attributes[names.SERVER_PORT]) == ("router.test", 443)
    assert span.attributes[names.PEER_ADDRESS] == "127.0.0.1"
    assert span.attributes[names.PEER_PORT] > 0
    assert names.ERROR_TYPE not in span.attributes
    assert span.resource["service.name"] == "hybrid-router"
    assert world.rpc_series("echo") == [("OK", "", 1)]


@pytest.mark.parametrize("traceparent", ["", "00-zz-xx-01", "00-" + "0" * 32 + "-b7ad6b7169203331-01"])
async def test_unusable_trace_context_starts_a_new_trace(world, traceparent):
    """A malformed or absent traceparent neither fails the call nor becomes a parent."""
    await world.unary("echo", metadata=(("traceparent", traceparent),))
    span = await world.server_span("echo")
    assert span.parent_span_id == ""
    assert int(span.trace_id, 16) != 0


async def test_unsampled_caller_is_not_traced_and_still_counted():
    """A parent-based sampler obeys the caller's flag; the trace id is known all the same; metrics count."""
    async with serving(sampler="parentbased_always_on") as world:
        await world.unary("echo", metadata=(("traceparent", TRACEPARENT[:-1] + "0"),))
        await world.unary("refuses", metadata=(("traceparent", TRACEPARENT),)).code()
        await world.server_span("refuses")
        assert [span.name for span in world.collector.spans] == [f"{SERVICE}/refuses"]
        assert world.rpc_series("echo") == [("OK", "", 1)]
        (request, span), *_ = world.events.seen
        assert request.trace_id == TRACEPARENT[3:35]
        assert not span.is_recording()


async def test_handler_runs_inside_its_span(world):
    """The current span in a handler, plain or yielding, is the server span; its context has the ids."""
    await world.unary("echo")
    assert [message async for message in world.stream("yields")] == [b"0", b"1", b"2"]
    assert len(world.events.seen) == 4
    for request, current in world.events.seen:
        assert current is request.span
        assert int(request.span_id, 16) == current.get_span_context().span_id
    echoed = await world.server_span("echo")
    yielded = await world.server_span("yields")
    assert [request.trace_id for request, _ in world.events.seen] == [echoed.trace_id] + 3 * [
        yielded.trace_id
    ]
    with pytest.raises(LookupError):
        current_request()


@pytest.mark.parametrize("method", ["yields", "writes"])
async def test_streams_arrive_whole_in_both_styles(world, method):
    """Handlers that yield and handlers that write work alike; the span ends with the stream."""
    assert [message async for message in world.stream(method)] == [b"0", b"1", b"2"]
    span = await world.server_span(method)
    assert (span.status, span.attributes[names.RPC_STATUS_CODE]) == ("UNSET", "OK")
    assert world.rpc_series(method) == [("OK", "", 1)]


async def test_client_streams_pass_through(world):
    """Both kinds with a stream of requests keep working and are counted."""
    adds = world.channel.stream_unary(f"/{SERVICE}/adds")
    mirrors = world.channel.stream_stream(f"/{SERVICE}/mirrors")
    assert await adds(iter([b"a", b"b"])) == b"ab"
    assert [message async for message in mirrors(iter([b"a", b"b"]))] == [b"A", b"B"]
    assert world.rpc_series("adds") == world.rpc_series("mirrors") == [("OK", "", 1)]


@pytest.mark.parametrize(
    ("method", "code", "status"),
    [
        ("aborts", "NOT_FOUND", "UNSET"),
        ("aborts_internal", "DATA_LOSS", "ERROR"),
        ("sets_code", "FAILED_PRECONDITION", "UNSET"),
        ("sets_int_code", "ALREADY_EXISTS", "UNSET"),
    ],
)
async def test_code_set_by_the_handler_is_recorded_without_exception(world, method, code, status):
    """An abort is no exception; codes are read as enum or int; only the server's own failures are errors."""
    assert (await failure_of(world.unary(method))).code().name == code
    span = await world.server_span(method)
    assert (span.attributes[names.RPC_STATUS_CODE], span.status, span.events) == (code, status, ())
    error_type = code if status == "ERROR" else ""
    assert span.attributes.get(names.ERROR_TYPE, "") == error_type
    assert world.rpc_series(method) == [(code, error_type, 1)]


async def test_a_code_of_ok_is_no_failure(world):
    """A handler may say OK itself; the code comes back as an enum and is recorded as OK."""
    assert await world.unary("sets_odd_code") == b"x"
    assert world.rpc_series("sets_odd_code") == [("OK", "", 1)]


@pytest.mark.parametrize(
    ("code", "name"),
    [(None, "OK"), (0, "OK"), (5, "NOT_FOUND"), (99, "UNKNOWN"), (grpc.StatusCode.ABORTED, "ABORTED")],
)
async def test_every_form_of_a_code_has_its_name(code, name):
    """gRPC gives None for OK, an enum, or whatever int the handler set; none of them breaks the recording."""
    interceptor = ServerInterceptor(Telemetry.off(), max_in_flight=1)
    recorded = []
    interceptor.telemetry.record_rpc = lambda method, code, error_type, duration_s: recorded.append(code)

    async def echo(request, context):
        return request

    await served_directly(interceptor, echo, None, code=code)
    assert recorded == [name]


@pytest.mark.parametrize("method", ["yields_then_aborts", "writes_then_aborts"])
async def test_an_abort_amid_a_stream_is_no_exception(world, method):
    """What was sent stays sent; the code is the handler's, in both styles, without an event on the span."""
    call = world.stream(method)
    assert await call.read() == b"first"
    assert (await failure_of(call)).code() is grpc.StatusCode.OUT_OF_RANGE
    span = await world.server_span(method)
    assert (span.attributes[names.RPC_STATUS_CODE], span.status, span.events) == ("OUT_OF_RANGE", "UNSET", ())
    assert world.rpc_series(method) == [("OUT_OF_RANGE", "", 1)]


async def test_an_unforeseen_error_amid_a_stream_is_an_incident(world, caplog):
    """After the first message, too, the caller gets INTERNAL and an id, and nobody the exception's text."""
    call = world.stream("yields_then_crashes")
    assert await call.read() == b"first"
    error = await failure_of(call)
    assert error.code() is grpc.StatusCode.INTERNAL
    span = await world.server_span("yields_then_crashes")
    assert span.attributes[names.INCIDENT] in error.details()
    assert (span.status, span.attributes[names.ERROR_TYPE], span.events) == ("ERROR", "ValueError", ())
    assert PROMPT not in caplog.text + error.details() + str(span)


async def test_a_streams_span_ends_with_the_stream(world):
    """While a stream is open its span is not exported and nothing is counted; it lasts as long as the stream."""
    call = world.stream("writes_then_waits")
    assert await call.read() == b"first"
    await asyncio.wait_for(world.events.arrivals.get(), 5)
    await world.unary("echo")
    await world.server_span("echo")
    assert await world.telemetry.flush()
    assert [span.name for span in world.collector.spans] == [f"{SERVICE}/echo"]
    assert world.rpc_series("writes_then_waits") == []
    world.events.proceed.set()
    assert await call.read() == b"last"
    assert await call.read() is grpc.aio.EOF
    span = await world.server_span("writes_then_waits")
    assert span.duration_ns > world.collector.span(f"{SERVICE}/echo").duration_ns
    assert world.rpc_series("writes_then_waits") == [("OK", "", 1)]


async def test_binary_metadata_is_passed_over(world):
    """Values of keys in -bin are bytes: they are neither an id nor a trace, and do no harm."""
    metadata = (
        ("traceparent-bin", TRACEPARENT.encode()),
        ("x-request-id-bin", b"\xff\x00"),
        ("blob-bin", b"\x80"),
    )
    assert await world.unary("echo", metadata=metadata) == b"x"
    span = await world.server_span("echo")
    assert span.parent_span_id == ""
    assert not world.events.seen[0][0].given


async def test_reflection_leaves_no_trace(world):
    """Reflection streams, and is infrastructure all the same: no span, no count, no place among the requests."""
    stub = reflection_pb2_grpc.ServerReflectionStub(world.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    (answer,) = [each async for each in call]
    assert SERVICE in {each.name for each in answer.list_services_response.service}
    await world.unary("echo")
    await world.server_span("echo")
    assert [span.name for span in world.collector.spans] == [f"{SERVICE}/echo"]
    assert world.rpc_series("echo") == [("OK", "", 1)]


@pytest.mark.parametrize("method", ["hangs", "yields_then_hangs"])
async def test_what_outlives_the_grace_is_recorded_before_the_server_is_idle(world, method):
    """A server that stops cancels what still runs; its span ends, it is counted once, and only then is it idle."""
    call = (world.unary if method == "hangs" else world.stream)(method)
    waiting = asyncio.ensure_future(_outcome(call) if method == "hangs" else failure_of(call))
    await asyncio.wait_for(world.events.arrivals.get(), 5)
    await world.server.stop(0)
    assert await world.interceptor.idle(5.0)
    assert world.rpc_series(method) == [("CANCELLED", "", 1)]
    span = await world.server_span(method)
    assert (span.attributes[names.RPC_STATUS_CODE], span.status) == ("CANCELLED", "UNSET")
    await asyncio.wait({waiting})


async def test_the_context_is_detached_in_the_task_that_attached_it(world, caplog):
    """OpenTelemetry logs an error when it is not; streams that end, break off and are left are where that happens."""
    assert [message async for message in world.stream("yields")] == [b"0", b"1", b"2"]
    for method in ("yields_then_breaks", "yields_then_crashes", "writes_then_aborts"):
        await failure_of(world.stream(method))
    call = world.stream("floods")
    await call.read()
    call.cancel()
    await asyncio.wait_for(world.events.closed.wait(), 5)
    await world.server_span("floods")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")] == []
    assert not get_current_span().get_span_context().is_valid


async def test_a_deadline_that_passes_while_a_message_is_written_closes_the_handler(world):
    """A caller that does not read blocks the write; its deadline ends the RPC, after the handler's `finally`."""
    call = world.stream("floods", timeout=0.3)
    await call.read()
    await asyncio.wait_for(world.events.closed.wait(), 5)
    span = await world.server_span("floods")
    assert (span.attributes[names.RPC_STATUS_CODE], span.status) == ("DEADLINE_EXCEEDED", "ERROR")
    assert world.rpc_series("floods") == [("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", 1)]
    assert (await failure_of(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_router_error_becomes_its_status_with_details(world):
    """What a handler raises reaches the caller by the one table, with reason, wait and request id."""
    error = await failure_of(world.unary("overloaded", metadata=(("x-request-id", "req-1"),)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == "anthropic: busy"
    assert reason_of(error) == "UPSTREAM_OVERLOADED"
    assert ("x-request-id", "req-1") in tuple(error.trailing_metadata())
    assert rpc_status.from_call(error).code == grpc.StatusCode.UNAVAILABLE.value[0]
    span = await world.server_span("overloaded")
    assert (span.status, span.attributes[names.ERROR_TYPE]) == ("ERROR", "UNAVAILABLE")
    assert span.attributes[names.ERROR_REASON] == "UPSTREAM_OVERLOADED"
    assert span.events == ()


async def test_callers_mistake_leaves_the_span_unset(world):
    """NOT_FOUND is an outcome, not a failure of the server."""
    assert reason_of(await failure_of(world.unary("refuses"))) == "NOT_FOUND"
    span = await world.server_span("refuses")
    assert span.status == "UNSET"
    assert names.ERROR_TYPE not in span.attributes
    assert span.attributes[names.ERROR_REASON] == "NOT_FOUND"


async def test_router_error_in_a_task_group_is_unwrapped(world):
    """A handler may use task groups; the caller gets the error, not the group."""
    assert reason_of(await failure_of(world.unary("grouped"))) == "NOT_FOUND"


async def test_error_after_the_first_message_ends_the_stream_with_its_status(world):
    """What was sent stays sent, then comes the status."""
    call = world.stream("yields_then_breaks")
    assert await call.read() == b"first"
    error = await failure_of(call)
    assert error.code() is grpc.StatusCode.ABORTED
    assert reason_of(error) == "UPSTREAM_INTERRUPTED"
    assert world.rpc_series("yields_then_breaks") == [("ABORTED", "", 1)]


async def test_unforeseen_error_is_an_incident_without_content(world, caplog):
    """The caller gets INTERNAL and an id; the log has id, types and stack; no exception's text."""
    with caplog.at_level(logging.DEBUG):
        error = await failure_of(world.unary("crashes"))
        span = await world.server_span("crashes")
    assert error.code() is grpc.StatusCode.INTERNAL
    incident = re.search(r"incident (\w+)", error.details()).group(1)
    (record,) = [record for record in caplog.records if record.name == "router.interceptors"]
    assert incident in record.getMessage()
    assert "ValueError" in record.getMessage()
    assert "KeyError" in record.getMessage()
    assert "test_interceptors.py" in record.getMessage()
    assert span.attributes[names.INCIDENT] == incident
    assert (span.status, span.attributes[names.ERROR_TYPE], span.events) == ("ERROR", "ValueError", ())
    assert world.rpc_series("crashes") == [("INTERNAL", "ValueError", 1)]
    assert PROMPT not in caplog.text + error.details() + str(error.trailing_metadata()) + str(span)


@pytest.mark.parametrize("timeout_s", [0.05, 0.3, 1.236])
@pytest.mark.parametrize("method", ["hangs", "yields_then_hangs"])
async def test_expired_deadline_is_recorded_as_such(world, method, timeout_s):
    """Both sides say DEADLINE_EXCEEDED, also where grpc-timeout was rounded up on its way."""
    call = (world.unary if method == "hangs" else world.stream)(method, timeout=timeout_s)
    assert (await failure_of(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(world.events.closed.wait(), 5)
    span = await world.server_span(method)
    assert (span.attributes[names.RPC_STATUS_CODE], span.status) == ("DEADLINE_EXCEEDED", "ERROR")
    assert world.rpc_series(method) == [("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", 1)]


@pytest.mark.parametrize(
    ("elapsed_s", "remaining_s", "code"),
    [
        (0.05, 0.0, "DEADLINE_EXCEEDED"),
        (0.05, 0.009, "DEADLINE_EXCEEDED"),  # the time the request travelled
        (10.01, 0.09, "DEADLINE_EXCEEDED"),  # grpc-timeout says 10.1 s: rounded up to three digits
        (0.02, 0.03, "CANCELLED"),
        (9.5, 0.5, "CANCELLED"),
        (3.0, None, "CANCELLED"),
    ],
)
async def test_cancellation_near_the_deadline_is_the_deadline(elapsed_s, remaining_s, code):
    """The caller's timer fires a little before ours; what is within that little is an expired deadline."""
    now_s = iter([0.0, *[elapsed_s] * 9])
    interceptor = ServerInterceptor(Telemetry.off(), max_in_flight=1, clock=lambda: next(now_s))
    recorded = []
    interceptor.telemetry.record_rpc = lambda method, code, error_type, duration_s: recorded.append(code)

    async def left(request, context):
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await served_directly(interceptor, left, remaining_s)
    assert recorded == [code]


async def test_rpc_leaves_no_context_behind():
    """Current span and request are those of before once an RPC is over, even in the same task."""
    before = get_current_span()
    interceptor = ServerInterceptor(Telemetry.off(), max_in_flight=1)

    async def echo(request, context):
        return current_request().request_id, get_current_span().get_span_context().trace_id

    request_id, trace_id = await served_directly(interceptor, echo, None)
    assert (request_id, trace_id) == ("r-1", int(TRACEPARENT[3:35], 16))
    assert get_current_span() is before
    with pytest.raises(LookupError):
        current_request()


async def served_directly(interceptor, handler, remaining_s, code=None):
    """Run one unary handler through the interceptor in this very task, without a server."""
    context = SimpleNamespace(
        invocation_metadata=lambda: (("x-request-id", "r-1"), ("traceparent", TRACEPARENT)),
        set_trailing_metadata=lambda metadata: None,
        time_remaining=lambda: remaining_s,
        code=lambda: code,
        peer=lambda: "",
    )

    async def continuation(details):
        return grpc.unary_unary_rpc_method_handler(handler)

    details = SimpleNamespace(method=f"/{SERVICE}/echo")
    wrapped = await interceptor.intercept_service(continuation, details)
    return await wrapped.unary_unary(b"", context)


@pytest.mark.parametrize("timeout_s", [None, 30.0])
@pytest.mark.parametrize("method", ["hangs", "yields_then_hangs"])
async def test_caller_that_leaves_is_cancelled_not_failed(world, method, timeout_s):
    """With or without a deadline, leaving is CANCELLED and no error; the handler stops at its await."""
    call = (world.unary if method == "hangs" else world.stream)(method, timeout=timeout_s)
    waiting = asyncio.ensure_future(failure_of(call) if method == "yields_then_hangs" else _cancelled(call))
    await asyncio.wait_for(world.events.arrivals.get(), 5)
    call.cancel()
    await asyncio.wait({waiting})
    await asyncio.wait_for(world.events.closed.wait(), 5)
    span = await world.server_span(method)
    assert (span.attributes[names.RPC_STATUS_CODE], span.status) == ("CANCELLED", "UNSET")
    assert world.rpc_series(method) == [("CANCELLED", "", 1)]
    assert world.interceptor.in_flight == 0


async def test_error_raised_after_the_caller_left_ends_quietly(world, caplog):
    """There is nobody to tell: the span ends with the error's code, nothing hangs, nothing is logged."""
    call = world.unary("fails_when_left")
    waiting = asyncio.ensure_future(_cancelled(call))
    await asyncio.wait_for(world.events.arrivals.get(), 5)
    call.cancel()
    await asyncio.wait({waiting})
    span = await world.server_span("fails_when_left")
    assert span.attributes[names.RPC_STATUS_CODE] == "NOT_FOUND"
    assert world.interceptor.in_flight == 0
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_generator_is_closed_before_the_rpc_counts_as_over(world):
    """When the caller leaves during a write, the handler's finally, awaits included, still runs first."""
    call = world.stream("floods")
    await call.read()
    call.cancel()
    await asyncio.wait_for(world.events.closed.wait(), 5)
    span = await world.server_span("floods")
    assert span.attributes[names.RPC_STATUS_CODE] == "CANCELLED"
    ((request, in_flight),) = world.events.seen
    assert (request.span_id, in_flight) == (span.span_id, 1)
    assert world.interceptor.in_flight == 0


@pytest.mark.parametrize("given", ["abc-123", "x" * 128])
async def test_callers_request_id_is_kept_and_echoed(world, given):
    """A usable id comes back in the trailing metadata, is in the request context and on the span."""
    call = world.unary("echo", metadata=(("x-request-id", given),))
    await call
    assert ("x-request-id", given) in tuple(await call.trailing_metadata())
    assert (world.events.seen[0][0].request_id, world.events.seen[0][0].given) == (given, True)
    assert (await world.server_span("echo")).attributes[names.REQUEST_ID] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "two words"])
async def test_unusable_request_id_is_replaced(world, given):
    """An id that is too long or not one printable word never reaches a log; the caller gets another."""
    call = world.unary("echo", metadata=(("x-request-id", given),))
    await call
    (echoed,) = [value for key, value in await call.trailing_metadata() if key == "x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", echoed)
    assert (world.events.seen[0][0].request_id, world.events.seen[0][0].given) == (echoed, False)


async def test_stream_tells_its_request_id_at_once(world):
    """A stream's caller has the id before the first message, and again at the end; also when it aborts."""
    call = world.stream("yields_then_breaks", metadata=(("x-request-id", "s-1"),))
    assert ("x-request-id", "s-1") in tuple(await call.initial_metadata())
    error = await failure_of(call)
    assert ("x-request-id", "s-1") in tuple(error.trailing_metadata())


async def test_id_comes_back_when_the_handler_aborts_by_itself(world):
    """An abort without metadata of its own still carries the request id."""
    error = await failure_of(world.unary("aborts", metadata=(("x-request-id", "a-1"),)))
    assert ("x-request-id", "a-1") in tuple(error.trailing_metadata())


async def test_full_server_refuses_with_advice_but_answers_health():
    """Beyond the limit: RESOURCE_EXHAUSTED with RetryInfo at once; health is never refused or counted."""
    async with serving(max_in_flight=2) as world:
        running = [asyncio.ensure_future(_outcome(world.unary("hangs"))) for _ in range(2)]
        for _ in range(2):
            await asyncio.wait_for(world.events.arrivals.get(), 5)
        error = await failure_of(world.unary("echo"))
        health = health_pb2_grpc.HealthStub(world.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=""))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == Overloaded.reason
        assert world.events.seen == []
        assert world.interceptor.in_flight == 2
        world.events.proceed.set()
        await asyncio.wait(running)
        assert await world.unary("echo") == b"x"
        assert world.rpc_series("echo") == [("RESOURCE_EXHAUSTED", "", 1), ("OK", "", 1)]


async def test_health_and_unknown_methods_leave_no_trace(world):
    """Infrastructure is not instrumented, an unknown method is left to gRPC."""
    await health_pb2_grpc.HealthStub(world.channel).Check(health_pb2.HealthCheckRequest(service=""))
    assert (await failure_of(world.unary("unheard_of"))).code() is grpc.StatusCode.UNIMPLEMENTED
    await world.unary("echo")
    await world.server_span("echo")
    assert [span.name for span in world.collector.spans] == [f"{SERVICE}/echo"]
    assert world.rpc_series("unheard_of") == []


async def test_synchronous_handler_is_refused(world):
    """A handler that would block the loop is a programming error, seen at its first call."""
    assert (await failure_of(world.unary("blocking"))).code() is not grpc.StatusCode.OK
    assert world.events.seen == []


async def test_durations_come_from_the_given_clock():
    """The recorded duration is the clock's difference, counted once."""
    ticks = iter([10.0, 10.25])
    async with serving() as world:
        world.interceptor.clock = lambda: next(ticks)
        await world.unary("echo")
        metrics = {each.name: each for each in world.telemetry._metrics.collect()}
        (point,) = metrics[names.RPC_SERVER_CALL_DURATION].data.data_points
        assert (point.count, point.sum) == (1, 0.25)
        assert point.bucket_counts[names.RPC_DURATION_BOUNDARIES.index(0.25)] == 1


async def test_everything_works_with_telemetry_off():
    """Without exporters the same RPCs get the same answers; the caller's trace id is still known."""
    async with serving(OTEL_SDK_DISABLED="true") as world:
        assert await world.unary("echo", metadata=(("traceparent", TRACEPARENT),)) == b"x"
        assert world.events.seen[0][0].trace_id == TRACEPARENT[3:35]
        assert reason_of(await failure_of(world.unary("refuses"))) == "NOT_FOUND"
        assert [message async for message in world.stream("yields")] == [b"0", b"1", b"2"]


async def _cancelled(call):
    with pytest.raises(asyncio.CancelledError):
        await call


async def _outcome(call):
    """Wait for a call and drop its answer."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error


def test_request_ids_are_never_given_twice():
    """They are drawn many at a time; over several draws all differ and have their form."""
    drawn = [new_request_id() for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in drawn)


def test_request_ids_are_in_order_of_time(monkeypatch):
    """The ledger's index by id then grows at one end only, for as long as milliseconds have twelve digits."""
    now_s = iter([0.001, 1_795_305_600.0, 1_795_305_600.001, 2_000_000_000.0, 200_000_000_000.0])
    monkeypatch.setattr(interceptors, "time", lambda: next(now_s))
    drawn = [new_request_id() for _ in range(5)]
    assert drawn == sorted(drawn)
    assert {len(each) for each in drawn} == {32}
