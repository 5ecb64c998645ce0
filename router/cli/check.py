"""`hybrid-router config`: check and show settings before a server sees them."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from cache.facts import Answer, FactId, Reading
from router.applications import Application, Applications
from router.config import Config, load_config, load_secrets, show_config
from router.facts_file import applying, measured_on
from router.tariff import check_models, price_table

if TYPE_CHECKING:
    from router.lint import LintFinding

app = typer.Typer(help="Check and show settings.", no_args_is_help=True)


@app.command("check")
def check(
    config: Annotated[Path, typer.Argument(help="Settings, TOML.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 when there is a warning.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check settings as `serve` would, without starting anything, and what in the applications will miss the cache.

    Exit code 2 names the first thing that is wrong. A warning says what will miss the cache, a note what may: words
    that change in shared layers, layers under the model's minimum, applications that differ in order or spelling only.
    No text of a prompt is shown but the word that a finding is about.

    Example: hybrid-router config check deploy/router.toml --strict
    """
    from router.classifiers import Classifiers

    settings = load_config(config)
    check_models(settings)
    applications = Applications(settings.applications)
    registered = [applications.get(name) for name in applications.names()]
    digest = Classifiers(settings.routing.classifier).current().digest
    findings = _findings(settings, registered)
    reading = applying(settings, time.time())
    if as_json:
        print(json.dumps(_as_json(settings, digest, registered, findings, reading)))
    else:
        print("\n".join(_lines(settings, digest, registered, findings, reading)))
    if strict and _count(findings, "warning"):
        raise typer.Exit(1)
    if not as_json:
        print("ok")


@app.command("show")
def show(
    config: Annotated[Path | None, typer.Argument(help="Settings, TOML; none shows the defaults.")] = None,
) -> None:
    """Print the whole tree of settings, defaults and environment included; it holds no secrets.

    Example: hybrid-router config show deploy/router.toml
    """
    print(show_config(load_config(config)))


def _findings(settings: Config, registered: Sequence[Application]) -> tuple["LintFinding", ...]:
    # Rendering what an application sends loads an adapter: only this verb needs it.
    from router.lint import lint

    price = price_table(settings).price(settings.opus.model, time.time())
    return lint(
        registered,
        model=settings.opus.model,
        strategy=settings.cache.strategy,
        rates=price.rates(),
        filler=settings.cache.filler,
        asked_to_pad=[name for name, application in settings.applications.items() if application.pad],
    )


def _lines(
    settings: Config,
    digest: str,
    registered: Sequence[Application],
    findings: Sequence["LintFinding"],
    reading: Reading,
) -> Iterator[str]:
    secrets = load_secrets(settings)
    yield f"opus   {settings.opus.model}, key {'set' if secrets.opus_api_key else 'missing'}"
    yield f"flash  {settings.flash.model}, key {'set' if secrets.flash_api_key else 'missing'}"
    yield f"classifier {digest}"
    yield from _facts(settings, reading)
    for application in registered:
        characters = _shared_characters(application)
        yield (
            f"application {application.name}: {len(application.tools)} tools, "
            f"about {characters:,} characters shared"
        )
    for finding in findings:
        excerpt = f' "{finding.excerpt}"' if finding.excerpt else ""
        rule = finding.rule.replace("_", " ")
        yield f"{finding.severity.value}: {finding.path}: {rule}{excerpt}: {finding.why}"
        yield f"  {finding.advice}"
    if findings:
        yield (
            f"warnings {_count(findings, 'warning')}, notes {_count(findings, 'note')}; tokens are estimates"
        )


def _as_json(
    settings: Config,
    digest: str,
    registered: Sequence[Application],
    findings: Sequence["LintFinding"],
    reading: Reading,
) -> dict[str, Any]:
    return {
        "opus_model": settings.opus.model,
        "flash_model": settings.flash.model,
        "classifier": digest,
        "facts": {
            "file": settings.cache.facts_file,
            "used": [_fact_json(answer) for answer in reading.used],
            "ignored": [_fact_json(answer) | {"why": why} for answer, why in reading.ignored],
            "upgrade_ping_verified": reading.facts.upgrade_ping_verified,
        },
        "applications": [
            {
                "name": application.name,
                "tool_count": len(application.tools),
                "shared_characters": _shared_characters(application),
            }
            for application in registered
        ],
        "warning_count": _count(findings, "warning"),
        "note_count": _count(findings, "note"),
        "findings": msgspec.to_builtins(findings),
    }


def _facts(settings: Config, reading: Reading) -> Iterator[str]:
    """What is measured, what of the file does not apply, and how many facts stay assumptions."""
    if not settings.cache.facts_file:
        yield "facts  all assumed; hybrid-router probe measures them"
        return
    for answer in reading.used:
        yield f"fact   {answer.fact.value} {answer.verdict.value}, measured {measured_on(answer.measured_time_s)}"
    for answer, why in reading.ignored:
        yield f"fact   {answer.fact.value} ignored: {why}"
    assumed = len(FactId) - len(reading.used)
    yield f"facts  {len(reading.used)} measured, {assumed} assumed"


def _fact_json(answer: Answer) -> dict[str, Any]:
    return {
        "fact": answer.fact.value,
        "verdict": answer.verdict.value,
        "model": answer.model,
        "measured_on": measured_on(answer.measured_time_s),
    }


def _shared_characters(application: Application) -> int:
    return sum(map(len, application.system)) + sum(
        len(tool.description) + len(tool.input_schema_json) for tool in application.tools
    )


def _count(findings: Sequence["LintFinding"], severity: str) -> int:
    return sum(finding.severity.value == severity for finding in findings)
