import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from router.v1 import accounting_pb2 as _accounting_pb2
from router.v1 import content_pb2 as _content_pb2
from router.v1 import routing_pb2 as _routing_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Session(_message.Message):
    __slots__ = ("session", "application", "tenant", "user", "version", "message_count", "create_time", "update_time", "expire_time", "last_route", "warm_probability", "request_count", "usage", "cost_nano_usd", "caching_saving_nano_usd", "unknown_cost_count", "held", "warm_tokens")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_ROUTE_FIELD_NUMBER: _ClassVar[int]
    WARM_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_COUNT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CACHING_SAVING_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_COST_COUNT_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    WARM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    session: str
    application: str
    tenant: str
    user: str
    version: int
    message_count: int
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    last_route: _routing_pb2.Route
    warm_probability: float
    request_count: int
    usage: _accounting_pb2.Usage
    cost_nano_usd: int
    caching_saving_nano_usd: int
    unknown_cost_count: int
    held: bool
    warm_tokens: int
    def __init__(self, session: _Optional[str] = ..., application: _Optional[str] = ..., tenant: _Optional[str] = ..., user: _Optional[str] = ..., version: _Optional[int] = ..., message_count: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_route: _Optional[_Union[_routing_pb2.Route, str]] = ..., warm_probability: _Optional[float] = ..., request_count: _Optional[int] = ..., usage: _Optional[_Union[_accounting_pb2.Usage, _Mapping]] = ..., cost_nano_usd: _Optional[int] = ..., caching_saving_nano_usd: _Optional[int] = ..., unknown_cost_count: _Optional[int] = ..., held: _Optional[bool] = ..., warm_tokens: _Optional[int] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("session", "application", "tenant", "user", "user_context", "messages", "idle_ttl")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    USER_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    IDLE_TTL_FIELD_NUMBER: _ClassVar[int]
    session: str
    application: str
    tenant: str
    user: str
    user_context: _containers.RepeatedScalarFieldContainer[str]
    messages: _containers.RepeatedCompositeFieldContainer[_content_pb2.Message]
    idle_ttl: _duration_pb2.Duration
    def __init__(self, session: _Optional[str] = ..., application: _Optional[str] = ..., tenant: _Optional[str] = ..., user: _Optional[str] = ..., user_context: _Optional[_Iterable[str]] = ..., messages: _Optional[_Iterable[_Union[_content_pb2.Message, _Mapping]]] = ..., idle_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session", "warm")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    session: Session
    warm: WarmVerdict
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., warm: _Optional[_Union[WarmVerdict, _Mapping]] = ...) -> None: ...

class WarmVerdict(_message.Message):
    __slots__ = ("warmed", "reason", "expected_cost_nano_usd", "expected_value_nano_usd")
    WARMED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VALUE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    warmed: bool
    reason: str
    expected_cost_nano_usd: int
    expected_value_nano_usd: int
    def __init__(self, warmed: _Optional[bool] = ..., reason: _Optional[str] = ..., expected_cost_nano_usd: _Optional[int] = ..., expected_value_nano_usd: _Optional[int] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("session", "include_messages", "tenant")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    session: str
    include_messages: bool
    tenant: str
    def __init__(self, session: _Optional[str] = ..., include_messages: _Optional[bool] = ..., tenant: _Optional[str] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session", "messages")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    session: Session
    messages: _containers.RepeatedCompositeFieldContainer[_content_pb2.Message]
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., messages: _Optional[_Iterable[_Union[_content_pb2.Message, _Mapping]]] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session", "tenant")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    session: str
    tenant: str
    def __init__(self, session: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ReportActionRequest(_message.Message):
    __slots__ = ("session", "action", "tenant")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    session: str
    action: str
    tenant: str
    def __init__(self, session: _Optional[str] = ..., action: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class ReportActionResponse(_message.Message):
    __slots__ = ("warm",)
    WARM_FIELD_NUMBER: _ClassVar[int]
    warm: WarmVerdict
    def __init__(self, warm: _Optional[_Union[WarmVerdict, _Mapping]] = ...) -> None: ...
