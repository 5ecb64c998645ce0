"""Reconciliation: every difference between ledger and invoice is found, exact, and has the right cause."""

import csv
import io
import json
import sys
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from router.cli import main
from router.cost import Cost
from router.invoices import InvoiceError, Line, read_invoice
from router.ledger import DATABASE, Ledger, LedgerReader
from router.ledger.billed import BilledCall, billed_calls, billed_sums
from router.reconcile import Cause, by_request, by_sum, result_json
from router.settlement import Outcome
from tests.router.ledger_samples import START_S, StillClock, a_settlement
from tests.router.report_calls import UNKNOWN, book

MODEL = "claude-opus-4-5-20251101"
USAGE = a_settlement().usage
COST = 23_750_000


def call(number, **changes):
    values = {
        "request_id": f"r{number}",
        "attempt": 1,
        "upstream": "anthropic",
        "model": MODEL,
        "outcome": "ok",
        "started_time_s": START_S + number,
        "ended_time_s": START_S + number + 0.5,
        "cost_nano_usd": COST,
        "bound_nano_usd": 90_000_000,
        "complete": True,
        "input_tokens": 3_000,
        "output_tokens": 800,
        "response_id": f"msg_{number}",
        "upstream_request_id": f"req_{number}",
    }
    return BilledCall(**(values | changes))


def line(number, **changes):
    values = {
        "ids": (f"msg_{number}", f"req_{number}"),
        "upstream": "anthropic",
        "model": MODEL,
        "time_s": START_S + number,
        "input_tokens": 3_000,
        "output_tokens": 800,
        "cost_nano_usd": COST,
    }
    return Line(**(values | changes))


LOST = {
    "cost_nano_usd": None,
    "complete": None,
    "input_tokens": None,
    "output_tokens": None,
    "outcome": "unknown",
}
NO_IDS = {"response_id": "", "upstream_request_id": ""}
FLOOR = {"complete": False, "output_tokens": 500, "outcome": "interrupted"}

CASES = {
    "rounding": (call(1), line(1, cost_nano_usd=COST + 1), Cause.ROUNDING, 1),
    "price": (call(1), line(1, cost_nano_usd=COST * 2), Cause.PRICE, COST),
    "usage": (call(1), line(1, output_tokens=900, cost_nano_usd=COST + 5), Cause.USAGE, 5),
    "floor": (call(1, **FLOOR), line(1, cost_nano_usd=COST + 9), Cause.FLOOR, 9),
    "floor that was none": (call(1, **FLOOR), line(1, cost_nano_usd=COST - 9), Cause.BEYOND_BOUND, -9),
    "floor beyond bound": (
        call(1, **FLOOR),
        line(1, cost_nano_usd=90_000_001),
        Cause.BEYOND_BOUND,
        90_000_001 - COST,
    ),
    "unknown by id": (call(1, **LOST), line(1), Cause.UNKNOWN_SPEND, COST),
    "unknown by time": (call(1, **LOST, **NO_IDS), line(1, time_s=START_S + 1.2), Cause.UNKNOWN_SPEND, COST),
    "unknown beyond bound": (call(1, **LOST, bound_nano_usd=5), line(1), Cause.BEYOND_BOUND, COST),
    "unknown without bound": (call(1, **LOST, bound_nano_usd=None), line(1), Cause.BEYOND_BOUND, COST),
    "refused": (call(1, outcome="refused", cost_nano_usd=0, complete=None), line(1), Cause.REFUSED, COST),
    "not invoiced": (call(1), None, Cause.NOT_INVOICED, -COST),
    "not in ledger": (None, line(1), Cause.NOT_IN_LEDGER, COST),
    "another model's call": (call(1, **LOST, **NO_IDS), line(1, model="other"), Cause.NOT_IN_LEDGER, COST),
    "not running then": (call(1, **LOST, **NO_IDS), line(1, time_s=START_S + 60), Cause.NOT_IN_LEDGER, COST),
}


@pytest.mark.parametrize("case", CASES)
def test_each_difference_has_its_cause(case):
    """One call, one line, one cause, and the exact difference."""
    booked, billed, cause, difference = CASES[case]
    found = by_request([booked] if booked else [], [billed] if billed else [])
    (only,) = found.differences
    assert (only.cause, only.difference) == (cause, difference)
    assert found.invoice_nano_usd - found.ledger_nano_usd == difference
    assert found.explained == (cause in {Cause.ROUNDING, Cause.FLOOR, Cause.UNKNOWN_SPEND})
    assert found.agrees == (cause is Cause.ROUNDING)


def test_equal_books_agree():
    """Also a floor that was billed as seen, a free refusal, and an unknown call nobody billed."""
    refused = call(3, outcome="refused", cost_nano_usd=0, complete=None, **NO_IDS)
    found = by_request(
        [call(1), call(2, **FLOOR), refused, call(4, **LOST, **NO_IDS)],
        [line(1), line(2, output_tokens=500)],
    )
    assert (found.agrees, found.compared, found.equal, found.silent_unknown) == (True, 3, 3, 1)


def test_a_line_twice_is_billed_twice():
    """The first is the call's, the second is too much."""
    found = by_request([call(1)], [line(1), line(1)])
    assert [(each.cause, each.difference) for each in found.differences] == [(Cause.INVOICED_TWICE, COST)]


def test_a_window_leaves_out_both_sides():
    """A call before the window takes its line with it, also when the provider's clock says later."""
    found = by_request([call(1), call(5)], [line(1, time_s=START_S + 5), line(5)], since_s=START_S + 2)
    assert (found.compared, found.equal, found.agrees) == (1, 1, True)


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(0, 10**9), st.none() | st.integers(0, 10**9), st.booleans(), st.booleans()
        ),
        max_size=12,
    )
)
def test_differences_add_up_to_the_difference(rows):
    """Whatever is booked and billed: no nano-dollar of the difference is left without a cause."""
    calls, lines = [], []
    for number, (booked, billed, complete, named) in enumerate(rows):
        ids = {} if named else NO_IDS
        lost = {"cost_nano_usd": booked, "complete": None if booked is None else complete, **ids}
        calls.append(call(number, **lost))
        if billed is not None:
            lines.append(line(number, cost_nano_usd=billed))
    found = by_request(calls, lines)
    assert (
        sum(each.difference for each in found.differences) == found.invoice_nano_usd - found.ledger_nano_usd
    )
    assert found.compared == found.equal + sum(
        each.cause not in (Cause.NOT_IN_LEDGER, Cause.INVOICED_TWICE) for each in found.differences
    )


# --- reports of sums
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def booked(tmp_path):
    """Two calls on the first day, one on the second."""
    return book(
        tmp_path / "ledger",
        ("a", 1, {}, {"response_id": "msg_a"}),
        ("b", 1, {}, {"response_id": "msg_b"}),
        ("c", 1, {"started_time_s": START_S + 86_400}, {"response_id": "msg_c"}),
    )


PARTS = {
    "uncached_input_tokens": (2_500_000, 500),
    "cache_read_input_tokens": (1_250_000, 2_500),
    "output_tokens": (20_000_000, 800),
}


def cost_report(counts=(2, 1), factor=1, **changes):
    """Anthropic's cost report of so many calls a day: cents, as decimal strings."""
    return {
        "data": [
            {
                "starting_at": f"2026-11-{22 + day}T00:00:00Z",
                "ending_at": f"2026-11-{23 + day}T00:00:00Z",
                "results": [
                    {
                        "currency": "USD",
                        "amount": format(Decimal(nano * count * factor) / 10_000_000, ".7f"),
                        "model": MODEL,
                        "cost_type": "tokens",
                        "token_type": kind,
                    }
                    | changes
                    for kind, (nano, _) in PARTS.items()
                    if count
                ],
            }
            for day, count in enumerate(counts)
        ],
        "has_more": False,
        "next_page": None,
    }


def usage_report(counts=(2, 1)):
    return {
        "data": [
            {
                "starting_at": f"2026-11-{22 + day}T00:00:00Z",
                "ending_at": f"2026-11-{23 + day}T00:00:00Z",
                "results": [
                    {
                        "model": MODEL,
                        "uncached_input_tokens": 500 * count,
                        "cache_read_input_tokens": 2_500 * count,
                        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                        "output_tokens": 800 * count,
                    }
                ],
            }
            for day, count in enumerate(counts)
        ],
        "has_more": False,
    }


def compared(directory, report, usage=None):
    with LedgerReader.open(directory / DATABASE) as reader:
        sums = reader.ask(billed_sums)
    beside = read_invoice(json.dumps(usage)) if usage else None
    return by_sum(sums, read_invoice(json.dumps(report)), beside)


def test_a_cost_report_agrees_by_day_model_and_part(booked):
    """Six sums, each to the nano-dollar."""
    found = compared(booked, cost_report())
    assert (found.agrees, found.compared, found.equal) == (True, 6, 6)
    assert found.invoice_nano_usd == found.ledger_nano_usd == 3 * COST


def test_cents_without_decimals_are_rounding(booked):
    """A report that gives whole cents is equal as far as it says."""
    report = cost_report(counts=(2, 0))
    for result in report["data"][0]["results"]:
        result["amount"] = str(round(Fraction(result["amount"])))
    report["data"] = report["data"][:1]
    with LedgerReader.open(booked / DATABASE) as reader:
        sums = [each for each in reader.ask(billed_sums) if each.day == START_S]
    found = by_sum(sums, read_invoice(json.dumps(report)))
    assert {each.cause for each in found.differences} == {Cause.ROUNDING}
    assert found.agrees


def test_usage_beside_it_tells_a_price(booked):
    """The same tokens for more money is a price; more tokens too is usage; without the usage report nobody knows."""
    dearer = cost_report(factor=2)
    assert {each.cause for each in compared(booked, dearer).differences} == {Cause.UNEXPLAINED}
    assert {each.cause for each in compared(booked, dearer, usage_report()).differences} == {Cause.PRICE}
    assert {each.cause for each in compared(booked, dearer, usage_report((4, 2))).differences} == {
        Cause.USAGE
    }


def test_a_usage_report_is_compared_in_tokens(booked):
    """It has no money, and invents none."""
    assert compared(booked, usage_report()).agrees
    found = compared(booked, usage_report((3, 1)))
    assert found.invoice_nano_usd is None
    assert {(each.what[11 + len(MODEL) + 1 :], each.difference) for each in found.differences} == {
        ("uncached input", 500),
        ("cache read", 2_500),
        ("output", 800),
    }


def test_what_moved_over_midnight_is_no_loss(booked):
    """A call booked on the other day: both days differ, the days together agree."""
    found = compared(booked, cost_report((1, 2)))
    assert {each.cause for each in found.differences} == {Cause.DAY_BOUNDARY}
    assert (found.agrees, found.explained) == (False, True)


def test_unknown_spend_has_room_in_sums(tmp_path):
    """A day with a call of unknown cost may be billed more, up to its bound and no further."""
    directory = book(
        tmp_path / "ledger", ("a", 1, {}, {}), ("x", 1, {"model": MODEL}, UNKNOWN | {"answered_model": ""})
    )
    report = cost_report((2, 0))
    found = compared(directory, report)
    assert {each.cause for each in found.differences} == {Cause.UNKNOWN_SPEND}
    far = compared(directory, cost_report((100, 0)))
    assert Cause.BEYOND_BOUND in {each.cause for each in far.differences}


def test_a_report_without_models_is_compared_by_day(booked):
    """Ungrouped costs: one sum a day."""
    report = cost_report(model=None, token_type=None, cost_type=None)
    found = compared(booked, report)
    assert (found.agrees, found.compared) == (True, 2)


GOOGLE = "service.description,sku.description,usage_start_time,usage_end_time,cost,currency\n"


def google_rows(*rows):
    out = io.StringIO(GOOGLE)
    out.seek(0, io.SEEK_END)
    csv.writer(out).writerows(rows)
    return out.getvalue()


def test_a_google_export_is_compared_by_model(tmp_path):
    """SKUs go to the ledger's model whose words they have, the longest first; other services are left out."""
    cost = {"cost": Cost(uncached_input_nano_usd=1_500), "usage": replace(USAGE, cache_read_tokens=0)}
    directory = book(
        tmp_path / "ledger",
        *(
            (
                name,
                1,
                {"upstream": "gemini", "route": "flash", "model": name},
                cost | {"answered_model": name},
            )
            for name in ("gemini-3.1-flash", "gemini-3.1-flash-lite")
        ),
    )
    day = ("2026-11-22 00:00:00 UTC", "2026-11-22 01:00:00 UTC")
    text = google_rows(
        (
            "Gemini API",
            "Generate content input token count gemini 3.1 flash-lite",
            *day,
            "0.000001500",
            "USD",
        ),
        ("Gemini API", "Generate content input token count Gemini 3.1 Flash", *day, "1.0e-06", "USD"),
        ("Gemini API", "Generate content output token count Gemini 3.1 Flash", *day, "0.0000005", "USD"),
        ("Cloud Storage", "Standard storage", *day, "3.10", "USD"),
    )
    with LedgerReader.open(directory / DATABASE) as reader:
        found = by_sum(reader.ask(billed_sums), read_invoice(text))
    assert (found.agrees, found.compared, found.left_out) == (True, 2, 1)
    assert found.invoice_nano_usd == 3_000


BAD = {
    "not an invoice": '{"hello": 1}',
    "has_more": json.dumps(cost_report() | {"has_more": True}),
    "EUR": json.dumps(cost_report(currency="EUR")),
    "token_type": json.dumps(cost_report(token_type="dreams")),
    "amount": json.dumps(cost_report(amount="much")),
    "no column": "a,b\n1,2\n",
    "time": GOOGLE + "Gemini API,x,soon,later,1,USD\n",
    "JSON": "{",
    "missing": '{"lines": [{"response_id": "x"}]}',
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused(name):
    """Never in part."""
    with pytest.raises(InvoiceError):
        read_invoice(BAD[name])


# --- the verb
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def verb(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hybrid-router", "reconcile", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        return ended.value.code or 0, written.out, written.err

    return run


def sandbox_lines(*names, **changes):
    return [
        {
            "response_id": f"msg_{name}",
            "request_id": f"req_{name}",
            "upstream": "anthropic",
            "model": MODEL,
            "time": START_S,
            "input_tokens": 3_000,
            "output_tokens": 800,
            "cost_nano_usd": COST,
        }
        | changes
        for name in names
    ]


def test_the_verb_s_codes(verb, booked, tmp_path):
    """0 equal, 1 different, 2 not to be compared; JSON for a machine; JSON lines as good as JSON."""
    whole, short, lines = tmp_path / "whole.json", tmp_path / "short.json", tmp_path / "lines.jsonl"
    whole.write_text(json.dumps({"lines": sandbox_lines("a", "b", "c")}), encoding="utf-8")
    short.write_text(json.dumps({"lines": sandbox_lines("a", "b")}), encoding="utf-8")
    lines.write_text("\n".join(map(json.dumps, sandbox_lines("a", "b", "c"))), encoding="utf-8")
    for path in (whole, lines):
        code, out, _ = verb(path, "--ledger", booked)
        assert (code, "agree" in out, "3 equal" in out) == (0, True, True)
    code, out, _ = verb(short, "--ledger", booked, "--json")
    (found,) = json.loads(out)
    assert (code, found["causes"], found["difference_nano_usd"]) == (1, {"not_invoiced": 1}, -COST)
    assert verb(short, "--ledger", booked, "--until", "2026-11-23")[0] == 0
    code, out, err = verb(tmp_path / "none.json", "--ledger", booked)
    assert (code, out) == (2, "")
    assert "none.json" in err


def test_what_is_kept_as_sums_is_named(verb, booked, tmp_path):
    """Lines of calls that pruning took away differ; the reason is said, and how to leave them out."""
    ledger = Ledger.open(booked, clock=StillClock(START_S))
    while ledger.prune_blocking(START_S + 86_400):
        pass
    ledger.close_blocking()
    whole = tmp_path / "whole.json"
    lines = [*sandbox_lines("a", "b"), *sandbox_lines("c", time=START_S + 86_400)]
    whole.write_text(json.dumps({"lines": lines}), encoding="utf-8")
    code, _, err = verb(whole, "--ledger", booked)
    assert code == 1
    assert "not compared: 2 calls, " in err
    assert "--since 2026-11-23 leaves them out" in err
    code, out, err = verb(whole, "--ledger", booked, "--since", "2026-11-23")
    assert (code, "1 equal" in out, err) == (0, True, "")


def test_announced_differences_can_be_accepted(verb, tmp_path):
    """Unknown spend within its bound is a difference all the same, unless it is said to be fine."""
    directory = book(
        tmp_path / "ledger", ("a", 1, {}, UNKNOWN | {"outcome": Outcome.UNKNOWN, "response_id": "msg_a"})
    )
    path = tmp_path / "invoice.json"
    path.write_text(json.dumps({"lines": sandbox_lines("a")}), encoding="utf-8")
    code, out, _ = verb(path, "--ledger", directory)
    assert (code, "differ as announced" in out, "unknown spend" in out) == (1, True, True)
    assert verb(path, "--ledger", directory, "--accept-explained")[0] == 0


def test_several_reports_at_once(verb, booked, tmp_path):
    """The usage report is compared itself, and explains the costs."""
    costs, usage = tmp_path / "cost.json", tmp_path / "usage.json"
    costs.write_text(json.dumps(cost_report(factor=2)), encoding="utf-8")
    usage.write_text(json.dumps([usage_report()]), encoding="utf-8")
    code, out, _ = verb(costs, usage, "--ledger", booked)
    assert code == 1
    assert "price" in out
    assert "Compared in tokens" in out


@pytest.mark.parametrize(
    ("content", "word"), [("{}", "usage or cost report"), ("\x00", "column"), ('{"data": []}', "nothing")]
)
def test_the_verb_refuses(verb, booked, tmp_path, content, word):
    """Exit code 2, the file named, nothing on standard output."""
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    code, out, err = verb(path, "--ledger", booked)
    assert (code, out) == (2, "")
    assert word in err


def test_nobody_answers(verb, booked):
    """A sandbox that is not there is one line."""
    code, out, err = verb("http://127.0.0.1:9", "--ledger", booked)
    assert (code, out) == (2, "")
    assert "/sandbox/invoice" in err


def test_json_spells_fractions_exactly():
    """A report finer than a nano-dollar keeps its digits, as text."""
    found = by_request([call(1)], [])
    odd = result_json(type(found)(**{**vars_of(found), "invoice_nano_usd": Fraction(1, 4)}))
    assert odd["invoice_nano_usd"] == "0.25"


def vars_of(found):
    return {name: getattr(found, name) for name in found.__slots__}


def test_calls_are_told_as_booked(booked):
    """Ids, cost and bound come from the record and the columns alike."""
    with LedgerReader.open(booked / DATABASE) as reader:
        first = reader.ask(lambda connection: list(billed_calls(connection)))[0]
    assert (first.response_id, first.upstream_request_id, first.cost_nano_usd) == ("msg_a", "req_1", COST)
    assert (first.input_tokens, first.complete, first.bound_nano_usd) == (3_000, True, 90_000_000)
