"""What providers say they billed, read from their own files: the sandbox's invoice, and two providers' reports.

The rule: pure, exact, and strict. Text in, records out; amounts are fractions of a nano-USD, never floating point; a file
that is cut short (`has_more`), in another currency or of an unknown shape is refused, never read in part.

| file | shape | source (read 2026-11) |
|---|---|---|
| sandbox | JSON {"lines": [...]}, or one line of it per row | `router.sandbox.invoice` |
| Anthropic cost report | pages of GET /v1/organizations/cost_report: `amount` is a decimal string in cents, buckets are UTC days; `model` and `token_type` with group_by[]=description | A-COST platform.claude.com/docs/en/api/admin/cost_report |
| Anthropic usage report | pages of GET /v1/organizations/usage_report/messages: tokens, no money; `model` with group_by[]=model | A-USAGE platform.claude.com/docs/en/api/admin/usage_report |
| Google Cloud | CSV of the billing export or of the console's cost table: one row per SKU and time | G-BILL docs.cloud.google.com/billing/docs/how-to/export-data-bigquery-tables/standard-usage |

Several pages may stand in one JSON array. Neither provider reports money by request. What this module does not know: which
model a Google SKU is about (`router.reconcile` finds it by the ledger's own ids), credits, taxes, and negotiated prices.
"""  # noqa: E501

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from io import StringIO
from typing import Any

NANO_PER_CENT = 10_000_000
NANO_PER_USD = 1_000_000_000

_TOKEN_TYPES = {
    "uncached_input_tokens": "uncached_input",
    "output_tokens": "output",
    "cache_read_input_tokens": "cache_read",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_5m",
}
_GOOGLE_SERVICES = ("gemini", "generative language", "vertex ai")
_COLUMNS = {
    "service": ("service.description", "service_description", "service description"),
    "sku": ("sku.description", "sku_description", "sku description"),
    "start": ("usage_start_time", "usage start date", "usage start time"),
    "end": ("usage_end_time", "usage end date", "usage end time"),
    "cost": ("cost", "unrounded cost ($)", "cost ($)"),
    "currency": ("currency",),
}


class InvoiceError(ValueError):
    """The file is not an invoice or report that can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One billed request.

    Attributes:
        ids: What the provider calls it, most particular first.
        time_s: Start of the request as the provider saw it, seconds since the epoch.
    """

    ids: tuple[str, ...]
    upstream: str
    model: str
    time_s: float
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Money or tokens of many requests.

    Attributes:
        model: As the provider names it, or a SKU's description; "" when the report is not by model.
        part: One of `router.ledger.billed.PARTS`, "" when the report does not itemise.
        start_s, end_s: Span it is about, half open.
        amount_nano_usd: None in a report of tokens; exact.
        slack_nano_usd: Half of the last digit given: what rounding can have taken or added.
        tokens: None in a report of money.
    """

    upstream: str
    model: str
    part: str
    start_s: float
    end_s: float
    amount_nano_usd: Fraction | None = None
    slack_nano_usd: Fraction = Fraction(0)
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """A file, read: lines of requests, or charges.

    Attributes:
        kind: "sandbox", "anthropic_cost", "anthropic_usage" or "google".
        left_out: Rows about something else, e.g. another service of the cloud.
    """

    kind: str
    lines: tuple[Line, ...] = ()
    charges: tuple[Charge, ...] = ()
    left_out: int = 0


def read_invoice(text: str) -> Invoice:
    """Read a file of any of the shapes above.

    Raises:
        InvoiceError: It is none of them, is cut short, or is not in USD.
    """
    head = text.lstrip()[:1]
    if head not in ("{", "["):
        return _google(text)
    try:
        found = _json(text)
        if isinstance(found, dict) and "lines" in found:
            return _sandbox(found["lines"])
        pages = found if isinstance(found, list) else [found]
        if pages and all("response_id" in page for page in pages):
            return _sandbox(pages)
        return _anthropic(pages)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InvoiceError):
            raise
        raise InvoiceError(
            f"a field is missing or of another kind: {type(error).__name__}: {error}"
        ) from error


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_float=str)
    except json.JSONDecodeError:
        rows = [line for line in text.splitlines() if line.strip()]
        try:
            return [json.loads(row, parse_float=str) for row in rows]
        except json.JSONDecodeError as error:
            raise InvoiceError(f"is neither JSON nor JSON lines: {error.msg}") from error


def _sandbox(lines: Sequence[Mapping[str, Any]]) -> Invoice:
    return Invoice(
        kind="sandbox",
        lines=tuple(
            Line(
                ids=tuple(each for each in (line["response_id"], line["request_id"]) if each),
                upstream=line["upstream"],
                model=line["model"],
                time_s=float(line["time"]),
                input_tokens=int(line["input_tokens"]),
                output_tokens=int(line["output_tokens"]),
                cost_nano_usd=int(line["cost_nano_usd"]),
            )
            for line in lines
        ),
    )


# --- Anthropic
# --------------------------------------------------------------------------------------------------------------


def _anthropic(pages: Sequence[Mapping[str, Any]]) -> Invoice:
    if not pages or not all("data" in page for page in pages):
        raise InvoiceError("is neither an invoice of the sandbox nor a usage or cost report of Anthropic")
    if pages[-1].get("has_more"):
        raise InvoiceError("has_more is true: the report goes on; put all its pages into one JSON array")
    buckets = [bucket for page in pages for bucket in page["data"]]
    results = [result for bucket in buckets for result in bucket["results"]]
    money = any("amount" in result for result in results)
    if money and not all("amount" in result for result in results):
        raise InvoiceError("mixes costs and usage; give each report as a file of its own")
    read = _cost_charges if money else _usage_charges
    charges = tuple(
        charge
        for bucket in buckets
        for result in bucket["results"]
        for charge in read(result, _instant(bucket["starting_at"]), _instant(bucket["ending_at"]))
    )
    return Invoice(kind="anthropic_cost" if money else "anthropic_usage", charges=charges)


def _cost_charges(result: Mapping[str, Any], start_s: float, end_s: float) -> Iterator[Charge]:
    if result.get("currency", "USD") != "USD":
        raise InvoiceError(f"is in {result['currency']}; the ledger is in USD")
    kind = result.get("token_type")
    if kind is not None and kind not in _TOKEN_TYPES:
        raise InvoiceError(f"token_type {kind!r} is not known to this release")
    tools = result.get("cost_type") not in (None, "tokens")
    amount, slack = _amount(str(result["amount"]), NANO_PER_CENT)
    yield Charge(
        upstream="anthropic",
        model=result.get("model") or "",
        part="tools" if tools else _TOKEN_TYPES[kind] if kind else "",
        start_s=start_s,
        end_s=end_s,
        amount_nano_usd=amount,
        slack_nano_usd=slack,
    )


def _usage_charges(result: Mapping[str, Any], start_s: float, end_s: float) -> Iterator[Charge]:
    written = result.get("cache_creation") or {}
    counts = {
        "uncached_input": result["uncached_input_tokens"],
        "cache_write_5m": written.get("ephemeral_5m_input_tokens", 0),
        "cache_write_1h": written.get("ephemeral_1h_input_tokens", 0),
        "cache_read": result["cache_read_input_tokens"],
        "output": result["output_tokens"],
    }
    for part, tokens in counts.items():
        yield Charge(
            upstream="anthropic",
            model=result.get("model") or "",
            part=part,
            start_s=start_s,
            end_s=end_s,
            tokens=int(tokens),
        )


# --- Google
# --------------------------------------------------------------------------------------------------------------


def _google(text: str) -> Invoice:
    rows = csv.DictReader(StringIO(text.lstrip("\ufeff")))
    names = {name.strip().lower(): name for name in rows.fieldnames or () if name}
    column = {
        key: next((names[alias] for alias in aliases if alias in names), "")
        for key, aliases in _COLUMNS.items()
    }
    missing = [key for key in ("service", "sku", "start", "end", "cost") if not column[key]]
    if missing:
        raise InvoiceError(f"is not a billing export: no column for {', '.join(missing)}")
    charges, left_out = [], 0
    for row in rows:
        service = (row[column["service"]] or "").lower()
        if not any(name in service for name in _GOOGLE_SERVICES):
            left_out += 1
            continue
        currency = row[column["currency"]] if column["currency"] else "USD"
        if currency != "USD":
            raise InvoiceError(f"is in {currency}; the ledger is in USD")
        amount, slack = _amount(row[column["cost"]] or "", NANO_PER_USD)
        charges.append(
            Charge(
                upstream="gemini",
                model=row[column["sku"]],
                part="",
                start_s=_instant(row[column["start"]]),
                end_s=_instant(row[column["end"]]),
                amount_nano_usd=amount,
                slack_nano_usd=slack,
            )
        )
    return Invoice(kind="google", charges=tuple(charges), left_out=left_out)


def _amount(text: str, unit_nano_usd: int) -> tuple[Fraction, Fraction]:
    """Read a decimal number exactly; return it and half its last digit, in nano-USD."""
    clean = text.replace(",", "").strip()
    try:
        value = Fraction(clean) * unit_nano_usd
    except (ValueError, ZeroDivisionError):
        raise InvoiceError(f"{text!r} is not an amount") from None
    mantissa, _, exponent = clean.lower().partition("e")
    places = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return value, Fraction(unit_nano_usd) / Fraction(10) ** places / 2


def _instant(text: str) -> float:
    try:
        found = datetime.fromisoformat(text.strip().replace(" UTC", "+00:00"))
    except ValueError:
        raise InvoiceError(f"{text!r} is not a time") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
