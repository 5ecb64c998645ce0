from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Route(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUTE_UNSPECIFIED: _ClassVar[Route]
    ROUTE_FLASH: _ClassVar[Route]
    ROUTE_OPUS: _ClassVar[Route]

class DecisionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_REASON_UNSPECIFIED: _ClassVar[DecisionReason]
    DECISION_REASON_FORCED: _ClassVar[DecisionReason]
    DECISION_REASON_CAPABILITY: _ClassVar[DecisionReason]
    DECISION_REASON_CIRCUIT_OPEN: _ClassVar[DecisionReason]
    DECISION_REASON_TOOL_LOOP: _ClassVar[DecisionReason]
    DECISION_REASON_FOLLOW_UP: _ClassVar[DecisionReason]
    DECISION_REASON_COST_CEILING: _ClassVar[DecisionReason]
    DECISION_REASON_COST_INVERSION: _ClassVar[DecisionReason]
    DECISION_REASON_SCORE_ABOVE_THRESHOLD: _ClassVar[DecisionReason]
    DECISION_REASON_SCORE_BELOW_THRESHOLD: _ClassVar[DecisionReason]
    DECISION_REASON_NO_SCORE: _ClassVar[DecisionReason]
    DECISION_REASON_BUDGET: _ClassVar[DecisionReason]
    DECISION_REASON_EXPLORATION: _ClassVar[DecisionReason]
    DECISION_REASON_FALLBACK: _ClassVar[DecisionReason]
    DECISION_REASON_ESCALATION: _ClassVar[DecisionReason]
ROUTE_UNSPECIFIED: Route
ROUTE_FLASH: Route
ROUTE_OPUS: Route
DECISION_REASON_UNSPECIFIED: DecisionReason
DECISION_REASON_FORCED: DecisionReason
DECISION_REASON_CAPABILITY: DecisionReason
DECISION_REASON_CIRCUIT_OPEN: DecisionReason
DECISION_REASON_TOOL_LOOP: DecisionReason
DECISION_REASON_FOLLOW_UP: DecisionReason
DECISION_REASON_COST_CEILING: DecisionReason
DECISION_REASON_COST_INVERSION: DecisionReason
DECISION_REASON_SCORE_ABOVE_THRESHOLD: DecisionReason
DECISION_REASON_SCORE_BELOW_THRESHOLD: DecisionReason
DECISION_REASON_NO_SCORE: DecisionReason
DECISION_REASON_BUDGET: DecisionReason
DECISION_REASON_EXPLORATION: DecisionReason
DECISION_REASON_FALLBACK: DecisionReason
DECISION_REASON_ESCALATION: DecisionReason

class RouteEstimate(_message.Message):
    __slots__ = ("route", "model", "available", "unavailable_reason", "expected_cost_nano_usd", "cold_cost_nano_usd", "input_tokens", "output_tokens")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    COLD_COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    route: Route
    model: str
    available: bool
    unavailable_reason: str
    expected_cost_nano_usd: int
    cold_cost_nano_usd: int
    input_tokens: int
    output_tokens: int
    def __init__(self, route: _Optional[_Union[Route, str]] = ..., model: _Optional[str] = ..., available: _Optional[bool] = ..., unavailable_reason: _Optional[str] = ..., expected_cost_nano_usd: _Optional[int] = ..., cold_cost_nano_usd: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("route", "reason", "score", "threshold", "margin", "propensity", "fallback_route", "classifier_digest", "estimates", "flips", "model", "opus_leaves_warm_nano_usd", "answer_value_nano_usd", "shadow_score")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_ROUTE_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ESTIMATES_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OPUS_LEAVES_WARM_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    ANSWER_VALUE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SHADOW_SCORE_FIELD_NUMBER: _ClassVar[int]
    route: Route
    reason: DecisionReason
    score: float
    threshold: float
    margin: float
    propensity: float
    fallback_route: Route
    classifier_digest: str
    estimates: _containers.RepeatedCompositeFieldContainer[RouteEstimate]
    flips: _containers.RepeatedScalarFieldContainer[str]
    model: str
    opus_leaves_warm_nano_usd: int
    answer_value_nano_usd: int
    shadow_score: float
    def __init__(self, route: _Optional[_Union[Route, str]] = ..., reason: _Optional[_Union[DecisionReason, str]] = ..., score: _Optional[float] = ..., threshold: _Optional[float] = ..., margin: _Optional[float] = ..., propensity: _Optional[float] = ..., fallback_route: _Optional[_Union[Route, str]] = ..., classifier_digest: _Optional[str] = ..., estimates: _Optional[_Iterable[_Union[RouteEstimate, _Mapping]]] = ..., flips: _Optional[_Iterable[str]] = ..., model: _Optional[str] = ..., opus_leaves_warm_nano_usd: _Optional[int] = ..., answer_value_nano_usd: _Optional[int] = ..., shadow_score: _Optional[float] = ...) -> None: ...

class Constraints(_message.Message):
    __slots__ = ("forced_route", "quality_floor", "cost_ceiling_nano_usd", "no_cache", "expected_follow_up_count", "no_fallback", "no_exploration", "no_escalation")
    FORCED_ROUTE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FLOOR_FIELD_NUMBER: _ClassVar[int]
    COST_CEILING_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    NO_CACHE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FOLLOW_UP_COUNT_FIELD_NUMBER: _ClassVar[int]
    NO_FALLBACK_FIELD_NUMBER: _ClassVar[int]
    NO_EXPLORATION_FIELD_NUMBER: _ClassVar[int]
    NO_ESCALATION_FIELD_NUMBER: _ClassVar[int]
    forced_route: Route
    quality_floor: float
    cost_ceiling_nano_usd: int
    no_cache: bool
    expected_follow_up_count: int
    no_fallback: bool
    no_exploration: bool
    no_escalation: bool
    def __init__(self, forced_route: _Optional[_Union[Route, str]] = ..., quality_floor: _Optional[float] = ..., cost_ceiling_nano_usd: _Optional[int] = ..., no_cache: _Optional[bool] = ..., expected_follow_up_count: _Optional[int] = ..., no_fallback: _Optional[bool] = ..., no_exploration: _Optional[bool] = ..., no_escalation: _Optional[bool] = ...) -> None: ...
