"""The sandbox's bill: one line per request that generated or cached anything.

Rule: a request appears when its response begins and its line is settled when the response ends, however it
ends. Refused requests (4xx, 429, 5xx before generation), requests cancelled before the response began,
token counting and refusals without output are not billed and not here (A-ERR, A-STOP, 2026-11). It knows no
caller beyond workspace and key fingerprint, and no prompt or answer text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from typing import Any

from router.sandbox.prices import cost_pico_usd, nano, price_of


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """What one request is billed.

    The four input counts are disjoint and sum to the prompt; `thinking_tokens` is a part of
    `output_tokens`. `time` is the start of the request, by which it is priced. `status` is `complete`,
    `open`, `disconnected`, `cut` or `error`; `complete` says whether the client could have seen the whole
    answer.
    """

    request_id: str
    response_id: str
    upstream: str
    workspace: str
    key_fingerprint: str
    model: str
    requested_model: str
    time: float
    uncached_input_tokens: int
    write_5m_tokens: int
    write_1h_tokens: int
    read_tokens: int
    output_tokens: int
    thinking_tokens: int
    speed: str = "standard"
    inference_geo: str = "global"
    service_tier: str = "standard"
    cost_pico_usd: int = 0
    complete: bool = False
    status: str = "open"

    @property
    def input_tokens(self) -> int:
        """Every prompt token, cached or not."""
        return self.uncached_input_tokens + self.write_5m_tokens + self.write_1h_tokens + self.read_tokens

    @property
    def cost_nano_usd(self) -> int:
        """The cost, rounded half up to a nano-USD."""
        return nano(self.cost_pico_usd)

    def priced(self) -> InvoiceLine:
        """Return this line with its cost computed from its counts."""
        price = price_of(self.model, self.time, self.input_tokens, fast=self.speed == "fast")
        cost = cost_pico_usd(
            price,
            uncached_tokens=self.uncached_input_tokens,
            write_5m_tokens=self.write_5m_tokens,
            write_1h_tokens=self.write_1h_tokens,
            read_tokens=self.read_tokens,
            output_tokens=self.output_tokens,
            us_inference=self.inference_geo == "us",
            flex=self.service_tier == "flex",
        )
        return replace(self, cost_pico_usd=cost)

    def as_json(self) -> dict[str, Any]:
        """Return the line as plain JSON values, derived ones included."""
        return {**asdict(self), "input_tokens": self.input_tokens, "cost_nano_usd": self.cost_nano_usd}


_SUMMED = tuple(f.name for f in fields(InvoiceLine) if f.name.endswith(("_tokens", "_pico_usd")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over invoice lines; same meanings as there. `cost_nano_usd` sums the rounded lines, as a bill
    would."""

    requests: int = 0
    uncached_input_tokens: int = 0
    write_5m_tokens: int = 0
    write_1h_tokens: int = 0
    read_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cost_pico_usd: int = 0
    cost_nano_usd: int = 0


class Invoice:
    """The growing list of billed requests, in the order in which their responses began."""

    def __init__(self) -> None:
        self._lines: dict[int, InvoiceLine] = {}
        self._places = count()

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[InvoiceLine]:
        return iter(self.lines)

    @property
    def lines(self) -> tuple[InvoiceLine, ...]:
        """Every line so far; those of running streams are billed for their input only."""
        return tuple(self._lines.values())

    def add(self, line: InvoiceLine) -> int:
        """Append a line, priced, and return its place for `settle`."""
        place = next(self._places)
        self._lines[place] = line.priced()
        return place

    def settle(
        self, place: int, *, output_tokens: int, thinking_tokens: int, complete: bool, status: str
    ) -> None:
        """Fix what the request at `place` produced and how it ended; a line cleared since stays away."""
        line = self._lines.get(place)
        if line is None:
            return
        self._lines[place] = replace(
            line,
            output_tokens=output_tokens,
            thinking_tokens=thinking_tokens,
            complete=complete,
            status=status,
        ).priced()

    def find(self, response_id: str) -> InvoiceLine | None:
        """Return the line of a message or response id (or of a request id), if it was billed."""
        return next((x for x in self._lines.values() if response_id in (x.response_id, x.request_id)), None)

    def totals(self, where: Callable[[InvoiceLine], bool] = lambda line: True) -> Totals:
        """Sum the lines for which `where` holds."""
        chosen = [line for line in self._lines.values() if where(line)]
        sums = {name: sum(getattr(line, name) for line in chosen) for name in _SUMMED}
        return Totals(requests=len(chosen), cost_nano_usd=sum(x.cost_nano_usd for x in chosen), **sums)

    def clear(self) -> None:
        """Forget every line, also those of streams still running."""
        self._lines.clear()


def fingerprint(secret: str) -> str:
    """Name an API key without revealing it: twelve hex digits of its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]
