"""Tokens one call was billed for, in one normal form for both providers.

The rule: counts are inclusive. `input_tokens` is everything the model read, cache reads and writes included, and
`output_tokens` is everything it wrote, thinking included; the other counts are parts of these, never extra.
Anthropic reports exclusively and Gemini inclusively (providers.md §18.1): the adapters normalise, nothing else does.
"""

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Tokens of one call to one upstream.

    Attributes:
        input_tokens: All input, cache reads and writes included, >= 0.
        cache_read_tokens: Part of the input served from the provider's cache.
        cache_write_5m_tokens: Part of the input written with a 5 minute TTL.
        cache_write_1h_tokens: Part of the input written with a 1 hour TTL.
        output_tokens: All output, thinking included.
        thinking_tokens: Part of the output spent on thinking; None when the provider did not say.
        complete: False when the stream ended before the provider's final count: input is exact, output is what
            was seen (or counted) so far.
        speed: Provider's speed class that answered ("standard", "fast"), None when not reported.
        service_tier: Provider's tier that answered, None when not reported.
        inference_geo: Where it ran ("global", "us"), None when not reported.
    """

    input_tokens: int
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int | None = None
    complete: bool = True
    speed: str | None = None
    service_tier: str | None = None
    inference_geo: str | None = None

    def __post_init__(self) -> None:
        read, write_5m, write_1h = (
            self.cache_read_tokens,
            self.cache_write_5m_tokens,
            self.cache_write_1h_tokens,
        )
        if self.input_tokens < 0 or read < 0 or write_5m < 0 or write_1h < 0 or self.output_tokens < 0:
            raise ValueError(f"token counts must not be negative: {self}")
        if read + write_5m + write_1h > self.input_tokens:
            raise ValueError(f"cache reads and writes exceed the input they are part of: {self}")
        if self.thinking_tokens is not None and not 0 <= self.thinking_tokens <= self.output_tokens:
            raise ValueError(f"thinking tokens must be part of the output tokens: {self}")

    @property
    def cache_write_tokens(self) -> int:
        """Input tokens written to the cache, both TTLs."""
        return self.cache_write_5m_tokens + self.cache_write_1h_tokens

    @property
    def uncached_input_tokens(self) -> int:
        """Input tokens neither read from nor written to the cache."""
        return self.input_tokens - self.cache_read_tokens - self.cache_write_tokens
