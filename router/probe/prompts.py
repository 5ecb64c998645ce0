"""What a probe sends: meaningless words that no other run has sent, as a call of ours, and what that will cost.

The rule: every text follows from the run's random name, the trial and the piece, so nothing of a user is in it, the
same piece is the same bytes, and no cache of an earlier run can answer. A bound counts every byte as a token, because
a token covers at least one; an estimate takes our own estimator. Pure: no clock, no network.
"""

from collections.abc import Sequence
from random import Random

from cache.economics import TokenSplit, bill
from cache.facts import Verdict
from cache.plan import Breakpoint, Plan, Strategy
from cache.prefix import prefix_digests
from cache.prompt import Prompt
from cache.tokens import TokenEstimator
from router import cost
from router.call import Call, Identity, Message, Role, Text
from router.pricing import Price
from router.probe.experiments import FIVE_MINUTES_S, HOUR_S, Experiment, Piece, Seen, Step
from router.upstreams.base import Rendered
from router.usage import Usage

FRAME_TOKENS = 1000
"""Allowed in a bound for what the provider adds by itself: roles, its own instructions (hundreds, A-PRICE, 2026-11)."""
_WORDS = (
    "time year work life hand part case week call home side line head game city name team idea body back "
    "face door wind rain snow lake tree leaf seed corn salt rice fish bird wolf bear lamp desk road ship "
    "boat rope coat boot ring coin gold iron sand rock hill cave moon star fire wave song drum book page"
)
WORDS = tuple(_WORDS.split())
"""Common words: about one token each in every tokenizer."""


def text_of(run: str, trial: int, piece: Piece) -> str:
    """Words of a piece: the same for the same run, trial and piece, and for no other."""
    random = Random(f"{run}:{trial}:{piece.name}")
    return " ".join(random.choice(WORDS) for _ in range(piece.words))


def call_of(run: str, trial: int, step: Step, request_id: str) -> Call:
    """The request of a step."""
    roles = (Role.USER, Role.ASSISTANT)
    return Call(
        identity=Identity(request_id=request_id),
        system=tuple(text_of(run, trial, piece) for piece in step.system),
        messages=tuple(
            Message(roles[place % 2], (Text(text_of(run, trial, piece)),))
            for place, piece in enumerate(step.turns)
        ),
        max_output_tokens=step.max_output_tokens,
    )


def plan_of(step: Step, prompt: Prompt) -> Plan | None:
    """The step's marks as a plan to send; None without marks. Its token counts are not used and are 0."""
    if not step.marks:
        return None
    digests = prefix_digests(prompt)
    points = tuple(
        Breakpoint(position, prompt.blocks[position].layer, ttl_s, 0, digests[position], "probe", 0.0)
        for position, ttl_s in step.marks
    )
    nothing = TokenSplit()
    return Plan(Strategy.NONE, points, (), 0, nothing, nothing, nothing, 0.0, (), 0, 0)


def bound_nano_usd(step: Step, rendered: Rendered, price: Price) -> int:
    """The most the step can cost, whatever the provider makes of it."""
    ttls = {ttl_s for _, ttl_s in step.marks}
    return cost.upper_bound(
        price,
        input_tokens=sum(len(block.content) for block in rendered.prompt.blocks) + FRAME_TOKENS,
        max_output_tokens=step.max_output_tokens,
        write_5m=FIVE_MINUTES_S in ttls,
        write_1h=HOUR_S in ttls,
    )


def expected_nano_usd(
    experiment: Experiment, verdict: Verdict, rendered: Sequence[Rendered], price: Price
) -> int:
    """What one trial should cost if `verdict` is the truth; tokens are estimates.

    Args:
        rendered: The requests of `experiment.requests()`, in that order.
    """
    total, estimator = 0, TokenEstimator()
    for step, request in zip(experiment.requests(), rendered, strict=True):
        counts = estimator.cumulative_tokens(request.prompt, request.model)
        total += cost.total_nano_usd(_usage(step, step.expects[verdict], counts), price)
    return total


def _usage(step: Step, seen: Seen, counts: Sequence[int]) -> Usage:
    if seen is Seen.REFUSED:
        return Usage(input_tokens=0)
    hit = 0
    if seen is Seen.READ:
        hit = counts[step.marks[-1][0]]
    elif seen is Seen.PARTLY:
        hit = counts[step.partly_to]
    split = bill(counts[-1], [(counts[position], ttl_s) for position, ttl_s in step.marks], hit)
    return Usage(
        input_tokens=counts[-1],
        cache_read_tokens=split.read,
        cache_write_5m_tokens=split.write_5m,
        cache_write_1h_tokens=split.write_1h,
        output_tokens=step.max_output_tokens,
    )
