"""Silence in a stream, on a loop whose clock the test drives: what is borne, what is not, and what it is called."""

import asyncio
from collections.abc import Iterator

import pytest

from router.errors import UpstreamError, UpstreamInterrupted, UpstreamTimeout
from router.reply import Started, TextDelta
from router.upstreams.anthropic_stream import AnthropicFold
from router.upstreams.faults import TRANSPORT_ERRORS, from_transport
from router.upstreams.relay import relay

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","model":"claude-opus-5-5",'
    b'"usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
)
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
OPEN = b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
TEXT = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}\n\n'
FIRST_S, IDLE_S, DEADLINE_S = 30.0, 60.0, 300.0


class Time:
    """The loop's clock, standing still unless it is put on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        patch.setattr(asyncio.get_running_loop(), "time", lambda: self.now_s)

    async def put_on(self, seconds: float) -> None:
        """Let everyone come to wait, the time pass, and those who waited for it go on."""
        for passed_s in (0.0, seconds):
            self.now_s += passed_s
            for _ in range(20):
                await asyncio.sleep(0)


class Wire:
    """A provider's answer that comes when the test says so."""

    def __init__(self) -> None:
        self.headers = asyncio.Event()
        self.data: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False

    async def open(self):
        """Give the body once there are headers."""
        await self.headers.wait()
        return self, AnthropicFold("claude-opus-5-5", "req", "secret")

    async def read(self) -> bytes:
        """The next bytes."""
        return await self.data.get()

    async def aclose(self) -> None:
        """Note it."""
        self.closed = True


class Heard:
    """What came of a stream."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.chunks: list = []
        self.error: UpstreamError | None = None

    async def run(self) -> None:
        """Read it to its end."""
        chunks = relay(
            self.wire.open,
            lambda error: from_transport(error, "anthropic", "m", DEADLINE_S),
            TRANSPORT_ERRORS,
            "anthropic",
            "m",
            DEADLINE_S,
            FIRST_S,
            IDLE_S,
        )
        try:
            async for chunk in chunks:
                self.chunks.append(chunk)
        except UpstreamError as error:
            self.error = error


@pytest.fixture
def heard() -> Iterator[Heard]:
    """A stream not yet asked for."""
    return Heard()


@pytest.mark.parametrize("with_headers", [False, True])
async def test_no_event_at_all_is_a_timeout(heard: Heard, monkeypatch, with_headers: bool) -> None:
    """Headers are no event: from the request on there is one bound, and the call may have been billed."""
    time = Time(monkeypatch)
    async with asyncio.TaskGroup() as group:
        group.create_task(heard.run())
        if with_headers:
            heard.wire.headers.set()
        await time.put_on(FIRST_S - 0.001)
        assert heard.error is None
        await time.put_on(0.001)
        assert type(heard.error) is UpstreamTimeout
    assert heard.error.may_be_billed
    assert "nothing came for 30 s" in str(heard.error)
    assert heard.wire.closed == with_headers


async def test_pings_are_signs_of_life(heard: Heard, monkeypatch) -> None:
    """An Opus that thinks for minutes is not given up while it pings; when it falls silent, it is."""
    time = Time(monkeypatch)
    heard.wire.headers.set()
    async with asyncio.TaskGroup() as group:
        group.create_task(heard.run())
        heard.wire.data.put_nowait(START)
        await time.put_on(0)
        for _ in range(4):
            await time.put_on(IDLE_S - 1.0)
            assert heard.error is None
            heard.wire.data.put_nowait(PING)
            await time.put_on(0)
        await time.put_on(IDLE_S)
    assert [type(chunk) for chunk in heard.chunks] == [Started]
    assert type(heard.error) is UpstreamInterrupted
    assert heard.error.cause is UpstreamTimeout
    assert heard.error.usage.input_tokens == 9
    assert "nothing came for 60 s" in str(heard.error)
    assert heard.wire.closed


async def test_a_slow_caller_is_not_the_providers_silence(heard: Heard, monkeypatch) -> None:
    """Time that passes while a chunk is being handed on is the caller's."""
    time = Time(monkeypatch)
    heard.wire.headers.set()
    chunks = relay(
        heard.wire.open,
        lambda error: from_transport(error, "anthropic", "m", DEADLINE_S),
        TRANSPORT_ERRORS,
        "anthropic",
        "m",
        DEADLINE_S,
        FIRST_S,
        IDLE_S,
    )
    for data in (START, OPEN + TEXT, TEXT):
        heard.wire.data.put_nowait(data)
    kinds = []
    async for chunk in chunks:
        kinds.append(type(chunk))
        time.now_s += IDLE_S
        if len(kinds) == 3:
            break
    await chunks.aclose()
    assert kinds == [Started, TextDelta, TextDelta]


async def test_the_deadline_is_called_by_its_name(heard: Heard, monkeypatch) -> None:
    """What ends with the caller's deadline is no silence."""
    time = Time(monkeypatch)
    heard.wire.headers.set()
    async with asyncio.TaskGroup() as group:
        group.create_task(heard.run())
        for _ in range(6):
            heard.wire.data.put_nowait(PING)
            await time.put_on(50.0)
    assert type(heard.error) is UpstreamTimeout
    assert "no whole answer within 300 s" in str(heard.error)
