"""How a request turned out, in the words of whoever judged it: the record the ledger keeps beside the decision.

The rule: one judgement per request and source; a source that judges again replaces its own, and the same judgement sent
again changes nothing, so that a caller may repeat a call whose answer it never saw. No text: a verdict, a score, and
the name of a source. This module does not know requests, ledgers or gRPC.
"""

import re
from enum import StrEnum
from math import isfinite

import msgspec

from router.errors import InvalidRequest

MAX_SOURCES = 8
"""Sources that may judge one request: people and judge models, not every visitor."""
SOURCE_CHARACTERS = 64
MAX_REQUEST_ID = 192
"""Longest request id there is: a caller's 128 characters and our suffix, with room to grow."""

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,63}")


class Verdict(StrEnum):
    """How a request turned out; names as in the contract's FeedbackVerdict, lower case."""

    GOOD = "good"
    BAD = "bad"
    FLASH_SUFFICED = "flash_sufficed"
    """Opus answered and Flash would have done."""
    OPUS_NEEDED = "opus_needed"
    """Flash answered and Opus was needed."""


class Feedback(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One source's judgement of one request.

    Attributes:
        tenant: Of the request, as the judge named it.
        source: Who judged, a name.
        verdict: None when only a score was given.
        score: Quality of the answer in [0, 1], None when only a verdict was given.
        time_s: When it came, seconds since the epoch.
    """

    request_id: str
    tenant: str
    source: str
    verdict: Verdict | None
    score: float | None
    time_s: float

    @property
    def word(self) -> Verdict:
        """The verdict, or what the score alone says: good from one half on."""
        if self.verdict is not None:
            return self.verdict
        return Verdict.GOOD if self.score is None or self.score >= 0.5 else Verdict.BAD


class Received(StrEnum):
    """What came of a feedback."""

    RECORDED = "recorded"
    REPLACED = "replaced"
    """It took the place of an earlier judgement of its source."""
    REPEATED = "repeated"
    """It was there already, word for word."""
    UNKNOWN = "unknown"
    """No user's request of that id and tenant was ever made here."""
    EXPIRED = "expired"
    """The request is past the time in which it may be judged."""
    TOO_MANY = "too_many"
    """The request has been judged by `MAX_SOURCES` others."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What came of a feedback, and what it was about.

    Attributes:
        time_s: When the judgement that stands now was recorded.
        replaced: Whether it took the place of an earlier one.
        route: Route the request was decided for; "" while its first attempt is not settled.
        model_digest: Classifier that decided it, "" when none did or it is not settled.
        reason: The rule that decided, likewise.
    """

    received: Received
    time_s: float
    replaced: bool = False
    route: str = ""
    model_digest: str = ""
    reason: str = ""

    @property
    def kept(self) -> bool:
        """Whether the judgement is in the ledger."""
        return self.received in (Received.RECORDED, Received.REPLACED, Received.REPEATED)


def checked(
    request_id: str, tenant: str, source: str, verdict: Verdict | None, score: float | None, time_s: float
) -> Feedback:
    """Return the feedback if every field is right.

    Raises:
        InvalidRequest: A field is wrong; the message names it, its value and what is allowed.
    """
    if not request_id:
        raise InvalidRequest("request_id", "is empty; give the request_id of the response")
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidRequest(
            "request_id", f"has {len(request_id)} characters; at most {MAX_REQUEST_ID} are allowed"
        )
    if not source:
        raise InvalidRequest("source", 'is empty; name who judged, e.g. "user" or "judge-model"')
    if len(source) > SOURCE_CHARACTERS:
        raise InvalidRequest(
            "source", f"has {len(source)} characters; at most {SOURCE_CHARACTERS} are allowed"
        )
    if _SOURCE.fullmatch(source) is None:
        raise InvalidRequest(
            "source",
            "is no name; allowed are letters, digits and . _ : @ / -, with a letter or digit first",
        )
    if verdict is None and score is None:
        raise InvalidRequest("verdict", "is not set; give a verdict, a score or both")
    if score is not None and not (isfinite(score) and 0.0 <= score <= 1.0):
        raise InvalidRequest("score", f"is {score:g}; it must be from 0 to 1")
    return Feedback(
        request_id=request_id, tenant=tenant, source=source, verdict=verdict, score=score, time_s=time_s
    )
