"""The verbs of the loop: retrain, models, promote, rollback, with exit codes that mean something."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from classifier import artifact as artifacts
from classifier.logged import LoggedRequest
from classifier.model import DEFAULT_DIRECTORY, Model
from classifier.registry import CARD_NAME, Registry
from router.cli import app
from router.cli import retrain as retraining_verb
from router.cost import Cost
from router.feedback import Feedback, Verdict
from router.ledger import Ledger, LedgerSettings
from router.settlement import DecisionRecord
from router.training_log import from_parquet, write_parquet
from tests.classifier.drifted import served
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent


def run(*arguments: str | Path):
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """2,000 requests of a drifted service as Parquet."""
    file = tmp_path_factory.mktemp("log") / "rows.parquet"
    write_parquet(file, served(Model.default(), 2_000))
    return file


def retrain(log: Path, registry: Path, *more: str):
    return run("retrain", "--parquet", log, "--registry", registry, "--quick", "--json", *more)


def test_one_command_from_outcomes_to_champion(log, tmp_path):
    """Read, fit, judge, keep, promote; the registry has model, card and report, and the history says why."""
    found = retrain(log, tmp_path, "--promote")
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert report["promoted"] is True
    registry = Registry(tmp_path)
    assert registry.champion_digest() == report["candidate"]
    assert (registry.champion() / CARD_NAME).exists()
    (change,) = registry.history()
    assert change.how == "gate"
    assert "lift +" in change.reason

    listed = json.loads(run("models", "--registry", tmp_path, "--json").stdout)
    assert [(row["champion"], row["passed"]) for row in listed["models"]] == [(True, True)]
    assert run("rollback", "--registry", tmp_path, "--reason", "drill").exit_code == 0
    assert registry.champion() is None
    again = run("promote", report["candidate"][:6], "--registry", tmp_path)
    assert again.exit_code == 3, "what was taken back comes back by somebody's word only"
    assert "it served and was taken back: drill" in again.stderr
    again = run("promote", report["candidate"][:6], "--registry", tmp_path, "--force", "the drill is over")
    assert again.exit_code == 0, again.output
    assert registry.champion_digest() == report["candidate"]
    shown = run("models", "--registry", tmp_path, "--history")
    assert [line.split()[6].rstrip(":") for line in shown.stdout.splitlines()] == [
        "gate",
        "rollback",
        "force",
    ]


def test_a_champion_that_came_meanwhile_stays(log, tmp_path, monkeypatch):
    """What passed against the model that served when the run began says nothing of one promoted since."""
    registry = Registry(tmp_path)
    whole_run = retraining_verb._run

    def run_beside_a_colleague(*arguments, **more):
        found = whole_run(*arguments, **more)
        assert (
            run("promote", str(DEFAULT_DIRECTORY), "--registry", tmp_path, "--force", "drill").exit_code == 0
        )
        return found

    monkeypatch.setattr(retraining_verb, "_run", run_beside_a_colleague)
    found = retrain(log, tmp_path, "--promote")
    assert found.exit_code == 3
    report = json.loads(found.stdout)
    assert report["promoted"] is False
    assert report["candidate"] in [entry.digest for entry in registry.entries()], "kept all the same"
    assert "no longer the shipped one, which it was judged against; retrain again" in found.stderr
    (change,) = registry.history()
    assert change.how == "force"


def test_a_refused_candidate_is_kept_and_not_promoted(tmp_path):
    """Exit code 3 without exploration; promote refuses it too, and force notes why."""
    file = tmp_path / "rows.parquet"
    write_parquet(file, served(Model.default(), 1_200, explored=0.0))
    registry = tmp_path / "models"
    found = retrain(file, registry, "--promote", "--least-outcomes", "40")
    assert found.exit_code == 3, found.output
    digest = json.loads(found.stdout)["candidate"]
    assert Registry(registry).champion() is None
    refused = run("promote", digest, "--registry", registry)
    assert refused.exit_code == 3
    assert "the gate refused it for quality" in refused.stderr
    forced = run("promote", digest, "--registry", registry, "--force", "we know better", "--json")
    assert forced.exit_code == 0
    (change,) = Registry(registry).history()
    assert (change.digest, change.how) == (digest, "force")
    assert change.reason.startswith("we know better (the gate refused it for quality")


def test_people_get_tables_and_every_condition(log, tmp_path):
    """Without --json: both models beside prompt length, the curve, each condition, where the model is."""
    found = run("retrain", "--parquet", log, "--registry", tmp_path, "--quick")
    assert found.exit_code == 0, found.output
    for expected in ("prompt length alone", "quality, estimated", "passed golden", "is kept as a candidate"):
        assert expected in found.stdout
    assert Registry(tmp_path).champion() is None


def test_too_few_outcomes_have_an_exit_code_of_their_own(tmp_path):
    """4, with the counts on standard error, and no model."""
    file = tmp_path / "rows.parquet"
    write_parquet(file, served(Model.default(), 60))
    found = retrain(file, tmp_path / "models")
    assert found.exit_code == 4
    assert "needs at least 80 outcomes of each label" in found.stderr
    assert Registry(tmp_path / "models").entries() == ()


def test_rows_of_a_ledger_can_be_exported(tmp_path):
    """--export writes what retrain would read, feedback included."""
    ledger = Ledger.open(tmp_path / "ledger", clock=StillClock())
    for number in range(3):
        intent = an_intent(request_id=f"r{number}", started_time_s=START_S + number)
        ledger.journal_intent(intent)
        ledger.settle(a_settlement(intent))
    ledger.feedback_blocking(
        Feedback(
            request_id="r1",
            tenant="acme",
            source="user",
            verdict=Verdict.FLASH_SUFFICED,
            score=None,
            time_s=START_S + 9,
        )
    )
    ledger.close_blocking()
    file = tmp_path / "rows.parquet"
    found = run("retrain", "--ledger", tmp_path / "ledger", "--export", file)
    assert found.exit_code == 0, found.output
    assert [(row.request_id, row.label) for row in from_parquet(file)] == [
        ("r0", None),
        ("r1", 0),
        ("r2", None),
    ]


async def _keep(directory: Path, rows: list[LoggedRequest]) -> None:
    """Book rows as the service would: intent, settlement with its decision, feedback."""
    settings = LedgerSettings(interval_s=0.001, sync=False)
    ledger = Ledger.open(directory, clock=StillClock(), settings=settings)
    for row in rows:
        route = "opus" if row.opus else "flash"
        intent = an_intent(
            request_id=row.request_id,
            route=route,
            session=row.session,
            application=row.application,
            started_time_s=START_S + row.time_s,
        )
        decision = DecisionRecord(
            route=route,
            reason=row.reason,
            score=row.score,
            threshold=row.threshold,
            propensity=row.propensity,
            model_digest=row.model_digest,
            expected_flash_nano_usd=row.flash_nano_usd,
            expected_opus_nano_usd=row.opus_nano_usd,
            features=row.features,
            explored=row.explored,
        )
        cost = Cost(output_text_nano_usd=row.cost_nano_usd)
        ledger.journal_intent(intent)
        ledger.settle(a_settlement(intent, decision=decision, cost=cost))
    async with asyncio.TaskGroup() as judges:
        for row in rows:
            if row.evidence:
                verdict = Verdict(row.evidence)
                feedback = Feedback(
                    request_id=row.request_id,
                    tenant="acme",
                    source="user",
                    verdict=verdict,
                    score=None,
                    time_s=START_S + row.time_s + 9,
                )
                judges.create_task(ledger.feedback(feedback))
    await ledger.close()


def test_a_ledger_and_its_export_retrain_alike(tmp_path):
    """What the service booked, read directly and by way of Parquet: the same evidence and the same verdict."""
    rows = served(Model.default(), 2_000, seed=3)
    asyncio.run(_keep(tmp_path / "ledger", rows))
    more = ("--quick", "--json", "--least-outcomes", "60")
    direct = run("retrain", "--ledger", tmp_path / "ledger", "--registry", tmp_path / "one", *more)
    file = tmp_path / "rows.parquet"
    assert run("retrain", "--ledger", tmp_path / "ledger", "--export", file).exit_code == 0
    exported = retrain(file, tmp_path / "two", "--least-outcomes", "60")
    assert direct.exit_code == exported.exit_code == 0, direct.output
    one, two = json.loads(direct.stdout), json.loads(exported.stdout)
    for name in ("evidence", "verdict", "log", "held_out", "curve"):
        assert one[name] == two[name]
    assert one["log"]["requests"] == 2_000
    assert one["evidence"]["quality"]["dr"]["low"] > 0.0


def test_an_artifact_nobody_judged_needs_force(tmp_path):
    """promote takes a directory, adds it, and asks for a reason."""
    shipped = artifacts.load(DEFAULT_DIRECTORY)
    source = tmp_path / "own"
    artifacts.save(source, msgspec.structs.replace(shipped.manifest, threshold=0.4), shipped.arrays)
    registry = tmp_path / "models"
    refused = run("promote", source, "--registry", registry)
    assert refused.exit_code == 3
    assert "no gate has judged it" in refused.stderr
    assert run("promote", source, "--registry", registry, "--force", "trial").exit_code == 0
    assert Registry(registry).champion_digest()


def test_a_model_that_was_forced_in_and_taken_back_needs_force_again(tmp_path):
    """Having served is no consent when nobody but a reason let it serve, and the guard took it back."""
    digest = Registry(tmp_path).add(DEFAULT_DIRECTORY)
    assert run("promote", digest, "--registry", tmp_path, "--force", "trial").exit_code == 0
    assert run("rollback", "--registry", tmp_path, "--reason", "worse").exit_code == 0
    refused = run("promote", digest, "--registry", tmp_path)
    assert refused.exit_code == 3, refused.output
    assert Registry(tmp_path).champion() is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"candidate": "0" * 12}, "no gate has judged it"),
        ({"champion": "f" * 12}, "it was judged against ffff"),
    ],
)
def test_a_report_of_another_model_or_against_another_is_no_consent(tmp_path, changes, why):
    """Also while the shipped model serves: the verdict is of one candidate against one champion."""
    registry = Registry(tmp_path)
    shipped = artifacts.load(DEFAULT_DIRECTORY)
    source = tmp_path / "own"
    manifest = msgspec.structs.replace(shipped.manifest, threshold=0.4)
    digest = artifacts.save(source, manifest, shipped.arrays).digest
    report = {"candidate": digest, "champion": shipped.digest, "verdict": {"passed": True, "conditions": []}}
    (source / "report.json").write_text(json.dumps(report | changes))
    refused = run("promote", source, "--registry", tmp_path)
    assert refused.exit_code == 3, refused.output
    assert why in refused.stderr
    assert registry.champion() is None


def test_the_settings_name_the_registry(tmp_path):
    """What a server with the same settings serves from is what the verbs look at."""
    digest = Registry(tmp_path / "own").add(DEFAULT_DIRECTORY)
    config = tmp_path / "router.toml"
    config.write_text(f'[classifier]\nregistry = "{tmp_path / "own"}"\n')
    listed = json.loads(run("models", "--config", config, "--json").stdout)
    assert [row["digest"] for row in listed["models"]] == [digest]


def test_a_damaged_model_is_listed_as_such(tmp_path):
    """models ends with 1 and names the fault."""
    registry = Registry(tmp_path)
    digest = registry.add(DEFAULT_DIRECTORY)
    (tmp_path / digest / "manifest.json").write_text("{}")
    found = run("models", "--registry", tmp_path)
    assert found.exit_code == 1
    assert "is not a classifier manifest" in found.stdout
