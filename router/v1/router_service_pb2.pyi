from router.v1 import accounting_pb2 as _accounting_pb2
from router.v1 import content_pb2 as _content_pb2
from router.v1 import routing_pb2 as _routing_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Prompt(_message.Message):
    __slots__ = ("application", "system", "tools", "user_context", "messages", "tool_choice", "max_output_tokens", "stop_sequences", "effort", "output_schema_json", "include_thinking", "cache_strategy", "session_version")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    USER_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TOOL_CHOICE_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCHEMA_JSON_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_THINKING_FIELD_NUMBER: _ClassVar[int]
    CACHE_STRATEGY_FIELD_NUMBER: _ClassVar[int]
    SESSION_VERSION_FIELD_NUMBER: _ClassVar[int]
    application: str
    system: _containers.RepeatedScalarFieldContainer[str]
    tools: _containers.RepeatedCompositeFieldContainer[_content_pb2.Tool]
    user_context: _containers.RepeatedScalarFieldContainer[str]
    messages: _containers.RepeatedCompositeFieldContainer[_content_pb2.Message]
    tool_choice: _content_pb2.ToolChoice
    max_output_tokens: int
    stop_sequences: _containers.RepeatedScalarFieldContainer[str]
    effort: _content_pb2.Effort
    output_schema_json: str
    include_thinking: bool
    cache_strategy: _accounting_pb2.CacheStrategy
    session_version: int
    def __init__(self, application: _Optional[str] = ..., system: _Optional[_Iterable[str]] = ..., tools: _Optional[_Iterable[_Union[_content_pb2.Tool, _Mapping]]] = ..., user_context: _Optional[_Iterable[str]] = ..., messages: _Optional[_Iterable[_Union[_content_pb2.Message, _Mapping]]] = ..., tool_choice: _Optional[_Union[_content_pb2.ToolChoice, _Mapping]] = ..., max_output_tokens: _Optional[int] = ..., stop_sequences: _Optional[_Iterable[str]] = ..., effort: _Optional[_Union[_content_pb2.Effort, str]] = ..., output_schema_json: _Optional[str] = ..., include_thinking: _Optional[bool] = ..., cache_strategy: _Optional[_Union[_accounting_pb2.CacheStrategy, str]] = ..., session_version: _Optional[int] = ...) -> None: ...

class Caller(_message.Message):
    __slots__ = ("tenant", "user", "session", "labels", "action")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    user: str
    session: str
    labels: _containers.ScalarMap[str, str]
    action: str
    def __init__(self, tenant: _Optional[str] = ..., user: _Optional[str] = ..., session: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., action: _Optional[str] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("prompt", "caller", "constraints")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    prompt: Prompt
    caller: Caller
    constraints: _routing_pb2.Constraints
    def __init__(self, prompt: _Optional[_Union[Prompt, _Mapping]] = ..., caller: _Optional[_Union[Caller, _Mapping]] = ..., constraints: _Optional[_Union[_routing_pb2.Constraints, _Mapping]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("parts", "finish_reason", "stop_sequence", "refusal_category", "model", "response_id")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_CATEGORY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[_content_pb2.Part]
    finish_reason: _content_pb2.FinishReason
    stop_sequence: str
    refusal_category: str
    model: str
    response_id: str
    def __init__(self, parts: _Optional[_Iterable[_Union[_content_pb2.Part, _Mapping]]] = ..., finish_reason: _Optional[_Union[_content_pb2.FinishReason, str]] = ..., stop_sequence: _Optional[str] = ..., refusal_category: _Optional[str] = ..., model: _Optional[str] = ..., response_id: _Optional[str] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("request_id", "trace_id", "decision", "answer", "accounting", "session_version")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTING_FIELD_NUMBER: _ClassVar[int]
    SESSION_VERSION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    trace_id: str
    decision: _routing_pb2.Decision
    answer: Answer
    accounting: _accounting_pb2.Accounting
    session_version: int
    def __init__(self, request_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., decision: _Optional[_Union[_routing_pb2.Decision, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., accounting: _Optional[_Union[_accounting_pb2.Accounting, _Mapping]] = ..., session_version: _Optional[int] = ...) -> None: ...

class StreamGenerateRequest(_message.Message):
    __slots__ = ("prompt", "caller", "constraints")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    prompt: Prompt
    caller: Caller
    constraints: _routing_pb2.Constraints
    def __init__(self, prompt: _Optional[_Union[Prompt, _Mapping]] = ..., caller: _Optional[_Union[Caller, _Mapping]] = ..., constraints: _Optional[_Union[_routing_pb2.Constraints, _Mapping]] = ...) -> None: ...

class StreamGenerateResponse(_message.Message):
    __slots__ = ("decided", "delta", "finished")
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    decided: Decided
    delta: ContentDelta
    finished: Finished
    def __init__(self, decided: _Optional[_Union[Decided, _Mapping]] = ..., delta: _Optional[_Union[ContentDelta, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ...) -> None: ...

class Decided(_message.Message):
    __slots__ = ("request_id", "trace_id", "decision")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    trace_id: str
    decision: _routing_pb2.Decision
    def __init__(self, request_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., decision: _Optional[_Union[_routing_pb2.Decision, _Mapping]] = ...) -> None: ...

class ContentDelta(_message.Message):
    __slots__ = ("part_index", "text", "thinking", "tool_call")
    PART_INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    THINKING_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FIELD_NUMBER: _ClassVar[int]
    part_index: int
    text: str
    thinking: str
    tool_call: ToolCallDelta
    def __init__(self, part_index: _Optional[int] = ..., text: _Optional[str] = ..., thinking: _Optional[str] = ..., tool_call: _Optional[_Union[ToolCallDelta, _Mapping]] = ...) -> None: ...

class ToolCallDelta(_message.Message):
    __slots__ = ("id", "name", "arguments_json")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    arguments_json: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., arguments_json: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("answer", "accounting", "session_version")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTING_FIELD_NUMBER: _ClassVar[int]
    SESSION_VERSION_FIELD_NUMBER: _ClassVar[int]
    answer: Answer
    accounting: _accounting_pb2.Accounting
    session_version: int
    def __init__(self, answer: _Optional[_Union[Answer, _Mapping]] = ..., accounting: _Optional[_Union[_accounting_pb2.Accounting, _Mapping]] = ..., session_version: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("prompt", "caller", "constraints")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    prompt: Prompt
    caller: Caller
    constraints: _routing_pb2.Constraints
    def __init__(self, prompt: _Optional[_Union[Prompt, _Mapping]] = ..., caller: _Optional[_Union[Caller, _Mapping]] = ..., constraints: _Optional[_Union[_routing_pb2.Constraints, _Mapping]] = ...) -> None: ...

class ScoreContribution(_message.Message):
    __slots__ = ("feature", "value", "contribution")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    feature: str
    value: float
    contribution: float
    def __init__(self, feature: _Optional[str] = ..., value: _Optional[float] = ..., contribution: _Optional[float] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("decision", "plan", "contributions", "lines")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    decision: _routing_pb2.Decision
    plan: _accounting_pb2.CachePlan
    contributions: _containers.RepeatedCompositeFieldContainer[ScoreContribution]
    lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, decision: _Optional[_Union[_routing_pb2.Decision, _Mapping]] = ..., plan: _Optional[_Union[_accounting_pb2.CachePlan, _Mapping]] = ..., contributions: _Optional[_Iterable[_Union[ScoreContribution, _Mapping]]] = ..., lines: _Optional[_Iterable[str]] = ...) -> None: ...
