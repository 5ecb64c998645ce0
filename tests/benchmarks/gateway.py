"""The floors as real processes: a gRPC echo of our own messages, a gRPC handler over the bare SDKs, SDKs alone.

The rule: the same service, messages and upstream as the router, and nothing else in between: no checks, routing,
cache plan, prices, ledger or telemetry. Run one as its own process, on uvloop as the router does:

    python -m tests.benchmarks.gateway echo
    python -m tests.benchmarks.gateway sdk --provider http://127.0.0.1:8080 [--raw]
    python -m tests.benchmarks.gateway direct --provider http://127.0.0.1:8080
    python -m tests.benchmarks.gateway sink

All but `direct` print their port and serve until standard input ends. `direct` reads one JSON command per line
({"entry", "route", "stream", "seconds"}) and answers {"calls", "cpu_ms"}. `sink` takes OTLP spans on gRPC and counts
them; the count is its last line.
"""

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import grpc
import uvloop
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from router.v1 import content_pb2, router_service_pb2, routing_pb2
from tests.benchmarks.sdk_calls import Calls, sdk_calls
from tests.benchmarks.traffic import ANSWER_BYTES, CHUNKS, requests

Context = grpc.aio.ServicerContext[Any, Any]
_TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"


class Echo:
    """Parses the request and answers with a constant of an answer's size."""

    def __init__(self) -> None:
        text = ("Lorem ipsum dolor sit amet. " * (ANSWER_BYTES // 28 + 1))[:ANSWER_BYTES]
        step = -(-ANSWER_BYTES // CHUNKS)
        self._answer = _answer(text)
        self._deltas = [_delta(text[start : start + step]) for start in range(0, ANSWER_BYTES, step)]

    async def Generate(self, request: Any, context: Context) -> router_service_pb2.GenerateResponse:
        """Answer at once."""
        return router_service_pb2.GenerateResponse(answer=self._answer)

    async def StreamGenerate(self, request: Any, context: Context) -> None:
        """Answer in as many messages as the mock provider sends pieces."""
        for delta in self._deltas:
            await context.write(delta)
        await context.write(_finished(self._answer))


class OverSdk:
    """Calls the SDK of the forced route, text in, text out."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def Generate(self, request: Any, context: Context) -> router_service_pb2.GenerateResponse:
        """Call once."""
        text = await self._calls.unary[_route(request)](request.prompt)
        return router_service_pb2.GenerateResponse(answer=_answer(text))

    async def StreamGenerate(self, request: Any, context: Context) -> None:
        """Relay each piece as one message."""
        pieces = []
        async for piece in self._calls.stream[_route(request)](request.prompt):
            pieces.append(piece)
            await context.write(_delta(piece))
        await context.write(_finished(_answer("".join(pieces))))


def _route(request: Any) -> str:
    return "opus" if request.constraints.forced_route == routing_pb2.ROUTE_OPUS else "flash"


def _answer(text: str) -> router_service_pb2.Answer:
    return router_service_pb2.Answer(
        parts=[content_pb2.Part(text=content_pb2.TextPart(text=text))],
        finish_reason=content_pb2.FINISH_REASON_END_TURN,
        model="bench",
    )


def _delta(text: str) -> router_service_pb2.StreamGenerateResponse:
    return router_service_pb2.StreamGenerateResponse(delta=router_service_pb2.ContentDelta(text=text))


def _finished(answer: router_service_pb2.Answer) -> router_service_pb2.StreamGenerateResponse:
    return router_service_pb2.StreamGenerateResponse(finished=router_service_pb2.Finished(answer=answer))


async def _serve(handlers: grpc.GenericRpcHandler) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(1.0)


async def echo() -> None:
    """Serve the echo."""
    this = Echo()
    await _serve(_router_handlers(this.Generate, this.StreamGenerate))


async def sdk(provider_url: str, *, lean: bool) -> None:
    """Serve the bare SDKs."""
    calls = sdk_calls(provider_url, lean=lean)
    this = OverSdk(calls)
    await _serve(_router_handlers(this.Generate, this.StreamGenerate))
    await calls.close()


async def sink() -> None:
    """Take spans, count them, print how many came."""
    count = 0

    async def export(request: Any, context: Any) -> Any:
        nonlocal count
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                count += len(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
        response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
    )
    await _serve(grpc.method_handlers_generic_handler(_TRACES, {"Export": handler}))
    print(count, flush=True)


async def direct(provider_url: str) -> None:
    """Call the SDKs one call after the other, as told on standard input."""
    entries = {"lean": sdk_calls(provider_url, lean=True), "raw": sdk_calls(provider_url, lean=False)}
    prompts = [
        router_service_pb2.GenerateRequest.FromString(each).prompt for each in requests("opus", count=64)
    ]
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        calls = entries[command["entry"]]
        count, started_cpu_s, end_s = 0, time.process_time(), loop.time() + command["seconds"]
        while loop.time() < end_s:
            prompt = prompts[count % len(prompts)]
            if command["stream"]:
                async for _ in calls.stream[command["route"]](prompt):
                    pass
            else:
                await calls.unary[command["route"]](prompt)
            count += 1
        cpu_ms = (time.process_time() - started_cpu_s) * 1e3
        print(json.dumps({"calls": count, "cpu_ms": cpu_ms}), flush=True)
    for calls in entries.values():
        await calls.close()


def _router_handlers(unary: Any, stream: Any) -> grpc.GenericRpcHandler:
    """RouterService with these two handlers, and the messages' own (de)serialisers as in generated code."""
    return grpc.method_handlers_generic_handler(
        router_service_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name,
        {
            "Generate": grpc.unary_unary_rpc_method_handler(
                unary,
                request_deserializer=router_service_pb2.GenerateRequest.FromString,
                response_serializer=router_service_pb2.GenerateResponse.SerializeToString,
            ),
            "StreamGenerate": grpc.unary_stream_rpc_method_handler(
                stream,
                request_deserializer=router_service_pb2.StreamGenerateRequest.FromString,
                response_serializer=router_service_pb2.StreamGenerateResponse.SerializeToString,
            ),
        },
    )


def main() -> None:
    """Parse the command line and run one process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kind", choices=("echo", "sdk", "direct", "sink"))
    parser.add_argument("--provider", default="", help="URL of the mock provider")
    parser.add_argument(
        "--raw", action="store_true", help="the SDKs' documented raw entries, not the leanest"
    )
    options = parser.parse_args()
    match options.kind:
        case "echo":
            uvloop.run(echo())
        case "sdk":
            uvloop.run(sdk(options.provider, lean=not options.raw))
        case "direct":
            uvloop.run(direct(options.provider))
        case _:
            uvloop.run(sink())


if __name__ == "__main__":
    main()
