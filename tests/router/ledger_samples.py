"""Intents and settlements for tests of the ledger, whole and valid, with what a test cares about changed."""

from msgspec.structs import replace

from cache.regret import Result
from router.cost import Cost, Counterfactuals
from router.settlement import CacheRecord, DecisionRecord, Intent, Outcome, Purpose, Settlement
from router.usage import Usage
from router.warm_verdict import WarmVerdict

START_S = 1_795_305_600.0
"""2026-11-22 00:00:00 UTC."""


class StillClock:
    """A clock that moves when it is told to."""

    def __init__(self, now_s=START_S):
        self.now_s = now_s

    def now(self):
        return self.now_s


def an_intent(**changes):
    """Return the intent of one streamed Opus call."""
    intent = Intent(
        request_id="r1",
        attempt=1,
        purpose=Purpose.USER,
        route="opus",
        upstream="anthropic",
        model="claude-opus-4-5",
        tenant="acme",
        application="helpdesk",
        user="u1",
        session="s1",
        labels={"team": "search"},
        stream=True,
        started_time_s=START_S,
        cost_bound_nano_usd=90_000_000,
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )
    return replace(intent, **changes)


def a_settlement(intent=None, **changes):
    """Return the settlement of a warm call: 500 uncached, 2,500 read, 800 out."""
    settlement = Settlement(
        intent=intent or an_intent(),
        outcome=Outcome.OK,
        settled_time_s=START_S + 2.5,
        duration_s=2.5,
        first_byte_s=0.4,
        usage=Usage(input_tokens=3_000, cache_read_tokens=2_500, output_tokens=800, thinking_tokens=300),
        cost=Cost(
            uncached_input_nano_usd=2_500_000,
            cache_read_nano_usd=1_250_000,
            output_text_nano_usd=12_500_000,
            thinking_nano_usd=7_500_000,
        ),
        counterfactuals=Counterfactuals(
            no_caching_nano_usd=35_000_000,
            all_opus_nano_usd=23_750_000,
            all_flash_nano_usd=None,
            all_opus_no_caching_nano_usd=35_000_000,
        ),
        answered_model="claude-opus-4-5-20251101",
        response_id="msg_1",
        upstream_request_id="req_1",
        finish_reason="end_turn",
        decision=DecisionRecord(
            route="opus",
            reason="score",
            score=0.8,
            threshold=0.5,
            propensity=1.0,
            model_digest="d1",
            expected_flash_nano_usd=4_000_000,
            expected_opus_nano_usd=24_000_000,
        ),
        cache=CacheRecord(strategy="c", breakpoint_count=3, expected_read_tokens=2_500),
    )
    return replace(settlement, **changes)


def a_verdict(**changes):
    """Return the verdict on a keep-alive that was used."""
    verdict = WarmVerdict(
        warm_id="warm-1",
        tenant="acme",
        application="helpdesk",
        trigger="idle",
        policy="auto",
        decided_time_s=START_S + 285,
        from_time_s=START_S + 300,
        until_time_s=START_S + 585,
        settled_time_s=START_S + 400,
        result=Result.USED,
        came=True,
        gain_nano_usd=100_000_000,
        cost_nano_usd=4_000_000,
        benefit_nano_usd=96_000_000,
        benefit_s=0.8,
    )
    return replace(verdict, **changes)
