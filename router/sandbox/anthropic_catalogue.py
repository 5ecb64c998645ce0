"""`GET /v1/models` and `GET /v1/models/{id}`: the model table in the wire's words (A-SDK type ModelInfo,
2026-11).

Rule: what is told here is what the rows of `anthropic_models` enforce. Retired models are listed as such.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.sandbox.anthropic_errors import ApiError
from router.sandbox.anthropic_models import MODELS, ClaudeModel
from router.sandbox.wire import Json

_LEVELS = ("low", "medium", "high", "xhigh", "max")
_THINKING = ("adaptive", "between_tools", "disabled", "enabled")


def answer(path: str, query: Mapping[str, str], now: float) -> Json:
    """Return the list, or one model.

    Raises:
        ApiError: for an unknown id.
    """
    name = path.removeprefix("/v1/models").strip("/")
    if name:
        for row in MODELS.values():
            if name in (row.id, *row.aliases):
                return _info(row, now)
        raise ApiError("not_found_error", f"model: {name}")
    rows = sorted(MODELS.values(), key=lambda r: r.released, reverse=True)
    limit = int(query["limit"]) if query.get("limit", "").isdigit() else 100
    data = [_info(row, now) for row in rows[:limit]]
    return {
        "data": data,
        "has_more": len(rows) > limit,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _info(row: ClaudeModel, now: float) -> Json:
    deprecated = row.deprecated_on or (row.retired_on if row.retired(now) else None)
    return {
        "type": "model",
        "id": row.id,
        "display_name": row.id.replace("claude-", "Claude ").replace("-", " ").title(),
        "created_at": f"{row.released}T00:00:00Z",
        "line": row.line,
        "lifecycle": "retired" if row.retired(now) else ("deprecated" if row.deprecated_on else "active"),
        "deprecated_at": f"{deprecated}T00:00:00Z" if deprecated else None,
        "retires_at": f"{row.retired_on}T00:00:00Z" if row.retired_on else None,
        "max_input_tokens": row.context_tokens,
        "max_tokens": row.max_output_tokens,
        "capabilities": _capabilities(row),
    }


def _capabilities(row: ClaudeModel) -> Json:
    yes, no = {"supported": True}, {"supported": False}

    def on(value: bool) -> Json:
        return yes if value else no

    types = {kind: on(kind in row.thinking_types) for kind in _THINKING}
    return {
        "batch": yes,
        "citations": yes,
        "code_execution": no,
        "context_management": no,
        "effort": {"supported": bool(row.efforts), **{level: on(level in row.efforts) for level in _LEVELS}},
        "image_input": yes,
        "pdf_input": yes,
        "server_tools": no,
        "structured_outputs": yes,
        "thinking": {"supported": True, "types": types},
    }
