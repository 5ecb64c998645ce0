"""The spans of a recorded request, made without the SDK's machinery.

The rule: within a sampled trace a sampler has nothing left to say, because every one we offer decides by trace, and
what we write is known to be clean: keys of ours, plain values, fewer than any limit that anybody sets on their number.
So a span is a dict of attributes and two times, and when it is over it goes to the exporter's queue as a finished one.
The SDK checks and copies every attribute, behind locks, and asks three objects whether a span may begin (measured:
400 of the 1,230 Python calls of a request whose spans are all exported).

A stage has a name, a beginning, an end and a parent, and says at most why it failed. An exception is told by its type
alone: its text may quote a prompt.

It does not know who is sampled, nor what is written: that is `Telemetry` and `spans`.
"""

from asyncio import CancelledError
from collections.abc import Mapping
from random import getrandbits
from time import time_ns
from types import TracebackType
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from router import attributes as names

_ROOT: Final = Context()
_ERROR: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)
_HANDED_DOWN: Final = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID
_ATTRIBUTE_LIMIT: Final = 64
"""More than any span of ours has; who allows fewer, or bounds their length, has spans made by the SDK."""


def are_allowed(limits: SpanLimits) -> bool:
    """Whether spans of ours are within the limits that the environment sets."""
    count = limits.max_span_attributes
    return limits.max_span_attribute_length is None and (count is None or count >= _ATTRIBUTE_LIMIT)


class Parent:
    """What the spans below one sampled span need of it."""

    __slots__ = ("context", "flags", "state", "trace_id")

    def __init__(self, context: SpanContext) -> None:
        self.context = context
        self.trace_id = context.trace_id
        flags = context.trace_flags
        self.flags = flags if flags <= _HANDED_DOWN else TraceFlags(flags & _HANDED_DOWN)
        self.state = context.trace_state

    def child(self) -> SpanContext:
        """The context of one more span below."""
        return SpanContext(self.trace_id, getrandbits(64) or 1, False, self.flags, self.state)


class LightSpans:
    """Makes spans for one exporter's queue.

    Args:
        provider: Whose sampler decides about roots, whose ids they get, and whose resource all spans are of.
        scope: Of the spans the tracer makes; the same object, so that an encoder sees one kind of span.
    """

    __slots__ = ("_ids", "_root_flags", "_sampler", "processor", "resource", "scope")

    def __init__(
        self, provider: TracerProvider, processor: BatchSpanProcessor, scope: InstrumentationScope
    ) -> None:
        self.processor = processor
        self.resource = provider.resource
        self.scope = scope
        self._sampler = provider.sampler
        self._ids = provider.id_generator
        random = TraceFlags.RANDOM_TRACE_ID if self._ids.is_trace_id_random() else 0
        self._root_flags = TraceFlags(random), TraceFlags(random | TraceFlags.SAMPLED)

    def start_root(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> Span:
        """Begin a trace; its span records nothing if the sampler does not want it."""
        trace_id = self._ids.generate_trace_id()
        result = self._sampler.should_sample(_ROOT, trace_id, name, kind, attributes, ())
        sampled = result.decision is Decision.RECORD_AND_SAMPLE
        context = SpanContext(
            trace_id, self._ids.generate_span_id(), False, self._root_flags[sampled], result.trace_state
        )
        return (
            self.start(name, None, context, kind, dict(attributes)) if sampled else NonRecordingSpan(context)
        )

    def stage(self, name: str, parent: Parent) -> "Stage":
        """A stage below `parent`; it begins when it is entered."""
        return Stage(self, name, parent)

    def start(
        self,
        name: str,
        parent: Parent | None,
        context: SpanContext,
        kind: SpanKind,
        attributes: dict[str, Any],
    ) -> "LightSpan":
        """Begin a span of `context`, below `parent` or as a root.

        Args:
            attributes: Taken over, not copied.
        """
        return LightSpan(self, name, None if parent is None else parent.context, context, kind, attributes)

    def finish(
        self,
        name: str,
        parent: SpanContext | None,
        context: SpanContext,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        status: Status,
        start_ns: int,
        events: tuple[Event, ...] = (),
        end_ns: int | None = None,
    ) -> None:
        """Hand a span that is over to the exporter."""
        self.processor.on_end(
            ReadableSpan(
                name,
                context,
                parent,
                self.resource,
                attributes,
                events,
                (),
                kind,
                None,
                status,
                start_ns,
                time_ns() if end_ns is None else end_ns,
                self.scope,
            )
        )


class LightSpan(Span):
    """A span in progress; made by `LightSpans.start`. What is said after its end is not heard."""

    __slots__ = (
        "_attributes",
        "_context",
        "_events",
        "_kind",
        "_makers",
        "_name",
        "_open",
        "_parent",
        "_start_ns",
        "_status",
    )

    def __init__(
        self,
        makers: LightSpans,
        name: str,
        parent: SpanContext | None,
        context: SpanContext,
        kind: SpanKind,
        attributes: dict[str, Any],
    ) -> None:
        self._makers = makers
        self._name = name
        self._parent = parent
        self._context = context
        self._kind = kind
        self._attributes = attributes
        self._events: tuple[Event, ...] = ()
        self._status = _UNSET
        self._open = True
        self._start_ns = time_ns()

    def get_span_context(self) -> SpanContext:
        """Its ids."""
        return self._context

    def is_recording(self) -> bool:
        """Whether it is still in progress."""
        return self._open

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute; None leaves it as it is, as in the SDK."""
        if self._open and value is not None:
            self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes, none of them None."""
        if self._open:
            self._attributes.update(attributes)

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        """Note an instant."""
        if self._open:
            self._events += (Event(name, attributes, timestamp),)

    def update_name(self, name: str) -> None:
        """Give it another name."""
        if self._open:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say how it went; OK is final, and UNSET takes nothing back."""
        if not self._open or self._status.status_code is StatusCode.OK:
            return
        said = Status(status, description) if isinstance(status, StatusCode) else status
        if said.status_code is not StatusCode.UNSET:
            self._status = said

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Note an exception by its type."""
        told = {"exception.type": type(exception).__qualname__, **(attributes or {})}
        self.add_event("exception", told, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End it and hand it to the exporter, once."""
        if not self._open:
            return
        self._open = False
        self._makers.finish(
            self._name,
            self._parent,
            self._context,
            self._kind,
            self._attributes,
            self._status,
            self._start_ns,
            self._events,
            end_time,
        )


class Stage:
    """One stage, as a context manager. It is not the current span within, and takes no attributes."""

    __slots__ = ("_makers", "_name", "_parent", "_start_ns")

    def __init__(self, makers: LightSpans, name: str, parent: Parent) -> None:
        self._makers = makers
        self._name = name
        self._parent = parent
        self._start_ns = 0

    def __enter__(self) -> Span:
        self._start_ns = time_ns()
        return INVALID_SPAN

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        attributes, status = None, _UNSET
        if kind is not None:
            attributes = {names.ERROR_TYPE: kind.__qualname__}
            if not issubclass(kind, CancelledError):
                status = _ERROR
        parent = self._parent
        self._makers.finish(
            self._name, parent.context, parent.child(), SpanKind.INTERNAL, attributes, status, self._start_ns
        )
