"""Three ways through Google's SDK to the same bytes: the pool under it, its request layer, and its public methods.

The rule: prefer `_async_request_once`, the SDK's own "send this, check the status, hand back the response":
it takes our bytes and skips pydantic models both ways (measured: 3 to 10 times less CPU per call). It is
private, so it is used only where its shape is the one known here; otherwise the public methods carry the same
body by `HttpOptions.extra_body`, slower but equal in content. Under the request layer lies the aiohttp session we gave
it: where nothing stands between the two but what is known here, the bytes go over that session in the layer's own
spelling (`direct`), and the layer says what an answer with another status than 200 means. A redirect is such an
answer: the layer would follow it, and take the key along. Contract tests hold all three against each other.

The SDK reconnects by itself once after a broken connection, 1 to 10 s later, which could bill an answer
twice; that is off here (`retry_options` with one attempt, `implicit_retry=False`).
"""

import dataclasses
import inspect
import json
import math
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Protocol

import aiohttp
import httpx2
import msgspec
from google import genai
from google.genai import errors, types

from router.upstreams.direct import AiohttpSource, Line, give_back, refusal_body
from router.upstreams.plain import Plain
from router.upstreams.relay import HttpxSource, Source

_PLACEHOLDER = "-"
"""Contents the public method insists on; `extra_body` replaces them."""


class Transport(Protocol):
    """Carries one request's bytes to generateContent and its bytes back."""

    name: str

    def generate(self, body: bytes, timeout_s: float) -> Coroutine[Any, Any, tuple[bytes, Mapping[str, str]]]:
        """Return the whole answer and the response's headers."""
        ...

    async def stream(self, body: bytes, timeout_s: float) -> tuple[Source, Mapping[str, str]]:
        """Return the event stream, once headers are in, and the response's headers."""
        ...

    async def count(self, body: bytes, timeout_s: float) -> bytes:
        """Return countTokens' whole answer to its own body; b"" where there is no way to ask."""
        ...


def transport_for(client: genai.Client, model: str) -> Transport:
    """Choose the way for an SDK client: its request layer if it has the known shape."""
    return RawTransport(client, model) if has_known_layer(client) else PublicTransport(client, model)


def has_known_layer(client: genai.Client) -> bool:
    """Say whether the SDK's private request layer looks as this module expects it (google-genai 3.4)."""
    layer = getattr(client, "_api_client", None)
    send, build = getattr(layer, "_async_request_once", None), getattr(layer, "_build_request", None)
    if send is None or build is None or not inspect.iscoroutinefunction(send):
        return False
    request = build("post", "models/x:generateContent", {})
    return (
        list(inspect.signature(send).parameters) == ["http_request", "stream", "implicit_retry"]
        and dataclasses.is_dataclass(request)
        and {field.name for field in dataclasses.fields(request)}
        == {"headers", "url", "method", "data", "timeout"}
    )


class RawTransport:
    """The SDK's request layer."""

    name = "raw"

    def __init__(self, client: genai.Client, model: str) -> None:
        self._layer: Any = client._api_client
        self._make: Any = type(self._layer._build_request("post", "", {}))
        self._generate = self._path(f"models/{model}:generateContent")
        self._stream = self._path(f"models/{model}:streamGenerateContent?alt=sse")
        self._count = self._path(f"models/{model}:countTokens")

    def generate(self, body: bytes, timeout_s: float) -> Coroutine[Any, Any, tuple[bytes, Mapping[str, str]]]:
        """Return the whole answer; see `Transport`."""
        return self._whole(self._generate, body, timeout_s)

    async def stream(self, body: bytes, timeout_s: float) -> tuple[Source, Mapping[str, str]]:
        """Return the event stream; see `Transport`."""
        response = await self._send(self._stream, body, timeout_s)
        if isinstance(response, httpx2.Response):
            return HttpxSource(response), response.headers
        return AiohttpSource(response), response.headers

    async def count(self, body: bytes, timeout_s: float) -> bytes:
        """Return countTokens' whole answer; see `Transport`."""
        content, _ = await self._whole(self._count, body, timeout_s)
        return content

    async def _whole(self, path: "_Path", body: bytes, timeout_s: float) -> tuple[bytes, Mapping[str, str]]:
        if path.line is not None and path.line.is_open:
            answer = await path.line.whole(body, _own_headers(timeout_s), timeout_s)
            if isinstance(answer, Plain):
                return answer.content, answer.headers
            direct = await _checked(answer)
            return await direct.read(), direct.headers
        response = await self._send(path, body, timeout_s)
        if isinstance(response, httpx2.Response):
            try:
                return await response.aread(), response.headers
            finally:
                await response.aclose()
        return await response.read(), response.headers

    async def _send(
        self, path: "_Path", body: bytes, timeout_s: float
    ) -> httpx2.Response | aiohttp.ClientResponse:
        own = _own_headers(timeout_s)
        if path.line is not None and path.line.is_open:
            return await _checked(await path.line.post(body, own, timeout_s))
        request = self._make(
            headers={**path.headers, **own}, url=path.url, method="post", data=body, timeout=timeout_s
        )
        # stream=True in both cases: it hands the open response back instead of decoding the body to str
        answer = await self._layer._async_request_once(request, stream=True, implicit_retry=False)
        response: httpx2.Response | aiohttp.ClientResponse = answer.response_stream
        return response

    def _path(self, path: str) -> "_Path":
        request = self._layer._build_request("post", path, {})
        url, headers, session = str(request.url), dict(request.headers), _session_under(self._layer)
        line = (
            Line(session, url, headers, self._layer._async_client_session_request_args) if session else None
        )
        return _Path(url, headers, line)


def _own_headers(timeout_s: float) -> dict[str, str]:
    """The header that changes from call to call, as the layer spells it."""
    return {"X-Server-Timeout": str(math.ceil(timeout_s))}


async def _checked(response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """A line's response of status 200; what another means the SDK says, by the status where it cannot read the body."""
    if response.status != 200:
        told = {"message": "", "status": response.reason}
        try:
            if await refusal_body(response) is None:
                await errors.APIError.raise_error_async(response.status, told, response)
            await errors.APIError.raise_for_async_response(response)
        except (ValueError, RecursionError):  # no JSON, whatever the header says
            await errors.APIError.raise_error_async(response.status, told, response)
        finally:
            give_back(response)
    return response


@dataclasses.dataclass(frozen=True, slots=True)
class _Path:
    """One method of the API as the layer spells it.

    Attributes:
        line: The way around the layer's own sending, None where it has to send.
    """

    url: str
    headers: Mapping[str, str]
    line: Line | None


def _session_under(layer: Any) -> aiohttp.ClientSession | None:
    """Return the session the layer sends through, if it is ours and the layer adds nothing but TLS settings."""
    try:
        session = layer._http_options.aiohttp_client
        is_known = (
            layer._use_aiohttp()
            and not layer.vertexai
            and not layer._use_google_auth_async()
            and not layer._aiohttp_use_mtls_endpoint
            and layer._async_client_session_request_args.keys() == {"ssl"}
        )
    except AttributeError:
        return None
    return session if is_known and type(session) is aiohttp.ClientSession else None


class PublicTransport:
    """The SDK's public methods, for an SDK whose request layer has changed."""

    name = "public"

    def __init__(self, client: genai.Client, model: str) -> None:
        self._models = client.aio.models
        self._model = model

    async def generate(self, body: bytes, timeout_s: float) -> tuple[bytes, Mapping[str, str]]:
        """Return the whole answer; see `Transport`."""
        config = self._config(body, timeout_s)
        config.should_return_http_response = True
        answer = await self._models.generate_content(model=self._model, contents=_PLACEHOLDER, config=config)
        response = answer.sdk_http_response
        text = response.body if response is not None else None
        return (text or "").encode(), (response.headers if response is not None else None) or {}

    async def stream(self, body: bytes, timeout_s: float) -> tuple[Source, Mapping[str, str]]:
        """Return the event stream; see `Transport`. The SDK sends the request with the first read."""
        frames = await self._models.generate_content_stream(
            model=self._model, contents=_PLACEHOLDER, config=self._config(body, timeout_s)
        )
        return _ModelSource(frames), {}

    async def count(self, body: bytes, timeout_s: float) -> bytes:
        """Return nothing: the public method refuses system text and tools (google-genai 3.4); see `Transport`."""
        return b""

    def _config(self, body: bytes, timeout_s: float) -> types.GenerateContentConfig:
        options = types.HttpOptions(extra_body=json.loads(body), timeout=math.ceil(timeout_s * 1000))
        return types.GenerateContentConfig(http_options=options, automatic_continuation=False)


class _ModelSource:
    """Parsed frames as the event stream they came from."""

    def __init__(self, frames: AsyncIterator[types.GenerateContentResponse]) -> None:
        self._frames = frames

    async def read(self) -> bytes:
        frame = await anext(self._frames, None)
        if frame is None:
            return b""
        fields = frame.model_dump(by_alias=True, exclude_none=True, exclude={"sdk_http_response"})
        # not model_dump_json: it spells signatures in another base64 alphabet than the API
        return b"data: %b\n\n" % msgspec.json.encode(fields)

    async def aclose(self) -> None:
        aclose = getattr(self._frames, "aclose", None)
        if aclose is not None:
            await aclose()
