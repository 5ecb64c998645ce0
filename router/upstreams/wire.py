"""Reading a provider's JSON: strict and fast while it is as documented, patient when it is not.

The rule: an answer is paid for, so it is never lost for a field nobody needs. What a provider documents is
decoded straight into structs; only when that fails is the text read again by hand. Then null and values of
another kind count as absent, objects of a kind we do not know keep nothing but their `type`, and halves of a
character (lone surrogates, which JSON can spell and UTF-8 cannot) become U+FFFD. Only text that is no JSON, or
a wrong kind where the answer itself stands (`NEEDED`), is an error, and always `msgspec.DecodeError`.

This module does not know what any field means.
"""

import json
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import msgspec

LOST = "\ufffd"
"""Stands for half a character whose other half never came."""

MAX_COUNT = 10**12
"""Tokens no call can have: a count above is no count."""
_INT_LIMIT = 2**63
_MAX_DIGITS = 18
_ABSENT: Any = object()


class WireObject(msgspec.Struct, gc=False):
    """A JSON object of a provider; fields it does not list are skipped.

    Attributes:
        KINDS: Values of `type` whose other fields are read at all, None for every.
        NEEDED: By `type` ("" for every): fields (as on the wire) whose value, if there is one, must be of its kind.
        PIECES: Fields whose text goes on in the next object, so that half a character at an edge is kept.
    """

    KINDS: ClassVar[frozenset[str] | None] = None
    NEEDED: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    PIECES: ClassVar[frozenset[str]] = frozenset()


T = TypeVar("T", bound=msgspec.Struct)


def decoder(kind: type[T]) -> Callable[[bytes], T]:
    """Return a function from a JSON text to a `kind`; it raises msgspec.DecodeError and nothing else."""
    fast = msgspec.json.Decoder(kind).decode

    def decode(data: bytes) -> T:
        try:
            return fast(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return fitted(loads(data), kind)

    return decode


def loads(data: bytes) -> Any:
    """Read any JSON, also with half characters.

    Raises:
        msgspec.DecodeError: If it is not JSON, or not UTF-8.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise msgspec.DecodeError("not JSON in UTF-8") from error


def fitted(value: Any, kind: type[T]) -> T:
    """Read a decoded object into `kind`, leaving out what does not fit.

    Raises:
        msgspec.DecodeError: If it is no object, or a needed field is of another kind.
    """
    if not isinstance(value, dict):
        raise msgspec.DecodeError("not a JSON object")
    known: frozenset[str] | None = getattr(kind, "KINDS", None)
    by_type: Mapping[str, tuple[str, ...]] = getattr(kind, "NEEDED", {})
    pieces: frozenset[str] = getattr(kind, "PIECES", frozenset())
    type_ = value.get("type")
    needed = (*by_type.get("", ()), *(by_type.get(type_, ()) if isinstance(type_, str) and type_ else ()))
    is_known = known is None or type_ is None or type_ in ("", *known)
    given: dict[str, Any] = {}
    for name, wire_name, field_kind in _fields(kind):
        raw = value.get(wire_name)
        if raw is None or not (is_known or wire_name == "type"):
            continue
        fit = _fit(raw, field_kind, is_piece=wire_name in pieces)
        if fit is not _ABSENT:
            given[name] = fit
        elif wire_name in needed:
            raise msgspec.DecodeError(f"{wire_name} is of another kind than documented")
    return kind(**given)


@lru_cache(maxsize=64)
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, Any], ...]:
    return tuple((field.name, field.encode_name, field.type) for field in msgspec.structs.fields(kind))


def _fit(value: Any, kind: Any, *, is_piece: bool = False) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
    if kind is Any:
        return value
    if kind is msgspec.Raw:
        return msgspec.Raw(json.dumps(_mended_all(value), ensure_ascii=False).encode())
    if kind is str:
        return _mended_piece(value, is_piece) if isinstance(value, str) else _ABSENT
    if kind is bool:
        return value if isinstance(value, bool) else _ABSENT
    if kind is int:
        return _whole_number(value)
    if typing.get_origin(kind) is list:
        if not isinstance(value, list):
            return _ABSENT
        (item_kind,) = typing.get_args(kind)
        return [fit for item in value if (fit := _fit(item, item_kind)) is not _ABSENT]
    return fitted(value, kind) if isinstance(value, dict) else _ABSENT


def _whole_number(value: Any) -> Any:
    """Take 8, 8.0 and "8": JSON of protobuf spells 64 bit integers as text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and abs(value) < _INT_LIMIT else _ABSENT


def mended(text: str) -> str:
    """Return `text` with pairs of surrogates joined and lone ones replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def header_text(value: str) -> str:
    """Return a header's value as it can be written down: aiohttp gives bytes that are not UTF-8 as lone surrogates."""
    return value if value.isascii() else mended(value)


def is_half(char: str) -> bool:
    """Say whether `char` is half of a character."""
    return "\ud800" <= char <= "\udfff"


def seamed(held: str, piece: str) -> tuple[str, str]:
    """Join a piece of text to the half character its predecessor ended with.

    Args:
        held: That half, "" for none.
        piece: The next text, not empty.

    Returns:
        The text to give out, and the half it ends with, to be held.
    """
    text = held + piece
    tail = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    return mended(text[:-1] if tail else text), tail


def _mended_piece(text: str, is_piece: bool) -> str:
    if not is_piece or not text:
        return mended(text)
    head = text[0] if "\udc00" <= text[0] <= "\udfff" else ""
    given, tail = seamed("", text[len(head) :]) if text[len(head) :] else ("", "")
    return head + given + tail


def _mended_all(value: Any) -> Any:
    match value:
        case str():
            return mended(value)
        case list():
            return [_mended_all(item) for item in value]
        case dict():
            return {mended(name): _mended_all(item) for name, item in value.items()}
        case _:
            return value
