"""The words that label metrics: closed sets of ours, and bounded ones for whatever is configured or comes from outside.

The rule: labels come from bounded sets only. Routes, purposes, outcomes, parts and kinds are closed in code;
upstreams and models are those configured; applications and tenants those configured as labels, all others
count as "other"; ids, prompts and users are never labels.

It does not know what is counted.
"""

from collections.abc import Iterable

from router import attributes as names
from router.cost import Cost
from router.settlement import Intent
from router.telemetry.aggregates import Vocabulary
from router.usage import Usage

COST_PARTS = (
    "uncached_input",
    "cache_write_5m",
    "cache_write_1h",
    "cache_read",
    "output_text",
    "thinking",
    "tools",
)
"""Parts of a `Cost`, in its order, as they appear in labels and attribute names."""

TOKEN_KINDS = ("uncached_input", "cache_write_5m", "cache_write_1h", "cache_read", "output_text", "thinking")
"""Kinds of billed tokens; the first four are input."""
INPUT_KINDS = TOKEN_KINDS[:4]
SCENARIOS = ("no_caching", "all_opus", "all_flash", "all_opus_no_caching", "never_switch")
"""What calls would have cost otherwise, in the order of `Counterfactuals`."""
RESULTS = ("hit", "write", "none")
"""What a call with usage proved about the provider's cache."""


class Words:
    """The bounded vocabularies that all instruments of one process share.

    Args:
        applications: Names that may be labels.
        tenants: Likewise.
        bucket_label: Name of the request label that is the bucket, "" for none.
        buckets: Its values that may be labels.
    """

    def __init__(
        self, applications: Iterable[str], tenants: Iterable[str], bucket_label: str, buckets: Iterable[str]
    ) -> None:
        self.application = Vocabulary(tuple(applications))
        self.tenant = Vocabulary(tuple(tenants))
        self.upstream = Vocabulary()
        self.model = Vocabulary()
        # Aliases resolve to dated ids that no configuration lists; a provider has a handful of them.
        self.answered_model = Vocabulary(learn=16)
        self.word = Vocabulary(learn=128)
        self.method = Vocabulary(learn=256)
        self.has_buckets = bool(bucket_label)
        self._bucket_label = bucket_label
        self._bucket = Vocabulary(tuple(buckets))

    def bucket_of(self, intent: Intent) -> str:
        """The bucket a call counts in; "none" where requests have none."""
        if not self._bucket_label:
            return names.NONE
        return self._bucket(intent.labels.get(self._bucket_label, "")) or names.NONE


def result_of(usage: Usage) -> str:
    """What a call proved about the provider's cache, of `RESULTS`."""
    return "hit" if usage.cache_read_tokens else "write" if usage.cache_write_tokens else "none"


def input_counts(usage: Usage) -> tuple[tuple[str, int], ...]:
    """Input tokens of a call by kind, in the order of `INPUT_KINDS`."""
    return (
        ("uncached_input", usage.uncached_input_tokens),
        ("cache_write_5m", usage.cache_write_5m_tokens),
        ("cache_write_1h", usage.cache_write_1h_tokens),
        ("cache_read", usage.cache_read_tokens),
    )


def cost_parts(cost: Cost) -> tuple[int, ...]:
    """Return the parts of a cost in nano-USD, in the order of `COST_PARTS`."""
    return (
        cost.uncached_input_nano_usd,
        cost.cache_write_5m_nano_usd,
        cost.cache_write_1h_nano_usd,
        cost.cache_read_nano_usd,
        cost.output_text_nano_usd,
        cost.thinking_nano_usd,
        cost.tools_nano_usd,
    )
