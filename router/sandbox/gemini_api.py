"""The Gemini face: generateContent, streamGenerateContent, countTokens, models (G-GEN, G-ERR; 2026-11).

Rule: a request is refused (unbilled) until it has passed key, model, reading, rules and faults; then the
implicit cache is read at its start time, the answer composed, and, when its response begins, the prompt
remembered and the invoice opened. Caching and billing go by the model that answers. It does not know
explicit caches, files, the Interactions API, or quotas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from router.sandbox import gemini_request
from router.sandbox.directives import Directive, DirectiveError
from router.sandbox.faults import Fault
from router.sandbox.gemini_answer import Answer, frames, response, sse_frame
from router.sandbox.gemini_cache import ImplicitCache
from router.sandbox.gemini_catalogue import catalogue, no_model
from router.sandbox.gemini_errors import Fields, GoogleError, bad_key, invalid, missing_key, of_fault
from router.sandbox.gemini_models import CONTEXT_TOKENS, Resolved, find
from router.sandbox.gemini_prompt import Prompt, flatten, flatten_contents
from router.sandbox.gemini_request import GenerateRequest
from router.sandbox.gemini_rules import current_turn
from router.sandbox.invoice import InvoiceLine, fingerprint
from router.sandbox.replies import Ask, Call, compose
from router.sandbox.state import State, scope_of
from router.sandbox.stream import MeteredStream, Wait
from router.sandbox.tokens import Family
from router.sandbox.wire import (
    ConnectionDropped,
    Headers,
    WireRequest,
    WireResponse,
    decode,
    encode,
)

_PATH = re.compile(r"/(v1|v1beta)/models(?:/([^/:]+)(?::([A-Za-z]+))?)?\Z")
_JSON: Headers = (("content-type", "application/json; charset=UTF-8"),)
_SSE: Headers = (("content-type", "text/event-stream"),)
_COUNT = Fields("contents", "generateContentRequest")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """Who asks, when, and for which model."""

    project: str
    key_fingerprint: str
    name: str
    resolved: Resolved
    now: float

    @property
    def scope(self) -> str:
        """What implicit caches are kept apart by."""
        return f"{self.project}\0{self.resolved.answering.id}"


class GeminiFace:
    """Answers requests to the Gemini API from the shared state and its own implicit cache."""

    def __init__(self, state: State) -> None:
        self._state = state
        settings = state.settings
        self.cache = ImplicitCache(settings.gemini_cache_s, enabled=settings.gemini_implicit_cache)

    def clear(self) -> None:
        """Forget the implicit cache."""
        self.cache.clear()

    async def handle(self, request: WireRequest) -> WireResponse:
        """Answer one request.

        Raises:
            ConnectionDropped: a fault dropped the connection.
            ClientTimedOut: the client's patience ended first.
        """
        as_array = request.path.endswith(":streamGenerateContent") and request.query.get("alt") != "sse"
        try:
            return await self._route(request)
        except DirectiveError as error:
            return _refused(invalid(str(error)), as_array=as_array)
        except GoogleError as error:
            return _refused(error, as_array=as_array)

    async def _route(self, request: WireRequest) -> WireResponse:
        match = _PATH.match(request.path)
        if match is None:
            raise GoogleError("NOT_FOUND", "Requested entity was not found.")
        version, name, method = match.groups()
        key = request.headers.get("x-goog-api-key") or request.query.get("key", "")
        if not key:
            raise missing_key()
        project = scope_of(key, self._state.settings.gemini_keys, "projects/sandbox")
        if project is None:
            raise bad_key()
        now = self._state.clock.now()
        if request.method == "GET" and method is None:
            return WireResponse(status=200, headers=_JSON, body=encode(catalogue(version, name, now)))
        resolved = find(name or "", version, now)
        if resolved is None:
            raise no_model(name, version)
        caller = _Caller(
            project=project, key_fingerprint=fingerprint(key), name=name, resolved=resolved, now=now
        )
        if request.method == "POST" and method in ("generateContent", "streamGenerateContent"):
            return await self._generate(request, caller, stream=method == "streamGenerateContent")
        if request.method == "POST" and method == "countTokens":
            return self._count_tokens(request, caller)
        raise GoogleError("NOT_FOUND", f"Method {method} is not supported.")

    def _count_tokens(self, request: WireRequest, caller: _Caller) -> WireResponse:
        body = _COUNT.read(_decoded(request), "")
        if len(body) != 1:
            raise invalid("exactly one of contents and generate_content_request must be set")
        model = caller.resolved.asked
        if "contents" in body:
            prompt = flatten_contents(gemini_request.read_contents(body["contents"]), model)
        else:
            prompt = flatten(gemini_request.read(body["generateContentRequest"], model), model, caller.scope)
        details = [{"modality": k, "tokenCount": v} for k, v in prompt.by_modality().items()]
        out = {"totalTokens": prompt.total_tokens, "promptTokensDetails": details}
        return WireResponse(status=200, headers=_JSON, body=encode(out))

    async def _generate(self, request: WireRequest, caller: _Caller, *, stream: bool) -> WireResponse:
        state, answering = self._state, caller.resolved.answering
        asked = gemini_request.read(_decoded(request), caller.resolved.asked)
        prompt = flatten(asked, answering, caller.scope)
        if prompt.total_tokens > CONTEXT_TOKENS:
            raise invalid(
                f"The input token count ({prompt.total_tokens}) exceeds the maximum number of tokens allowed "
                f"({CONTEXT_TOKENS})."
            )
        texts = _last_user_texts(asked)
        directive = state.directive(request, texts, "gemini")
        fault = state.fault_for(request, directive, "gemini", (caller.name, answering.id))
        wait = state.waiter(request.read_timeout_s)
        unary_break = not stream and fault is not None and fault.kind in ("stall", "reset")
        if fault is not None and (fault.before_headers or unary_break):
            fault = await _strike_early(fault, wait, caller.name)
        answer = self._answer(asked, prompt, directive, caller, texts)
        scale, latency = state.settings.latency_scale, state.settings.gemini_latency
        token_s = scale * latency.output_s_per_token
        first_s = scale * (
            latency.t0_s + latency.kappa_s_per_token * (prompt.total_tokens - answer.cached_tokens)
        )
        if stream:
            await wait(first_s)
            return self._streamed(request, asked, answer, prompt, caller, fault, wait, token_s)
        await wait(first_s + token_s * answer.reply.output_tokens)
        return self._whole(asked, answer, prompt, caller, fault)

    def _answer(
        self, asked: GenerateRequest, prompt: Prompt, directive: Directive, caller: _Caller, texts: list[str]
    ) -> Answer:
        state, answering = self._state, caller.resolved.answering
        cached, cached_by = self.cache.read_tokens(prompt, answering.cache_minimum_tokens, caller.now)
        reply = compose(_ask(asked, prompt, texts), directive, state.script.take("gemini"), state.settings)
        calls = sum(isinstance(p, Call) for p in reply.parts)
        return Answer(
            response_id=state.new_id("", 23),
            model=answering,
            reply=reply,
            prompt_tokens=prompt.total_tokens,
            prompt_by=prompt.by_modality(),
            cached_tokens=cached,
            cached_by=cached_by,
            include_thoughts=asked.include_thoughts,
            call_ids=tuple(state.new_id("", 8).lower() for _ in range(calls)),
            service_tier=asked.service_tier,
            block_reason=directive.block,
        )

    def _begin(self, answer: Answer, prompt: Prompt, caller: _Caller) -> int:
        """The response begins: the prompt is remembered, the bill opens."""
        answering = caller.resolved.answering
        self.cache.commit(prompt, answering.cache_minimum_tokens, caller.now, self._state.clock.now())
        return self._state.invoice.add(
            InvoiceLine(
                request_id=answer.response_id,
                response_id=answer.response_id,
                upstream="gemini",
                workspace=caller.project,
                key_fingerprint=caller.key_fingerprint,
                model=answering.id,
                requested_model=caller.name,
                time=caller.now,
                uncached_input_tokens=answer.prompt_tokens - answer.cached_tokens,
                write_5m_tokens=0,
                write_1h_tokens=0,
                read_tokens=answer.cached_tokens,
                output_tokens=0,
                thinking_tokens=0,
                service_tier=answer.service_tier,
            )
        )

    def _whole(
        self, asked: GenerateRequest, answer: Answer, prompt: Prompt, caller: _Caller, fault: Fault | None
    ) -> WireResponse:
        if fault is not None and fault.kind == "error_event":
            raise of_fault(fault, caller.name)
        place = self._begin(answer, prompt, caller)
        body = encode(response(answer))
        blocked, seen = answer.block_reason is not None, fault is None
        self._state.invoice.settle(
            place,
            output_tokens=0 if blocked else answer.reply.output_tokens,
            thinking_tokens=0 if blocked else answer.reply.thinking_tokens,
            complete=seen,
            status="complete" if seen else "cut",
        )
        if fault is not None and fault.kind == "malformed":
            body = body[: len(body) // 2]
        elif fault is not None:
            raise ConnectionDropped("connection reset while the body was sent")
        return WireResponse(status=200, headers=_JSON, body=body)

    def _streamed(
        self,
        request: WireRequest,
        asked: GenerateRequest,
        answer: Answer,
        prompt: Prompt,
        caller: _Caller,
        fault: Fault | None,
        wait: Wait,
        token_s: float,
    ) -> WireResponse:
        sse = request.query.get("alt") == "sse"
        place = self._begin(answer, prompt, caller)

        def settle(output: int, thinking: int, complete: bool, status: str) -> None:
            self._state.invoice.settle(
                place, output_tokens=output, thinking_tokens=thinking, complete=complete, status=status
            )

        error = encode(of_fault(fault, caller.name).body()) if fault is not None else b""
        body = MeteredStream(
            frames(answer, sse=sse),
            settle,
            wait,
            token_s=token_s,
            fault=fault,
            error_frame=sse_frame(error) if sse else b"," + error + b"]",
            broken_frame=sse_frame if sse else bytes,
        )
        return WireResponse(status=200, headers=_SSE if sse else _JSON, body=body)


def _refused(error: GoogleError, *, as_array: bool) -> WireResponse:
    body: Any = [error.body()] if as_array else error.body()
    return WireResponse(status=error.code, headers=_JSON, body=encode(body))


async def _strike_early(fault: Fault, wait: Wait, model: str) -> Fault | None:
    match fault.kind:
        case "reset":
            raise ConnectionDropped("connection reset before the response")
        case "stall":
            await wait(fault.stall_s)
            return None
        case _:
            raise of_fault(fault, model)


def _decoded(request: WireRequest) -> Any:
    try:
        return decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid("Invalid JSON payload received. Parsing terminated before end of input.") from error


def _last_user_texts(asked: GenerateRequest) -> list[str]:
    last = asked.contents[-1]
    return [p.text for p in last.parts if p.kind == "text"] if last.role == "user" else []


def _ask(asked: GenerateRequest, prompt: Prompt, texts: list[str]) -> Ask:
    offered = tuple(t for t in asked.tools if not asked.allowed or t.name in asked.allowed)
    choice = {"ANY": "any", "NONE": "none"}.get(asked.mode, "auto")
    rounds = len(asked.contents) - 1 - current_turn(asked.contents)
    return Ask(
        digest=prompt.pieces[-1].digest,
        family=Family.GEMINI,
        last_text=texts[-1] if texts else "",
        tools=offered,
        choice=choice,
        tool_rounds=(rounds + 1) // 2,
        max_tokens=asked.max_output_tokens,
        stop_sequences=asked.stop_sequences,
        effort=asked.effort,
        thinking_budget=asked.thinking_budget,
        schema=asked.schema,
    )
