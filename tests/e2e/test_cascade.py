"""Flash first, Opus where Flash's answer failed, over real gRPC: what the caller gets, what is booked, what is counted.

The sandbox plays the failures by directives that hold for Gemini alone, so that Opus answers the same request well.
Every case ends with both books equal to the nano-dollar.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import msgspec
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from router import attributes as names
from router.config import CascadeConfig, Config, RoutingConfig, TelemetryConfig
from router.ledger import Ledger
from router.sandbox import Fault, VirtualClock
from router.settlement import Outcome, Settlement
from router.v1 import content_pb2, routing_pb2
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import (
    APPLICATION,
    DESK,
    FLASH,
    OPUS,
    START_TIME_S,
    as_stream,
    config,
    generate,
    tool_call,
    tool_result,
    user,
)
from tests.e2e.collector import tapped
from tests.e2e.service import TIMEOUT_S, Service, detail, serving, status_of
from tests.e2e.test_held_sessions import got, opened
from tests.e2e.test_ledger_is_the_invoice import assert_reconciled
from tests.e2e.test_metrics import free_port, scraped

SCHEMA = (
    '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}'
)
ESCALATION = routing_pb2.DECISION_REASON_ESCALATION
ON = CascadeConfig(enabled=True, needed_s=1.0)
FAILURES = {
    "refusal": "[[sandbox upstream=gemini stop=SAFETY]]",
    "refusal, blocked": "[[sandbox upstream=gemini block=PROHIBITED_CONTENT]]",
    "malformed": "[[sandbox upstream=gemini stop=MALFORMED_FUNCTION_CALL]]",
    "malformed, arguments": '[[sandbox upstream=gemini tool=read_account args={"owner":"ann"}]]',
    "malformed, no such tool": "[[sandbox upstream=gemini tool=delete_account args={}]]",
    "schema": '[[sandbox upstream=gemini say="{\\"n\\":\\"one\\"}"]]',
    "schema, no JSON": '[[sandbox upstream=gemini say="It is one."]]',
    "empty": "[[sandbox upstream=gemini stop=STOP]]",
}
BEFORE_CONTENT = ("refusal", "refusal, blocked", "malformed", "empty")
"""Failures that show before a stream has handed anything on."""


def settings(cascade: CascadeConfig = ON, **sections: object) -> Config:
    """A router that decides for Flash by score, so that neither route is forced."""
    return config(**({"routing": RoutingConfig(threshold=1.0), "cascade": cascade} | sections))


def failing(name: str, *before: content_pb2.Message, **more: object) -> pb.GenerateRequest:
    """A request whose answer by Flash fails so."""
    request = generate(*before, user(f"How many accounts are open? {FAILURES[name]}"), **more)
    if name.startswith("schema"):
        request.prompt.output_schema_json = SCHEMA
    return request


@dataclass(slots=True)
class Played:
    """A service whose books are compared when it has ended."""

    service: Service
    settlements: list[Settlement]


@asynccontextmanager
async def played(
    running: Config | None = None, environ: dict[str, str] | None = None
) -> AsyncIterator[Played]:
    """Run a service; at the end both books must agree in every answer and in sum."""
    ledger = Ledger.temporary(clock=VirtualClock(START_TIME_S))
    try:
        async with serving(running or settings(), ledger=ledger, environ=environ) as service:
            found = Played(service, [])
            yield found
            invoice = service.invoice.lines
        found.settlements = await assert_reconciled(ledger, invoice)
    finally:
        await ledger.close()


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failed_answer_is_replaced_by_opus(name: str) -> None:
    """Opus answers the same request; both are on the bill, and the first says what it was discarded for."""
    async with played() as play:
        answer = await play.service.generate(failing(name, session="s"))
        again = await play.service.explain(generate(user("yes, go on"), session="s"))
        lines = play.service.invoice.lines
    assert (answer.decision.route, answer.decision.reason) == (OPUS, ESCALATION)
    assert answer.decision.fallback_route == routing_pb2.ROUTE_UNSPECIFIED
    assert answer.decision.model == answer.answer.model == "claude-opus-5-5"
    assert answer.answer.parts
    first, second = answer.accounting.attempts
    assert (first.route, first.outcome, first.discarded) == (FLASH, "ok", True)
    assert (second.route, second.outcome, second.discarded) == (OPUS, "ok", False)
    assert answer.accounting.total_nano_usd == sum(line.cost_nano_usd for line in lines)
    assert answer.accounting.total_nano_usd == first.cost_nano_usd + second.cost_nano_usd
    assert answer.accounting.cost.total_nano_usd == second.cost_nano_usd
    flash, opus = play.settlements
    assert (flash.discarded, opus.discarded) == (name.partition(",")[0], "")
    assert (flash.decision.reason, opus.decision.reason) == ("score_below_threshold", "escalation")
    assert again.decision.route == OPUS, "the session's route is that of the answer it got"
    assert flash.counterfactuals.all_opus_nano_usd == flash.counterfactuals.all_opus_no_caching_nano_usd == 0
    assert flash.counterfactuals.all_flash_nano_usd > opus.counterfactuals.all_flash_nano_usd == 0
    assert opus.counterfactuals.all_opus_nano_usd > 0


@pytest.mark.parametrize("name", BEFORE_CONTENT)
async def test_a_stream_escalates_before_its_first_content(name: str) -> None:
    """The decision is told again, and only Opus's pieces are handed on."""
    async with played() as play:
        events = await play.service.stream(failing(name))
    decided = [event.decided.decision for event in events if event.HasField("decided")]
    assert [(each.route, each.reason == ESCALATION) for each in decided] == [(FLASH, False), (OPUS, True)]
    finished = events[-1].finished
    assert finished.answer.model == "claude-opus-5-5"
    text = "".join(event.delta.text for event in events if event.HasField("delta"))
    assert text == "".join(part.text.text for part in finished.answer.parts) != ""
    assert [each.discarded for each in finished.accounting.attempts] == [True, False]
    assert [each.discarded for each in play.settlements] == [name.partition(",")[0], ""]


@pytest.mark.parametrize("name", sorted(set(FAILURES) - set(BEFORE_CONTENT)))
async def test_a_stream_that_has_handed_something_on_keeps_its_model(name: str) -> None:
    """There is no second answer after the first content: the failure is noted and the answer stands."""
    async with played() as play:
        events = await play.service.stream(failing(name))
    assert events[-1].finished.answer.model == "gemini-3.8-flash"
    (flash,) = play.settlements
    assert flash.discarded == ""
    assert flash.extra == {"failure": name.partition(",")[0], "kept": "begun"}


async def _kept(
    name: str, running: Config | None = None, **more: object
) -> tuple[pb.GenerateResponse, Settlement]:
    async with played(running) as play:
        answer = await play.service.generate(failing(name, **more))
    (flash,) = play.settlements
    assert answer.decision.route == FLASH
    assert answer.decision.reason != ESCALATION
    assert not any(each.discarded for each in answer.accounting.attempts)
    return answer, flash


async def test_it_is_off_by_default() -> None:
    """A refusal is handed on, and nothing is judged."""
    answer, flash = await _kept("refusal", settings(CascadeConfig()))
    assert answer.answer.finish_reason == content_pb2.FINISH_REASON_REFUSAL
    assert (flash.discarded, flash.extra) == ("", {})


async def test_only_what_is_listed_counts() -> None:
    """An operator who escalates for refusals keeps Flash's broken JSON."""
    _, flash = await _kept("schema", settings(CascadeConfig(enabled=True, on=("refusal",), needed_s=1.0)))
    assert flash.extra == {}


async def test_an_application_may_differ() -> None:
    """Switched off in general, on for one application and for one failure of its."""
    own = msgspec.structs.replace(DESK, cascade=True, cascade_on=("refusal",))
    running = settings(CascadeConfig(needed_s=1.0), applications={APPLICATION: own})
    async with played(running) as play:
        with_it = await play.service.generate(failing("refusal"))
        other = await play.service.generate(failing("schema"))
        without = await play.service.generate(failing("refusal", application=""))
    assert [each.decision.route for each in (with_it, other, without)] == [OPUS, FLASH, FLASH]


async def test_a_forced_route_is_kept() -> None:
    """Whoever forces Flash gets Flash's answer."""
    _, flash = await _kept("refusal", route=FLASH)
    assert flash.extra == {"failure": "refusal", "kept": "forbidden"}


async def test_the_caller_may_forbid_it() -> None:
    """`no_escalation` hands the failed answer on."""
    request = failing("refusal")
    request.constraints.no_escalation = True
    async with played() as play:
        answer = await play.service.generate(request)
    assert answer.answer.finish_reason == content_pb2.FINISH_REASON_REFUSAL
    assert [each.extra["kept"] for each in play.settlements] == ["forbidden"]


async def test_a_ceiling_holds_for_the_sum() -> None:
    """Flash's cost and Opus's expected cost together: one nano-dollar less than the sum, and Flash's answer stands."""
    async with played() as play:
        asked = failing("malformed, arguments")
        explained = await play.service.explain(asked)
        opus = next(each for each in explained.decision.estimates if each.route == OPUS)
        free = await play.service.generate(asked)
        spent = free.accounting.attempts[0].cost_nano_usd
    assert free.decision.route == OPUS
    for missing, route, attempt_count in ((0, OPUS, 2), (1, FLASH, 1)):
        async with played() as play:
            asked = failing("malformed, arguments")
            asked.constraints.cost_ceiling_nano_usd = spent + opus.expected_cost_nano_usd - missing
            answer = await play.service.generate(asked)
        assert answer.decision.route == route
        assert len(answer.accounting.attempts) == attempt_count
    assert play.settlements[0].extra["kept"] == "ceiling"


async def test_a_day_that_cannot_pay_opus_keeps_the_answer() -> None:
    """The budget has the last word over escalations too: on the last cent of the day Flash's answer stands."""
    poor = settings(routing=RoutingConfig(threshold=1.0, budget_usd_per_day=0.001))
    answer, flash = await _kept("refusal", poor)
    assert answer.answer.finish_reason == content_pb2.FINISH_REASON_REFUSAL
    assert flash.extra["kept"] == "budget"


async def test_too_little_time_keeps_the_answer() -> None:
    """With less than `needed_s` before the deadline nothing more is begun."""
    _, flash = await _kept("refusal", settings(CascadeConfig(enabled=True, needed_s=TIMEOUT_S + 1)))
    assert flash.extra["kept"] == "deadline"


async def test_a_tool_loop_stays_where_it_began() -> None:
    """The request answers a call: its model is not changed under it. The call that begins a loop may be replaced."""
    async with played() as play:
        begun = await play.service.generate(failing("malformed, arguments"))
        loop = generate(
            user("Sum up account A-17."),
            tool_call("c1", "read_account", '{"account":"A-17"}'),
            tool_result("c1", f"balance 12.00 EUR {FAILURES['refusal']}"),
        )
        looped = await play.service.generate(loop)
    assert begun.decision.route == OPUS
    assert looped.decision.route == FLASH


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["overloaded", "spend_cap", "reset"])
async def test_no_answer_is_lost_when_opus_fails(kind: str, stream: bool) -> None:
    """Flash's answer is handed on after all; the failed attempts are on the bill, and nothing is called discarded."""
    async with played() as play:
        play.service.sandbox.inject(Fault(kind=kind, upstream="anthropic", times=9))
        if stream:
            events = await play.service.stream(failing("refusal", session="s"))
            decided = [event.decided.decision for event in events if event.HasField("decided")]
            decision, answer = decided[-1], events[-1].finished
            assert [each.route for each in decided] == [FLASH, OPUS, FLASH]
        else:
            answer = await play.service.generate(failing("refusal", session="s"))
            decision = answer.decision
        again = await play.service.explain(generate(user("yes, go on"), session="s"))
    assert (decision.route, decision.reason) == (FLASH, routing_pb2.DECISION_REASON_SCORE_BELOW_THRESHOLD)
    assert answer.answer.finish_reason == content_pb2.FINISH_REASON_REFUSAL
    assert answer.accounting.attempts[0].outcome == "ok"
    assert len(answer.accounting.attempts) == (2 if kind == "spend_cap" else 3)
    assert not any(each.discarded for each in answer.accounting.attempts)
    assert play.settlements[0].discarded == "refusal", "that Opus was asked for it stays in the ledger"
    assert again.decision.route == FLASH


async def test_a_second_answer_that_broke_off_is_an_interruption() -> None:
    """Content of Opus has reached the caller: it cannot be taken back, and Flash's refusal held nothing."""
    async with played() as play:
        play.service.sandbox.inject(Fault(kind="cut", upstream="anthropic", after_events=9))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await play.service.stream(failing("refusal"))
    assert detail(status_of(caught.value), ErrorInfo).reason == "UPSTREAM_INTERRUPTED"
    assert [each.outcome for each in play.settlements] == [Outcome.OK, Outcome.INTERRUPTED]


async def test_flash_as_a_fallback_does_not_lead_back() -> None:
    """Opus failed, Flash stands in and refuses: that is the answer."""
    running = settings(routing=RoutingConfig(threshold=0.0))
    async with played(running) as play:
        play.service.sandbox.inject(Fault(kind="spend_cap", upstream="anthropic", times=9))
        answer = await play.service.generate(failing("refusal"))
    assert (answer.decision.route, answer.decision.reason) == (FLASH, routing_pb2.DECISION_REASON_FALLBACK)
    assert play.settlements[-1].extra["kept"] == "fell_back"


async def test_truncation_counts_where_it_is_listed() -> None:
    """Cut at the bound of tokens: kept by default, replaced where the operator lists it."""
    request = generate(user("Tell me all. [[sandbox upstream=gemini tokens=900]]"), max_output_tokens=300)
    for on, route in ((CascadeConfig().on, FLASH), (("truncated",), OPUS)):
        async with played(settings(CascadeConfig(enabled=True, on=on, needed_s=1.0))) as play:
            answer = await play.service.generate(request)
        assert answer.decision.route == route


@pytest.mark.parametrize("opus_fails", [False, True])
async def test_a_held_session_keeps_the_answer_handed_on(opus_fails: bool) -> None:
    """Opus's answer becomes history and the next turn goes on from it; Flash's refusal, handed on, is no history."""
    async with played() as play:
        await opened(play.service)
        if opus_fails:
            play.service.sandbox.inject(Fault(kind="spend_cap", upstream="anthropic"))
        first = await play.service.generate(failing("refusal", application="", session="s"))
        session = await got(play.service)
        follow_up = await play.service.generate(
            generate(user("Thank you, that is all."), application="", session="s")
        )
    assert first.decision.route == (FLASH if opus_fails else OPUS)
    assert session.session.version == first.session_version == (1 if opus_fails else 2)
    models = [
        part.text.model or part.thinking.model for message in session.messages for part in message.parts
    ]
    assert ("claude-opus-5-5" in models) != opus_fails
    assert follow_up.answer.parts


async def test_metrics_count_signals_and_the_cost_of_what_was_discarded() -> None:
    """By signal and application, from closed sets; the dollars are those of the ledger's discarded rows."""
    port = free_port()
    running = settings(telemetry=TelemetryConfig(prometheus_port=port))
    async with played(running) as play:
        await play.service.generate(failing("refusal"))
        await play.service.generate(failing("schema"))
        await play.service.generate(failing("schema", route=FLASH))
        samples = await scraped(port)
    counted = {
        (each.labels["hybrid_router_signal"], each.labels["hybrid_router_result"]): each.value
        for each in samples
        if each.name == "hybrid_router_escalations_total"
    }
    assert counted == {("refusal", "answered"): 1, ("schema", "answered"): 1, ("schema", "forbidden"): 1}
    spent = sum(each.value for each in samples if each.name == "hybrid_router_discarded_cost_total")
    booked = sum(each.cost.total_nano_usd for each in play.settlements if each.discarded)
    assert round(spent * 1e9) == booked > 0


async def test_the_trace_shows_what_was_discarded() -> None:
    """On the attempt's span, and as the reason of the request."""
    sampled = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
    async with tapped() as tap:
        async with played(environ=tap.environ) as play:
            await play.service.router.Generate(failing("refusal"), timeout=TIMEOUT_S, metadata=sampled)
            stream = play.service.router.StreamGenerate(
                as_stream(failing("schema")), timeout=TIMEOUT_S, metadata=sampled
            )
            assert [event async for event in stream]
        spans = tap.spans()
    discarded = [span.attributes[names.DISCARDED] for span in spans if names.DISCARDED in span.attributes]
    assert discarded == ["refusal"]
    (kept,) = [span.attributes for span in spans if names.FAILURE in span.attributes]
    assert (kept[names.FAILURE], kept[names.KEPT]) == ("schema", "begun")
    assert "escalation" in [span.attributes.get(names.REASON) for span in spans]


async def test_explain_says_what_would_escalate() -> None:
    """Where it may; not for a forced route."""
    async with played() as play:
        may = await play.service.explain(generate(user("List my tickets.")))
        may_not = await play.service.explain(generate(user("List my tickets."), route=FLASH))
    line = "asks Opus when the answer is: empty, malformed, refusal, schema"
    assert line in may.lines
    assert line not in may_not.lines
