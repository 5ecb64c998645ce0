"""Stages of a recorded request as spans, made when they are over.

The rule: a stage has a name, a beginning, an end and a parent, and says at most why it failed, so it needs none of what
a span in progress can do. Within a sampled trace a sampler has nothing left to say either, because every one we offer
decides by trace. So the finished span goes straight to the exporter's queue (measured: a third of the CPU).
"""

from asyncio import CancelledError
from random import getrandbits
from time import time_ns
from types import TracebackType
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext, Status, StatusCode

from router import attributes as names

_ERROR: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)


class Stages:
    """Makes stages for one exporter's queue.

    Args:
        scope: Of the spans the tracer makes; the same object, so that an encoder sees one kind of span.
    """

    __slots__ = ("processor", "resource", "scope")

    def __init__(
        self, processor: BatchSpanProcessor, resource: Resource, scope: InstrumentationScope
    ) -> None:
        self.processor = processor
        self.resource = resource
        self.scope = scope

    def stage(self, name: str, parent: SpanContext) -> "Stage":
        """A stage below `parent`, which is sampled; it begins when it is entered."""
        return Stage(self, name, parent)


class Stage:
    """One stage, as a context manager. It is not the current span within, and takes no attributes."""

    __slots__ = ("_name", "_parent", "_stages", "_start_ns")

    def __init__(self, stages: Stages, name: str, parent: SpanContext) -> None:
        self._stages = stages
        self._name = name
        self._parent = parent
        self._start_ns = 0

    def __enter__(self) -> Span:
        self._start_ns = time_ns()
        return INVALID_SPAN

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        parent, stages = self._parent, self._stages
        attributes, status = None, _UNSET
        if kind is not None:
            attributes = {names.ERROR_TYPE: kind.__qualname__}
            if not issubclass(kind, CancelledError):
                status = _ERROR
        stages.processor.on_end(
            ReadableSpan(
                self._name,
                SpanContext(
                    parent.trace_id, getrandbits(64) or 1, False, parent.trace_flags, parent.trace_state
                ),
                parent,
                stages.resource,
                attributes,
                status=status,
                start_time=self._start_ns,
                end_time=time_ns(),
                instrumentation_scope=stages.scope,
            )
        )
