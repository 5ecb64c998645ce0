"""`hybrid-router costs`: sum the ledger, from its file or from a running router."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import grpc
import typer
from google.protobuf.json_format import MessageToJson
from rich.console import Console

from router.cli.instant import instant
from router.cli.loop import run
from router.config import load_config
from router.ledger import DATABASE, LedgerReader
from router.money import usd
from router.operator_service import costs_response
from router.tables import costs_table
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
    LABEL = "label"
    TOTAL = "total"


_DIMENSIONS = {
    Dimension.ROUTE: pb.COST_DIMENSION_ROUTE,
    Dimension.MODEL: pb.COST_DIMENSION_MODEL,
    Dimension.TENANT: pb.COST_DIMENSION_TENANT,
    Dimension.APPLICATION: pb.COST_DIMENSION_APPLICATION,
    Dimension.DAY: pb.COST_DIMENSION_DAY,
    Dimension.PURPOSE: pb.COST_DIMENSION_PURPOSE,
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
    ledger: Annotated[
        Path | None, typer.Option(help="Directory of the ledger; default: the settings'.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings, TOML, that name the ledger.")] = None,
    target: Annotated[
        str, typer.Option(help="host:port of a running router to ask instead of the file.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the GetCostsResponse as proto JSON.")
    ] = False,
) -> None:
    """Show what calls cost, by part, and what they would have cost otherwise.

    Calls whose process died before it settled them are listed with the most they can have cost.

    Example: hybrid-router costs --by tenant --since 2026-11-01
    """
    request = pb.GetCostsRequest(
        dimension=_DIMENSIONS[by], label_key=label, tenant=tenant, application=application
    )
    if since:
        request.start_time.FromDatetime(instant("--since", since))
    if until:
        request.end_time.FromDatetime(instant("--until", until))
    interrupted = []
    if target:
        response = run(_ask(target, request))
    else:
        directory = ledger or Path(load_config(config).ledger.path)
        with LedgerReader.open(directory / DATABASE) as reader:
            response = costs_response(request, reader.costs, reader.totals)
            interrupted = reader.interrupted()
    if as_json:
        print(MessageToJson(response, preserving_proto_field_name=True))
        return
    console = Console()
    console.print(costs_table(response, label or by.value))
    for call in interrupted:
        intent = call.intent
        console.print(
            f"interrupted: request {intent.request_id} attempt {intent.attempt}, {intent.route} {intent.model}, "
            f"started {_shown(intent.started_time_s)}, cost unknown, "
            f"at most {usd(intent.cost_bound_nano_usd)}",
            highlight=False,
            markup=False,
        )


def _shown(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(epoch_s))


async def _ask(target: str, request: pb.GetCostsRequest) -> pb.GetCostsResponse:
    async with grpc.aio.insecure_channel(target) as channel:
        return await operator_service_pb2_grpc.OperatorServiceStub(channel).GetCosts(request, timeout=60)
