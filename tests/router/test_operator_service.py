"""GetCosts as a message: what the ledger knows, what it lacks, and what it holds only a floor of."""

import pytest
from msgspec.structs import replace

from router.convert_costs import costs_response
from router.ledger import Ledger, LedgerReader
from router.ledger.ledger import DATABASE
from router.settlement import Outcome
from router.v1 import operator_service_pb2 as pb
from tests.router.ledger_samples import StillClock, a_settlement, an_intent

WHOLE = a_settlement().usage
BROKEN = replace(WHOLE, complete=False)


@pytest.fixture
def answer(tmp_path):
    """Return a function that books settlements, given as changes of one, and answers GetCosts by route."""

    def ask(*changes):
        ledger = Ledger.open(tmp_path, clock=StillClock())
        for number, change in enumerate(changes):
            ledger.settle(a_settlement(an_intent(request_id=f"r{number}"), **change))
        ledger.close_blocking()
        request = pb.GetCostsRequest(dimension=pb.COST_DIMENSION_ROUTE)
        with LedgerReader.open(tmp_path / DATABASE) as reader:
            return costs_response(
                request, reader.costs, reader.totals, lambda where: reader.warms((), where)[0]
            )

    return ask


def test_broken_off_calls_are_a_floor_with_a_bound(answer):
    """They are in the cost, counted apart, and bounded from above; the tokens are then not the whole truth."""
    response = answer({}, {"usage": BROKEN}, {"usage": BROKEN})
    (row,) = response.rows
    for told in (row, response.total):
        assert told.cost.total_nano_usd == 3 * 23_750_000
        assert (told.incomplete_count, told.incomplete_bound_nano_usd) == (2, 2 * (90_000_000 - 23_750_000))
        assert (told.unknown_cost_count, told.unbounded_count, told.usage_count) == (0, 0, 3)
        assert not told.usage.complete


def test_unknown_calls_are_not_broken_off_ones(answer):
    """What has no cost is bounded whole, and not in the cost."""
    nothing = {"usage": None, "cost": None, "counterfactuals": None, "outcome": Outcome.UNKNOWN}
    total = answer({}, nothing).total
    assert (total.unknown_cost_count, total.unknown_cost_bound_nano_usd) == (1, 90_000_000)
    assert (total.incomplete_count, total.incomplete_bound_nano_usd) == (0, 0)
    assert not total.usage.complete


def test_whole_answers_are_complete(answer):
    """Nothing broke off and nothing is unknown: the sums are exact, and say so."""
    total = answer({}, {}).total
    assert total.usage.complete
    assert (total.incomplete_count, total.unknown_cost_count) == (0, 0)
