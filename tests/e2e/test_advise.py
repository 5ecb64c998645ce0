"""`hybrid-router advise` on what a router really booked: its money is GetCosts', its settings are accepted."""

import json
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest

from router.ledger import DATABASE, Ledger
from router.v1 import accounting_pb2
from router.v1 import operator_service_pb2 as operator_pb
from tests.e2e.builders import APPLICATION, DESK, FLASH, OPUS, config, context_of, generate, said, user
from tests.e2e.process import verb
from tests.e2e.service import TALK_ONLY, WatchedClock, serving

B = accounting_pb2.CACHE_STRATEGY_B
PEOPLE = ("ann", "bob", "cyd", "dan", "eve", "fay", "gil", "hal", "ida", "jon", "kim", "lee")


class Booked(NamedTuple):
    """A ledger of a small workload, the settings that go with it, and what GetCosts said of it."""

    directory: Path
    settings: Path
    opus: operator_pb.CostRow
    total: operator_pb.CostRow
    shared_tokens: int


def settings_toml(ledger: Path) -> str:
    """The test application as an operator would write it."""
    lines = [f"[ledger]\npath = {json.dumps(ledger.as_posix())}\n[applications.{APPLICATION}]"]
    lines.append(f"system = {json.dumps(list(DESK.system))}")
    lines.append(f"max_output_tokens = {DESK.max_output_tokens}")
    for tool in DESK.tools:
        lines.append(f"[[applications.{APPLICATION}.tools]]\nname = {json.dumps(tool.name)}")
        lines.append(f"description = {json.dumps(tool.description)}")
        lines.append(f"input_schema_json = {json.dumps(tool.input_schema_json)}")
    return "\n".join(lines) + "\n"


@pytest.fixture
async def booked(tmp_path: Path) -> Booked:
    """Twelve people in conversations of three turns on Opus, a minute apart, and a question each to Flash."""
    ledger = Ledger.open(tmp_path / "ledger", clock=WatchedClock(0.0))
    shared = set()
    try:
        async with serving(config(), settings=TALK_ONLY, ledger=ledger) as service:
            for person in PEOPLE:
                talk = []
                for turn in range(3):
                    talk.append(
                        user(f"Which tickets of account {turn} does {person} own, and which are overdue?")
                    )
                    response = await service.generate(
                        generate(
                            *talk,
                            route=OPUS,
                            strategy=B,
                            person=person,
                            session=f"of-{person}",
                            context=(context_of(person),),
                            max_output_tokens=200,
                        )
                    )
                    talk.append(said(response.answer))
                    if turn == 0 and person != PEOPLE[0]:
                        shared.add(response.accounting.usage.cache_read_tokens)
                    service.clock.advance(60)
                await service.generate(generate(user("Thanks."), route=FLASH, person=person))
            await ledger.flush()
            costs = await service.operator.GetCosts(
                operator_pb.GetCostsRequest(
                    dimension=operator_pb.COST_DIMENSION_ROUTE, application=APPLICATION
                )
            )
    finally:
        await ledger.close()
    (opus,) = [row for row in costs.rows if row.key == "opus"]
    (shared_tokens,) = shared
    path = tmp_path / "router.toml"
    path.write_text(settings_toml(tmp_path / "ledger"), encoding="utf-8")
    return Booked(tmp_path, path, opus, costs.total, shared_tokens)


def by_key(decision: dict, key: str) -> dict | None:
    """The decision of this key in the tree, None when it is not asked."""
    if decision["key"] == key:
        return decision
    return next((found for child in decision["children"] if (found := by_key(child, key))), None)


async def test_advice_on_what_was_booked(booked: Booked) -> None:
    """The cost is GetCosts' row of Opus to the nano-dollar, sizes are the provider's, the verdicts stand."""
    code, out, err = await verb(
        "advise", APPLICATION, "--config", str(booked.settings), "--json", cwd=booked.directory
    )
    assert code == 0, err
    found = json.loads(out)
    observed = found["observed"]
    assert observed["cost_nano_usd"] == booked.opus.cost.total_nano_usd
    assert observed["no_caching_nano_usd"] == booked.opus.no_caching.baseline_nano_usd
    assert (observed["calls"], observed["unknown_calls"]) == (36, 0)
    assert booked.total.call_count == 48
    months = {row["name"]: row for row in found["months"]}
    assert months["as observed"]["cost_nano_usd"] == 30 * booked.opus.cost.total_nano_usd
    assert months["without caching"]["cost_nano_usd"] == pytest.approx(
        30 * booked.opus.no_caching.baseline_nano_usd, abs=60
    )
    assert found["shared_tokens_exact"]
    assert found["shared_tokens"] == booked.shared_tokens
    assert (found["requests"], found["sessions"], found["one_off_sessions"]) == (36, 12, 0)
    assert found["decision"]["verdict"] == "cache"
    assert by_key(found["decision"], "minimum")["verdict"] == "reached"
    assert by_key(found["decision"], "hits")["verdict"] == "cache"
    assert by_key(found["decision"], "conversation")["verdict"] == "cache"
    assert by_key(found["decision"], "warm.cron")["verdict"] == "do not warm"
    assert months["recommended"]["cost_nano_usd"] < months["as observed"]["cost_nano_usd"]
    ways = {(way["prefix"], way["way"]): way for way in found["ways"]}
    assert ways["shared layers", "nothing"]["value_nano_usd"] == 0
    assert sum(way["best"] for way in found["ways"]) == 2
    assert ways["a conversation", "5 minutes"]["value_nano_usd"] > 0
    assert not ways["a conversation", "5 minutes, then the upgrade ping"]["may_be_sent"], "nobody has probed"
    assert ways["ahead of a request", "warm now, per warm"]["per"] == "warm"


async def test_price_of_the_strategy_that_ran_is_what_it_cost(booked: Booked) -> None:
    """The workload ran under option B; priced from gaps and sizes alone, option B comes within 2 % of the bill."""
    code, out, err = await verb(
        "advise",
        APPLICATION,
        "--config",
        str(booked.settings),
        "--context-tokens",
        "0",
        "--json",
        cwd=booked.directory,
    )
    assert code == 0, err
    without_context = json.loads(out)
    code, out, err = await verb(
        "advise",
        APPLICATION,
        "--config",
        str(booked.settings),
        "--context-tokens",
        str(context_size(booked)),
        "--json",
        cwd=booked.directory,
    )
    assert code == 0, err
    months = {row["name"]: row["cost_nano_usd"] for row in json.loads(out)["months"]}
    bare = {row["name"]: row["cost_nano_usd"] for row in without_context["months"]}
    billed = 30 * booked.opus.cost.total_nano_usd
    assert months["the document's options A and B"] == pytest.approx(billed, rel=0.02)
    assert bare["the document's options A and B"] > 1.02 * billed


def context_size(booked: Booked) -> int:
    """Tokens of a user's context, by the bill: what Opus wrote beyond the shared layers, shared among twelve."""
    written = booked.opus.usage.cache_write_5m_tokens + booked.opus.usage.cache_write_1h_tokens
    return round(Fraction(written - booked.shared_tokens, len(PEOPLE)))


async def test_the_settings_are_accepted(booked: Booked) -> None:
    """What is recommended, put into the file, passes `config check`."""
    code, out, _ = await verb(
        "advise", APPLICATION, "--config", str(booked.settings), "--json", cwd=booked.directory
    )
    assert code == 0
    advised = booked.directory / "advised.toml"
    advised.write_text(json.loads(out)["settings_toml"], encoding="utf-8")
    code, out, err = await verb("config", "check", str(advised), cwd=booked.directory)
    assert (code, err) == (0, "")
    assert f"application {APPLICATION}" in out


async def test_the_tree_is_readable(booked: Booked) -> None:
    """The text holds the question, verdict, month and settings, and the booked sum with all its decimals."""
    code, out, err = await verb(
        "advise", APPLICATION, "--ledger", "ledger", "--config", str(booked.settings), cwd=booked.directory
    )
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert "Should this application be cached? CACHE" in words
    assert "The 4-minute cron instead? DO NOT WARM" in words
    assert "A month of 30 days" in words
    assert "Keeping prefixes warm" in words
    whole, part = divmod(booked.opus.cost.total_nano_usd, 10**9)
    assert f"Observed: ${whole}.{part:09d} for 36 Opus calls over 1.00 days." in words
    assert f'[applications."{APPLICATION}"] cache_strategy = "auto"' in words


async def test_finance_may_ask_before_any_traffic(tmp_path: Path) -> None:
    """Without a ledger the volume is enough; on Opus 4.5 the document's options save nothing and padding is named."""
    path = tmp_path / "router.toml"
    path.write_text(settings_toml(tmp_path / "nowhere"), encoding="utf-8")
    code, out, err = await verb(
        "advise",
        APPLICATION,
        "--config",
        str(path),
        "--requests-per-day",
        "10000",
        "--gaps",
        "human",
        "--model",
        "claude-opus-4-5",
        cwd=tmp_path,
    )
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert "PAD AND CACHE" in words
    assert "at its 1,024 tokens this prefix passes" in words
    assert "the document's options A and B" in words
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "said_so"),
    [
        (("helpdesk",), "desk"),
        ((APPLICATION,), "--requests-per-day"),
        ((APPLICATION, "--gaps", "weekly", "--requests-per-day", "5"), "short, human or poisson:RATE"),
        ((APPLICATION, "--gaps", "short"), "--requests-per-day"),
        ((APPLICATION, "--ledger", "missing"), "missing"),
        ((APPLICATION, "--since", "yesterday"), "--since"),
        ((APPLICATION, "--requests-per-day", "5", "--model", "claude-opus-9"), "claude-opus-9"),
    ],
)
async def test_errors_name_what_to_change(tmp_path: Path, arguments: tuple[str, ...], said_so: str) -> None:
    """Exit code 2, one line on standard error, nothing on standard output."""
    path = tmp_path / "router.toml"
    path.write_text(settings_toml(tmp_path / "nowhere"), encoding="utf-8")
    code, out, err = await verb("advise", *arguments, "--config", str(path), cwd=tmp_path)
    assert (code, out) == (2, "")
    assert said_so in err
    assert len(err.splitlines()) == 1
    assert DATABASE not in err or "missing" in arguments
