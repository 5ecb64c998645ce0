"""A workload in memory: requests on one timeline of virtual time, and the errors of reading one.

The rule: immutable values in the router's own words (`router.call`), whatever file they came from. The order
of the requests is the order they are sent; time is only the idle seconds between them. It knows no file
format."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from router.call import Effort, Message, Tool


class WorkloadError(Exception):
    """A workload cannot be read; the message names file, line, field, value and what is accepted."""

    def __init__(self, source: str, line: int, problem: str, *, field: str = "") -> None:
        where = f"{source}:{line}" if line else source
        super().__init__(f"{where}: {field}: {problem}" if field else f"{where}: {problem}")
        self.source = source
        self.line = line
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestConstraints:
    """Demands on the decision, as in the proto; `forced_route` is "flash", "opus" or "" for none."""

    forced_route: str = ""
    quality_floor: float | None = None
    cost_ceiling_nano_usd: int | None = None
    no_cache: bool = False
    expected_follow_up_count: int | None = None
    no_fallback: bool = False
    no_exploration: bool = False
    no_escalation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRequest:
    """One request to send.

    Attributes:
        session: Conversation it belongs to, "" for none.
        messages: The new user turn (one message) if `continues`, else the whole conversation.
        continues: Whether `messages` follow what the session holds, instead of replacing it.
        after_s: Idle seconds of virtual time since the request before it in the workload, >= 0.
        cancel_after_events: Events after which the stream is left, None to read it all.
        max_output_tokens: 0 for the application's default.
        cache_strategy: "" for the application's.
        tool_results: Result text by tool name, for calls in the router's answers.
    """

    id: str
    session: str = ""
    tenant: str = ""
    user: str = ""
    application: str = ""
    system: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    user_context: tuple[str, ...] = ()
    messages: tuple[Message, ...]
    continues: bool = False
    after_s: float = 0.0
    stream: bool = False
    cancel_after_events: int | None = None
    max_output_tokens: int = 0
    effort: Effort | None = None
    cache_strategy: str = ""
    constraints: RequestConstraints = RequestConstraints()
    labels: Mapping[str, str] = field(default_factory=dict)
    action: str = ""
    tool_results: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests in the order they are sent.

    Attributes:
        source: File name, for reports.
        format: "workload", "tool_dialogues" or "agent_text".
        max_tool_steps: Tool steps to take after a request before its calls are left to the next turn; 0 for
            recordings, whose next request already holds the recorded results.
    """

    source: str
    format: str
    requests: tuple[WorkloadRequest, ...]
    max_tool_steps: int = 0

    @property
    def duration_s(self) -> float:
        """Virtual seconds from the start to the last request."""
        return sum(request.after_s for request in self.requests)

    @property
    def session_count(self) -> int:
        """Sessions; a request without one counts as its own."""
        named = {request.session for request in self.requests if request.session}
        return len(named) + sum(1 for request in self.requests if not request.session)


def interleave(
    sessions: Iterable[tuple[WorkloadRequest, ...]], *, spacing_s: float, concurrency: int
) -> tuple[WorkloadRequest, ...]:
    """Lay sessions on one timeline: `concurrency` open at once, each with a request every `spacing_s`.

    A session opens where one has ended, in the order given; the first open evenly spread over one spacing.
    Deterministic. The requests' own `after_s` is replaced.
    """
    free = [spacing_s * lane / concurrency for lane in range(concurrency)]
    timed: list[tuple[float, WorkloadRequest]] = []
    for session in sessions:
        lane = min(range(concurrency), key=free.__getitem__)
        timed += [(free[lane] + spacing_s * index, request) for index, request in enumerate(session)]
        free[lane] += spacing_s * len(session)
    timed.sort(key=lambda entry: entry[0])  # stable: a session's own order holds even without spacing
    previous_s = 0.0
    requests = []
    for time_s, request in timed:
        requests.append(replace(request, after_s=time_s - previous_s))
        previous_s = time_s
    return tuple(requests)


def result_text(value: object) -> str:
    """Spell a tool's result as the text a model reads: text as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else compact_json(value)


def compact_json(value: object) -> str:
    """Spell a JSON value without spaces, keys in the order given: the bytes are part of a cached prefix."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
