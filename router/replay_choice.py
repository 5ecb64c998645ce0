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
    foresight: bool = False

    @property
    def name(self) -> str:
        """As figures, tables and saved reports call it."""
        name = self.policy.value if self.warm is Warm.OFF else f"{self.policy.value} + {self.warm.value}"
        return f"{name} + foresight" if self.foresight else name


_FEMTO_PER_USD = 10**15

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


STRATEGIES = (
    Warm.OFF,
    Warm.SESSION_START,
    Warm.KEEP_ALIVE,
    Warm.PREDICTIVE,
    Warm.SHARED,
    Warm.FOUR_MINUTES,
    Warm.AUTO,
)
"""Every way to warm, in the order of the document's chapters."""
_AHEAD = (Warm.SESSION_START, Warm.PREDICTIVE)
_FORESEEING = (Warm.PREDICTIVE, Warm.AUTO)
_WHOLE = (Policy.TTL_5M, Policy.TTL_1H)


def runs_of(
    policy: Sequence[Policy] | None,
    warm: Sequence[Warm] | None,
    table: bool,
    *,
    strategies: bool = False,
    foresight: bool = False,
) -> list[Chosen]:
    """Every policy with every way to warm, or the table's rows.

    Args:
        strategies: Take every way to warm.
        foresight: Replay each way that a foresight has a part in once more, with it.

    Raises:
        ValueError: What does not go together.
    """
    if table:
        if policy or warm or strategies or foresight:
            raise ValueError(
                "--table has its own policies; leave out --policy, --warm, --strategies and foresights"
            )
        return list(TABLE)
    if strategies and warm:
        raise ValueError("--strategies is every --warm there is; leave one of them out")
    warms = list(STRATEGIES) if strategies else list(warm or [Warm.OFF])
    chosen = [Chosen(each, how) for each in policy or [Policy.AUTO] for how in warms]
    for each, how, _ in chosen:
        _compatible(each, how)
    if not foresight:
        return list(dict.fromkeys(chosen))
    if not any(how in _FORESEEING for how in warms):
        raise ValueError(
            "a foresight has a part in --warm auto and --warm predictive alone; give one of them"
        )
    return [
        run
        for each in dict.fromkeys(chosen)
        for run in ([each, each._replace(foresight=True)] if each.warm in _FORESEEING else [each])
    ]


def _compatible(policy: Policy, warm: Warm) -> None:
    if warm in (Warm.SHARED, Warm.FOUR_MINUTES) and policy in _WHOLE:
        raise ValueError(f"--warm {warm.value} goes with a policy that marks shared layers: auto, a, b or c")
    if warm in _AHEAD and policy in (*_WHOLE, Policy.NONE):
        raise ValueError(f"--warm {warm.value} goes with a policy that plans what to read: auto, a, b or c")


def with_facts(
    settings: Settings,
    price: Price | None,
    told: list[str],
    hold_out: float,
    judged: bool,
    upgrade_ping: bool,
    *,
    second_usd: float = 0.0,
    actions: Sequence[str] | None = None,
    score: float = 0.2,
) -> Settings:
    """What is taken of the open facts, and what follows for warms.

    Raises:
        ValueError: `told` is no fact that a replay depends on, or no answer to it; or a second has a value and tokens
            have none.
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
    rate, second_units = 5.0, 0.0
    if price is not None:
        input_femto, *_, output_femto = price.femto_usd
        rate, second_units = output_femto / input_femto, second_usd * _FEMTO_PER_USD / input_femto
    elif second_usd:
        raise ValueError("--second-usd needs the price of tokens: give --model, and no rates of your own")
    warming = WarmSettings(
        hold_out=hold_out,
        judged=judged,
        upgrades=upgrade_ping and facts.upgrade_ping_verified,
        output_tokens=facts.warm_output_tokens,
        output_rate=rate,
        second_units=second_units,
        prefill_s_per_token=facts.prefill_s_per_token,
        actions=None if actions is None else frozenset(actions),
        score=score,
    )
    return settings._replace(facts=facts, warming=warming)
