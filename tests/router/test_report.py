"""Sums, shares and savings of a run, and how they are shown."""

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.money import percent, ratio, usd
from router.report import COST_PARTS, Reconciliation, Row, Summary, summarise, summary_json
from router.tables import costs_table, render, summary_tables
from router.v1 import accounting_pb2, operator_service_pb2

NANO = st.integers(0, 10**12)
PARTS = [part for part in COST_PARTS if part != "other_attempts"]


@st.composite
def rows(draw) -> Row:
    answered = draw(st.booleans())
    cost = draw(st.none() | st.fixed_dictionaries(dict.fromkeys(PARTS, NANO))) if answered else None
    other = draw(st.none() | NANO)
    read, written, uncached = (draw(st.integers(0, 10_000)) for _ in range(3))
    tokens = {
        "input": read + written + uncached,
        "uncached_input": uncached,
        "cache_read": read,
        "cache_write_5m": written,
        "cache_write_1h": 0,
        "output": 7,
    }
    return Row(
        number=1,
        id="r",
        status="OK" if answered else draw(st.sampled_from(["UNAVAILABLE", "INTERNAL"])),
        route=draw(st.sampled_from(["", "flash", "opus"])),
        tokens=tokens if answered and draw(st.booleans()) else None,
        cost_nano_usd=cost,
        total_nano_usd=None if cost is None or other is None else sum(cost.values()) + other,
        counterfactuals_nano_usd=draw(st.dictionaries(st.sampled_from(["no_caching", "all_opus"]), NANO)),
        client_total_s=draw(st.none() | st.floats(0, 100)),
    )


def row(**fields) -> Row:
    return Row(**{"number": 1, "id": "r", "route": "opus", **fields})


def tokens(read: int, total: int) -> dict[str, int]:
    return {
        "input": total,
        "uncached_input": total - read,
        "cache_read": read,
        "cache_write_5m": 0,
        "cache_write_1h": 0,
        "output": 1,
    }


class TestSums:
    @given(st.lists(rows(), max_size=12))
    def test_parts_sum_to_totals_and_routes_to_the_whole(self, given_rows):
        """Cost parts sum to what the rows cost; routes and rows without one make up all rows and all cost."""
        summary = summarise(given_rows)
        known = sum(entry.known_cost_nano_usd or 0 for entry in given_rows)
        assert summary.bill.total_nano_usd == known == sum(summary.bill.parts_nano_usd.values())
        by_route = sum(route.bill.total_nano_usd for route in summary.routes)
        unrouted = sum(entry.known_cost_nano_usd or 0 for entry in given_rows if not entry.route)
        assert by_route + unrouted == known
        assert sum(route.count for route in summary.routes) + summary.no_route_count == len(given_rows)

    @given(st.lists(rows(), max_size=12))
    def test_shares_sum_to_one(self, given_rows):
        """Route shares are exact fractions of the routed calls."""
        summary = summarise(given_rows)
        assert sum(route.share for route in summary.routes) == (1 if summary.routes else 0)

    @given(st.lists(rows(), max_size=12))
    def test_every_call_is_known_or_counted_as_unknown(self, given_rows):
        """A saving is over known calls only, and says how many it leaves out."""
        summary = summarise(given_rows)
        for saving in summary.savings:
            assert saving.known_count + saving.unknown_count == len(given_rows)
            assert saving.saving_nano_usd == saving.counterfactual_nano_usd - saving.cost_nano_usd
        assert summary.answered_count + sum(summary.errors.values()) + summary.cancelled_count == len(
            given_rows
        )

    @given(st.lists(rows(), max_size=8), st.randoms(use_true_random=False))
    def test_order_does_not_matter(self, given_rows, random):
        """The same rows in another order give the same summary."""
        shuffled = random.sample(given_rows, len(given_rows))
        assert summary_json(summarise(shuffled)) == summary_json(summarise(given_rows))

    @settings(max_examples=25, deadline=None)
    @given(st.lists(rows(), max_size=6))
    def test_any_summary_is_shown_and_is_json(self, given_rows):
        """No run, however empty or broken, breaks its report."""
        summary = summarise(given_rows)
        assert json.loads(json.dumps(summary_json(summary)))["calls"] == len(given_rows)
        assert f"{len(given_rows)} call" in render(summary_tables(summary))


class TestHitRate:
    def test_it_is_reads_of_input_on_opus_alone(self):
        """Flash and calls of unknown usage are not in the rate; reads count by token and by call."""
        summary = summarise(
            [
                row(tokens=tokens(90, 100)),
                row(tokens=tokens(0, 100)),
                row(tokens=tokens(500, 500), route="flash"),
                row(status="UNAVAILABLE"),
            ]
        )
        assert summary.hit_rate.of_tokens == Fraction(90, 200)
        assert summary.hit_rate.of_calls == Fraction(1, 2)
        assert "45.0 % of input tokens were cache reads (90 of 200)" in render(summary_tables(summary))

    def test_without_opus_it_is_unknown(self):
        """No call, no rate: not zero."""
        summary = summarise([row(route="flash", tokens=tokens(1, 2))])
        assert summary.hit_rate.of_tokens is None
        assert summary_json(summary)["hit_rate"]["of_tokens"] is None
        assert "hit rate on Opus: unknown" in render(summary_tables(summary))


class TestSavings:
    def test_loss_is_negative(self):
        """Caching that cost more than none is shown as a loss."""
        lossy = row(cost_nano_usd={"cache_write_5m": 125}, counterfactuals_nano_usd={"no_caching": 100})
        saving = summarise([lossy, row(cost_nano_usd={"output": 1})]).savings[0]
        assert (saving.name, saving.saving_nano_usd, saving.share) == ("no_caching", -25, Fraction(-1, 4))
        assert (saving.known_count, saving.unknown_count) == (1, 1)
        assert "-25.0 %" in render(summary_tables(summarise([lossy])), width=160)

    def test_the_contracts_baselines_are_always_shown(self):
        """Four counterfactuals are always there; one this release does not know is shown when reported."""
        newer = summarise([row(counterfactuals_nano_usd={"all_haiku": 5})])
        names = [saving.name for saving in newer.savings]
        assert names == ["no_caching", "all_opus", "all_flash", "all_opus_no_caching", "all_haiku"]
        assert "all haiku" in render(summary_tables(newer), width=160)


class TestLatency:
    @given(st.lists(st.floats(0, 1000), min_size=1, max_size=250))
    def test_percentiles_are_nearest_rank(self, values):
        """At least p percent of the calls took no longer than the pth percentile, and fewer took less."""
        latency = summarise([row(client_total_s=value) for value in values]).latencies[1]
        for at, value in latency.at.items():
            assert sum(v <= value for v in values) * 100 >= at * len(values)
            assert sum(v < value for v in values) * 100 < at * len(values)

    def test_failed_calls_have_no_latency(self):
        """A fast refusal does not make the service look fast."""
        latency = summarise([row(status="UNAVAILABLE", client_total_s=0.001)]).latencies[1]
        assert (latency.count, latency.at) == (0, {})


def test_misses_are_summed_by_cause_dearest_first():
    """Losses of one cause are summed; those of unknown cost are counted, not zero."""
    summary = summarise(
        [row(misses=(("ttl_lapsed", 10, 5), ("herd", 1, None))), row(misses=(("ttl_lapsed", 20, 7),))]
    )
    ttl, herd = summary.misses
    assert (ttl.cause, ttl.count, ttl.missed_tokens, ttl.lost_nano_usd) == ("ttl_lapsed", 2, 30, 12)
    assert (herd.lost_nano_usd, herd.lost_unknown_count) == (0, 1)


def test_extra_attempts_are_on_the_bill():
    """What failed tries cost is a part of its own, so the parts still sum to the total."""
    summary = summarise(
        [row(cost_nano_usd={"output": 10}, total_nano_usd=25, attempts=(("opus", "x"), ("opus", "ok")))]
    )
    assert summary.bill.parts_nano_usd["other_attempts"] == 15
    assert (summary.bill.total_nano_usd, summary.extra_attempt_count) == (25, 1)


@pytest.mark.parametrize(
    ("ledger", "invoice", "bound", "agrees", "words"),
    [
        (100, 100, 0, True, "equal to the nano-dollar"),
        (100, 130, 30, True, "within what calls of unknown cost may have cost (at most $0.000000030)"),
        (100, 131, 30, False, "NOT explained"),
        (100, 99, 30, False, "NOT explained"),
    ],
)
def test_reconciliation_is_exact(ledger, invoice, bound, agrees, words):
    """The invoice may exceed the ledger by what is unknown, and by nothing else; it may never be less."""
    entry = Reconciliation(ledger_nano_usd=ledger, invoice_nano_usd=invoice, unknown_bound_nano_usd=bound)
    summary = summarise([], entry)
    assert entry.agrees is agrees
    assert words in render(summary_tables(summary), width=200)
    assert summary_json(summary)["reconciliation"]["difference_nano_usd"] == invoice - ledger


@pytest.mark.parametrize(
    ("invoice", "unknown", "incomplete", "count", "agrees", "words"),
    [
        (100, 0, 40, 2, True, "equal to the nano-dollar."),
        (140, 0, 40, 2, True, "difference $0.000000040, within what 2 broken-off calls may have cost beyond"),
        (140, 0, 40, 1, True, "1 broken-off call may have cost beyond what was seen (at most $0.000000040)."),
        (150, 10, 40, 2, True, "within what calls of unknown cost may have cost (at most $0.000000010) and"),
        (151, 10, 40, 2, False, "NOT explained by what calls of unknown cost"),
        (141, 0, 40, 2, False, "NOT explained by what 2 broken-off calls"),
        (99, 0, 40, 2, False, "difference -$0.000000001, NOT explained"),
    ],
)
def test_broken_off_calls_explain_at_most_their_bound(invoice, unknown, incomplete, count, agrees, words):
    """What broke off is a floor: the invoice may be higher by what such calls can have cost, and never lower."""
    entry = Reconciliation(
        ledger_nano_usd=100,
        invoice_nano_usd=invoice,
        unknown_bound_nano_usd=unknown,
        incomplete_bound_nano_usd=incomplete,
        incomplete_count=count,
    )
    summary = summarise([], entry)
    assert entry.agrees is agrees
    assert words in render(summary_tables(summary), width=300)
    told = summary_json(summary)["reconciliation"]
    assert (told["incomplete_calls"], told["incomplete_bound_nano_usd"]) == (count, incomplete)
    assert told["agrees"] is agrees


class TestCosts:
    @staticmethod
    def cost_row(key: str, nano_usd: int, **fields) -> operator_service_pb2.CostRow:
        cost = accounting_pb2.Cost(total_nano_usd=nano_usd)
        return operator_service_pb2.CostRow(key=key, call_count=3, cost=cost, **fields)

    def test_rows_and_total_are_shown_exactly(self):
        """Each group has its cost to the nano-dollar, its share, and "unknown" where nothing is known."""
        saved = operator_service_pb2.CostComparison(call_count=3, baseline_nano_usd=8, cost_nano_usd=10)
        response = operator_service_pb2.GetCostsResponse(
            rows=[self.cost_row("opus", 3_000_000_001, no_caching=saved), self.cost_row("", 1_000_000_000)],
            total=self.cost_row(
                "", 4_000_000_001, unknown_cost_count=3, unbounded_count=1, unknown_cost_bound_nano_usd=70
            ),
        )
        text = render(costs_table(response, "route"), width=200)
        assert "$3.000000001" in text
        assert "75.0 %" in text
        assert "-$0.000000002" in text
        assert "-25.0 %" in text
        assert "(none)" in text
        assert "unknown" in text
        assert "3 calls of unknown cost are not in the sums: at most $0.000000070;" in text
        assert "1 call of these without a bound" in text
        assert "broke off" not in text

    def test_broken_off_calls_are_named_with_what_they_may_have_cost_more(self):
        """A sum that holds floors says so, also when nothing in it is unknown."""
        total = self.cost_row("", 5, incomplete_count=2, incomplete_bound_nano_usd=40)
        response = operator_service_pb2.GetCostsResponse(rows=[total], total=total)
        text = render(costs_table(response, ""), width=200)
        assert "2 calls broke off and are in the sums with what was seen: at most $0.000000040 more." in text
        assert "not in the sums" not in text

    def test_single_total_needs_no_total_row(self):
        """Without a dimension there is one row, and it is not repeated."""
        response = operator_service_pb2.GetCostsResponse(
            rows=[self.cost_row("x", 5)], total=self.cost_row("", 5)
        )
        assert render(costs_table(response, ""), width=200).count("$0.000000005") == 1


class TestMoney:
    @given(st.integers(-(10**18), 10**18))
    def test_text_reads_back_to_the_same_amount(self, nano_usd):
        """All nine decimals are there: what is shown is what was spent."""
        text = usd(nano_usd).replace("$", "").replace(",", "")
        whole, part = text.split(".")
        assert len(part) == 9
        assert int(whole + part) == nano_usd

    def test_unknown_is_not_zero(self):
        """None is a word, zero is an amount."""
        assert (usd(None), usd(0), percent(None), ratio(1, 0)) == ("unknown", "$0.000000000", "unknown", None)

    @pytest.mark.parametrize(
        ("share", "signed", "text"),
        [
            (Fraction(1, 3), False, "33.3 %"),
            (Fraction(1, 2000), True, "+0.1 %"),
            (Fraction(-1, 8), True, "-12.5 %"),
            (Fraction(-1, 100_000), True, "0.0 %"),
            (Fraction(1), False, "100.0 %"),
        ],
    )
    def test_percent_rounds_half_away_from_zero(self, share, signed, text):
        """One decimal, and no sign before a rounded zero."""
        assert percent(share, signed=signed) == text


def test_empty_summary_has_every_key():
    """A run of nothing reports nothing, in the same shape."""
    empty: Summary = summarise([])
    assert summary_json(empty)["cost"]["total_nano_usd"] == 0
    assert summary_json(empty)["routes"] == []


def test_costs_by_tenant_show_names_as_they_are() -> None:
    """A tenant or a label called "[red]" is a name and no markup, in cells, headings and title."""
    row = operator_service_pb2.CostRow(key="[red]", call_count=3)
    response = operator_service_pb2.GetCostsResponse(rows=[row], total=row)
    lines = [line.split() for line in render(costs_table(response, "[/team]"), width=200).splitlines()]
    assert sum(line[:2] == ["[red]", "3"] for line in lines) == 1
    assert sum(line[:1] == ["[red]"] for line in lines) == 2
    assert sum(line[:2] == ["[/team]", "calls"] for line in lines) == 1
    assert ["Costs", "by", "[/team]"] in lines


def test_a_failure_is_told_with_its_reason():
    """What the status alone does not say; a reason that only repeats it is left out."""
    failed = [row(number=number, status="NOT_FOUND", error_reason="SESSION_EXPIRED") for number in (1, 2)]
    summary = summarise([*failed, row(number=3, status="INTERNAL", error_reason="INTERNAL")])
    assert dict(summary.errors) == {"NOT_FOUND": 2, "INTERNAL": 1}
    headline = render(summary_tables(summary)).splitlines()[0]
    assert "2 failed with NOT_FOUND (SESSION_EXPIRED), 1 failed with INTERNAL." in headline
