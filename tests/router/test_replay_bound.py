"""The clairvoyant bound: below every policy, equal to trying every course where that can be tried."""

from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.economics import Rates, cost_units
from router.month import Workload, month
from router.replay import Policy, Settings, replay
from router.replay_bound import ClairvoyantBound, clairvoyant_units
from router.replay_provider import ReferenceCache
from router.replay_trace import TraceRow
from tests.router.test_replay import ROWS, traffic

SIZE = 64
RATES = Rates(1.25, 2.0, 0.1)


def row(time_s, runs, *, namespace="n", extra=0):
    blocks = sum(count for _, count in runs)
    return TraceRow(namespace, "s", "main", 0, time_s, blocks * SIZE + extra, 10, SIZE, tuple(runs))


@pytest.mark.parametrize("policy", Policy)
def test_no_policy_is_below_it(policy):
    """On agents that loop, pause, replace their last block and are compacted."""
    bound = clairvoyant_units(ROWS, 1024, RATES)
    assert bound < sum(cost_units(served.split, RATES) for served in replay(ROWS, policy))


@pytest.mark.parametrize("policy", [Policy.AUTO, Policy.TTL_5M, Policy.TTL_1H])
def test_no_policy_is_below_it_over_a_day_of_chats(policy):
    """Nor on the made-up workload, whose users share a prefix."""
    rows = list(month(Workload(requests_per_day=400, days=1.0)))
    spent = sum(cost_units(served.split, RATES) for served in replay(rows, policy, Settings(512, RATES)))
    assert clairvoyant_units(rows, 512, RATES) < spent


@settings(max_examples=40)
@given(st.integers(0, 200), st.data())
def test_no_marks_whatsoever_are_below_it(seed, data):
    """Any marks at all, also such as no planner would set."""
    rows = traffic(seed, namespaces=1)
    marks = st.lists(st.tuples(st.integers(1, 130), st.sampled_from([300, 3600])), max_size=4)
    cache, spent = ReferenceCache(1024), 0.0
    for found in rows:
        split = cache.serve(
            found.runs,
            whole_blocks=found.whole_blocks,
            input_tokens=found.input_tokens,
            block_tokens=SIZE,
            marks=data.draw(marks),
            now_s=found.time_s,
        )
        spent += cost_units(split, RATES)
    assert clairvoyant_units(rows, 1024, RATES) <= spent + 1e-6


def best_by_trial(times_s):
    """Least cost of one token used at these times, by trying every course: uncached, 5m or 1h at each use."""
    best = None
    for courses in product(("none", 300, 3600), repeat=len(times_s)):
        cost, ttl_s, before_s = 0.0, 0, None
        for time_s, course in zip(times_s, courses, strict=True):
            alive = ttl_s and time_s - before_s < ttl_s
            if alive and course == ttl_s:
                cost += RATES.read
            elif course == "none":
                cost, ttl_s = cost + 1, 0
            else:
                cost, ttl_s = cost + (RATES.write_5m if course == 300 else RATES.write_1h), course
            before_s = time_s
        best = cost if best is None else min(best, cost)
    return best


@given(st.lists(st.floats(0.0, 5000.0), min_size=1, max_size=6))
def test_one_prefix_costs_what_the_best_of_all_courses_costs(gaps):
    """The walk over three states finds what trying all courses finds."""
    times_s = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    rows = [row(time_s, [(1, 20)]) for time_s in times_s]
    assert clairvoyant_units(rows, 1024, RATES) == pytest.approx(best_by_trial(times_s) * 20 * SIZE)


def slow(rows, minimum_tokens):
    """The bound again, block by block, without stretches."""
    states, units, namespace = {}, 0.0, None
    for found in rows:
        if found.namespace != namespace:
            states, namespace = {}, found.namespace
        if found.whole_blocks * SIZE < minimum_tokens:
            units += found.input_tokens
            continue
        ids = [first + i for first, count in found.runs for i in range(count)][: found.whole_blocks]
        units += found.input_tokens - len(ids) * SIZE
        for name in ids:
            time_s, costs = states.get(name, (None, (0.0, 0.0, 0.0)))
            least = min(costs)
            new = [least + 1, least + RATES.write_5m, least + RATES.write_1h]
            for place, ttl_s in ((1, 300), (2, 3600)):
                if time_s is not None and found.time_s - time_s < ttl_s:
                    new[place] = min(new[place], costs[place] + RATES.read)
            states[name] = (found.time_s, tuple(new))
            units += (min(new) - least) * SIZE
    return units


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_stretches_are_only_a_shorter_way_to_write_blocks(seed):
    """Joined, split and forgotten, they come to what single blocks come to."""
    rows = traffic(seed, namespaces=2)
    assert clairvoyant_units(rows, 1024, RATES) == pytest.approx(slow(rows, 1024))


def test_forgetting_changes_nothing():
    """What was not used for an hour is over under every course; thousands of stretches make it look for them."""
    random = Random(1)
    firsts = [10_000 + 50 * random.randrange(5000) for _ in range(6000)]
    rows = [row(number * 3.0, [(1, 20), (first, 7)]) for number, first in enumerate(firsts)]
    assert clairvoyant_units(rows, 1024, RATES) == pytest.approx(slow(rows, 1024))
    bound = ClairvoyantBound(1024, RATES)
    for found in rows:
        bound.add(found)
    assert len(bound._starts) < 5000


def test_what_cannot_be_cached_is_paid_in_full():
    """A prompt under the minimum, and the tokens that fill no block."""
    assert clairvoyant_units([row(0.0, [(1, 15)]), row(9.0, [(1, 15)])], 1024, RATES) == 2 * 15 * SIZE
    once = clairvoyant_units([row(0.0, [(1, 20)], extra=5)], 1024, RATES)
    assert once == 20 * SIZE + 5
