"""What tokens and a caller's time are worth on the Opus that is asked now: what every verdict on a warm is made of.

The rule: prices are those of the model that is asked, at the time it is asked, the seconds of a token read anew are
what answers have shown (`cache.first_byte`), and what a second is worth is the operator's word. It decides nothing.
"""

from collections.abc import Callable

from cache.economics import Rates
from cache.facts import Facts
from cache.first_byte import FirstByte
from cache.schedule import Worth
from router.pricing import PriceTable, UnknownPrice

_FEMTO_PER_USD = 1e15
_LIST_RATES = Rates(write_5m=1.25, write_1h=2.0, read=0.1)


class Worths:
    """Worth of one model over time."""

    def __init__(
        self,
        model: str,
        facts: Facts,
        prices: PriceTable,
        first_byte: Callable[[str], FirstByte],
        *,
        second_usd: float,
    ) -> None:
        """Keep references.

        Args:
            first_byte: Gives what is known of a model's time to the first byte.
            second_usd: Value of a second less to the first token.
        """
        self._model = model
        self._facts = facts
        self._prices = prices
        self._first_byte = first_byte
        self._second_usd = second_usd

    @property
    def output_tokens(self) -> int:
        """What a warm asks for: nothing, or the one token without which the model takes no call (fact A6)."""
        return self._facts.warm_output_tokens

    def at(self, now_s: float) -> Worth:
        """What tokens and time are worth then; for a model without a price by the ratios of every other."""
        _, kappa_s = self._first_byte(self._model).line()
        try:
            price = self._prices.price(self._model, now_s)
        except UnknownPrice:
            return Worth(_LIST_RATES, 0.0, self._second_usd, kappa_s)
        input_femto, *_, output_femto = price.femto_usd
        return Worth(
            price.rates(),
            input_femto / _FEMTO_PER_USD,
            self._second_usd,
            kappa_s,
            self.output_tokens * output_femto / input_femto if input_femto else 0.0,
        )
