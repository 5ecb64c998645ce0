"""`hybrid-router doctor` and the lint of `config check`, run as an operator would, on traffic that really missed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from router.cli import main
from router.config import ApplicationConfig
from router.ledger import DATABASE, Ledger
from router.v1 import accounting_pb2, content_pb2
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import (
    APPLICATION,
    DESK,
    FLASH,
    OPUS,
    START_TIME_S,
    assistant,
    config,
    context_of,
    generate,
    prose,
    user,
)
from tests.e2e.process import verb
from tests.e2e.service import Service, WatchedClock, serving

FIXED = config(
    applications={
        APPLICATION: ApplicationConfig(
            system=DESK.system, tools=DESK.tools, max_output_tokens=600, context_placement="before_history"
        )
    }
)
"""The user context stays where it is when it changes, so that the change is a miss at all."""


class Ended(NamedTuple):
    """How a verb ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def hybrid_router(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
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


async def ask(
    service: Service, session: str, *messages: content_pb2.Message, context: str, tenant: str = "acme"
) -> pb.GenerateResponse:
    """One request of a session on Opus, every layer marked for five minutes."""
    return await service.generate(
        generate(
            *messages,
            route=OPUS,
            strategy=accounting_pb2.CACHE_STRATEGY_C,
            person=session,
            session=session,
            tenant=tenant,
            context=(context,),
            no_fallback=True,
        )
    )


async def traffic(service: Service) -> list[pb.GenerateResponse]:
    """Two sessions: one comes back after its TTL, the other with another user context; and a call on Flash."""
    first = [user("Which tickets are overdue?")]
    second = [*first, assistant("Three of them."), user("And which were reopened?")]
    ann, liz, moe = context_of("ann"), context_of("liz"), context_of("moe")
    responses = [await ask(service, "late", *first, context=ann)]
    service.clock.advance(400)
    responses.append(await ask(service, "late", *second, context=ann))
    responses.append(await ask(service, "moving", *first, context=liz, tenant="bolt"))
    service.clock.advance(30)
    responses.append(await ask(service, "moving", *second, context=moe, tenant="bolt"))
    await service.generate(generate(user("Thanks."), route=FLASH))
    await service.settled(5)
    return responses


def lost_by_cause(responses: list[pb.GenerateResponse]) -> dict[str, tuple[int, int]]:
    """Calls and nano-USD by cause, as the callers were told."""
    sums: dict[str, tuple[int, int]] = {}
    for response in responses:
        for miss in response.accounting.cache_report.misses:
            name = accounting_pb2.MissCause.Name(miss.cause).removeprefix("MISS_CAUSE_").lower()
            calls, lost = sums.get(name, (0, 0))
            sums[name] = (calls + 1, lost + miss.lost_nano_usd)
    return sums


async def test_doctor_says_what_the_callers_were_told(hybrid_router: Run, tmp_path: Path) -> None:
    """While the router runs, another process reads causes, dollars, request ids and totals off the ledger's file."""
    directory = tmp_path / "ledger"
    ledger = Ledger.open(directory, clock=WatchedClock(START_TIME_S))
    try:
        async with serving(FIXED, ledger=ledger) as service:
            responses = await traffic(service)
            code, out, err = await verb("doctor", "--ledger", str(directory), "--json", cwd=tmp_path)
            assert code == 0, err
            told = lost_by_cause(responses)
            table = hybrid_router("doctor", "--ledger", str(directory))
            by_tenant = hybrid_router("doctor", "--ledger", str(directory), "--by", "tenant", "--json")
            of_bolt = hybrid_router("doctor", "--ledger", str(directory), "--tenant", "bolt", "--json")
    finally:
        await ledger.close()
    found = json.loads(out)
    assert {"ttl_lapsed", "context"} <= told.keys()
    assert {each["cause"]: (each["calls"], each["lost_nano_usd"]) for each in found["findings"]} == told
    losses = [each["lost_nano_usd"] for each in found["findings"]]
    assert losses == sorted(losses, reverse=True)
    assert found["lost_nano_usd"] == sum(losses) > 0
    for each in found["findings"]:
        assert {example["request_id"] for example in each["examples"]} <= {
            response.request_id for response in responses
        }
        assert each["advice"].startswith("application desk: ")
        assert "of 4 calls; " in each["advice"]
    usages = [response.accounting.usage for response in responses]
    assert (found["opus_calls"], found["usage_calls"], found["unknown_loss_calls"]) == (4, 4, 0)
    assert found["input_tokens"] == sum(usage.input_tokens for usage in usages)
    assert found["cache_read_tokens"] == sum(usage.cache_read_tokens for usage in usages) > 0
    assert found["read_share"] == pytest.approx(found["cache_read_tokens"] / found["input_tokens"])
    assert found["saved_nano_usd"] == sum(
        response.accounting.counterfactuals.no_caching_nano_usd - response.accounting.cost.total_nano_usd
        for response in responses
    )
    for words in ("ttl lapsed", "hybrid-router advise desk", responses[1].request_id, "of input tokens were"):
        assert words in table.out
    tenants = {each["key"]: each["lost_nano_usd"] for each in json.loads(by_tenant.out)["findings"]}
    assert tenants.keys() == {"acme", "bolt"}
    assert json.loads(of_bolt.out)["lost_nano_usd"] == tenants["bolt"]
    assert sum(tenants.values()) == found["lost_nano_usd"]


@pytest.fixture
async def booked(tmp_path: Path) -> Path:
    """The same traffic in a ledger that is closed."""
    directory = tmp_path / "booked"
    ledger = Ledger.open(directory, clock=WatchedClock(START_TIME_S))
    try:
        async with serving(FIXED, ledger=ledger) as service:
            await traffic(service)
    finally:
        await ledger.close()
    return directory


async def test_doctor_fails_over_an_amount(hybrid_router: Run, booked: Path) -> None:
    """Exit code 1 only above what the operator allows; the report is printed either way."""
    asked = ("doctor", "--ledger", str(booked), "--json")
    lost = json.loads(hybrid_router(*asked).out)["lost_nano_usd"]
    exact = f"0.{lost:09d}"
    allowed, over = hybrid_router(*asked, "--fail-over", exact), hybrid_router(*asked, "--fail-over", "0")
    assert (allowed.code, over.code) == (0, 1)
    assert json.loads(over.out)["lost_nano_usd"] == lost
    assert exact in over.err


async def test_doctor_looks_at_what_it_is_asked_to(hybrid_router: Run, booked: Path) -> None:
    """Time is half open; nothing in the selection is said plainly; --top cuts the list and not the sum."""
    asked = ("doctor", "--ledger", str(booked))
    later = hybrid_router(*asked, "--since", "2026-11-21")
    assert (later.code, later.out.strip()) == (
        0,
        "No calls on Opus in this selection of the ledger: nothing to diagnose.",
    )
    # The clock starts at 10:00; the second request, the first to miss, comes 400 s later.
    calm = hybrid_router(*asked, "--until", "2026-11-20T10:06")
    assert calm.code == 0
    assert "No cache misses" in calm.out
    one = json.loads(hybrid_router(*asked, "--by", "session", "--top", "1", "--json").out)
    whole = json.loads(hybrid_router(*asked, "--json").out)
    assert (len(one["findings"]), one["more_count"]) == (1, 1)
    assert one["findings"][0]["lost_nano_usd"] + one["more_lost_nano_usd"] == whole["lost_nano_usd"]


async def test_sessions_of_two_tenants_are_two(hybrid_router: Run, booked: Path) -> None:
    """Each finding by session carries its tenant, in the table as for a machine."""
    asked = ("doctor", "--ledger", str(booked), "--by", "session")
    found = json.loads(hybrid_router(*asked, "--json").out)
    assert {tuple(each["group"].items()) for each in found["findings"]} == {
        (("tenant", "acme"), ("session", "late")),
        (("tenant", "bolt"), ("session", "moving")),
    }
    lines = [line.split()[:2] for line in hybrid_router(*asked).out.splitlines()]
    assert all(line in lines for line in (["tenant", "session"], ["acme", "late"], ["bolt", "moving"]))


USAGE = {
    ("--ledger", "nowhere"): "nowhere",
    ("--ledger", "nowhere", "--config", "router.toml"): "one of them",
    ("--by", "label"): "--label",
    ("--label", "team"): "--by label",
    ("--since", "yesterday"): "--since",
    ("--fail-over", "much"): "--fail-over",
    ("--fail-over", "-1"): "--fail-over",
    ("--by", "colour"): "colour",
    ("--top", "0"): "--top",
}


@pytest.mark.parametrize("options", USAGE, ids=" ".join)
def test_doctor_refuses_what_it_cannot_do(
    hybrid_router: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Exit code 2 and the option's name; nothing on standard output, and no ledger is made."""
    ended = hybrid_router("doctor", *options)
    assert (ended.code, ended.out) == (2, "")
    assert USAGE[options] in ended.err
    assert list(tmp_path.iterdir()) == []


async def test_doctor_of_a_fresh_ledger(hybrid_router: Run, tmp_path: Path) -> None:
    """A ledger without a call is no fault."""
    await Ledger.open(tmp_path / "fresh", clock=WatchedClock(START_TIME_S)).close()
    (tmp_path / "router.toml").write_text('[ledger]\npath = "fresh"\n', encoding="utf-8")
    ended = hybrid_router("doctor", "--config", "router.toml", "--fail-over", "0")
    assert (ended.code, ended.err) == (0, "")
    assert "No calls on Opus" in ended.out
    assert (tmp_path / "fresh" / DATABASE).exists()


STAMPED = f"""
[applications.desk]
system = ['''{prose("Rule", 50)}
The time is now 2026-11-22T10:00:00Z.''']
[applications.care]
system_files = ["care.md"]
"""


def test_config_check_warns_of_what_will_miss(hybrid_router: Run, tmp_path: Path) -> None:
    """Findings are printed and do not fail the check, unless --strict asks for it; no prompt text is shown."""
    (tmp_path / "care.md").write_text(prose("Quokka", 80), encoding="utf-8")
    (tmp_path / "router.toml").write_text(STAMPED, encoding="utf-8")
    plain = hybrid_router("config", "check", "router.toml")
    assert (plain.code, plain.out.splitlines()[-1]) == (0, "ok")
    (warning,) = [line for line in plain.out.splitlines() if line.startswith("warning: ")]
    assert "applications.desk.system[0]: timestamp" in warning
    assert '"2026-11-22T10:00:00Z"' in warning
    assert "Quokka" not in plain.out
    strict = hybrid_router("config", "check", "router.toml", "--strict")
    assert (strict.code, "ok" in strict.out.splitlines()) == (1, False)
    machine = hybrid_router("config", "check", "router.toml", "--strict", "--json")
    tree = json.loads(machine.out)
    assert (machine.code, tree["warning_count"]) == (1, 1)
    (finding,) = tree["findings"]
    assert (finding["severity"], finding["path"], finding["excerpt"]) == (
        "warning",
        "applications.desk.system[0]",
        "2026-11-22T10:00:00Z",
    )
    assert finding["tokens"] > 512


def test_config_check_strict_lets_notes_pass(hybrid_router: Run, tmp_path: Path) -> None:
    """A note is worth knowing, not a fault; settings that cannot be served are still exit code 2."""
    (tmp_path / "router.toml").write_text('[applications.desk]\nsystem = ["Be brief."]\n', encoding="utf-8")
    noted = hybrid_router("config", "check", "router.toml", "--strict")
    assert (noted.code, "note: applications.desk: below minimum" in noted.out) == (0, True)
    (tmp_path / "router.toml").write_text('[applications.desk]\nsystem = [" "]\n', encoding="utf-8")
    assert hybrid_router("config", "check", "router.toml", "--strict", "--json").code == 2
