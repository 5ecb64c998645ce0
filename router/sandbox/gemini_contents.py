"""Gemini contents and parts, read strictly (G-GEN, G-FC, G-SIG; 2026-11).

Rule: a part holds exactly one kind of data, plus its thought signature; every field is known, in either
spelling. It becomes a `Part` with canonical bytes (what implicit caching compares), the text its tokens
come from, and what pairing needs. It does not know files, audio, video, or built-in tools: these are
refused, saying so.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from router.sandbox.gemini_errors import Fields, GoogleError, invalid
from router.sandbox.signatures import Thought, unseal
from router.sandbox.wire import Json, encode

DUMMY_SIGNATURE = "context_engineering_is_the_way_to_go"
"""Documented for calls another model made (G-SIG)."""

CALL_TOKENS = 4
MEDIA_TOKENS = (258, 2_000)  # base, bytes per token
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}\Z")
_CONTENT = Fields("role", "parts")
_PART = Fields(
    "text", "thought", "thoughtSignature", "inlineData", "functionCall", "functionResponse", "partMetadata"
)
_BLOB = Fields("mimeType", "data", "displayName")
_CALL = Fields("id", "name", "args")
_RESPONSE = Fields("id", "name", "response", "parts", "scheduling", "willContinue")
_RESPONSE_PART = Fields("inlineData")
_DATA = ("text", "inlineData", "functionCall", "functionResponse")
_UNPLAYED = frozenset(
    {
        "fileData",
        "file_data",
        "executableCode",
        "executable_code",
        "codeExecutionResult",
        "code_execution_result",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a content.

    `signature` is the raw thought signature; `thought_of` what ours carries. `name`, `call_id` and `args`
    are those of a call or response. `modality` is the wire's word for the tokens' kind. `attached` are the media of a
    response.
    """

    kind: str
    canon: bytes
    text: str
    extra_tokens: int = 0
    modality: str = "TEXT"
    signature: str | None = None
    thought_of: Thought | None = None
    is_dummy: bool = False
    name: str = ""
    call_id: str | None = None
    args: Json | None = None
    attached: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """One turn: role and parts."""

    role: str
    parts: tuple[Part, ...]

    def of(self, kind: str) -> tuple[Part, ...]:
        """Return the parts of one kind."""
        return tuple(p for p in self.parts if p.kind == kind)


def content(value: Any, at: str, *, system: bool = False) -> Content:
    """Read one content; a missing role is the user's.

    Raises:
        GoogleError: naming the field.
    """
    fields = _CONTENT.read(value, at)
    role = fields.get("role", "user")
    if role not in (("user", "model", "system") if system else ("user", "model")):
        raise invalid("Please use a valid role: user, model.", f"{at}.role")
    parts = fields.get("parts")
    if not isinstance(parts, list) or not parts:
        raise invalid(
            f"* GenerateContentRequest.{at}.parts: contents.parts must not be empty.", f"{at}.parts"
        )
    read = tuple(_part(item, f"{at}.parts[{i}]", role) for i, item in enumerate(parts))
    if system and any(p.kind != "text" for p in read):
        raise invalid("System instruction only supports text parts.", at)
    return Content(role=role, parts=read)


def _part(value: Any, at: str, role: str) -> Part:
    if isinstance(value, dict) and not _UNPLAYED.isdisjoint(value):
        raise invalid(f"the sandbox does not play files or built-in tools ('{at}')", at)
    fields = _PART.read(value, at)
    kinds = [k for k in _DATA if k in fields]
    if len(kinds) != 1:
        raise invalid(f"{at}.data: required oneof field 'data' must have one initialized field", at)
    signature, thought, dummy = _signature(fields.get("thoughtSignature"), at)
    signed: dict[str, Any] = {"signature": signature, "thought_of": thought, "is_dummy": dummy}
    tail = b"\0" + signature.encode() if signature else b""
    match kinds[0]:
        case "text":
            return _text(fields, at, tail, signed)
        case "inlineData":
            return _inline(fields["inlineData"], at, role)
        case "functionCall":
            return _call(fields["functionCall"], at, role, tail, signed)
        case _:
            return _response(fields["functionResponse"], at, role)


def _text(fields: Json, at: str, tail: bytes, signed: dict[str, Any]) -> Part:
    text = fields["text"]
    if not isinstance(text, str):
        raise invalid(f"Invalid value at '{at}.text' (TYPE_STRING)", f"{at}.text")
    # a thought summary sent back is display only: it has no weight of its own
    kind, shown = ("thought", "") if fields.get("thought") is True else ("text", text)
    return Part(kind=kind, canon=text.encode() + tail, text=shown, **signed)


def _inline(value: Any, at: str, role: str) -> Part:
    blob = _BLOB.read(value, f"{at}.inline_data")
    mime, data = blob.get("mimeType"), blob.get("data")
    if not isinstance(mime, str) or not isinstance(data, str):
        raise invalid(f"Invalid value at '{at}.inline_data': mime_type and data are required", at)
    if role != "user":
        raise invalid("inline data is only supported in user contents", at)
    raw = _bytes(data, f"{at}.inline_data.data")
    canon = mime.encode() + b"\0" + raw
    if mime.startswith("text/"):
        return Part(kind="media", canon=canon, text=raw.decode("utf-8", "replace"))
    if mime.startswith("image/") or mime == "application/pdf":
        base, per_token = MEDIA_TOKENS
        modality = "IMAGE" if mime.startswith("image/") else "DOCUMENT"
        tokens = base + len(raw) // per_token
        return Part(kind="media", canon=canon, text="", extra_tokens=tokens, modality=modality)
    raise invalid(f"Unsupported MIME type: {mime} (the sandbox plays text, images and PDF)", at)


def _call(value: Any, at: str, role: str, tail: bytes, signed: dict[str, Any]) -> Part:
    call = _CALL.read(value, f"{at}.function_call")
    name, args = check_name(call.get("name"), f"{at}.function_call.name"), call.get("args", {})
    if role != "model":
        raise invalid("Please ensure that function call turns have the role 'model'.", at)
    if not isinstance(args, dict):
        raise invalid(f"Invalid value at '{at}.function_call.args' (Map), expected an object", at)
    shown = encode(args).decode()
    canon = f"{call.get('id', '')}\0{name}\0{shown}".encode() + tail
    return Part(
        kind="call",
        canon=canon,
        text=f"{name} {shown}",
        extra_tokens=CALL_TOKENS,
        name=name,
        call_id=_id(call.get("id"), at),
        args=args,
        **signed,
    )


def _response(value: Any, at: str, role: str) -> Part:
    response = _RESPONSE.read(value, f"{at}.function_response")
    name, result = check_name(response.get("name"), f"{at}.function_response.name"), response.get("response")
    if role != "user":
        raise invalid("Please ensure that function response turns have the role 'user'.", at)
    if not isinstance(result, dict):
        raise invalid(f"Invalid value at '{at}.function_response.response' (Struct), expected an object", at)
    shown = encode(result).decode()
    media = response.get("parts", [])
    if not isinstance(media, list):
        raise invalid(f"Invalid value at '{at}.function_response.parts', expected a list", at)
    return Part(
        attached=tuple(_attached(item, f"{at}.function_response.parts[{i}]") for i, item in enumerate(media)),
        kind="response",
        canon=f"{response.get('id', '')}\0{name}\0{shown}".encode(),
        text=f"{name} {shown}",
        extra_tokens=CALL_TOKENS,
        name=name,
        call_id=_id(response.get("id"), at),
    )


def _attached(value: Any, at: str) -> Part:
    """Read a part of a function response: media by value, nothing else (G-SDK types)."""
    fields = _RESPONSE_PART.read(value, at)
    if "inlineData" not in fields:
        raise invalid(f"{at}.data: required oneof field 'data' must have one initialized field", at)
    return _inline(fields["inlineData"], at, "user")


def check_name(name: Any, at: str) -> str:
    """Check and return a function name.

    Raises:
        GoogleError: if it is not one.
    """
    if isinstance(name, str) and _NAME.match(name):
        return name
    raise invalid(
        "Invalid function name. Must start with a letter or an underscore. Must be alphanumeric (a-z, A-Z, "
        "0-9), underscores (_), dots (.), colons (:), or dashes (-), with a maximum length of 128.",
        at,
    )


def _id(value: Any, at: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid(f"Invalid value at '{at}.id' (TYPE_STRING)", at)
    return value or None


def _signature(value: Any, at: str) -> tuple[str | None, Thought | None, bool]:
    if value is None:
        return None, None, False
    raw = _bytes(value, f"{at}.thought_signature")
    plain = value.rstrip("=").replace("-", "+").replace("_", "/")
    dummy = DUMMY_SIGNATURE.replace("_", "/") == plain or raw == DUMMY_SIGNATURE.encode()
    if dummy:
        return value, None, True
    thought = unseal(value)
    if thought is None:
        raise invalid("Corrupted thought signature.", f"{at}.thought_signature")
    return value, thought, False


def _bytes(value: Any, at: str) -> bytes:
    """Decode base64 in either alphabet."""
    try:
        text = value.replace("-", "+").replace("_", "/")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (AttributeError, binascii.Error, ValueError) as error:
        raise GoogleError(
            "INVALID_ARGUMENT", f"Invalid value at '{at}' (TYPE_BYTES), Base64 decoding failed"
        ) from error
