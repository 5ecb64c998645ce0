"""Warms over real gRPC, by the provider's invoice: what was warmed is read by the traffic it was warmed for.

Time is virtual, the sandbox's first token comes after 0.8 s and 40 us per token read anew.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec.structs
import pytest

from cache.schedule import Schedule
from router import attributes as names
from router.config import TelemetryConfig, WarmingConfig
from router.sandbox import Fault, InvoiceLine, SandboxSettings
from router.sandbox.settings import RateLimits
from router.settlement import Outcome, Purpose
from router.v1 import accounting_pb2, operator_service_pb2, routing_pb2, session_service_pb2
from router.v1 import router_service_pb2 as pb
from router.v1.session_service_pb2_grpc import SessionServiceStub
from tests.e2e.builders import (
    APPLICATION,
    DESK,
    FLASH,
    OPUS,
    assistant,
    config,
    context_of,
    generate,
    prose,
    user,
)
from tests.e2e.collector import tapped
from tests.e2e.service import TIMEOUT_S, Service, serving
from tests.e2e.test_flight import VirtualTimer
from tests.e2e.test_metrics import free_port

SLOW = SandboxSettings(tool_call_chance=0.0, latency_scale=1.0)
SAY = '[[sandbox say="Three." thinking=0]]'
C = accounting_pb2.CACHE_STRATEGY_C
AUTO = accounting_pb2.CACHE_STRATEGY_AUTO


@asynccontextmanager
async def warming(
    policy: str,
    *,
    settings: SandboxSettings = SLOW,
    environ: dict[str, str] | None = None,
    telemetry: TelemetryConfig = TelemetryConfig(sample_ratio=1.0),  # noqa: B008 (frozen)
    **options: object,
) -> AsyncIterator[Service]:
    """A router that warms, its waits on the clock of its sandbox."""
    wanted = WarmingConfig(policy=policy, **({"usd_per_hour": 1000.0} | options))
    async with serving(
        config(warming=wanted, telemetry=telemetry),
        settings=settings,
        timer=VirtualTimer,
        environ=environ,
    ) as service:
        yield service


async def done(service: Service, call: Awaitable, step_s: float = 0.1) -> object:
    """Move time until a call has ended."""
    task = asyncio.ensure_future(call)
    async with asyncio.timeout(TIMEOUT_S):
        while not task.done():
            await service.clock.travel(step_s)
            await asyncio.sleep(0)
    return task.result()


async def passing(service: Service, seconds: float) -> None:
    """Let idle time pass, second by second, so that whoever is due is on time."""
    for _ in range(round(seconds)):
        await service.clock.travel(1.0)
        await asyncio.sleep(0)


def ask(*messages, **fields: object) -> pb.GenerateRequest:
    """A request on Opus that expects follow-ups, so that its conversation is cached."""
    request = generate(*messages, **({"route": OPUS, "strategy": AUTO, "session": "s"} | fields))
    request.constraints.expected_follow_up_count = 9
    return request


def warms(service: Service) -> list[InvoiceLine]:
    """Lines of calls that produced nothing."""
    return [line for line in service.invoice.lines if line.output_tokens == 0]


async def opened(
    service: Service, session: str = "held", about: str = "Known"
) -> session_service_pb2.OpenSessionResponse:
    """A held session of a user with a large context."""
    return await SessionServiceStub(service.channel).OpenSession(
        session_service_pb2.OpenSessionRequest(
            session=session, application=APPLICATION, tenant="acme", user_context=[prose(about, 800)]
        ),
        timeout=TIMEOUT_S,
    )


async def warm_sent(service: Service) -> None:
    """Let the one warm that was ordered reach the provider, and time pass until it is booked."""
    await service.clock.held(1)
    await passing(service, 3)
    await service.settled(1)


def turn(text: str, session: str = "held") -> pb.GenerateRequest:
    """A turn of a held session."""
    return generate(user(f"{text} {SAY}"), route=OPUS, session=session, strategy=AUTO, application="")


async def reported(service: Service, action: str, session: str = "held") -> session_service_pb2.WarmVerdict:
    """What is done about an action."""
    response = await SessionServiceStub(service.channel).ReportAction(
        session_service_pb2.ReportActionRequest(session=session, action=action, tenant="acme"),
        timeout=TIMEOUT_S,
    )
    return response.warm


async def first_byte_s(service: Service, request: pb.GenerateRequest) -> float:
    """Virtual seconds to the first content of a streamed answer."""
    started = service.clock.now()
    events = service.router.StreamGenerate(
        pb.StreamGenerateRequest(
            prompt=request.prompt, caller=request.caller, constraints=request.constraints
        ),
        timeout=TIMEOUT_S,
    )

    async def first() -> float:
        async for event in events:
            if event.HasField("delta"):
                return service.clock.now() - started
        raise AssertionError("no content")

    reading = asyncio.ensure_future(first())
    await service.clock.held(1)
    found = await done(service, reading, 0.005)

    async def rest() -> None:
        async for _ in events:
            pass

    await done(service, rest())
    return found


async def test_a_session_start_is_warmed_and_its_first_request_reads_it() -> None:
    """Tools, system and context; the first token comes earlier by the prefill of what was warmed."""
    waits = {}
    for policy in ("off", "session_start"):
        async with warming(policy) as service:
            response = await opened(service)
            assert response.warm.warmed == (policy != "off")
            if policy != "off":
                await warm_sent(service)
            waits[policy] = await first_byte_s(service, turn("Which tickets are overdue?"))
            line = service.invoice.lines[-1]
            if policy != "off":
                (warm,) = warms(service)
                assert line.read_tokens == warm.write_5m_tokens + warm.write_1h_tokens > 4000
                assert response.warm.expected_cost_nano_usd == pytest.approx(warm.cost_nano_usd, rel=0.1)
                (settled, _) = await service.settled(2)
                assert settled.intent.purpose is Purpose.WARM
                assert settled.cost.total_nano_usd == warm.cost_nano_usd
                saved_s = 40e-6 * line.read_tokens
    print(f"first token {waits['off']:.3f} s cold, {waits['session_start']:.3f} s warmed")
    assert saved_s > 0.6
    assert waits["off"] - waits["session_start"] == pytest.approx(saved_s, abs=0.2)


async def test_a_listed_action_is_warmed_and_another_is_not() -> None:
    """By a held session's history and context; the verdict says why, the first token comes earlier by the prefill."""
    async with warming("predictive") as service:
        await opened(service)
        cold_s = await first_byte_s(service, turn("Which tickets are overdue?"))
    async with warming("predictive", actions=("upload_document",)) as service:
        await opened(service)
        assert not (await reported(service, "scrolled")).warmed
        verdict = await reported(service, "upload_document")
        assert verdict.warmed
        await passing(service, 3)
        warmed_s = await first_byte_s(service, turn("Which tickets are overdue?"))
        (warm,) = warms(service)
        assert service.invoice.lines[-1].read_tokens == warm.write_5m_tokens + warm.write_1h_tokens
        # The clock runs on while the first content is on its way to us, some tenths of a second under load.
        assert cold_s - warmed_s > 0.5 * 40e-6 * service.invoice.lines[-1].read_tokens > 0.4
        print(f"first token {cold_s:.3f} s cold, {warmed_s:.3f} s warmed by an action")
        again = await reported(service, "upload_document")
        assert not again.warmed
        assert "warm already" in again.reason


async def test_keep_alives_bridge_a_pause_and_stop() -> None:
    """Three reads, each 285 s after the start of the one before; the return at 15 minutes reads everything."""
    async with warming("keep_alive") as service:
        first = await done(service, service.generate(ask(user(f"Which tickets are overdue? {SAY}"))))
        begun = service.invoice.lines[0].time
        await passing(service, 900)
        pings = warms(service)
        assert [round(line.time - begun) for line in pings] == [285, 570, 855]
        assert all(line.read_tokens > 2000 for line in pings)
        assert all(line.write_5m_tokens == line.write_1h_tokens == 0 for line in pings)
        answer = first.answer
        await done(
            service,
            service.generate(
                ask(
                    user(f"Which tickets are overdue? {SAY}"), assistant("Three."), user(f"And before? {SAY}")
                )
            ),
        )
        assert answer.parts[0].text.text == "Three."
        assert service.invoice.lines[-1].read_tokens >= pings[-1].read_tokens
        await passing(service, 2000)
        assert len(warms(service)) == 6, "three more after the second turn, and then it lapses"


async def test_auto_does_not_keep_what_nobody_returns_to() -> None:
    """Before evidence nothing is spent: the prior is below break-even."""
    async with warming("auto") as service:
        for number in range(5):
            await done(service, service.generate(ask(user(f"Case {number}? {SAY}"), session=f"s{number}")))
        await passing(service, 700)
        assert warms(service) == []


async def test_an_idle_shared_prefix_is_kept_by_the_policy_that_says_so() -> None:
    """One read before each TTL ends, of tools and system alone: nobody's words are sent again."""
    async with warming("shared") as service:
        await done(service, service.generate(ask(user(f"Which tickets are overdue? {SAY}"), strategy=C)))
        written = service.invoice.lines[0].write_5m_tokens
        await passing(service, 1200)
        pings = warms(service)
        assert len(pings) == 4
        assert {line.read_tokens for line in pings} == {written}
        settlements = await service.settled(5)
        assert {each.intent.session for each in settlements if each.intent.purpose is Purpose.WARM} == {""}
        # Nor is it one tenant's bill: it is kept for all of the application's.
        assert {each.intent.tenant for each in settlements if each.intent.purpose is Purpose.WARM} == {""}


@pytest.mark.parametrize("sessions", [("a", "b", "c"), ("", "", "")], ids=["sessions", "none"])
async def test_other_sessions_do_not_end_the_upkeep_of_what_they_share(
    sessions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session's first request reads tools and system; they are watched on, beside each session's own."""
    schedules: list[Schedule] = []
    init = Schedule.__init__

    def noted(self: Schedule) -> None:
        init(self)
        schedules.append(self)

    monkeypatch.setattr(Schedule, "__init__", noted)
    async with warming("auto") as service:
        for number, session in enumerate(sessions):
            request = ask(
                user(f"Which tickets of customer {number} are overdue? {SAY}"),
                strategy=C,
                session=session,
                context=(prose(f"Known of customer {number}", 400),),
            )
            await done(service, service.generate(request))
        (schedule,) = schedules
        assert sorted(watch.prefix.shared for watch in schedule._watches.values()) == [False] * 3 + [True]


async def test_an_operators_order_is_carried_out_whatever_the_policy() -> None:
    """Usage and cost of the call, the first request reads it; a second order only reads."""
    async with warming("off") as service:
        order = operator_service_pb2.WarmPrefixRequest(application=APPLICATION)
        response = await done(service, service.operator.WarmPrefix(order, timeout=TIMEOUT_S))
        (warm,) = warms(service)
        assert response.cost.total_nano_usd == warm.cost_nano_usd > 0
        assert response.usage.cache_write_1h_tokens == warm.write_1h_tokens > 2000
        await done(service, service.generate(ask(user(f"Which? {SAY}"), strategy=C)))
        assert service.invoice.lines[-1].read_tokens == warm.write_1h_tokens
        again = await done(service, service.operator.WarmPrefix(order, timeout=TIMEOUT_S))
        assert again.usage.cache_read_tokens == warm.write_1h_tokens
        assert "read" in again.verdict


MANNERS = [
    {},
    {"effort": 1},
    {"effort": 3},
    {"tool_choice": 2},
    {"include_thinking": True},
    {"effort": 1, "tool_choice": 2, "include_thinking": True},
]


def in_manner(request: pb.GenerateRequest, manner: dict[str, object]) -> pb.GenerateRequest:
    """The request with these parameters."""
    if "effort" in manner:
        request.prompt.effort = manner["effort"]
    if "tool_choice" in manner:
        request.prompt.tool_choice.mode = manner["tool_choice"]
    request.prompt.include_thinking = bool(manner.get("include_thinking"))
    return request


@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: "+".join(manner) or "default")
@pytest.mark.parametrize("level", ["tools", "messages"])
async def test_no_warm_is_sent_that_its_traffic_cannot_read(manner: dict[str, object], level: str) -> None:
    """Effort, tool choice and thinking varied: keep-alives read what traffic wrote, traffic reads what was warmed."""
    settings = SandboxSettings(tool_call_chance=0.0, thinking_level=level)
    for policy, how in (("keep_alive", AUTO), ("shared", C), ("session_start", AUTO)):
        async with warming(policy, settings=settings) as service:
            await done(
                service,
                service.generate(
                    in_manner(ask(user(f"Which tickets are overdue? {SAY}"), strategy=how), manner)
                ),
            )
            await opened(service)
            await passing(service, 295)
            assert warms(service), policy
            await done(service, service.generate(in_manner(turn("And before?"), manner)))
            wrote = [line for line in warms(service) if line.write_5m_tokens + line.write_1h_tokens]
            assert len(wrote) == (policy == "session_start")
            assert service.invoice.lines[-1].read_tokens > 2000, policy


async def test_what_cannot_be_warmed_says_so_and_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    """An output schema: the provider takes no such call of 0 tokens. Verdict, metrics and log say why, the log once."""
    schema = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}'
    telemetry = TelemetryConfig(prometheus_port=free_port())
    async with warming("session_start", telemetry=telemetry) as service:
        request = ask(user("Count."))
        request.prompt.output_schema_json = schema
        await done(service, service.generate(request))
        response = await opened(service)
        assert not response.warm.warmed
        assert "not warmable" in response.warm.reason
        assert "output schema" in response.warm.reason
        await done(service, service.generate(ask(user(f"Else? {SAY}"))))
        mixed = await opened(service, "another")
        assert "differ" in mixed.warm.reason
        again = await opened(service, "a third")
        assert again.warm.reason == mixed.warm.reason
        assert warms(service) == []
        counted = service.app.telemetry._metrics.warms.unwarmable._values
        assert counted == {
            ("session_start", "output_schema"): 1,
            ("session_start", "varied_parameters"): 2,
        }
    assert caplog.text.count("are not warmable (output_schema") == 1
    assert caplog.text.count("are not warmable (varied_parameters") == 1


async def test_refused_warms_open_no_circuit_and_are_not_repeated_at_once() -> None:
    """529 for each: users' calls go on, the provider is left alone for a minute, everything is booked as free."""
    async with warming("session_start") as service:
        service.sandbox.inject(Fault(kind="overloaded", upstream="anthropic", times=30))
        for number in range(25):
            await opened(service, f"held {number}")
            await passing(service, 1)
        settlements = await service.settled(1)
        assert [each.outcome for each in settlements] == [Outcome.REFUSED]
        service.sandbox.reset()
        answer = await done(service, service.generate(ask(user(f"Which? {SAY}"))))
        assert answer.decision.route == routing_pb2.ROUTE_OPUS


async def test_budget_and_pace_hold() -> None:
    """Thirty cents an hour: what does not fit is not sent; two warms a minute."""
    async with warming("session_start", usd_per_hour=0.3) as service:
        for number in range(6):
            await opened(service, f"held {number}", f"Known of {number}")
        await passing(service, 20)
        assert sum(line.cost_nano_usd for line in warms(service)) <= 330_000_000
        assert 1 <= len(warms(service)) < 6
    async with warming("keep_alive", requests_per_minute=2.0) as service:
        for number in range(6):
            await done(service, service.generate(ask(user(f"Case {number}? {SAY}"), session=f"s{number}")))
        await passing(service, 295)
        assert len(warms(service)) == 2


async def test_users_keep_their_share_of_the_rate_limit() -> None:
    """The provider's last answer says how little is left of a minute's input tokens: no warm is sent."""
    for input_tokens, sent in ((26_000, 0), (2_000_000, 1)):
        limits = RateLimits(input_tokens=input_tokens)
        world = replace(SLOW, rate_limits=limits)
        async with warming("session_start", settings=world) as service:
            big = ask(user(f"{prose('The case', 700)} {SAY}"))
            await done(service, service.generate(big))
            response = await opened(service)
            assert response.warm.warmed, "it pays; whether there is room is asked when it is its turn"
            await passing(service, 5)
            assert len(warms(service)) == sent


async def test_a_keep_alive_that_finds_nothing_is_a_miss_and_the_last() -> None:
    """The provider dropped the entry: the ping writes it, which is settled as it is, and no other follows."""
    async with warming("keep_alive") as service:
        await done(service, service.generate(ask(user(f"Which tickets are overdue? {SAY}"))))
        service.sandbox.reset()
        await passing(service, 1200)
        (ping,) = warms(service)
        assert ping.write_5m_tokens + ping.write_1h_tokens > 2000
        settled = (await service.settled(2))[-1]
        assert settled.cache.held is False
        assert settled.cache.miss_cause == "evicted"


async def test_a_keep_alive_that_waited_is_not_sent_once_its_user_is_back() -> None:
    """Two hang for 8 s each; a third waits behind them, and its conversation goes on: it has nothing to keep alive."""
    async with warming("keep_alive") as service:
        for name in ("first", "second", "third"):
            about = user(f"{prose(name, 400)} {SAY}")
            await done(service, service.generate(ask(about, session=name)))
        begun = service.invoice.lines[0].time
        service.sandbox.inject(Fault(kind="stall", stall_s=8.0, upstream="anthropic", times=2))
        await passing(service, begun + 296 - service.clock.now())
        again = ask(
            user(f"{prose('third', 400)} {SAY}"),
            assistant("Three."),
            user(f"And before? {SAY}"),
            session="third",
        )
        await done(service, service.generate(again))
        await passing(service, 20)
        settled = await service.settled(6)
        kept = [each.intent.session for each in settled if each.intent.purpose is Purpose.WARM]
        assert kept == ["first", "second"]


async def test_nothing_is_kept_warm_for_a_session_that_was_closed() -> None:
    """Closed while idle: what its users said is forgotten here as well, and no keep-alive follows."""
    async with warming("keep_alive") as service:
        for name in ("closed", "held"):
            await opened(service, name, f"Known of {name}")
            asked = turn("Which tickets are overdue?", name)
            asked.constraints.expected_follow_up_count = 9
            await done(service, service.generate(asked))
        closing = session_service_pb2.CloseSessionRequest(session="closed", tenant="acme")
        await SessionServiceStub(service.channel).CloseSession(closing, timeout=TIMEOUT_S)
        await passing(service, 1200)
        assert len(warms(service)) == 3, "those of the session that is still held"


async def test_the_end_of_the_service_breaks_a_warm_off_and_books_it() -> None:
    """Clean stop: an intent is never left open."""
    async with warming("session_start") as service:
        service.sandbox.inject(Fault(kind="stall", stall_s=500.0, upstream="anthropic"))
        await opened(service)
        await service.clock.held(1)
        ledger = service.ledger
        stats = ledger.stats
    assert stats().intents == stats().settlements == 1


async def test_a_warm_is_a_trace_of_its_own_linked_to_its_cause() -> None:
    """Root span with the trigger; score, plan, call and settlement below it; the cause's span by link."""
    async with tapped() as tap:
        async with warming("session_start", environ=tap.environ) as service:
            await SessionServiceStub(service.channel).OpenSession(
                session_service_pb2.OpenSessionRequest(
                    session="held",
                    application=APPLICATION,
                    tenant="acme",
                    user_context=[context_of("ann")],
                ),
                timeout=TIMEOUT_S,
                metadata=(("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),),
            )
            await passing(service, 3)
            assert len(warms(service)) == 1
        spans = tap.spans()
    by_name = {span.name: span for span in spans}
    root = by_name[names.SPAN_WARM]
    assert root.attributes[names.WARM_TRIGGER] == "session_start"
    inference = by_name["chat claude-opus-5-5"]
    assert inference.attributes[names.PURPOSE] == "warm"
    assert inference.trace_id == root.trace_id != "0af7651916cd43dd8448eb211c80319c"
    assert not root.parent_span_id
    (cause,) = (span for span in spans if span.kind == "SERVER")
    assert root.links == ((cause.trace_id, cause.span_id),)
    assert cause.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert root.attributes[names.WARM_RESULT] == "written"
    assert root.attributes[names.APPLICATION] == APPLICATION
    assert root.attributes[names.COST_USD] > 0


async def test_each_keep_alive_is_linked_to_the_request_that_left_its_prefix() -> None:
    """Three of one turn to that turn, whose trace they are not part of; their calls name their own trace."""
    async with tapped() as tap:
        async with warming("keep_alive", environ=tap.environ) as service:
            await done(service, service.generate(ask(user(f"Which tickets are overdue? {SAY}"))))
            await passing(service, 900)
            settled = await service.settled(4)
        spans = tap.spans()
    (cause,) = (span for span in spans if span.name.endswith("RouterService/Generate"))
    roots = [span for span in spans if span.name == names.SPAN_WARM]
    assert [root.links for root in roots] == [((cause.trace_id, cause.span_id),)] * 3
    assert {root.attributes[names.WARM_TRIGGER] for root in roots} == {"idle"}
    assert len({root.trace_id for root in roots} | {cause.trace_id}) == 4
    assert [each.intent.trace_id for each in settled[1:]] == [root.trace_id for root in roots]
    assert [each.intent.request_id for each in settled[1:]] == [
        root.attributes[names.REQUEST_ID] for root in roots
    ]


async def costs(service: Service, **where: str) -> operator_service_pb2.WarmReport | None:
    """What GetCosts says of warms."""
    response = await service.operator.GetCosts(
        operator_service_pb2.GetCostsRequest(**where), timeout=TIMEOUT_S
    )
    return response.warms if response.HasField("warms") else None


async def test_costs_say_what_became_of_warms() -> None:
    """One read, one that nobody came for, one still open; per tenant; the spending is the invoice's."""
    async with warming("session_start") as service:
        assert await costs(service) is None
        for name in ("read", "left"):
            await opened(service, name, f"Known of {name}")
            await passing(service, 3)
        await done(service, service.generate(turn("Which tickets are overdue?", "read")))
        await passing(service, 300)
        await opened(service, "open", "Known of the third")
        await passing(service, 3)
        report = await costs(service)
        assert (report.used_count, report.wasted_count, report.open_count) == (1, 1, 1)
        assert report.spent_nano_usd == sum(line.cost_nano_usd for line in warms(service)[:2])
        assert not report.HasField("benefit_nano_usd"), "nothing was held out"
        assert (await costs(service, tenant="other")).used_count == 0


async def test_what_is_held_out_is_counted_and_not_sent() -> None:
    """Every one here; the verdict says so."""
    async with warming("session_start", hold_out=1.0) as service:
        response = await opened(service)
        await passing(service, 310)
        assert not response.warm.warmed
        assert "held out" in response.warm.reason
        assert warms(service) == []
        assert (await costs(service)).held_out_count == 1


async def test_a_tenant_whose_warms_lose_is_switched_off() -> None:
    """Nobody ever comes: after thirty the thirty-first is not sent."""
    async with warming("session_start", requests_per_minute=1000.0) as service:
        for number in range(30):
            await opened(service, f"held {number}", f"Known of {number}")
        await passing(service, 400)
        assert len(warms(service)) == 30
        response = await opened(service, "one more", "Known of one more")
        assert "cost more than they brought" in response.warm.reason
        await passing(service, 5)
        assert len(warms(service)) == 30


async def test_a_session_that_is_held_out_stays_so_for_the_window() -> None:
    """An action repeated is one decision: drawn again it would be warmed after all, and the hold-out shows nothing."""
    async with warming("predictive", actions=("upload_document",), hold_out=1.0) as service:
        await opened(service)
        for _ in range(5):
            assert "held out" in (await reported(service, "upload_document")).reason
            await passing(service, 10)
        await done(service, service.generate(turn("Which tickets are overdue?")))
        report = await costs(service)
        assert (report.held_out_count, report.open_count) == (1, 0)
        await service.ledger.flush()
        (row,) = await service.ledger.warms(("trigger",))
        assert row.came == 1, "it came in the window, and read nothing"


async def test_an_operators_order_that_is_broken_off_is_answered() -> None:
    """The task that sends warms ends while the call runs: whoever waits for it is told."""
    async with warming("off") as service:
        service.sandbox.inject(Fault(kind="stall", stall_s=500.0, upstream="anthropic"))
        order = operator_service_pb2.WarmPrefixRequest(application=APPLICATION)
        asking = asyncio.ensure_future(service.operator.WarmPrefix(order, timeout=TIMEOUT_S))
        await service.clock.held(1)
        (task,) = (each for each in asyncio.all_tasks() if each.get_name() == "warm prefixes")
        task.cancel()
        assert "is ending" in (await asking).verdict


async def test_a_warm_that_was_ordered_twice_is_one_decision_and_is_judged() -> None:
    """The second order comes before the first is sent: one call, and its cost has a verdict under the call's name."""
    async with warming("predictive", actions=("upload_document",)) as service:
        await opened(service)
        assert (await reported(service, "upload_document")).warmed
        again = await reported(service, "upload_document")
        await passing(service, 400)
        report = await costs(service)
        (warm,) = warms(service)
        assert (report.wasted_count, report.spent_nano_usd) == (1, warm.cost_nano_usd)
        assert "on its way" in again.reason


@asynccontextmanager
async def cached_by(strategy: str, policy: str = "session_start") -> AsyncIterator[Service]:
    """A router that warms, whose application is cached by this strategy."""
    desk = msgspec.structs.replace(DESK, cache_strategy=strategy)
    # By actions alone: what the classifier makes of a turn on Flash is another's matter.
    wanted = WarmingConfig(policy=policy, usd_per_hour=1000.0, actions=("upload_document",), score=1.0)
    async with serving(
        config(warming=wanted, applications={APPLICATION: desk}), settings=SLOW, timer=VirtualTimer
    ) as service:
        yield service


async def test_an_application_that_caches_nothing_is_not_warmed() -> None:
    """By its settings, or by how its last request was asked: nobody would read it, and the verdict says so."""
    async with cached_by("none") as service:
        response = await opened(service)
        assert not response.warm.warmed
        assert "not warmable" in response.warm.reason
        assert "without caching" in response.warm.reason
        order = operator_service_pb2.WarmPrefixRequest(application=APPLICATION)
        assert "without caching" in (await service.operator.WarmPrefix(order, timeout=TIMEOUT_S)).verdict
        await passing(service, 5)
        assert warms(service) == []
    async with cached_by("c") as service:
        uncached = generate(user(f"Which? {SAY}"), route=OPUS, session="s", no_cache=True)
        await done(service, service.generate(uncached))
        assert "without caching" in (await opened(service)).warm.reason
        cached = generate(user(f"Which? {SAY}"), route=OPUS, session="s")
        await done(service, service.generate(cached))
        assert (await opened(service, "another", "Known of another")).warm.warmed


@pytest.mark.parametrize(
    ("strategy", "reads_history"), [("a", False), ("b", False), ("c", True), ("auto", True)]
)
async def test_what_is_warmed_ahead_is_what_its_traffic_marks(strategy: str, reads_history: bool) -> None:
    """A session that has talked on Flash: history is warmed where its strategy reads it, and all is read."""
    async with cached_by(strategy, "predictive") as service:
        await opened(service)
        asked = generate(user(f"{prose('Told', 60)} {SAY}"), route=FLASH, session="held", application="")
        await done(service, service.generate(asked))
        assert (await reported(service, "upload_document")).warmed
        await warm_sent(service)
        (warm,) = warms(service)
        wrote = warm.write_5m_tokens + warm.write_1h_tokens
        assert (wrote > 25_500) == reads_history
        then = generate(user(f"And now? {SAY}"), route=OPUS, session="held", application="")
        await done(service, service.generate(then))
        assert service.invoice.lines[-1].read_tokens == wrote
