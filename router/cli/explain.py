"""`hybrid-router explain`: what would be decided for a request, and why, without calling anyone."""

import sys
from pathlib import Path
from typing import Annotated

import grpc
import msgspec
import typer
from google.protobuf.json_format import MessageToJson, Parse, ParseError

from router.cli.loop import run
from router.clock import SystemClock
from router.config import Config, ConfigError, ServerConfig, load_config
from router.ledger import Ledger
from router.v1 import content_pb2, router_service_pb2, router_service_pb2_grpc


def explain(
    text: Annotated[str, typer.Argument(help="What the user asks; - reads it from standard input.")] = "-",
    request: Annotated[
        Path | None, typer.Option(help="A whole ExplainRequest as proto JSON instead of TEXT.")
    ] = None,
    application: Annotated[str, typer.Option(help="Registered application to ask.")] = "",
    session: Annotated[str, typer.Option(help="Session it belongs to.")] = "",
    target: Annotated[
        str, typer.Option(help="host:port of a running router, which knows what is warm; empty: a fresh one.")
    ] = "",
    config: Annotated[Path | None, typer.Option(help="Settings, TOML, for a fresh one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ExplainResponse as proto JSON.")] = False,
) -> None:
    """Show score, both expected costs, cache plan and decision of a request, and what would flip it.

    Nothing is called and nothing is spent. A fresh router has seen no traffic, so it believes nothing warm.

    Example: hybrid-router explain "Compare these two contracts clause by clause"
    """
    if request is not None:
        asked = _read(request)
    else:
        words = sys.stdin.read() if text == "-" else text
        part = content_pb2.Part(text=content_pb2.TextPart(text=words))
        message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])
        asked = router_service_pb2.ExplainRequest(
            prompt=router_service_pb2.Prompt(application=application, messages=[message]),
            caller=router_service_pb2.Caller(session=session),
        )
    response = run(_ask(target, asked) if target else _fresh(load_config(config), asked))
    if as_json:
        print(MessageToJson(response, preserving_proto_field_name=True))
        return
    print("\n".join(response.lines))
    for contribution in response.contributions[:8]:
        print(f"score {contribution.contribution:+.3f} by {contribution.feature} = {contribution.value:g}")


def _read(path: Path) -> router_service_pb2.ExplainRequest:
    try:
        return Parse(path.read_text(encoding="utf-8"), router_service_pb2.ExplainRequest())
    except ParseError as error:
        raise ConfigError(f"{path}: is not an ExplainRequest: {error}") from error


async def _ask(target: str, request: router_service_pb2.ExplainRequest) -> router_service_pb2.ExplainResponse:
    async with grpc.aio.insecure_channel(target) as channel:
        return await router_service_pb2_grpc.RouterServiceStub(channel).Explain(request, timeout=30)


async def _fresh(
    config: Config, request: router_service_pb2.ExplainRequest
) -> router_service_pb2.ExplainResponse:
    """Ask a router of our own. It is wired to the sandbox, which Explain never calls."""
    from router.app import running, sandbox_upstreams
    from router.sandbox import Sandbox

    # The sandbox counts in tokens of its own: next to a real model's minimum an honest estimate says more.
    cache = msgspec.structs.replace(config.cache, count_tokens=False)
    config = msgspec.structs.replace(config, server=ServerConfig(listen="127.0.0.1:0"), cache=cache)
    clock = SystemClock()
    ledger = Ledger.temporary(clock=clock)
    try:
        async with running(
            config, upstreams=sandbox_upstreams(config, Sandbox()), environ={}, clock=clock, ledger=ledger
        ) as app:
            return await _ask(app.address, request)
    finally:
        await ledger.close()
