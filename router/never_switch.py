"""What a request would have cost had its session stayed on the route it began on.

The rule: computed at settlement from what is known then, or not at all. A session begins on the route its first request
was first sent to. While it is there, staying is what it does: the counterfactual is the cost. Away from it,

    begun on Flash   an answer of Opus would have cost what the same call costs on Flash, whose implicit cache promises
                     nothing and is taken as it was;
    begun on Opus    an answer of Flash would have cost what it costs on Opus, where the cache would have held what the
                     session's last request left there: Opus's deepest breakpoint of that request, if it is a prefix of
                     this one, a breakpoint of this one's plan reaches it and its TTL has not run out. Beyond that, what
                     is believed of the provider's cache now. The first answer of Opus after a detour is reckoned alike:
                     what the detour let lapse would have been read.

Of two attempts that answered one request, a session on one route would have made one: an answer of Flash that was
discarded costs a session of Opus nothing, and the answer of Opus in its place a session of Flash nothing.

It is not known, and None, where the conversation began is not: a request with answers in its history whose session
this process has not seen from the start (it named none, it began before this process did, it was forgotten). It does
not know how a session would have gone on had it been answered otherwise.
"""

from typing import NamedTuple

from cache.economics import TokenSplit, bill
from cache.lookback import reaches
from cache.rules import rules_for
from router.beliefs import CacheView
from router.call import Call, Role
from router.usage import Usage


class Left(NamedTuple):
    """What a session's last request would have left in Opus's cache, had Opus answered it.

    Attributes:
        digest: Of the prefix ending at the deepest breakpoint planned, b"" for none.
        ttl_s: Of that breakpoint.
        asked_s: When that request was decided, seconds since the epoch.
    """

    digest: bytes
    ttl_s: int
    asked_s: float


def is_first(call: Call) -> bool:
    """Whether a conversation begins with this call: nothing was answered before."""
    # From the end, where the last answer stands if there is any.
    return not any(message.role is Role.ASSISTANT for message in reversed(call.messages))


def left_by(view: CacheView | None, asked_s: float) -> Left:
    """What a request leaves whose view of Opus this is."""
    if view is None or not view.plan.breakpoints:
        return Left(b"", 0, asked_s)
    deepest = view.plan.breakpoints[-1]
    return Left(deepest.digest, deepest.ttl_s, asked_s)


def would_be_read(view: CacheView, left: Left, asked_s: float) -> TokenSplit | None:
    """How Opus would bill a prompt whose session's last request left `left`; None when it would find nothing of it.

    Args:
        asked_s: When the request was decided.

    Returns:
        In the view's estimated tokens.
    """
    # The same instant is another attempt of the same request, which leaves itself nothing.
    if not left.digest or not 0 < asked_s - left.asked_s < left.ttl_s or left.digest not in view.digests:
        return None
    position, blocks = view.digests.index(left.digest), view.prompt.blocks
    rules = rules_for(view.scope.model)
    marks = view.plan.breakpoints
    if not any(reaches(blocks, position, mark.position, rules) for mark in marks):
        return None
    # Where prefixes are counted and the whole is estimated, a prefix may be more than the whole it is a part of.
    total = max(view.plan.total_tokens, view.counts[position], *(mark.prefix_tokens for mark in marks))
    found = bill(total, [(mark.prefix_tokens, mark.ttl_s) for mark in marks], view.counts[position])
    return found if found.read > view.plan.expected.read else None


def as_billed(split: TokenSplit, usage: Usage) -> TokenSplit | None:
    """Put a split of estimated tokens into those that were billed; None when no more would be read than was."""
    scale = usage.input_tokens / split.total
    read = round(split.read * scale)
    if read <= usage.cache_read_tokens:
        return None
    write_5m, write_1h = round(split.write_5m * scale), round(split.write_1h * scale)
    rest = usage.input_tokens - read - write_5m - write_1h
    # Rounding may give a token or two more than there are.
    return TokenSplit(read + min(rest, 0), write_5m, write_1h, max(rest, 0))
