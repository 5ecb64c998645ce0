"""Two ways through Google's SDK, one result; the private one is used only in its known shape."""

import json
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import types

from router.call import ToolCall
from router.errors import UpstreamInterrupted, UpstreamRateLimited
from router.reply import Chunk, Finished, Reply, Started
from router.upstreams import gemini_transport
from router.upstreams.gemini import GeminiUpstream
from router.upstreams.gemini_transport import PublicTransport, RawTransport, has_known_layer, transport_for
from tests.benchmarks.mock_provider import Canned
from tests.router.upstreams.samples import FLASH, SEARCH, call, tool_loop
from tests.router.upstreams.scripted_server import Script, scripted, streamed, whole

CANNED = Canned(chunks=4, size=80)
ASKED = call(
    *tool_loop(FLASH, "+//+c2ln"), tools=(SEARCH,), system=("S",), output_schema_json='{"type":"object"}'
)
SIGNED: list[dict[str, Any]] = [
    {"text": "Hm.", "thought": True},
    {
        "functionCall": {"id": "f1", "name": "search", "args": {"q": "a", "n": 1}},
        "thoughtSignature": "+//+c2ln",
    },
]


def frame(*parts: dict[str, Any], finish: str = "STOP") -> bytes:
    content = {"role": "model", "parts": parts}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 3, "thoughtsTokenCount": 4}
    answer = {"candidates": [{"content": content, "finishReason": finish}], "usageMetadata": usage}
    return json.dumps({**answer, "modelVersion": "gemini-3.8-flash", "responseId": "r1"}).encode()


def upstream(url: str, *, public: bool, monkeypatch: pytest.MonkeyPatch) -> GeminiUpstream:
    with monkeypatch.context() as patch:
        if public:
            patch.setattr(gemini_transport, "has_known_layer", lambda client: False)
        return GeminiUpstream(model=FLASH, api_key="k", base_url=url)


async def both(
    script: Script, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> tuple[list[list[Chunk] | Any], list[Any]]:
    """Run one call by either way; return the results and the request bodies."""
    results: list[Any] = []
    async with scripted(script) as server:
        for public in (False, True):
            flash = upstream(server.url, public=public, monkeypatch=monkeypatch)
            rendered = flash.render(ASKED)
            if stream:
                results.append([chunk async for chunk in flash.stream(rendered, None, 20.0)])
            else:
                results.append(await flash.generate(rendered, None, 20.0))
            await flash.close()
    return results, [json.loads(request.body) for request in server.requests]


def test_the_installed_sdk_has_the_known_layer() -> None:
    """With the pinned SDK the fast way is taken; this fails when an update changes its shape."""
    client = genai.Client(vertexai=False, api_key="k")
    assert isinstance(transport_for(client, FLASH), RawTransport)


@pytest.mark.parametrize("change", ["gone", "other parameters", "other request"])
def test_another_shape_falls_back_to_the_public_methods(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private entry may vanish or change with any release; the service must go on."""
    client = genai.Client(vertexai=False, api_key="k")
    layer = client._api_client

    async def send(http_request: Any, stream: bool = False) -> Any: ...

    match change:
        case "gone":
            monkeypatch.setattr(client, "_api_client", object())
        case "other parameters":
            monkeypatch.setattr(layer, "_async_request_once", send)
        case _:
            monkeypatch.setattr(layer, "_build_request", lambda *args: {"url": ""})
    assert not has_known_layer(client)
    monkeypatch.undo()
    monkeypatch.setattr(gemini_transport, "has_known_layer", lambda client: False)
    assert isinstance(transport_for(client, FLASH), PublicTransport)


async def test_both_ways_send_one_body_and_read_one_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole answers: equal request JSON, equal Reply, signature included."""
    (raw, public), (raw_body, public_body) = await both(whole(frame(*SIGNED)), monkeypatch, stream=False)
    assert raw_body == public_body
    assert raw == public
    assert isinstance(raw, Reply)
    assert isinstance(raw.parts[1], ToolCall)
    assert raw.parts[1].signature == "+//+c2ln"


async def test_both_ways_stream_one_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed answers: equal request JSON and equal last chunk."""
    events = [b"data: " + frame(part) + b"\r\n\r\n" for part in SIGNED]
    (raw, public), (raw_body, public_body) = await both(streamed(events), monkeypatch, stream=True)
    assert raw_body == public_body
    assert isinstance(raw[0], Started)
    assert isinstance(raw[-1], Finished)
    assert raw[-1] == public[-1]


async def test_public_way_maps_errors_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal before and a break within the stream have the same names by either way."""
    refusal = whole(
        b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m"}}', "429 Too Many Requests"
    )
    async with scripted(refusal) as server:
        flash = upstream(server.url, public=True, monkeypatch=monkeypatch)
        with pytest.raises(UpstreamRateLimited):
            await flash.generate(flash.render(ASKED), None, 20.0)
        with pytest.raises(UpstreamRateLimited):
            await anext(flash.stream(flash.render(ASKED), None, 20.0))
        await flash.close()
    async with scripted(streamed(CANNED.gemini_stream[:2], "cut")) as server:
        flash = upstream(server.url, public=True, monkeypatch=monkeypatch)
        with pytest.raises(UpstreamInterrupted):
            [chunk async for chunk in flash.stream(flash.render(ASKED), None, 20.0)]
        await flash.close()


@pytest.mark.parametrize("public", [False, True])
async def test_both_ways_go_through_a_client_handed_in(public: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The in-process sandbox sits below either way."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if "stream" in request.url.path:
            return httpx2.Response(200, content=b"".join(CANNED.gemini_stream))
        return httpx2.Response(200, content=CANNED.gemini)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        with monkeypatch.context() as patch:
            if public:
                patch.setattr(gemini_transport, "has_known_layer", lambda client: False)
            flash = GeminiUpstream(model=FLASH, api_key="k", base_url="http://x.invalid", http_client=client)
        reply = await flash.generate(flash.render(ASKED), None, 20.0)
        chunks = [chunk async for chunk in flash.stream(flash.render(ASKED), None, 20.0)]
        await flash.close()
    assert isinstance(chunks[-1], Finished)
    assert chunks[-1].reply.parts == reply.parts


def test_sdk_options_keep_the_hidden_reconnect_off() -> None:
    """Without retry options the SDK sends a broken request again after 1 to 10 s (google-genai 3.4)."""
    flash = GeminiUpstream(model=FLASH, api_key="k")
    options = flash._client._api_client._http_options
    assert options.retry_options == types.HttpRetryOptions(attempts=1)
