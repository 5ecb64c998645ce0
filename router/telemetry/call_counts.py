"""Where the counts of users' answered calls go: the cells of every series that one sort of call adds to, found once.

The rule: the same sums as counting each figure by its labels (`Metrics.record_settlement` does, for every other call),
without making and looking up two dozen label tuples for a call (measured: half of the cost of counting it). A property
test holds the two against each other. A cell of a series in which nothing was counted is not shown.

It does not know which calls it is for.
"""

from collections.abc import Sequence

from router.cost import Cost, Counterfactuals
from router.telemetry.aggregates import Cell, Distribution
from router.usage import Usage


class CallCounts:
    """The cells of one sort of call: one route, model, application, tenant and bucket.

    Args:
        calls: Of the outcome.
        tokens: By `labels.TOKEN_KINDS`.
        results: Calls that hit, only wrote, and did neither.
        belief: Tokens believed warm, and read.
        cost: By `labels.COST_PARTS`.
        counterfactual: By scenario, in the order of `Counterfactuals`.
        bucket_results, bucket_input: As `results`, and as the first four of `tokens`.
        duration, tokens_in, tokens_out: Of the conventions for generative models.
    """

    __slots__ = (
        "_baseline",
        "_belief",
        "_booked",
        "_bucket_cost",
        "_bucket_input",
        "_bucket_results",
        "_calls",
        "_cost",
        "_counterfactual",
        "_duration",
        "_results",
        "_saving",
        "_tokens",
        "_tokens_in",
        "_tokens_out",
    )

    def __init__(
        self,
        *,
        calls: Cell,
        tokens: Sequence[Cell],
        results: Sequence[Cell],
        belief: Sequence[Cell],
        cost: Sequence[Cell],
        booked: Cell,
        counterfactual: Sequence[Cell],
        saving: Cell,
        bucket_results: Sequence[Cell],
        bucket_input: Sequence[Cell],
        bucket_cost: Cell,
        baseline: Cell,
        duration: Distribution,
        tokens_in: Distribution,
        tokens_out: Distribution,
    ) -> None:
        self._calls = calls
        self._tokens = tuple(tokens)
        self._results = tuple(results)
        self._belief = tuple(belief)
        self._cost = tuple(cost)
        self._booked = booked
        self._counterfactual = tuple(counterfactual)
        self._saving = saving
        self._bucket_results = tuple(bucket_results)
        self._bucket_input = tuple(bucket_input)
        self._bucket_cost = bucket_cost
        self._baseline = baseline
        self._duration = duration
        self._tokens_in = tokens_in
        self._tokens_out = tokens_out

    def count(
        self, duration_s: float, expected_tokens: int, usage: Usage, cost: Cost, otherwise: Counterfactuals
    ) -> None:
        """Count one call.

        Args:
            expected_tokens: Tokens believed warm before it.
        """
        self._calls[0] += 1
        self._duration.record(duration_s)
        self._tokens_in.record(usage.input_tokens)
        self._tokens_out.record(usage.output_tokens)
        self._count_tokens(usage, expected_tokens)
        total = self._count_cost(cost)
        self._booked[0] += total
        self._count_otherwise(otherwise, cost, total)

    def _count_tokens(self, usage: Usage, expected_tokens: int) -> None:
        read, write_5m, write_1h = (
            usage.cache_read_tokens,
            usage.cache_write_5m_tokens,
            usage.cache_write_1h_tokens,
        )
        uncached, thinking = usage.input_tokens - read - write_5m - write_1h, usage.thinking_tokens or 0
        of_uncached, of_write_5m, of_write_1h, of_read, of_text, of_thinking = self._tokens
        in_uncached, in_write_5m, in_write_1h, in_read = self._bucket_input
        of_uncached[0] += uncached
        in_uncached[0] += uncached
        if read:
            of_read[0] += read
            in_read[0] += read
            self._belief[1][0] += read
        if write_5m or write_1h:
            of_write_5m[0] += write_5m
            in_write_5m[0] += write_5m
            of_write_1h[0] += write_1h
            in_write_1h[0] += write_1h
        of_text[0] += usage.output_tokens - thinking
        of_thinking[0] += thinking
        result = 0 if read else 1 if write_5m or write_1h else 2
        self._results[result][0] += 1
        self._bucket_results[result][0] += 1
        self._belief[0][0] += expected_tokens

    def _count_cost(self, cost: Cost) -> int:
        """Count the parts of a cost; return its total, nano-USD."""
        uncached, write_5m, write_1h, read, text, thinking, tools = self._cost
        uncached[0] += cost.uncached_input_nano_usd
        write_5m[0] += cost.cache_write_5m_nano_usd
        write_1h[0] += cost.cache_write_1h_nano_usd
        read[0] += cost.cache_read_nano_usd
        text[0] += cost.output_text_nano_usd
        thinking[0] += cost.thinking_nano_usd
        tools[0] += cost.tools_nano_usd
        return cost.total_nano_usd

    def _count_otherwise(self, otherwise: Counterfactuals, cost: Cost, total: int) -> None:
        no_caching, all_opus, all_flash, all_opus_no_caching, never_switch = self._counterfactual
        bare = otherwise.no_caching_nano_usd
        if bare is not None:
            no_caching[0] += bare
            # Output costs the same with and without caching, so the whole difference is the input's.
            paid = cost.input_nano_usd
            self._bucket_cost[0] += paid
            self._baseline[0] += paid + bare - total
        if otherwise.all_opus_nano_usd is not None:
            all_opus[0] += otherwise.all_opus_nano_usd
        if otherwise.all_flash_nano_usd is not None:
            all_flash[0] += otherwise.all_flash_nano_usd
        if otherwise.never_switch_nano_usd is not None:
            never_switch[0] += otherwise.never_switch_nano_usd
        if otherwise.all_opus_no_caching_nano_usd is not None:
            all_opus_no_caching[0] += otherwise.all_opus_no_caching_nano_usd
            self._saving[0] += otherwise.all_opus_no_caching_nano_usd - total
