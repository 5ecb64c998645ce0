"""How long an answer takes to begin: a line over the tokens that the provider has to read anew.

The rule: first byte = t0 + kappa x uncached tokens, written ones included, by least squares over what was seen, each
observation weighing `FORGETTING` of the next one; the prior counts as a few observations at either end. Neither t0 nor
kappa is documented (open fact A4), so what is here before anything was seen is an assumption, or what a probe measured
(`prior_of`), and belongs to one model only as far as it has been asked. It knows nothing of output: unary answers begin
when they end.
"""

from dataclasses import dataclass

from cache.facts import FactId, Facts

FORGETTING = 0.98
"""The last fifty answers decide: load at the provider moves within minutes."""
PRIOR_T0_S = 0.8
PRIOR_KAPPA_S = 60e-6
"""Between the 50 and 90 us per token of the vendor's figures of 2024 (11.5 to 2.4 s at 100k tokens)."""
_PRIOR_WEIGHT = 3.0
_PRIOR_SPAN_TOKENS = 20_000.0


@dataclass(slots=True)
class FirstByte:
    """Line of one model, from decayed sums; begins as the assumption, or as `FirstByte.prior`."""

    prior_kappa_s: float = PRIOR_KAPPA_S
    weight: float = 2 * _PRIOR_WEIGHT
    x: float = _PRIOR_WEIGHT * _PRIOR_SPAN_TOKENS
    y: float = _PRIOR_WEIGHT * (2 * PRIOR_T0_S + PRIOR_KAPPA_S * _PRIOR_SPAN_TOKENS)
    xx: float = _PRIOR_WEIGHT * _PRIOR_SPAN_TOKENS**2
    xy: float = _PRIOR_WEIGHT * _PRIOR_SPAN_TOKENS * (PRIOR_T0_S + PRIOR_KAPPA_S * _PRIOR_SPAN_TOKENS)

    @classmethod
    def prior(cls, t0_s: float, kappa_s: float) -> "FirstByte":
        """A line that begins as this one."""
        w, span = _PRIOR_WEIGHT, _PRIOR_SPAN_TOKENS
        far_s = t0_s + kappa_s * span
        return cls(kappa_s, 2 * w, w * span, w * (t0_s + far_s), w * span**2, w * span * far_s)

    def observe(self, uncached_tokens: int, seconds: float) -> None:
        """Learn from one streamed answer: tokens neither read nor known, and seconds to its first byte."""
        kept = FORGETTING
        self.weight = self.weight * kept + 1
        self.x = self.x * kept + uncached_tokens
        self.y = self.y * kept + seconds
        self.xx = self.xx * kept + uncached_tokens * uncached_tokens
        self.xy = self.xy * kept + uncached_tokens * seconds

    def line(self) -> tuple[float, float]:
        """(t0 in seconds, kappa in seconds per token), neither negative."""
        spread = self.weight * self.xx - self.x * self.x
        # Answers of one length alone say nothing of the slope: the assumed one stays.
        if spread <= 1e-6 * self.weight * self.xx:
            kappa = self.prior_kappa_s
        else:
            kappa = max(0.0, (self.weight * self.xy - self.x * self.y) / spread)
        return max(0.0, (self.y - kappa * self.x) / self.weight), kappa

    def expected_s(self, uncached_tokens: float) -> float:
        """Expected seconds to the first byte of an answer that reads so many tokens anew."""
        t0_s, kappa_s = self.line()
        return t0_s + kappa_s * uncached_tokens


def prior_of(facts: Facts) -> FirstByte:
    """Where a model's line begins: as a probe measured it (A4), else as assumed."""
    if FactId.A4 not in facts.verified:
        return FirstByte()
    return FirstByte.prior(facts.first_byte_s, facts.prefill_s_per_token)
