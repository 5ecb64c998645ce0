"""A generateContent request, read strictly, with every rule that refuses it (G-GEN, G-FC, G-SIG, G-THINK;
2026-11).

Rule: what is unknown, mistyped, unpaired or not taken by the model asked for is an INVALID_ARGUMENT with a
Google-style message. The result has defaults resolved: `effort` is the thinking level in force, None when
the model will not think.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.sandbox.gemini_contents import Content, content
from router.sandbox.gemini_errors import Fields, GoogleError, invalid
from router.sandbox.gemini_models import MAX_OUTPUT_TOKENS, GeminiModel
from router.sandbox.gemini_rules import check_turns
from router.sandbox.gemini_tools import check_schema, read_tool_config, read_tools
from router.sandbox.replies import Tool
from router.sandbox.wire import Json

_REQUEST = Fields(
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "safetySettings",
    "generationConfig",
    "cachedContent",
    "serviceTier",
    "store",
    "labels",
    "model",
)
_SAFETY = Fields("category", "threshold")
_GENERATION = Fields(
    "candidateCount",
    "stopSequences",
    "maxOutputTokens",
    "temperature",
    "topP",
    "topK",
    "seed",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseModalities",
    "presencePenalty",
    "frequencyPenalty",
    "thinkingConfig",
    "mediaResolution",
)
_THINKING = Fields("thinkingLevel", "thinkingBudget", "includeThoughts")
_HARMS = frozenset(
    f"HARM_CATEGORY_{c}"
    for c in ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT", "CIVIC_INTEGRITY")
)
_THRESHOLDS = frozenset(
    {"HARM_BLOCK_THRESHOLD_UNSPECIFIED", "BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH"}
    | {"BLOCK_NONE", "OFF"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One request as understood. `declarations` is the canonical JSON of each function declaration."""

    contents: tuple[Content, ...]
    system: Content | None
    tools: tuple[Tool, ...]
    declarations: tuple[str, ...]
    mode: str
    allowed: tuple[str, ...]
    max_output_tokens: int
    stop_sequences: tuple[str, ...]
    schema: Json | None
    effort: str | None
    thinking_budget: int | None
    include_thoughts: bool
    service_tier: str


def read(body: Any, model: GeminiModel) -> GenerateRequest:
    """Read a request for the model asked for.

    Raises:
        GoogleError: for the first offence found.
    """
    fields = _REQUEST.read(body, "")
    if "cachedContent" in fields:
        # the sandbox holds no explicit caches, so any name is a foreign or expired one (wording unverified)
        raise GoogleError("PERMISSION_DENIED", "CachedContent not found (or permission denied)")
    contents = _contents(fields.get("contents"))
    system = (
        content(fields["systemInstruction"], "system_instruction", system=True)
        if "systemInstruction" in fields
        else None
    )
    tools, declarations = read_tools(fields.get("tools", []))
    mode, allowed = read_tool_config(fields.get("toolConfig", {}), tools)
    _safety(fields.get("safetySettings", []))
    generation = _GENERATION.read(fields.get("generationConfig", {}), "generation_config")
    effort, budget, shown = _thinking(generation.get("thinkingConfig", {}), model)
    check_turns(contents, model)
    return GenerateRequest(
        contents=contents,
        system=system,
        tools=tools,
        declarations=declarations,
        mode=mode,
        allowed=allowed,
        max_output_tokens=_sampling_and_length(generation, model),
        stop_sequences=_stop_sequences(generation.get("stopSequences", [])),
        schema=_response_schema(generation),
        effort=effort,
        thinking_budget=budget,
        include_thoughts=shown,
        service_tier=_passengers(fields),
    )


def read_contents(value: Any) -> tuple[Content, ...]:
    """Read a bare `contents` list, as countTokens takes it."""
    return _contents(value)


def _contents(value: Any) -> tuple[Content, ...]:
    if not isinstance(value, list) or not value:
        raise invalid("* GenerateContentRequest.contents: contents is not specified", "contents")
    return tuple(content(item, f"contents[{i}]") for i, item in enumerate(value))


def _safety(value: Any) -> None:
    if not isinstance(value, list):
        raise invalid("Invalid value at 'safety_settings', expected a list", "safety_settings")
    seen = set()
    for i, item in enumerate(value):
        at = f"safety_settings[{i}]"
        fields = _SAFETY.read(item, at)
        category = fields.get("category")
        if category not in _HARMS or fields.get("threshold") not in _THRESHOLDS:
            raise invalid(f"Invalid value at '{at}' (category or threshold)", at)
        if category in seen:
            raise invalid(f"element predicate failed: duplicate category {category}", at)
        seen.add(category)


def _thinking(value: Any, model: GeminiModel) -> tuple[str | None, int | None, bool]:
    """Return the level in force (None: no thinking), the token bound, and whether summaries are shown."""
    at = "generation_config.thinking_config"
    fields = _THINKING.read(value, at)
    level, budget = fields.get("thinkingLevel"), fields.get("thinkingBudget")
    shown = fields.get("includeThoughts", False)
    if not isinstance(shown, bool):
        raise invalid(f"Invalid value at '{at}.include_thoughts' (TYPE_BOOL)", at)
    if level is not None and budget is not None:
        raise invalid("You can only set only one of thinking budget and thinking level.", at)
    if model.levels:
        if budget is not None:
            raise invalid("Thinking budget is not supported for this model; use thinking level.", at)
        effort = model.default_level if level is None else str(level).lower()
        if effort not in model.levels:
            raise invalid(f"Thinking level {str(level).upper()} is not supported for this model.", at)
        return effort, None, shown
    if level is not None:
        raise invalid("Thinking level is not supported for this model.", at)
    return (*_budget(budget, model, at), shown)


def _budget(budget: Any, model: GeminiModel, at: str) -> tuple[str | None, int | None]:
    if budget is None:
        return ("medium" if model.thinks_by_default else None), None
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < -1 or budget > 24_576:
        raise invalid(
            f"The thinking budget {budget} is invalid. Please choose a value between 0 and 24576.", at
        )
    if 0 < budget < model.minimum_budget:
        raise invalid(f"The thinking budget {budget} is below the minimum of {model.minimum_budget}.", at)
    if budget == 0:
        return None, None
    return "medium", None if budget == -1 else budget


def _sampling_and_length(generation: Json, model: GeminiModel) -> int:
    """Check numbers (deprecated on 3.x, ignored there) and return the output limit."""
    bounds = {"temperature": 2.0, "topP": 1.0, "topK": 1e6, "presencePenalty": 2.0, "frequencyPenalty": 2.0}
    for name, top in bounds.items():
        number = generation.get(name)
        if number is None:
            continue
        low = -2.0 if name.endswith("Penalty") else 0.0
        if not isinstance(number, int | float) or isinstance(number, bool) or not low <= number <= top:
            raise invalid(f"{name} must be in the range [{low:g}, {top:g}]", "generation_config")
    candidates = generation.get("candidateCount", 1)
    if candidates != 1:
        raise invalid(
            "Multiple candidates is not enabled for this model", "generation_config.candidate_count"
        )
    limit = generation.get("maxOutputTokens", MAX_OUTPUT_TOKENS)
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_OUTPUT_TOKENS:
        raise invalid(
            f"Unable to submit request because it has a maxOutputTokens value of {limit} but the supported "
            f"range is from 1 (inclusive) to {MAX_OUTPUT_TOKENS + 1} (exclusive).",
            "generation_config.max_output_tokens",
        )
    modalities = generation.get("responseModalities", ["TEXT"])
    if modalities != ["TEXT"]:
        raise invalid(
            f"{model.id} only answers with TEXT in the sandbox", "generation_config.response_modalities"
        )
    return limit


def _stop_sequences(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 5 or not all(isinstance(v, str) and v for v in value):
        raise invalid(
            "stop_sequences must hold at most 5 non-empty strings", "generation_config.stop_sequences"
        )
    return tuple(value)


def _response_schema(generation: Json) -> Json | None:
    mime = generation.get("responseMimeType", "text/plain")
    if mime not in ("text/plain", "application/json"):
        raise invalid(
            f"* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are "
            f"`text/plain`, `application/json`. Got {mime}",
            "generation_config.response_mime_type",
        )
    given = [generation[k] for k in ("responseSchema", "responseJsonSchema") if k in generation]
    if len(given) > 1:
        raise invalid("only one of response_schema and response_json_schema may be set", "generation_config")
    if given and mime != "application/json":
        raise invalid(
            "Function calling config: response_schema needs response_mime_type application/json",
            "generation_config",
        )
    if "responseSchema" in generation:
        check_schema(generation["responseSchema"], "generation_config.response_schema")
    if given:
        if not isinstance(given[0], dict):
            raise invalid("a response schema must be an object", "generation_config")
        return given[0]
    return (
        {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
        if mime != "text/plain"
        else None
    )


def _passengers(fields: Json) -> str:
    if not isinstance(fields.get("store", True), bool):
        raise invalid("Invalid value at 'store' (TYPE_BOOL)", "store")
    tier = str(fields.get("serviceTier", "standard")).lower().removeprefix("service_tier_")
    if tier not in ("unspecified", "standard", "flex"):
        raise invalid(f"service tier {tier!r} is not offered by the sandbox", "service_tier")
    return "flex" if tier == "flex" else "standard"
