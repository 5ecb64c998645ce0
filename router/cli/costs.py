"""`hybrid-router costs`: sum the ledger, from its file or from a running router, overhead of our own apart."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import grpc
import typer
from google.protobuf.json_format import MessageToJson
from rich.console import Console

from router.cli.instant import epoch_s, instant
from router.cli.loop import run
from router.cli.place import LedgerOption, place_asked
from router.config import ConfigError
from router.convert_costs import costs_response, pruned_costs
from router.cost_sheet import costs_sheet, overhead_sheet
from router.ledger import WARM_GROUPS, WARMS_SINCE, Filter, LedgerReader, WarmRow
from router.money import usd
from router.overhead import overhead_json, overhead_of
from router.overhead_tables import overhead_tables
from router.tables import costs_table, counted_calls, print_whole, warms_line
from router.v1 import operator_service_pb2 as pb
from router.v1 import operator_service_pb2_grpc


class Dimension(StrEnum):
    """What to sum by."""

    ROUTE = "route"
    MODEL = "model"
    TENANT = "tenant"
    APPLICATION = "application"
    DAY = "day"
    PURPOSE = "purpose"
    SESSION = "session"
    LABEL = "label"
    TOTAL = "total"


_DIMENSIONS = {
    Dimension.ROUTE: pb.COST_DIMENSION_ROUTE,
    Dimension.MODEL: pb.COST_DIMENSION_MODEL,
    Dimension.TENANT: pb.COST_DIMENSION_TENANT,
    Dimension.APPLICATION: pb.COST_DIMENSION_APPLICATION,
    Dimension.DAY: pb.COST_DIMENSION_DAY,
    Dimension.PURPOSE: pb.COST_DIMENSION_PURPOSE,
    Dimension.SESSION: pb.COST_DIMENSION_SESSION,
    Dimension.LABEL: pb.COST_DIMENSION_LABEL,
    Dimension.TOTAL: pb.COST_DIMENSION_UNSPECIFIED,
}


def costs(
    by: Annotated[Dimension, typer.Option(help="What to sum by.")] = Dimension.ROUTE,
    label: Annotated[str, typer.Option(help="With --by label: the label's key.")] = "",
    since: Annotated[
        str, typer.Option(help="From this time, inclusive: 2026-11-22 or 2026-11-22T10:00, UTC.")
    ] = "",
    until: Annotated[str, typer.Option(help="To this time, exclusive.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    application: Annotated[str, typer.Option(help="Only this application.")] = "",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Only calls of this route, model, session, user, purpose, outcome, label:KEY ...; repeatable.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Show the dearest so many groups; 0 shows all.")] = 0,
    ledger: LedgerOption = None,
    config: Annotated[Path | None, typer.Option(help="Settings, TOML, that name the ledger.")] = None,
    target: Annotated[
        str, typer.Option(help="host:port of a running router to ask instead of the file.")
    ] = "",
    overhead: Annotated[
        bool, typer.Option("--overhead", help="Show only overhead, exploration and savings.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the GetCostsResponse as proto JSON; with --overhead its own."),
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print one line a group, money in nano-USD (1e-9 USD).")
    ] = False,
) -> None:
    """Show what calls cost, by part, what they would have cost otherwise, and what is overhead of our own.

    Overhead is warms, probes, shadow calls, discarded answers, tries that another followed, and padding; it is taken
    off what was saved. Calls of unknown cost are counted with the most they can have cost, and those whose process
    died before it settled them are listed; what is kept as sums by day alone is told apart. A running router (--target)
    tells costs, not overhead.

    Example: hybrid-router costs --by tenant --since 2026-11-01

    Example: hybrid-router costs --by session --only route=opus --top 20 --csv
    """
    _check(as_json=as_json, as_csv=as_csv, overhead=overhead, target=target, only=only)
    request = pb.GetCostsRequest(
        dimension=_DIMENSIONS[by], label_key=label, tenant=tenant, application=application
    )
    if since:
        request.start_time.FromDatetime(instant("--since", since))
    if until:
        request.end_time.FromDatetime(instant("--until", until))
    equal = dict(map(_condition, only or ()))
    interrupted, found, response = [], None, pb.GetCostsResponse()
    if target:
        response = run(_ask(target, request))
    else:
        with LedgerReader.open(place_asked(ledger, config)) as reader, _named("--only or --label"):
            where = Filter(
                since_s=epoch_s("--since", since),
                until_s=epoch_s("--until", until),
                equal=equal | {k: v for k, v in (("tenant", tenant), ("application", application)) if v},
            )
            # A million calls are seconds a question, so only what is shown is asked.
            if not overhead:
                response = costs_response(
                    request,
                    lambda groups, chosen: reader.costs(groups, _narrowed(chosen, equal)),
                    lambda chosen: reader.totals(_narrowed(chosen, equal)),
                    lambda chosen: _warms(reader, _narrowed(chosen, equal)),
                )
            if overhead or not (as_json or as_csv):
                found = overhead_of(reader, where)
            interrupted = reader.interrupted(where)
            past = reader.past(where)
            if past is not None:
                response.pruned.CopyFrom(pruned_costs(past))
    if response.HasField("pruned"):
        # Beside the figures, and not within what a machine reads.
        print(_left_out(response.pruned), file=sys.stderr if as_json or as_csv else sys.stdout)
    shown = response
    if top:
        shown = pb.GetCostsResponse(rows=response.rows[:top], total=response.total)
        if response.HasField("warms"):
            shown.warms.CopyFrom(response.warms)
        if response.HasField("pruned"):
            shown.pruned.CopyFrom(response.pruned)
    if as_csv:
        print(overhead_sheet(found) if overhead and found else costs_sheet(shown, label or by.value), end="")
        return
    if as_json:
        if overhead and found:
            print(json.dumps(overhead_json(found)))
        else:
            print(MessageToJson(shown, preserving_proto_field_name=True))
        return
    console = Console()
    if not overhead:
        print_whole(costs_table(shown, label or by.value), console)
        if response.HasField("warms"):
            console.print(warms_line(response.warms), highlight=False)
        if len(shown.rows) < len(response.rows):
            console.print(f"{len(response.rows) - len(shown.rows):,} more groups are in the total.")
    if found is not None:
        print_whole(overhead_tables(found), console)
    for call in interrupted:
        intent = call.intent
        console.print(
            f"interrupted: request {intent.request_id} attempt {intent.attempt}, {intent.route} {intent.model}, "
            f"started {_shown(intent.started_time_s)}, cost unknown, "
            f"at most {usd(intent.cost_bound_nano_usd)}",
            highlight=False,
            markup=False,
        )


def _left_out(gone: pb.PrunedCosts) -> str:
    """Say what the figures lack because it is kept as sums by day alone."""
    day = time.strftime("%Y-%m-%d", time.gmtime(gone.before_time.seconds))
    if not gone.HasField("total"):
        return f"Calls from before {day} are kept as sums by day; what is asked for cannot be told of them."
    sums = gone.total
    text = f"Not in these figures: {counted_calls(sums.call_count)} from before {day}, kept as sums by day, "
    text += usd(sums.cost.total_nano_usd)
    if sums.unknown_cost_count:
        text += f" and {sums.unknown_cost_count:,} of unknown cost, at most {usd(sums.unknown_cost_bound_nano_usd)}"
    return text + "."


def _warms(reader: LedgerReader, where: Filter) -> WarmRow | None:
    """What warms came to; None where they are filtered by what a decision to warm does not have."""
    if not set(where.equal) <= WARM_GROUPS or reader.version < WARMS_SINCE:
        return None
    (row,) = reader.warms((), where)
    return row


def _check(*, as_json: bool, as_csv: bool, overhead: bool, target: str, only: Sequence[str] | None) -> None:
    """Refuse options that do not go together."""
    if as_json and as_csv:
        raise ConfigError("--json and --csv both name a format; give one of them")
    if target and (overhead or only):
        raise ConfigError(
            "--target: a running router tells neither --overhead nor --only; ask its ledger's file"
        )


def _condition(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise ConfigError(f"--only: {text!r} is not NAME=VALUE such as route=opus")
    return name, value


def _narrowed(where: Filter | None, equal: dict[str, str]) -> Filter:
    where = where or Filter()
    return replace(where, equal={**where.equal, **equal})


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Name the option whose value the ledger refuses."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


def _shown(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(epoch_s))


async def _ask(target: str, request: pb.GetCostsRequest) -> pb.GetCostsResponse:
    async with grpc.aio.insecure_channel(target) as channel:
        return await operator_service_pb2_grpc.OperatorServiceStub(channel).GetCosts(request, timeout=60)
