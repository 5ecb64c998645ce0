"""Overhead: every call is an answer or overhead of one kind, each sum is exact, and nothing unknown becomes 0."""

import csv
import io
import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from router.cli import main
from router.cost import Cost
from router.ledger import DATABASE, Filter, Ledger, LedgerReader
from router.overhead import overhead_json, overhead_of
from router.settlement import Outcome, Purpose
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent
from tests.router.report_calls import DECISION, KINDS_OF_CALLS, USD, book

CENT = USD // 100


@pytest.fixture
def booked(tmp_path):
    return book(tmp_path / "ledger", *KINDS_OF_CALLS)


@pytest.fixture
def verb(monkeypatch, capsys):
    """Run `hybrid-router` in this process; return code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hybrid-router", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        return ended.value.code or 0, written.out, written.err

    return run


def found_in(directory, where=None):
    with LedgerReader.open(directory / DATABASE) as reader:
        return overhead_of(reader, where)


def test_each_kind_is_counted_once(booked):
    """Purpose, discarded answer, try that another followed: one role each; padding lies within answers."""
    found = found_in(booked)
    assert {kind.name: (kind.calls, kind.cost_nano_usd, kind.unknown_calls) for kind in found.kinds} == {
        "warm": (1, 3 * CENT, 0),
        "probe": (1, 0, 1),
        "shadow": (1, 2 * CENT, 0),
        "discarded": (1, 1 * CENT, 0),
        "retried": (1, 0, 1),
    }
    assert (found.answers, found.answered_nano_usd) == (6, 58 * CENT)
    assert (found.padding.calls, found.padding.tokens, found.padding.cost_nano_usd) == (1, 500, 2 * CENT)
    assert found.total_nano_usd == 8 * CENT
    assert found.spent_nano_usd == 64 * CENT


def test_unknown_overhead_has_its_bound(booked):
    """A probe nobody knows the cost of is not free."""
    probe = next(kind for kind in found_in(booked).kinds if kind.name == "probe")
    assert (probe.unknown_bound_nano_usd, probe.unbounded_calls) == (90_000_000, 0)
    assert overhead_json(found_in(booked))["overhead"]["probe"]["cost_nano_usd"] is None


def test_savings_are_signed_and_less_overhead(booked):
    """Answers against each counterfactual, where both are known; all overhead calls are taken off."""
    net = {each.name: (each.answers.saving_nano_usd, each.net_nano_usd) for each in found_in(booked).savings}
    # no caching: 25-10, 18-20, 7-7, 9-9, 11-11; all Flash: 2-10, 1-9, 1-1.
    assert net["no_caching"] == (13 * CENT, 7 * CENT)
    assert net["all_flash"] == (-16 * CENT, -22 * CENT)
    assert net["all_opus"] == (11 * CENT, 5 * CENT)


def test_nothing_to_compare_is_unknown(tmp_path):
    """Without one answer of known counterfactual the net saving is unknown, not minus the overhead."""
    found = found_in(book(tmp_path, ("r", 1, {"purpose": Purpose.WARM}, {})))
    assert {each.net_nano_usd for each in found.savings} == {None}


def test_exploration_stands_against_the_other_route(booked):
    """A draw to Flash cost a cent where Opus would have cost twelve: exploring cost minus eleven."""
    (drawn,) = found_in(booked).explored
    assert (drawn.route, drawn.calls, drawn.other_route.baseline_nano_usd) == ("flash", 1, 12 * CENT)
    assert overhead_json(found_in(booked))["explored"][0]["extra_nano_usd"] == -11 * CENT


def test_a_filter_narrows_everything(booked):
    """By tenant and by time, as the ledger's other questions."""
    found = found_in(booked, Filter(equal={"tenant": "<bolt> & co"}))
    assert (found.answers, found.total_nano_usd, found.explored) == (1, 0, ())


calls = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(Purpose),
        st.sampled_from(["", "empty_answer"]),
        st.booleans(),
        st.none() | st.integers(0, 10**12),
        st.sampled_from(Outcome),
    ),
    max_size=10,
)


@settings(max_examples=40, deadline=None)
@given(calls)
def test_answers_and_overhead_are_the_whole_ledger(calls):
    """Whatever was called: roles partition the calls, and their sums are the ledger's totals."""
    ledger = Ledger.temporary(clock=StillClock())
    attempts = {}
    for request, purpose, discarded, explored, cost, outcome in calls:
        attempts[request] = attempts.get(request, 0) + 1
        ledger.settle(
            a_settlement(
                an_intent(request_id=request, attempt=attempts[request], purpose=purpose),
                outcome=outcome,
                discarded=discarded,
                decision=replace(DECISION, explored=explored),
                cost=None if cost is None else Cost(thinking_nano_usd=cost),
            )
        )
    ledger.flush_blocking()
    # A temporary ledger goes when it is closed.
    with LedgerReader.open(ledger._directory / DATABASE) as reader:
        found, total = overhead_of(reader), reader.totals()
        answers = reader.totals(Filter(equal={"role": "answer"}))
    ledger.close_blocking()
    assert found.answers + sum(kind.calls for kind in found.kinds) == total.calls == len(calls)
    assert found.spent_nano_usd == total.cost.total_nano_usd
    assert found.unknown_calls + answers.unknown_calls == total.unknown_calls


# --- the verb
# --------------------------------------------------------------------------------------------------------------


def test_costs_show_overhead_apart(verb, booked):
    """The table of costs is followed by overhead, what was saved against each counterfactual, and exploration."""
    code, out, _ = verb("costs", "--ledger", booked)
    assert code == 0
    for words in (
        "Overhead, apart from answers",
        "warms",
        "padding within answers",
        "Saved against",
        "less overhead",
    ):
        assert words in out
    assert "probes: 1 call of unknown cost, at most $0.090000000." in out
    probes = next(
        line for line in out.splitlines() if line.strip().startswith("probes") and "calls" not in line
    )
    assert "unknown" in probes
    assert "exploring cost -$0.110000000" in out


@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_terminal_loses_neither_a_name_nor_a_figure(verb, booked, monkeypatch, columns):
    """At its width each counterfactual stands beside its amounts; a table without room runs over the edge."""
    wide = verb("costs", "--ledger", booked)[1]
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = verb("costs", "--ledger", booked)
    assert code == 0
    assert "…" not in out
    assert re.findall(r"-?\$[\d.,]+", wide) == re.findall(r"-?\$[\d.,]+", out)
    saved = out.split("Saved against", 1)[1]
    assert all(word in saved for word in ("same route", "counterfact", "less overhead", "session"))


def test_overhead_for_a_machine(verb, booked):
    """The section alone, as JSON and as CSV, with the same figures."""
    tree = json.loads(verb("costs", "--ledger", booked, "--overhead", "--json")[1])
    rows = {
        row["kind"]: row
        for row in csv.DictReader(io.StringIO(verb("costs", "--ledger", booked, "--overhead", "--csv")[1]))
    }
    assert tree["total_nano_usd"] == 8 * CENT
    assert rows["warm"]["cost_nano_usd"] == str(tree["overhead"]["warm"]["cost_nano_usd"]) == str(3 * CENT)
    assert (rows["probe"]["cost_nano_usd"], rows["probe"]["unknown_calls"]) == ("", "1")


def test_costs_by_session_as_csv(verb, booked):
    """One line a session, exact; what cannot be compared is empty; a name that is a formula is text."""
    code, out, _ = verb("costs", "--ledger", booked, "--by", "session", "--csv")
    rows = {row["session"]: row for row in csv.DictReader(io.StringIO(out))}
    assert code == 0
    assert set(rows) == {"s1", "s2", ""}
    assert rows["s2"]["cost_nano_usd"] == str(11 * CENT)
    assert rows["s2"]["all_flash_nano_usd"] == ""
    assert rows[""]["unknown_bound_nano_usd"] == "90000000"


def test_a_formula_is_text(verb, tmp_path):
    """A tenant may call itself =HYPERLINK(...)."""
    directory = book(tmp_path / "ledger", ("r", 1, {"tenant": "=1+1"}, {}))
    _, out, _ = verb("costs", "--ledger", directory, "--by", "tenant", "--csv")
    assert out.splitlines()[1].startswith("'=1+1,")


def test_only_narrows_and_top_cuts(verb, booked):
    """--only filters by any group, labels too; --top cuts rows and not the total."""
    asked = ("costs", "--ledger", booked, "--by", "session", "--json")
    flash = json.loads(verb(*asked, "--only", "route=flash", "--only", "label:team=search")[1])
    assert flash["total"]["call_count"] == "3"
    first = json.loads(verb(*asked, "--top", "1")[1])
    assert (len(first["rows"]), first["rows"][0]["key"]) == (1, "s1")
    assert first["total"]["call_count"] == str(len(KINDS_OF_CALLS))
    assert "2 more groups" in verb(*asked[:-1], "--top", "1")[1]


REFUSED = {
    ("--json", "--csv"): "--csv",
    ("--only", "route"): "NAME=VALUE",
    ("--only", "colour=red"): "colour",
    ("--target", "127.0.0.1:1", "--overhead"): "--overhead",
    ("--target", "127.0.0.1:1", "--only", "route=opus"): "--only",
}


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_costs_refuses_what_does_not_go_together(verb, booked, options):
    """Exit code 2, the option named, nothing on standard output."""
    code, out, err = verb("costs", "--ledger", booked, *options)
    assert (code, out) == (2, "")
    assert REFUSED[options] in err


def test_costs_tell_what_is_kept_as_sums_alone(verb, booked):
    """Beside the table, and on standard error beside what a machine reads; by a session it cannot be told."""
    ledger = Ledger.open(booked, clock=StillClock())
    ledger.prune_blocking(START_S + 86_400.0)
    ledger.close_blocking()
    said = "Not in these figures: 10 calls from before 2026-11-23, kept as sums by day, $0.530000000 and 2 of unknown"
    code, out, err = verb("costs", "--ledger", booked)
    assert (code, err) == (0, "")
    assert said in out
    _, out, err = verb("costs", "--ledger", booked, "--csv")
    assert said in err
    assert "Not in" not in out
    assert "cannot be told of them" in verb("costs", "--ledger", booked, "--only", "session=s2")[1]
    assert "Not in" not in verb("costs", "--ledger", booked, "--since", "2026-11-23")[1]
