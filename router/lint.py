"""What in the registered applications will miss the cache, found before a call is paid for.

The rule: pure, and only what the settings themselves prove. A word that tends to change stands in a layer that everyone
shares (`router.volatile`); shared layers are shorter than the model caches; two applications differ only in spelling
or order, and so share nothing; a strategy leaves the largest part uncached. Tokens are estimates, shown with `about`,
and a limit counts as missed only when the estimate's own error cannot explain it. A finding holds a key's path and at
most a matched word, never other text of a prompt. It does not know traffic: what is worth it there, the ledger says.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import takewhile

import msgspec

from cache.economics import Rates, pad_threshold
from cache.prompt import Layer, Prompt
from cache.rules import CacheRules, known_models, rules_for
from cache.tokens import TokenEstimator
from router.applications import Application
from router.call import Call, Identity, Message, Role, Text
from router.filler import opening
from router.upstreams.anthropic_models import traits_of
from router.upstreams.anthropic_render import Options, render
from router.volatile import Kind, Volatile, volatile_in

LONG_TOKENS = 4096
"""Shared layers from here on are long: what the strictest live model caches, so every one would."""
_EXAMPLE_KEYS = frozenset({"example", "examples", "enum", "const", "pattern", "format"})
"""Keys of a JSON Schema whose values are constants or examples by their meaning."""


class Severity(StrEnum):
    """How sure a finding is. What cannot be served at all is no finding: loading the settings refuses it."""

    WARNING = "warning"
    """It will miss, or waste what it was meant to save."""
    NOTE = "note"
    """It may, or it is worth knowing."""


class LintFinding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something to change, or to know.

    Attributes:
        rule: Stable name of the rule, for filters.
        path: Key in the settings, e.g. "applications.desk.system[0]".
        excerpt: The matched word, "" when the finding is about more than a word.
        why: Why it will miss.
        tokens: Tokens concerned, estimated: rewritten at each change, or uncached in each call.
        advice: What to do.
    """

    severity: Severity
    rule: str
    path: str
    excerpt: str = ""
    why: str
    tokens: int
    advice: str


class _Shared(msgspec.Struct, frozen=True):
    """The shared layers of an application as they are sent.

    Attributes:
        paths: Key in the settings of each block.
        blocks: What is sent for each.
        plain: The same without what does not change its meaning: spacing at line ends, order of schema keys.
        ends: Tokens up to and with each block.
        tool_count: How many of them are tools.
    """

    application: Application
    paths: tuple[str, ...]
    blocks: tuple[bytes, ...]
    plain: tuple[str, ...]
    ends: tuple[int, ...]
    tool_count: int

    @property
    def tokens(self) -> int:
        return self.ends[-1] if self.ends else 0

    def tokens_of(self, block_count: int) -> int:
        """Tokens of the first `block_count` blocks."""
        return self.ends[block_count - 1] if block_count else 0


def lint(
    applications: Sequence[Application],
    *,
    model: str,
    strategy: str,
    rates: Rates,
    filler: str = "",
    asked_to_pad: Collection[str] = (),
) -> tuple[LintFinding, ...]:
    """Check applications for what will miss on the Opus route; warnings first.

    Args:
        model: Model id of the Opus route.
        strategy: The service's strategy, for applications without their own.
        rates: Of that model.
        filler: The operator's padding text, "" for none.
        asked_to_pad: Applications whose settings say `pad = true`, not merely nothing.

    Raises:
        UnknownModel: `model` is not in the catalogue.
    """
    estimator, rules = TokenEstimator(), rules_for(model)
    error = estimator.uncertainty(model)
    shared = [_shared(application, model, estimator) for application in applications]
    found: list[LintFinding] = []
    for each in shared:
        found += _changing(each)
        found += _too_short(each, rules, rates, error, each.application.cache_strategy or strategy, filler)
        found += _strategy(each, rules, error, strategy)
    found += _changing_filler(filler)
    if filler:
        found += _filler_too_short(shared, filler, strategy, rules, rates, estimator)
    else:
        found += _no_filler([each for each in shared if each.application.name in asked_to_pad])
    found += _spelled_differently(shared, rules)
    return tuple(sorted(found, key=lambda finding: finding.severity is not Severity.WARNING))


def _shared(application: Application, model: str, estimator: TokenEstimator) -> _Shared:
    """Render the application as a call would and keep what everyone shares."""
    where = f"applications.{application.name}"
    call = Call(
        identity=Identity(request_id=""),
        tools=application.tools,
        system=application.system,
        messages=(Message(Role.USER, (Text("."),)),),
        max_output_tokens=1,
    )
    rendered = render(call, model, traits_of(model), Options()).prompt
    blocks = tuple(takewhile(lambda block: block.layer <= Layer.SYSTEM, rendered.blocks))
    tools = [
        json.dumps([tool.name, tool.description.strip(), _sorted(tool.input_schema_json)])
        for tool in application.tools
    ]
    system = ["\n".join(line.rstrip() for line in text.strip().splitlines()) for text in application.system]
    return _Shared(
        application,
        (
            *(f"{where}.tools[{index}]" for index in range(len(tools))),
            *(f"{where}.system[{index}]" for index in range(len(system))),
        ),
        tuple(block.content for block in blocks),
        (*tools, *system),
        estimator.cumulative_tokens(Prompt(blocks), model),
        len(tools),
    )


def _sorted(schema_json: str) -> str:
    """The schema with its keys in order; arrays keep theirs, which may mean something."""
    return json.dumps(json.loads(schema_json or "{}"), sort_keys=True)


# --- words that change


def _changing(shared: _Shared) -> Iterator[LintFinding]:
    application, tool_count = shared.application, shared.tool_count
    for index, tool in enumerate(application.tools):
        path = shared.paths[index]
        texts = {f"{path}.description": tool.description}
        texts |= {
            f"{path}.input_schema_json{pointer}": text for pointer, text in _strings(tool.input_schema_json)
        }
        for key, text in texts.items():
            for word in volatile_in(text):
                yield _changed(key, word, shared.tokens)
    before = shared.tokens_of(tool_count)
    for index, text in enumerate(application.system):
        for word in volatile_in(text):
            yield _changed(shared.paths[tool_count + index], word, shared.tokens - before)


def _changing_filler(filler: str) -> Iterator[LintFinding]:
    for word in volatile_in(filler):
        yield _changed("cache.filler_file", word, 0)


_WHY: Mapping[Kind, str] = {
    Kind.TIMESTAMP: "a timestamp differs each time it is written",
    Kind.DATE: "a date goes out of date, and each new one is a new prefix",
    Kind.TODAY: "what is said of today is wrong tomorrow, and each correction is a new prefix",
    Kind.PLACEHOLDER: "the router fills no placeholder: it is sent as it stands, or filled before with what may differ",
    Kind.UUID: "an id that is made anew with each deployment, session or request is a new prefix each time",
    Kind.ULID: "an id that is made anew with each deployment, session or request is a new prefix each time",
    Kind.HASH: "a hash that follows the build is a new prefix with each",
    Kind.EPOCH: "a count of seconds since 1970 differs each time it is written",
    Kind.RANDOM: "a random word that is made anew is a new prefix each time; a secret has no place in a prompt",
}


def _changed(path: str, word: Volatile, tokens: int) -> LintFinding:
    times = f" ({word.count} of them)" if word.count > 1 else ""
    return LintFinding(
        severity=Severity.WARNING if word.certain else Severity.NOTE,
        rule=word.kind.value,
        path=path,
        excerpt=word.excerpt,
        why=_WHY[word.kind] + times + (f"; each writes about {tokens:,} tokens anew" if tokens else ""),
        tokens=tokens,
        advice="move it to the user context or the turn; leave it if it never changes"
        if word.certain
        else "leave it if it never changes; else move it to the user context or the turn",
    )


def _strings(schema_json: str) -> Iterator[tuple[str, str]]:
    """Yield the texts of a JSON Schema that may change, each with where it stands."""

    def walk(node: object, pointer: str) -> Iterator[tuple[str, str]]:
        match node:
            case str():
                yield pointer, node
            case dict():
                # A property may be called "format": below `properties` names are names.
                named = pointer.endswith((".properties", ".$defs", ".definitions"))
                for key, child in node.items():
                    if named or key not in _EXAMPLE_KEYS:
                        yield from walk(child, f"{pointer}.{key}")
            case list():
                for index, child in enumerate(node):
                    yield from walk(child, f"{pointer}[{index}]")

    return walk(json.loads(schema_json or "{}"), "")


# --- too short to be cached


def _too_short(
    shared: _Shared, rules: CacheRules, rates: Rates, error: float, strategy: str, filler: str
) -> Iterator[LintFinding]:
    tokens, minimum = shared.tokens, rules.minimum_tokens
    if not tokens or strategy == "none" or tokens * (1 - error) >= minimum:
        return
    name, path = shared.application.name, f"applications.{shared.application.name}"
    if tokens * (1 + error) >= minimum:
        yield LintFinding(
            severity=Severity.NOTE,
            rule="near_minimum",
            path=path,
            why=f"about {tokens:,} tokens are shared and {rules.model} caches from {minimum:,} on: it may or may not",
            tokens=tokens,
            advice=f"see what its calls read (hybrid-router doctor --application {name}), or lengthen it a little",
        )
        return
    # A and B put their breakpoints nowhere else but after the user context; the others have the history.
    wasted = strategy in ("a", "b")
    yield LintFinding(
        severity=Severity.WARNING if wasted else Severity.NOTE,
        rule="below_minimum",
        path=path,
        why=f"about {tokens:,} tokens are shared and {rules.model} caches from {minimum:,} on: never by themselves"
        + (f', and strategy "{strategy}" caches little else' if wasted else ""),
        tokens=tokens,
        advice=_remedies(shared, rules, rates, strategy, filler),
    )


def _remedies(shared: _Shared, rules: CacheRules, rates: Rates, strategy: str, filler: str) -> str:
    tokens = shared.tokens
    ways = []
    if strategy in ("a", "b"):
        ways.append('cache_strategy "auto" or "c", which caches them together with the history')
    lower = [
        other
        for other in known_models()
        if other.upstream == rules.upstream
        and other.minimum_confirmed
        and other.model.startswith("claude-opus")
        and other.minimum_tokens < rules.minimum_tokens
        and other.minimum_tokens <= tokens
    ]
    if lower:
        best = min(lower, key=lambda other: other.minimum_tokens)
        ways.append(f"{best.model}, which caches from {best.minimum_tokens:,} on")
    hits = pad_threshold(rates, tokens, rules.minimum_tokens)
    if hits is None:
        ways.append("padding never pays at this length")
    elif filler and shared.application.pad:
        ways.append(f"the filler pays once {hits:.0%} of its calls read, and is then put in by itself")
    else:
        ways.append(f"padding (cache.filler_file and pad) pays if at least {hits:.0%} of its calls read")
    return "; ".join(
        [*ways, "or leave it: the user context and history behind it can still be cached with it"]
    )


# --- the filler


def _no_filler(asked: Sequence[_Shared]) -> Iterator[LintFinding]:
    for shared in asked:
        yield LintFinding(
            severity=Severity.NOTE,
            rule="no_filler",
            path=f"applications.{shared.application.name}.pad",
            why="cache.filler_file is not set, so nothing can be put in and this does nothing",
            tokens=0,
            advice="set cache.filler_file to a text that helps the answers, such as examples; or leave pad out",
        )


def _filler_too_short(
    shared: Sequence[_Shared],
    filler: str,
    strategy: str,
    rules: CacheRules,
    rates: Rates,
    estimator: TokenEstimator,
) -> Iterator[LintFinding]:
    """A warning where the filler would pay if it were longer, a note where none would."""
    error, minimum = estimator.uncertainty(rules.model), rules.minimum_tokens
    available = estimator.cumulative_tokens(opening(filler.strip()), rules.model)[-1]
    for each in shared:
        tokens, application = each.tokens, each.application
        if not application.pad or not tokens or (application.cache_strategy or strategy) == "none":
            continue
        if (tokens + available) * (1 + error) >= minimum:
            continue
        pays = pad_threshold(rates, tokens, minimum) is not None
        yield LintFinding(
            severity=Severity.WARNING if pays else Severity.NOTE,
            rule="filler_too_short",
            path="cache.filler_file",
            why=f"application {application.name} shares about {tokens:,} tokens and the filler has about {available:,}:"
            f" together they do not reach the {minimum:,} from which {rules.model} caches",
            tokens=available,
            advice=f"lengthen the filler to about {minimum - tokens:,} tokens or more, or set pad = false there"
            if pays
            else "set pad = false there: at this length no filler pays",
        )


# --- strategies


def _strategy(shared: _Shared, rules: CacheRules, error: float, default: str) -> Iterator[LintFinding]:
    application = shared.application
    own = application.cache_strategy
    path = f"applications.{application.name}.cache_strategy" if own else "cache.strategy"
    match own or default:
        case "none" if shared.tokens * (1 - error) >= max(LONG_TOKENS, rules.minimum_tokens):
            yield LintFinding(
                severity=Severity.NOTE,
                rule="uncached",
                path=path,
                excerpt="none",
                why=f"application {application.name} pays about {shared.tokens:,} shared tokens in full in every call",
                tokens=shared.tokens,
                advice='"auto" writes them only when they are expected to be read',
            )
        case ("a" | "b") as name if own:
            yield LintFinding(
                severity=Severity.NOTE,
                rule="history_uncached",
                path=path,
                excerpt=name,
                why="the history is never cached, and in conversations it is the largest part of the input",
                tokens=0,
                advice='"auto" or "c" unless its sessions have a single turn',
            )


# --- applications that could share


def _spelled_differently(shared: Sequence[_Shared], rules: CacheRules) -> Iterator[LintFinding]:
    """Name each application once, with the one it would share most with."""
    for index, later in enumerate(shared):
        best: LintFinding | None = None
        for earlier in shared[:index]:
            found = _reordered(earlier, later, rules) or _respelled(earlier, later, rules)
            if found is not None and (best is None or found.tokens > best.tokens):
                best = found
        if best is not None:
            yield best


def _reordered(one: _Shared, other: _Shared, rules: CacheRules) -> LintFinding | None:
    """The same tools in another order; None when they are not."""
    first, second = one.plain[: one.tool_count], other.plain[: other.tool_count]
    if first == second or sorted(first) != sorted(second):
        return None
    at = next(index for index, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    kept = one.plain[one.tool_count :], other.plain[other.tool_count :]
    tokens = other.tokens_of(other.tool_count + _common(*kept))
    return _sharing(
        "tool_order",
        other.paths[at],
        f"applications {one.application.name} and {other.application.name} have the same tools in another order, so"
        " they share nothing from there on",
        tokens,
        rules,
        "list the tools in the same order in both",
    )


def _respelled(one: _Shared, other: _Shared, rules: CacheRules) -> LintFinding | None:
    """Blocks that mean the same and are spelled differently; None when there are none."""
    meant, sent = _common(one.plain, other.plain), _common(one.blocks, other.blocks)
    if meant <= sent:
        return None
    is_tool = sent < other.tool_count
    what = "the order of keys or spacing in a tool" if is_tool else "spacing in the system prompt"
    return _sharing(
        "tool_spelling" if is_tool else "system_spacing",
        other.paths[sent],
        f"applications {one.application.name} and {other.application.name} differ here only by {what}, so they share"
        " nothing from there on",
        other.tokens_of(meant),
        rules,
        f"spell it as {one.paths[sent]} does",
    )


def _sharing(rule: str, path: str, why: str, tokens: int, rules: CacheRules, advice: str) -> LintFinding:
    """Two applications that could share; below the minimum there is nothing to share yet."""
    enough = tokens >= rules.minimum_tokens
    why = f"{why}: about {tokens:,} tokens could be the same prefix"
    return LintFinding(
        severity=Severity.WARNING if enough else Severity.NOTE,
        rule=rule,
        path=path,
        why=why if enough else f"{why}, though too short to be cached alone",
        tokens=tokens,
        advice=advice,
    )


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    """How many of the first elements are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
