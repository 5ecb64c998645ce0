"""Findings from the ledger's sums: ranked by money, advice on the dearest cause, and nothing unknown shown as 0."""

import json
from fractions import Fraction

import pytest

from router.doctor import (
    Evidence,
    advice,
    call_groups,
    cause_groups,
    diagnose,
    diagnosis_json,
    finding_groups,
    part_groups,
)
from router.ledger import CachingRow, Comparison, DearMiss, MissRow
from router.tables import diagnosis_tables, render
from router.v1.accounting_pb2 import MissCause

USD = 1_000_000_000


def caching(calls: int, *, cost: int = 10 * USD, **group: str) -> CachingRow:
    """Calls with 1,000 input tokens each, 600 of them read; 6 of 10 dollars are input; 30 without caching."""
    return CachingRow(
        group=group,
        calls=calls,
        usage_calls=calls,
        input_tokens=calls * 1_000,
        cache_read_tokens=calls * 600,
        cache_write_tokens=calls * 100,
        priced_calls=calls,
        input_nano_usd=cost * 6 // 10,
        cost_nano_usd=cost,
        no_caching=Comparison(calls, 3 * cost, cost),
        padding_tokens=0,
        padding_nano_usd=0,
    )


def missed(calls: int, lost: int, *, unknown: int = 0, tokens: int = 0, **group: str) -> MissRow:
    return MissRow(
        group=group,
        calls=calls,
        misses=calls,
        missed_tokens=tokens or calls * 500,
        unknown_token_misses=unknown,
        lost_nano_usd=lost,
        unknown_loss_calls=unknown,
    )


def dear(request_id: str, lost: int | None, **group: str) -> DearMiss:
    return DearMiss(
        group=group,
        request_id=request_id,
        attempt=1,
        started_time_s=1_795_305_600.0,
        cause="system",
        layer="system",
        missed_tokens=500,
        lost_nano_usd=lost,
    )


def by_cause(**changes: object) -> Evidence:
    """Two causes: the system prompt of desk in two layers, and lapsed TTLs of two applications."""
    answers: dict[str, object] = {
        "by": "cause",
        "total": [missed(470, 3 * USD, unknown=2)],
        "groups": [
            missed(60, USD, cause="ttl_lapsed"),
            missed(412, 2 * USD, unknown=2, cause="system"),
        ],
        "parts": [
            missed(20, USD * 2 // 10, cause="ttl_lapsed", layer="history", application="desk"),
            missed(40, USD * 8 // 10, cause="ttl_lapsed", layer="system", application="legal"),
            missed(300, USD // 2, cause="system", layer="history", application="desk"),
            missed(412, USD * 3 // 2, unknown=2, cause="system", layer="system", application="desk"),
        ],
        "causes": [
            missed(412, 2 * USD, cause="system", application="desk"),
            missed(20, USD * 2 // 10, cause="ttl_lapsed", application="desk"),
            missed(40, USD * 8 // 10, cause="ttl_lapsed", application="legal"),
        ],
        "examples": [dear(f"r{index}", 9 - index, cause="system") for index in range(3)],
        "purposes": [caching(700, purpose="user"), caching(5, cost=USD, purpose="warm")],
        "applications": [caching(500, application="desk"), caching(200, application="legal")],
    }
    return Evidence(**(answers | changes))


def test_findings_are_ranked_by_money() -> None:
    """The dearest cause first, with the layers it hit, its share of what input cost, and the calls to look at."""
    system, lapsed = diagnose(by_cause(), top=10).findings
    assert (system.key, system.cause, system.layers) == ("system", "system", ("system", "history"))
    assert (system.calls, system.lost_nano_usd, system.unknown_loss_calls) == (412, 2 * USD, 2)
    assert system.share == Fraction(2 * USD, 6 * USD + USD * 6 // 10)
    assert [each.request_id for each in system.examples] == ["r0", "r1", "r2"]
    assert (lapsed.key, lapsed.layers, lapsed.examples) == ("ttl_lapsed", ("system", "history"), ())


def test_advice_counts_the_application_that_lost_most() -> None:
    """Calls, not misses: a call that missed in two layers is one of the 412."""
    system, lapsed = diagnose(by_cause(), top=10).findings
    assert system.advice.startswith(
        "application desk: the system prompt changed in 412 of 500 calls; move what changes"
    )
    assert lapsed.advice.startswith("application legal: the TTL had passed in 40 of 200 calls;")
    assert lapsed.advice.endswith("hybrid-router advise legal")


def test_what_is_not_shown_is_summed() -> None:
    """--top cuts the list, not the money."""
    found = diagnose(by_cause(), top=1)
    assert [finding.key for finding in found.findings] == ["system"]
    assert (found.more_count, found.more_lost_nano_usd) == (1, USD)
    assert "1 more with $1.000000000 lost" in render(diagnosis_tables(found))


def test_savings_carry_our_own_calls() -> None:
    """Reads and savings are of users' calls; warms would not be made without caching, so they are taken off."""
    found = diagnose(by_cause(), top=1)
    assert found.calls == 705
    assert found.read_share == Fraction(600, 1_000)
    assert found.saved_nano_usd == 20 * USD - USD


def by_tenant() -> Evidence:
    parts = [
        missed(9, 5, tenant="[red]", cause="herd", layer="", application=""),
        missed(3, 7, tenant="[red]", cause="evicted", layer="history", application="{application}"),
        missed(1, 0, unknown=1, tenant="", cause="unknown", layer="", application=""),
    ]
    return by_cause(
        by="tenant",
        total=[missed(13, 12, unknown=1)],
        groups=[
            missed(1, 0, unknown=1, tokens=1, tenant=""),
            missed(12, 12, tenant="[red]"),
        ],
        parts=parts,
        causes=parts,
        examples=[dear("r0", None, tenant="")],
        applications=[
            caching(40, tenant="[red]", application="{application}"),
            caching(2, tenant="", application=""),
        ],
    )


def by_session() -> Evidence:
    """Two tenants that named a session alike, and calls of none."""
    parts = [
        missed(3, 70, tenant="acme", session="s-1", cause="system", layer="system", application="desk"),
        missed(2, 9, tenant="bolt", session="s-1", cause="herd", layer="history", application="desk"),
        missed(1, 4, tenant="bolt", session="", cause="evicted", layer="turn", application="desk"),
    ]
    return by_cause(
        by="session",
        total=[missed(6, 83)],
        groups=parts,
        parts=parts,
        causes=parts,
        examples=[
            dear("ours", 70, tenant="acme", session="s-1"),
            dear("theirs", 9, tenant="bolt", session="s-1"),
        ],
        applications=[
            caching(10, tenant="acme", session="s-1", application="desk"),
            caching(20, tenant="bolt", session="s-1", application="desk"),
            caching(30, tenant="bolt", session="", application="desk"),
        ],
    )


def test_a_session_is_its_tenants() -> None:
    """Sessions of two tenants of one name are two findings, in the table and for a machine."""
    found = diagnose(by_session(), top=10)
    assert [(each.key, each.lost_nano_usd, each.cause) for each in found.findings] == [
        ("acme / s-1", 70, "system"),
        ("bolt / s-1", 9, "herd"),
        ("bolt / (none)", 4, "evicted"),
    ]
    assert [[dear.request_id for dear in each.examples] for each in found.findings] == [
        ["ours"],
        ["theirs"],
        [],
    ]
    assert "in 3 of 10 calls" in found.findings[0].advice
    assert "in 2 of 20 calls" in found.findings[1].advice
    tree = diagnosis_json(found)["findings"][1]
    assert (tree["key"], tree["group"]) == ("bolt / s-1", {"tenant": "bolt", "session": "s-1"})
    lines = [line.split() for line in render(diagnosis_tables(found)).splitlines()]
    assert ["tenant", "session", "cause", "layer"] in [line[:4] for line in lines]
    assert ["bolt", "s-1", "herd", "history", "2"] in [line[:5] for line in lines]
    assert ["bolt", "(none)", "evicted", "turn", "1"] in [line[:5] for line in lines]


def test_a_label_may_be_called_anything() -> None:
    """What callers name "cause" or "session" are labels like any other, "[red]" is no markup."""
    for label in ("cause", "session", "[red]"):
        by = f"label:{label}"
        parts = [missed(3, 70, **{by: "x"}, cause="system", layer="system", application="desk")]
        evidence = by_cause(
            by=by,
            groups=parts,
            parts=parts,
            causes=parts,
            examples=[],
            applications=[caching(10, **{by: "x"}, application="desk")],
        )
        found = diagnose(evidence, top=10)
        assert (found.findings[0].key, found.findings[0].cause) == ("x", "system")
        lines = render(diagnosis_tables(found)).splitlines()
        assert f"Cache misses on Opus by {label}" in [line.strip() for line in lines]
        assert [label, "cause", "layer"] in [line.split()[:3] for line in lines]


def test_a_group_names_its_dearest_cause() -> None:
    """By tenant the row is the tenant's whole loss and the advice is on its dearest cause."""
    red, nobody = diagnose(by_tenant(), top=10).findings
    assert (red.key, red.cause, red.layers, red.lost_nano_usd) == ("[red]", "evicted", ("history",), 12)
    assert red.advice.startswith(
        "application {application}: the provider had dropped the entry in 3 of 40 calls;"
    )
    assert (nobody.key, nobody.cause, nobody.layers) == ("", "unknown", ())
    assert nobody.advice.startswith(
        "calls without an application: what an earlier call had written is not known in 1 of 2 calls;"
    )


def test_the_table_shows_names_as_they_are_and_unknown_as_unknown() -> None:
    """A tenant's name is no markup; a loss that nobody knows is not $0."""
    text = render(diagnosis_tables(diagnose(by_tenant(), top=10)))
    (red,) = [line.split() for line in text.splitlines() if line.startswith("  [red]")]
    (nobody,) = [line.split() for line in text.splitlines() if line.startswith("  (none)")]
    assert red == ["[red]", "evicted", "history", "12", "6,000", "$0.000000012", "0.0", "%", "0"]
    assert nobody == ["(none)", "unknown", "unknown", "1", "unknown", "unknown", "0.0", "%", "1"]
    assert "r0 (unknown)" in text
    assert "60.0 % of input tokens were cache reads" in text
    assert "1 call of unknown loss beside it" in text


def test_the_table_fits_a_terminal() -> None:
    """Nothing is cut at 80 columns, neither a figure nor the name of a session."""
    text = render(diagnosis_tables(diagnose(by_cause(), top=10)), width=80)
    (row,) = [line for line in text.splitlines() if line.startswith("  system")]
    for figure in ("412", "206,000", "$2.000000000", "30.3 %"):
        assert figure in row
    assert max(map(len, text.splitlines())) <= 80
    text = render(diagnosis_tables(diagnose(by_session(), top=10)), width=60)
    assert "\u2026" not in text


def test_json_holds_exact_money_and_names_what_is_unknown() -> None:
    """What a machine reads is what a person sees: nano-USD as integers, shares as numbers, None for unknown."""
    tree = json.loads(json.dumps(diagnosis_json(diagnose(by_cause(), top=1))))
    assert (tree["lost_nano_usd"], tree["saved_nano_usd"], tree["unknown_loss_calls"]) == (
        3 * USD,
        19 * USD,
        2,
    )
    assert (tree["opus_calls"], tree["user_calls"], tree["overhead_nano_usd"]) == (705, 700, USD)
    (finding,) = tree["findings"]
    assert (finding["key"], finding["calls"], finding["lost_nano_usd"]) == ("system", 412, 2 * USD)
    assert finding["examples"][0]["request_id"] == "r0"


NOTHING = Evidence(
    by="cause", total=[], groups=[], parts=[], causes=[], examples=[], purposes=[], applications=[]
)


def test_an_empty_ledger_is_said_plainly() -> None:
    """No calls: no table of zeros, and every rate is unknown."""
    found = diagnose(NOTHING, top=10)
    assert "No calls on Opus" in render(diagnosis_tables(found))
    assert (found.read_share, found.saved_nano_usd, found.lost_nano_usd) == (None, None, 0)
    assert diagnosis_json(found)["read_share"] is None


def test_no_misses_is_said_plainly() -> None:
    """Calls without a miss: the totals, and that there is nothing to mend."""
    found = diagnose(
        by_cause(total=[], groups=[], parts=[], causes=[], examples=[]),
        top=10,
    )
    text = render(diagnosis_tables(found))
    assert "No cache misses" in text
    assert "Lost to misses: $0.000000000 in 0 calls." in text


@pytest.mark.parametrize(
    "cause",
    [
        name.removeprefix("MISS_CAUSE_").lower()
        for name in MissCause.DESCRIPTOR.values_by_name
        if not name.endswith("UNSPECIFIED")
    ],
)
def test_every_cause_of_the_contract_has_advice(cause: str) -> None:
    """A cause without a remedy would be a dead end; a cause of another release is at least named."""
    line = advice(cause, application="desk", missed_calls=3, calls=10)
    assert "no advice" not in line
    assert "in 3 of 10 calls; " in line
    assert "\n" not in line
    assert advice("solar_flare", application="", missed_calls=1, calls=1) == (
        "calls without an application: solar flare in 1 of 1 calls; this release has no advice on this cause"
    )


def test_no_group_is_asked_for_twice() -> None:
    """A finding by cause or application is one of the parts' groups already; a cause is no property of a call."""
    assert part_groups("cause") == ("cause", "layer", "application")
    assert part_groups("application") == ("application", "cause", "layer")
    assert cause_groups("layer") == ("layer", "cause", "application")
    assert call_groups("provider_cause") == ("application",)
    assert call_groups("label:team") == ("label:team", "application")
    assert finding_groups("session") == call_groups("session")[:2] == ("tenant", "session")
    assert part_groups("session") == ("tenant", "session", "cause", "layer", "application")
