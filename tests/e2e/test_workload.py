"""Calls of every kind by the hundred, the server killed again and again: the ledger is the invoice all the same.

Router and providers are processes of their own, so the providers' bill survives the router. Nothing here is timed but
the deadlines of callers in a hurry; what each call came to differs from run to run, and the books must agree in each.
"""

import asyncio
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest

from router.config import load_config
from router.invoices import Line as InvoiceLine
from router.invoices import read_invoice
from router.ledger import Interrupted, LedgerReader
from router.ledger_place import ledger_place
from router.settlement import Outcome, Purpose, Settlement
from tests.e2e.errands import HERD, Caller, Heard, Kind, Line, day
from tests.e2e.process import sandbox_process, server_process, verb

CALLS = int(os.environ.get("HYBRID_ROUTER_WORKLOAD_CALLS", "450"))
"""How many calls; 5,000 take a minute and a half on each store."""
KILLS = 5 if CALLS >= 1_000 else 3
CALLERS = 24
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SEED = 20261123

SETTINGS = """
[server]
listen = "127.0.0.1:0"
[ledger]
path = "{ledger}"
url = "{url}"
[cache]
flight_limit_s = 60.0
flight_second_usd = 0.0
[warming]
policy = "session_start"
usd_per_hour = 1000.0
requests_per_minute = 10000.0
[routing]
circuit_minimum_calls = 100000
circuit_failures_in_a_row = 100000
[applications.desk]
system = ["{system}"]
max_output_tokens = 600
"""


NEVER = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT)
"""What calls may not end with whose provider answers sense; the channel says the first two of a server that died."""


@dataclass(frozen=True, slots=True)
class Books:
    """What both sides have written when the day is over."""

    settled: list[Settlement]
    interrupted: list[Interrupted]
    invoice: list[InvoiceLine]
    totals_nano_usd: int
    unknown_bound_nano_usd: int


async def live(config: Path, url: str, line: Line, caller: Caller, done: asyncio.Event) -> str:
    """Serve until all is done, and die `KILLS` times on the way; return what the lives wrote to standard error."""
    errors = []
    for death in range(1, KILLS + 1):
        async with server_process(config, "--log-level", "error", sandbox_url=url) as server:
            async with line.through(server):
                await caller.begun(CALLS * death // (KILLS + 1))
            await server.kill()
            await line.silent()
        errors.append(server.errors.decode())
    async with server_process(config, "--log-level", "error", sandbox_url=url) as server:
        async with line.through(server):
            await done.wait()
        server.process.terminate()
        assert await server.ended() == 0
    return "".join([*errors, server.errors.decode()])


async def spend_a_day(directory: Path, settings: str) -> tuple[list[Heard], Books, tuple[int, str]]:
    """Run the workload; return what the callers heard, both books, and how the verb compared them."""
    config = directory / "router.toml"
    config.write_text(settings, encoding="utf-8")
    line, done = Line(), asyncio.Event()
    caller, errands = Caller(line), day(CALLS, SEED)

    async def work(errands: Iterator) -> None:
        for errand in errands:
            await caller.run(errand)

    async with sandbox_process(directory) as url, asyncio.timeout(500):
        async with asyncio.TaskGroup() as group:
            lives = group.create_task(live(config, url, line, caller, done))
            async with asyncio.TaskGroup() as callers:
                for _ in range(CALLERS):
                    callers.create_task(work(errands))
            done.set()
        assert lives.result() == "draining\n", "nothing went wrong in any life"
        code, shown, _ = await verb(
            "reconcile", url, "--config", str(config), "--accept-explained", "--json", cwd=directory
        )
        invoice = read_invoice((await asyncio.to_thread(_fetched, f"{url}/sandbox/invoice")).decode()).lines
    return caller.heard, _books(config, list(invoice)), (code, shown)


def _fetched(url: str) -> bytes:
    with urlopen(url, timeout=30) as answer:
        return answer.read()


def _books(config: Path, invoice: list[InvoiceLine]) -> Books:
    with LedgerReader.open(ledger_place(load_config(config))) as reader:
        totals = reader.totals()
        return Books(
            settled=list(reader.settlements()),
            interrupted=reader.interrupted(),
            invoice=invoice,
            totals_nano_usd=totals.cost.total_nano_usd,
            unknown_bound_nano_usd=totals.unknown_bound_nano_usd,
        )


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def spent(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Heard], Books, tuple[int, str]]]:
    """The day, once for all that is asked of it, on either store."""
    directory = tmp_path_factory.mktemp("day")
    system = " ".join(f"Rule {number}: name the record for every figure you give." for number in range(220))
    with ExitStack() as stack:
        url = ""
        if request.param == "postgresql":
            url = stack.enter_context(request.getfixturevalue("postgres_server").database())
        settings = SETTINGS.format(ledger=(directory / "ledger").as_posix(), url=url, system=system)
        yield asyncio.run(spend_a_day(directory, settings))


def errand_of(request_id: str) -> str:
    """The caller's own id at the beginning of the ledger's; "" for calls that nobody asked for."""
    return request_id.partition("~")[0] if request_id.startswith("errand-") else ""


def test_the_day_had_everything(spent) -> None:
    """Both routes, whole, left, late, refused, broken and interrupted calls, warms, herds, and enough of them."""
    heard, books, _ = spent
    assert len(heard) >= CALLS
    assert Counter(each.kind for each in heard).keys() == set(Kind)
    died = ("Socket closed", "Connection reset", "RST_STREAM")
    strange = [
        (each.name, each.code, each.details)
        for each in heard
        if each.code in NEVER
        and each.kind is not Kind.BROKEN
        and not any(word in each.details for word in died)
    ]
    assert not strange, strange[:3]
    outcomes = Counter(each.outcome for each in books.settled)
    # Whether a call that its caller leaves is left in time to be cancelled is a matter of milliseconds.
    assert set(outcomes) >= {Outcome.OK, Outcome.REFUSED, Outcome.INTERRUPTED, Outcome.UNKNOWN}
    assert {each.intent.route for each in books.settled} == {"opus", "flash"}
    assert any(each.intent.purpose is Purpose.WARM for each in books.settled)
    assert books.interrupted, "somebody was being answered when the server died"
    print(f"{len(heard):,} calls, {dict(outcomes)}, {len(books.interrupted)} interrupted")


def test_the_ledger_is_the_invoice(spent) -> None:
    """Per answer and in sum, to the nano-dollar; what is not known is listed, bounded, and covers all that is left."""
    _, books, (code, shown) = spent
    lines = {each.ids[0]: each for each in books.invoice}
    assert len(lines) == len(books.invoice)
    known = [each for each in books.settled if each.cost is not None and each.cost.total_nano_usd]
    unseen = 0
    for each in known:
        line = lines.pop(each.response_id)
        assert each.usage is not None
        if each.usage.complete:
            assert (each.usage.input_tokens, each.usage.output_tokens) == (
                line.input_tokens,
                line.output_tokens,
            )
            assert each.cost.total_nano_usd == line.cost_nano_usd, each
        else:
            # A broken-off answer is a floor: over a socket its provider may be some events ahead of who left.
            assert each.intent.cost_bound_nano_usd is not None
            assert each.cost.total_nano_usd <= line.cost_nano_usd <= each.intent.cost_bound_nano_usd, each
            unseen += line.cost_nano_usd - each.cost.total_nano_usd
    assert books.totals_nano_usd == sum(each.cost.total_nano_usd for each in known)
    left_over = sum(line.cost_nano_usd for line in lines.values())
    assert books.totals_nano_usd + unseen + left_over == sum(line.cost_nano_usd for line in books.invoice)
    unknown = [each for each in books.settled if each.cost is None and each.outcome is not Outcome.REFUSED]
    assert len(lines) <= len(unknown) + len(books.interrupted)
    assert left_over <= books.unknown_bound_nano_usd
    assert code == 0, shown
    (found,) = json.loads(shown)
    print(
        f"ledger {books.totals_nano_usd:,} + floors {unseen:,} + unknown {left_over:,} = invoice; {found}"[
            :600
        ]
    )


def cost_of(row: Settlement) -> int | None:
    """What an attempt cost, 0 when the provider refused it, None when nobody knows."""
    if row.cost is None:
        return 0 if row.outcome is Outcome.REFUSED else None
    return row.cost.total_nano_usd


def test_no_call_is_booked_twice_and_none_that_was_answered_is_lost(spent) -> None:
    """Each attempt once; what a caller was told a call cost is what the ledger holds of it."""
    heard, books, _ = spent
    keys = [(each.intent.request_id, each.intent.attempt) for each in books.settled]
    keys += [(each.intent.request_id, each.intent.attempt) for each in books.interrupted]
    assert len(keys) == len(set(keys))
    rows: dict[str, list[Settlement]] = defaultdict(list)
    for each in books.settled:
        rows[each.intent.request_id].append(each)
    told = [each for each in heard if each.finished]
    assert len({each.request_id for each in told}) == len(told)
    for each in told:
        costs = [cost_of(row) for row in rows[each.request_id]]
        assert each.cost_nano_usd == (None if None in costs else sum(costs))
        assert each.response_id in {row.response_id for row in rows[each.request_id]}
    requests = Counter(errand_of(request_id) for request_id in {request_id for request_id, _ in keys})
    del requests[""]
    assert set(requests) <= {each.name for each in heard}
    assert set(requests.values()) == {1}, "each call became one request"


def test_every_interrupted_call_is_listed(spent) -> None:
    """Whoever read some of an answer when the server died: settled or listed, with a bound, never forgotten."""
    heard, books, _ = spent
    listed = {each.intent.request_id for each in books.interrupted}
    booked = {each.intent.request_id for each in books.settled}
    assert all(each.intent.cost_bound_nano_usd for each in books.interrupted)
    for each in heard:
        if each.content:
            assert each.request_id in listed | booked
    cut = [each for each in heard if each.content and each.code is grpc.StatusCode.UNAVAILABLE]
    assert {each.request_id for each in cut} <= listed | booked


def test_each_herd_wrote_its_prefix_once(spent) -> None:
    """Of a herd that no kill came between, one call wrote the context and all others read it."""
    heard, books, _ = spent
    whole = Counter(
        each.name.split("-")[1]
        for each in heard
        if each.kind is Kind.HERD and each.code is grpc.StatusCode.OK
    )
    found = 0
    for number in (number for number, count in whole.items() if count == HERD):
        calls = [each for each in books.settled if dict(each.intent.labels).get("herd") == number]
        writes = [each for each in calls if each.usage and each.usage.cache_write_tokens > 1000]
        assert len(calls) >= HERD
        assert len(writes) == 1, number
        found += 1
    assert found
