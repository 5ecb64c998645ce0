"""Whether a channel's own retry policy obeys the service: a real gRPC client against errors as the edge spells them."""

import json
import time
from contextlib import asynccontextmanager

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import errors
from router.interceptors import ServerInterceptor
from router.status import PUSHBACK_KEY, PUSHBACK_LIMIT_S, STOP, code_of, pushback_ms, status_of
from router.telemetry import Telemetry

METHOD = "/test.v1.Failing/Call"
LONG_BACKOFF = {
    "maxAttempts": 4,
    "initialBackoff": "50s",
    "maxBackoff": "50s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "DEADLINE_EXCEEDED", "INTERNAL"],
}
"""A policy that would take a minute by itself: what comes sooner came because the server said so."""
TIMEOUT_S = 15.0


def opus(kind: type[errors.UpstreamError], **more) -> errors.UpstreamError:
    """A failure of a provider."""
    return kind("anthropic", "no", **more)


class Failing:
    """A method that fails as told and then answers.

    Attributes:
        arrivals_s: When it was called.
    """

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures
        self.arrivals_s: list[float] = []

    async def call(self, request: bytes, context) -> bytes:
        self.arrivals_s.append(time.monotonic())
        if self.failures:
            raise self.failures.pop(0)
        return b"done"


@asynccontextmanager
async def serving(*failures: Exception):
    """Serve the method behind the interceptor; yields it and a channel with the policy."""
    method = Failing(list(failures))
    server = grpc.aio.server(interceptors=[ServerInterceptor(Telemetry.off(), max_in_flight=10)])
    service, name = METHOD[1:].split("/")
    handler = grpc.unary_unary_rpc_method_handler(method.call)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    config = {"methodConfig": [{"name": [{"service": service}], "retryPolicy": LONG_BACKOFF}]}
    options = [("grpc.service_config", json.dumps(config))]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield method, channel.unary_unary(METHOD)
    finally:
        await server.stop(0)


WAITED_FOR = [
    opus(errors.UpstreamOverloaded, retry_after_s=0.2),
    opus(errors.UpstreamRateLimited, retry_after_s=0.2),
    errors.Overloaded(8, 0.2),
    errors.CircuitOpen("anthropic", 0.2),
]


@pytest.mark.parametrize("failure", WAITED_FOR, ids=lambda failure: failure.reason)
async def test_a_channel_waits_as_long_as_it_is_told(failure: errors.RouterError) -> None:
    """Not its own backoff, and not shorter."""
    async with serving(failure) as (method, call):
        assert await call(b"", timeout=TIMEOUT_S) == b"done"
    first_s, second_s = method.arrivals_s
    assert 0.19 <= second_s - first_s < TIMEOUT_S


STOPPED = [
    opus(errors.UpstreamOverloaded, retryable=False),
    opus(errors.UpstreamOverloaded, retry_after_s=PUSHBACK_LIMIT_S + 1),
    opus(errors.UpstreamSpendLimited),
    opus(errors.UpstreamTimeout),
    opus(errors.UpstreamMalformed),
    opus(errors.UpstreamInterrupted, retry_after_s=0.1),
    errors.Conflict("it moved on"),
    ValueError("unforeseen"),
]


@pytest.mark.parametrize("failure", STOPPED, ids=lambda failure: type(failure).__name__)
async def test_a_channel_stops_where_a_blind_retry_is_wrong(failure: Exception) -> None:
    """Refused again, billed again, or a wait longer than without a word: the caller hears of it at once."""
    async with serving(failure, failure) as (method, call):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=TIMEOUT_S)
    assert len(method.arrivals_s) == 1
    assert (PUSHBACK_KEY, str(STOP)) in tuple(caught.value.trailing_metadata())


async def test_a_wait_beyond_the_deadline_is_told_instead() -> None:
    """The caller gets our status with its RetryInfo, not a bare DEADLINE_EXCEEDED after the wait."""
    async with serving(errors.CircuitOpen("anthropic", 4.0)) as (method, call):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=2.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(method.arrivals_s) == 1


def every_class(base: type[errors.UpstreamError]) -> list[type[errors.UpstreamError]]:
    """The class and all below it."""
    return [base, *(found for below in base.__subclasses__() for found in every_class(below))]


@given(
    st.sampled_from(every_class(errors.UpstreamError)),
    st.none() | st.floats(min_value=-1, max_value=1e9),
    st.none() | st.booleans(),
    st.booleans(),
    st.none() | st.floats(min_value=0, max_value=600),
)
def test_what_may_be_billed_is_never_sent_again_blindly(
    kind, retry_after_s, retryable, billed, remaining_s
) -> None:
    """And no wait outlives the caller's deadline or the bound; the metadata say what the function says."""
    error = opus(kind, retry_after_s=retry_after_s, retryable=retryable)
    error.may_be_billed = billed
    pushback = pushback_ms(error, remaining_s)
    if billed or not error.retryable:
        assert pushback == STOP
    if pushback is not None and pushback != STOP:
        assert 0 <= pushback <= PUSHBACK_LIMIT_S * 1e3
        assert remaining_s is None or pushback <= remaining_s * 1e3 + 1
    if pushback is None:
        assert code_of(error) is not None
        assert retry_after_s is None
    sent = dict(status_of(error, remaining_s=remaining_s).trailing_metadata)
    assert sent.get(PUSHBACK_KEY) == (None if pushback is None else str(pushback))
