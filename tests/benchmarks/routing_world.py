"""Conversations of persistent difficulty, served by the real decision path over the sandbox on a virtual clock.

The rule: the world is fixed before anybody decides (arrivals, texts, the true chance that Opus is needed), so two
policies are compared turn by turn. The score is that true chance: what is measured is the decision, not the classifier.
Everything between is the product: preparation, planner, beliefs, policy, dispatch, the providers' SDKs, the sandbox's
bill, settlement. A conversation goes on with the same answers whichever route gave them.

Sizes and gaps follow the reference workload: 77 % of gaps under 5 minutes, 20 % of 5 to 60, 3 % longer; one turn in
five pastes a document or a tool's output.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from math import exp, log
from typing import Any, NamedTuple

from cache.plan import Strategy
from classifier.policy import PolicySettings
from classifier.route import Route, Score
from router.applications import NO_APPLICATION
from router.attempts import RetryLimits
from router.call import Call, Identity, Message, Role
from router.deadline import Deadline
from router.dispatch import Dispatch, Life
from router.request import Demands, Request
from router.returns import Returns
from router.sandbox import SandboxSettings
from tests.router.rig import START_TIME_S, Rig, rigged, said

CHARACTERS_PER_TOKEN = 4
_WORDS = "the record names an owner a period and an amount which the next line sets against the plan "
SHARED = ("Answer from the records you are shown and name the record for every figure. " * 210,)
"""System prompt of about 4,000 tokens, the same for all."""


class Turn(NamedTuple):
    """One turn of the world.

    Attributes:
        need: True chance in [0, 1] that Opus is needed; what the policy sees as the score.
    """

    session: int
    number: int
    at_s: float
    need: float
    question: str
    answer: str


class Result(NamedTuple):
    """What one policy made of the world: nano-USD and realised benefit per session, and counts."""

    cost: list[int]
    benefit: list[float]
    turns: int
    opus: int
    switches: int


@dataclass(frozen=True)
class Rule:
    """One policy: a value per needed answer, or a fixed threshold."""

    value_usd: float | None = None
    threshold: float = 0.5
    index: bool = True
    """Whether what Opus leaves warm counts (G); only with a value."""
    inversion: bool = True


def world(session_count: int, seed: int, *, mean_turns: float = 7.0) -> list[Turn]:
    """Turns of so many conversations, in the order of their time."""
    rng, turns = random.Random(seed), []
    at_s = 0.0
    for session in range(session_count):
        at_s += rng.expovariate(1 / 45.0)
        difficulty = min(0.97, max(0.03, rng.betavariate(0.7, 1.6)))
        now_s, number = at_s, 0
        while True:
            need = _sigmoid(log(difficulty / (1 - difficulty)) + rng.gauss(0, 0.8))
            long = rng.random() < 0.2
            turns.append(
                Turn(
                    session,
                    number,
                    now_s,
                    need,
                    _text(f"S{session} turn {number}: ", rng.lognormvariate(7.6 if long else 5.5, 0.6)),
                    _text(f"A{session} of {number}: ", rng.lognormvariate(6.0, 0.4)),
                )
            )
            number += 1
            if rng.random() < 1 / mean_turns:
                break
            now_s += _gap_s(rng)
    return sorted(turns, key=lambda turn: turn.at_s)


def _gap_s(rng: random.Random) -> float:
    kind = rng.random()
    if kind < 0.77:
        return 10 + min(280.0, rng.expovariate(1 / 70.0))
    return rng.uniform(300, 3_600) if kind < 0.97 else rng.uniform(3_600, 20_000)


def _text(head: str, tokens: float) -> str:
    size = round(min(12_000.0, tokens) * CHARACTERS_PER_TOKEN)
    return (head + _WORDS * (size // len(_WORDS) + 1))[: max(size, len(head))]


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


class Truth:
    """Stands in for a classifier that is never wrong about the chance; told before each turn what it is."""

    def __init__(self) -> None:
        self.need = 0.0

    def score(self, sample: object) -> Score:
        """The true chance of the turn."""
        return Score(value=self.need, raw=0.0, model_digest="truth")

    def judge(self, sample: object, embedding: object = None) -> tuple[Score, Any]:
        """The same, for callers that keep the features too."""
        return self.score(sample), None


def serve(turns: list[Turn], rule: Rule) -> Result:
    """Serve the world under one policy."""
    return asyncio.run(_serve(turns, rule))


async def _serve(turns: list[Turn], rule: Rule) -> Result:
    truth = Truth()
    value = None if rule.value_usd is None else round(rule.value_usd * 1e9)
    policy = PolicySettings(
        threshold=rule.threshold, answer_value_nano_usd=value, follow_cost_inversion=rule.inversion
    )
    limit = 4 * len(turns) + 1_000
    count = 1 + max(turn.session for turn in turns)
    result = Result([0] * count, [0.0] * count, len(turns), 0, 0)
    opus = switches = 0
    last: dict[int, Route] = {}
    histories: dict[int, tuple[Message, ...]] = {}
    async with rigged(
        sandbox_settings=SandboxSettings(tool_call_chance=0.0),
        policy=policy,
        strategy=Strategy.AUTO,
        model=lambda: truth,  # type: ignore[arg-type,return-value]
        returns=Returns(limit) if value is not None and rule.index else None,
        limit=limit,
    ) as rig:
        dispatch = _dispatch(rig)
        for index, turn in enumerate(turns):
            rig.clock.advance(max(0.0, START_TIME_S + turn.at_s - rig.clock.now()))
            truth.need = turn.need
            messages = (*histories.get(turn.session, ()), said(turn.question))
            life = Life(dispatch.prepare(_request(index, turn, messages)))
            now_s = asyncio.get_running_loop().time()
            answered = await dispatch.generate(life, Deadline(at_s=now_s + 60), "")
            histories[turn.session] = (*messages, said(turn.answer, Role.ASSISTANT))
            cost = answered.bill.total_nano_usd
            assert cost is not None
            result.cost[turn.session] += cost
            if answered.route is Route.OPUS:
                opus += 1
                result.benefit[turn.session] += turn.need
            switches += last.get(turn.session, answered.route) is not answered.route
            last[turn.session] = answered.route
    return result._replace(opus=opus, switches=switches)


def _dispatch(rig: Rig) -> Dispatch:
    return Dispatch(
        preparation=rig.preparation,
        settler=rig.settler,
        limits=RetryLimits(retry_limit=0, wait_limit_s=0.0),
        draw=lambda: 0.0,
    )


def _request(index: int, turn: Turn, messages: tuple[Message, ...]) -> Request:
    return Request(
        call=Call(
            identity=Identity(request_id=f"r-{index}", tenant="acme", session=f"s-{turn.session}"),
            system=SHARED,
            messages=messages,
            max_output_tokens=600,
        ),
        application=NO_APPLICATION,
        demands=Demands(),
    )
