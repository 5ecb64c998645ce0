"""Deciding by what is warm is cheaper than a fixed threshold of the same quality; small, by the sandbox's own bill."""

import pytest

from tests.benchmarks.bench_routing import at_quality, difference
from tests.benchmarks.routing_world import Result, Rule, serve, world


@pytest.fixture(scope="module")
def fixed() -> list[Result]:
    """The curve of fixed thresholds."""
    return [serve(world(40, 11), Rule(threshold=threshold)) for threshold in (0.25, 0.45, 0.65, 1.0)]


@pytest.mark.parametrize("value_usd", [0.03, 0.05])
def test_the_same_quality_costs_less(fixed: list[Result], value_usd: float) -> None:
    """Forty conversations through preparation, planner, policy, dispatch, SDK and sandbox: cheaper, the interval
    excludes 0, and it switches less."""
    valued = serve(world(40, 11), Rule(value_usd=value_usd))
    found = difference(valued, fixed)
    assert found.share < -0.05
    assert found.high < 0
    assert valued.switches < fixed[1].switches


def test_a_careful_router_is_not_locked_out_by_a_cold_shared_prefix() -> None:
    """Were the write of the shared layers charged to the first request alone, no turn would ever be worth it."""
    turns = world(25, 11)
    indexed, myopic = (serve(turns, Rule(value_usd=0.03, index=index)) for index in (True, False))
    assert indexed.opus > 0.05 * len(turns)
    assert 0.03 * sum(indexed.benefit) - sum(indexed.cost) / 1e9 > (
        0.03 * sum(myopic.benefit) - sum(myopic.cost) / 1e9
    )


def test_what_two_thresholds_reach_by_being_mixed_counts() -> None:
    """The curve compared against is the better of every threshold and every mix."""
    import numpy as np

    qualities, costs = np.array([0.0, 10.0, 12.0]), np.array([1.0, 5.0, 30.0])
    assert at_quality(5.0, qualities, costs) == pytest.approx(3.0)
    assert at_quality(10.0, qualities, costs) == pytest.approx(5.0)
    assert at_quality(11.0, qualities, costs) == pytest.approx(17.5)
