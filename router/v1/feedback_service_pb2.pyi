import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FeedbackVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEEDBACK_VERDICT_UNSPECIFIED: _ClassVar[FeedbackVerdict]
    FEEDBACK_VERDICT_GOOD: _ClassVar[FeedbackVerdict]
    FEEDBACK_VERDICT_BAD: _ClassVar[FeedbackVerdict]
    FEEDBACK_VERDICT_FLASH_SUFFICED: _ClassVar[FeedbackVerdict]
    FEEDBACK_VERDICT_OPUS_NEEDED: _ClassVar[FeedbackVerdict]
FEEDBACK_VERDICT_UNSPECIFIED: FeedbackVerdict
FEEDBACK_VERDICT_GOOD: FeedbackVerdict
FEEDBACK_VERDICT_BAD: FeedbackVerdict
FEEDBACK_VERDICT_FLASH_SUFFICED: FeedbackVerdict
FEEDBACK_VERDICT_OPUS_NEEDED: FeedbackVerdict

class SubmitFeedbackRequest(_message.Message):
    __slots__ = ("request_id", "verdict", "score", "source", "tenant")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    verdict: FeedbackVerdict
    score: float
    source: str
    tenant: str
    def __init__(self, request_id: _Optional[str] = ..., verdict: _Optional[_Union[FeedbackVerdict, str]] = ..., score: _Optional[float] = ..., source: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class SubmitFeedbackResponse(_message.Message):
    __slots__ = ("record_time", "replaced")
    RECORD_TIME_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    record_time: _timestamp_pb2.Timestamp
    replaced: bool
    def __init__(self, record_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., replaced: _Optional[bool] = ...) -> None: ...
