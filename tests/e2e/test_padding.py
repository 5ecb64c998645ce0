"""An application too short to be cached, lengthened by the operator's filler once that is seen to pay: real gRPC, real
SDKs, the sandbox's own bill.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from cache.economics import pad_threshold
from cache.padding import MINIMUM_GAPS
from router.config import ApplicationConfig, CacheConfig, Config, OpusConfig
from router.ledger import Ledger
from router.pricing import PriceTable
from router.sandbox import Fault, InvoiceLine, VirtualClock
from router.v1 import router_service_pb2 as pb
from router.v1 import routing_pb2
from tests.e2e.builders import (
    APPLICATION,
    FLASH,
    OPUS,
    START_TIME_S,
    config,
    generate,
    prose,
    tool_config,
    user,
)
from tests.e2e.service import Service, serving

MODEL = "claude-opus-4-5-20251101"
MINIMUM_TOKENS = 4096
GAP_S = 40.0
REQUEST_COUNT = 60
PADDED_FROM = MINIMUM_GAPS + 1
"""The first request after as many gaps as the evidence takes."""

SHORT = ApplicationConfig(
    system=(prose("Rule", 86),), tools=tuple(tool_config(name) for name in ("search_tickets", "read_account"))
)
"""About 2,700 tokens of tools and system prompt: under the model's minimum."""
FILLER = "\n\n".join(prose(f"Worked example {number},", 6) for number in range(1, 40))
"""More than enough to reach it."""


def settings(filler: str, application: ApplicationConfig = SHORT) -> Config:
    """The model with the highest minimum."""
    return config(
        opus=OpusConfig(model=MODEL),
        cache=CacheConfig(filler=filler),
        applications={APPLICATION: application},
    )


@asynccontextmanager
async def desk(filler: str = "", ledger: Ledger | None = None) -> AsyncIterator[Service]:
    """A running service."""
    async with serving(settings(filler), ledger=ledger) as running:
        yield running


def question(number: int, route: int = OPUS, **more: object) -> pb.GenerateRequest:
    """One of a stream of one-off questions."""
    text = f"Question {number}: which tickets of account {number * 7} are overdue, and who owns them?"
    return generate(user(text), route=route, max_output_tokens=64, **more)


async def ask(service: Service, numbers: Sequence[int], gap_s: float = GAP_S) -> list[pb.GenerateResponse]:
    """Steady traffic; every answer is what `Explain` showed."""
    answers = []
    for number in numbers:
        explained = await service.explain(question(number))
        answered = await service.generate(question(number))
        assert explained.decision == answered.decision
        assert explained.plan == answered.accounting.cache_report.plan
        answers.append(answered)
        service.clock.advance(gap_s)
    return answers


async def ask_until_padded(service: Service) -> pb.GenerateResponse:
    """The first answer with filler in it."""
    return (await ask(service, range(PADDED_FROM + 1)))[-1]


def line_of(service: Service, answer: pb.GenerateResponse) -> InvoiceLine:
    """The provider's bill of one answer."""
    line = service.invoice.find(answer.answer.response_id)
    assert line is not None
    return line


def cost_of(answers: Sequence[pb.GenerateResponse]) -> int:
    """Sum in nano-USD."""
    return sum(answer.accounting.cost.total_nano_usd for answer in answers)


async def decision_line(service: Service, number: int = 0) -> str:
    """What `Explain` says of padding, "" when nothing."""
    explained = await service.explain(question(number))
    return next((line for line in explained.lines if line.startswith("padding")), "")


@pytest.fixture
async def ledger() -> AsyncIterator[Ledger]:
    """A ledger that outlives the service."""
    opened = Ledger.temporary(clock=VirtualClock(START_TIME_S))
    yield opened
    await opened.close()


async def test_steady_traffic_is_padded_after_evidence_and_costs_less(ledger: Ledger):
    """Starts unpadded, pads once, reads from then on, and the sum is far below that of the same traffic unpadded.

    The books equal the provider's bill to the nano-dollar, and every call's filler is on it apart.
    """
    async with desk() as service:
        plain = await ask(service, range(REQUEST_COUNT))
    async with desk(FILLER, ledger) as service:
        padded = await ask(service, range(REQUEST_COUNT))
        lines = [line_of(service, answer) for answer in padded]
        shown = await decision_line(service)
        invoice = service.invoice.lines
    reports = [answer.accounting.cache_report for answer in padded]
    assert [bool(report.padding_tokens) for report in reports] == [False] * PADDED_FROM + [True] * (
        REQUEST_COUNT - PADDED_FROM
    ), "padded once, and without a break"
    assert [bool(line.read_tokens) for line in lines] == [False] * (PADDED_FROM + 1) + [True] * (
        REQUEST_COUNT - PADDED_FROM - 1
    ), "every padded request but the first reads"
    sizes = {line.input_tokens for line in lines[PADDED_FROM:]}
    assert len(sizes) == 1, "the filler neither grows nor shrinks"
    shared_tokens, filler_tokens = lines[0].input_tokens, sizes.pop() - lines[0].input_tokens
    for report, line in zip(reports[PADDED_FROM:], lines[PADDED_FROM:], strict=True):
        assert abs(report.padding_tokens - filler_tokens) <= 0.01 * filler_tokens
        assert line.read_tokens + line.write_1h_tokens + line.write_5m_tokens >= MINIMUM_TOKENS
    needed = pad_threshold(PriceTable().rates(MODEL, START_TIME_S), shared_tokens, MINIMUM_TOKENS)
    print(
        f"{REQUEST_COUNT} requests: ${cost_of(plain) / 1e9:.4f} unpadded, ${cost_of(padded) / 1e9:.4f} padded "
        f"(of it filler ${sum(report.padding_nano_usd for report in reports) / 1e9:.4f}); per request "
        f"${plain[-1].accounting.cost.total_nano_usd / 1e9:.6f} and "
        f"${padded[-1].accounting.cost.total_nano_usd / 1e9:.6f}; break-even at the minimum {needed:.2f}; {shown}"
    )
    assert cost_of(padded) < 0.6 * cost_of(plain)
    assert cost_of(padded) == sum(line.cost_nano_usd for line in invoice)
    totals = await ledger.totals()
    assert totals.cost.total_nano_usd == cost_of(padded)


async def test_the_filler_is_billed_at_what_its_tokens_were_billed():
    """Written for an hour, then read: tokens times the provider's price of that part, exactly."""
    async with desk(FILLER) as service:
        written = await ask_until_padded(service)
        (read,) = await ask(service, [500])
        lines = line_of(service, written), line_of(service, read)
        booked = [each.cache for each in await service.settlements()]
    price = PriceTable().price(MODEL, START_TIME_S)
    _, per_read, _, per_hour, _ = price.femto_usd
    assert lines[0].write_1h_tokens
    assert lines[1].read_tokens
    for answer, record, per_token in zip((written, read), booked[-2:], (per_hour, per_read), strict=True):
        report = answer.accounting.cache_report
        assert report.padding_tokens == record.padding_tokens > 0
        assert report.padding_nano_usd == record.padding_nano_usd
        assert report.padding_nano_usd * 1_000_000 == report.padding_tokens * per_token
        assert 0 < report.padding_nano_usd < answer.accounting.cost.total_nano_usd


async def test_without_caching_nobody_would_pad():
    """The counterfactuals of a padded call are those of the same call unpadded, as far as its length can be told."""
    async with desk() as service:
        plain = await ask_until_padded(service)
    async with desk(FILLER) as service:
        padded = await ask_until_padded(service)
    for name, error in {"no_caching": 0.002, "all_opus_no_caching": 0.002, "all_flash": 0.05}.items():
        without, with_filler = (
            getattr(each.accounting.counterfactuals, f"{name}_nano_usd")
            # The answers differ by a few tokens.
            - (0 if name == "all_flash" else each.accounting.cost.output_nano_usd)
            for each in (plain, padded)
        )
        assert with_filler == pytest.approx(without, rel=error), name


async def test_flash_never_carries_the_filler():
    """Asked by force or in place of a failing Opus, it is billed for the same tokens as without a filler."""
    billed = []
    for filler in ("", FILLER):
        async with desk(filler) as service:
            last = await ask_until_padded(service)
            assert bool(last.accounting.cache_report.padding_tokens) is bool(filler)
            flash = await service.generate(question(900, FLASH))
            service.sandbox.inject(Fault(kind="overloaded", times=2, upstream="anthropic"))
            demanding = question(901, routing_pb2.ROUTE_UNSPECIFIED)
            demanding.constraints.quality_floor = 0.999
            fallen = await service.generate(demanding)
            assert fallen.decision.route == FLASH
            assert fallen.decision.reason == routing_pb2.DECISION_REASON_FALLBACK
            for answer in (flash, fallen):
                report = answer.accounting.cache_report
                assert (report.padding_tokens, report.padding_nano_usd) == (0, 0)
            billed.append([line_of(service, answer).input_tokens for answer in (flash, fallen)])
    assert billed[0] == billed[1]


async def test_without_a_filler_nothing_changes():
    """No line in `Explain`, no filler on a bill, no token more than the prompt."""
    async with desk() as service:
        last = await ask_until_padded(service)
        assert await decision_line(service) == ""
        assert line_of(service, last).read_tokens == 0
        report = last.accounting.cache_report
        assert (report.padding_tokens, report.padding_nano_usd) == (0, 0)


async def test_rare_traffic_is_never_padded():
    """Two hours between requests: nothing would ever be read, and `Explain` says so."""
    async with desk(FILLER) as service:
        answers = await ask(service, range(PADDED_FROM + 4), gap_s=7200)
        assert not any(answer.accounting.cache_report.padding_tokens for answer in answers)
        assert "observed 0.00 over 24 gaps: leave" in await decision_line(service)


async def test_traffic_that_changes_is_followed_at_most_once_an_hour():
    """Busy, then rare, then busy: on, off, on; no other change in between."""
    async with desk(FILLER) as service:
        answers = await ask(service, range(60))
        answers += await ask(service, range(100, 200), gap_s=4000)
        answers += await ask(service, range(200, 460), gap_s=30)
        padded = [bool(answer.accounting.cache_report.padding_tokens) for answer in answers]
    changes = [number for number in range(1, len(padded)) if padded[number] is not padded[number - 1]]
    assert (padded[59], padded[159], padded[-1]) == (True, False, True)
    assert len(changes) == 3, changes


async def test_a_request_with_system_text_of_its_own_is_not_padded():
    """Its shared layers are not everyone's; nor is one that must not be cached."""
    async with desk(FILLER) as service:
        await ask_until_padded(service)
        own = question(950)
        own.prompt.system.append("Speak like a pirate.")
        for request in (own, question(951, no_cache=True)):
            answer = await service.generate(request)
            assert answer.accounting.cache_report.padding_tokens == 0
            assert line_of(service, answer).input_tokens < MINIMUM_TOKENS


async def test_prompts_that_are_cached_anyway_are_not_padded():
    """A person's long context lifts the prefix over the minimum: the shared layers are read with it, filler or not."""
    async with desk(FILLER) as service:
        for number in range(PADDED_FROM + 20):
            request = question(number, person="ann", session="s", context=(prose("What Ann told us,", 130),))
            answer = await service.generate(request)
            assert answer.accounting.cache_report.padding_tokens == 0
            service.clock.advance(GAP_S)
        assert line_of(service, answer).read_tokens > MINIMUM_TOKENS
        assert "padding" in await decision_line(service)
        assert ": leave" in await decision_line(service)


async def test_a_stream_carries_the_filler_on_its_bill():
    """The same figures in the last event, which are the ledger's."""
    async with desk(FILLER) as service:
        await ask_until_padded(service)
        finished = (await service.stream(question(970)))[-1].finished
        report = finished.accounting.cache_report
        record = (await service.settlements())[-1].cache
        assert report.padding_tokens == record.padding_tokens > 1000
        assert report.padding_nano_usd == record.padding_nano_usd > 0


LONG_WORDS = "\n\n".join(
    f"Internationalization {number} notwithstanding organisational responsibilities internationalization. "
    * 6
    for number in range(60)
)
"""Few tokens per byte."""


@pytest.mark.parametrize(
    ("text", "filler", "refused_count"),
    [("Be brief. " * 60, FILLER, 0), ("A b c d. " * 70, LONG_WORDS, 1)],
    ids=["within the margin", "beyond it"],
)
async def test_a_filler_overrated_by_the_estimates_is_lengthened_and_booked_at_its_size(
    text: str, filler: str, refused_count: int
):
    """Shared layers of short words have more tokens per byte than the filler's prose, which the estimates have learnt.

    Nobody counts: what the provider does not cache is lengthened at once, read from then on, and its size is known.

    The unpadded twin says what is the filler's: every padded call's input less that of the same call without. What was
    booked is off by no more than the question, whose own tokens are only estimated.
    """
    opus, cache = OpusConfig(model="claude-opus-5-5"), CacheConfig(count_tokens=False)
    applications = {APPLICATION: ApplicationConfig(system=(text,))}
    filled = CacheConfig(count_tokens=False, filler=filler)
    async with serving(config(opus=opus, cache=cache, applications=applications)) as service:
        plain = [line_of(service, each) for each in await ask(service, range(45))]
    async with serving(config(opus=opus, cache=filled, applications=applications)) as service:
        answers = await ask(service, range(45))
        lines = [line_of(service, each) for each in answers]
    shared_tokens = min(line.input_tokens for line in plain)
    padded = [number for number, each in enumerate(answers) if each.accounting.cache_report.padding_tokens]
    assert padded == list(range(padded[0], 45)), "padded once, and without a break"
    uncached = [number for number in padded if not lines[number].read_tokens + lines[number].write_1h_tokens]
    print(f"shared {shared_tokens}, padded input {[lines[number].input_tokens for number in padded[:4]]}")
    assert len(uncached) == refused_count
    assert all(lines[number].read_tokens >= 512 for number in padded[len(uncached) + 1 :])
    question_tokens = lines[-1].input_tokens - lines[-1].read_tokens
    for number in padded:
        filler_tokens = lines[number].input_tokens - plain[number].input_tokens
        booked = answers[number].accounting.cache_report.padding_tokens
        assert abs(booked - filler_tokens) <= question_tokens, (number, booked, filler_tokens)
