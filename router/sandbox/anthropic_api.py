"""The Anthropic face: `/v1/messages`, `/v1/messages/count_tokens`, `/v1/models` (A-VER, A-AUTH, A-ERR;
2026-11).

Rule: a request is refused (unbilled) until it has passed credential, version, betas, reading, rules and
faults; then the cache is consulted at its start time, the answer composed, and, when its response begins,
the cache committed and the invoice opened. It does not know batches, files, or server tools.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from router.sandbox import anthropic_catalogue, anthropic_request
from router.sandbox.anthropic_answer import Answer, frames, message, sse
from router.sandbox.anthropic_ask import ask_of, last_user_texts
from router.sandbox.anthropic_cache import CacheOutcome, PromptCache
from router.sandbox.anthropic_caller import Caller, identify
from router.sandbox.anthropic_diagnostics import Diagnostics
from router.sandbox.anthropic_errors import ApiError, invalid, of_fault
from router.sandbox.anthropic_prompt import Prompt, flatten, misplaced_thinking
from router.sandbox.anthropic_request import OLD_VERSION, MessagesRequest
from router.sandbox.anthropic_rules import check
from router.sandbox.directives import Directive, DirectiveError
from router.sandbox.faults import Fault
from router.sandbox.invoice import InvoiceLine
from router.sandbox.limits import RateLimiter
from router.sandbox.replies import Call, compose
from router.sandbox.state import State
from router.sandbox.stream import MeteredStream, Wait
from router.sandbox.wire import (
    ConnectionDropped,
    Headers,
    Json,
    WireRequest,
    WireResponse,
    decode,
    encode,
)

MAX_BODY_BYTES = 32 * 1024 * 1024
_JSON: Headers = (("content-type", "application/json"),)
_SSE: Headers = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))
_OWED_KEPT = 20_000


class AnthropicFace:
    """Answers requests to the Messages API from the shared state and its own prompt cache."""

    def __init__(self, state: State) -> None:
        settings = state.settings
        self._state = state
        self.cache = PromptCache(
            refresh=settings.refresh,
            layered=settings.layered_entries,
            upgrades=settings.hit_upgrades_ttl,
            unmarked_disturbs=settings.unmarked_disturbs,
        )
        self._diagnostics = Diagnostics()
        self._limiter = RateLimiter(settings.rate_limits)
        self._owed_thinking: OrderedDict[str, str] = OrderedDict()

    def clear(self) -> None:
        """Forget cache, diagnostics, rate-limit levels and issued thinking."""
        self.cache.clear()
        self._diagnostics.clear()
        self._limiter.clear()
        self._owed_thinking.clear()

    async def handle(self, request: WireRequest) -> WireResponse:
        """Answer one request.

        Raises:
            ConnectionDropped: a fault dropped the connection.
            ClientTimedOut: the client's patience ended first.
        """
        request_id = self._state.new_id("req_01")
        try:
            return await self._route(request, request_id)
        except DirectiveError as error:
            return self._refused(invalid((), str(error)), request_id)
        except ApiError as error:
            return self._refused(error, request_id)

    async def _route(self, request: WireRequest, request_id: str) -> WireResponse:
        if len(request.body) > MAX_BODY_BYTES:
            raise ApiError("request_too_large", "Request exceeds the maximum size")
        caller = identify(request, request_id, self._state.settings.anthropic_keys, self._state.clock.now())
        match request.method, request.path:
            case "POST", "/v1/messages":
                return await self._messages(request, caller)
            case "POST", "/v1/messages/count_tokens":
                return self._count_tokens(request, caller)
            case "GET", path if path == "/v1/models" or path.startswith("/v1/models/"):
                body = anthropic_catalogue.answer(path, request.query, caller.now)
                return WireResponse(status=200, headers=self._headers(caller), body=encode(body))
        raise ApiError("not_found_error", "Not Found")

    def _headers(self, caller: Caller, kind: Headers = _JSON, group: str | None = None) -> Headers:
        out = (
            ("request-id", caller.request_id),
            ("anthropic-organization-id", self._state.settings.organization),
            ("anthropic-workspace-id", caller.workspace),
            *kind,
        )
        return out if group is None else out + self._limiter.headers(caller.workspace, group, caller.now)

    def _refused(self, error: ApiError, request_id: str) -> WireResponse:
        head = (
            ("request-id", request_id),
            ("anthropic-organization-id", self._state.settings.organization),
            *_JSON,
            *error.headers,
        )
        return WireResponse(status=error.status, headers=head, body=encode(error.body(request_id)))

    # --- reading --------------------------------------------------------------------------------------------

    def _read(
        self, request: WireRequest, caller: Caller, *, counting: bool
    ) -> tuple[MessagesRequest, Prompt]:
        settings = self._state.settings
        kind = request.headers.get("content-type", "")
        if "json" not in kind:
            raise invalid((), "content-type must be application/json")
        try:
            body: Any = decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise invalid((), "The request body is not valid JSON") from error
        asked = anthropic_request.read(
            body, version=caller.version, betas=caller.betas, now=caller.now, counting=counting
        )
        if asked.workspace_id is not None and asked.workspace_id != caller.workspace:
            raise invalid(("workspace_id",), "does not match the workspace of the credential")
        owed = self._owed_thinking if settings.strict_thinking_replay else None
        check(
            asked,
            version_allows_sampling=caller.version == OLD_VERSION,
            owed_thinking=owed,
            prewarm_with_adaptive=settings.prewarm_with_adaptive,
        )
        prompt = flatten(asked, caller.workspace, settings.thinking_level)
        if prompt.total_tokens > asked.model.context_tokens:
            text = f"prompt is too long: {prompt.total_tokens} tokens > {asked.model.context_tokens} maximum"
            raise invalid((), text)
        if settings.thinking_binding and asked.model.id == "claude-opus-5-5":
            misplaced = misplaced_thinking(asked, prompt)
            if misplaced is not None:
                raise invalid(
                    misplaced.path,
                    "`thinking` blocks are bound to the conversation before them, which has been modified",
                )
        return asked, prompt

    def _count_tokens(self, request: WireRequest, caller: Caller) -> WireResponse:
        asked, prompt = self._read(request, caller, counting=True)
        headers = self._headers(caller, group=asked.model.rate_group)
        return WireResponse(status=200, headers=headers, body=encode({"input_tokens": prompt.total_tokens}))

    # --- answering ------------------------------------------------------------------------------------------

    async def _messages(self, request: WireRequest, caller: Caller) -> WireResponse:
        asked, prompt = self._read(request, caller, counting=False)
        state, group = self._state, asked.model.rate_group
        texts = last_user_texts(asked)
        directive = state.directive(request, texts, "anthropic")
        fault = state.fault_for(request, directive, "anthropic", (asked.requested_model, asked.model.id))
        wait = state.waiter(request.read_timeout_s)
        unary_break = not asked.stream and fault is not None and fault.kind in ("stall", "reset")
        if fault is not None and (fault.before_headers or unary_break):
            fault = await _strike_early(fault, wait)
        outcome = self.cache.consult(prompt, caller.now)
        self._admit(caller, group, prompt.total_tokens - outcome.read_tokens)
        answer = self._answer(asked, prompt, outcome, directive, caller, texts)
        scale, latency = state.settings.latency_scale, state.settings.anthropic_latency
        token_s = scale * latency.output_s_per_token
        fresh = prompt.total_tokens - outcome.read_tokens
        first_s = scale * (latency.t0_s + latency.kappa_s_per_token * fresh)
        if asked.stream:
            await wait(first_s)
            return self._streamed(asked, answer, prompt, caller, fault, wait, token_s)
        await wait(first_s + token_s * answer.output_tokens)
        return self._whole(asked, answer, prompt, caller, fault)

    def _admit(self, caller: Caller, group: str, input_tokens: int) -> None:
        """Charge the rate limits, or refuse."""
        if self._state.settings.enforce_rate_limits:
            shortage = self._limiter.shortage(caller.workspace, group, input_tokens, caller.now)
            if shortage is not None:
                raise _rate_limited(shortage, self._state.settings.organization, group)
        self._limiter.charge(caller.workspace, group, caller.now, requests=1, input_tokens=input_tokens)

    def _answer(
        self,
        asked: MessagesRequest,
        prompt: Prompt,
        outcome: CacheOutcome,
        directive: Directive,
        caller: Caller,
        texts: list[str],
    ) -> Answer:
        state = self._state
        prewarm = asked.max_tokens == 0
        scripted = None if prewarm else state.script.take("anthropic")
        reply = compose(ask_of(asked, prompt, texts), directive, scripted, state.settings)
        calls = sum(isinstance(p, Call) for p in reply.parts)
        return Answer(
            message_id=state.new_id("msg_01"),
            model=asked.model.id,
            family=asked.model.family,
            reply=reply,
            cache=outcome,
            context=prompt.context,
            summarized=asked.display == "summarized",
            prewarm=prewarm,
            tool_ids=tuple(state.new_id("toolu_01") for _ in range(calls)),
            diagnostics=self._diagnose(asked, prompt, caller),
            inference_geo=asked.inference_geo,
            speed=asked.speed,
        )

    def _diagnose(self, asked: MessagesRequest, prompt: Prompt, caller: Caller) -> Json | None:
        if not asked.diagnostics:
            return None
        previous = asked.previous_message_id
        return self._diagnostics.compare(caller.workspace, previous, prompt, asked.speed, caller.now)

    def _begin(self, asked: MessagesRequest, answer: Answer, prompt: Prompt, caller: Caller) -> int | None:
        """The response begins: entries become readable, the bill opens. None when nothing is billed."""
        self.cache.commit(answer.cache, self._state.clock.now())
        if asked.diagnostics:
            self._diagnostics.remember(caller.workspace, answer.message_id, prompt, asked.speed, caller.now)
        if answer.signature is not None:
            for tool_id in answer.tool_ids:
                self._owed_thinking[tool_id] = answer.signature
            while len(self._owed_thinking) > _OWED_KEPT:
                self._owed_thinking.popitem(last=False)
        if answer.stop_reason == "refusal" and not answer.output_tokens:
            return None
        cache = answer.cache
        return self._state.invoice.add(
            InvoiceLine(
                request_id=caller.request_id,
                response_id=answer.message_id,
                upstream="anthropic",
                workspace=caller.workspace,
                key_fingerprint=caller.key_fingerprint,
                model=answer.model,
                requested_model=asked.requested_model,
                time=caller.now,
                uncached_input_tokens=cache.uncached_tokens,
                write_5m_tokens=cache.write_5m_tokens,
                write_1h_tokens=cache.write_1h_tokens,
                read_tokens=cache.read_tokens,
                output_tokens=0,
                thinking_tokens=0,
                speed=asked.speed,
                inference_geo=asked.inference_geo,
            )
        )

    def _whole(
        self, asked: MessagesRequest, answer: Answer, prompt: Prompt, caller: Caller, fault: Fault | None
    ) -> WireResponse:
        if fault is not None and fault.kind == "error_event":
            raise of_fault(fault)
        headers = self._headers(caller, group=asked.model.rate_group)
        place = self._begin(asked, answer, prompt, caller)
        body = encode(message(answer))
        seen = fault is None
        self._settle(
            place,
            asked,
            caller,
            answer.output_tokens,
            answer.reply.thinking_tokens,
            seen,
            "complete" if seen else "cut",
        )
        if fault is not None and fault.kind == "malformed":
            body = body[: len(body) // 2]
        elif fault is not None:
            raise ConnectionDropped("connection reset while the body was sent")
        return WireResponse(status=200, headers=headers, body=body)

    def _streamed(
        self,
        asked: MessagesRequest,
        answer: Answer,
        prompt: Prompt,
        caller: Caller,
        fault: Fault | None,
        wait: Wait,
        token_s: float,
    ) -> WireResponse:
        headers = self._headers(caller, _SSE, asked.model.rate_group)
        place = self._begin(asked, answer, prompt, caller)

        def settle(output: int, thinking: int, complete: bool, status: str) -> None:
            self._settle(place, asked, caller, output, thinking, complete, status)

        error = of_fault(fault) if fault is not None else None
        body = MeteredStream(
            frames(answer, interim_usage=self._state.settings.interim_usage),
            settle,
            wait,
            token_s=token_s,
            floor_tokens=min(1, answer.output_tokens),
            fault=fault,
            error_frame=sse("error", error.body(None)) if error is not None else b"",
            broken_frame=lambda data: b"event: content_block_delta\ndata: %b\n\n" % data,
        )
        return WireResponse(status=200, headers=headers, body=body)

    def _settle(
        self,
        place: int | None,
        asked: MessagesRequest,
        caller: Caller,
        output: int,
        thinking: int,
        complete: bool,
        status: str,
    ) -> None:
        group, now = asked.model.rate_group, self._state.clock.now()
        self._limiter.charge(caller.workspace, group, now, output_tokens=output)
        if place is not None:
            self._state.invoice.settle(
                place, output_tokens=output, thinking_tokens=thinking, complete=complete, status=status
            )


async def _strike_early(fault: Fault, wait: Wait) -> Fault | None:
    """Play a fault that comes before the headers; a stall that ends leaves nothing behind."""
    match fault.kind:
        case "reset":
            raise ConnectionDropped("connection reset before the response")
        case "stall":
            await wait(fault.stall_s)
            return None
        case _:
            raise of_fault(fault)


def _rate_limited(shortage: tuple[str, float], organization: str, group: str) -> ApiError:
    what, wait_s = shortage
    return ApiError(
        "rate_limit_error",
        f"This request would exceed your organization's rate limit of {what} per minute "
        f"(org: {organization}, model group: {group}).",
        headers=(("retry-after", str(int(wait_s) + 1)),),
    )
