"""Every cause of a cache miss provoked once over real gRPC, named, and priced against a twin that missed nothing.

A twin is the same story in a sandbox of its own, without what made the last request miss; that request itself is the
same to the byte (a block that changes keeps its length). So the provider's two invoice lines differ by the miss alone,
and what the router says of it, in tokens and nano-dollars, must be their difference.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from router.config import ApplicationConfig, CacheConfig, OpusConfig, RoutingConfig
from router.ledger import Ledger
from router.sandbox import Fault, InvoiceLine, SandboxSettings, VirtualClock
from router.sandbox.anthropic_models import find
from router.sandbox.wire import WireRequest, WireResponse
from router.v1 import accounting_pb2, content_pb2
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import (
    APPLICATION,
    DESK,
    OPUS,
    START_TIME_S,
    assistant,
    config,
    context_of,
    generate,
    prose,
    tool_config,
    user,
)
from tests.e2e.service import TALK_ONLY, Service, serving

AUTO, C = accounting_pb2.CACHE_STRATEGY_AUTO, accounting_pb2.CACHE_STRATEGY_C
OLD_MODEL, MODEL = "claude-opus-5", "claude-opus-5-5"
SHORT_MODEL = "claude-opus-4-5-20251101"
SAY = '[[sandbox say="Done." thinking=0]]'
"""Answers of one length, so that two invoice lines differ in their input alone."""
PICTURE = content_pb2.Part(
    image=content_pb2.ImagePart(media_type="image/png", data=b"\x89PNG\r\n\x1a\n" + bytes(64))
)
FIXED = config(
    applications={
        APPLICATION: ApplicationConfig(
            system=DESK.system, tools=DESK.tools, max_output_tokens=600, context_placement="before_history"
        )
    }
)
"""The user context stays where it is when it changes, so that the change is a miss at all."""


def opening(word: str = "overdue") -> list[content_pb2.Message]:
    """One question."""
    return [user(f"Which tickets of Northwind are {word}? Name the three oldest. {SAY}")]


def following(word: str = "overdue", answer: str = "Three of them.") -> list[content_pb2.Message]:
    """The question, a fixed answer, and the next question."""
    return [*opening(word), assistant(answer), user(f"And which were reopened since? {SAY}")]


async def ask(
    service: Service,
    messages: list[content_pb2.Message],
    *,
    person: str = "ann",
    session: str = "s",
    context: str = "",
    strategy: int = C,
    follow_ups: int = 0,
    **changes: object,
) -> pb.GenerateResponse:
    """One request of a session on Opus; `changes` are fields of the prompt."""
    request = generate(
        *messages,
        route=OPUS,
        strategy=strategy,
        person=person,
        session=session,
        context=(context or context_of(person),),
        max_output_tokens=400,
        no_fallback=True,
    )
    if follow_ups:
        request.constraints.expected_follow_up_count = follow_ups
    if "system" in changes or "tools" in changes:
        request.prompt.application = ""
        request.prompt.system.append(str(changes.pop("system", prose("Rule", 50))))
        for name in changes.pop("tools", ("search_tickets", "read_account")):  # type: ignore[attr-defined]
            tool = tool_config(name)
            request.prompt.tools.add(
                name=tool.name, description=tool.description, input_schema_json=tool.input_schema_json
            )
    for name, value in changes.items():
        getattr(request.prompt, name).CopyFrom(value)
    return await service.generate(request)


# --- the stories: `missing` tells the miss from its twin; the last answer is returned


async def tools(service: Service, missing: bool) -> pb.GenerateResponse:
    """A deploy renames the second tool."""
    await ask(service, opening(), tools=("search_tickets", "load_account" if missing else "read_account"))
    service.clock.advance(30)
    return await ask(service, following(), tools=("search_tickets", "read_account"))


async def system(service: Service, missing: bool) -> pb.GenerateResponse:
    """A deploy changes a word of the system prompt in all its sentences."""
    await ask(service, opening(), system=prose("Role" if missing else "Rule", 50))
    service.clock.advance(30)
    return await ask(service, following(), system=prose("Rule", 50))


async def context(service: Service, missing: bool) -> pb.GenerateResponse:
    """What is known of the user changes."""
    await ask(service, opening(), context=context_of("liz" if missing else "ann"))
    service.clock.advance(30)
    return await ask(service, following(), context=context_of("ann"))


async def history_edited(service: Service, missing: bool) -> pb.GenerateResponse:
    """The client edits the first question after the second one."""
    await ask(service, following("delayed" if missing else "overdue"))
    service.clock.advance(30)
    last = [*following("overdue"), assistant("Two."), user(f"Who owns them? {SAY}")]
    return await ask(service, last)


async def parameter(service: Service, missing: bool) -> pb.GenerateResponse:
    """The second request forbids tools."""
    none = content_pb2.ToolChoice(mode=content_pb2.ToolChoice.MODE_NONE)
    await ask(service, opening(), **({} if missing else {"tool_choice": none}))
    service.clock.advance(30)
    return await ask(service, following(), tool_choice=none)


async def image(service: Service, missing: bool) -> pb.GenerateResponse:
    """The second question shows a picture; in the twin the first one did already, behind what was cached."""
    first = opening()
    if not missing:
        first[-1].parts.append(PICTURE)
    await ask(service, first)
    service.clock.advance(30)
    last = following()
    last[-1].parts.append(PICTURE)
    return await ask(service, last)


async def ttl_lapsed(service: Service, missing: bool) -> pb.GenerateResponse:
    """The user comes back after five minutes and a second."""
    await ask(service, opening())
    service.clock.advance(301 if missing else 299)
    return await ask(service, following())


async def herd(service: Service, missing: bool) -> pb.GenerateResponse:
    """Another session's request over the same layers has not begun to answer; in the twin it has."""
    async with asyncio.TaskGroup() as group:
        first = group.create_task(ask(service, opening(), session="first"))
        await service.clock.held(1)
        if missing:
            service.clock.advance(0.1)
        else:
            service.clock.advance(60)
            await first
        second = group.create_task(ask(service, opening(), session="second"))
        await service.clock.held(2 if missing else 1)
        service.clock.advance(60)
    return second.result()


async def evicted(service: Service, missing: bool) -> pb.GenerateResponse:
    """The provider drops everything it held."""
    await ask(service, opening())
    service.clock.advance(30)
    if missing:
        service.sandbox.reset()
    return await ask(service, following())


async def unknown(service: Service, missing: bool) -> pb.GenerateResponse:
    """The first request's connection breaks before the answer: nobody knows whether it was written."""
    if missing:
        service.sandbox.inject(Fault(kind="reset", upstream="anthropic"))
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(service, opening())
    else:
        await ask(service, opening())
    service.clock.advance(30)
    return await ask(service, opening())


async def below_minimum(service: Service, missing: bool) -> pb.GenerateResponse:
    """A first prompt taken for more than 4,096 tokens, which is less; the twin's provider caches from 1,024 on.

    The router's breakpoint stands on its last block, so what it counts is exactly what was billed.
    """
    with minimum(SHORT_MODEL, 4096 if missing else 1024):
        known = prose("What Ann told us,", 80)
        first = await ask(service, opening(), context=known, strategy=AUTO, follow_ups=9)
        assert 3_950 < first.accounting.usage.input_tokens < 4_096
        service.clock.advance(30)
        return await ask(service, following(answer=prose("Ticket", 20)), context=known)


@contextmanager
def minimum(model: str, tokens: int) -> Iterator[None]:
    """Let the sandbox's model cache from `tokens` on."""
    row = find(model, START_TIME_S)
    assert row is not None
    before = row.cache_minimum_tokens
    object.__setattr__(row, "cache_minimum_tokens", tokens)
    try:
        yield
    finally:
        object.__setattr__(row, "cache_minimum_tokens", before)


@dataclass(frozen=True, slots=True)
class Story:
    """How a cause is provoked, and where the miss begins."""

    tell: Callable[[Service, bool], Awaitable[pb.GenerateResponse]]
    layer: str
    block: int
    config: object = FIXED
    settings: SandboxSettings = TALK_ONLY


NO_RETRY = config(applications=FIXED.applications, routing=RoutingConfig(retry_limit=0))
ON_SHORT = config(applications=FIXED.applications, opus=OpusConfig(model=SHORT_MODEL))
TOGETHER = config(applications=FIXED.applications, cache=CacheConfig(single_flight=False))
"""Requests over the same layers start without regard for each other, as those of another router would."""
SLOW = replace(TALK_ONLY, latency_scale=1.0)
# Blocks: two tools, one of system, one of context, then the conversation.
STORIES = {
    "tools": Story(tools, "TOOLS", 1),
    "system": Story(system, "SYSTEM", 2),
    "context": Story(context, "CONTEXT", 3),
    "history_edited": Story(history_edited, "HISTORY", 4),
    "parameter": Story(parameter, "CONTEXT", 3),
    "image": Story(image, "CONTEXT", 3),
    "ttl_lapsed": Story(ttl_lapsed, "TOOLS", 0),
    "herd": Story(herd, "TOOLS", 0, settings=SLOW, config=TOGETHER),
    "evicted": Story(evicted, "TOOLS", 0),
    "unknown": Story(unknown, "TOOLS", 0, config=NO_RETRY),
    "below_minimum": Story(below_minimum, "TOOLS", 0, config=ON_SHORT),
}


async def told(story: Story, missing: bool) -> tuple[pb.GenerateResponse, InvoiceLine]:
    """Tell a story in a sandbox of its own; the last answer and its invoice line."""
    async with serving(story.config, settings=story.settings) as service:
        answer = await story.tell(service, missing)
        line = service.invoice.find(answer.answer.response_id)
        assert line is not None
        return answer, line


def misses_of(answer: pb.GenerateResponse) -> list[accounting_pb2.CacheMiss]:
    return list(answer.accounting.cache_report.misses)


def assert_explained(
    miss: accounting_pb2.CacheMiss, cause: str, line: InvoiceLine, twin: InvoiceLine
) -> None:
    """The named miss is all that the two invoice lines differ by."""
    assert accounting_pb2.MissCause.Name(miss.cause) == f"MISS_CAUSE_{cause.upper()}"
    assert (line.input_tokens, line.output_tokens) == (twin.input_tokens, twin.output_tokens), "no twins"
    assert miss.missed_tokens == twin.read_tokens - line.read_tokens > 0
    assert miss.lost_nano_usd == line.cost_nano_usd - twin.cost_nano_usd > 0
    assert miss.detail


@pytest.mark.parametrize("cause", STORIES)
async def test_cause_is_named_and_its_loss_is_the_difference_of_two_invoices(cause: str) -> None:
    """Cause, first block, tokens and nano-dollars of the miss; the twin misses nothing."""
    story = STORIES[cause]
    answer, line = await told(story, True)
    twin_answer, twin = await told(story, False)
    (miss,) = misses_of(answer)
    assert_explained(miss, cause, line, twin)
    assert (accounting_pb2.Layer.Name(miss.layer), miss.block_index) == (f"LAYER_{story.layer}", story.block)
    if cause != "below_minimum":  # there the twin is another provider, whose minimum the router cannot know
        assert misses_of(twin_answer) == []


# --- lookback: the twin is the same request with a breakpoint on the old entry, sent to the provider by hand


async def outrun(service: Service) -> tuple[pb.GenerateResponse, WireRequest]:
    """A turn that adds thirty blocks; the last answer, and the request as it reached the provider."""
    await ask(service, following())
    service.clock.advance(30)
    seen: list[WireRequest] = []
    handle = service.sandbox.handle

    async def noted(request: WireRequest) -> WireResponse:
        seen.append(request)
        return await handle(request)

    steps = assistant(*(f"Step {number}: read the record." for number in range(30)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.sandbox, "handle", noted)
        answer = await ask(service, [*following(), steps, user(f"What now? {SAY}")])
    (request,) = seen
    return answer, request


async def test_lookback_is_named_and_its_loss_is_what_one_more_breakpoint_saves() -> None:
    """Thirty blocks past the entry no breakpoint sees it; with one on it, all of it would have been read."""
    async with serving(FIXED) as service:
        answer, request = await outrun(service)
        line = service.invoice.find(answer.answer.response_id)
    async with serving(FIXED) as service:
        await ask(service, following())
        service.clock.advance(30)
        body = json.loads(request.body)
        body["messages"][1]["content"][0]["cache_control"] = body["tools"][-1].pop("cache_control")
        again = await service.sandbox.handle(replace(request, body=json.dumps(body).encode()))
        twin = service.invoice.find(json.loads(again.body)["id"])
    assert line is not None
    assert twin is not None
    (miss,) = misses_of(answer)
    assert_explained(miss, "lookback", line, twin)
    assert (miss.layer, miss.block_index) == (accounting_pb2.LAYER_HISTORY, 4)


# --- model: a deploy between two requests of a session


@asynccontextmanager
async def deployed(directory: Path, model: str) -> AsyncIterator[Service]:
    """A router of one deploy, on the ledger that all deploys share."""
    ledger = Ledger.open(directory, clock=VirtualClock(START_TIME_S))
    try:
        chosen = config(applications=FIXED.applications, opus=OpusConfig(model=model))
        async with serving(chosen, ledger=ledger) as service:
            yield service
    finally:
        await ledger.close()


async def test_model_is_named_after_a_deploy_that_changes_it(tmp_path: Path) -> None:
    """The ledger tells the new process which model the session asked last, and how much it had left there."""
    async with deployed(tmp_path / "a", OLD_MODEL) as service:
        await ask(service, opening())
    async with deployed(tmp_path / "a", MODEL) as service:
        service.clock.advance(30)
        answer = await ask(service, following())
        line = service.invoice.find(answer.answer.response_id)
        service.clock.advance(30)
        after = await ask(service, [*following(), assistant("Two."), user(f"Who owns them? {SAY}")])
    async with deployed(tmp_path / "b", MODEL) as service:
        await ask(service, opening())
        service.clock.advance(30)
        twin = service.invoice.find((await ask(service, following())).answer.response_id)
    assert line is not None
    assert twin is not None
    (miss,) = misses_of(answer)
    assert_explained(miss, "model", line, twin)
    assert (miss.layer, miss.block_index) == (accounting_pb2.LAYER_TOOLS, 0)
    assert misses_of(after) == []


async def test_a_restart_without_a_change_is_no_change_of_model(tmp_path: Path) -> None:
    """The same model after a restart: nothing the values prove is missed, so nothing is named."""
    for _ in range(2):
        async with deployed(tmp_path, MODEL) as service:
            answer = await ask(service, opening())
    assert misses_of(answer) == []


async def test_a_ledger_that_cannot_tell_does_not_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the last calls the service serves, and says so once."""

    async def fail(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(Ledger, "last_calls", fail)
    async with deployed(tmp_path, MODEL) as service:
        assert (await ask(service, opening())).answer.response_id
    assert [record.message for record in caplog.records if "recent sessions" in record.message]


# --- parts, and the provider's own word


async def test_two_causes_share_one_shortfall_and_add_up_to_it() -> None:
    """The conversation lapsed and the shared layers were dropped: two parts, the dearest first, priced end to end."""

    async def tell(service: Service, missing: bool) -> tuple[pb.GenerateResponse, InvoiceLine]:
        long = [*opening(), assistant(prose("Ticket", 60)), user(f"And then? {SAY}")]
        await ask(service, long)
        service.clock.advance(200)
        await ask(service, opening(), person="bob", session="other")
        service.clock.advance(110 if missing else 90)
        if missing:
            service.sandbox.reset()
        answer = await ask(service, [*long, assistant("Two."), user(f"Who owns them? {SAY}")])
        line = service.invoice.find(answer.answer.response_id)
        assert line is not None
        return answer, line

    async with serving(FIXED) as service:
        answer, line = await tell(service, True)
    async with serving(FIXED) as service:
        _, twin = await tell(service, False)
    lapsed, evicted_part = misses_of(answer)
    assert lapsed.cause == accounting_pb2.MISS_CAUSE_TTL_LAPSED
    assert evicted_part.cause == accounting_pb2.MISS_CAUSE_EVICTED
    assert lapsed.lost_nano_usd > evicted_part.lost_nano_usd > 0
    assert lapsed.lost_nano_usd + evicted_part.lost_nano_usd == line.cost_nano_usd - twin.cost_nano_usd
    assert lapsed.missed_tokens + evicted_part.missed_tokens == twin.read_tokens - line.read_tokens
    assert (evicted_part.layer, evicted_part.block_index) == (accounting_pb2.LAYER_TOOLS, 0)
    assert (lapsed.layer, lapsed.block_index) == (accounting_pb2.LAYER_CONTEXT, 3)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_providers_word_stands_beside_ours_where_asked_for(stream: bool) -> None:
    """With `opus.diagnostics` each request names its session's last answer, which ends no reuse, and gets a reason."""
    asking = config(applications=FIXED.applications, opus=OpusConfig(diagnostics=True))
    async with serving(asking) as service:
        for last in (opening(), following()):
            request = generate(*last, route=OPUS, strategy=C, session="s", context=(context_of("ann"),))
            good = await service.generate(request)
            service.clock.advance(30)
        assert good.accounting.usage.cache_read_tokens > 2_000
        assert misses_of(good) == []
        request = generate(*last, route=OPUS, strategy=C, session="s", context=(context_of("liz"),))
        if stream:
            accounting = (await service.stream(request))[-1].finished.accounting
        else:
            accounting = (await service.generate(request)).accounting
        (booked,) = [each.cache for each in await service.settled(3) if each.cache and each.cache.misses]
    (miss,) = accounting.cache_report.misses
    assert miss.cause == accounting_pb2.MISS_CAUSE_CONTEXT
    assert miss.provider_cause == "messages_changed"
    assert miss.provider_missed_tokens >= miss.missed_tokens
    assert booked.miss_cause == booked.misses[0].cause == "context"
    assert booked.misses[0].provider_cause == "messages_changed"
    assert (booked.misses[0].layer, booked.misses[0].block_index) == ("context", 3)


async def test_the_provider_is_not_asked_by_default(service: Service) -> None:
    """No request carries `diagnostics`: nothing of it is kept there."""
    _, request = await outrun(service)
    assert b'"diagnostics"' not in request.body
