"""The probe: in each world of the sandbox it finds that world's answer, for the money it says, within its cap."""

import asyncio
from dataclasses import replace

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.facts import VERDICTS, FactId, Verdict
from cache.rules import known_models, rules_for
from router.errors import UpstreamUnauthorized
from router.ledger import Filter, Ledger
from router.pricing import PriceTable
from router.probe.evidence import (
    LATE_S,
    Sighting,
    contradicted,
    judge,
    latency_line,
    open_verdicts,
    settle,
)
from router.probe.experiments import Seen, experiments
from router.probe.prompts import WORDS, bound_nano_usd, call_of, expected_nano_usd, plan_of, text_of
from router.probe.run import Answered, Budget, Capped, Probe, Waiting
from router.sandbox import Fault, Sandbox, SandboxSettings, VirtualClock
from router.tasks import Tasks
from router.upstreams.anthropic import AnthropicUpstream

START_S = 1_795_348_800.0
MODEL = "claude-opus-5-5"
MADE = experiments(512)
FACTS = list(FactId)
DOLLAR = 1_000_000_000


class Run:
    """One probe against one sandbox, with what it told."""

    def __init__(self, settings=None, *, model=MODEL, cap=DOLLAR, ledger=None, name="run", **changes):
        settings = settings or SandboxSettings()
        self.clock = VirtualClock(START_S)
        self.sandbox = Sandbox(replace(settings, latency_scale=1.0, **changes), self.clock)
        self.events = []
        self.prices = PriceTable()
        self.model, self.cap, self.ledger, self.name = model, cap, ledger, name

    async def __call__(self, facts, trials=2):
        made = experiments(rules_for(self.model).minimum_tokens)
        async with httpx2.AsyncClient(transport=self.sandbox.transport()) as http, Tasks() as tasks:
            self.probe = Probe(
                upstream=AnthropicUpstream(model=self.model, api_key="k", http_client=http),
                prices=self.prices,
                clock=self.clock,
                sleep=self.clock.sleep,
                cap_nano_usd=self.cap,
                name=self.name,
                ledger=self.ledger,
                tell=self.events.append,
                tick_s=60.0,
            )
            tasks.start(self.clock.run(), "virtual clock")
            try:
                await self.probe.run([made[fact] for fact in facts], trials)
            finally:
                await tasks.drain(0.0)
        return {fact: self.probe.finding(fact) for fact in facts}

    @property
    def sent(self):
        return [event.sighting for event in self.events if isinstance(event, Answered)]


# --- both worlds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact", "world", "verdict"),
    [
        (FactId.A1_MARKED, {"refresh": "hit"}, Verdict.NO),
        (FactId.A1_MARKED, {"refresh": "marked"}, Verdict.YES),
        (FactId.A1_MARKED, {"refresh": "all"}, Verdict.YES),
        (FactId.A1_UNMARKED, {"refresh": "hit"}, Verdict.NO),
        (FactId.A1_UNMARKED, {"refresh": "marked"}, Verdict.NO),
        (FactId.A1_UNMARKED, {"refresh": "all"}, Verdict.YES),
        (FactId.A2, {"layered_entries": False}, Verdict.YES),
        (FactId.A2, {"layered_entries": True}, Verdict.NO),
        (FactId.A3, {"hit_upgrades_ttl": False}, Verdict.NO),
        (FactId.A3, {"hit_upgrades_ttl": True}, Verdict.FREE),
        (FactId.A3, {"hit_upgrades_ttl": "billed"}, Verdict.BILLED),
        (FactId.A5, {"unmarked_disturbs": False}, Verdict.NO),
        (FactId.A5, {"unmarked_disturbs": True}, Verdict.YES),
        (FactId.A6, {"prewarm_with_adaptive": False}, Verdict.NO),
        (FactId.A6, {"prewarm_with_adaptive": True}, Verdict.YES),
    ],
)
async def test_each_world_is_told_from_the_other(fact, world, verdict):
    """Through the real SDK; and not by luck: what decides in one world decides otherwise in the other."""
    run = Run(**world)
    assert (await run([fact]))[fact] == (verdict, "", None)
    assert run.sandbox.invoice.totals().cost_nano_usd == run.probe.budget.spent


@pytest.mark.parametrize("kappa_s", [20e-6, 40e-6, 120e-6])
@pytest.mark.parametrize("t0_s", [0.3, 0.8])
async def test_latency_is_measured(kappa_s, t0_s):
    """A4: the two numbers of the line the sandbox answers by, to within a hundredth."""
    latency = replace(SandboxSettings().anthropic_latency, t0_s=t0_s, kappa_s_per_token=kappa_s)
    found = (await Run(anthropic_latency=latency)([FactId.A4]))[FactId.A4]
    assert found.verdict is Verdict.MEASURED
    assert found.latency.first_byte_s == pytest.approx(t0_s, rel=0.01)
    assert found.latency.prefill_s_per_token == pytest.approx(kappa_s, rel=0.01)


async def test_the_facts_do_not_disturb_each_other():
    """All at once, interleaved over fifteen minutes, in a world where most differ from what is assumed."""
    run = Run(refresh="all", layered_entries=True, hit_upgrades_ttl=True, unmarked_disturbs=True)
    found = await run(FACTS, trials=3)
    assert {fact: each.verdict.value for fact, each in found.items()} == {
        FactId.A1_MARKED: "yes",
        FactId.A1_UNMARKED: "yes",
        FactId.A2: "no",
        FactId.A3: "free",
        FactId.A4: "measured",
        FactId.A5: "yes",
        FactId.A6: "yes",
    }
    assert 900 <= run.clock.now() - START_S < 1000


@pytest.mark.parametrize(
    "model", ["claude-opus-4-5-20251101", "claude-opus-4-7", "claude-haiku-4-5-20251001"]
)
async def test_other_minimums_and_prices_are_probed_alike(model):
    """A prefix is as long as its model needs, and marks are never too short to count."""
    run = Run(model=model, refresh="marked", cap=5 * DOLLAR)
    found = await run([FactId.A1_MARKED, FactId.A2, FactId.A6], trials=1)
    assert [each.verdict for each in found.values()] == [Verdict.YES] * 3
    assert run.sandbox.invoice.totals().cost_nano_usd == run.probe.budget.spent


# --- money ----------------------------------------------------------------------------------------------------------


async def test_what_it_says_it_cost_is_the_invoice_and_the_ledger():
    """Every call is booked with purpose "probe" under its fact; three books, one sum."""
    clock = VirtualClock(START_S)
    ledger = Ledger.temporary(clock=clock)
    run = Run(ledger=ledger)
    try:
        await run(FACTS)
        await ledger.flush()
        (row,) = await ledger.costs(("purpose",))
        booked = [each async for each in ledger.settlements(Filter())]
    finally:
        await ledger.close()
    assert row.group == {"purpose": "probe"}
    assert row.cost.total_nano_usd == run.probe.budget.spent == run.sandbox.invoice.totals().cost_nano_usd
    assert run.probe.budget.spent == sum(run.probe.cost_nano_usd(fact) for fact in FACTS)
    assert run.probe.budget.unknown == run.probe.budget.reserved == 0
    assert len(booked) == run.probe.calls == len(run.sent)
    assert {each.intent.labels["fact"] for each in booked} == {fact.value for fact in FACTS}
    for each in booked:
        assert each.cost.total_nano_usd <= each.intent.cost_bound_nano_usd


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95])
async def test_the_cap_holds_and_nothing_is_made_up(share):
    """It stops before the call that could break it; what is not settled by then is unknown, never guessed."""
    whole = Run()
    await whole([FactId.A2, FactId.A5], trials=2)
    run = Run(cap=int(whole.probe.budget.spent * share))
    found = await run([FactId.A2, FactId.A5], trials=2)
    assert run.sandbox.invoice.totals().cost_nano_usd == run.probe.budget.spent <= run.cap
    assert isinstance(run.events[-1], Capped)
    assert run.probe.budget.spent + run.events[-1].bound_nano_usd > run.cap
    assert found[FactId.A2].verdict is Verdict.UNKNOWN
    assert "was not sent" in found[FactId.A2].why


async def test_a_lost_answer_counts_at_its_bound():
    """A call that may have been billed without saying takes its worst case from the cap, and decides nothing."""
    run = Run()
    run.sandbox.inject(Fault(kind="cut"))
    found = await run([FactId.A6])
    assert found[FactId.A6].verdict is Verdict.UNKNOWN
    assert run.probe.budget.spent == 0
    assert run.probe.budget.unknown >= run.sandbox.invoice.totals().cost_nano_usd > 0
    assert run.probe.calls == 1  # a trial that cannot decide is not continued


async def test_an_overloaded_provider_leaves_unknown_and_costs_nothing():
    """One refused call spoils its trial only; the other goes on, but both must agree."""
    run = Run()
    run.sandbox.inject(Fault(kind="overloaded"))
    found = await run([FactId.A5], trials=2)
    assert found[FactId.A5].verdict is Verdict.UNKNOWN
    assert found[FactId.A5].why == "1 of 2 trials undecided: 'write' failed: UPSTREAM_OVERLOADED"
    assert run.sandbox.invoice.totals().cost_nano_usd == run.probe.budget.spent > 0


async def test_a_key_that_is_refused_ends_the_run_at_once():
    """Nothing is learnt from being told the same a hundred times."""
    run = Run(anthropic_keys={"another": "w"})
    with pytest.raises(UpstreamUnauthorized):
        await run(FACTS)
    assert run.probe.calls == 1
    assert run.probe.budget.spent == run.probe.budget.unknown == 0


async def test_a_cancelled_run_books_what_it_had_sent_and_keeps_what_it_knew():
    """Leaving in the middle of a wait: finished facts stay decided, the ledger has every call."""
    ledger = Ledger.temporary(clock=VirtualClock(START_S))
    run = Run(ledger=ledger)
    answered = asyncio.Event()

    def tell(event):
        run.events.append(event)
        if isinstance(event, Waiting) and event.fact is FactId.A2 and event.remaining_s > 500:
            answered.set()

    run.events = Listening(tell)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run([FactId.A2, FactId.A6]))
            await answered.wait()
            task.cancel()
        await ledger.flush()
        totals = await ledger.totals()
    finally:
        await ledger.close()
    assert run.probe.finding(FactId.A6).verdict is Verdict.YES
    assert run.probe.finding(FactId.A2).verdict is Verdict.UNKNOWN
    assert totals.cost.total_nano_usd == run.sandbox.invoice.totals().cost_nano_usd


class Listening(list):
    """A list that tells of what is appended to it."""

    def __init__(self, tell):
        super().__init__()
        self._tell = tell

    def append(self, event):
        if event in self:
            return
        super().append(event)
        self._tell(event)


def test_the_estimate_is_what_a_sandbox_bills_to_within_its_token_guess():
    """Estimated before anything is sent, per hypothesis; the bound is above every one of them."""
    adapter = AnthropicUpstream(model=MODEL, api_key="k")
    price = PriceTable().price(MODEL, START_S)
    for experiment in MADE.values():
        steps = list(experiment.requests())
        rendered = [adapter.render(call_of("r", 0, step, "i")) for step in steps]
        bound = sum(bound_nano_usd(step, each, price) for step, each in zip(steps, rendered, strict=True))
        for verdict in experiment.verdicts:
            assert 0 < expected_nano_usd(experiment, verdict, rendered, price) < bound


# --- the experiments as values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize("minimum", sorted({rules.minimum_tokens for rules in known_models()}))
def test_experiments_are_sound(fact, minimum):
    """Every hypothesis expects something of every request, two never expect all the same, marks are long enough."""
    experiment = experiments(minimum)[fact]
    assert set(experiment.verdicts) | {Verdict.UNKNOWN} == VERDICTS[fact]
    assert [step.at_s for step in experiment.steps] == sorted(step.at_s for step in experiment.steps)
    names = [step.name for step in experiment.requests()]
    assert len(names) == len(set(names))
    outlooks = set()
    for verdict in experiment.verdicts:
        outlooks.add(tuple(step.expects[verdict] for step in experiment.requests()))
    assert len(outlooks) == len(experiment.verdicts)
    for step in experiment.requests():
        pieces = (*step.system, *step.turns)
        assert set(step.expects) == set(experiment.verdicts)
        assert len(step.turns) % 2 == 1
        for position, ttl_s in step.marks:
            assert sum(piece.words for piece in pieces[: position + 1]) >= minimum
            assert ttl_s in (300, 3600)


def test_a_step_is_rendered_block_by_piece():
    """Marks are given by piece: the adapter makes one block of each, in the same order."""
    adapter = AnthropicUpstream(model=MODEL, api_key="k")
    for experiment in MADE.values():
        for step in experiment.requests():
            prompt = adapter.render(call_of("r", 0, step, "i")).prompt
            assert len(prompt.blocks) == len(step.system) + len(step.turns)
            plan = plan_of(step, prompt)
            marks = () if plan is None else tuple((mark.position, mark.ttl_s) for mark in plan.breakpoints)
            assert marks == step.marks


@given(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8), st.integers(0, 9), st.integers(0, 9))
def test_no_two_runs_or_trials_share_a_text(run, other_run, trial, other_trial):
    """Same run, trial and piece: same words. Anything else: other words, within the first few."""
    piece = MADE[FactId.A2].steps[0].system[0]
    text = text_of(run, trial, piece)
    assert text == text_of(run, trial, piece)
    assert len(text.split()) == piece.words
    assert set(text.split()) <= set(WORDS)
    if (run, trial) != (other_run, other_trial):
        other = text_of(other_run, other_trial, piece)
        assert text.split()[:16] != other.split()[:16]


# --- verdicts -------------------------------------------------------------------------------------------------------

TOKENS = {
    Seen.READ: {"cache_read_tokens": 500},
    Seen.WROTE: {"cache_write_5m_tokens": 500},
    Seen.PARTLY: {"cache_read_tokens": 400, "cache_write_1h_tokens": 100},
    Seen.NOTHING: {},
    Seen.REFUSED: {"refused": True, "error": "UPSTREAM_REJECTED"},
}


def sighting(step, seen, started_s=None):
    return Sighting(
        step=step.name,
        started_s=step.at_s if started_s is None else started_s,
        first_byte_s=0.5 if step.stream else None,
        input_tokens=600,
        **TOKENS[seen],
    )


def trial_of(experiment, seen_of):
    return {step.name: sighting(step, seen_of(step)) for step in experiment.requests()}


EXPERIMENTS = st.sampled_from(list(MADE.values()))


@given(EXPERIMENTS, st.data())
def test_a_verdict_means_that_all_was_as_it_expects(experiment, data):
    """Whatever is seen: a decision agrees with every request and no other hypothesis does; else it is unknown."""
    seen = {step.name: data.draw(st.sampled_from(list(Seen))) for step in experiment.requests()}
    found = judge(experiment, trial_of(experiment, lambda step: seen[step.name]))
    fitting = [
        verdict
        for verdict in experiment.verdicts
        if all(seen[step.name] is step.expects[verdict] for step in experiment.requests())
    ]
    assert found.verdict is (fitting[0] if len(fitting) == 1 else Verdict.UNKNOWN)
    assert bool(found.why) == (found.verdict is Verdict.UNKNOWN)


@given(EXPERIMENTS, st.data())
def test_a_trial_that_misses_or_delays_a_request_decides_nothing(experiment, data):
    """Unsent, failed, or so late that another age of the entry was tested."""
    verdict = data.draw(st.sampled_from(experiment.verdicts))
    seen = trial_of(experiment, lambda step: step.expects[verdict])
    assert judge(experiment, seen) == (verdict, "")
    step = data.draw(st.sampled_from(list(experiment.requests())))
    before = seen[step.name]
    for spoilt in (
        None,
        msgspec.structs.replace(before, refused=False, error="UPSTREAM_TIMEOUT"),
        msgspec.structs.replace(before, started_s=step.at_s + LATE_S + 1),
    ):
        changed = dict(seen)
        if spoilt is None:
            del changed[step.name]
        else:
            changed[step.name] = spoilt
        found = judge(experiment, changed)
        assert found.verdict is Verdict.UNKNOWN
        assert step.name in found.why or (step.name == "write" and "without marks" in found.why)


@given(EXPERIMENTS, st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_trials_must_all_decide_and_agree(experiment, picks):
    """3/3 is an answer; 2/3 is not, whether the third disagrees or says nothing."""
    if experiment.fact is FactId.A4:
        return
    verdicts = [(*experiment.verdicts, None)[pick % (len(experiment.verdicts) + 1)] for pick in picks]
    trials = [
        {} if verdict is None else trial_of(experiment, lambda step, verdict=verdict: step.expects[verdict])
        for verdict in verdicts
    ]
    found = settle(experiment, trials)
    agreed = len(set(verdicts)) == 1 and verdicts[0] is not None
    assert found.verdict is (verdicts[0] if agreed else Verdict.UNKNOWN)
    assert bool(found.why) != agreed


@given(EXPERIMENTS, st.data())
def test_hypotheses_only_fall(experiment, data):
    """What one more request shows can rule hypotheses out, never bring one back."""
    left, seen = set(experiment.verdicts), {}
    for step in experiment.requests():
        seen[step.name] = sighting(step, data.draw(st.sampled_from(list(Seen))))
        now = set(open_verdicts(experiment, seen))
        assert now <= left
        left = now


def test_a_contradiction_is_more_than_a_gap():
    """Unsent and failed requests contradict nothing; a control that lives on does, and so do two trials at odds."""
    experiment = MADE[FactId.A2]
    yes, no = (
        trial_of(experiment, lambda step, verdict=verdict: step.expects[verdict])
        for verdict in experiment.verdicts
    )
    first = experiment.steps[0].name
    failed = msgspec.structs.replace(yes[first], error="UPSTREAM_TIMEOUT")
    assert not contradicted(experiment, [yes, {}, {first: yes[first]}, {first: failed}])
    assert contradicted(experiment, [yes, no])
    alive = sighting(experiment.steps[-1], Seen.READ)
    assert contradicted(experiment, [yes | {alive.step: alive}])


def test_beside_means_in_flight_together():
    """A request that came after the writer's first byte was beside nothing."""
    experiment = MADE[FactId.A5]
    seen = trial_of(experiment, lambda step: step.expects[Verdict.NO])
    assert judge(experiment, seen).verdict is Verdict.NO
    late = msgspec.structs.replace(seen["without marks"], started_s=0.6)
    found = judge(experiment, seen | {"without marks": late})
    assert found == (Verdict.UNKNOWN, "'without marks' was not in flight beside 'write'")


@given(
    st.floats(0.1, 3.0),
    st.floats(5e-6, 200e-6),
    st.lists(st.integers(50, 9000), min_size=6, max_size=20).filter(lambda sizes: len(set(sizes)) > 2),
)
def test_a_line_without_noise_is_found(t0_s, kappa_s, sizes):
    """Least squares gives back what made the points."""
    line = latency_line([(tokens, t0_s + kappa_s * tokens) for tokens in sizes])
    assert line.first_byte_s == pytest.approx(t0_s, rel=1e-6)
    assert line.prefill_s_per_token == pytest.approx(kappa_s, rel=1e-4)


def test_noise_that_hides_the_slope_is_unknown():
    """A slope within three of its errors is not a measurement; its numbers are told, not used."""
    experiment, times = MADE[FactId.A4], iter([0.5, 2.0, 0.9, 1.4, 0.4, 1.1, 0.8, 1.9, 0.6])
    trials = []
    for _ in range(3):
        seen = trial_of(experiment, lambda step: Seen.NOTHING)
        for place, step in enumerate(experiment.steps):
            seen[step.name] = msgspec.structs.replace(
                seen[step.name], first_byte_s=next(times), input_tokens=(74, 1034, 4106)[place]
            )
        trials.append(seen)
    found = settle(experiment, trials)
    assert found.verdict is Verdict.UNKNOWN
    assert "not clear of its error" in found.why


@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 300), st.none() | st.floats(0, 1)), max_size=30),
)
def test_money_out_never_exceeds_the_cap(cap, calls):
    """Each call costs at most its bound; whoever asks `admits` before each stays under the cap, unknowns included."""
    budget = Budget(cap)
    for bound, share in calls:
        if not budget.admits(bound):
            continue
        budget.reserved += bound
        budget.close(bound, None if share is None else int(bound * share))
        assert budget.spent + budget.unknown <= cap
        assert budget.reserved == 0
