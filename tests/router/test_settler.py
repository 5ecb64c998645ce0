"""An attempt's end: closed once, booked once, billed for what was seen and never for less than is known."""

import asyncio
import logging

import pytest

from classifier.route import Route
from router import errors
from router.call import FinishReason, Text
from router.errors import InvalidRequest, LedgerUnavailable, UpstreamOverloaded
from router.reply import Reply, Started, TextDelta, ThinkingDelta, ToolCallDelta, UsageSeen
from router.settlement import Outcome
from router.settler import Attempt
from router.spending import Limits, Spending
from router.usage import Usage
from tests.router.rig import START_TIME_S, Rig, asked, rigged, said

USAGE = Usage(input_tokens=1000, cache_read_tokens=600, cache_write_5m_tokens=100, output_tokens=50)
LEFT = asyncio.CancelledError()
BEGUN = Usage(
    input_tokens=1000, cache_read_tokens=600, cache_write_5m_tokens=100, output_tokens=1, complete=False
)


def reply(usage: Usage | None = USAGE, model: str = "claude-opus-5-5") -> Reply:
    """A finished answer."""
    return Reply(
        parts=(Text("Three."),),
        finish_reason=FinishReason.END_TURN,
        usage=usage,
        model=model,
        response_id="msg-1",
        upstream_request_id="req-1",
    )


def opened(
    rig: Rig, *, route: Route = Route.OPUS, stream: bool = True, number: int = 1, request_id: str = "r-1"
) -> Attempt:
    """An attempt under way."""
    prepared = rig.prepare(asked(route=route, request_id=request_id, session="s"))
    return rig.settler.open(prepared, route, number=number, stream=stream, trace_id="t", fell_back=False)


async def counted(rig: Rig, tokens: int | None) -> list[str]:
    """Let the provider's counter answer `tokens`; the texts it was asked to count."""
    texts: list[str] = []

    async def count_output(text: str, timeout_s: float) -> int | None:
        texts.append(text)
        return tokens

    for upstream in rig.upstreams.values():
        upstream.count_output = count_output
    return texts


async def test_an_answer_is_booked_with_its_price():
    """Usage, cost by part, ids and decision are in the record; the record is in the ledger when the call returns."""
    async with rigged() as rig:
        attempt = opened(rig)
        settlement = attempt.answered(reply())
        assert await rig.settlements() == [settlement]
        price = rig.settler.prices.price("claude-opus-5-5", rig.clock.now())
        per_input, per_read, *_ = price.for_input(1000).femto_usd
    assert settlement.outcome is Outcome.OK
    assert settlement.cost.uncached_input_nano_usd == 300 * per_input // 1_000_000
    assert settlement.cost.cache_read_nano_usd == 600 * per_read // 1_000_000
    assert (settlement.response_id, settlement.upstream_request_id) == ("msg-1", "req-1")
    assert settlement.decision.route == "opus"
    assert settlement.counterfactuals.no_caching_nano_usd > settlement.cost.total_nano_usd


async def test_nothing_is_sent_without_a_journalled_intent():
    """When the ledger cannot take the intent, opening fails: the caller of `open` has nothing to send with."""
    async with rigged() as rig:
        prepared = rig.prepare(asked())
        await rig.ledger.close()
        with pytest.raises(LedgerUnavailable):
            rig.settler.open(prepared, Route.OPUS, number=1, stream=False, trace_id="", fell_back=False)


async def test_the_bound_covers_the_dearest_end():
    """Prompt written at its dearest and the longest answer cost no more than the intent's bound."""
    async with rigged() as rig:
        for number, route in enumerate(Route):
            attempt = opened(rig, route=route, request_id=f"r-{number}")
            tokens = attempt._prepared.views[route].plan.total_tokens
            written = Usage(
                input_tokens=tokens,
                cache_write_5m_tokens=tokens if route is Route.OPUS else 0,
                output_tokens=400,
            )
            settlement = attempt.answered(reply(written, rig.upstreams[route].model))
            assert settlement.cost.total_nano_usd <= attempt.intent.cost_bound_nano_usd


@pytest.mark.parametrize(
    ("error", "outcome", "free"),
    [
        (errors.UpstreamOverloaded("anthropic", "busy"), Outcome.REFUSED, True),
        (errors.UpstreamRejected("anthropic", "no"), Outcome.REFUSED, True),
        (errors.UpstreamTimeout("anthropic", "late"), Outcome.UNKNOWN, False),
        (errors.UpstreamMalformed("anthropic", "garbled"), Outcome.UNKNOWN, False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_failure_is_free_only_when_it_was_refused(error, outcome, free):
    """Refused is 0 for certain; whatever may have been billed is unknown, with the intent's bound."""
    async with rigged() as rig:
        settlement = opened(rig).failed(error)
        totals = await rig.settlements() and await rig.ledger.totals()
    assert (settlement.outcome, settlement.usage, settlement.error) == (outcome, None, error.reason)
    assert (settlement.cost is None) is not free
    assert totals.unknown_calls == (not free)
    assert (totals.unknown_bound_nano_usd > 0) is not free


async def test_leaving_before_any_byte_is_unknown():
    """The provider may have worked on it: no usage, no cost, not 0."""
    async with rigged() as rig:
        attempt = opened(rig)
        attempt.left(LEFT)
        (settlement,) = await rig.settlements()
    assert (settlement.outcome, settlement.usage, settlement.cost) == (Outcome.CANCELLED, None, None)


async def test_leaving_midway_bills_what_was_seen():
    """Input as told at the start, output as the provider counts the text that came after its last count."""
    async with rigged() as rig:
        texts = await counted(rig, 33)
        attempt = opened(rig)
        for chunk in (
            Started("claude-opus-5-5", "msg-1", "req-1", BEGUN),
            ThinkingDelta(0, "Let me see."),
            TextDelta(1, "Three tic"),
            TextDelta(1, "kets"),
            ToolCallDelta(2, "c1", "find", '{"a":'),
            ToolCallDelta(2, "", "", "1}"),
        ):
            attempt.see(chunk)
        attempt.left(LEFT)
        await rig.tasks.drain(5.0)
        (settlement,) = await rig.settlements()
    assert texts == ['Let me see.\nThree tickets\nfind\n{"a":1}']
    assert settlement.usage.output_tokens == 33
    assert settlement.usage.input_tokens == 1000
    assert not settlement.usage.complete
    assert settlement.cost.total_nano_usd > 0
    assert (settlement.response_id, settlement.answered_model) == ("msg-1", "claude-opus-5-5")


async def test_a_count_in_the_stream_replaces_what_it_includes():
    """Text before a cumulative count, and the pieces it says it includes, are not counted again."""
    async with rigged() as rig:
        texts = await counted(rig, 7)
        attempt = opened(rig)
        attempt.see(Started("claude-opus-5-5", "msg-1", "", BEGUN))
        attempt.see(TextDelta(0, "counted"))
        attempt.see(UsageSeen(Usage(input_tokens=1000, output_tokens=40, complete=False), 1))
        attempt.see(TextDelta(0, "included"))
        attempt.see(TextDelta(0, "since"))
        attempt.left(LEFT)
        await rig.tasks.drain(5.0)
        (settlement,) = await rig.settlements()
    assert texts == ["since"]
    assert settlement.usage.output_tokens == 47


async def test_a_last_count_needs_no_counter():
    """Nothing came after the provider's own count: it is booked at once and nobody is asked."""
    async with rigged() as rig:
        texts = await counted(rig, 7)
        attempt = opened(rig)
        attempt.see(Started("claude-opus-5-5", "msg-1", "", BEGUN))
        attempt.see(UsageSeen(Usage(input_tokens=1000, output_tokens=40, complete=False)))
        settlement = attempt.failed(errors.UpstreamInterrupted("anthropic", "broke"))
    assert texts == []
    assert (settlement.outcome, settlement.usage.output_tokens) == (Outcome.INTERRUPTED, 40)


async def test_without_a_counter_only_what_the_provider_counted_is_booked():
    """The counter that does not answer costs exactness, not the record; the books stay a floor."""
    async with rigged() as rig:
        await counted(rig, None)
        attempt = opened(rig)
        attempt.see(Started("claude-opus-5-5", "msg-1", "", BEGUN))
        attempt.see(UsageSeen(Usage(input_tokens=1000, output_tokens=7, complete=False)))
        attempt.see(TextDelta(0, "x" * 400))
        attempt.left(LEFT)
        await rig.tasks.drain(5.0)
        (settlement,) = await rig.settlements()
    assert (settlement.usage.output_tokens, settlement.usage.complete) == (7, False)


@pytest.mark.fault_expected
@pytest.mark.parametrize("failure", [asyncio.CancelledError(), RuntimeError("bug")], ids=["cancelled", "bug"])
async def test_a_counter_that_fails_does_not_lose_the_record(failure, caplog: pytest.LogCaptureFixture):
    """Cancelled at shutdown or broken: what the provider counted is booked in its `finally`."""
    async with rigged() as rig:

        async def count_output(text: str, timeout_s: float) -> int | None:
            raise failure

        rig.upstreams[Route.OPUS].count_output = count_output
        attempt = opened(rig)
        attempt.see(Started("claude-opus-5-5", "msg-1", "", BEGUN))
        attempt.see(TextDelta(0, "some text"))
        with caplog.at_level(logging.CRITICAL):
            attempt.left(LEFT)
            await rig.tasks.drain(5.0)
        (settlement,) = await rig.settlements()
    assert (settlement.usage.output_tokens, settlement.usage.complete) == (BEGUN.output_tokens, False)


async def test_an_attempt_is_closed_once():
    """Leaving after the answer, or twice, books nothing more; also while the tokens are still being counted."""
    async with rigged() as rig:
        await counted(rig, 5)
        attempt = opened(rig)
        attempt.answered(reply())
        attempt.left(LEFT)
        assert len(await rig.settlements()) == 1
        other = opened(rig, request_id="r-2")
        other.see(Started("claude-opus-5-5", "msg-2", "", BEGUN))
        other.see(TextDelta(0, "text"))
        other.left(LEFT)
        other.left(LEFT)
        await rig.tasks.drain(5.0)
        assert len(await rig.settlements()) == 2
        assert rig.ledger.stats().repeated == rig.ledger.stats().conflicting == 0


@pytest.mark.fault_expected
async def test_a_fault_in_learning_does_not_touch_the_bill(caplog: pytest.LogCaptureFixture):
    """What the index makes of a call is its own affair: the call is booked all the same, and the fault is logged."""
    async with rigged() as rig:

        def broken(*args, **kwargs):
            raise RuntimeError("index")

        rig.settler.beliefs.learn = broken
        settlement = opened(rig).answered(reply())
        assert await rig.settlements() == [settlement]
    assert settlement.cost is not None
    assert settlement.cache is None
    assert "learning from request r-1 failed" in caplog.text


async def test_an_unknown_model_has_no_price_and_no_cost():
    """A model the table does not know answers: its tokens are booked, its cost is unknown."""
    async with rigged() as rig:
        settlement = opened(rig).answered(reply(model="claude-opus-99"))
        await rig.settlements()
        totals = await rig.ledger.totals()
    assert settlement.usage == USAGE
    assert settlement.cost is None
    assert (totals.unknown_calls, totals.cost.total_nano_usd) == (1, 0)


async def test_an_answer_is_learnt_from():
    """The session remembers its route, the forecast the length, the index what can be read now."""
    async with rigged() as rig:
        text = " ".join(f"Rule {number}: name the record." for number in range(200))
        request = asked(said("Which?"), route=Route.OPUS, session="s", system=(text,))
        prepared = rig.prepare(request)
        assert prepared.views[Route.OPUS].plan.expected_read_tokens == 0
        attempt = rig.settler.open(prepared, Route.OPUS, number=1, stream=False, trace_id="", fell_back=False)
        rendered = rig.preparation.rendered_for(prepared, Route.OPUS)
        answer = await rig.upstreams[Route.OPUS].generate(rendered, prepared.plan_for(Route.OPUS), 5.0)
        attempt.answered(answer)
        rig.clock.advance(10)
        again = rig.prepare(request).views[Route.OPUS].plan
        assert again.full_read_tokens == answer.usage.cache_write_tokens > 0
        assert rig.memory.recall("acme", "s").route is Route.OPUS
        assert rig.forecast.expect("", Route.OPUS, 4096) == answer.usage.output_tokens


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (asyncio.CancelledError(), Outcome.CANCELLED, "CANCELLED"),
        (errors.NotSupported("no counterpart"), Outcome.REFUSED, "NOT_SUPPORTED"),
        (ZeroDivisionError(), Outcome.UNKNOWN, "INTERNAL"),
    ],
)
async def test_a_fault_of_ours_is_not_booked_as_a_caller_who_left(error, outcome, reason):
    """An operator tells callers leaving from our own faults, after which nobody knows what the provider did."""
    async with rigged() as rig:
        opened(rig).left(error)
        (settlement,) = await rig.settlements()
    assert (settlement.outcome, settlement.error) == (outcome, reason)


async def test_a_broken_off_answer_is_booked_when_its_counter_can_no_longer_run():
    """The service is ending and its owner of background work has ended: the provider's own count is booked."""
    async with rigged() as rig:
        attempt = opened(rig, stream=True)
        attempt.see(Started("claude-opus-5-5", "msg_1", "req_1", BEGUN))
        attempt.see(TextDelta(0, "words " * 40))
        rig.tasks._closed = True
        attempt.left(LEFT)
        (settlement,) = await rig.settlements()
        rig.tasks._closed = False
    assert settlement.outcome is Outcome.CANCELLED
    assert settlement.usage.output_tokens == BEGUN.output_tokens
    assert settlement.usage.complete is False


async def test_what_the_day_sets_aside_for_an_attempt_is_given_back_however_it_ends() -> None:
    """Answered, refused, cancelled, never sent, of unknown cost; the first attempt and those after it.

    What is set aside is what the route it takes is expected to cost, whichever was decided on.
    """
    day = Spending(Limits(day_nano_usd=10**12), START_TIME_S)
    async with rigged(spending=day) as rig:
        prepared = rig.prepare(asked(route=Route.OPUS))
        expected = {route: estimate.expected_nano_usd for route, estimate in prepared.estimates.items()}
        for number, route in enumerate((Route.FLASH, Route.OPUS, Route.OPUS, Route.FLASH), 1):
            for how in (
                UpstreamOverloaded("x", "busy"),
                asyncio.CancelledError(),
                RuntimeError("a fault"),
                InvalidRequest("messages", "not this"),
            ):
                attempt = rig.settler.open(
                    prepared, route, number=number, stream=False, trace_id="", fell_back=number > 1
                )
                assert day.day is not None
                assert day.day.open_nano_usd == attempt.reserved_nano_usd == expected[route] > 0
                if isinstance(how, UpstreamOverloaded):
                    attempt.failed(how)
                else:
                    attempt.left(how)
                    attempt.left(how)
                assert day.day.open_nano_usd == 0
        rig.ledger.journal_intent = _not_now  # type: ignore[method-assign]
        with pytest.raises(LedgerUnavailable):
            rig.settler.open(prepared, Route.OPUS, number=5, stream=False, trace_id="", fell_back=True)
        assert day.day.open_nano_usd == 0


def _not_now(intent: object) -> None:
    raise LedgerUnavailable("the disk is full")
