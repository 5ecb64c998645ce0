"""Calls and misses as rows of the ledger's tables: what the columns say of a record, whatever the database.

The rule: the record column is the truth, the JSON of `codec`; the other columns are what queries filter, group and add
up. Unknown is NULL, never 0.
"""

from __future__ import annotations

from router.ledger import codec
from router.ledger.codec import IntentRecord, Key, SettlementRecord
from router.ledger.database import Value
from router.ledger.told import TOLD, told, told_of_none
from router.settlement import CacheRecord, Intent, Outcome

COLUMNS = (
    "request_id", "attempt", "kind", "outcome", "purpose", "route", "upstream", "model", "answered_model",
    "tenant", "application", "user", "session", "labels", "strategy", "miss_cause", "finish_reason", "error",
    "started_time_s", "settled_time_s", "duration_s", "first_byte_s",
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "thinking_tokens", "usage_complete",
    "uncached_input_nano_usd", "cache_write_5m_nano_usd", "cache_write_1h_nano_usd", "cache_read_nano_usd",
    "output_text_nano_usd", "thinking_nano_usd", "tools_nano_usd", "cost_nano_usd", "cost_bound_nano_usd",
    "no_caching_nano_usd", "all_opus_nano_usd", "all_flash_nano_usd", "all_opus_no_caching_nano_usd",
    "padding_tokens", "padding_nano_usd", *TOLD, "record",
)  # fmt: skip
MISS_COLUMNS = (
    "request_id", "attempt", "rank", "cause", "layer", "block_index", "missed_tokens", "lost_nano_usd",
    "provider_cause",
)  # fmt: skip

_NO_TOKENS: tuple[None, ...] = (None,) * 7
_NO_COST: tuple[None, ...] = (None,) * 8
_NO_COUNTERFACTUALS: tuple[None, ...] = (None,) * 4


def settled_row(record: SettlementRecord) -> tuple[Value, ...]:
    """Return the columns of a settlement, in the order of `COLUMNS`."""
    settlement = record.settlement
    usage, cost, other = settlement.usage, settlement.cost, settlement.counterfactuals
    cache = settlement.cache
    return (
        *_identity(settlement.intent, "settled", settlement.outcome, settlement.answered_model),
        cache.strategy if cache is not None else "",
        cache.miss_cause if cache is not None else "",
        settlement.finish_reason,
        settlement.error,
        settlement.intent.started_time_s,
        settlement.settled_time_s,
        settlement.duration_s,
        settlement.first_byte_s,
        *(
            _NO_TOKENS
            if usage is None
            else (
                usage.input_tokens,
                usage.cache_read_tokens,
                usage.cache_write_5m_tokens,
                usage.cache_write_1h_tokens,
                usage.output_tokens,
                usage.thinking_tokens,
                int(usage.complete),
            )
        ),
        *(
            _NO_COST
            if cost is None
            else (
                cost.uncached_input_nano_usd,
                cost.cache_write_5m_nano_usd,
                cost.cache_write_1h_nano_usd,
                cost.cache_read_nano_usd,
                cost.output_text_nano_usd,
                cost.thinking_nano_usd,
                cost.tools_nano_usd,
                cost.total_nano_usd,
            )
        ),
        settlement.intent.cost_bound_nano_usd,
        *(
            _NO_COUNTERFACTUALS
            if other is None
            else (
                other.no_caching_nano_usd,
                other.all_opus_nano_usd,
                other.all_flash_nano_usd,
                other.all_opus_no_caching_nano_usd,
            )
        ),
        *((0, 0) if cache is None else (cache.padding_tokens, cache.padding_nano_usd)),
        *told(settlement.intent.purpose, settlement),
        record.body,
    )


def miss_rows(key: Key, cache: CacheRecord) -> list[tuple[Value, ...]]:
    """Return the columns of a call's misses, in the order of `MISS_COLUMNS`, dearest first."""
    if not cache.misses:  # a release that noted the cause alone
        return [(*key, 0, cache.miss_cause, "", None, None, None, "")]
    return [
        (
            *key,
            rank,
            miss.cause,
            miss.layer,
            miss.block_index,
            miss.missed_tokens,
            miss.lost_nano_usd,
            miss.provider_cause,
        )
        for rank, miss in enumerate(cache.misses)
    ]


def interrupted_row(record: IntentRecord, found_time_s: float) -> tuple[Value, ...]:
    """Return the columns of an intent whose process died; what it used, cost and took is not known."""
    intent = record.intent
    return (
        *_identity(intent, "interrupted", Outcome.UNKNOWN, ""),
        *("", "", "", ""),
        intent.started_time_s,
        found_time_s,
        *(None, None),
        *_NO_TOKENS,
        *_NO_COST,
        intent.cost_bound_nano_usd,
        *_NO_COUNTERFACTUALS,
        *(None, None),
        *told_of_none(intent.purpose),
        record.body,
    )


def _identity(intent: Intent, kind: str, outcome: Outcome, answered_model: str) -> tuple[Value, ...]:
    """Return the columns that say whose call it was and how it ended."""
    return (
        intent.request_id,
        intent.attempt,
        kind,
        outcome.value,
        intent.purpose.value,
        intent.route,
        intent.upstream,
        intent.model,
        answered_model,
        intent.tenant,
        intent.application,
        intent.user,
        intent.session,
        codec.encode(intent.labels).decode(),
    )
