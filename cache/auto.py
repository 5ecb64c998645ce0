"""Breakpoints by expected value: strategy AUTO.

The rule: go through the layers from the shallowest and cover as far as the sum of values grows. Covering a
layer of n tokens now costs r or w a token (read if warm, else written) instead of 1, and saves w - r at the
next use if that comes within the TTL, with chance p. Cold, that is worth it iff p > (w - 1)/(w - r). Marks
before the last one are free, so every layer on the way gets one, with three exceptions that keep the four
slots for what pays:

    tools       live and die with the system prompt; marked only when they are warm and it is not
    warm entry  of the conversation; marked only as a rescue, near the end of the last mark's lookback
    one-off     a prompt whose next use is unlikely is not written at all

A TTL is 1 hour iff P(next < 1 h | none within 5 min) > (w1 - w5)/(w1 - r), for a layer of the layer's next use, for
what a turn adds of the first longer gap after it: each part of a conversation lives by its own TTL, so the part
written now pays 0.75 more for an hour and is lost at that gap otherwise. On top of a part that lapses in 5 minutes
an hour is wasted. A slot left over holds a fallback before the turn's last block.

A context that stands after the history is gone from there in the next turn, so nothing from it on is worth a mark:
the last one stands before it. Within a tool loop it stays where it is, so the last block is marked as ever, and the
block before the context too, which keeps it warm for the turn after the loop. A client that changes the context
within a loop undoes that at every step: then what stands before the context is warm and nothing behind it is,
although earlier steps marked it. From that alone it may as well have lapsed, and a loop not cached costs twenty times
a loop read, so the mark is left out only between the steps 1, 2, 4, 8, ..., which try again. It does not know where
forecasts come from; below its margin it does not spend on the private layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cache.economics import Rates, hour_threshold, write_threshold
from cache.facts import Facts
from cache.forecast import Forecast, Forecasts
from cache.lookback import steps_back
from cache.outlook import TokenCounts, WarmEntry
from cache.prompt import Layer, Prompt
from cache.rules import TTL_1H_S, TTL_5M_S, CacheRules
from cache.wish import (
    CONTEXT_MOVES,
    Skipped,
    Why,
    Wish,
    below_minimum,
    layer_start,
    markable_position,
)

# Looking a member up on its enum costs 60 ns on Python 3.11, a global 6 ns, and this is the hot path.
TOOLS, SYSTEM, CONTEXT, HISTORY, TURN = Layer

PRIVATE_MARGIN = 1.25
"""Expected gain over cost required before a private layer is written; without it a learner that starts from
priors does about 2 % worse than the best fixed rule on recorded chat, with it 0.1-0.4 %."""

RESCUE_SLACK = 2
"""Lookback positions kept in reserve: an entry 18 or more positions back gets a mark of its own."""


CONTEXT_CHANGES = "what stands behind the context is not read again: it seems to change within the tool loop"


class _Candidate(NamedTuple):
    """A place to end the covered prefix."""

    position: int
    layer: Layer
    tokens: int
    p_warm: float
    ttl_s: int
    value: float
    forecast: Forecast


def auto_wishes(
    prompt: Prompt,
    counts: TokenCounts,
    warm: Sequence[WarmEntry],
    forecasts: Forecasts,
    rules: CacheRules,
    rates: Rates,
    facts: Facts,
    skipped: list[Skipped],
) -> list[Wish]:
    """Wishes of strategy AUTO in prompt order; what does not pay is appended to `skipped`."""
    candidates = _candidates(prompt, counts, warm, forecasts, rules, rates, facts, skipped)
    best, best_value, value = -1, 0.0, 0.0
    for index, candidate in enumerate(candidates):
        value += candidate.value
        if value > best_value and candidate.tokens >= rules.minimum_tokens:
            best, best_value = index, value
    wishes = [_wish(candidate, warm, prompt) for candidate in candidates[: best + 1]]
    skipped += [
        Skipped(candidate.layer, candidate.position, _refusal(candidate, rules, rates))
        for candidate in candidates[best + 1 :]
    ]
    return _with_fallback(prompt, _without_needless_rescue(prompt, wishes, warm, rules), counts, warm, rules)


def _candidates(
    prompt: Prompt,
    counts: TokenCounts,
    warm: Sequence[WarmEntry],
    forecasts: Forecasts,
    rules: CacheRules,
    rates: Rates,
    facts: Facts,
    skipped: list[Skipped],
) -> list[_Candidate]:
    """Ends worth considering, shallowest first, each with the value of covering the part before it."""
    candidates: list[_Candidate] = []
    start, hour_from = 0, hour_threshold(rates)
    for position, layer in _ends(prompt, warm, skipped):
        tokens = counts.at(position)
        p_warm = 0.0
        for entry in warm:
            if entry.position >= position and entry.p_warm > p_warm:
                p_warm = entry.p_warm
        forecast = forecasts[layer]
        ttl_s = _layer_ttl_s(forecast, hour_from)
        if layer > CONTEXT:
            ttl_s = _conversation_ttl_s(ttl_s, warm, facts)
        if tokens < rules.minimum_tokens:
            # Too short a prefix has no entry of its own: what it costs and saves belongs to the next longer one.
            candidates.append(_Candidate(position, layer, tokens, p_warm, ttl_s, 0.0, forecast))
            continue
        margin = 1.0 if layer <= SYSTEM else PRIVATE_MARGIN
        value = _value(tokens - start, p_warm, ttl_s, forecast, rates, margin)
        candidates.append(_Candidate(position, layer, tokens, p_warm, ttl_s, value, forecast))
        start = tokens
    return candidates


def _ends(prompt: Prompt, warm: Sequence[WarmEntry], skipped: list[Skipped]) -> list[tuple[int, Layer]]:
    """Positions a mark may pay at, ascending: shared, context, the warm conversation, the last block."""
    ends = prompt.ends
    blocks = prompt.blocks
    found: list[tuple[int, Layer]] = []
    shared = SYSTEM if ends[SYSTEM] >= 0 else TOOLS
    if shared is SYSTEM and _only_tools_warm(prompt, warm):
        found.append((ends[TOOLS], TOOLS))
    for layer in (shared, CONTEXT):
        if ends[layer] < 0:
            continue
        position = markable_position(prompt, ends[layer], layer_start(prompt, layer))
        if position is None:
            skipped.append(Skipped(layer, None, "no block of the layer takes a breakpoint"))
        elif not found or position > found[-1][0]:
            found.append((position, layer))
    found += [(position, blocks[position].layer) for position in _conversation_ends(prompt, warm, skipped)]
    return found


def _conversation_ends(prompt: Prompt, warm: Sequence[WarmEntry], skipped: list[Skipped]) -> list[int]:
    """Positions past the stable layers, ascending: before a volatile context, the warm entry, the last that recurs."""
    blocks, stable_end, last = prompt.blocks, prompt.stable_end, prompt.recurring_end
    positions: list[int] = []
    if warm and warm[-1].position > stable_end and blocks[warm[-1].position].markable:
        positions.append(warm[-1].position)
    if prompt.volatile_from >= 0:
        skipped.append(Skipped(CONTEXT, prompt.volatile_end, CONTEXT_MOVES))
        if last > prompt.volatile_end:
            before = markable_position(prompt, prompt.volatile_from - 1, stable_end + 1)
            if before is not None:
                positions.append(before)
                if _changes_in_loop(prompt, before, warm):
                    skipped.append(Skipped(blocks[last].layer, last, CONTEXT_CHANGES))
                    return [before]
    if last > stable_end:
        position = markable_position(prompt, last, stable_end + 1)
        if position is None:
            layer = TURN if prompt.ends[TURN] >= 0 else HISTORY
            skipped.append(Skipped(layer, None, "no block of the layer takes a breakpoint"))
        else:
            positions.append(position)
    return sorted(set(positions)) if len(positions) > 1 else positions


def _changes_in_loop(prompt: Prompt, before: int, warm: Sequence[WarmEntry]) -> bool:
    """Whether a tool loop's context seems to change at every step, and this is no step to try the loop's end again.

    Args:
        before: Position of the mark before the context.
    """
    if not warm or warm[-1].position != before:
        return False
    steps, inside = 0, False
    for block in prompt.blocks[prompt.volatile_end + 1 :]:
        answered = block.role == "assistant"
        steps += answered and not inside
        inside = answered
    return steps & (steps - 1) != 0


def _only_tools_warm(prompt: Prompt, warm: Sequence[WarmEntry]) -> bool:
    """Whether the tools' entry is likelier warm than anything covering the system prompt (after a deploy)."""
    tools_end, system_end = prompt.ends[TOOLS], prompt.ends[SYSTEM]
    if not warm or warm[0].position > tools_end:
        return False  # in prompt order: none of them is the tools' own
    tools = max((entry.p_warm for entry in warm if entry.position == tools_end), default=0.0)
    deeper = max((entry.p_warm for entry in warm if entry.position >= system_end), default=0.0)
    return tools > deeper and prompt.blocks[tools_end].markable


def _value(tokens: int, p_warm: float, ttl_s: int, forecast: Forecast, rates: Rates, margin: float) -> float:
    """Units gained by covering `tokens` more tokens, against sending them uncached now and next time."""
    if ttl_s >= TTL_1H_S:
        write, p_next = rates.write_1h, forecast.p_1h
    else:
        write, p_next = rates.write_5m, forecast.p_5m
    now = p_warm * (1 - rates.read) - (1 - p_warm) * (write - 1) * margin
    return tokens * (now + p_next * (write - rates.read))


def _layer_ttl_s(forecast: Forecast, hour_from: float) -> int:
    p_5m, p_1h, kept = forecast.p_5m, forecast.p_1h, forecast.kept
    if kept is not None:
        return TTL_1H_S if kept.hour > kept.five else TTL_5M_S
    beyond = 1 - p_5m
    survives = (p_1h - p_5m) / beyond if beyond > 0 else 0.0
    return TTL_1H_S if survives > hour_from else TTL_5M_S


def _conversation_ttl_s(ttl_s: int, warm: Sequence[WarmEntry], facts: Facts) -> int:
    """TTL of what a turn adds: as wanted, unless it stands on a part that lapses in 5 minutes."""
    if warm and warm[-1].ttl_s < TTL_1H_S and not facts.hour_mark_extends_read_prefix:
        return TTL_5M_S
    return ttl_s


def _wish(candidate: _Candidate, warm: Sequence[WarmEntry], prompt: Prompt) -> Wish:
    position, layer, tokens, p_warm, ttl_s, _, forecast = candidate
    why: Why
    if layer >= HISTORY and warm and warm[-1].position == position:
        why = Why("on the conversation's warm entry: read at P {:.2f}", (p_warm,))
    else:
        hour = ttl_s >= TTL_1H_S
        form, p_next = (_USED_IN_AN_HOUR, forecast.p_1h) if hour else (_USED_SOON, forecast.p_5m)
        if prompt.volatile_from >= 0 and layer >= HISTORY:
            form = (_BEFORE_CONTEXT if position < prompt.volatile_from else _IN_LOOP) + form
        why = Why(form, (p_next, p_warm))
    return Wish(position, layer, ttl_s, tokens, why)


def _refusal(candidate: _Candidate, rules: CacheRules, rates: Rates) -> Why:
    _, layer, tokens, _, ttl_s, _, forecast = candidate
    if tokens < rules.minimum_tokens:
        return below_minimum(tokens, rules)
    needed = write_threshold(rates, ttl_s)
    if layer > SYSTEM:
        needed *= PRIVATE_MARGIN
    form = _NOT_WORTH_AN_HOUR if ttl_s >= TTL_1H_S else _NOT_WORTH
    return Why(form, (forecast.p_1h if ttl_s >= TTL_1H_S else forecast.p_5m, needed))


_USED_SOON = "P(next use < 5 min) {:.2f}, warm {:.2f}"
_USED_IN_AN_HOUR = "P(next use < 1 h) {:.2f}, warm {:.2f}"
_BEFORE_CONTEXT = "before the context, which moves on with each turn: "
_IN_LOOP = "in a tool loop, in which the context before it stays: "
_NOT_WORTH = "not worth its write: P(next use < 5 min) {:.2f}, needs {:.2f}"
_NOT_WORTH_AN_HOUR = "not worth its write: P(next use < 1 h) {:.2f}, needs {:.2f}"


def _without_needless_rescue(
    prompt: Prompt, wishes: list[Wish], warm: Sequence[WarmEntry], rules: CacheRules
) -> list[Wish]:
    """Drop the mark on the conversation's warm entry while the last mark's lookback finds it anyway."""
    if len(wishes) < 2 or not warm:
        return wishes
    entry, last = wishes[-2], wishes[-1]
    if entry.position != warm[-1].position or entry.layer < HISTORY:
        return wishes
    reserve = rules.lookback_positions - RESCUE_SLACK
    if steps_back(prompt.blocks, entry.position, last.position, rules, reserve) < reserve:
        return [*wishes[:-2], last]
    return [
        *wishes[:-2],
        entry._replace(why=Why("rescue: warm entry {} or more positions back", (reserve,))),
        last,
    ]


def _with_fallback(
    prompt: Prompt, wishes: list[Wish], counts: TokenCounts, warm: Sequence[WarmEntry], rules: CacheRules
) -> list[Wish]:
    """Add a mark before the turn's last block, if a slot is free and it adds to what is warm.

    Clients replace the end of a prompt (reminders, edits, regenerated questions); then the entry at the last mark
    is lost, and with it all that was written since the mark before. A mark that is not the last one is free.
    """
    if not wishes or len(wishes) >= rules.max_breakpoints:
        return wishes
    last = wishes[-1]
    if last.layer is not TURN:
        return wishes
    position = markable_position(prompt, last.position - 1, layer_start(prompt, TURN))
    if position is None or (warm and warm[-1].position >= position):
        return wishes
    reason = "fallback: free, and read if the last block is replaced"
    return [*wishes[:-1], Wish(position, TURN, last.ttl_s, counts.at(position), reason), last]
