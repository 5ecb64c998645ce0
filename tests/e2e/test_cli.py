"""The verbs of `hybrid-router`, run as an operator would: output, exit codes, and errors that name what to change."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main
from google.protobuf.json_format import Parse

from classifier.model import DEFAULT_DIRECTORY, Model
from router.cli import app, main
from router.config import RoutingConfig
from router.ledger import DATABASE
from router.v1 import operator_service_pb2, router_service_pb2
from tests.e2e.builders import config as settings
from tests.e2e.builders import generate, user
from tests.e2e.process import ROOT, verb
from tests.e2e.service import TIMEOUT_S, serving

DEPLOY = ROOT / "deploy" / "router.toml"


class Ended(NamedTuple):
    """How a verb ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def hybrid_router(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Ended]:
    """Run a verb in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["hybrid-router", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        return Ended(ended.value.code or 0, written.out, written.err)

    return run


def commands() -> list[tuple[str, ...]]:
    """Every verb, sub-verbs included."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():
        below = getattr(command, "commands", None)
        found += [(name, sub) for sub in below] if below else [(name,)]
    return found


@pytest.mark.parametrize("names", commands(), ids=" ".join)
def test_help_shows_an_example(hybrid_router: Callable[..., Ended], names: tuple[str, ...]) -> None:
    """--help of each verb ends well and shows a line one can copy."""
    ended = hybrid_router(*names, "--help")
    assert ended.code == 0
    assert f"Example: hybrid-router {' '.join(names)}" in " ".join(ended.out.split())


def test_serve_without_keys_names_the_way_out(hybrid_router: Callable[..., Ended]) -> None:
    """Exit code 2, nothing is served, and the message names both variables and --sandbox."""
    ended = hybrid_router("serve")
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.strip().splitlines()) == 1
    for word in ("--sandbox", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        assert word in ended.err


def test_serve_with_half_the_keys_names_the_other(
    hybrid_router: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is missing is asked for, and the key that is there is not shown."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret-value")
    ended = hybrid_router("serve")
    assert ended.code == 2
    assert "GEMINI_API_KEY" in ended.err
    assert "ANTHROPIC_API_KEY" not in ended.err
    assert "sk-secret-value" not in ended.err


@pytest.mark.skipif(not DEPLOY.exists(), reason="no sample settings in this checkout")
def test_the_sample_settings_are_good(hybrid_router: Callable[..., Ended]) -> None:
    """deploy/router.toml passes the check it documents, and every application in it is shown."""
    ended = hybrid_router("config", "check", str(DEPLOY))
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "ok"), ended.err


WRONG = {
    '[server]\nlissten = "x"': ("lissten", "server"),
    '[cache]\nstrategy = "z"': ("cache.strategy", "'z'"),
    "[routing]\nthreshold = 1.5": ("routing.threshold", "1.0"),
    "[server]\nin_flight_limit = 0": ("server.in_flight_limit", "1"),
    '[opus]\nmodel = "claude-opus-99"': ("opus.model", "claude-opus-99"),
    '[flash]\nmodel = "claude-opus-5-5"': ("flash.model", "claude-opus-5-5", "gemini"),
    '[applications.desk]\nsystem = [" "]': ("applications.desk.system[0]", "empty"),
    '[[applications.desk.tools]]\nname = "a"\ninput_schema_json = "["': (
        "applications.desk.tools[0]",
        "JSON",
    ),
    '[applications.desk]\nsystem_files = ["none.txt"]': ("applications.desk.system_files", "none.txt"),
    '[routing]\nclassifier = "nowhere"': ("routing.classifier", "nowhere"),
    "[server]\ndeadline_limit_s = 1": ("server.deadline_limit_s", "default_deadline_s"),
    "[server\n": ("router.toml",),
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: " ".join(text.split()))
def test_wrong_settings_are_refused_by_their_path(
    hybrid_router: Callable[..., Ended], tmp_path: Path, text: str
) -> None:
    """Exit code 2 and one line that names key and value; not a traceback, and not a default in its place."""
    (tmp_path / "router.toml").write_text(text, encoding="utf-8")
    ended = hybrid_router("config", "check", "router.toml")
    assert ended.code == 2
    assert [word for word in WRONG[text] if word not in ended.err] == [], ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_the_environment_overrides_the_file(
    hybrid_router: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HYBRID_ROUTER__SECTION__KEY wins, and `config show` shows what is in force without any prompt text."""
    (tmp_path / "router.toml").write_text(
        '[server]\nlisten = "127.0.0.1:1"\n[applications.desk]\nsystem = ["secret words"]', encoding="utf-8"
    )
    monkeypatch.setenv("HYBRID_ROUTER__SERVER__LISTEN", "127.0.0.1:2")
    ended = hybrid_router("config", "show", "router.toml")
    tree = json.loads(ended.out)
    assert tree["server"]["listen"] == "127.0.0.1:2"
    assert tree["applications"]["desk"]["system"] == ["<12 characters>"]
    assert "secret words" not in ended.out


def test_demo_reconciles(hybrid_router: Callable[..., Ended], tmp_path: Path) -> None:
    """Twenty requests of the shipped workload: all answered, ledger equal to invoice, one row a call saved."""
    ended = hybrid_router("demo", "--limit", "20", "--json", "--save", "calls.jsonl")
    summary = json.loads(ended.out)
    rows = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text(encoding="utf-8").splitlines()]
    assert ended.code == 0
    assert summary["errors"] == {}
    assert summary["answered"] == summary["calls"] == len(rows) >= 20
    reconciliation = summary["reconciliation"]
    assert reconciliation["ledger_nano_usd"] == reconciliation["invoice_nano_usd"] > 0
    assert reconciliation["ledger_nano_usd"] == summary["cost"]["total_nano_usd"]


def test_demo_prints_a_bill(hybrid_router: Callable[..., Ended]) -> None:
    """For people: routes, cost, saving and the comparison with the invoice, to the last digit."""
    ended = hybrid_router("demo", "--limit", "5")
    assert ended.code == 0
    for word in ("flash", "opus", "$", "invoice"):
        assert word in ended.out.lower()


def test_explain_in_words_and_as_json(hybrid_router: Callable[..., Ended]) -> None:
    """Lines for people; proto JSON for machines, which reads back as an ExplainResponse."""
    words = hybrid_router("explain", "Compare these two contracts clause by clause")
    assert words.code == 0
    assert words.out.splitlines()[0].split(":")[0] in ("flash", "opus")
    assert "would flip" in words.out
    machine = hybrid_router("explain", "Compare these two contracts clause by clause", "--json")
    response = Parse(machine.out, router_service_pb2.ExplainResponse())
    assert response.decision.HasField("score")
    assert list(response.lines) == words.out.splitlines()[: len(response.lines)]


def test_explain_takes_a_whole_request(hybrid_router: Callable[..., Ended], tmp_path: Path) -> None:
    """A request as proto JSON is explained; one that is none is refused with the reason."""
    (tmp_path / "good.json").write_text(
        '{"prompt":{"messages":[{"role":"ROLE_USER","parts":[{"text":{"text":"Hi"}}]}]},'
        '"constraints":{"forced_route":"ROUTE_OPUS"}}',
        encoding="utf-8",
    )
    (tmp_path / "bad.json").write_text('{"promt":{}}', encoding="utf-8")
    good = hybrid_router("explain", "--request", "good.json")
    assert (good.code, good.out.splitlines()[0][:4]) == (0, "opus")
    bad = hybrid_router("explain", "--request", "bad.json")
    assert bad.code == 2
    assert "promt" in bad.err


@pytest.fixture(scope="module")
def booked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of a few calls on both routes."""
    import asyncio

    from router.ledger import Ledger
    from tests.e2e.builders import FLASH, OPUS
    from tests.e2e.service import WatchedClock

    directory = tmp_path_factory.mktemp("booked") / "ledger"

    async def fill() -> None:
        ledger = Ledger.open(directory, clock=WatchedClock(0.0))
        try:
            async with serving(ledger=ledger) as service:
                for number in range(6):
                    request = generate(
                        user(f"Case {number}"),
                        route=(OPUS, FLASH)[number % 2],
                        tenant=("acme", "bolt", "core")[number % 3],
                        session=("day", "night")[number % 2],
                        labels={"team": ("red", "blue")[number % 2]},
                    )
                    await service.generate(request)
                    service.clock.advance(20_000)
        finally:
            await ledger.close()

    asyncio.run(fill())
    return directory


BY = {
    "route": {"opus", "flash"},
    "model": {"claude-opus-5-5", "gemini-3.8-flash"},
    "tenant": {"acme", "bolt", "core"},
    "application": {"desk"},
    "day": {"2026-11-20", "2026-11-21"},
    "purpose": {"user"},
    "session": {"day", "night"},
    "label": {"red", "blue"},
    "total": {"total"},
}


@pytest.mark.parametrize("dimension", BY)
def test_costs_by_every_dimension(hybrid_router: Callable[..., Ended], booked: Path, dimension: str) -> None:
    """Rows add up to the total, dearest first; the table shows the same keys."""
    asked = [
        "costs",
        "--ledger",
        str(booked),
        "--by",
        dimension,
        *(["--label", "team"] * (dimension == "label")),
    ]
    machine = hybrid_router(*asked, "--json")
    response = Parse(machine.out, operator_service_pb2.GetCostsResponse())
    costs = [row.cost.total_nano_usd for row in response.rows]
    assert {row.key for row in response.rows} == BY[dimension]
    assert sum(costs) == response.total.cost.total_nano_usd > 0
    assert sum(row.call_count for row in response.rows) == 6
    assert costs == sorted(costs, reverse=True)
    table = hybrid_router(*asked)
    assert table.code == 0
    assert all(key in table.out for key in BY[dimension])


def test_costs_filters_and_refuses(hybrid_router: Callable[..., Ended], booked: Path) -> None:
    """Time is half open; a label needs its key; a ledger that is not there is not made."""
    asked = ["costs", "--ledger", str(booked), "--by", "total", "--json"]
    later = hybrid_router(*asked, "--since", "2026-11-21")
    assert Parse(later.out, operator_service_pb2.GetCostsResponse()).total.call_count == 3
    one = hybrid_router(*asked, "--tenant", "bolt", "--until", "2026-11-20T16:00")
    assert Parse(one.out, operator_service_pb2.GetCostsResponse()).total.call_count == 1
    assert hybrid_router("costs", "--ledger", str(booked), "--by", "label").code == 2
    assert "--since" in hybrid_router(*asked, "--since", "yesterday").err
    missing = hybrid_router("costs", "--ledger", "nowhere")
    assert missing.code == 2
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("content", [b"", b"not a database" * 100], ids=["empty", "garbage"])
@pytest.mark.parametrize(
    "asked", [("costs",), ("doctor",), ("advise", "desk", "--config", "router.toml")], ids=" ".join
)
def test_a_ledger_that_cannot_be_read_is_one_line(
    hybrid_router: Callable[..., Ended], tmp_path: Path, asked: tuple[str, ...], content: bytes
) -> None:
    """Exit code 2 and the file's name, nothing on standard output."""
    (tmp_path / DATABASE).write_bytes(content)
    (tmp_path / "router.toml").write_text('[applications.desk]\nsystem = ["Be brief."]\n', encoding="utf-8")
    ended = hybrid_router(*asked, "--ledger", str(tmp_path))
    assert (ended.code, ended.out) == (2, "")
    assert DATABASE in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.slow
async def test_a_trained_classifier_is_served(tmp_path: Path) -> None:
    """`train` writes an artifact; a server pointed at it scores with exactly that one and shows its threshold."""
    # One thread: the linear algebra is tiny, and its threads spin against everything else on the machine.
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    code, out, err = await verb("train", "--out", "trained", "--seed", "1", "--json", cwd=tmp_path, **alone)
    assert code == 0, err
    report = json.loads(out)
    assert report["digest"] == Model.load(tmp_path / "trained").digest != Model.load(DEFAULT_DIRECTORY).digest
    pointed = settings(routing=RoutingConfig(classifier=str(tmp_path / "trained")))
    async with serving(pointed) as service:
        asked = operator_service_pb2.GetClassifierRequest()
        shown = (await service.operator.GetClassifier(asked, timeout=TIMEOUT_S)).classifier
        response = await service.generate(generate(user("List my open tickets.")))
    assert shown.digest == response.decision.classifier_digest == report["digest"]
    assert shown.threshold == pytest.approx(report["threshold"])
    assert shown.sample_count == report["rows"]


def test_train_names_the_line_that_is_wrong(hybrid_router: Callable[..., Ended], tmp_path: Path) -> None:
    """Labels that cannot be read: exit code 2, file and line in the message, and nothing is written."""
    (tmp_path / "labels.jsonl").write_text(
        '{"id":"a","text":"x","label":1,"group":"g"}\n{"id":"b"}\n', encoding="utf-8"
    )
    ended = hybrid_router("train", "labels.jsonl", "--out", "trained")
    assert ended.code == 2
    assert "2" in ended.err
    assert not (tmp_path / "trained").exists()


async def test_a_demo_without_its_applications_says_what_is_missing(tmp_path: Path) -> None:
    """A router of other settings refuses each request as NOT_FOUND; the reader learns what to give it."""
    async with serving() as service:
        code, output, errors = await verb(
            "demo", "--target", service.app.address, "--limit", "3", cwd=tmp_path
        )
    assert code == 1
    assert "3 failed with NOT_FOUND." in output
    assert "router/data/demo.toml" in errors
