"""Parameters whose values depend on the model: thinking, effort, output format, tool choice, speed,
geography.

Rule: a value the model does not take is refused with the documented text; what is left out is resolved to
the model's default. Sources: A-THINK, A-EFFORT, A-STRUCT, A-NEW55, A-FAST, A-GEO; 2026-11.
"""

from __future__ import annotations

from typing import Any

from router.sandbox.anthropic_errors import ApiError, a_boolean, a_string, an_integer, invalid, one_of, only
from router.sandbox.anthropic_models import ClaudeModel, Fast
from router.sandbox.wire import Json

_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_THINKING = {
    "adaptive": frozenset({"type", "display"}),
    "enabled": frozenset({"type", "budget_tokens", "display"}),
    "disabled": frozenset({"type"}),
    "between_tools": frozenset({"type"}),
}


def read_thinking(value: Any, model: ClaudeModel) -> tuple[str, int | None, str]:
    """Return the thinking mode in force ("off" when it is off by default), its budget and its display."""
    if value is None:
        return ("adaptive" if model.thinks_by_default else "disabled"), None, model.display_default
    path = ("thinking",)
    kind = one_of(value.get("type") if isinstance(value, dict) else None, (*path, "type"), tuple(_THINKING))
    only(value, path, _THINKING[kind])
    display = model.display_default
    if value.get("display") is not None:
        display = one_of(value["display"], (*path, "display"), ("summarized", "omitted"))
    budget = None
    if kind == "enabled":
        if "budget_tokens" not in value:
            raise invalid((*path, "enabled", "budget_tokens"), "Field required")
        budget = an_integer(value["budget_tokens"], (*path, "enabled", "budget_tokens"), at_least=1024)
    if kind not in model.thinking_types:
        raise _thinking_refused(kind, model)
    return kind, budget, display


def _thinking_refused(kind: str, model: ClaudeModel) -> ApiError:
    if kind == "adaptive":
        return ApiError("invalid_request_error", "adaptive thinking is not supported on this model")
    text = f'"thinking.type.{kind}" is not supported for this model.'
    if kind == "enabled":
        text += ' Use "thinking.type.adaptive" and "output_config.effort" to control thinking behavior.'
    elif kind == "disabled":
        text += f" Thinking is always on for {model.id}."
    return ApiError("invalid_request_error", text)


def read_output_config(value: Any, model: ClaudeModel) -> tuple[str | None, Json | None]:
    """Return the effort in force (None: the model has none) and the output schema."""
    effort: str | None = model.default_effort if model.efforts else None
    if value is None:
        return effort, None
    only(value, ("output_config",), frozenset({"effort", "format"}))
    if value.get("effort") is not None:
        path = ("output_config", "effort")
        effort = one_of(value["effort"], path, _EFFORTS)
        if not model.efforts:
            raise invalid((), "This model does not support the effort parameter.")
        if effort not in model.efforts:
            raise invalid(
                path, f"'{effort}' is not supported by this model. Supported: {', '.join(model.efforts)}"
            )
    if value.get("format") is None:
        return effort, None
    path = ("output_config", "format")
    form = only(value["format"], path, frozenset({"type", "schema"}), ("type", "schema"))
    one_of(form["type"], (*path, "type"), ("json_schema",))
    if not isinstance(form["schema"], dict):
        raise invalid((*path, "schema"), "Input should be a valid dictionary")
    if _check_closed(form["schema"], (*path, "schema")) > 24:
        raise ApiError("invalid_request_error", "Schema is too complex for compilation.")
    return effort, form["schema"]


def _check_closed(node: Any, path: tuple[str | int, ...]) -> int:
    """Refuse an object schema that is not closed; return the number of optional parameters (A-STRUCT)."""
    if isinstance(node, list):
        return sum(_check_closed(child, (*path, i)) for i, child in enumerate(node))
    if not isinstance(node, dict):
        return 0
    optional = 0
    if node.get("type") == "object" or "properties" in node:
        if node.get("additionalProperties") is not False:
            raise invalid(path, "For 'object' type, 'additionalProperties' must be explicitly set to false")
        optional = len((node.get("properties") or {}).keys() - set(node.get("required") or ()))
    inner = {k: v for k, v in node.items() if k not in ("enum", "const", "default", "examples", "required")}
    for key, child in inner.items():
        if key in ("properties", "$defs", "definitions") and isinstance(child, dict):
            optional += sum(_check_closed(sub, (*path, key, name)) for name, sub in child.items())
        else:
            optional += _check_closed(child, (*path, key))
    return optional


def read_tool_choice(body: Json) -> tuple[str, str | None, bool]:
    """Return the kind of choice, the tool it names, and whether parallel calls are allowed."""
    value, path = body.get("tool_choice"), ("tool_choice",)
    if value is None:
        return "auto", None, True
    kinds = ("auto", "none", "any", "tool")
    kind = one_of(value.get("type") if isinstance(value, dict) else None, (*path, "type"), kinds)
    fields = {"type"} | ({"name"} if kind == "tool" else set())
    if kind != "none":
        fields.add("disable_parallel_tool_use")
    only(value, path, frozenset(fields), ("name",) if kind == "tool" else ())
    serial = a_boolean(value.get("disable_parallel_tool_use", False), (*path, "disable_parallel_tool_use"))
    name = a_string(value["name"], (*path, "name")) if kind == "tool" else None
    if not body.get("tools"):
        raise invalid(path, "tool_choice may only be specified while providing `tools`.")
    return kind, name, not serial


def read_geo(value: Any, model: ClaudeModel) -> str:
    """Return where inference runs (A-GEO)."""
    if value is None:
        return "global"
    geo = one_of(value, ("inference_geo",), ("us", "global"))
    if not model.geo:
        raise invalid(("inference_geo",), "inference_geo is not supported on this model")
    return geo


def read_speed(value: Any, model: ClaudeModel, betas: frozenset[str]) -> str:
    """Return the speed that will be used (A-FAST)."""
    if value is None:
        return "standard"
    speed = one_of(value, ("speed",), ("standard", "fast"))
    match model.fast:
        case Fast.GA:
            return speed
        case Fast.IGNORED:
            return "standard"
        case Fast.PREVIEW:
            if "fast-mode-2026-02-01" not in betas:
                raise invalid(("speed",), "Extra inputs are not permitted")
            return speed
        case Fast.REFUSED:
            if speed == "fast":
                raise invalid(("speed",), "fast mode is not supported on this model")
            return speed
