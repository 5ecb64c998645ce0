"""The command `hybrid-router`: one verb per job, each with --help, --json where a machine may read it.

Exit codes: 0 done; 1 the job was done and its result is a failure (a call failed, figures disagree, a check found
something); 2 it could not be done as asked (usage, settings, files). The rule: verbs parse, call and print; what
they do lives in the package. The provider SDKs and scikit-learn take seconds to load, so a verb imports what it runs
inside its function, and --help stays quick.
"""

import typer

from router.cli import (
    advise,
    check,
    costs,
    demo,
    doctor,
    evaluate,
    explain,
    feedback,
    health,
    ledger,
    models,
    probe,
    reconcile,
    replay,
    report,
    retrain,
    sandbox,
    score,
    serve,
    top,
    train,
    tune,
)
from router.cli.fault import reported
from router.roomy import with_room

app = typer.Typer(
    name="hybrid-router",
    help="Route every LLM request to Gemini Flash or Claude Opus, cache Opus prompts, know what each route costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(serve.serve)
app.command()(demo.demo)
app.command()(explain.explain)
app.command()(costs.costs)
app.command()(report.report)
app.command()(top.top)
app.command()(reconcile.reconcile)
app.command()(doctor.doctor)
app.command()(feedback.feedback)
app.command()(sandbox.sandbox)
app.command()(train.train)
app.command()(retrain.retrain)
app.command()(models.models)
app.command()(models.promote)
app.command()(models.rollback)
app.command()(tune.tune)
app.command()(score.score)
app.command()(evaluate.evaluate)
app.command()(replay.replay)
app.command()(probe.probe)
app.command()(advise.advise)
app.command()(health.health)
app.add_typer(check.app, name="config")
app.add_typer(ledger.app, name="ledger")


def main() -> None:
    """Run the command; errors the user can act on are one line on standard error and exit code 2."""
    with reported():
        with_room(app)
