"""What a replay is asked to compare: policies with what they keep warm, and the rows of the document's monthly table.

The rule: each run is one way to set breakpoints and one way to warm. What an open fact is taken to be holds for planner
and provider alike. It reads nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cache.facts import Answer, FactId, Verdict, facts_for
from router.pricing import Price
from router.replay import Policy, Settings
from router.replay_warming import Warm, WarmSettings


class Chosen(NamedTuple):
    """One replay: how breakpoints are chosen, and what is warmed."""

    policy: Policy
    warm: Warm

    @property
    def name(self) -> str:
        return self.policy.value if self.warm is Warm.OFF else f"{self.policy.value} + {self.warm.value}"


TABLE = (
    Chosen(Policy.NONE, Warm.OFF),
    Chosen(Policy.A, Warm.OFF),
    Chosen(Policy.B, Warm.OFF),
    Chosen(Policy.C, Warm.OFF),
    Chosen(Policy.C, Warm.FOUR_MINUTES),
    Chosen(Policy.AUTO, Warm.OFF),
    Chosen(Policy.AUTO, Warm.AUTO),
)
FEATURES = (
    ("marks on shared and user layers (B)", "none", "b"),
    ("a mark of its own for the tools (A)", "b", "a"),
    ("a mark on the history (C)", "a", "c"),
    ("the document's pinger every four minutes", "c", "c + four_minutes"),
    ("the last message, and TTLs by value (auto)", "c", "auto"),
    ("keep-alives where they pay (auto)", "auto", "auto + auto"),
)
"""What each step of the table adds, between two of its rows."""


def runs_of(policy: Sequence[Policy] | None, warm: Sequence[Warm] | None, table: bool) -> list[Chosen]:
    """Every policy with every way to warm, or the table's rows.

    Raises:
        ValueError: What does not go together, or needs what no trace tells.
    """
    if table:
        if policy or warm:
            raise ValueError("--table has its own policies; leave out --policy and --warm")
        return list(TABLE)
    chosen = [Chosen(each, how) for each in policy or [Policy.AUTO] for how in warm or [Warm.OFF]]
    for each, how in chosen:
        if how in (Warm.SESSION_START, Warm.PREDICTIVE):
            raise ValueError(
                f"--warm {how.value}: a trace does not tell when sessions are opened nor what users do before they ask"
            )
        if how in (Warm.SHARED, Warm.FOUR_MINUTES) and each in (Policy.TTL_5M, Policy.TTL_1H):
            raise ValueError(
                f"--warm {how.value} goes with a policy that marks shared layers: auto, a, b or c"
            )
    return list(dict.fromkeys(chosen))


def with_facts(
    settings: Settings,
    price: Price | None,
    told: list[str],
    hold_out: float,
    judged: bool,
    upgrade_ping: bool,
) -> Settings:
    """What is taken of the open facts, and what follows for warms.

    Raises:
        ValueError: `told` is no fact that a replay depends on, or no answer to it.
    """
    facts = settings.facts
    for each in told:
        name, _, verdict = each.partition("=")
        try:
            answer = Answer(FactId(name.upper()), settings.model, Verdict(verdict.lower()), 0.0, True)
            if answer.fact not in (FactId.A2, FactId.A6):
                raise ValueError("a replay depends on A2 and A6 alone")
            facts = facts_for(settings.model, [answer], now_s=0.0, age_limit_s=1.0, assumed=facts).facts
        except ValueError as error:
            raise ValueError(
                f"--fact: {each!r} is no open fact with its answer, such as A2=yes ({error})"
            ) from None
    rate = 5.0
    if price is not None:
        input_femto, *_, output_femto = price.femto_usd
        rate = output_femto / input_femto
    warming = WarmSettings(
        hold_out=hold_out,
        judged=judged,
        upgrades=upgrade_ping and facts.upgrade_ping_verified,
        output_tokens=facts.warm_output_tokens,
        output_rate=rate,
    )
    return settings._replace(facts=facts, warming=warming)
