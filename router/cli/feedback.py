"""`hybrid-router feedback`: say how requests turned out, one by hand or a file of them, to a running router."""

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from router.cli.loop import run
from router.client import AsyncClient, CallFailed, InvalidRequest, NotFound
from router.client.requests import VerdictName
from router.config import ConfigError

_IN_FLIGHT = 32
"""Judgements under way at once: the ledger keeps what comes within a tenth of a second in one go."""
_SHOWN = 20
"""Refused lines that are named; the others are counted."""


class VerdictOption(StrEnum):
    """Verdicts, as options spell them."""

    GOOD = "good"
    BAD = "bad"
    FLASH_SUFFICED = "flash-sufficed"
    OPUS_NEEDED = "opus-needed"


_NAMES: dict[str, VerdictName] = {
    "good": "good",
    "bad": "bad",
    "flash_sufficed": "flash_sufficed",
    "opus_needed": "opus_needed",
}


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A line of a file: one judgement; what it leaves out is as the options say."""

    request_id: str
    verdict: str = ""
    score: float | None = None
    source: str = ""
    tenant: str | None = None


@dataclass(slots=True)
class _Count:
    """What came of a file."""

    recorded: int = 0
    replaced: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)

    def refuse(self, number: int, reason: str) -> None:
        """Note a judgement that was not kept; the first ones by their line."""
        self.refused += 1
        if len(self.reasons) < _SHOWN:
            self.reasons.append(f"line {number}: {reason}")


_Lines = Iterator[tuple[int, _Line | str]]
"""Judgements by line number; a text says what is wrong with its line."""


def feedback(
    request_id: Annotated[
        str, typer.Argument(help="Request it is about: the request_id of its response.")
    ] = "",
    verdict: Annotated[VerdictOption | None, typer.Option(help="How it turned out.")] = None,
    score: Annotated[float | None, typer.Option(help="Quality of the answer, 0 to 1.")] = None,
    source: Annotated[str, typer.Option(help="Who judged; a source's last judgement stands.")] = "user",
    tenant: Annotated[str, typer.Option(help="Tenant of the request.")] = "",
    file: Annotated[
        Path | None,
        typer.Option(
            help="Judgements instead of REQUEST_ID, JSON lines: request_id and verdict or score, and where they "
            "differ from the options source and tenant."
        ),
    ] = None,
    address: Annotated[str, typer.Option(help="host:port of the router.")] = "127.0.0.1:50051",
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Tell a router how requests turned out; the classifier is retrained from it.

    Sending the same again changes nothing, so a file that broke off half way can be sent again whole. Exit code 1 when
    any judgement was refused.

    Example: hybrid-router feedback 0193a1c2 --verdict opus-needed --source reviewer
    """
    if (file is None) == (not request_id):
        raise ConfigError("give either REQUEST_ID or --file, one of the two")
    lines: _Lines
    if file is None:
        said = "" if verdict is None else verdict.value
        lines, total = iter([(1, _Line(request_id=request_id, verdict=said, score=score))]), 1
    elif verdict is not None or score is not None:
        raise ConfigError("--verdict and --score belong to REQUEST_ID; a file has its own")
    else:
        lines, total = _read(file), _line_count(file)
    count = run(_send(lines, total, address, source, tenant, quiet=file is None or as_json))
    if as_json:
        figures = {"recorded": count.recorded, "replaced": count.replaced, "refused": count.refused}
        print(json.dumps(figures))
    else:
        print(f"{count.recorded} recorded, {count.replaced} replaced, {count.refused} refused")
    for reason in count.reasons:
        print(f"refused: {reason}", file=sys.stderr)
    if count.refused > len(count.reasons):
        print(f"refused: {count.refused - len(count.reasons)} more", file=sys.stderr)
    if count.refused:
        raise typer.Exit(1)


def _read(path: Path) -> _Lines:
    """Yield the judgements of a file; of a line that is none, what is wrong with it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                yield number, msgspec.json.decode(line, type=_Line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                yield number, str(error)


def _line_count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(not line.isspace() for line in file)


async def _send(lines: _Lines, total: int, address: str, source: str, tenant: str, *, quiet: bool) -> _Count:
    """Send every judgement, some at once; stop when the router cannot be reached."""
    count = _Count()
    unreachable: BaseException | None = None
    with Progress(console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("feedback", total=total)

        async def work(client: AsyncClient) -> None:
            for number, line in lines:
                await _submit(client, number, line, count, source)
                bar.advance(task)

        try:
            async with AsyncClient(address, tenant=tenant) as client, asyncio.TaskGroup() as group:
                for _ in range(min(_IN_FLIGHT, total)):
                    group.create_task(work(client), name="send feedback")
        except* CallFailed as failures:
            # Raised below: what is raised in here comes out in a group on some Python 3.11 (3.11.2 has it so).
            unreachable = failures.exceptions[0]
    if unreachable is not None:
        done = count.recorded + count.replaced
        raise ConfigError(
            f"stopped after {done} of {total} judgements; the same can be sent again: {unreachable}"
        ) from unreachable
    return count


async def _submit(client: AsyncClient, number: int, line: _Line | str, count: _Count, source: str) -> None:
    if isinstance(line, str):
        count.refuse(number, line)
        return
    said = line.verdict.lower().replace("-", "_")
    if said and said not in _NAMES:
        count.refuse(number, f"verdict {line.verdict!r} is none of {', '.join(_NAMES)}")
        return
    try:
        response = await client.feedback(
            line.request_id,
            _NAMES[said] if said else None,
            score=line.score,
            source=line.source or source,
            tenant=line.tenant,
        )
    except (NotFound, InvalidRequest) as error:
        count.refuse(number, str(error))
        return
    if response.replaced:
        count.replaced += 1
    else:
        count.recorded += 1
