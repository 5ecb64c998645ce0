"""`hybrid-router demo`: send a workload through the whole service and print the bill."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import grpc
import msgspec
import typer
from rich.console import Console

from router import progress
from router.cli.loop import run
from router.config import Config, ConfigError, load_config, telemetry_environment
from router.demo import Progress, run_workload
from router.ledger import DATABASE, Ledger
from router.report import Reconciliation, Row, Summary, summarise, summary_json
from router.tables import print_whole, summary_tables
from router.timeline import Workload
from router.v1 import router_service_pb2_grpc
from router.workload import read_workload

DATA = Path(__file__).resolve().parent.parent / "data"
START_TIME_S = 1_795_168_800.0
"""The demo's virtual clock starts on 2026-11-20, 10:00 UTC, so that its prices do not depend on the day it is run."""
MESSAGE_BYTES_LIMIT = 64 << 20
READY_TIMEOUT_S = 5.0

OnRow = Callable[[Row], None]
OnProgress = Callable[[Progress], None]


def demo(
    workload_file: Annotated[
        Path | None,
        typer.Option(
            "--input", help="Workload, JSON lines (.gz allowed): own format, dialogues or agent text."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="host:port of a running router that has the workload's applications (for the shipped one, those of "
            "router/data/demo.toml); empty: start one on the sandbox with a virtual clock."
        ),
    ] = "",
    config: Annotated[
        Path | None, typer.Option(help="Settings, TOML; default: the demo's applications.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write one JSON line per call here.")] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Without --target: keep the ledger here, and the sandbox's invoice as invoice.json."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Send only the first so many requests.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Requests in flight at most.")] = 8,
    spacing: Annotated[
        float, typer.Option(min=0, help="Virtual seconds between a session's requests, for recordings.")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Send a workload through the router and print routes, cache reads and writes, cost and savings.

    Without --target it starts the whole service on the built-in sandbox, lets the workload's idle minutes pass on a
    virtual clock, and compares the ledger with the sandbox's own invoice. The sandbox answers at once, so the
    latencies are the router's own. Exit code 1 if a call failed or the two bills differ.

    Example: hybrid-router demo --keep ./demo && hybrid-router reconcile ./demo/invoice.json --ledger ./demo

    Example: hybrid-router demo --input traffic.jsonl.gz --save calls.jsonl
    """
    if target and keep:
        raise ConfigError("--keep: a running router keeps its own ledger; leave out --target")
    if keep and (keep / DATABASE).exists():
        raise ConfigError(f"--keep: {keep} holds a ledger already; its calls would not be on the new invoice")
    workload = read_workload(
        workload_file or DATA / "demo.jsonl", limit=limit, spacing_s=spacing, concurrency=concurrency
    )
    with _saving(save) as on_row, _progress(quiet=as_json) as on_progress:
        if target:
            summary = run(_against(target, workload, concurrency, on_row, on_progress))
        else:
            settings = load_config(config or DATA / "demo.toml")
            summary = run(_embedded(settings, workload, concurrency, on_row, on_progress, keep))
    if as_json:
        print(json.dumps(summary_json(summary)))
    else:
        print_whole(summary_tables(summary))
        if target and "NOT_FOUND" in summary.errors:
            print(
                f"NOT_FOUND: has the router at {target} the workload's applications? Those of the shipped workload are "
                "in router/data/demo.toml.",
                file=sys.stderr,
            )
    unreconciled = summary.reconciliation is not None and not summary.reconciliation.agrees
    if summary.errors or unreconciled:
        raise typer.Exit(1)


async def _against(
    target: str, workload: Workload, concurrency: int, on_row: OnRow, on_progress: OnProgress
) -> Summary:
    async with _channel(target) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), READY_TIMEOUT_S)
        except TimeoutError:
            raise ConfigError(f"no router answers at {target} within {READY_TIMEOUT_S:g} s") from None
        rows = await run_workload(
            router_service_pb2_grpc.RouterServiceStub(channel),
            workload,
            concurrency=concurrency,
            on_row=on_row,
            on_progress=on_progress,
        )
    return summarise(rows)


async def _embedded(
    config: Config,
    workload: Workload,
    concurrency: int,
    on_row: OnRow,
    on_progress: OnProgress,
    keep: Path | None,
) -> Summary:
    """Run against an own service on the sandbox, then hold its ledger against the sandbox's invoice."""
    from router.app import running, sandbox_upstreams
    from router.sandbox import Sandbox, VirtualClock

    clock = VirtualClock(START_TIME_S)
    sandbox = Sandbox(clock=clock)
    config = msgspec.structs.replace(
        config, server=msgspec.structs.replace(config.server, listen="127.0.0.1:0")
    )
    async with AsyncExitStack() as stack:
        ledger = Ledger.temporary(clock=clock) if keep is None else Ledger.open(keep, clock=clock)
        stack.push_async_callback(ledger.close)
        async with (
            running(
                config,
                upstreams=sandbox_upstreams(config, sandbox),
                environ=telemetry_environment(),
                clock=clock,
                ledger=ledger,
            ) as app,
            _channel(app.address) as channel,
        ):
            if app.token_counts is not None:
                await app.token_counts.wait()  # so that one workload always gives one result
            rows = await run_workload(
                router_service_pb2_grpc.RouterServiceStub(channel),
                workload,
                clock_advance=clock.advance,
                concurrency=concurrency,
                on_row=on_row,
                on_progress=on_progress,
            )
        # The service has drained: cancelled calls are settled too, so both books are closed.
        await ledger.flush()
        totals = await ledger.totals()
    if keep is not None:
        lines = [line.as_json() for line in sandbox.invoice]
        (keep / "invoice.json").write_text(json.dumps({"lines": lines}), encoding="utf-8")
    reconciliation = Reconciliation(
        ledger_nano_usd=totals.cost.total_nano_usd,
        invoice_nano_usd=sandbox.invoice.totals().cost_nano_usd,
        unknown_bound_nano_usd=totals.unknown_bound_nano_usd,
        incomplete_bound_nano_usd=totals.incomplete_bound_nano_usd,
        incomplete_count=totals.incomplete_calls,
    )
    return summarise(rows, reconciliation)


def _channel(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        target, options=[("grpc.max_receive_message_length", MESSAGE_BYTES_LIMIT)]
    )


@contextmanager
def _saving(path: Path | None) -> Iterator[OnRow]:
    """Give a callback that appends a row to the file as it comes; without a path it keeps nothing."""
    if path is None:
        yield lambda row: None
        return
    with path.open("w", encoding="utf-8") as file:
        yield lambda row: print(json.dumps(row.to_json()), file=file)


def _progress(*, quiet: bool) -> AbstractContextManager[OnProgress]:
    """Give a bar that redraws on a terminal, a line for each tenth elsewhere, nothing beside JSON."""
    if quiet:
        return nullcontext(lambda state: None)
    console = Console(stderr=True)
    if console.is_terminal:
        return progress.bar(console)
    return nullcontext(progress.lines(lambda line: console.print(line, highlight=False)))
