"""What the model answers: a value computed from the request, before anything is sent.

Rule: the same request to the same model under the same seed gives the same answer; a scripted reply or a
directive replaces what they name. Token budgets hold: thinking and content together never exceed
`max_tokens`. It does not know either provider's wire format. The prose means nothing; it only has a
plausible shape and length.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Any

from router.sandbox import schema as json_schema
from router.sandbox.directives import Directive
from router.sandbox.settings import SandboxSettings
from router.sandbox.tokens import Family, count, truncate
from router.sandbox.wire import encode

_SUBJECTS = (
    "the plan,this change,the second option,a smaller batch,the current design,the report,that approach"
)
_VERBS = "depends on,reduces,explains,improves,limits,follows from,is consistent with,should come before"
_OBJECTS = (
    "the measured load,the earlier result,a clear budget,the customer's data,most failures,the deadline"
)
_TAILS = (
    ",in practice,as the figures show,for small teams,under normal traffic,when the input grows,by design"
)
_PARTS = tuple(tuple(s.split(",")) for s in (_SUBJECTS, _VERBS, _OBJECTS, _TAILS))

_THINK = {  # effort -> (chance that an adaptive model thinks, typical thinking tokens)
    "minimal": (0.1, 30),
    "low": (0.35, 80),
    "medium": (0.6, 200),
    "high": (0.85, 500),
    "xhigh": (0.95, 1_000),
    "max": (1.0, 2_000),
}


@dataclass(frozen=True, slots=True)
class Text:
    """A text block."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; `args_json` is the compact JSON of its arguments."""

    name: str
    args: dict[str, Any]

    @property
    def args_json(self) -> str:
        """The arguments as they are streamed."""
        return encode(self.args).decode()


Part = Text | Call


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedReply:
    """An answer a test dictates; consumed first in, first out by requests to `upstream` (None: either).

    `stop` is the provider's own word and overrides the natural one; `thinking_tokens` None leaves it to the
    model.
    """

    parts: tuple[Part, ...] = ()
    thinking_tokens: int | None = None
    stop: str | None = None
    upstream: str | None = None


class Script:
    """The queue of dictated answers."""

    def __init__(self) -> None:
        self._queue: deque[ScriptedReply] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, reply: ScriptedReply) -> None:
        """Append a dictated answer."""
        self._queue.append(reply)

    def take(self, upstream: str) -> ScriptedReply | None:
        """Consume the first answer meant for this upstream."""
        for reply in self._queue:
            if reply.upstream in (None, upstream):
                self._queue.remove(reply)
                return reply
        return None

    def clear(self) -> None:
        """Forget every dictated answer."""
        self._queue.clear()


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool on offer: its name and the JSON Schema of its arguments."""

    name: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the answer depends on, in no provider's words.

    Args:
        digest: of the model and the whole canonical prompt.
        choice: "auto", "none", "any", or the name of the one tool to call.
        tool_rounds: tool rounds since the last ordinary user turn; above zero after a tool result.
        max_tokens: budget for thinking and content together.
        effort: key of the thinking table, or None when the model does not think on this request.
        thinking_budget: upper bound of thinking tokens.
        schema: the answer must be JSON for this schema; None is prose.
        prelude: prose may precede a tool call.
        room_bound: `max_tokens` is what the context window leaves, not what was asked for.
    """

    digest: bytes
    family: Family
    last_text: str
    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    tool_rounds: int = 0
    max_tokens: int
    stop_sequences: tuple[str, ...] = ()
    effort: str | None = None
    always_thinks: bool = False
    thinking_budget: int | None = None
    schema: dict[str, Any] | None = None
    prelude: bool = True
    room_bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The whole answer. `stop` is "end", "tool", "max_tokens", "stop_sequence" or a provider word asked for.

    `output_tokens` includes `thinking_tokens`.
    """

    parts: tuple[Part, ...]
    thinking_tokens: int
    thinking_text: str
    output_tokens: int
    stop: str
    stop_sequence: str | None = None
    rng: Random = field(repr=False, compare=False)


def part_tokens(family: Family, part: Part) -> int:
    """Output tokens of one part: its text, or the name and the JSON arguments of a call."""
    match part:
        case Text(text):
            return count(family, text)
        case Call():
            return count(family, part.name) + count(family, part.args_json)


def compose(
    ask: Ask, directive: Directive, scripted: ScriptedReply | None, settings: SandboxSettings
) -> Reply:
    """Decide the whole answer to one request."""
    seed = hashlib.blake2b(
        ask.digest, digest_size=8, key=settings.seed.to_bytes(8, "big", signed=True)
    ).digest()
    rng = Random(int.from_bytes(seed, "big"))
    thinking = min(_thinking_tokens(ask, directive, scripted, rng), ask.max_tokens)
    parts = _parts(ask, directive, scripted, rng, settings)
    kept, stop, sequence = _within(ask, parts, ask.max_tokens - thinking)
    if stop == "max_tokens" and ask.room_bound:
        stop = "model_context_window_exceeded"
    dictated = directive.stop or (scripted.stop if scripted else None)
    return Reply(
        parts=kept,
        thinking_tokens=thinking,
        thinking_text=_prose(rng, ask.family, max(1, thinking // 4)) if thinking else "",
        output_tokens=thinking + sum(part_tokens(ask.family, p) for p in kept),
        stop=dictated or stop,
        stop_sequence=None if dictated else sequence,
        rng=rng,
    )


def _thinking_tokens(ask: Ask, directive: Directive, scripted: ScriptedReply | None, rng: Random) -> int:
    if ask.effort is None:
        return 0
    if directive.thinking is not None:
        return directive.thinking
    if scripted is not None and scripted.thinking_tokens is not None:
        return scripted.thinking_tokens
    chance, typical = _THINK[ask.effort]
    if not ask.always_thinks and rng.random() >= chance:
        return 0
    tokens = int(typical * rng.uniform(0.4, 1.8))
    bounds = [ask.max_tokens // 2, *([ask.thinking_budget] if ask.thinking_budget is not None else [])]
    return max(0, min(tokens, *bounds))


def _parts(
    ask: Ask, directive: Directive, scripted: ScriptedReply | None, rng: Random, settings: SandboxSettings
) -> tuple[Part, ...]:
    if directive.shapes_reply:
        said: tuple[Part, ...] = (Text(directive.say),) if directive.say else ()
        return said + tuple(_dictated_call(ask, name, args, rng) for name, args in directive.calls)
    if directive.tokens is not None:
        return (Text(_prose(rng, ask.family, directive.tokens, exact=True)),)
    if directive.stop is not None:
        return ()
    if scripted is not None and (scripted.parts or scripted.stop is not None):
        return scripted.parts
    names = _tools_to_call(ask, rng, settings)
    if names:
        calls = tuple(Call(t.name, _arguments(t, rng)) for t in names)
        prelude = ask.prelude and rng.random() < 0.4
        return (Text(_prose(rng, ask.family, 12)), *calls) if prelude else calls
    if ask.schema is not None:
        return (Text(encode(json_schema.sample(ask.schema, rng)).decode()),)
    return (Text(_prose(rng, ask.family, _length(ask, rng))),)


def _dictated_call(ask: Ask, name: str, args: dict[str, Any] | None, rng: Random) -> Call:
    if args is not None:
        return Call(name, args)
    tool = next((t for t in ask.tools if t.name == name), Tool(name, {"type": "object"}))
    return Call(name, _arguments(tool, rng))


def _tools_to_call(ask: Ask, rng: Random, settings: SandboxSettings) -> tuple[Tool, ...]:
    if not ask.tools or ask.choice == "none":
        return ()
    if ask.choice == "auto":
        if ask.tool_rounds >= settings.max_tool_rounds:
            return ()
        chance = settings.tool_call_chance / (2 if ask.tool_rounds else 1)
        if rng.random() >= chance:
            return ()
    named = tuple(t for t in ask.tools if t.name == ask.choice)
    if named:
        return named
    first = rng.choice(ask.tools)
    if ask.parallel and rng.random() < 0.2:
        return first, rng.choice(ask.tools)
    return (first,)


def _arguments(tool: Tool, rng: Random) -> dict[str, Any]:
    value = json_schema.sample({"type": "object", **tool.schema}, rng)
    return value if isinstance(value, dict) else {}


def _length(ask: Ask, rng: Random) -> int:
    asked = count(ask.family, ask.last_text[-4_000:])
    return max(4, int(min(600, 30 + 2.5 * asked) * rng.lognormvariate(0.0, 0.45)))


def _prose(rng: Random, family: Family, tokens: int, *, exact: bool = False) -> str:
    """Sentences of about `tokens` tokens (whole sentences), or of exactly that many."""
    out: list[str] = []
    total = 0
    while total < tokens:
        subject, verb, thing, tail = (rng.choice(words) for words in _PARTS)
        sentence = f"{subject.capitalize()} {verb} {thing}{' ' + tail if tail else ''}."
        cost = count(family, sentence)
        if out and not exact and total + cost > tokens * 1.2:
            break
        out.append(sentence)
        total += cost
    text = " ".join(out)
    return truncate(family, text, tokens) if exact else text


def _within(ask: Ask, parts: tuple[Part, ...], budget: int) -> tuple[tuple[Part, ...], str, str | None]:
    """Cut the parts at the first stop sequence and at the token budget."""
    kept: list[Part] = []
    for part in parts:
        hit = _stop_hit(part, ask.stop_sequences)
        if isinstance(part, Text) and hit is not None:
            part = Text(part.text[: part.text.index(hit)])
        cost = part_tokens(ask.family, part)
        if cost > budget:
            if isinstance(part, Text) and budget > 0:
                kept.append(Text(truncate(ask.family, part.text, budget)))
            return tuple(kept), "max_tokens", None
        if not (isinstance(part, Text) and not part.text.strip()):
            kept.append(part)
        budget -= cost
        if hit is not None:
            return tuple(kept), "stop_sequence", hit
    if budget <= 0 and not kept:
        return (), "max_tokens", None
    return tuple(kept), "tool" if any(isinstance(p, Call) for p in kept) else "end", None


def _stop_hit(part: Part, sequences: tuple[str, ...]) -> str | None:
    if not sequences or not isinstance(part, Text):
        return None
    found = [(part.text.index(s), s) for s in sequences if s in part.text]
    return min(found)[1] if found else None
