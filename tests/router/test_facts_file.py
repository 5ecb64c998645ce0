"""The file of facts: written whole, merged by fact and model, refused if it is none, ignored where it does not hold."""

import json
import socket
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cache.facts import ASSUMED, FactId, Verdict
from router.cli import app
from router.cli.fault import reported
from router.config import CacheConfig, Config, ConfigError, OpusConfig, load_config
from router.facts_file import (
    PROVIDER_HOST,
    FactRecord,
    FactsFile,
    TrialRecord,
    applying,
    measured_on,
    merged,
    read_facts,
    write_facts,
)
from router.probe.evidence import Sighting
from router.state import state_of
from router.upstreams.anthropic import AnthropicUpstream

NOW_S = 1_795_348_800.0
MODEL = "claude-opus-5-5"


def record(
    fact=FactId.A2,
    verdict=Verdict.YES,
    *,
    model=MODEL,
    time_s=NOW_S,
    live=True,
    address=PROVIDER_HOST,
    **changes,
):
    numbers = {"prefill_s_per_token": 55e-6, "first_byte_s": 0.7} if verdict is Verdict.MEASURED else {}
    return FactRecord(
        fact=fact,
        verdict=verdict,
        model=model,
        measured_time_s=time_s,
        measured_on=measured_on(time_s),
        live=live,
        address=address,
        price_table="genai-prices 0",
        run="r",
        cost_nano_usd=12,
        trials=(TrialRecord(verdict=verdict, requests=(Sighting(step="ask", started_s=900.0),)),),
        **numbers,
        **changes,
    )


def configured(path, *, model=MODEL, age_days=90.0):
    return Config(
        opus=OpusConfig(model=model), cache=CacheConfig(facts_file=str(path), facts_age_days=age_days)
    )


RECORDS = st.lists(
    st.builds(
        record,
        st.sampled_from([FactId.A1_MARKED, FactId.A2, FactId.A6]),
        st.sampled_from([Verdict.YES, Verdict.NO, Verdict.UNKNOWN]),
        model=st.sampled_from([MODEL, "claude-opus-5"]),
        time_s=st.floats(0, NOW_S),
        live=st.booleans(),
    ),
    max_size=8,
)


@given(RECORDS, RECORDS)
def test_merging_keeps_one_answer_of_each_and_loses_no_other(old, new):
    """Per fact, model and world: the new run's last word, else the old one."""
    kept = merged(FactsFile(), old)
    found = merged(kept, new)

    def key(each):
        return each.fact, each.model, each.live

    assert len({key(each) for each in found.facts}) == len(found.facts)
    assert {key(each) for each in found.facts} == {key(each) for each in (*old, *new)}
    for each in found.facts:
        mine = [other for other in (*old, *new) if key(other) == key(each)]
        decided = [other for other in mine if other.verdict is not Verdict.UNKNOWN]
        assert each == (decided or mine)[-1]
    assert merged(found, []) == found


def test_only_what_was_seen_takes_an_answer_back():
    """A run that was broken off leaves yesterday's answer; one that saw otherwise replaces it by unknown."""
    kept = merged(FactsFile(), [record()])
    broken_off = record(verdict=Verdict.UNKNOWN)
    assert merged(kept, [broken_off]) == kept
    contradicting = record(verdict=Verdict.UNKNOWN, contradicted=True)
    assert merged(kept, [contradicting]).facts == (contradicting,)
    assert merged(FactsFile(), [broken_off]).facts == (broken_off,)


def test_what_is_written_is_read(tmp_path):
    """Evidence included, readable as JSON, and no scratch file left beside it."""
    path = tmp_path / "facts.json"
    facts = merged(FactsFile(), [record(), record(FactId.A4, Verdict.MEASURED)])
    write_facts(path, facts)
    write_facts(path, facts)
    assert read_facts(path) == facts
    assert json.loads(path.read_text())["facts"][0]["measured_on"] == "2026-11-22T12:00:00Z"
    assert [each.name for each in tmp_path.iterdir()] == ["facts.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """Half a file is never seen: the directory is gone, or the target is one."""
    path = tmp_path / "facts.json"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_facts(path, FactsFile())
    assert [each.name for each in tmp_path.iterdir()] == ["facts.json"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 2}, "format"),
        ({"more": 1}, "more"),
        ({"facts": [{"fact": "A9"}]}, "A9"),
    ],
)
def test_what_is_no_file_of_facts_is_refused(tmp_path, change, why):
    """Named with its file and what is wrong; a newer format is not half read."""
    path = tmp_path / "facts.json"
    path.write_text(json.dumps({"format": 1, "facts": []} | change))
    with pytest.raises(ConfigError, match=why):
        read_facts(path)
    with pytest.raises(ConfigError, match=r"cache\.facts_file: .*facts\.json"):
        applying(configured(path), NOW_S)


def test_a_verdict_that_the_question_cannot_have_is_refused(tmp_path):
    """As is a measurement without its numbers: a file mended by hand is checked like any other."""
    path = tmp_path / "facts.json"
    for broken, why in (
        ({"verdict": "free"}, "A2 cannot be 'free'"),
        ({"fact": "A4", "verdict": "measured"}, "numbers are missing"),
    ):
        tree = msgspec.to_builtins(FactsFile(facts=(record(),)))
        path.write_text(json.dumps({"format": 1, "facts": [tree["facts"][0] | broken]}))
        with pytest.raises(ConfigError, match=why):
            read_facts(path)


def test_only_a_fresh_live_answer_about_the_model_asked_applies(tmp_path):
    """Another model's, an emulator's and an old answer are named with the reason; what is assumed stays assumed."""
    path = tmp_path / "facts.json"
    old_s = NOW_S - 91 * 86_400
    write_facts(
        path,
        merged(
            FactsFile(),
            [
                record(FactId.A2, Verdict.YES, model="claude-opus-5"),
                record(FactId.A3, Verdict.FREE, live=False),
                record(FactId.A1_MARKED, Verdict.NO, time_s=old_s),
                record(FactId.A6, Verdict.NO),
            ],
        ),
    )
    reading = applying(configured(path), NOW_S)
    assert reading.facts.verified == {FactId.A6}
    assert not reading.facts.upgrade_ping_verified
    assert reading.facts.deep_hit_refreshes_shallower_marked
    assert reading.facts.warm_output_tokens == 1
    assert {answer.fact: why for answer, why in reading.ignored} == {
        FactId.A2: "measured on claude-opus-5, and the model asked is claude-opus-5-5",
        FactId.A3: "measured on an emulator",
        FactId.A1_MARKED: "91 days old, older than the 90 allowed",
    }
    assert applying(configured(path, model="claude-opus-5"), NOW_S).facts.upgrade_ping_verified
    assert FactId.A1_MARKED in applying(configured(path, age_days=100.0), NOW_S).facts.verified


def test_what_was_measured_elsewhere_does_not_apply(tmp_path):
    """A cloud, a proxy or an emulator on a socket may cache otherwise; each address has its own answers."""
    path = tmp_path / "facts.json"
    write_facts(path, merged(FactsFile(), [record(address="127.0.0.1")]))
    reading = applying(configured(path), NOW_S)
    assert reading.facts == ASSUMED
    ((_, why),) = reading.ignored
    assert why == "measured at 127.0.0.1, and the address asked is api.anthropic.com"
    local = msgspec.structs.replace(configured(path), opus=OpusConfig(base_url="http://127.0.0.1:8400"))
    assert applying(local, NOW_S).facts.upgrade_ping_verified
    assert AnthropicUpstream(model=MODEL, api_key="k").server_address == PROVIDER_HOST


def test_without_a_file_everything_is_assumed():
    """The default: nothing is read, nothing changes."""
    assert applying(Config(), NOW_S) == (ASSUMED, (), ())


def test_the_service_plans_and_believes_by_the_file(tmp_path, caplog):
    """One value reaches index and planner; what is ignored is logged once, at the start."""
    path = tmp_path / "facts.json"
    write_facts(path, merged(FactsFile(), [record(), record(FactId.A6, Verdict.NO, live=False)]))
    state = state_of(configured(path), NOW_S)
    assert state.beliefs.facts.upgrade_ping_verified
    assert state.beliefs.index._facts is state.beliefs.facts
    assert [each.getMessage() for each in caplog.records] == [
        f"{path}: A6 is ignored: measured on an emulator"
    ]


def test_the_file_is_named_relative_to_the_settings(tmp_path):
    """Like every file the settings name."""
    (tmp_path / "router.toml").write_text('[cache]\nfacts_file = "facts.json"\nfacts_age_days = 7\n')
    config = load_config(tmp_path / "router.toml", {})
    assert config.cache.facts_file == str(tmp_path / "facts.json")
    assert config.cache.facts_age_days == 7.0
    with pytest.raises(ConfigError, match="No such file"):
        applying(config, NOW_S)


@pytest.mark.parametrize("days", [0, -1, 4000])
def test_an_age_that_makes_no_sense_is_refused(tmp_path, days):
    """Above nothing, at most ten years."""
    (tmp_path / "router.toml").write_text(f"[cache]\nfacts_age_days = {days}\n")
    with pytest.raises(ConfigError, match=r"cache\.facts_age_days"):
        load_config(tmp_path / "router.toml", {})


# --- the verbs ------------------------------------------------------------------------------------------------------


def invoke(*arguments, **kwargs):
    return CliRunner().invoke(app, list(map(str, arguments)), **kwargs)


def test_config_check_says_what_applies(tmp_path):
    """Per fact: measured when, or ignored why; and how many are assumed."""
    settings = tmp_path / "router.toml"
    settings.write_text('[cache]\nfacts_file = "facts.json"\n')
    now_s = time.time()
    write_facts(
        tmp_path / "facts.json",
        merged(
            FactsFile(),
            [record(time_s=now_s), record(FactId.A6, Verdict.YES, model="claude-opus-5", time_s=now_s)],
        ),
    )
    shown = invoke("config", "check", settings)
    assert shown.exit_code == 0
    assert f"fact   A2 yes, measured {measured_on(now_s)}" in shown.output
    assert (
        "fact   A6 ignored: measured on claude-opus-5, and the model asked is claude-opus-5-5" in shown.output
    )
    assert "facts  1 measured, 6 assumed" in shown.output
    found = json.loads(invoke("config", "check", settings, "--json").stdout)["facts"]
    assert found["upgrade_ping_verified"] is True
    assert [each["fact"] for each in found["used"]] == ["A2"]
    assert [each["fact"] for each in found["ignored"]] == ["A6"]


def test_probing_the_sandbox_writes_what_proves_nothing_about_the_provider(tmp_path):
    """Every fact of the default world, with evidence and cost; marked as an emulator's, so that nothing is unlocked."""
    path = tmp_path / "facts.json"
    shown = invoke("probe", "--sandbox", "--facts", path, "--json", "--trials", 2)
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert {each["fact"]: each["verdict"] for each in found["facts"]} == {
        "A1_marked": "yes",
        "A1_unmarked": "no",
        "A2": "yes",
        "A3": "no",
        "A4": "measured",
        "A5": "no",
        "A6": "yes",
    }
    kept = read_facts(path)
    assert sum(each.cost_nano_usd for each in kept.facts) == found["cost_nano_usd"]
    assert not any(each.live for each in kept.facts)
    assert applying(configured(path), time.time() + 1000).facts == ASSUMED
    evidence = kept.facts[2].trials[0].requests
    assert [each.step for each in evidence][-3:] == ["ask for all", "1h control lives", "5m control is gone"]
    assert all(each.request_id.startswith("req_") for each in evidence)


def test_one_fact_is_probed_and_told_before(tmp_path):
    """What will be sent, what it should cost, and each answer as it comes; the ledger holds the calls."""
    shown = invoke("probe", "--sandbox", "--fact", "A5", "--fact", "A6", "--ledger", tmp_path / "ledger")
    assert shown.exit_code == 0, shown.output
    assert "never more than $0.500000000" in shown.output
    assert "A6 trial 1 ask: read" in shown.output
    assert "A2" not in shown.output
    costs = invoke("doctor", "--ledger", tmp_path / "ledger", "--json")
    assert json.loads(costs.stdout)["overhead_calls"] == 11


def test_a_fact_that_stays_unknown_is_exit_code_1(tmp_path):
    """Here because the cap leaves too little; the answer is written as unknown."""
    path = tmp_path / "facts.json"
    shown = invoke("probe", "--sandbox", "--fact", "A5", "--cap-usd", "0.04", "--facts", path)
    assert shown.exit_code == 1
    assert "stopped before A5" in shown.output
    (found,) = read_facts(path).facts
    assert found.verdict is Verdict.UNKNOWN
    assert "was not sent" in found.why


def test_a_cap_below_the_first_call_sends_nothing_and_fails(tmp_path):
    """No answer is no success, and no file is written about nothing."""
    path = tmp_path / "facts.json"
    shown = invoke("probe", "--sandbox", "--fact", "A5", "--cap-usd", "0.001", "--facts", path)
    assert shown.exit_code == 1
    assert "0 calls cost $0.000000000" in shown.output
    assert not path.exists()


def test_a_provider_that_cannot_be_reached_leaves_the_fact_unknown(tmp_path):
    """The live path, on real time: one refused connection spoils the trial, nothing is waited for, nothing spent."""
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        settings = tmp_path / "router.toml"
        settings.write_text(
            f'[opus]\nbase_url = "http://127.0.0.1:{taken.getsockname()[1]}"\napi_key_file = "{tmp_path / "key"}"\n'
        )
        (tmp_path / "key").write_text("key")
        shown = invoke(
            "probe", "--yes", "--config", settings, "--fact", "A6", "--facts", tmp_path / "f.json", "--json"
        )
    assert shown.exit_code == 1, shown.output
    found = json.loads(shown.stdout)
    assert (found["calls"], found["cost_nano_usd"], found["unknown_bound_nano_usd"]) == (1, 0, 0)
    (kept,) = read_facts(tmp_path / "f.json").facts
    assert (kept.verdict, kept.live, kept.address) == (Verdict.UNKNOWN, True, "127.0.0.1")
    assert kept.why == "1 of 1 trials undecided: 'warm' failed: UPSTREAM_UNREACHABLE"


def test_nothing_is_sent_without_a_yes():
    """Declined: no key is even looked for."""
    shown = invoke("probe", input="n\n")
    assert shown.exit_code == 1
    assert "Send these and spend this?" in shown.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--yes",), "no provider key: set ANTHROPIC_API_KEY"),
        (("--sandbox", "--cap-usd", "much"), "--cap-usd: 'much' is not an amount"),
        (("--sandbox", "--cap-usd", "0"), "--cap-usd: '0' allows nothing"),
        (("--sandbox", "--model", "gemini-3.8-flash"), "takes no marks"),
        (("--sandbox", "--model", "claude-opus-9"), "--model: unknown model 'claude-opus-9'"),
    ],
)
def test_what_cannot_be_probed_is_said(arguments, why, capsys):
    """One line and exit code 2."""
    with pytest.raises(SystemExit) as ended, reported():
        app(["probe", *arguments], standalone_mode=False)
    assert ended.value.code == 2
    assert why in capsys.readouterr().err
