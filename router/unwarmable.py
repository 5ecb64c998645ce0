"""Why a prefix cannot be warmed, in a closed vocabulary: for metrics, logs and verdicts alike.

The rule: an order that cannot be carried out is an outcome with a reason, never a warm that nobody can read. The
reasons are few, so they can be a label; the sentence beside each is for people and holds nothing of anybody's prompt.
"""

import logging
from enum import StrEnum
from typing import NamedTuple

from router.call import Call, ToolChoiceMode

logger = logging.getLogger(__name__)

LOG_LIMIT = 1_000
"""Applications and reasons named in the log, each once; applications come from callers, so there is no end to them."""


class Reason(StrEnum):
    """Why not."""

    TOO_SHORT = "too_short"
    """Shorter than the least that the model caches."""
    OUTPUT_SCHEMA = "output_schema"
    """The provider takes no call of 0 tokens with an output schema, and without it the prefix is another."""
    TOOL_CHOICE = "tool_choice"
    """... nor with a forced tool call."""
    VARIED_PARAMETERS = "varied_parameters"
    """The application's requests differ in what is part of their prefix: the next one's cannot be known."""
    OPEN_TOOL_CALLS = "open_tool_calls"
    """The session's next turn brings results of tools, which nobody has yet."""
    UNKNOWN_SESSION = "unknown_session"
    """The session is not held, and no request of it is kept."""
    OTHER_BYTES = "other_bytes"
    """What would be sent is not what its traffic sends."""
    NOTHING_CACHED = "nothing_cached"
    """Nothing of it would be marked to be cached."""
    REFUSED = "refused"
    """It cannot be asked at all: the request itself is at fault, or the route does not take it."""


class Unwarmable(NamedTuple):
    """That something cannot be warmed.

    Attributes:
        why: For people, without the words "not warmable".
    """

    reason: Reason
    why: str

    @property
    def sentence(self) -> str:
        """As verdicts spell it."""
        return f"not warmable: {self.why}"


def objection(call: Call) -> Unwarmable | None:
    """What in a call's own parameters forbids warming it; None for nothing.

    `max_tokens: 0` cannot be combined with `output_config.format`, nor with a tool choice of "any" or "tool"
    (https://platform.claude.com/docs/en/build-with-claude/prompt-caching, pre-warming, 2026-11).
    """
    if call.max_output_tokens:
        return None
    if call.output_schema_json:
        return Unwarmable(Reason.OUTPUT_SCHEMA, "a call of 0 tokens cannot ask for an output schema")
    if call.tools and call.tool_choice.mode in (ToolChoiceMode.ANY, ToolChoiceMode.TOOL):
        return Unwarmable(Reason.TOOL_CHOICE, "a call of 0 tokens cannot force a tool call")
    return None


class Notices:
    """Says in the log, once per application and reason, what cannot be warmed."""

    def __init__(self) -> None:
        """Start with nothing said."""
        self._said: set[tuple[str, Reason]] = set()

    def note(self, application: str, trigger: str, found: Unwarmable) -> None:
        """Say it, unless that was said before."""
        key = application, found.reason
        if key in self._said or len(self._said) >= LOG_LIMIT:
            return
        self._said.add(key)
        logger.warning(
            "prefixes of application %r are not warmable (%s, first on %s): %s",
            application,
            found.reason.value,
            trigger,
            found.why,
        )
