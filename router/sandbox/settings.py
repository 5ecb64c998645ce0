"""Every knob of the sandbox, with its reason.

Rule: defaults describe an ordinary account on 2026-11-22; a knob exists where the vendor leaves a fact open
(named by its id in the README) or where a test needs the other world. Nothing here is read from the
environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Linear model of time: first token after `t0_s + kappa_s_per_token * uncached tokens`, then per token.

    Uncached tokens include the written ones. The figures are assumptions (fact A4 is to be measured).
    """

    t0_s: float
    kappa_s_per_token: float
    output_s_per_token: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Token-bucket limits of one model group, per minute. Cache reads do not count to input (A-RATE)."""

    requests: int = 1_000
    input_tokens: int = 2_000_000
    output_tokens: int = 400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """How this sandbox behaves.

    Args:
        seed: changes every answer, id and tool argument, deterministically. anthropic_keys: accepted API
        key to workspace id; None accepts any key into `wrkspc_sandbox`. gemini_keys: accepted API key to
        project id; None accepts any key into `projects/sandbox`. organization: reported as
        `anthropic-organization-id`. interim_usage: after a thinking block the stream reports cumulative
        usage, so that a reader can bill a cut
            stream exactly; False reports usage only at the end, as the vendor documents.
        latency_scale: 0 answers at once; 1 uses the latency models as they are. refresh: which entries a
        hit refreshes (fact A1): the one hit; also matching entries at marked positions;
            or every entry on the path.
        layered_entries: fact A2 in its pessimistic world: an entry written on top of a read prefix dies
        with the
            entries below it.
        hit_upgrades_ttl: fact A3: a 1h marker on a live 5m entry turns it into a 1h entry (unbilled; "billed": by
            writing it anew at the 1h price).
        unmarked_disturbs: fact A5: a request without markers that starts while another writes a prefix they share
            keeps that writer's entries from being stored.
        prewarm_with_adaptive: fact A6: `max_tokens: 0` is taken while adaptive thinking is on.
        thinking_level: where thinking and effort enter the key; None follows the model table.
        strict_thinking_replay: a tool turn must carry its thinking blocks back unedited (A-THINK).
        thinking_binding: organisation created on or after 2026-08-31: Opus 5.5 thinking blocks are bound to
        all
            that precedes them (A-THINK).
        rate_limits: shown in headers on every Anthropic answer.
        enforce_rate_limits: answer 429 when they are exceeded.
        max_tool_rounds: consecutive tool rounds after which an unscripted answer stops calling tools.
        tool_call_chance: chance of a tool call on a fresh user turn with tools; halved after a tool result.
        gemini_cache_s: how long an implicit Gemini entry lives, from the start of its request.
        gemini_implicit_cache: False switches Gemini's implicit caching off (it carries no guarantee).
    """

    seed: int = 0
    anthropic_keys: Mapping[str, str] | None = None
    gemini_keys: Mapping[str, str] | None = None
    organization: str = "org_sandbox"
    interim_usage: bool = True
    latency_scale: float = 0.0
    anthropic_latency: Latency = field(
        default=Latency(t0_s=0.8, kappa_s_per_token=40e-6, output_s_per_token=0.016)
    )
    gemini_latency: Latency = field(
        default=Latency(t0_s=0.35, kappa_s_per_token=6e-6, output_s_per_token=0.005)
    )
    refresh: Literal["hit", "marked", "all"] = "marked"
    layered_entries: bool = False
    hit_upgrades_ttl: bool | Literal["billed"] = False
    unmarked_disturbs: bool = False
    prewarm_with_adaptive: bool = True
    thinking_level: Literal["tools", "system", "messages"] | None = None
    strict_thinking_replay: bool = True
    thinking_binding: bool = False
    rate_limits: RateLimits = field(default=RateLimits())
    enforce_rate_limits: bool = False
    max_tool_rounds: int = 2
    tool_call_chance: float = 0.5
    gemini_cache_s: float = 300.0
    gemini_implicit_cache: bool = True
