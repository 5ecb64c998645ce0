"""`hybrid-router models`, `promote`, `rollback`: what the registry holds, and which of it serves."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from classifier.array_file import ArtifactError
from classifier.consent import consent, gate_report
from classifier.foresight.shelf import shelf_of
from classifier.registry import Entry, How, Registry
from router.cli.retrain import REFUSED, open_registry, serving
from router.config import ConfigError

_REGISTRY = typer.Option(help="Directory of the models; default: the settings', else var/models.")
_CONFIG = typer.Option(help="Settings, TOML, that name the registry.")


def models(
    registry: Annotated[Path | None, _REGISTRY] = None,
    config: Annotated[Path | None, _CONFIG] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Show every change of champion instead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models of the registry: the champion first, then former champions, then candidates; then foresights.

    Exit code 1 if one of them cannot be used any more.

    Example: hybrid-router models --registry var/models
    """
    found = open_registry(registry, config)
    entries = found.entries()
    foresights = _foresights(found)
    changes = [msgspec.to_builtins(change) for change in found.history()]
    if as_json:
        listed = [_row(entry) for entry in entries]
        print(json.dumps({"models": listed, "foresights": foresights, "history": changes}))
    elif history:
        for change in changes:
            print(
                f"{_shown(change['time_s'])}  {change['previous'] or 'shipped'} -> {change['digest'] or 'shipped'}"
                f"  {change['how']}: {change['reason']}"
            )
    else:
        _print(entries, found.champion_digest())
        _print_foresights(foresights)
    if any(entry.fault for entry in entries) or any(row["fault"] for row in foresights):
        raise typer.Exit(1)


def promote(
    model: Annotated[
        str, typer.Argument(help="Digest, its beginning, or the directory of an artifact to add first.")
    ],
    registry: Annotated[Path | None, _REGISTRY] = None,
    config: Annotated[Path | None, _CONFIG] = None,
    force: Annotated[
        str, typer.Option(metavar="REASON", help="Do it without the gate's consent; the reason is noted.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a model the champion: one that passed the gate against the present one, or served before and stood.

    One that was ever taken back needs --force, whatever the gate said of it.

    Exit code 3: neither, and not forced. A running router that has this registry takes it up by itself
    within classifier.watch_s, 5 s by default.

    Example: hybrid-router promote 1f0c --registry var/models
    """
    found = open_registry(registry, config)
    path = Path(model)
    digest = found.add(path) if path.is_dir() else found.resolve(model)
    given, how, reason = consent(found, digest, serving(found, config).digest)
    if not given:
        if not force:
            typer.echo(f"hybrid-router: {digest} is not promoted: {reason}; --force REASON does it", err=True)
            raise typer.Exit(REFUSED)
        how, reason = How.FORCE, f"{force} ({reason})"
    previous = found.promote(digest, now_s=time.time(), how=how, reason=reason)
    if as_json:
        print(json.dumps({"champion": digest, "previous": previous, "how": how, "reason": reason}))
    else:
        print(f"{digest} is the champion; before it {previous or 'the shipped model'}")


def rollback(
    reason: Annotated[str, typer.Option(help="Why; noted in the history.")],
    registry: Annotated[Path | None, _REGISTRY] = None,
    config: Annotated[Path | None, _CONFIG] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Return to the champion before the present one, the shipped model at last.

    Example: hybrid-router rollback --reason "complaints from helpdesk"
    """
    if not reason.strip():
        raise ConfigError("--reason is empty; say why")
    change = open_registry(registry, config).rollback(now_s=time.time(), reason=reason)
    if as_json:
        print(json.dumps(msgspec.to_builtins(change)))
        return
    for digest in change.skipped:
        print(f"{digest} was passed over: its artifact cannot be used")
    print(f"{change.digest or 'the shipped model'} serves again; {change.previous} was taken back")


def _row(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    verdict = gate_report(entry.directory).get("verdict")
    return {
        "digest": entry.digest,
        "champion": entry.champion,
        "fault": entry.fault,
        "created_time": None if manifest is None else manifest.created_time,
        "rows": None if manifest is None else manifest.rows,
        "passed": verdict.get("passed") if isinstance(verdict, dict) else None,
        "promoted_time_s": entry.changes[-1].time_s if entry.changes else None,
        "how": entry.changes[-1].how.value if entry.changes else None,
    }


def _foresights(registry: Registry) -> list[dict[str, Any]]:
    """What foresees sessions' next requests: the champion first, then by time of training."""
    shelf = shelf_of(registry.path)
    champion = shelf.champion_digest()
    rows = []
    for digest in shelf.digests():
        manifest, fault = None, ""
        try:
            manifest = shelf.load(digest).manifest
        except ArtifactError as error:
            fault = str(error)
        rows.append(
            {
                "digest": digest,
                "champion": digest == champion,
                "fault": fault,
                "created_time": None if manifest is None else manifest.created_time,
                "turns": None if manifest is None else manifest.turns,
                "sessions": None if manifest is None else manifest.sessions,
            }
        )
    rows.sort(key=lambda row: str(row["created_time"] or ""), reverse=True)
    return sorted(rows, key=lambda row: not row["champion"])


def _print_foresights(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    table = Table("foresight", "", "trained", "turns", "sessions")
    for row in rows:
        state = "unusable" if row["fault"] else "champion" if row["champion"] else ""
        shown = [str(row[name] or "-") for name in ("created_time", "turns", "sessions")]
        table.add_row(str(row["digest"]), state, *shown)
    Console().print(table)
    for row in rows:
        if row["fault"]:
            print(row["fault"])


def _print(entries: tuple[Entry, ...], champion: str) -> None:
    if not champion:
        print("the shipped model serves")
    if not entries:
        return
    table = Table("model", "", "trained", "rows", "gate", "champion since")
    for entry in entries:
        row = _row(entry)
        gate = {True: "passed", False: "refused", None: "-"}[row["passed"]]
        since = "-" if row["promoted_time_s"] is None else _shown(row["promoted_time_s"])
        state = "unusable" if entry.fault else "champion" if entry.champion else ""
        table.add_row(entry.digest, state, row["created_time"] or "-", str(row["rows"] or "-"), gate, since)
    Console().print(table)
    for entry in entries:
        if entry.fault:
            print(entry.fault)


def _shown(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(epoch_s))
