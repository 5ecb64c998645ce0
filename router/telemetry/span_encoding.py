"""Finished spans as OTLP bytes, written by hand: the same messages the SDK's encoder builds, for a third of the CPU.

The rule: only what our spans are made of is known here, which is attributes of plain values and a status; a batch with
anything else (events, links, nested values) goes to the SDK's encoder whole. Field numbers are those of
opentelemetry-proto `trace/v1/trace.proto` and `common/v1/common.proto`, which never change. A test holds both encoders
against each other.
"""

from collections.abc import Sequence
from struct import Struct

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

_MASK = (1 << 64) - 1
_KEYS_LIMIT = 1024
_TIMES = Struct("<BQBQ").pack
_FLOAT = Struct("<Bd").pack
_KINDS = {kind: bytes((0x30, kind.value + 1)) for kind in SpanKind}
"""`kind`; OTLP counts from 1, the API from 0."""
_STATUSES = {
    StatusCode.UNSET: b"\x7a\x00",
    StatusCode.OK: b"\x7a\x02\x18\x01",
    StatusCode.ERROR: b"\x7a\x02\x18\x02",
}
"""`status` without a message."""
_LOCAL = b"\x85\x01\x00\x01\x00\x00"
_REMOTE = b"\x85\x01\x00\x03\x00\x00"
"""`flags`: that it is known whether the parent is remote, and that it is."""


class SpanExporter(OTLPSpanExporter):
    """The SDK's exporter over gRPC with the encoder of this module."""

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        """Encode a batch; the hook is the SDK's own, and one that is renamed costs the speed alone."""
        return encoded(data)


class _Foreign(Exception):
    """A span holds what this module does not write."""


def encoded(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """Encode a batch as `encode_spans` does."""
    if not spans:
        return encode_spans(spans)
    resource, scope = spans[0].resource, spans[0].instrumentation_scope
    if any(span.resource is not resource or span.instrumentation_scope is not scope for span in spans):
        return encode_spans(spans)
    try:
        written = [_span(span) for span in spans]
    except (_Foreign, UnicodeEncodeError):
        return encode_spans(spans)
    request = encode_spans(spans[:1])
    holder = request.resource_spans[0].scope_spans[0]
    del holder.spans[:]
    holder.MergeFromString(b"".join([b"\x12%b%b" % (_varint(len(span)), span) for span in written]))
    return request


def _span(span: ReadableSpan) -> bytes:
    context, parent, status = span.context, span.parent, span.status
    start_ns, end_ns = span.start_time, span.end_time
    if context is None or start_ns is None or end_ns is None or span.events or span.links:
        raise _Foreign
    if status.description or span.dropped_attributes or span.dropped_events or span.dropped_links:
        raise _Foreign
    name = span.name.encode()
    parts = [
        b"\x0a\x10",
        context.trace_id.to_bytes(16, "big"),
        b"\x12\x08",
        context.span_id.to_bytes(8, "big"),
    ]
    if context.trace_state:
        state = ",".join([f"{key}={value}" for key, value in context.trace_state.items()]).encode()
        parts += (b"\x1a", _varint(len(state)), state)
    if parent is not None:
        parts += (b"\x22\x08", parent.span_id.to_bytes(8, "big"))
    parts += (b"\x2a", _varint(len(name)), name, _KINDS[span.kind], _TIMES(0x39, start_ns, 0x41, end_ns))
    attributes = span.attributes
    if attributes:
        for key, value in attributes.items():
            parts.append(_attribute(key, value))
    parts += (
        _STATUSES[status.status_code],
        _REMOTE if parent is not None and parent.is_remote else _LOCAL,
    )
    return b"".join(parts)


_keys: dict[str, bytes] = {}


def _attribute(key: str, value: object) -> bytes:
    head = _keys.get(key)
    if head is None:
        text = key.encode()
        head = b"\x0a%b%b\x12" % (_varint(len(text)), text)
        if len(_keys) < _KEYS_LIMIT:
            _keys[key] = head
    held = _value(value)
    return b"\x4a%b%b%b%b" % (
        _varint(len(head) + len(_varint(len(held))) + len(held)),
        head,
        _varint(len(held)),
        held,
    )


def _value(value: object) -> bytes:
    kind = type(value)
    if kind is str:
        text = value.encode()  # type: ignore[attr-defined]
        return b"\x0a%b%b" % (_varint(len(text)), text)
    if kind is int:
        return b"\x18" + _varint(value & _MASK)  # type: ignore[operator]
    if kind is float:
        return _FLOAT(0x21, value)
    if kind is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if kind is tuple:
        held = [_value(each) for each in value]  # type: ignore[attr-defined]
        array = b"".join([b"\x0a%b%b" % (_varint(len(each)), each) for each in held])
        return b"\x2a%b%b" % (_varint(len(array)), array)
    raise _Foreign


def _varint(number: int) -> bytes:
    if number < len(_SMALL):
        return _SMALL[number]
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


_SMALL: tuple[bytes, ...] = ()
_SMALL = tuple(_varint(number) for number in range(1 << 12))
