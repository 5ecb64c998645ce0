import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from router.v1 import routing_pb2 as _routing_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Layer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYER_UNSPECIFIED: _ClassVar[Layer]
    LAYER_TOOLS: _ClassVar[Layer]
    LAYER_SYSTEM: _ClassVar[Layer]
    LAYER_CONTEXT: _ClassVar[Layer]
    LAYER_HISTORY: _ClassVar[Layer]
    LAYER_TURN: _ClassVar[Layer]

class CacheStrategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_STRATEGY_UNSPECIFIED: _ClassVar[CacheStrategy]
    CACHE_STRATEGY_NONE: _ClassVar[CacheStrategy]
    CACHE_STRATEGY_A: _ClassVar[CacheStrategy]
    CACHE_STRATEGY_B: _ClassVar[CacheStrategy]
    CACHE_STRATEGY_C: _ClassVar[CacheStrategy]
    CACHE_STRATEGY_AUTO: _ClassVar[CacheStrategy]

class MissCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MISS_CAUSE_UNSPECIFIED: _ClassVar[MissCause]
    MISS_CAUSE_MODEL: _ClassVar[MissCause]
    MISS_CAUSE_TOOLS: _ClassVar[MissCause]
    MISS_CAUSE_SYSTEM: _ClassVar[MissCause]
    MISS_CAUSE_CONTEXT: _ClassVar[MissCause]
    MISS_CAUSE_HISTORY_EDITED: _ClassVar[MissCause]
    MISS_CAUSE_PARAMETER: _ClassVar[MissCause]
    MISS_CAUSE_IMAGE: _ClassVar[MissCause]
    MISS_CAUSE_TTL_LAPSED: _ClassVar[MissCause]
    MISS_CAUSE_BELOW_MINIMUM: _ClassVar[MissCause]
    MISS_CAUSE_LOOKBACK: _ClassVar[MissCause]
    MISS_CAUSE_HERD: _ClassVar[MissCause]
    MISS_CAUSE_EVICTED: _ClassVar[MissCause]
    MISS_CAUSE_UNKNOWN: _ClassVar[MissCause]
LAYER_UNSPECIFIED: Layer
LAYER_TOOLS: Layer
LAYER_SYSTEM: Layer
LAYER_CONTEXT: Layer
LAYER_HISTORY: Layer
LAYER_TURN: Layer
CACHE_STRATEGY_UNSPECIFIED: CacheStrategy
CACHE_STRATEGY_NONE: CacheStrategy
CACHE_STRATEGY_A: CacheStrategy
CACHE_STRATEGY_B: CacheStrategy
CACHE_STRATEGY_C: CacheStrategy
CACHE_STRATEGY_AUTO: CacheStrategy
MISS_CAUSE_UNSPECIFIED: MissCause
MISS_CAUSE_MODEL: MissCause
MISS_CAUSE_TOOLS: MissCause
MISS_CAUSE_SYSTEM: MissCause
MISS_CAUSE_CONTEXT: MissCause
MISS_CAUSE_HISTORY_EDITED: MissCause
MISS_CAUSE_PARAMETER: MissCause
MISS_CAUSE_IMAGE: MissCause
MISS_CAUSE_TTL_LAPSED: MissCause
MISS_CAUSE_BELOW_MINIMUM: MissCause
MISS_CAUSE_LOOKBACK: MissCause
MISS_CAUSE_HERD: MissCause
MISS_CAUSE_EVICTED: MissCause
MISS_CAUSE_UNKNOWN: MissCause

class Usage(_message.Message):
    __slots__ = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens", "thinking_tokens", "uncached_input_tokens", "complete")
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_5M_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_1H_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    THINKING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    thinking_tokens: int
    uncached_input_tokens: int
    complete: bool
    def __init__(self, input_tokens: _Optional[int] = ..., cache_read_tokens: _Optional[int] = ..., cache_write_5m_tokens: _Optional[int] = ..., cache_write_1h_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., thinking_tokens: _Optional[int] = ..., uncached_input_tokens: _Optional[int] = ..., complete: _Optional[bool] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("total_nano_usd", "uncached_input_nano_usd", "cache_read_nano_usd", "cache_write_5m_nano_usd", "cache_write_1h_nano_usd", "output_nano_usd", "thinking_nano_usd", "tools_nano_usd", "priced_model")
    TOTAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_INPUT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_5M_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_1H_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    THINKING_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    TOOLS_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    PRICED_MODEL_FIELD_NUMBER: _ClassVar[int]
    total_nano_usd: int
    uncached_input_nano_usd: int
    cache_read_nano_usd: int
    cache_write_5m_nano_usd: int
    cache_write_1h_nano_usd: int
    output_nano_usd: int
    thinking_nano_usd: int
    tools_nano_usd: int
    priced_model: str
    def __init__(self, total_nano_usd: _Optional[int] = ..., uncached_input_nano_usd: _Optional[int] = ..., cache_read_nano_usd: _Optional[int] = ..., cache_write_5m_nano_usd: _Optional[int] = ..., cache_write_1h_nano_usd: _Optional[int] = ..., output_nano_usd: _Optional[int] = ..., thinking_nano_usd: _Optional[int] = ..., tools_nano_usd: _Optional[int] = ..., priced_model: _Optional[str] = ...) -> None: ...

class Counterfactuals(_message.Message):
    __slots__ = ("no_caching_nano_usd", "all_opus_nano_usd", "all_flash_nano_usd", "all_opus_no_caching_nano_usd", "never_switch_nano_usd")
    NO_CACHING_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    ALL_OPUS_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    ALL_FLASH_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    ALL_OPUS_NO_CACHING_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    NEVER_SWITCH_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    no_caching_nano_usd: int
    all_opus_nano_usd: int
    all_flash_nano_usd: int
    all_opus_no_caching_nano_usd: int
    never_switch_nano_usd: int
    def __init__(self, no_caching_nano_usd: _Optional[int] = ..., all_opus_nano_usd: _Optional[int] = ..., all_flash_nano_usd: _Optional[int] = ..., all_opus_no_caching_nano_usd: _Optional[int] = ..., never_switch_nano_usd: _Optional[int] = ...) -> None: ...

class Breakpoint(_message.Message):
    __slots__ = ("layer", "block_index", "ttl", "prefix_tokens", "warm_probability", "reason")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    BLOCK_INDEX_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    PREFIX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WARM_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    layer: Layer
    block_index: int
    ttl: _duration_pb2.Duration
    prefix_tokens: int
    warm_probability: float
    reason: str
    def __init__(self, layer: _Optional[_Union[Layer, str]] = ..., block_index: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., prefix_tokens: _Optional[int] = ..., warm_probability: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class SkippedLayer(_message.Message):
    __slots__ = ("layer", "reason")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    layer: Layer
    reason: str
    def __init__(self, layer: _Optional[_Union[Layer, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class CachePlan(_message.Message):
    __slots__ = ("strategy", "breakpoints", "skipped_layers", "expected_read_tokens", "expected_write_tokens", "prompt_tokens")
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    BREAKPOINTS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_LAYERS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    strategy: CacheStrategy
    breakpoints: _containers.RepeatedCompositeFieldContainer[Breakpoint]
    skipped_layers: _containers.RepeatedCompositeFieldContainer[SkippedLayer]
    expected_read_tokens: int
    expected_write_tokens: int
    prompt_tokens: int
    def __init__(self, strategy: _Optional[_Union[CacheStrategy, str]] = ..., breakpoints: _Optional[_Iterable[_Union[Breakpoint, _Mapping]]] = ..., skipped_layers: _Optional[_Iterable[_Union[SkippedLayer, _Mapping]]] = ..., expected_read_tokens: _Optional[int] = ..., expected_write_tokens: _Optional[int] = ..., prompt_tokens: _Optional[int] = ...) -> None: ...

class CacheMiss(_message.Message):
    __slots__ = ("cause", "layer", "missed_tokens", "lost_nano_usd", "detail", "block_index", "provider_cause", "provider_missed_tokens")
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    MISSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    BLOCK_INDEX_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_CAUSE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_MISSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    cause: MissCause
    layer: Layer
    missed_tokens: int
    lost_nano_usd: int
    detail: str
    block_index: int
    provider_cause: str
    provider_missed_tokens: int
    def __init__(self, cause: _Optional[_Union[MissCause, str]] = ..., layer: _Optional[_Union[Layer, str]] = ..., missed_tokens: _Optional[int] = ..., lost_nano_usd: _Optional[int] = ..., detail: _Optional[str] = ..., block_index: _Optional[int] = ..., provider_cause: _Optional[str] = ..., provider_missed_tokens: _Optional[int] = ...) -> None: ...

class CacheReport(_message.Message):
    __slots__ = ("plan", "read_tokens", "write_tokens", "misses", "padding_tokens", "padding_nano_usd")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    PADDING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PADDING_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    plan: CachePlan
    read_tokens: int
    write_tokens: int
    misses: _containers.RepeatedCompositeFieldContainer[CacheMiss]
    padding_tokens: int
    padding_nano_usd: int
    def __init__(self, plan: _Optional[_Union[CachePlan, _Mapping]] = ..., read_tokens: _Optional[int] = ..., write_tokens: _Optional[int] = ..., misses: _Optional[_Iterable[_Union[CacheMiss, _Mapping]]] = ..., padding_tokens: _Optional[int] = ..., padding_nano_usd: _Optional[int] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("number", "route", "model", "outcome", "duration", "cost_nano_usd", "discarded")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    number: int
    route: _routing_pb2.Route
    model: str
    outcome: str
    duration: _duration_pb2.Duration
    cost_nano_usd: int
    discarded: bool
    def __init__(self, number: _Optional[int] = ..., route: _Optional[_Union[_routing_pb2.Route, str]] = ..., model: _Optional[str] = ..., outcome: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cost_nano_usd: _Optional[int] = ..., discarded: _Optional[bool] = ...) -> None: ...

class Accounting(_message.Message):
    __slots__ = ("usage", "cost", "counterfactuals", "cache_report", "attempts", "total_nano_usd", "first_byte_duration", "duration", "flight_wait")
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    COUNTERFACTUALS_FIELD_NUMBER: _ClassVar[int]
    CACHE_REPORT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    FIRST_BYTE_DURATION_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    FLIGHT_WAIT_FIELD_NUMBER: _ClassVar[int]
    usage: Usage
    cost: Cost
    counterfactuals: Counterfactuals
    cache_report: CacheReport
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    total_nano_usd: int
    first_byte_duration: _duration_pb2.Duration
    duration: _duration_pb2.Duration
    flight_wait: _duration_pb2.Duration
    def __init__(self, usage: _Optional[_Union[Usage, _Mapping]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., counterfactuals: _Optional[_Union[Counterfactuals, _Mapping]] = ..., cache_report: _Optional[_Union[CacheReport, _Mapping]] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., total_nano_usd: _Optional[int] = ..., first_byte_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., flight_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
