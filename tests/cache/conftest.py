"""Prompts in tokens, a provider written from the documented rules alone, and a driver that joins it to the
planner.

The reference provider shares no code with `cache`: its keys are the blocks themselves, its lookback groups
runs with itertools, its bill is the A/B/C rule spelled out. What the planner believes is judged by what this
provider bills.
"""

from dataclasses import dataclass, field
from itertools import groupby

import pytest

from cache.economics import Rates
from cache.index import PrefixIndex
from cache.plan import Strategy, plan
from cache.prefix import prefix_digests
from cache.prompt import Block, BlockKind, CacheScope, Layer, Prompt
from cache.rules import rules_for
from cache.tokens import TokenEstimator


def block(layer, content, tokens=None, *, kind=None, role="user", markable=True):
    """One block; tools and system carry no role."""
    level = layer in (Layer.TOOLS, Layer.SYSTEM)
    kind = kind or (BlockKind.TOOL if layer is Layer.TOOLS else BlockKind.TEXT)
    content = content if isinstance(content, bytes) else content.encode()
    return Block(layer, kind, content, "" if level else role, markable, tokens)


def saas(user="ann", turns=1, *, tools=500, system=1500, context=500, query=500, answer=800, version=""):
    """The SaaS prompt of the strategy document: shared tools and system, a user's context, a conversation."""
    blocks = []
    if tools:
        blocks.append(block(Layer.TOOLS, f"tools{version}", tools))
    if system:
        blocks.append(block(Layer.SYSTEM, f"system{version}", system))
    if context:
        blocks.append(block(Layer.CONTEXT, f"profile of {user}", context))
    for turn in range(1, turns):
        blocks.append(block(Layer.HISTORY, f"{user} asks {turn}", query))
        blocks.append(block(Layer.HISTORY, f"answer {turn} to {user}", answer, role="assistant"))
    blocks.append(block(Layer.TURN, f"{user} asks {turns}", query))
    return Prompt(tuple(blocks))


@dataclass
class Usage:
    read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    uncached: int = 0


@dataclass
class ReferenceProvider:
    """Prompt caching as the provider documents it; a tool of the tests, not of the product."""

    minimum: int
    first_byte_s: float = 1.0
    refreshes_shallower_marked: bool = True
    entries: dict = field(default_factory=dict)

    def send(self, prompt, marks, now):
        """Bill one request. `marks` maps block positions to TTLs in seconds."""
        assert len(marks) <= 4, "a maximum of 4 blocks with cache_control may be provided"
        ordered = sorted(marks)
        ttls = [marks[position] for position in ordered]
        assert ttls == sorted(ttls, reverse=True), "a 1h block must not come after a 5m block"
        assert all(prompt.blocks[position].markable for position in ordered)
        names = [(b.role, b.kind, b.content) for b in prompt.blocks]
        tokens, total = [], 0
        for b in prompt.blocks:
            total += b.token_count
            tokens.append(total)
        ordinals = []
        runs = groupby(
            enumerate(prompt.blocks),
            lambda item: item[1].kind if item[1].kind in ("tool_call", "tool_result") else item[0],
        )
        for number, (_, run) in enumerate(runs):
            ordinals += [number for _ in run]
        counted = [position for position in ordered if tokens[position] >= self.minimum]
        hit = self._hit(names, counted, ordinals, now)
        a = tokens[hit] if hit is not None else 0
        b = max([a] + [tokens[p] for p in counted if marks[p] == 3600])
        c = max([a] + [tokens[p] for p in counted])
        if hit is not None:
            touched = [hit]
            if self.refreshes_shallower_marked:
                touched += [p for p in counted if p < hit]
            for position in touched:
                entry = self.entries.get(tuple(names[: position + 1]))
                if entry and entry["expires"] > now:
                    entry["expires"] = now + entry["ttl"]
        for position in counted:
            if tokens[position] > a:
                self.entries[tuple(names[: position + 1])] = {
                    "ttl": marks[position],
                    "expires": now + marks[position],
                    "available": now + self.first_byte_s,
                }
        return Usage(a, c - b, b - a, total - max(a, c))

    def _hit(self, names, counted, ordinals, now):
        for mark in reversed(counted):
            for position in range(mark, -1, -1):
                if ordinals[mark] - ordinals[position] >= 20:
                    break
                entry = self.entries.get(tuple(names[: position + 1]))
                if entry and entry["available"] <= now < entry["expires"]:
                    return position
        return None


class Driver:
    """Plans, sends to the reference provider and lets the index learn, on one model."""

    def __init__(self, model="claude-opus-5-5", *, read=0.05, index=None):
        self.rules = rules_for(model)
        self.rates = Rates(1.25, 2.0, read)
        self.scope = CacheScope("anthropic", "workspace", self.rules.model)
        self.provider = ReferenceProvider(self.rules.minimum_tokens)
        self.index = PrefixIndex() if index is None else index
        self.estimator = TokenEstimator()

    def plan(self, prompt, now, strategy=Strategy.AUTO, **kwargs):
        digests = prefix_digests(prompt)
        counts = self.estimator.cumulative_tokens(prompt, self.rules.model)
        beliefs = self.index.belief(self.scope, digests)
        return plan(
            prompt,
            digests,
            counts,
            beliefs,
            rules=self.rules,
            rates=self.rates,
            strategy=strategy,
            now=now,
            **kwargs,
        )

    def call(self, prompt, now, strategy=Strategy.AUTO, **kwargs):
        """One request's whole life; returns (plan, usage, learned)."""
        planned = self.plan(prompt, now, strategy, **kwargs)
        marks = {point.position: point.ttl_s for point in planned.breakpoints}
        self.index.begin(self.scope, planned, now)
        usage = self.provider.send(prompt, marks, now)
        learned = self.observe(prompt, planned, usage, now)
        return planned, usage, learned

    def observe(self, prompt, planned, usage, now):
        return self.index.observe(
            self.scope,
            prefix_digests(prompt),
            self.estimator.cumulative_tokens(prompt, self.rules.model),
            planned,
            started=now,
            first_byte_at=now + self.provider.first_byte_s,
            read_tokens=usage.read,
            write_5m_tokens=usage.write_5m,
            write_1h_tokens=usage.write_1h,
        )


@pytest.fixture(name="block")
def block_builder():
    return block


@pytest.fixture(name="saas", scope="session")
def saas_builder():
    return saas


@pytest.fixture
def driver():
    """Opus 5.5: minimum 512, read 0.05."""
    return Driver()


@pytest.fixture(scope="session")
def driver_for():
    return Driver
