"""Rules between the parts of a Messages request: markers, tool pairing, thinking replay, model limits.

Rule: a request that passes here and in `anthropic_request` is one the API would take; the first offence
found is raised with the documented text where one is known (A-ERR, A-CACHE, A-TOOLS, A-THINK, A-NEW55,
A-STRUCT; 2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping

from router.sandbox.anthropic_errors import ApiError, invalid
from router.sandbox.anthropic_pieces import Block
from router.sandbox.anthropic_request import MessagesRequest, Turn
from router.sandbox.signatures import subject, unseal

MAX_MARKERS = 4
_UNMARKABLE = frozenset({"thinking", "redacted_thinking"})
_MIXED_TTL = (
    "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note that blocks are "
    "processed in the following order: `tools`, `system`, `messages`."
)


def check(
    request: MessagesRequest,
    *,
    version_allows_sampling: bool,
    owed_thinking: Mapping[str, str] | None,
    prewarm_with_adaptive: bool,
) -> None:
    """Check everything that depends on more than one field.

    Args:
        version_allows_sampling: the API version knows temperature, top_p and top_k. owed_thinking: tool_use
        id -> signature of the thinking block issued with it, for calls this sandbox made;
            None switches the replay rule off.
        prewarm_with_adaptive: `max_tokens: 0` is taken while adaptive thinking is on (fact A6).

    Raises:
        ApiError: for the first offence found.
    """
    _check_roles(request)
    _check_tool_pairing(request.turns)
    _check_tool_choice(request)
    _check_thinking(request)
    _check_thinking_blocks(request, owed_thinking or {})
    if version_allows_sampling and request.sampling:
        _check_sampling(request)
    if request.format_schema is not None:
        _check_format(request)
    if request.max_tokens == 0:
        _check_prewarm(request, with_adaptive=prewarm_with_adaptive)
    resolve_markers(request)


def _check_roles(request: MessagesRequest) -> None:
    turns, model = request.turns, request.model
    for i, turn in enumerate(turns):
        if turn.role == "system":
            _check_system_entry(request, i)
    if turns[0].role == "assistant":
        raise invalid(("messages",), 'first message must use the "user" role')
    last = next(t for t in reversed(turns) if t.role != "system")
    if last.role != "assistant":
        return
    if not model.prefill:
        raise invalid(
            (),
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message.",
        )
    if (
        last.blocks
        and last.blocks[-1].kind == "text"
        and last.blocks[-1].text != last.blocks[-1].text.rstrip()
    ):
        raise invalid(("messages",), "final assistant content cannot end with trailing whitespace")


def _check_system_entry(request: MessagesRequest, i: int) -> None:
    """Check where a system entry stands: behind a user message, and last or before the assistant's (A-CACHE; the second
    text as in anthropics/claude-code issue 73821, the first assumed after it)."""
    turns, path = request.turns, ("messages", request.turns[i].blocks[0].message)
    if not request.model.system_entries:
        raise invalid((), "role 'system' is not supported on this model")
    if i == 0 or turns[i - 1].role != "user":
        raise invalid(path, "role 'system' must follow a 'user' message")
    if i + 1 < len(turns) and turns[i + 1].role != "assistant":
        raise invalid(path, "role 'system' must precede an 'assistant' message or end the array")


def _check_tool_pairing(turns: tuple[Turn, ...]) -> None:
    seen: set[str] = set()
    for i, turn in enumerate(turns):
        calls = [b for b in turn.blocks if b.kind == "tool_use"]
        for call in calls:
            if call.raw["id"] in seen:
                raise invalid((*call.path, "id"), "`tool_use` ids must be unique")
            seen.add(call.raw["id"])
        if calls:
            _check_answered(calls, turns[i + 1] if i + 1 < len(turns) else None)
        called = {b.raw["id"] for b in turns[i - 1].blocks if b.kind == "tool_use"} if i else set()
        _check_results(turn, called)


def _check_answered(calls: list[Block], following: Turn | None) -> None:
    leading: list[str] = []
    for block in following.blocks if following is not None and following.role == "user" else ():
        if block.kind != "tool_result":
            break
        leading.append(block.raw["tool_use_id"])
    missing = [c.raw["id"] for c in calls if c.raw["id"] not in leading]
    if missing:
        raise invalid(
            ("messages", calls[0].message),
            "`tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block "
            "in the next message.",
        )


def _check_results(turn: Turn, called: set[str]) -> None:
    answered: set[str] = set()
    for block in turn.blocks:
        if block.kind != "tool_result":
            continue
        name = block.raw["tool_use_id"]
        if name not in called:
            raise invalid(
                block.path,
                f"unexpected `tool_use_id` found in `tool_result` blocks: {name}. Each `tool_result` block "
                "must have a corresponding `tool_use` block in the previous message.",
            )
        if name in answered:
            raise invalid(
                block.path,
                f"each tool_use must have a single result. Found multiple `tool_result` blocks "
                f"with id: {name}",
            )
        answered.add(name)


def _check_tool_choice(request: MessagesRequest) -> None:
    if request.tool_choice not in ("any", "tool"):
        return
    if not request.model.forced_tool_choice:
        raise invalid(("tool_choice",), 'type "tool" and "any" are not supported for this model.')
    if request.thinking == "enabled":
        raise invalid((), "Thinking may not be enabled when tool_choice forces tool use.")
    if request.tool_name is not None and request.tool_name not in {t.name for t in request.tools}:
        raise invalid(("tool_choice", "name"), f"Tool '{request.tool_name}' not found in provided tools")


def _check_thinking(request: MessagesRequest) -> None:
    off = request.thinking in ("disabled", "between_tools")
    if off and request.model.thinks_by_default and request.effort in ("xhigh", "max"):
        raise invalid(
            (),
            f'"thinking.type.{request.thinking}" is not supported at effort "{request.effort}" '
            "for this model.",
        )
    budget, limit = request.budget_tokens, request.max_tokens
    if budget is not None and limit and budget >= limit:
        raise invalid((), "`max_tokens` must be greater than `thinking.budget_tokens`.")


def running_turn(turns: tuple[Turn, ...]) -> int:
    """Return the index of the last ordinary user turn: one that is not only tool results. 0 if there is
    none."""
    for i in range(len(turns) - 1, -1, -1):
        if turns[i].role == "user" and any(b.kind != "tool_result" for b in turns[i].blocks):
            return i
    return 0


def _check_thinking_blocks(request: MessagesRequest, owed: Mapping[str, str]) -> None:
    start = running_turn(request.turns)
    for i, turn in enumerate(request.turns):
        if turn.role != "assistant":
            continue
        signatures = set()
        for block in turn.blocks:
            if block.kind == "thinking":
                _check_signature(block)
                signatures.add(block.raw["signature"])
        if i < start or request.thinking == "disabled":
            continue
        for block in turn.blocks:
            due = owed.get(block.raw["id"]) if block.kind == "tool_use" else None
            thought = unseal(due) if due is not None else None
            if due is not None and due not in signatures and thought and thought.model == request.model.id:
                raise invalid(
                    ("messages", block.message, "content", 0, "type"),
                    "Expected `thinking` or `redacted_thinking`, but found `tool_use`. The thinking blocks "
                    "of the running tool turn must be sent back as they were.",
                )


def _check_signature(block: Block) -> None:
    thought = unseal(block.raw["signature"])
    if thought is None:
        raise invalid(block.path, "Invalid `signature` in `thinking` block")
    if thought.subject != subject(block.raw["thinking"]):
        raise invalid(
            block.path,
            "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified. "
            "These blocks must remain as they were in the original response.",
        )


def _check_sampling(request: MessagesRequest) -> None:
    values = request.sampling
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise invalid((name,), "Input should be a valid number")
        if name != "top_k" and value > 1:
            raise invalid((name,), "Input should be less than or equal to 1")
        if not request.model.sampling and (name == "top_k" or value != 1):
            raise invalid((name,), f"`{name}` is not supported for this model.")
    if request.model.prefill and "temperature" in values and "top_p" in values:
        raise invalid(
            (), "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        )
    if request.thinking in ("enabled", "adaptive") and values.get("temperature", 1) != 1:
        raise invalid((), "`temperature` may only be set to 1 when thinking is enabled.")


def _check_format(request: MessagesRequest) -> None:
    if any(b.citations for t in request.turns for b in t.blocks):
        raise invalid(("output_config", "format"), "structured outputs cannot be used with citations")
    if request.turns[-1].role == "assistant":
        raise invalid(
            ("output_config", "format"), "structured outputs cannot be used with a prefilled answer"
        )


def _check_prewarm(request: MessagesRequest, *, with_adaptive: bool) -> None:
    if request.stream:
        raise invalid(("max_tokens",), "`max_tokens: 0` cannot be combined with `stream: true`")
    if request.thinking == "enabled" or (request.thinking == "adaptive" and not with_adaptive):
        raise invalid(
            ("max_tokens",),
            f'`max_tokens: 0` cannot be combined with `thinking.type: "{request.thinking}"`',
        )
    if request.format_schema is not None:
        raise invalid(("max_tokens",), "`max_tokens: 0` cannot be combined with `output_config.format`")
    if request.tool_choice in ("any", "tool"):
        raise invalid(("max_tokens",), '`max_tokens: 0` cannot be combined with tool_choice "any" or "tool"')


def blocks_in_order(request: MessagesRequest) -> list[Block]:
    """Return tools (deferred and server ones left out), system and message blocks in prefix order."""
    out = [t.block for t in request.tools if not (t.deferred or t.server)]
    out += request.system
    for turn in request.turns:
        out += turn.blocks
    return out


def resolve_markers(request: MessagesRequest) -> tuple[tuple[Block, str], ...]:
    """Return the marked blocks with their TTLs in prefix order, the automatic marker included.

    Raises:
        ApiError: more than four markers, a 1h one after a 5m one, or an automatic one that cannot be placed.
    """
    blocks = blocks_in_order(request)
    marked = [(b, b.marker) for b in blocks if b.marker is not None]
    if request.auto_marker is not None:
        marked = _with_automatic(blocks, marked, request.auto_marker)
    if len(marked) > MAX_MARKERS:
        raise invalid(
            (), f"A maximum of {MAX_MARKERS} blocks with cache_control may be provided. Found {len(marked)}."
        )
    five_seen = False
    for block, ttl in marked:
        if ttl == "1h" and five_seen:
            raise invalid((*block.path, "cache_control", "ttl"), _MIXED_TTL)
        five_seen = five_seen or ttl == "5m"
    return tuple(marked)


def _with_automatic(
    blocks: list[Block], marked: list[tuple[Block, str]], ttl: str
) -> list[tuple[Block, str]]:
    """Put the automatic marker on the last block that may carry one (A-CACHE, automatic caching)."""
    target = next((b for b in reversed(blocks) if b.kind not in _UNMARKABLE), None)
    if target is None:
        return marked
    if target.marker is not None:
        if target.marker != ttl:
            raise invalid(
                ("cache_control",),
                f"the last cacheable block already has cache_control with ttl='{target.marker}', not '{ttl}'",
            )
        return marked
    if len(marked) >= MAX_MARKERS:
        raise ApiError(
            "invalid_request_error",
            f"A maximum of {MAX_MARKERS} blocks with cache_control may be provided. Found {len(marked) + 1}.",
        )
    return [*marked, (target, ttl)]
