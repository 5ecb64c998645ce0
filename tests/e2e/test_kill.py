"""kill -9 in the midst of work: the next process opens the same ledger and tells finished from interrupted."""

import asyncio
from pathlib import Path

import grpc

from router.clock import SystemClock
from router.ledger import DATABASE, Ledger, LedgerReader
from router.settlement import Outcome
from tests.e2e.builders import FLASH, OPUS, as_stream, generate, user
from tests.e2e.process import ServerProcess, server_process, verb, write_config
from tests.e2e.service import TIMEOUT_S

HOLD = "[[sandbox fault=stall after_events=6 thinking=0 tokens=200]]"
"""The provider goes silent after six events, until the caller gives up: long after the kill."""


async def _finished(server: ServerProcess, count: int) -> set[str]:
    """Send whole calls, unary and streamed, on both routes; ids of those the client saw finish."""
    seen = set()
    for number in range(count):
        request = generate(user(f"Case {number}: what is overdue?"), route=(OPUS, FLASH)[number % 2])
        if number % 3:
            response = await server.router.Generate(request, timeout=TIMEOUT_S)
            seen.add(response.request_id)
        else:
            call = server.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S)
            events = [event async for event in call]
            assert events[-1].HasField("finished")
            seen.add(events[0].decided.request_id)
    return seen


async def _begin_held(server: ServerProcess, count: int) -> tuple[set[str], list[grpc.aio.Call]]:
    """Start streams that stall after their first content; returns once the client has read some of each."""
    ids, calls = set(), []
    for number in range(count):
        request = generate(user(f"Case {number}. {HOLD}"), route=(OPUS, FLASH)[number % 2], no_fallback=True)
        call = server.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S)
        ids.add((await call.read()).decided.request_id)
        assert (await call.read()).HasField("delta")
        calls.append(call)
    return ids, calls


async def test_a_killed_server_loses_no_finished_call_and_hides_no_broken_one(tmp_path: Path) -> None:
    """Finished calls are in the ledger exactly once; the others are listed as interrupted, with a bound."""
    config = write_config(tmp_path)
    async with server_process(config) as server, asyncio.timeout(60):
        held, calls = await _begin_held(server, 5)
        finished = await _finished(server, 12)
        await server.kill()
        for call in calls:
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert (len(held), len(finished)) == (5, 12)

    async with server_process(config) as server:
        await server.router.Generate(generate(user("Still there?"), route=FLASH), timeout=TIMEOUT_S)
        code, shown, _ = await verb("costs", "--config", str(config), cwd=tmp_path)
        await server.kill()
    assert code == 0
    assert {line.split()[2] for line in shown.splitlines() if line.startswith("interrupted: request")} == held
    assert "5 calls of an earlier process were interrupted" in server.errors.decode()

    ledger = Ledger.open(tmp_path / "ledger", clock=SystemClock())
    try:
        settled = [each async for each in ledger.settlements() if each.intent.request_id in finished]
        assert sorted(each.intent.request_id for each in settled) == sorted(finished)
        assert {each.outcome for each in settled} == {Outcome.OK}
        interrupted = await ledger.interrupted()
        assert {each.intent.request_id for each in interrupted} == held
        assert all(each.intent.cost_bound_nano_usd for each in interrupted)
        totals = await ledger.totals()
        assert (totals.calls, totals.unknown_calls) == (5 + 12 + 1, 5)
    finally:
        await ledger.close()
    with LedgerReader.open(tmp_path / "ledger" / DATABASE) as reader:
        assert reader.totals().unknown_bound_nano_usd == sum(
            each.intent.cost_bound_nano_usd for each in interrupted
        )
