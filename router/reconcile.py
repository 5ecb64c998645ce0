"""The ledger against what providers say they billed: what agrees, what does not, and why.

The rule: pure and exact. Where the invoice has ids, call by call; where it has sums, by day, model and part, as fine
as the report is. A difference is invoice minus ledger. Each has one cause; those the ledger itself had announced (a
call of unknown cost, a floor, both within their bound) and rounding are `explained`, all others are for a person to
look at.

Causes:
    rounding        within half the last digit the invoice gives, and a nano-dollar a call
    floor           the answer broke off; billed more than was seen, within the bound
    unknown_spend   the ledger knew of the call and not of its cost; billed within the bound
    beyond_bound    as the two before, and more than the bound
    price           the same tokens at another price
    usage           other tokens
    refused         the ledger has it as refused, and it was billed
    not_invoiced    booked, and not on the invoice
    not_in_ledger   on the invoice, and not booked
    invoiced_twice  the same id again
    day_boundary    booked on another day; the days together agree
    unexplained     sums differ, and the report is too coarse to say why

A line that no id finds is held against calls of unknown cost of the same upstream and model that were running when it
began; that is a guess, and says so. It does not know other callers of the same account: they are `not_in_ledger`, or
`unexplained` in sums.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any

from router.invoices import Charge, Invoice, Line
from router.ledger.billed import BilledCall, BilledSum

CLOCK_SLACK_S = 2.0
"""How far a provider's clock may be from ours when a line without an id is looked for."""
DAY_S = 86_400


class Cause(StrEnum):
    """Why a call or a sum differs."""

    ROUNDING = "rounding"
    FLOOR = "floor"
    UNKNOWN_SPEND = "unknown_spend"
    BEYOND_BOUND = "beyond_bound"
    PRICE = "price"
    USAGE = "usage"
    REFUSED = "refused"
    NOT_INVOICED = "not_invoiced"
    NOT_IN_LEDGER = "not_in_ledger"
    INVOICED_TWICE = "invoiced_twice"
    DAY_BOUNDARY = "day_boundary"
    UNEXPLAINED = "unexplained"


EXPLAINED = frozenset({Cause.ROUNDING, Cause.FLOOR, Cause.UNKNOWN_SPEND, Cause.DAY_BOUNDARY})
"""What the ledger had announced, or what is no difference of money in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One call, or one sum, that is not equal.

    Attributes:
        what: Request and attempt, provider's id, or day, model and part of a sum.
        ledger_nano_usd: None when not known, or not booked at all.
        invoice_nano_usd: None when not billed; a fraction where a report is finer than a nano-dollar.
        difference: Invoice minus ledger, in nano-USD, or in tokens where the report has no money.
        unit: "nano_usd" or "tokens".
        detail: What is known of it, in a sentence.
    """

    cause: Cause
    what: str
    upstream: str
    model: str
    ledger_nano_usd: int | None
    invoice_nano_usd: Fraction | None
    difference: Fraction
    unit: str = "nano_usd"
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a comparison came out.

    Attributes:
        kind: Kind of the invoice.
        compared: Calls, or sums, held against each other.
        equal: Those without a difference.
        silent_unknown: Calls of unknown cost that the invoice does not have: nothing was billed for them, as far as it
            says; None for reports without ids.
        ledger_nano_usd: Known cost in the window, of the upstreams the invoice is about.
        invoice_nano_usd: None for a report of tokens.
    """

    kind: str
    compared: int
    equal: int
    silent_unknown: int | None
    ledger_nano_usd: int
    invoice_nano_usd: Fraction | None
    differences: tuple[Difference, ...]
    left_out: int = 0

    @property
    def agrees(self) -> bool:
        """Whether nothing differs but by rounding."""
        return all(each.cause is Cause.ROUNDING for each in self.differences)

    @property
    def explained(self) -> bool:
        """Whether every difference had been announced by the ledger."""
        return all(each.cause in EXPLAINED for each in self.differences)


# --- call by call
# --------------------------------------------------------------------------------------------------------------


def by_request(
    calls: Iterable[BilledCall],
    lines: Sequence[Line],
    *,
    since_s: float | None = None,
    until_s: float | None = None,
) -> Result:
    """Hold calls against lines with ids.

    Args:
        calls: Of the window and, so that a line finds its call, some time around it.
        since_s, until_s: Calls that began outside are not compared, nor are their lines.
    """
    found = list(calls)
    inside = [call for call in found if _within(call.started_time_s, since_s, until_s)]
    known = {each: call for call in found for each in (call.upstream_request_id, call.response_id) if each}
    wanted = {(call.request_id, call.attempt) for call in inside}
    billed: dict[tuple[str, int], Line] = {}
    differences, strays, counted = [], [], []
    for line in lines:
        call = next((known[each] for each in line.ids if each in known), None)
        if call is None:
            if _within(line.time_s, since_s, until_s):
                strays.append(line)
                counted.append(line)
            continue
        key = (call.request_id, call.attempt)
        if key not in wanted:
            continue
        counted.append(line)
        if key in billed:
            differences.append(
                _stray(line, Cause.INVOICED_TWICE, "an earlier line has this id and is compared")
            )
        else:
            billed[key] = line
    guesses = _guessed([call for call in inside if (call.request_id, call.attempt) not in billed], strays)
    equal = silent = 0
    for call in inside:
        key = (call.request_id, call.attempt)
        line_or_none = billed.get(key) or guesses.get(key)
        if line_or_none is None and call.cost_nano_usd is None:
            silent += 1
            continue
        difference = _difference(call, line_or_none, guessed=key in guesses)
        if difference is None:
            equal += 1
        else:
            differences.append(difference)
    taken = {id(line) for line in guesses.values()}
    differences += [_stray(line, Cause.NOT_IN_LEDGER, "") for line in strays if id(line) not in taken]
    return Result(
        kind="sandbox",
        compared=len(inside) - silent,
        equal=equal,
        silent_unknown=silent,
        ledger_nano_usd=sum(call.cost_nano_usd or 0 for call in inside),
        invoice_nano_usd=Fraction(sum(line.cost_nano_usd for line in counted)),
        differences=tuple(differences),
    )


def _within(time_s: float, since_s: float | None, until_s: float | None) -> bool:
    return (since_s is None or time_s >= since_s) and (until_s is None or time_s < until_s)


def _guessed(calls: Sequence[BilledCall], strays: Sequence[Line]) -> dict[tuple[str, int], Line]:
    """Give lines without a known id to calls of unknown cost that ran when they began, in order of time."""
    waiting: dict[tuple[str, str], list[BilledCall]] = defaultdict(list)
    for call in calls:
        if call.cost_nano_usd is None:
            waiting[call.upstream, call.model].append(call)
    found: dict[tuple[str, int], Line] = {}
    for line in sorted(strays, key=lambda each: each.time_s):
        candidates = waiting[line.upstream, line.model]
        for index, call in enumerate(candidates):
            start_s, end_s = call.started_time_s - CLOCK_SLACK_S, call.ended_time_s + CLOCK_SLACK_S
            if start_s <= line.time_s <= end_s:
                found[call.request_id, call.attempt] = line
                del candidates[index]
                break
    return found


def _difference(call: BilledCall, line: Line | None, *, guessed: bool) -> Difference | None:
    """Compare one call with its line, if it has one."""
    cost = call.cost_nano_usd
    if line is None:
        if not cost:
            return None
        return _of(call, None, Cause.NOT_INVOICED, "no line has its ids")
    if cost == line.cost_nano_usd:
        return None
    bound = call.bound_nano_usd
    if cost is None or call.complete is False:
        announced = Cause.UNKNOWN_SPEND if cost is None else Cause.FLOOR
        low = cost or 0
        fits = low <= line.cost_nano_usd and bound is not None and line.cost_nano_usd <= bound
        detail = "without a bound" if bound is None else f"bound {bound} nano-USD"
        if guessed:
            detail += "; found by time, upstream and model, not by an id"
        return _of(call, line, announced if fits else Cause.BEYOND_BOUND, detail)
    if call.outcome == "refused":
        return _of(call, line, Cause.REFUSED, "the ledger has it as refused, which is free")
    if (call.input_tokens, call.output_tokens) != (line.input_tokens, line.output_tokens):
        told = f"tokens in and out: ledger {call.input_tokens} and {call.output_tokens}"
        return _of(call, line, Cause.USAGE, f"{told}, invoice {line.input_tokens} and {line.output_tokens}")
    if abs(line.cost_nano_usd - cost) <= 1:
        return _of(call, line, Cause.ROUNDING, "")
    return _of(call, line, Cause.PRICE, f"invoiced as {line.model}")


def _of(call: BilledCall, line: Line | None, cause: Cause, detail: str) -> Difference:
    invoiced = None if line is None else Fraction(line.cost_nano_usd)
    return Difference(
        cause=cause,
        what=f"{call.request_id}/{call.attempt}",
        upstream=call.upstream,
        model=call.model,
        ledger_nano_usd=call.cost_nano_usd,
        invoice_nano_usd=invoiced,
        difference=(invoiced or Fraction(0)) - (call.cost_nano_usd or 0),
        detail=detail,
    )


def _stray(line: Line, cause: Cause, detail: str) -> Difference:
    return Difference(
        cause=cause,
        what=line.ids[0] if line.ids else "(no id)",
        upstream=line.upstream,
        model=line.model,
        ledger_nano_usd=None,
        invoice_nano_usd=Fraction(line.cost_nano_usd),
        difference=Fraction(line.cost_nano_usd),
        detail=detail,
    )


# --- sum by sum
# --------------------------------------------------------------------------------------------------------------

Key = tuple[int, str, str]
"""Day (0 where the report's days are not UTC's), model, part; "" where the report does not tell them apart."""


@dataclass(slots=True)
class _Pair:
    """What both sides say of one key."""

    calls: int = 0
    ledger: int = 0
    invoice: Fraction = Fraction(0)
    slack: Fraction = Fraction(0)
    room: int = 0
    unseen: int = 0
    unbounded: int = 0

    @property
    def difference(self) -> Fraction:
        return self.invoice - self.ledger

    @property
    def rounding(self) -> Fraction:
        # A call's parts are rounded so that they add up to its total: each is at most a nano-dollar off.
        return self.slack + self.calls


def by_sum(sums: Sequence[BilledSum], invoice: Invoice, usage: Invoice | None = None) -> Result:
    """Hold sums of the ledger against a report.

    Args:
        sums: Of the report's window.
        invoice: Charges in money, or in tokens.
        usage: A report of tokens over the same window, which tells another price from other usage.
    """
    upstream = next((charge.upstream for charge in invoice.charges), "")
    ours = [each for each in sums if each.upstream == upstream]
    if invoice.kind == "google":
        charges: Sequence[Charge] = _named(invoice.charges, {each.model for each in ours})
    else:
        charges = invoice.charges
    money = invoice.kind != "anthropic_usage"
    pairs = _pairs(ours, charges, money=money, daily=invoice.kind != "google")
    told = _pairs(ours, usage.charges, money=False, daily=True) if usage is not None else {}
    differences = [
        difference
        for key, pair in sorted(pairs.items())
        if (difference := _sum_difference(key, pair, upstream, told.get(key), money=money)) is not None
    ]
    return Result(
        kind=invoice.kind,
        compared=len(pairs),
        equal=len(pairs) - len(differences),
        silent_unknown=None,
        ledger_nano_usd=sum(sum(each.parts_nano_usd.values()) for each in ours),
        invoice_nano_usd=sum((charge.amount_nano_usd or Fraction(0) for charge in charges), Fraction(0))
        if money
        else None,
        differences=tuple(_across_days(differences, pairs)),
        left_out=invoice.left_out,
    )


def _pairs(
    sums: Sequence[BilledSum], charges: Sequence[Charge], *, money: bool, daily: bool
) -> dict[Key, _Pair]:
    """Put both sides under the finest keys that the report has."""
    by_model = all(charge.model for charge in charges)
    by_part = all(charge.part for charge in charges)

    def key(day_s: float, model: str, part: str) -> Key:
        day = int(day_s // DAY_S) * DAY_S if daily else 0
        return day, model if by_model else "", part if by_part else ""

    pairs: dict[Key, _Pair] = defaultdict(_Pair)
    for each in sums:
        amounts = each.parts_nano_usd if money else each.tokens
        for part, amount in amounts.items():
            pair = pairs[key(each.day, each.model, part)]
            pair.ledger += amount
        # What is not known of a call is not known by part either: it may all be in any of them.
        for touched in {key(each.day, each.model, part) for part in amounts}:
            pairs[touched].calls += each.calls
            pairs[touched].room += each.room_nano_usd
            pairs[touched].unseen += each.unknown_calls + each.floor_calls
            pairs[touched].unbounded += each.unbounded_calls
    for charge in charges:
        pair = pairs[key(charge.start_s, charge.model, charge.part)]
        amount_or_none = charge.amount_nano_usd if money else charge.tokens
        pair.invoice += Fraction(amount_or_none or 0)
        pair.slack += charge.slack_nano_usd
    return {name: pair for name, pair in pairs.items() if pair.ledger or pair.invoice}


def _sum_difference(
    key: Key, pair: _Pair, upstream: str, told: _Pair | None, *, money: bool
) -> Difference | None:
    if not pair.difference:
        return None
    day, model, part = key
    cause, detail = _sum_cause(pair, told, money=money)
    words = [_day(day) if day else "", model, part.replace("_", " ")]
    return Difference(
        cause=cause,
        what=" ".join(word for word in words if word) or "all",
        upstream=upstream,
        model=model,
        ledger_nano_usd=pair.ledger if money else None,
        invoice_nano_usd=pair.invoice if money else None,
        difference=pair.difference,
        unit="nano_usd" if money else "tokens",
        detail=detail,
    )


def _sum_cause(pair: _Pair, told: _Pair | None, *, money: bool) -> tuple[Cause, str]:
    if money and abs(pair.difference) <= pair.rounding:
        return Cause.ROUNDING, ""
    unseen = f"{pair.unseen} calls of unknown cost or with a floor"
    if pair.difference > 0 and pair.unseen:
        if not money:
            return Cause.UNKNOWN_SPEND, f"{unseen}; their tokens are not known"
        if pair.difference <= pair.room + pair.rounding:
            return Cause.UNKNOWN_SPEND, f"{unseen}, at most {pair.room} nano-USD more"
        return (
            Cause.BEYOND_BOUND,
            f"{unseen}, at most {pair.room} nano-USD more, {pair.unbounded} without a bound",
        )
    if not money:
        return Cause.USAGE, "other callers of the account, calls not in this ledger, or not reported yet"
    if told is not None:
        if not told.difference:
            return Cause.PRICE, "the usage report has the same tokens"
        return Cause.USAGE, f"the usage report has {told.difference} tokens more"
    if pair.difference > 0:
        return Cause.UNEXPLAINED, "other callers of the account, or another price; a usage report would tell"
    return Cause.UNEXPLAINED, "not reported yet, a discount, or another price; a usage report would tell"


def _across_days(differences: Sequence[Difference], pairs: Mapping[Key, _Pair]) -> list[Difference]:
    """Find differences that only moved from one day to the next: calls that ran over midnight."""
    whole: dict[tuple[str, str], _Pair] = defaultdict(_Pair)
    days: Counter[tuple[str, str]] = Counter()
    for (_, model, part), pair in pairs.items():
        both = whole[model, part]
        both.calls += pair.calls
        both.ledger += pair.ledger
        both.invoice += pair.invoice
        both.slack += pair.slack
        days[model, part] += 1
    moved = {
        f"{model} {part.replace('_', ' ')}".strip()
        for (model, part), pair in whole.items()
        if days[model, part] > 1 and abs(pair.difference) <= pair.rounding
    }
    return [
        replace(each, cause=Cause.DAY_BOUNDARY, detail="the days together agree")
        if each.cause in (Cause.UNEXPLAINED, Cause.USAGE) and each.what[11:] in moved
        else each
        for each in differences
    ]


def _named(charges: Sequence[Charge], models: Iterable[str]) -> list[Charge]:
    """Give a SKU's charge the ledger's model whose words it has; the longest wins, other SKUs keep their name."""
    patterns = [
        (model, re.compile(rf"(?<![a-z0-9.]){re.escape(_words(model))}(?![a-z0-9.])"))
        for model in sorted(models, key=lambda name: (-len(name), name))
    ]
    found = []
    for charge in charges:
        text = _words(charge.model)
        name = next((model for model, pattern in patterns if pattern.search(text)), charge.model)
        found.append(replace(charge, model=name))
    return found


def _words(text: str) -> str:
    return " ".join(re.split(r"[^a-z0-9.]+", text.lower())).strip()


def _day(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d")


def result_json(found: Result) -> dict[str, Any]:
    """Return a result as a JSON object; unknown is null, a fraction of a nano-USD a decimal string."""
    return {
        "kind": found.kind,
        "agrees": found.agrees,
        "explained": found.explained,
        "compared": found.compared,
        "equal": found.equal,
        "silent_unknown": found.silent_unknown,
        "left_out": found.left_out,
        "ledger_nano_usd": found.ledger_nano_usd,
        "invoice_nano_usd": _number(found.invoice_nano_usd),
        "difference_nano_usd": None
        if found.invoice_nano_usd is None
        else _number(found.invoice_nano_usd - found.ledger_nano_usd),
        "causes": dict(sorted(Counter(each.cause.value for each in found.differences).items())),
        "differences": [
            {
                "cause": each.cause.value,
                "explained": each.cause in EXPLAINED,
                "what": each.what,
                "upstream": each.upstream,
                "model": each.model,
                "ledger_nano_usd": each.ledger_nano_usd,
                "invoice_nano_usd": _number(each.invoice_nano_usd),
                "difference": _number(each.difference),
                "unit": each.unit,
                "detail": each.detail,
            }
            for each in found.differences
        ],
    }


def _number(value: Fraction | None) -> int | str | None:
    if value is None:
        return None
    if value.denominator == 1:
        return int(value)
    # Reports give decimal numbers, so there is an end to the digits.
    return format(Decimal(value.numerator) / Decimal(value.denominator), "f")
