"""What `hybrid-router replay` does with a ledger: which one, which ways by default, and its bill beside the replay's.

The rule: a replay of a ledger is to be judged before it is believed. So what was really billed stands beside what the
provider's model makes of the breakpoints that were sent (`as_sent`: is the model right?) and beside the configured way
(does the replayed planner do what the service did?). Calls whose prompt is unknown are counted and never filled in.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from cache.economics import Rates, TokenSplit, cost_units
from router.cli.instant import epoch_s
from router.cli.place import place_asked
from router.config import Config, load_config
from router.ledger import Filter, place_of
from router.ledger_trace import Booked, LedgerTrace
from router.money import usd
from router.replay import Policy
from router.replay_choice import Chosen
from router.replay_trace import TraceRow
from router.replay_warming import Warm

if TYPE_CHECKING:
    from router.replay_report import Figures

_SQLITE = b"SQLite format 3\0"
_FORESEEING = (Warm.SESSION_START, Warm.PREDICTIVE, Warm.AUTO)
"""Ways to warm that go by what was known before a request: turns on Flash are replayed with them."""

LedgerOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIRECTORY|URL",
        help="Replay the calls of this ledger instead of a trace: its directory, or postgresql://user@host/name.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(help="Settings, TOML: the ledger they name, and the way they cache, are what is replayed."),
]
SinceOption = Annotated[
    str,
    typer.Option(help="Of a ledger: calls from this time, inclusive: 2026-11-22 or 2026-11-22T10:00, UTC."),
]
UntilOption = Annotated[str, typer.Option(help="Of a ledger: to this time, exclusive.")]
EveryCallOption = Annotated[
    bool,
    typer.Option(
        "--every-call", help="Of a ledger: also calls that went to Flash, as if Opus had been asked."
    ),
]


class FromLedger(NamedTuple):
    """A ledger to replay, and the settings of the service it is of; None where none were named."""

    trace: LedgerTrace
    config: Config | None

    def rows(self) -> Iterator[TraceRow]:
        """Yield the calls to replay.

        Raises:
            ValueError: There is none.
        """
        billed = 0
        for row in self.trace.rows():
            billed += row.billed
            yield row
        if not billed:
            raise ValueError(
                f"nothing to replay: of {self.trace.expected:,} calls in that window of the ledger none has its prompt "
                "kept; calls have it from this release on, while keep_prefixes under [ledger] is true"
            )

    def fit_for(self, runs: Sequence[Chosen]) -> "FromLedger":
        """The same with the turns on Flash, where some way goes by them."""
        foreseen = any(each.warm in _FORESEEING or each.foresight for each in runs)
        if self.trace.every_call or not foreseen:
            return self
        return self._replace(trace=self.trace.with_flash_turns())

    def ways(
        self, policy: list[Policy] | None, warm: list[Warm] | None, table: bool
    ) -> tuple[list[Policy] | None, list[Warm] | None]:
        """What is replayed where nothing was asked for: what was sent, and the configured way.

        Without settings that is the strategy most of the calls were planned by.
        """
        if table or policy:
            return policy, warm
        strategy = self.trace.strategy or Policy.AUTO.value
        if self.config is not None:
            strategy, warming = self.config.cache.strategy, Warm(self.config.warming.policy)
            # Of openings a ledger tells nothing; that sessions are opened at all is for --warm to assume.
            warm = [warming] if warm is None and warming is not Warm.SESSION_START else warm
        configured = Policy(strategy)
        return [configured] if self.trace.every_call else [Policy.AS_SENT, configured], warm


def ledger_asked(
    trace: Path | None,
    ledger: str | None,
    config: Path | None,
    since: str,
    until: str,
    *,
    every_call: bool,
    workload: bool,
) -> FromLedger | None:
    """The ledger to replay, None where a trace or a workload was given.

    Args:
        trace: A ledger, too, if it is a directory or a database.
        workload: Whether one was asked for.

    Raises:
        ValueError: Options that do not go together.
        FileNotFoundError, StoreError: As `LedgerTrace`.
    """
    is_ledger = trace is not None and (trace.is_dir() or _is_database(trace))
    if ledger is None and not is_ledger and (config is None or trace is not None or workload):
        if since or until or every_call or config is not None:
            raise ValueError("--config, --since, --until and --every-call belong to a ledger; give one")
        return None
    if workload or (trace is not None and (ledger is not None or not is_ledger)):
        raise ValueError("give one of a trace, a ledger, and --workload")
    settings = None if config is None else load_config(config)
    place = place_of(str(trace)) if trace is not None else place_asked(ledger, config)
    where = Filter(since_s=epoch_s("--since", since), until_s=epoch_s("--until", until))
    return FromLedger(LedgerTrace(place, where, every_call=every_call), settings)


def _is_database(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def ways_of(runs: Sequence[Chosen], booked: FromLedger | None) -> list[Chosen]:
    """The ways with what was sent as it was sent, once, whatever is kept warm in the others.

    Raises:
        ValueError: Nothing tells what was sent: of a trace, or of calls on Flash.
    """
    if any(each.policy is Policy.AS_SENT for each in runs) and (booked is None or booked.trace.every_call):
        raise ValueError("--policy as_sent: only a ledger's calls on Opus tell which breakpoints were sent")
    return list(
        dict.fromkeys(
            Chosen(each.policy, Warm.OFF) if each.policy is Policy.AS_SENT else each for each in runs
        )
    )


def show_beside(trace: LedgerTrace, found: "Sequence[Figures]", rates: Rates) -> None:
    """Print what the ledger says beside the replays, and what is left out."""
    console = Console()
    console.print(beside(trace, found, rates))
    for line in notes(trace):
        console.print(line, highlight=False, markup=False)


def beside(trace: LedgerTrace, found: "Sequence[Figures]", rates: Rates) -> Table:
    """What was billed for the calls that were replayed, and what each way comes to."""
    booked = trace.seen.replayed
    table = Table(
        "",
        "input",
        "read",
        "5m",
        "1h",
        "plain",
        "cost",
        "$",
        title=f"{trace.place}: the bill and the replays",
        caption="shares of the input's tokens; cost: of the input, warms included, 1 = no caching",
    )
    own = "billed"
    table.add_row(
        own, *_shares(booked.split), _ratio(cost_units(booked.split, rates), booked.split), _dollars(booked)
    )
    for figures in found:
        bill = figures.bill_nano_usd
        table.add_row(
            figures.policy,
            *_shares(figures.split),
            _ratio(figures.cost_units, figures.split),
            "-" if bill is None else f"{bill / 1e9:,.2f}",
        )
    return table


def notes(trace: LedgerTrace) -> list[str]:
    """What the replay is of, and what it leaves out, in lines for people."""
    seen = trace.seen
    unknown = seen.left_out.calls + seen.flash_left_out
    calls = seen.replayed.calls + (seen.flash if trace.every_call else 0)
    lines = [
        f"{calls:,} calls were replayed; of {unknown:,} the prompt is unknown "
        f"({usd(seen.left_out.cost_nano_usd)} booked on Opus), of {seen.without_usage:,} what was billed: none of "
        "these is in any figure"
    ]
    if seen.flash and trace.every_call:
        lines.append(
            f"{seen.flash:,} of them went to Flash, and are in the replays alone: their input is estimated"
        )
    elif seen.flash:
        lines.append(f"{seen.flash:,} turns on Flash between them are known to the replays, and in no figure")
    if seen.inexact:
        lines.append(f"the input of {seen.inexact:,} is estimated: bill and prompt do not fit")
    if trace.warms.calls:
        spent = usd(trace.warms.cost.total_nano_usd)
        lines.append(f"{trace.warms.calls:,} warms, {spent}, are in the ledger and not in its line above")
    if len(seen.strategies) > 1:
        told = ", ".join(f"{count:,} by {name or 'none'}" for name, count in sorted(seen.strategies.items()))
        lines.append(f"breakpoints were planned in several ways ({told}): no one policy repeats them")
    if len(seen.models) > 1:
        told = ", ".join(f"{count:,} by {name}" for name, count in sorted(seen.models.items()))
        lines.append(f"several models answered ({told}); all are replayed as one")
    return lines


def to_dict(trace: LedgerTrace, rates: Rates) -> dict[str, object]:
    """What the ledger says of the window, as a value for JSON."""
    seen = trace.seen
    return {
        "replayed": _booked(seen.replayed, rates),
        "prompt_unknown": _booked(seen.left_out, rates),
        "usage_unknown_calls": seen.without_usage,
        "flash_calls": seen.flash,
        "flash_prompt_unknown_calls": seen.flash_left_out,
        "estimated_calls": seen.inexact,
        "warm_calls": trace.warms.calls,
        "warm_nano_usd": trace.warms.cost.total_nano_usd,
        "strategies": seen.strategies,
        "models": seen.models,
    }


def _booked(booked: Booked, rates: Rates) -> dict[str, object]:
    return {
        "calls": booked.calls,
        "input_tokens": booked.split.total,
        "tokens": booked.split._asdict(),
        "output_tokens": booked.output_tokens,
        "cost_units": cost_units(booked.split, rates),
        "cost_nano_usd": booked.cost_nano_usd,
        "unpriced_calls": booked.unpriced,
    }


def _shares(split: TokenSplit) -> tuple[str, ...]:
    total = max(1, split.total)
    parts = (split.read, split.write_5m, split.write_1h, split.uncached)
    return (f"{split.total:,}", *[f"{part / total:.1%}" for part in parts])


def _ratio(units: float, split: TokenSplit) -> str:
    return f"{units / split.total:.4f}" if split.total else "-"


def _dollars(booked: Booked) -> str:
    known = f"{booked.cost_nano_usd / 1e9:,.2f}"
    return f"{known} + {booked.unpriced:,} unknown" if booked.unpriced else known
