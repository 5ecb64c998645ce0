"""Ledger records as bytes: one JSON object each, the same in the journal and in the store.

The rule: what is written can be read back as an equal record; fields added later have defaults, unknown ones
are ignored, so a newer release reads an older journal. This module does not know where the bytes go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from router.feedback import Feedback
from router.settlement import Intent, Settlement
from router.warm_verdict import WarmVerdict

INTENT = b"I"
SETTLEMENT = b"S"
FEEDBACK = b"F"
WARM = b"W"

Key = tuple[str, int]
"""(request_id, attempt): the identity of a call."""


class Undecodable(ValueError):
    """The bytes are not a record this release can read."""


class IntentRecord(msgspec.Struct, frozen=True, gc=False):
    """An intent and the bytes it is kept as."""

    intent: Intent
    body: bytes

    @property
    def key(self) -> Key:
        """The call's identity."""
        return self.intent.request_id, self.intent.attempt


class SettlementRecord(msgspec.Struct, frozen=True, gc=False):
    """A settlement and the bytes it is kept as."""

    settlement: Settlement
    body: bytes

    @property
    def key(self) -> Key:
        """The call's identity."""
        return self.settlement.intent.request_id, self.settlement.intent.attempt


class FeedbackRecord(msgspec.Struct, frozen=True, gc=False):
    """A feedback and the bytes it is kept as."""

    feedback: Feedback
    body: bytes


class WarmRecord(msgspec.Struct, frozen=True, gc=False):
    """What a decision to warm came to, and the bytes it is kept as."""

    verdict: WarmVerdict
    body: bytes


Record = IntentRecord | SettlementRecord | FeedbackRecord | WarmRecord


def _plain(value: object) -> object:
    """Turn what msgspec does not know (mapping proxies and kin) into what it does."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a ledger record must not hold a {type(value).__name__}")


_T = TypeVar("_T")

_ENCODER = msgspec.json.Encoder(enc_hook=_plain)
_INTENTS = msgspec.json.Decoder(Intent)
_SETTLEMENTS = msgspec.json.Decoder(Settlement)
_FEEDBACKS = msgspec.json.Decoder(Feedback)
_WARMS = msgspec.json.Decoder(WarmVerdict)


def encode(entry: Intent | Settlement | Feedback | WarmVerdict | Mapping[str, str]) -> bytes:
    """Return `entry` as JSON without a newline.

    Raises:
        TypeError: It holds a value of a type that no field has.
        OverflowError: A number needs more than 64 bits.
    """
    return _ENCODER.encode(entry)


def _decoded(decoder: msgspec.json.Decoder[_T], body: bytes, what: str) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Undecodable(f"not {what}: {type(error).__name__}") from error


def decode_intent(body: bytes) -> Intent:
    """Return the intent that `encode` wrote.

    Raises:
        Undecodable: The bytes are something else.
    """
    return _decoded(_INTENTS, body, "an intent")


def decode_settlement(body: bytes) -> Settlement:
    """Return the settlement that `encode` wrote.

    Raises:
        Undecodable: The bytes are something else.
    """
    return _decoded(_SETTLEMENTS, body, "a settlement")


def decode_feedback(body: bytes) -> Feedback:
    """Return the feedback that `encode` wrote.

    Raises:
        Undecodable: The bytes are something else.
    """
    return _decoded(_FEEDBACKS, body, "a feedback")


def decode_warm(body: bytes) -> WarmVerdict:
    """Return the verdict on a warm that `encode` wrote.

    Raises:
        Undecodable: The bytes are something else.
    """
    return _decoded(_WARMS, body, "a verdict on a warm")


def decode(kind: bytes, body: bytes) -> Record:
    """Return the record of a journal line.

    Raises:
        Undecodable: The kind is unknown or the body is something else.
    """
    match kind:
        case b"I":
            return IntentRecord(decode_intent(body), body)
        case b"S":
            return SettlementRecord(decode_settlement(body), body)
        case b"F":
            return FeedbackRecord(decode_feedback(body), body)
        case b"W":
            return WarmRecord(decode_warm(body), body)
        case _:
            known = INTENT, SETTLEMENT, FEEDBACK, WARM
            raise Undecodable(f"kind {kind!r} is not one of {known}")
