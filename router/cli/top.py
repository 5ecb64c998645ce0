"""`hybrid-router top`: what a router does right now, from its ledger's file or over gRPC, until Ctrl-C."""

import re
import signal
import time
from pathlib import Path
from threading import Event
from typing import Annotated, Protocol
from urllib.error import URLError
from urllib.request import urlopen

import grpc
import typer
from rich.console import Console
from rich.live import Live

from router import attributes
from router.cli.place import LedgerOption, place_asked
from router.config import ConfigError
from router.ledger import CostRow, Filter, LedgerReader, Place, StoreError
from router.top import MINUTE_S, Frame, Minute, Share, empty, frame_text, starts
from router.v1 import operator_service_pb2 as pb
from router.v1 import operator_service_pb2_grpc

TIMEOUT_S = 10.0
SETTLING_MINUTES = 3
"""Youngest minutes that are asked for again in each frame: their calls may still be running."""


class Source(Protocol):
    """Where frames come from."""

    def frame(self, now_s: float) -> Frame:
        """Look once.

        Raises:
            Unavailable: There is nothing to see just now.
        """
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Unavailable(Exception):
    """The source does not answer; it may later."""


def top(
    ledger: LedgerOption = None,
    config: Annotated[Path | None, typer.Option(help="Settings, TOML, that name the ledger.")] = None,
    target: Annotated[
        str, typer.Option(help="host:port of a running router to ask instead of the file.")
    ] = "",
    metrics: Annotated[
        str, typer.Option(help="With --target: its Prometheus page, for errors and what is in flight.")
    ] = "",
    window: Annotated[int, typer.Option(min=1, max=240, help="Minutes to look back.")] = 15,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
) -> None:
    """Show spend per minute, calls by route, hit rate, errors, what is in flight, and who spends; Ctrl-C ends it.

    From the ledger's file it shows errors, but not what is in flight; over gRPC (--target) warm prefixes, and with
    --metrics both. What the source does not tell is shown as unknown.

    Example: hybrid-router top --target 127.0.0.1:50051 --metrics http://127.0.0.1:9464/metrics
    """
    if metrics and not target:
        raise ConfigError("--metrics: goes with --target")
    if target and (ledger or config):
        raise ConfigError("--target: names a router; leave out --ledger and --config")
    source = _source(target, metrics, ledger, config, window * MINUTE_S)
    console = Console(highlight=False)
    try:
        if once:
            _once(source, console)
        else:
            _live(source, console, interval, window * MINUTE_S)
    except KeyboardInterrupt:
        # How one ends it.
        return
    finally:
        source.close()


def _source(target: str, metrics: str, ledger: str | None, config: Path | None, window_s: int) -> Source:
    if target:
        return RouterSource(target, metrics, window_s)
    return LedgerSource(place_asked(ledger, config), window_s)


def _once(source: Source, console: Console) -> None:
    try:
        frame = source.frame(time.time())
    except Unavailable as error:
        typer.echo(f"hybrid-router: {error}", err=True)
        raise typer.Exit(1) from None
    console.print(frame_text(frame, console.width))


class _Interrupt:
    """SIGINT, remembered: what it raises may be swallowed by whatever calls back into Python, the database for one."""

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, number: int, frame: object) -> None:
        self.seen = True
        raise KeyboardInterrupt


def _live(source: Source, console: Console, interval_s: float, window_s: int) -> None:
    interrupt = _Interrupt()
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        _frames(source, console, interval_s, window_s, interrupt)
    finally:
        signal.signal(signal.SIGINT, before)


def _frames(
    source: Source, console: Console, interval_s: float, window_s: int, interrupt: _Interrupt
) -> None:
    frame: Frame | None = None
    pause = Event()
    screen = console.is_terminal
    with Live(console=console, screen=screen, auto_refresh=False) as live:
        while not interrupt.seen:
            now_s = time.time()
            try:
                frame = source.frame(now_s)
            except Unavailable as error:
                problem = str(error)
                frame = frame.failed(problem, now_s) if frame else empty("", now_s, window_s, problem)
            text = frame_text(frame, console.width)
            if screen:
                live.update(text, refresh=True)
            else:
                console.print(text)
            pause.wait(interval_s)


# --- a ledger's database
# --------------------------------------------------------------------------------------------------------------


class LedgerSource:
    """Frames from a ledger's database, which routers may be writing to."""

    def __init__(self, place: Place, window_s: int) -> None:
        """Open the database.

        Raises:
            FileNotFoundError, StoreError: It is not there, or is no ledger's.
        """
        self._reader = LedgerReader.open(place)
        self._window_s = window_s

    def frame(self, now_s: float) -> Frame:
        """Ask all of one instant."""
        span = starts(now_s, self._window_s)
        where = Filter(since_s=span[0], until_s=span[-1] + MINUTE_S)
        try:
            with self._reader.snapshot():
                minutes = {row.group["minute"]: row for row in self._reader.costs(("minute",), where)}
                routes = self._reader.costs(("route",), where)
                applications = self._reader.costs(("application",), where)
                errors = self._reader.costs(("error",), where)
        except StoreError as error:
            raise Unavailable(str(error)) from error
        failed = sorted(
            ((row.group["error"], row.calls) for row in errors if row.group["error"]),
            key=lambda each: (-each[1], each[0]),
        )
        return Frame(
            now_s=now_s,
            source="ledger",
            window_s=self._window_s,
            minutes=tuple(_minute(start_s, minutes.get(_minute_name(start_s))) for start_s in span),
            routes=tuple(_share(row, row.group["route"]) for row in routes),
            applications=_dearest([_share(row, row.group["application"]) for row in applications]),
            errors=tuple(failed),
        )

    def close(self) -> None:
        """Close the database."""
        self._reader.close()


def _minute_name(start_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(start_s))


def _minute(start_s: int, row: CostRow | None) -> Minute:
    if row is None:
        return Minute(start_s=start_s, calls=0, cost_nano_usd=0)
    return Minute(start_s=start_s, calls=row.calls, cost_nano_usd=row.cost.total_nano_usd)


def _share(row: CostRow, name: str) -> Share:
    return Share(
        name=name,
        calls=row.calls,
        cost_nano_usd=row.cost.total_nano_usd,
        unknown_calls=row.unknown_calls,
        input_tokens=row.tokens.input_tokens,
        read_tokens=row.tokens.cache_read_tokens,
    )


def _dearest(shares: list[Share]) -> tuple[Share, ...]:
    return tuple(sorted(shares, key=lambda share: (-share.cost_nano_usd, -share.calls, share.name)))


# --- a running router
# --------------------------------------------------------------------------------------------------------------


class RouterSource:
    """Frames from a router's OperatorService, and from its Prometheus page where one is named."""

    def __init__(self, target: str, metrics: str, window_s: int) -> None:
        """Prepare a channel; nothing is asked yet."""
        self._target = target
        self._metrics = metrics
        self._window_s = window_s
        self._channel = grpc.insecure_channel(target)
        self._operator = operator_service_pb2_grpc.OperatorServiceStub(self._channel)
        self._past: dict[int, Minute] = {}

    def frame(self, now_s: float) -> Frame:
        """Ask costs by route, application and minute, and the warm prefixes."""
        span = starts(now_s, self._window_s)
        try:
            minutes = self._minutes(span)
            end_s = span[-1] + MINUTE_S
            routes = self._costs(pb.COST_DIMENSION_ROUTE, span[0], end_s).rows
            applications = self._costs(pb.COST_DIMENSION_APPLICATION, span[0], end_s).rows
            prefixes = self._operator.ListPrefixes(pb.ListPrefixesRequest(page_size=1), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise Unavailable(f"{self._target}: {error.code().name}") from error
        page = _page(self._metrics) if self._metrics else None
        return Frame(
            now_s=now_s,
            source=self._target,
            window_s=self._window_s,
            minutes=minutes,
            routes=tuple(sorted((_told(row) for row in routes), key=lambda share: share.name)),
            applications=_dearest([_told(row) for row in applications]),
            errors=None if page is None else failures(page),
            errors_since="since it started",
            in_flight=None if page is None else in_flight(page),
            warm_prefixes=prefixes.total_count,
        )

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _minutes(self, span: list[int]) -> tuple[Minute, ...]:
        """Ask for each minute; those long over are remembered."""
        self._past = {start_s: minute for start_s, minute in self._past.items() if start_s in span}
        for start_s in span:
            if start_s not in self._past or start_s in span[-SETTLING_MINUTES:]:
                total = self._costs(pb.COST_DIMENSION_UNSPECIFIED, start_s, start_s + MINUTE_S).total
                self._past[start_s] = Minute(
                    start_s=start_s, calls=total.call_count, cost_nano_usd=total.cost.total_nano_usd
                )
        return tuple(self._past[start_s] for start_s in span)

    def _costs(self, dimension: pb.CostDimension, since_s: int, until_s: int) -> pb.GetCostsResponse:
        request = pb.GetCostsRequest(dimension=dimension)
        request.start_time.FromSeconds(since_s)
        request.end_time.FromSeconds(until_s)
        return self._operator.GetCosts(request, timeout=TIMEOUT_S)


def _told(row: pb.CostRow) -> Share:
    return Share(
        name=row.key,
        calls=row.call_count,
        cost_nano_usd=row.cost.total_nano_usd,
        unknown_calls=row.unknown_cost_count,
        input_tokens=row.usage.input_tokens,
        read_tokens=row.usage.cache_read_tokens,
    )


_SAMPLE = re.compile(r"([a-z_]+)(?:\{([^}]*)\})? ([0-9.e+-]+)")
_STATUS = re.compile(rf'{attributes.RPC_STATUS_CODE.replace(".", "_")}="([^"]*)"')


def in_flight(page: str) -> int | None:
    """Return the requests being served from a Prometheus page; None when it does not tell."""
    found = _samples(page, attributes.IN_FLIGHT.replace(".", "_"))
    return round(sum(value for _, value in found)) if found else None


def failures(page: str) -> tuple[tuple[str, int], ...] | None:
    """Return RPCs by status other than OK, most first; None when the page does not tell."""
    found = _samples(page, attributes.RPC_SERVER_CALL_DURATION.replace(".", "_") + "_seconds_count")
    if not found:
        return None
    counts: dict[str, int] = {}
    for labels, value in found:
        status = _STATUS.search(labels)
        if status is not None and status[1] != "OK":
            counts[status[1]] = counts.get(status[1], 0) + round(value)
    return tuple(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _samples(page: str, name: str) -> list[tuple[str, float]]:
    """Return (labels, value) of a metric's samples."""
    lines = (line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return [(match[2] or "", float(match[3])) for line in lines if (match := _SAMPLE.match(line))]


def _page(url: str) -> str | None:
    """Fetch a Prometheus page; None when it cannot be had, which is shown as unknown."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--metrics: {url!r} is not an address such as http://127.0.0.1:9464/metrics")
    try:
        with urlopen(url, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read()
    except (URLError, TimeoutError):
        return None
    return body.decode(errors="replace")
