"""Failures on demand, seen through both real SDKs; none is billed before generation."""

import asyncio

import anthropic
import httpx2
import pytest
from google.genai import errors

from router.sandbox import Fault, Text
from router.sandbox.faults import FaultQueue

CLAUDE = [
    ("rate_limit", 429, anthropic.RateLimitError),
    ("spend_cap", 429, anthropic.RateLimitError),
    ("overloaded", 529, anthropic.OverloadedError),
    ("internal", 500, anthropic.InternalServerError),
    ("timeout_error", 504, anthropic.GatewayTimeoutError),
]


@pytest.mark.parametrize(("kind", "status", "error"), CLAUDE)
@pytest.mark.parametrize("stream", [False, True])
async def test_claude_refusals_have_their_status_and_type(bench, kit, kind, status, error, stream):
    """Each kind raises the SDK's own error, for unary and streamed calls, and the next call succeeds."""
    bench.sandbox.inject(Fault(kind=kind, message="as told"))
    with pytest.raises(error) as raised:
        await bench.ask(stream=stream)
    assert (raised.value.status_code, raised.value.api_message) == (status, "as told")
    assert len(bench.sandbox.invoice) == 0
    assert bench.sandbox.census()["anthropic_cache"]["entries"] == 0
    await bench.ask()


@pytest.mark.parametrize(("after", "header"), [(None, None), (7, "7")])
async def test_claude_rate_limit_tells_its_delay_in_a_header_or_not(bench, after, header):
    """`retry-after` is there only when a delay was given; a spend cap never has one, but a code."""
    bench.sandbox.inject(Fault(kind="rate_limit", retry_after_s=after))
    with pytest.raises(anthropic.RateLimitError) as raised:
        await bench.ask()
    assert raised.value.response.headers.get("retry-after") == header
    bench.sandbox.inject(Fault(kind="spend_cap", retry_after_s=9))
    with pytest.raises(anthropic.RateLimitError) as capped:
        await bench.ask()
    assert capped.value.error_code == "enforced_spend_limit_reached"
    assert "retry-after" not in capped.value.response.headers


GEMINI = [
    ("rate_limit", 429, "RESOURCE_EXHAUSTED"),
    ("spend_cap", 429, "RESOURCE_EXHAUSTED"),
    ("overloaded", 503, "UNAVAILABLE"),
    ("internal", 500, "INTERNAL"),
    ("timeout_error", 504, "DEADLINE_EXCEEDED"),
]


async def flash(bench, kit, stream=False):
    if not stream:
        return await bench.gemini.aio.models.generate_content(model=kit.FLASH, contents="Why?")
    chunks = await bench.gemini.aio.models.generate_content_stream(model=kit.FLASH, contents="Why?")
    return [chunk async for chunk in chunks]


@pytest.mark.parametrize(("kind", "code", "status"), GEMINI)
@pytest.mark.parametrize("stream", [False, True])
async def test_gemini_refusals_have_their_code_and_status(bench, kit, kind, code, status, stream):
    """Each kind raises the SDK's own error, for unary and streamed calls, and the next call succeeds."""
    bench.sandbox.inject(Fault(kind=kind))
    with pytest.raises(errors.APIError) as raised:
        await flash(bench, kit, stream)
    assert (raised.value.code, raised.value.status) == (code, status)
    assert len(bench.sandbox.invoice) == 0
    await flash(bench, kit, stream)


@pytest.mark.parametrize(("after", "delay"), [(None, None), (34, "34s")])
async def test_gemini_rate_limit_tells_its_delay_in_the_body_or_not(bench, kit, after, delay):
    """RetryInfo is in the details, never in a header; without a delay there are no details at all."""
    bench.sandbox.inject(Fault(kind="rate_limit", retry_after_s=after))
    with pytest.raises(errors.ClientError) as raised:
        await flash(bench, kit)
    details = raised.value.details["error"].get("details", [])
    assert next((d["retryDelay"] for d in details if d["@type"].endswith("RetryInfo")), None) == delay
    assert "retry-after" not in raised.value.response.headers
    bench.sandbox.inject(Fault(kind="spend_cap"))
    with pytest.raises(errors.ClientError) as capped:
        await flash(bench, kit)
    (quota,) = capped.value.details["error"]["details"]
    assert "PerDay" in quota["violations"][0]["quotaId"]


async def test_reset_before_headers_is_a_connection_error(bench, kit):
    """The SDK sees a broken connection; nothing is billed."""
    bench.sandbox.inject(Fault(kind="reset", times=2))
    with pytest.raises(anthropic.APIConnectionError):
        await bench.ask()
    with pytest.raises(httpx2.ReadError):
        await flash(bench, kit)
    assert len(bench.sandbox.invoice) == 0


@pytest.mark.parametrize("stall_s", [None, 60.0])
async def test_stall_before_headers_lasts_until_the_client_gives_up_or_the_stall_ends(bench, stall_s):
    """A stall of a minute ends in an ordinary answer; an endless one in the client's cancellation."""
    await bench.ask()  # the SDK sets itself up in its first call
    bench.sandbox.inject(Fault(kind="stall", stall_s=stall_s))
    task = asyncio.ensure_future(bench.ask(timeout=httpx2.Timeout(None)))
    await bench.clock.travel(59)
    assert not task.done()
    await bench.clock.travel(1)
    if stall_s is None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(bench.sandbox.invoice) == 1
    else:
        assert (await task).type == "message"


async def test_stall_mid_stream_times_out_and_bills_what_came(bench, kit):
    """The stream falls silent after five events; the SDK's read timeout fires on the sandbox clock."""
    bench.sandbox.inject(Fault(kind="stall", after_events=5))
    bench.sandbox.script(Text(kit.words(30)), thinking_tokens=0)
    stream = await bench.claude.messages.create(
        model=kit.OPUS, max_tokens=99, messages=[kit.user("x")], stream=True, timeout=httpx2.Timeout(20.0)
    )

    async def read():
        with pytest.raises((anthropic.APITimeoutError, httpx2.ReadTimeout)):
            async for _ in stream:
                pass
        await stream.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        await bench.clock.until_sleepers(1)
        await bench.clock.travel(21)
    (line,) = bench.sandbox.invoice
    assert (line.status, line.output_tokens) == ("disconnected", 9)  # two chunks of 3 and 6 words


async def test_gemini_cut_stream_bills_what_its_last_frame_reports(bench, kit):
    """Usage is cumulative in every frame, so the last one read is the bill."""
    bench.sandbox.inject(Fault(kind="cut", after_events=2))
    bench.sandbox.script(Text(kit.words(60)), thinking_tokens=40)
    frames = await flash(bench, kit, stream=True)
    (line,) = bench.sandbox.invoice
    usage = frames[-1].usage_metadata
    assert frames[-1].candidates[0].finish_reason is None
    assert (line.status, line.complete, line.thinking_tokens) == ("cut", False, 40)
    assert line.output_tokens == usage.candidates_token_count + usage.thoughts_token_count == 40 + 16


async def test_gemini_error_frame_mid_stream_raises(bench, kit):
    """An error object in the stream becomes the SDK's server error."""
    bench.sandbox.inject(Fault(kind="error_event", after_events=1))
    bench.sandbox.script(Text(kit.words(60)))
    with pytest.raises(errors.ServerError) as raised:
        await flash(bench, kit, stream=True)
    assert raised.value.code == 503
    assert bench.sandbox.invoice.lines[0].status == "error"


@pytest.mark.parametrize("stream", [False, True])
async def test_malformed_json_breaks_the_parser_and_is_billed(bench, kit, stream):
    """A truncated body or a broken frame: generated, so billed; unreadable for the client."""
    bench.sandbox.inject(Fault(kind="malformed", times=2))
    with pytest.raises((anthropic.APIError, ValueError)):
        async for _ in await bench.ask(stream=stream):
            pass
    with pytest.raises((errors.UnknownApiResponseError, ValueError)):
        await flash(bench, kit, stream)
    assert [x.complete for x in bench.sandbox.invoice] == [False, False]


async def test_unary_answer_lost_on_the_way_is_billed(bench):
    """A cut after generation: the client sees a broken connection, the bill has the whole answer."""
    bench.sandbox.inject(Fault(kind="cut"))
    bench.sandbox.script(Text("One two."), thinking_tokens=0)
    with pytest.raises(anthropic.APIConnectionError):
        await bench.ask()
    (line,) = bench.sandbox.invoice
    assert (line.status, line.complete, line.output_tokens) == ("cut", False, 3)


def test_queue_is_first_in_first_out_among_those_that_match():
    """A fault for another upstream or model waits for its own request; `times` counts down."""
    queue = FaultQueue()
    queue.inject(Fault(kind="internal", upstream="gemini"))
    queue.inject(Fault(kind="overloaded", model="m2", times=2))
    queue.inject(Fault(kind="rate_limit"))
    taken = [queue.take("anthropic", (m,)) for m in ("m1", "m2", "m2", "m2")]
    assert [f and f.kind for f in taken] == ["rate_limit", "overloaded", "overloaded", None]
    assert queue.take("gemini", ("m1",)).kind == "internal"
    assert len(queue) == 0


@pytest.mark.parametrize(
    "kw", [{"kind": "boom"}, {"kind": "cut", "upstream": "x"}, {"kind": "cut", "times": 0}]
)
def test_unknown_faults_are_refused(kw):
    """A typo in a fault is an error, not a quiet success."""
    with pytest.raises(ValueError, match=r"unknown|at least once"):
        Fault(**kw)
