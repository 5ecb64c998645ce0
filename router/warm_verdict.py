"""What one decision to warm came to, as the ledger keeps it: what was expected, what it cost, what it brought.

The rule: one verdict per decision, told once, when it is settled; a decision held out at random has one as well,
without a call. Money is in nano-USD, rounded once, here. No text and no digest of any prompt: an owner, a trigger,
times and amounts. This module does not know how a decision is settled (`cache.regret`), nor where a verdict goes.
"""

import msgspec

from cache.regret import Result, Settled


class WarmVerdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One decision to warm, settled.

    Attributes:
        warm_id: Request id of the warm's call, or a name of its own where it was held out.
        tenant: "" where it was kept for all of an application's.
        trigger: As `cache.schedule.Trigger`.
        policy: As `cache.schedule.Policy`, at the decision.
        decided_time_s: When it was decided, seconds since the epoch.
        from_time_s: From when on a request would have found the prefix gone without it.
        until_time_s: End of what the warm buys.
        settled_time_s: When it was known what came of it.
        result: As `cache.regret.Result`.
        came: Whether a request came in the window.
        gain_nano_usd: Predicted: what a request in the window saves if it reads all of it.
        cost_nano_usd: What the warm cost; 0 when held out.
        benefit_nano_usd: Of a warm: predicted loss without it, less the actual one and its cost. Of one held out:
            actual loss less the predicted one.
        benefit_s: The same in seconds to the first token; a warm costs none.
        foresight: Digest of the model that foresaw the request, "" where none did.
    """

    warm_id: str
    tenant: str
    application: str
    trigger: str
    policy: str
    decided_time_s: float
    from_time_s: float
    until_time_s: float
    settled_time_s: float
    result: Result
    came: bool
    gain_nano_usd: int
    cost_nano_usd: int
    benefit_nano_usd: int
    benefit_s: float
    foresight: str = ""


def verdict_of(settled: Settled, policy: str) -> WarmVerdict:
    """Spell a settled decision for the ledger."""
    tenant, application = settled.owner
    return WarmVerdict(
        warm_id=settled.name,
        tenant=tenant,
        application=application,
        trigger=settled.trigger,
        policy=policy,
        decided_time_s=settled.decided_s,
        from_time_s=settled.time_s,
        until_time_s=settled.until_s,
        settled_time_s=settled.settled_s,
        result=settled.result,
        came=settled.came,
        gain_nano_usd=round(settled.gain_usd * 1e9),
        cost_nano_usd=round(settled.cost_usd * 1e9),
        benefit_nano_usd=round(settled.benefit_usd * 1e9),
        benefit_s=settled.benefit_s,
        foresight=settled.foresight,
    )
