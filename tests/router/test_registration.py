"""Registering services: handlers are reached, wrapped where they are to be, and none has a waiting task of its own."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from router.registration import Registering

CHECK = "grpc.health.v1.Health/Check"


async def _serving(registering: Any, server: grpc.aio.Server) -> str:
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, registering)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return f"127.0.0.1:{port}"


async def _check(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        return int(answer.status)


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_handler_is_reached_and_wrapped_if_asked(wrapped: bool) -> None:
    """`wrap` hears of every method by its full name and decides what is served."""
    named: list[str] = []

    def wrap(method: str, handler: Any) -> Any:
        named.append(method)
        return handler

    server = grpc.aio.server()
    address = await _serving(Registering(server, wrap if wrapped else None), server)
    try:
        assert await _check(address) == health_pb2.HealthCheckResponse.SERVING
        assert (CHECK in named) is wrapped
    finally:
        await server.stop(None)


async def test_no_method_has_a_waiting_task_of_its_own() -> None:
    """gRPC keeps one task for each method that is registered by itself, and every RPC pays for all of them."""
    before = asyncio.all_tasks()
    server = grpc.aio.server()
    address = await _serving(Registering(server), server)
    try:
        await _check(address)
        waiting = len(asyncio.all_tasks() - before)
    finally:
        await server.stop(None)
    plain = grpc.aio.server()
    before = asyncio.all_tasks()
    address = await _serving(plain, plain)
    try:
        await _check(address)
        assert waiting < len(asyncio.all_tasks() - before)
    finally:
        await plain.stop(None)
