"""`GET models` and `GET models/{id}` of the Gemini face, and the 404 for ids that do not answer (G-MODELS,
2026-11).

Rule: what is listed is what answers at that instant on that API version.
"""

from __future__ import annotations

from router.sandbox.gemini_errors import GoogleError
from router.sandbox.gemini_models import CONTEXT_TOKENS, MAX_OUTPUT_TOKENS, MODELS, find
from router.sandbox.wire import Json


def no_model(name: str | None, version: str) -> GoogleError:
    """Return the refusal of an unknown or shut-down id."""
    return GoogleError(
        "NOT_FOUND",
        f"models/{name} is not found for API version {version}, or is not supported for generateContent. "
        "Call ListModels to see the list of available models and their supported methods.",
    )


def catalogue(version: str, name: str | None, now: float) -> Json:
    """Return the list, or one model.

    Raises:
        GoogleError: for an id that does not answer.
    """
    if name is None:
        return {"models": [_info(m) for m in MODELS if find(m, version, now) is not None]}
    if find(name, version, now) is None:
        raise no_model(name, version)
    return _info(name)


def _info(name: str) -> Json:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name.replace("-", " ").title(),
        "inputTokenLimit": CONTEXT_TOKENS,
        "outputTokenLimit": MAX_OUTPUT_TOKENS,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"],
        "thinking": True,
    }
