"""The options of `hybrid-router replay`, in words for who pays the bill.

The rule: an option says what question it answers or what it assumes, and its default; terms are explained in the verb's
own text. It reads nothing.
"""

from pathlib import Path
from typing import Annotated

import typer

from router.month import Kind
from router.replay import Policy
from router.replay_warming import Warm

DEFAULT_MODEL = "claude-opus-5-5"
MOST_PER_DAY = 1e8
MOST_DAYS = 3_660

Trace = Annotated[
    Path | None,
    typer.Argument(
        help="Recorded requests, JSON lines (.gz allowed; router/REPLAY.md has the format), or a ledger's directory."
    ),
]
# --- which traffic
Workload = Annotated[
    Kind | None,
    typer.Option(
        help="Use made-up traffic instead of a recording: a chat product (saas), coding agents (agentic), or traffic "
        "made for keep-alives to gain by (winning) or to lose by (losing)."
    ),
]
RequestsPerDay = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=MOST_PER_DAY,
        help="Of the made-up traffic. Default: 10000, of winning and losing 2000.",
    ),
]
Days = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=MOST_DAYS,
        help="Of the made-up traffic; dollars are scaled to 30 days. Default: 7, of winning and losing 4.",
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Another number, other made-up traffic of the same kind. Default: 0.")
]
# --- which ways are compared
PolicyOption = Annotated[
    list[Policy] | None,
    typer.Option(
        "--policy",
        help="What is kept: none; a or b, tools, instructions and the user's context; c, the conversation so far as "
        "well; 5m or 1h, all of each prompt for so long; auto, what pays by the chance of its being used again, as the "
        "service does. Repeat to compare. Default: auto.",
    ),
]
WarmOption = Annotated[
    list[Warm] | None,
    typer.Option(
        "--warm",
        help="What is paid for in advance: off; session_start (when a session is opened); keep_alive (three calls "
        "while a session is idle); predictive (after a user's action, or by score while Flash answers); shared (what "
        "all sessions share); four_minutes (that, every four minutes, come what may); auto, each where it pays. "
        "Repeat to compare. Default: off.",
    ),
]
Strategies = Annotated[bool, typer.Option("--strategies", help="Compare every --warm there is.")]
TableOption = Annotated[
    bool,
    typer.Option(
        "--table",
        help="A month's bill step by step: nothing kept, b, a, c, with a call every four minutes, auto, and auto with "
        "keep-alives, and what each step brings.",
    ),
]
# --- at whose prices
Model = Annotated[
    str | None,
    typer.Option(
        help=f"Bill by this model's price list and limits. Default: {DEFAULT_MODEL} for made-up traffic."
    ),
]
MinimumTokens = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Shortest beginning of a prompt that can be cached. Default: the model's; without one, 1024.",
    ),
]
Read = Annotated[
    float | None,
    typer.Option(
        help="Price of a token read from the cache, 1 being an ordinary one. Default: the model's, or 0.1."
    ),
]
Write5m = Annotated[
    float | None,
    typer.Option("--write-5m", help="Price of a token kept for 5 minutes. Default: the model's, or 1.25."),
]
Write1h = Annotated[
    float | None,
    typer.Option("--write-1h", help="Price of a token kept for an hour. Default: the model's, or 2.0."),
]
SecondUsd = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="Dollars that a second less to wait for an answer's first word is worth to you; auto pays for time only "
        "then. Needs --model.",
    ),
]
# --- how warms are judged
HoldOut = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=0.9,
        help="Share of warms that are not sent, at random: what the others brought is judged by them.",
    ),
]
Judged = Annotated[
    bool,
    typer.Option(
        help="Stop warms for a while for traffic that loses by them, as the service does; --no-judged never."
    ),
]
Actions = Annotated[
    list[str] | None,
    typer.Option(
        "--action", help="What users do that calls for a predictive warm; repeat. Default: all recorded."
    ),
]
Score = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Score of a turn on Flash from which a predictive warm is sent."),
]
ForesightOption = Annotated[
    Path | None,
    typer.Option(
        "--foresight",
        help="Directory of a trained foresight (retrain --only foresight), which says who will come back; warms that "
        "go by it are replayed without it and with it.",
    ),
]
FitForesight = Annotated[
    str,
    typer.Option(
        help='Fit a foresight on so much of the traffic\'s beginning, e.g. "50%"; every figure is then of the rest.'
    ),
]
Fact = Annotated[
    list[str] | None,
    typer.Option(
        help="Take as measured what the provider does not document: A2=yes (five minutes can be made an hour later "
        "on, by an upgrade ping), A6=no (a warm is billed one token of an answer)."
    ),
]
UpgradePing = Annotated[
    bool,
    typer.Option(help="Send the upgrade ping where --fact A2=yes allows it; --no-upgrade-ping to compare."),
]
# --- what is done with the figures
MaxCostIncrease = Annotated[
    str,
    typer.Option(
        help='Fail (exit code 1) when the first way costs more than this above the baseline, e.g. "3%".'
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(help="The baseline: a report saved with --json. Default: the second way compared."),
]
Plot = Annotated[Path | None, typer.Option(help="Draw costs and tokens of the ways compared here, PNG.")]
Decisions = Annotated[
    Path | None,
    typer.Option(
        help="Write what was decided here, one JSON line per request; for one --policy and one --warm."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
