"""`hybrid-router tune` on the ledger of a router that served: the curve, the choice, and settings that load."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.config import RoutingConfig, load_config
from router.ledger import Ledger
from router.sandbox import VirtualClock
from tests.e2e.builders import START_TIME_S, config, generate, user
from tests.e2e.service import serving

QUESTIONS = (
    "List my open tickets.",
    "Prove that the greedy schedule is optimal and derive its competitive ratio, step by step.",
    "What is the capital of France?",
    "Compare these two contracts clause by clause and weigh the risks for both sides.",
    "thanks",
    "Debug this deadlock: two coroutines await each other's lock; explain and fix it.",
)


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """The ledger of a router that answered sixty requests."""
    ledger = Ledger.open(tmp_path / "ledger", clock=VirtualClock(START_TIME_S))
    try:
        async with serving(config(routing=RoutingConfig(threshold=0.5)), ledger=ledger) as service:
            for number in range(60):
                await service.generate(
                    generate(user(QUESTIONS[number % len(QUESTIONS)]), session=f"s{number % 20}")
                )
                service.clock.advance(240)
        await ledger.flush()
    finally:
        await ledger.close()
    return tmp_path / "ledger"


async def test_the_curve_and_the_settings_are_shown(directory: Path, tmp_path: Path) -> None:
    """Text within 80 columns, what it rests on, intervals, a picture, and TOML that the service takes."""
    picture = tmp_path / "curve.png"
    result = CliRunner().invoke(
        app,
        [
            "tune",
            *("--ledger", str(directory), "--opus-share", "0.3", "--quality-floor", "0.8"),
            *("--png", str(picture)),
        ],
    )
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80 + len(str(picture))
    for wanted in ("60 requests", "rests on feedback for 0", "Opus share <= 30%", "quality >= 80.0%", "["):
        assert wanted in result.output, wanted
    assert picture.read_bytes().startswith(b"\x89PNG")
    pasted = result.output[result.output.index("# tuned") :]
    file = tmp_path / "pasted.toml"
    file.write_text(pasted)
    assert tomllib.loads(pasted)["routing"]["answer_value_usd"] > 0
    assert load_config(file, {}).routing.answer_value_usd is not None


async def test_json_holds_the_curves_and_the_choices(directory: Path) -> None:
    """Both curves whole; each choice meets its demand and has its intervals."""
    result = CliRunner().invoke(app, ["tune", "--ledger", str(directory), "--opus-share", "0.3", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["requests"] == 60
    assert {"threshold", "value"} == set(found["curves"])
    assert len(found["chosen"]) == 2
    for each in found["chosen"]:
        low, high = each["opus_share_95"]
        assert low <= each["opus_share"] <= high
        assert each["opus_share"] <= 0.3


async def test_a_ledger_without_decisions_is_told_in_one_line(directory: Path, tmp_path: Path) -> None:
    """Nothing to tune by: exit code 2, no traceback."""
    result = CliRunner().invoke(app, ["tune", "--ledger", str(directory), "--since", "2030-01-01"])
    assert result.exit_code != 0
    assert "nothing to tune by" in str(result.exception)
    missing = CliRunner().invoke(app, ["tune", "--ledger", str(tmp_path / "none")])
    assert missing.exit_code != 0
