"""The index: honest in a closed world, corrected by usage in an open one, bounded in memory."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.index import PrefixIndex
from cache.plan import Strategy
from cache.prefix import prefix_digests
from cache.prompt import CacheScope
from cache.rules import OpenFacts

requests = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]),
        st.integers(1, 4),
        st.sampled_from([0.4, 3.0, 100.0, 290.0, 301.0, 2000.0, 4000.0]),
        st.sampled_from([Strategy.A, Strategy.B, Strategy.C, Strategy.AUTO]),
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(requests, st.sampled_from(["claude-opus-5-5", "claude-opus-4-7", "claude-opus-4-5"]))
def test_in_a_closed_world_the_provider_bills_what_was_believed(driver_for, saas, steps, model):
    """Alone with the provider, exact counts: each read is the deepest belief in reach, whatever came."""
    driver = driver_for(model)
    now = 0.0
    for user, turns, gap_s, strategy in steps:
        now += gap_s
        planned, usage, learned = driver.call(saas(user, turns, system=2500), now, strategy)
        assert planned.full_read_tokens == usage.read
        assert learned.refuted == ()
        assert learned.held in (None, True)


def warmth(driver, prompt, now):
    beliefs = driver.index.belief(driver.scope, prefix_digests(prompt))
    return [0.0 if belief is None else belief.p_warm(now) for belief in beliefs]


def test_a_write_creates_entries_at_its_marks_with_exact_tokens(driver, saas):
    """The last mark's tokens are exactly what was read and written."""
    _, _, learned = driver.call(saas(), 0, Strategy.B)
    assert learned.written == (1, 2)
    shared, user = driver.index.belief(driver.scope, prefix_digests(saas()))[1:3]
    assert (user.tokens, user.exact, user.ttl_s, user.expires, user.available_from) == (
        2500,
        True,
        300,
        300,
        1,
    )
    assert (shared.tokens, shared.exact) == (2000, False)


def test_a_hit_proves_its_boundary_and_restarts_the_marked_ones(driver, saas):
    """Read of 2,500: the context's entry is exact and lives from the reader's start; so does the system's
    (A1).
    """
    driver.call(saas(), 0, Strategy.B)
    driver.call(saas(turns=2), 200, Strategy.B)
    shared, user = driver.index.belief(driver.scope, prefix_digests(saas()))[1:3]
    assert user.expires == shared.expires == 500


def test_with_a1_denied_a_deep_hit_leaves_shallower_entries_to_lapse(driver_for, saas):
    """The open fact lives in one place: both worlds are consistent."""
    facts = OpenFacts(deep_hit_refreshes_shallower_marked=False)
    driver = driver_for(index=PrefixIndex(facts=facts))
    driver.provider.refreshes_shallower_marked = False
    driver.call(saas(), 0, Strategy.B)
    driver.call(saas(turns=2), 200, Strategy.B)
    planned, usage, _ = driver.call(saas("bob"), 400, Strategy.B)
    assert planned.full_read_tokens == usage.read == 0


def test_a_miss_removes_the_false_belief(driver, saas):
    """The provider evicted early: what was believed in reach is gone, the write is believed instead."""
    driver.call(saas(), 0, Strategy.B)
    driver.provider.entries.clear()
    planned, usage, learned = driver.call(saas(turns=2), 60, Strategy.B)
    assert planned.full_read_tokens == 2500
    assert usage.read == 0
    assert learned.held is False
    assert learned.refuted == (1, 2)
    assert learned.written == (1, 2)


def test_a_partial_hit_removes_only_what_lies_deeper(driver, saas):
    """The user's entry is gone, the shared one was read and proved."""
    driver.call(saas(), 0, Strategy.B)
    del driver.provider.entries[tuple((b.role, b.kind, b.content) for b in saas().blocks[:3])]
    _, usage, learned = driver.call(saas(turns=2), 60, Strategy.B)
    assert usage.read == 2000
    assert learned.hit_position == 1
    assert learned.refuted == (2,)


def test_evictions_lower_the_confidence_of_later_beliefs(driver, saas):
    """How sure a proven entry is, is learnt from the beliefs that were tested."""
    driver.call(saas(), 0, Strategy.B)
    before = max(warmth(driver, saas(), 10))
    for step in range(1, 30):
        driver.provider.entries.clear()
        driver.call(saas(), 20.0 * step, Strategy.B)
    after = max(warmth(driver, saas(), 20.0 * 29 + 5))
    assert after < 0.6 < before
    calibration = driver.index.calibration(driver.scope)
    assert calibration.tested == 29
    assert calibration.held == 0
    assert calibration.brier > 0


def test_another_replicas_write_is_learnt_from_an_unexpected_hit(driver, saas):
    """We believed nothing and read 2,500: the boundary with those tokens is warm."""
    driver.provider.send(saas(), {1: 300, 2: 300}, 0)
    planned, usage, learned = driver.call(saas(turns=3), 60, Strategy.C)
    assert planned.full_read_tokens == 0
    assert usage.read == 2500
    assert learned.hit_position == 2
    assert driver.index.belief(driver.scope, prefix_digests(saas()))[2].exact


def test_estimates_are_anchored_on_what_was_billed(driver, saas):
    """Bytes say one thing, usage another: the next plan counts from the proven prefix."""
    prompt = saas(turns=2)
    uncounted = type(prompt)(
        tuple(b._replace(content=b.content * 200, token_count=None) for b in prompt.blocks), prompt.parameters
    )
    planned = driver.plan(uncounted, 0, Strategy.B)
    off = planned.breakpoints[-1].prefix_tokens
    counts = driver.estimator.cumulative_tokens(uncounted, driver.rules.model)
    driver.index.observe(
        driver.scope,
        prefix_digests(uncounted),
        counts,
        planned,
        started=0,
        first_byte_at=1,
        read_tokens=0,
        write_5m_tokens=off * 2,
        write_1h_tokens=0,
    )
    again = driver.plan(uncounted, 30, Strategy.B)
    assert again.breakpoints[-1].prefix_tokens == off * 2
    assert again.full_read_tokens == off * 2
    assert again.total_tokens == off * 2 + counts[-1] - off


def test_marks_the_provider_ignored_leave_no_belief(driver, saas):
    """Nothing read, nothing written: the prefix was too short after all, and is not believed warm."""
    prompt = saas(tools=0, system=0, context=450)
    planned, usage, learned = driver.call(prompt, 0, Strategy.A)
    assert len(planned.breakpoints) == 1
    assert usage.write_5m == 0
    assert learned.written == ()
    assert warmth(driver, prompt, 10) == [0.0, 0.0]


def test_a_mark_below_the_minimum_is_not_believed_though_others_were_written(driver, saas):
    """The tools' 450 tokens kept their mark on doubt; the provider wrote the deeper two only."""
    prompt = saas(tools=450)
    planned, _, learned = driver.call(prompt, 0, Strategy.A)
    assert [point.position for point in planned.breakpoints] == [0, 1, 2]
    assert learned.written == (1, 2)
    assert warmth(driver, prompt, 10)[0] == 0


# --- requests on their way


def test_a_write_in_flight_is_known_but_not_readable(driver, saas):
    """From begin to the first byte others see that someone writes; then they can read."""
    prompt = saas()
    digests = prefix_digests(prompt)
    planned = driver.plan(prompt, 0, Strategy.B)
    driver.index.begin(driver.scope, planned, 0)
    assert driver.index.belief(driver.scope, digests)[2].available_from == inf
    assert max(warmth(driver, prompt, 5)) == 0
    driver.index.first_byte(driver.scope, planned, 0, 2.0)
    assert warmth(driver, prompt, 1.9) == [0.0] * 4
    assert warmth(driver, prompt, 2.0)[2] > 0.9


def test_a_refused_request_leaves_nothing_behind(driver, saas):
    """The provider refused before processing: no entry, and older beliefs stay."""
    driver.call(saas(), 0, Strategy.B)
    planned = driver.plan(saas("bob"), 10, Strategy.B)
    driver.index.begin(driver.scope, planned, 10)
    driver.index.abandon(driver.scope, planned, 10, 11, sent=False)
    beliefs = driver.index.belief(driver.scope, prefix_digests(saas("bob")))
    assert beliefs[1].p_warm(12) > 0.9
    assert beliefs[2] is None


def test_an_unknown_outcome_is_believed_by_half(driver, saas):
    """Reset after sending: the write may or may not have happened."""
    planned = driver.plan(saas(), 0, Strategy.B)
    driver.index.begin(driver.scope, planned, 0)
    driver.index.abandon(driver.scope, planned, 0, 4.0, sent=True)
    assert warmth(driver, saas(), 5)[2] == 0.5
    assert warmth(driver, saas(), 300)[2] == 0


def test_settling_late_does_not_shorten_a_life_proved_since(driver, saas):
    """A slow request that started first settles last: the later reader's restart stands."""
    slow = driver.plan(saas(), 0, Strategy.B)
    usage = driver.provider.send(saas(), {1: 300, 2: 300}, 0)
    driver.call(saas(), 100, Strategy.B)
    driver.observe(saas(), slow, usage, 0)
    assert driver.index.belief(driver.scope, prefix_digests(saas()))[2].expires == 400


# --- memory, scopes and implicit caching


def test_scopes_do_not_share(driver, saas):
    """Another workspace or model has its own cache."""
    driver.call(saas(), 0, Strategy.B)
    other = CacheScope("anthropic", "another", driver.rules.model)
    assert driver.index.belief(other, prefix_digests(saas())) == (None,) * 4


def test_memory_is_bounded_and_the_soonest_to_expire_go_first(driver_for, saas):
    """However many users pass, at most `max_entries`; the newest stay."""
    driver = driver_for(index=PrefixIndex(max_entries=64))
    for user in range(300):
        driver.call(saas(f"user {user}"), user * 0.5, Strategy.A)
        assert driver.index.entry_count <= 64
        assert driver.index.entry_count == len(list(driver.index.entries(driver.scope)))
    assert warmth(driver, saas("user 299"), 151)[2] > 0
    assert warmth(driver, saas("user 0"), 151)[2] == 0


@pytest.mark.parametrize(("read_share", "rises"), [(1.0, True), (0.0, False)])
def test_implicit_confidence_follows_what_the_provider_reads(driver_for, saas, read_share, rises):
    """It starts at even odds, because nothing is promised, and learns from each tested expectation."""
    driver = driver_for("gemini-3.8-flash", read=0.1)
    prompt = saas(system=6000)
    counts = driver.estimator.cumulative_tokens(prompt, driver.rules.model)
    for step in range(12):
        planned = driver.plan(prompt, 10.0 * step)
        driver.index.observe_implicit(
            driver.scope,
            prefix_digests(prompt),
            counts,
            planned,
            prompt.ends,
            started=10.0 * step,
            first_byte_at=10.0 * step + 1,
            read_tokens=int(read_share * planned.full_read_tokens),
        )
    assert (max(warmth(driver, prompt, 115)) > 0.5) is rises
