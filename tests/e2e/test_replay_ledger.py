"""What was served is replayed from its ledger: the bill that comes out is the provider's invoice.

The sandbox here is the world that the replay's model of the provider stands for, token for token
(tests/contract/test_replay_is_the_sandbox.py), so what differs would be what the ledger does not tell.
"""

import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from cache.economics import Rates, TokenSplit, cost_units
from router.cli import app
from router.config import CacheConfig, LedgerConfig
from router.ledger import DATABASE, Filter, Ledger
from router.ledger_trace import LedgerTrace
from router.replay import Policy, Settings, cost, replay
from router.sandbox import InvoiceLine, SandboxSettings, VirtualClock
from tests.e2e.builders import (
    FLASH,
    OPUS,
    START_TIME_S,
    config,
    context_of,
    generate,
    prose,
    said,
    user,
)
from tests.e2e.service import serving

WORLD = SandboxSettings(layered_entries=True, refresh="all", latency_scale=0.0, tool_call_chance=0.0)
CALLS = 36
RATES = Rates(1.25, 2.0, 0.05)


async def served(directory: Path, strategy: str, *, keep: bool = True, seed: int = 4) -> list[InvoiceLine]:
    """Talks of six users over both routes, some cut short, with pauses of seconds to an hour; Opus's invoice."""
    random, talks = Random(seed), [[] for _ in range(6)]
    ledger = Ledger.open(directory, clock=VirtualClock(START_TIME_S))
    settings = config(cache=CacheConfig(strategy=strategy), ledger=LedgerConfig(keep_prefixes=keep))
    async with serving(settings, settings=WORLD, ledger=ledger) as service:
        for step in range(CALLS):
            who = random.randrange(6)
            talk = talks[who]
            if random.random() < 0.1:
                del talk[2:]
            talk.append(user(f"Question {step} of {who}: {prose('Fact', random.randrange(2, 20))}"))
            request = generate(
                *talk,
                person=f"p{who}",
                session=f"s{who}" if who % 2 else "",
                context=(context_of(f"p{who}"),) if who < 4 else (),
                route=FLASH if random.random() < 0.3 else OPUS,
            )
            if step % 7 == 3:
                answer = (await service.stream(request))[-1].finished.answer
            else:
                answer = (await service.generate(request)).answer
            talk.append(said(answer))
            service.clock.advance(random.choice([5.0, 20.0, 60.0, 200.0, 400.0, 4000.0]))
        invoice = [line for line in service.invoice.lines if line.upstream == "anthropic"]
    await ledger.close()
    return invoice


def billed(invoice: list[InvoiceLine]) -> TokenSplit:
    """Input of an invoice by how it was billed."""
    return TokenSplit(
        sum(line.read_tokens for line in invoice),
        sum(line.write_5m_tokens for line in invoice),
        sum(line.write_1h_tokens for line in invoice),
        sum(line.uncached_input_tokens for line in invoice),
    )


def asked(*arguments: str) -> dict:
    """The report of `hybrid-router replay`."""
    found = CliRunner().invoke(app, ["replay", *arguments, "--json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


async def test_the_configured_policy_replayed_is_the_invoice(tmp_path):
    """C planned again by the replay, and the marks as they were sent, cost token for token what was billed."""
    invoice = await served(tmp_path, "c")
    told = asked(str(tmp_path))
    assert [row["policy"] for row in told["policies"]] == ["as_sent", "c"]
    expected = billed(invoice)._asdict()
    assert told["ledger"]["replayed"]["tokens"] == expected
    assert [row["tokens"] for row in told["policies"]] == [expected, expected]
    bill = sum(line.cost_nano_usd for line in invoice)
    assert told["ledger"]["replayed"]["cost_nano_usd"] == bill
    assert [row["bill_nano_usd"] for row in told["policies"]] == [bill, bill]
    assert told["model"] == invoice[0].model
    assert (told["ledger"]["prompt_unknown"]["calls"], told["ledger"]["estimated_calls"]) == (0, 0)


async def test_marks_by_expected_value_as_sent_are_the_invoice(tmp_path):
    """Whatever was planned, at both TTLs, the provider's model bills what was sent as the provider did, call by call.

    But for where a part ends that no bill had told by then (a context, of which an hour is written later): that is an
    estimate, fitted between what was told. Which breakpoints AUTO would place again is another matter: it goes by
    sizes, which the service knew no better.
    """
    invoice = await served(tmp_path, "auto", seed=7)
    assert any(line.write_1h_tokens for line in invoice)
    trace = LedgerTrace(tmp_path / DATABASE, Filter())
    rows = list(replay(trace.rows(), Policy.AS_SENT, Settings(minimum_tokens=512)))
    for each, line in zip(rows, invoice, strict=True):
        split, told = each.split, billed([line])
        assert split.total == told.total
        assert all(abs(part - was) <= 0.01 * told.total for part, was in zip(split, told, strict=True))
    units = sum(cost(each, RATES) for each in rows)
    assert units == pytest.approx(cost_units(billed(invoice), RATES), rel=1e-3)
    assert [each.row.output_tokens for each in rows] == [line.output_tokens for line in invoice]


async def test_what_has_no_prompt_is_counted_and_not_made_up(tmp_path):
    """With prompts not kept, nothing is replayed, and the verb says why."""
    await served(tmp_path, "c", keep=False)
    found = CliRunner().invoke(app, ["replay", str(tmp_path)])
    assert found.exit_code != 0
    assert "none has its prompt kept" in str(found.exception)


async def test_a_window_and_every_call_can_be_asked_for(tmp_path):
    """--since cuts a ledger anywhere; --every-call adds what went to Flash, as if Opus had been asked."""
    invoice = await served(tmp_path, "c")
    since_s = invoice[len(invoice) // 2].time
    later = [line for line in invoice if line.time >= since_s]
    told = asked("--ledger", str(tmp_path), "--since", _utc(since_s), "--policy", "as_sent")
    assert told["ledger"]["replayed"]["calls"] == len(later)
    assert told["ledger"]["prompt_unknown"]["calls"] == 0
    every = asked(str(tmp_path / DATABASE), "--every-call", "--policy", "none")
    assert every["policies"][0]["requests"] == CALLS
    assert every["ledger"]["flash_calls"] == CALLS - len(invoice)
    counted = {line.input_tokens for line in invoice}
    assert every["policies"][0]["input_tokens"] > sum(counted)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["trace.jsonl", "--since", "2026-11-01"], "belong to a ledger"),
        (["--workload", "saas", "--ledger", "x"], "give one of"),
        (["--workload", "saas", "--policy", "as_sent"], "only a ledger"),
        (["--ledger", "nowhere-at-all"], "no ledger database"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, reason):
    """Options of a ledger are refused beside a trace or a workload, and a ledger that is not there is said."""
    found = CliRunner().invoke(app, ["replay", *arguments])
    assert found.exit_code != 0
    assert reason in str(found.exception)


def _utc(time_s: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_s, UTC).isoformat()
