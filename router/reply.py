"""What an upstream gives back: a whole Reply, or the Chunks of one as they come."""

import msgspec

from router.call import FinishReason, Part
from router.usage import Usage


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A finished answer.

    Attributes:
        parts: Content in order; thinking and signatures as the provider gave them.
        finish_reason: Why it ended.
        stop_sequence: The sequence that ended it, "" when none did.
        refusal_category: Provider's category when finish_reason is REFUSAL, "" when it gave none.
        usage: Tokens billed; None when the provider reported none (cost is then unknown, not zero).
        model: Model id that answered; prices go by it.
        response_id: Provider's id of the answer, to match its invoice.
        upstream_request_id: Provider's id of the HTTP request, "" when it gave none.
        cache_diagnostics: Provider's own cause of a cache miss (type), "" when none was given.
        cache_diagnostics_missed_tokens: Its estimate of the tokens missed, None when not given.
    """

    parts: tuple[Part, ...]
    finish_reason: FinishReason
    stop_sequence: str = ""
    refusal_category: str = ""
    usage: Usage | None
    model: str
    response_id: str = ""
    upstream_request_id: str = ""
    cache_diagnostics: str = ""
    cache_diagnostics_missed_tokens: int | None = None


class Started(msgspec.Struct, frozen=True, gc=False):
    """The answer has begun (response headers or first event): what this call writes is readable from now on.

    `usage` holds what the provider has already said (Anthropic: exact input counts), or None; its output count is a
    placeholder that the content to follow replaces.
    """

    model: str
    response_id: str
    upstream_request_id: str
    usage: Usage | None


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the answer's text; parts are numbered by `index` in the order they will have in the Reply."""

    index: int
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, gc=False):
    """More of a thinking summary."""

    index: int
    text: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """More of a tool call; the first delta of an index carries id and name, all carry a piece of the arguments."""

    index: int
    id: str
    name: str
    arguments_json: str


class UsageSeen(msgspec.Struct, frozen=True, gc=False):
    """A newer cumulative count; replaces what was known before, never adds to it.

    It comes before the content it was reported with, so that whoever leaves between the two still has the count.

    Attributes:
        included_delta_count: Content chunks following directly that the count already includes.
    """

    usage: Usage
    included_delta_count: int = 0


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The last chunk: the whole Reply, parts assembled from the deltas, usage final."""

    reply: Reply


Chunk = Started | TextDelta | ThinkingDelta | ToolCallDelta | UsageSeen | Finished
