"""`hybrid-router probe`: settle what the provider's documents leave open, by calls that cost cents."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console, Group
from rich.status import Status
from rich.table import Table

from cache.facts import FactId, Verdict
from cache.rules import UnknownModel, rules_for
from router.cli.loop import run
from router.config import Config, ConfigError, load_config, load_secrets
from router.facts_file import FactRecord, FactsFile, TrialRecord, measured_on, merged, read_facts, write_facts
from router.money import NANO_PER_USD, usd
from router.pricing import PriceTable, UnknownPrice
from router.probe.experiments import Experiment, experiments
from router.tariff import price_table

if TYPE_CHECKING:
    from router.ledger import Ledger
    from router.probe.run import Event, Probe
    from router.upstreams.base import Upstream

DEFAULT_TRIALS = 3
_SANDBOX_HOST = "sandbox"


class Target(StrEnum):
    """Providers with open facts: Gemini's implicit cache takes no marks, so there is nothing to ask it."""

    ANTHROPIC = "anthropic"


class _Estimate(NamedTuple):
    """What an experiment should cost with all its trials, nano-USD, over its hypotheses, and at most."""

    experiment: Experiment
    trials: int
    low: int
    high: int
    bound: int


def probe(
    upstream: Annotated[Target, typer.Option(help="Whose facts to settle.")] = Target.ANTHROPIC,
    model: Annotated[str, typer.Option(help="Model to ask; default: the settings' Opus.")] = "",
    fact: Annotated[
        list[FactId] | None, typer.Option(help="Settle only this fact; repeat for more. Default: all.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, max=10, help="Trials that must agree, where one could be chance.")
    ] = DEFAULT_TRIALS,
    cap_usd: Annotated[
        str, typer.Option(help="Spend no more than this, whatever happens; checked before every call.")
    ] = "0.50",
    facts: Annotated[
        Path | None, typer.Option(help="Write the answers here, beside what it holds of other models.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings, TOML: key, address, model, prices.")] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Book every call in this ledger; no router may have it open.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before spending.")] = False,
    on_sandbox: Annotated[
        bool,
        typer.Option("--sandbox", help="Ask the built-in sandbox, on a virtual clock: free, and no proof."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Settle facts A1 to A6 about the provider's cache with small live calls, and write the answers down.

    It prints what it will send and what that should cost, and asks. What it sends are random words, never text of a
    user. Waits take up to 15 minutes in all; Ctrl-C ends it, keeping what is decided by then. Point cache.facts_file
    at the answers and the planner takes them instead of its assumptions. Exit code 1 when a fact stayed unknown.

    Example: hybrid-router probe --upstream anthropic --cap-usd 0.50 --facts facts.json
    """
    settings = load_config(config)
    cap_nano_usd = _nano_usd(cap_usd)
    name = _model(model or settings.opus.model)
    prices = price_table(settings)
    made = experiments(rules_for(name).minimum_tokens)
    chosen = [made[each] for each in (dict.fromkeys(fact) if fact else FactId)]
    kept = read_facts(facts) if facts is not None and facts.exists() else FactsFile()
    run_name = secrets.token_hex(8)
    estimates = _estimates(name, prices, chosen, trials, run_name)
    console = Console(stderr=True)
    console.print(_announcement(name, estimates, cap_nano_usd, on_sandbox=on_sandbox))
    if not (yes or on_sandbox):
        typer.confirm("Send these and spend this?", abort=True, err=True)
    outcome = _Outcome(kept, facts, name, run_name, chosen, live=not on_sandbox)
    records: tuple[FactRecord, ...] = ()
    with _telling(console, quiet=as_json) as tell:
        try:
            run(_probe(settings, prices, chosen, trials, cap_nano_usd, ledger, tell, outcome))
        finally:
            # Also after Ctrl-C or a refused key: what was sent was paid for, and what is decided by then counts.
            records = outcome.records()
            if outcome.probe is not None:
                _finish(outcome, records, as_json=as_json)
    if sum(record.verdict is not Verdict.UNKNOWN for record in records) < len(chosen):
        raise typer.Exit(1)


def _finish(outcome: "_Outcome", records: Sequence[FactRecord], *, as_json: bool) -> None:
    """Write the answers down, then show them."""
    if outcome.path is not None and records:
        write_facts(outcome.path, merged(outcome.kept, records))
    if as_json:
        print(json.dumps(outcome.to_json(records)))
    else:
        Console().print(_answers(records, outcome))


class _Outcome:
    """What a run came to, readable at any time, so that one that is broken off has a result too."""

    def __init__(
        self,
        kept: FactsFile,
        path: Path | None,
        model: str,
        run_name: str,
        chosen: Sequence[Experiment],
        *,
        live: bool,
    ) -> None:
        self.kept = kept
        self.path = path
        self.model = model
        self.run_name = run_name
        self.live = live
        self._chosen = chosen
        self.probe: Probe | None = None
        self.address = _SANDBOX_HOST
        self.now: Callable[[], float] = time.time

    def records(self) -> tuple[FactRecord, ...]:
        """One record per fact of which anything was sent."""
        probe = self.probe
        if probe is None:
            return ()
        from router.probe.evidence import contradicted, judge

        records = []
        for experiment in self._chosen:
            mine = [trial for trial in probe.trials if trial.experiment is experiment]
            if not any(trial.sightings for trial in mine):
                continue
            found = probe.finding(experiment.fact)
            now_s = self.now()
            measured = found.latency if found.verdict is Verdict.MEASURED else None
            judged = [judge(experiment, trial.sightings) for trial in mine]
            records.append(
                FactRecord(
                    fact=experiment.fact,
                    verdict=found.verdict,
                    why=found.why,
                    model=self.model,
                    measured_time_s=now_s,
                    measured_on=measured_on(now_s),
                    live=self.live,
                    address=self.address,
                    price_table=f"genai-prices {version('genai-prices')}",
                    run=self.run_name,
                    contradicted=contradicted(experiment, [trial.sightings for trial in mine]),
                    cost_nano_usd=probe.cost_nano_usd(experiment.fact),
                    prefill_s_per_token=measured.prefill_s_per_token if measured else None,
                    first_byte_s=measured.first_byte_s if measured else None,
                    trials=tuple(
                        TrialRecord(
                            verdict=each.verdict, why=each.why, requests=tuple(trial.sightings.values())
                        )
                        for each, trial in zip(judged, mine, strict=True)
                    ),
                )
            )
        return tuple(records)

    def to_json(self, records: Sequence[FactRecord]) -> dict[str, object]:
        """As a value for JSON; money in nano-USD."""
        budget = self.probe.budget if self.probe else None
        return {
            "model": self.model,
            "run": self.run_name,
            "live": self.live,
            "calls": self.probe.calls if self.probe else 0,
            "cost_nano_usd": budget.spent if budget else 0,
            "unknown_bound_nano_usd": budget.unknown if budget else 0,
            "facts_file": str(self.path) if self.path else "",
            "facts": [
                {
                    "fact": each.fact.value,
                    "verdict": each.verdict.value,
                    "why": each.why,
                    "cost_nano_usd": each.cost_nano_usd,
                    "prefill_s_per_token": each.prefill_s_per_token,
                    "first_byte_s": each.first_byte_s,
                }
                for each in records
            ],
        }


async def _probe(
    settings: Config,
    prices: PriceTable,
    chosen: Sequence[Experiment],
    trials: int,
    cap_nano_usd: int,
    ledger_path: Path | None,
    tell: "Callable[[Event], None]",
    outcome: _Outcome,
) -> None:
    from router.clock import SystemClock
    from router.probe.run import TICK_S, Probe

    if not outcome.live:
        await _on_sandbox(prices, chosen, trials, cap_nano_usd, ledger_path, tell, outcome)
        return
    upstream = _live_upstream(settings, outcome.model)
    clock = SystemClock()
    book = _opened(ledger_path)
    try:
        outcome.address = upstream.server_address
        outcome.probe = Probe(
            upstream=upstream,
            prices=prices,
            clock=clock,
            sleep=asyncio.sleep,
            cap_nano_usd=cap_nano_usd,
            name=outcome.run_name,
            ledger=book,
            tell=tell,
            tick_s=TICK_S,
        )
        await outcome.probe.run(chosen, trials)
    finally:
        await upstream.close()
        if book is not None:
            await book.close()


async def _on_sandbox(
    prices: PriceTable,
    chosen: Sequence[Experiment],
    trials: int,
    cap_nano_usd: int,
    ledger_path: Path | None,
    tell: "Callable[[Event], None]",
    outcome: _Outcome,
) -> None:
    """The same run against the emulator, whose clock goes from one wait to the next by itself."""
    import httpx2

    from router.probe.run import Probe
    from router.sandbox import Sandbox, SandboxSettings, VirtualClock
    from router.tasks import Tasks
    from router.upstreams.anthropic import AnthropicUpstream

    clock = VirtualClock(time.time())
    sandbox = Sandbox(SandboxSettings(latency_scale=1.0), clock)
    outcome.now = clock.now
    book = _opened(ledger_path)
    try:
        async with httpx2.AsyncClient(transport=sandbox.transport()) as http, Tasks() as tasks:
            outcome.probe = Probe(
                upstream=AnthropicUpstream(model=outcome.model, api_key="sandbox-key", http_client=http),
                prices=prices,
                clock=clock,
                sleep=clock.sleep,
                cap_nano_usd=cap_nano_usd,
                name=outcome.run_name,
                ledger=book,
                tell=tell,
                tick_s=60.0,
            )
            tasks.start(clock.run(), "virtual clock")
            try:
                await outcome.probe.run(chosen, trials)
            finally:
                await tasks.drain(0.0)
    finally:
        if book is not None:
            await book.close()


def _live_upstream(settings: Config, model: str) -> "Upstream":
    from router.upstreams.anthropic import AnthropicUpstream

    key = load_secrets(settings).opus_api_key
    if not key:
        raise ConfigError(
            "no provider key: set ANTHROPIC_API_KEY (or opus.api_key_file), or run with --sandbox to try it without"
        )
    return AnthropicUpstream(model=model, api_key=key, base_url=settings.opus.base_url or None)


def _opened(path: Path | None) -> "Ledger | None":
    if path is None:
        return None
    from router.clock import SystemClock
    from router.ledger import Ledger

    return Ledger.open(path, clock=SystemClock())


def _model(name: str) -> str:
    try:
        rules = rules_for(name)
    except UnknownModel as error:
        raise ConfigError(f"--model: {error}") from error
    if rules.upstream != Target.ANTHROPIC:
        raise ConfigError(f"--model: {name!r} is {rules.upstream}'s, whose cache takes no marks to probe")
    return rules.model


def _nano_usd(text: str) -> int:
    try:
        amount = Decimal(text) * NANO_PER_USD
        whole = int(amount)
    except (InvalidOperation, OverflowError, ValueError):
        raise ConfigError(f"--cap-usd: {text!r} is not an amount in USD such as 0.50") from None
    if amount <= 0:
        raise ConfigError(f"--cap-usd: {text!r} allows nothing; give an amount above 0")
    return whole


def _estimates(
    model: str, prices: PriceTable, chosen: Sequence[Experiment], trials: int, run_name: str
) -> list[_Estimate]:
    from router.probe.prompts import bound_nano_usd, call_of, expected_nano_usd
    from router.upstreams.anthropic import AnthropicUpstream

    try:
        price = prices.price(model, time.time())
    except UnknownPrice as error:
        raise ConfigError(f"--model: {error}; without a price no cap could hold") from error
    # Rendering is pure and sends nothing; the key is not a key.
    adapter = AnthropicUpstream(model=model, api_key="unused")
    found = []
    for experiment in chosen:
        count = trials if experiment.repeats else 1
        steps = list(experiment.requests())
        rendered = [adapter.render(call_of(run_name, 0, step, "estimate")) for step in steps]
        costs = [expected_nano_usd(experiment, verdict, rendered, price) for verdict in experiment.verdicts]
        bound = sum(bound_nano_usd(step, each, price) for step, each in zip(steps, rendered, strict=True))
        found.append(_Estimate(experiment, count, count * min(costs), count * max(costs), count * bound))
    return found


def _announcement(
    model: str, estimates: Sequence[_Estimate], cap_nano_usd: int, *, on_sandbox: bool
) -> Group:
    table = Table("fact", "question", "calls", "minutes", "about $", title=f"probe {model}")
    for each in estimates:
        low, high = each.low / NANO_PER_USD, each.high / NANO_PER_USD
        table.add_row(
            each.experiment.fact.value,
            each.experiment.question,
            str(each.trials * sum(1 for _ in each.experiment.requests())),
            f"{each.experiment.duration_s / 60:.0f}",
            f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f}-{high:.4f}",
        )
    low, high = sum(each.low for each in estimates), sum(each.high for each in estimates)
    lines = [
        f"together about ${low / NANO_PER_USD:.3f} to ${high / NANO_PER_USD:.3f} by the price table, "
        f"token counts estimated; never more than {usd(cap_nano_usd)}",
    ]
    if high > cap_nano_usd:
        lines.append("the cap is below the estimate: it will stop before every fact is settled")
    if on_sandbox:
        lines.append("on the sandbox: nothing is spent, and nothing is proved about the provider")
    return Group(table, *lines)


@contextmanager
def _telling(console: Console, *, quiet: bool) -> "Iterator[Callable[[Event], None]]":
    """Show what happens: a countdown on a terminal, and one line per answer."""
    from router.probe.run import Answered, Capped, Waiting

    status = Status("", console=console)
    animated = console.is_terminal and not quiet

    def tell(event: "Event") -> None:
        match event:
            case Waiting(remaining_s, fact, step):
                if animated:
                    minutes, seconds = divmod(round(remaining_s), 60)
                    status.update(f"{minutes}:{seconds:02} until {fact.value} {step}; Ctrl-C ends the probe")
                    status.start()
            case Answered(fact, trial, sighting):
                if animated:
                    status.update(f"{fact.value}: {sighting.step}")
                if not quiet:
                    seen = sighting.seen
                    console.print(
                        f"{fact.value} trial {trial + 1} {sighting.step}: {seen.value if seen else sighting.error}, "
                        f"read {sighting.cache_read_tokens:,}, "
                        f"wrote {sighting.cache_write_5m_tokens + sighting.cache_write_1h_tokens:,} "
                        f"of {sighting.input_tokens:,}, {usd(sighting.cost_nano_usd)}",
                        highlight=False,
                    )
            case Capped(fact, step, bound_nano_usd):
                console.print(
                    f"stopped before {fact.value} {step}: it may cost {usd(bound_nano_usd)}, more than the cap leaves",
                    highlight=False,
                )

    try:
        yield tell
    finally:
        status.stop()


def _answers(records: Sequence[FactRecord], outcome: _Outcome) -> Group:
    table = Table(
        "fact", "answer", "decided", "cost", "remark", title=f"{outcome.model}, run {outcome.run_name}"
    )
    for each in records:
        decided = sum(trial.verdict is not Verdict.UNKNOWN for trial in each.trials)
        remark = each.why
        if each.prefill_s_per_token is not None and each.first_byte_s is not None:
            remark = (
                f"{each.first_byte_s:.2f} s and {each.prefill_s_per_token * 1e6:.0f} us per uncached token"
            )
        table.add_row(
            each.fact.value,
            each.verdict.value,
            f"{decided}/{len(each.trials)}",
            usd(each.cost_nano_usd),
            remark,
        )
    lines = []
    if outcome.probe is not None:
        budget = outcome.probe.budget
        lines.append(f"{outcome.probe.calls} calls cost {usd(budget.spent)}")
        if budget.unknown:
            lines.append(f"calls that told no usage may have cost up to {usd(budget.unknown)} more")
    if outcome.path is not None and records:
        lines.append(f"written to {outcome.path}")
    return Group(table, *lines)
