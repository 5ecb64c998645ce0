"""A ledger for tests of reports, written by the real writer: every kind of call there is, with figures easily added."""

from msgspec.structs import replace

from router.cost import Cost, Counterfactuals
from router.ledger import Ledger
from router.settlement import CacheRecord, MissRecord, Outcome, Purpose
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent

USD = 1_000_000_000
DECISION = a_settlement().decision


def book(directory, *calls):
    """Settle calls, each given as (request id, attempt, changes of the intent, changes of the settlement)."""
    ledger = Ledger.open(directory, clock=StillClock())
    for request_id, attempt, of_intent, of_settlement in calls:
        intent = an_intent(request_id=request_id, attempt=attempt, **of_intent)
        ledger.settle(a_settlement(intent, **of_settlement))
    ledger.close_blocking()
    return directory


def priced(cents, **counterfactuals):
    """Changes of a settlement that cost so many cents, and its counterfactuals in cents."""
    return {
        "cost": Cost(uncached_input_nano_usd=cents * USD // 100),
        "counterfactuals": Counterfactuals(
            **{f"{name}_nano_usd": value * USD // 100 for name, value in counterfactuals.items()}
        ),
    }


UNKNOWN = {"usage": None, "cost": None, "counterfactuals": None, "outcome": Outcome.UNKNOWN}

KINDS_OF_CALLS = (
    ("plain", 1, {}, priced(10, no_caching=25, all_opus=10, all_flash=2, all_opus_no_caching=25)),
    (
        "padded",
        1,
        {},
        priced(20, no_caching=18, all_opus=20, all_opus_no_caching=18)
        | {
            "cache": CacheRecord(
                strategy="c",
                breakpoint_count=1,
                expected_read_tokens=0,
                padding_tokens=500,
                padding_nano_usd=USD // 50,
            )
        },
    ),
    ("again", 1, {}, {**UNKNOWN, "outcome": Outcome.UNKNOWN}),
    ("again", 2, {}, priced(7, no_caching=7, all_opus=7)),
    ("better", 1, {"route": "flash"}, priced(1) | {"discarded": "empty_answer"}),
    ("better", 2, {}, priced(9, no_caching=9, all_opus=9, all_flash=1)),
    (
        "drawn",
        1,
        {"route": "flash"},
        priced(1, all_opus=12, all_flash=1) | {"decision": replace(DECISION, route="flash", explored=True)},
    ),
    ("warm", 1, {"purpose": Purpose.WARM, "session": ""}, priced(3, no_caching=5)),
    ("probe", 1, {"purpose": Purpose.PROBE, "session": ""}, {**UNKNOWN}),
    ("shadow", 1, {"purpose": Purpose.SHADOW, "route": "flash"}, priced(2)),
    (
        "missed",
        1,
        {"started_time_s": START_S + 86_400.0, "tenant": "<bolt> & co", "session": "s2"},
        priced(11, no_caching=11)
        | {
            "cache": CacheRecord(
                strategy="c",
                breakpoint_count=1,
                expected_read_tokens=900,
                miss_cause="ttl_lapsed",
                misses=(
                    MissRecord(
                        cause="ttl_lapsed", layer="system", missed_tokens=900, lost_nano_usd=USD // 100
                    ),
                ),
            )
        },
    ),
)
"""Answers cost 10 + 20 + 7 + 9 + 1 + 11 = 58 cents; overhead calls 3 + 2 + 1, and two are of unknown cost."""
