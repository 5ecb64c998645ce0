"""The sandbox on a real socket: both SDKs, disconnects, resets, and the admin face."""

import json

import anthropic
import httpx2
import pytest
from google import genai
from google.genai import types

from router.sandbox import Sandbox, VirtualClock, serve

START = 1_795_348_800.0


@pytest.fixture
async def desk():
    """A listening sandbox with SDK clients and a plain client for the admin face."""
    sandbox = Sandbox(clock=VirtualClock(START))
    async with serve(sandbox) as port, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        url = f"http://127.0.0.1:{port}"
        api_client = httpx2.AsyncClient()

        class Desk:
            admin = http
            box = sandbox
            claude = anthropic.AsyncAnthropic(
                api_key="k", base_url=url, max_retries=0, http_client=api_client
            )
            gemini = genai.Client(
                api_key="g", http_options=types.HttpOptions(base_url=url, httpx_async_client=api_client)
            )

        yield Desk
        await api_client.aclose()


def ask(desk, kit, text="Why?", **kw):
    return desk.claude.messages.create(model=kit.OPUS, max_tokens=400, messages=[kit.user(text)], **kw)


async def test_unary_and_streams_of_both_apis(desk, kit):
    """One base URL serves both SDKs, and every answer is on the invoice."""
    message = await ask(desk, kit)
    async with desk.claude.messages.stream(
        model=kit.OPUS, max_tokens=400, messages=[kit.user("Why?")]
    ) as stream:
        streamed = await stream.get_final_message()
    assert streamed.content[-1].text == message.content[-1].text
    whole = await desk.gemini.aio.models.generate_content(model=kit.FLASH, contents="Why?")
    parts = [
        c.text or ""
        async for c in await desk.gemini.aio.models.generate_content_stream(model=kit.FLASH, contents="Why?")
    ]
    assert "".join(parts) == whole.text
    assert [x.complete for x in desk.box.invoice] == [True] * 4


async def test_client_that_disconnects_leaves_an_incomplete_line(desk, kit):
    """The connection closes while the stream stalls on the clock: the handler notices and settles."""
    stream = await ask(desk, kit, "[[sandbox fault=stall after_events=4]]", stream=True)
    async for event in stream:
        if event.type == "content_block_start":
            break
    await stream.close()
    while desk.box.invoice.lines[0].status == "open":
        await desk.admin.get("/sandbox/state")
    (line,) = desk.box.invoice
    assert (line.complete, line.status) == (False, "disconnected")


@pytest.mark.parametrize("order", ["fault=reset", "fault=cut"])
async def test_dropped_connections_look_dropped(desk, kit, order):
    """A reset before the headers, and a body that never comes."""
    with pytest.raises(anthropic.APIConnectionError):
        await ask(desk, kit, f"[[sandbox {order}]]")


async def test_reset_mid_stream_breaks_the_read(desk, kit):
    """The socket is aborted between two events."""
    stream = await ask(desk, kit, "[[sandbox fault=reset after_events=3]]", stream=True)
    with pytest.raises((httpx2.TransportError, anthropic.APIConnectionError)):
        async for _ in stream:
            pass
    await stream.close()
    assert desk.box.invoice.lines[0].status == "cut"


async def test_admin_clock_faults_script_and_reset(desk, kit):
    """Time moves, faults and answers are dictated, and reset forgets all but the time."""
    answer = await desk.admin.post("/sandbox/clock", json={"advance_s": 90})
    assert answer.json()["now"] == START + 90
    await desk.admin.post("/sandbox/faults", json={"kind": "overloaded", "message": "Full"})
    with pytest.raises(anthropic.OverloadedError, match="Full"):
        await ask(desk, kit)
    await desk.admin.post("/sandbox/script", json={"parts": [{"text": "Dictated."}], "thinking_tokens": 0})
    assert (await ask(desk, kit)).content[0].text == "Dictated."
    state = (await desk.admin.get("/sandbox/state")).json()
    assert (state["billed_requests"], state["pending_faults"]) == (1, 0)
    await desk.admin.post("/sandbox/reset")
    assert (await desk.admin.get("/sandbox/state")).json()["billed_requests"] == 0
    assert desk.box.clock.now() == START + 90


async def test_admin_invoice_has_lines_and_totals(desk, kit):
    """Both shapes tell the same lines, costs included."""
    await ask(desk, kit)
    await ask(desk, kit)
    whole = (await desk.admin.get("/sandbox/invoice")).json()
    lines = (await desk.admin.get("/sandbox/invoice?format=lines")).text.splitlines()
    assert [json.loads(x) for x in lines] == whole["lines"]
    assert whole["totals"]["cost_nano_usd"] == sum(x["cost_nano_usd"] for x in whole["lines"]) > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", {"kind": "nonsense"}),
        ("faults", {"wrong": 1}),
        ("clock", {"advance_s": -1}),
        ("clock", {}),
        ("script", {"parts": [{"poem": 1}]}),
    ],
)
async def test_admin_mistakes_are_400s(desk, path, body):
    """An unreadable order is refused and changes nothing."""
    answer = await desk.admin.post(f"/sandbox/{path}", json=body)
    assert answer.status_code == 400
    assert desk.box.census()["pending_faults"] == 0


async def test_system_time_cannot_be_moved():
    """The admin clock works on virtual time only."""
    async with serve(Sandbox()) as port, httpx2.AsyncClient() as http:
        answer = await http.post(f"http://127.0.0.1:{port}/sandbox/clock", json={"advance_s": 1})
    assert answer.status_code == 409


@pytest.mark.filterwarnings(
    "ignore:Inheritance class:DeprecationWarning"
)  # google-genai subclasses ClientSession
async def test_aiohttp_clients_of_both_sdks_work(desk, kit):
    """The SDKs' other HTTP stack, unary and streamed, over the same socket."""
    url = str(desk.admin.base_url)
    async with anthropic.DefaultAioHttpClient() as http:
        claude = anthropic.AsyncAnthropic(api_key="k", base_url=url, http_client=http, max_retries=0)
        async with claude.messages.stream(
            model=kit.OPUS, max_tokens=99, messages=[kit.user("Why?")]
        ) as stream:
            assert (await stream.get_final_message()).usage.output_tokens > 0
    async with genai.Client(api_key="g", http_options=types.HttpOptions(base_url=url)).aio as gemini:
        chunks = await gemini.models.generate_content_stream(model=kit.FLASH, contents="Why?")
        assert [c async for c in chunks][-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert [x.complete for x in desk.box.invoice] == [True, True]
