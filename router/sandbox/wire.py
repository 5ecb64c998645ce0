"""One HTTP exchange, free of any HTTP library.

Rule: the sandbox core speaks these records only; `transport` and `listener` carry them over httpx2 or a
socket. A body that is a `ByteStream` must be closed by whoever received it: closing early is what a client
disconnect is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder()

Json = dict[str, Any]
Headers = tuple[tuple[str, str], ...]


class ConnectionDropped(Exception):
    """The server side vanished: before the headers when raised by `handle`, mid-body when raised by a
    stream."""


class ClientTimedOut(Exception):
    """The client's own read timeout would have fired while the sandbox was silent."""


class ByteStream(Protocol):
    """A response body produced piece by piece; a piece exists (and is billed) once it has been pulled."""

    def __aiter__(self) -> ByteStream: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None:
        """Stop: whatever was not pulled is never generated. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """A request as received; header names are lower case.

    `read_timeout_s` is the client's patience between two pieces when the sandbox has to enforce it itself
    (in process); None when a real socket does.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    read_timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WireResponse:
    """A response: whole bytes, or a stream that is pulled."""

    status: int
    headers: Headers
    body: bytes | ByteStream


def encode(value: Any) -> bytes:
    """Serialise to compact JSON, keys in insertion order."""
    return _ENCODER.encode(value)


def decode(data: bytes) -> Any:
    """Parse JSON, keeping key order.

    Raises:
        msgspec.DecodeError: if `data` is not JSON.
    """
    return _DECODER.decode(data)
