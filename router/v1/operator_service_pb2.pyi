import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from router.v1 import accounting_pb2 as _accounting_pb2
from router.v1 import routing_pb2 as _routing_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CostDimension(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COST_DIMENSION_UNSPECIFIED: _ClassVar[CostDimension]
    COST_DIMENSION_ROUTE: _ClassVar[CostDimension]
    COST_DIMENSION_MODEL: _ClassVar[CostDimension]
    COST_DIMENSION_TENANT: _ClassVar[CostDimension]
    COST_DIMENSION_APPLICATION: _ClassVar[CostDimension]
    COST_DIMENSION_LABEL: _ClassVar[CostDimension]
    COST_DIMENSION_DAY: _ClassVar[CostDimension]
    COST_DIMENSION_PURPOSE: _ClassVar[CostDimension]
    COST_DIMENSION_SESSION: _ClassVar[CostDimension]
COST_DIMENSION_UNSPECIFIED: CostDimension
COST_DIMENSION_ROUTE: CostDimension
COST_DIMENSION_MODEL: CostDimension
COST_DIMENSION_TENANT: CostDimension
COST_DIMENSION_APPLICATION: CostDimension
COST_DIMENSION_LABEL: CostDimension
COST_DIMENSION_DAY: CostDimension
COST_DIMENSION_PURPOSE: CostDimension
COST_DIMENSION_SESSION: CostDimension

class GetCostsRequest(_message.Message):
    __slots__ = ("dimension", "label_key", "start_time", "end_time", "tenant", "application")
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_KEY_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    dimension: CostDimension
    label_key: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    tenant: str
    application: str
    def __init__(self, dimension: _Optional[_Union[CostDimension, str]] = ..., label_key: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tenant: _Optional[str] = ..., application: _Optional[str] = ...) -> None: ...

class CostRow(_message.Message):
    __slots__ = ("key", "call_count", "usage", "cost", "no_caching", "all_opus", "all_flash", "all_opus_no_caching", "unknown_cost_count", "unknown_cost_bound_nano_usd", "unbounded_count", "usage_count", "incomplete_count", "incomplete_bound_nano_usd", "never_switch")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CALL_COUNT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    NO_CACHING_FIELD_NUMBER: _ClassVar[int]
    ALL_OPUS_FIELD_NUMBER: _ClassVar[int]
    ALL_FLASH_FIELD_NUMBER: _ClassVar[int]
    ALL_OPUS_NO_CACHING_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_COST_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_COST_BOUND_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNBOUNDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    USAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_COUNT_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_BOUND_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    NEVER_SWITCH_FIELD_NUMBER: _ClassVar[int]
    key: str
    call_count: int
    usage: _accounting_pb2.Usage
    cost: _accounting_pb2.Cost
    no_caching: CostComparison
    all_opus: CostComparison
    all_flash: CostComparison
    all_opus_no_caching: CostComparison
    unknown_cost_count: int
    unknown_cost_bound_nano_usd: int
    unbounded_count: int
    usage_count: int
    incomplete_count: int
    incomplete_bound_nano_usd: int
    never_switch: CostComparison
    def __init__(self, key: _Optional[str] = ..., call_count: _Optional[int] = ..., usage: _Optional[_Union[_accounting_pb2.Usage, _Mapping]] = ..., cost: _Optional[_Union[_accounting_pb2.Cost, _Mapping]] = ..., no_caching: _Optional[_Union[CostComparison, _Mapping]] = ..., all_opus: _Optional[_Union[CostComparison, _Mapping]] = ..., all_flash: _Optional[_Union[CostComparison, _Mapping]] = ..., all_opus_no_caching: _Optional[_Union[CostComparison, _Mapping]] = ..., unknown_cost_count: _Optional[int] = ..., unknown_cost_bound_nano_usd: _Optional[int] = ..., unbounded_count: _Optional[int] = ..., usage_count: _Optional[int] = ..., incomplete_count: _Optional[int] = ..., incomplete_bound_nano_usd: _Optional[int] = ..., never_switch: _Optional[_Union[CostComparison, _Mapping]] = ...) -> None: ...

class CostComparison(_message.Message):
    __slots__ = ("call_count", "baseline_nano_usd", "cost_nano_usd")
    CALL_COUNT_FIELD_NUMBER: _ClassVar[int]
    BASELINE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    call_count: int
    baseline_nano_usd: int
    cost_nano_usd: int
    def __init__(self, call_count: _Optional[int] = ..., baseline_nano_usd: _Optional[int] = ..., cost_nano_usd: _Optional[int] = ...) -> None: ...

class GetCostsResponse(_message.Message):
    __slots__ = ("rows", "total", "warms", "pruned")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    WARMS_FIELD_NUMBER: _ClassVar[int]
    PRUNED_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[CostRow]
    total: CostRow
    warms: WarmReport
    pruned: PrunedCosts
    def __init__(self, rows: _Optional[_Iterable[_Union[CostRow, _Mapping]]] = ..., total: _Optional[_Union[CostRow, _Mapping]] = ..., warms: _Optional[_Union[WarmReport, _Mapping]] = ..., pruned: _Optional[_Union[PrunedCosts, _Mapping]] = ...) -> None: ...

class PrunedCosts(_message.Message):
    __slots__ = ("before_time", "total")
    BEFORE_TIME_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    before_time: _timestamp_pb2.Timestamp
    total: CostRow
    def __init__(self, before_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., total: _Optional[_Union[CostRow, _Mapping]] = ...) -> None: ...

class WarmReport(_message.Message):
    __slots__ = ("used_count", "wasted_count", "superfluous_count", "open_count", "held_out_count", "spent_nano_usd", "benefit_nano_usd", "benefit_low_nano_usd", "benefit_high_nano_usd", "first_token_gain", "switched_off_count", "brought_nano_usd")
    USED_COUNT_FIELD_NUMBER: _ClassVar[int]
    WASTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    SUPERFLUOUS_COUNT_FIELD_NUMBER: _ClassVar[int]
    OPEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SPENT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    BENEFIT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    BENEFIT_LOW_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    BENEFIT_HIGH_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_GAIN_FIELD_NUMBER: _ClassVar[int]
    SWITCHED_OFF_COUNT_FIELD_NUMBER: _ClassVar[int]
    BROUGHT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    used_count: int
    wasted_count: int
    superfluous_count: int
    open_count: int
    held_out_count: int
    spent_nano_usd: int
    benefit_nano_usd: int
    benefit_low_nano_usd: int
    benefit_high_nano_usd: int
    first_token_gain: _duration_pb2.Duration
    switched_off_count: int
    brought_nano_usd: int
    def __init__(self, used_count: _Optional[int] = ..., wasted_count: _Optional[int] = ..., superfluous_count: _Optional[int] = ..., open_count: _Optional[int] = ..., held_out_count: _Optional[int] = ..., spent_nano_usd: _Optional[int] = ..., benefit_nano_usd: _Optional[int] = ..., benefit_low_nano_usd: _Optional[int] = ..., benefit_high_nano_usd: _Optional[int] = ..., first_token_gain: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., switched_off_count: _Optional[int] = ..., brought_nano_usd: _Optional[int] = ...) -> None: ...

class ListPrefixesRequest(_message.Message):
    __slots__ = ("page_size",)
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    def __init__(self, page_size: _Optional[int] = ...) -> None: ...

class WarmPrefix(_message.Message):
    __slots__ = ("prefix_key", "model", "tokens", "warm_probability", "ttl", "expire_time")
    PREFIX_KEY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    WARM_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    prefix_key: str
    model: str
    tokens: int
    warm_probability: float
    ttl: _duration_pb2.Duration
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, prefix_key: _Optional[str] = ..., model: _Optional[str] = ..., tokens: _Optional[int] = ..., warm_probability: _Optional[float] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CalibrationBin(_message.Message):
    __slots__ = ("low", "belief_count", "mean_predicted", "held_share")
    LOW_FIELD_NUMBER: _ClassVar[int]
    BELIEF_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEAN_PREDICTED_FIELD_NUMBER: _ClassVar[int]
    HELD_SHARE_FIELD_NUMBER: _ClassVar[int]
    low: float
    belief_count: int
    mean_predicted: float
    held_share: float
    def __init__(self, low: _Optional[float] = ..., belief_count: _Optional[int] = ..., mean_predicted: _Optional[float] = ..., held_share: _Optional[float] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("model", "tested_count", "brier", "bins")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TESTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    BRIER_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    model: str
    tested_count: int
    brier: float
    bins: _containers.RepeatedCompositeFieldContainer[CalibrationBin]
    def __init__(self, model: _Optional[str] = ..., tested_count: _Optional[int] = ..., brier: _Optional[float] = ..., bins: _Optional[_Iterable[_Union[CalibrationBin, _Mapping]]] = ...) -> None: ...

class ListPrefixesResponse(_message.Message):
    __slots__ = ("prefixes", "total_count", "calibrations")
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    CALIBRATIONS_FIELD_NUMBER: _ClassVar[int]
    prefixes: _containers.RepeatedCompositeFieldContainer[WarmPrefix]
    total_count: int
    calibrations: _containers.RepeatedCompositeFieldContainer[Calibration]
    def __init__(self, prefixes: _Optional[_Iterable[_Union[WarmPrefix, _Mapping]]] = ..., total_count: _Optional[int] = ..., calibrations: _Optional[_Iterable[_Union[Calibration, _Mapping]]] = ...) -> None: ...

class WarmPrefixRequest(_message.Message):
    __slots__ = ("application",)
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    application: str
    def __init__(self, application: _Optional[str] = ...) -> None: ...

class WarmPrefixResponse(_message.Message):
    __slots__ = ("usage", "cost", "verdict")
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    usage: _accounting_pb2.Usage
    cost: _accounting_pb2.Cost
    verdict: str
    def __init__(self, usage: _Optional[_Union[_accounting_pb2.Usage, _Mapping]] = ..., cost: _Optional[_Union[_accounting_pb2.Cost, _Mapping]] = ..., verdict: _Optional[str] = ...) -> None: ...

class Classifier(_message.Message):
    __slots__ = ("digest", "train_time", "sample_count", "threshold", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TRAIN_TIME_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    train_time: _timestamp_pb2.Timestamp
    sample_count: int
    threshold: float
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, digest: _Optional[str] = ..., train_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sample_count: _Optional[int] = ..., threshold: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class GetClassifierRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetClassifierResponse(_message.Message):
    __slots__ = ("classifier", "shadow", "drift")
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    classifier: Classifier
    shadow: ShadowReport
    drift: _containers.RepeatedCompositeFieldContainer[DriftFigure]
    def __init__(self, classifier: _Optional[_Union[Classifier, _Mapping]] = ..., shadow: _Optional[_Union[ShadowReport, _Mapping]] = ..., drift: _Optional[_Iterable[_Union[DriftFigure, _Mapping]]] = ...) -> None: ...

class ShadowReport(_message.Message):
    __slots__ = ("classifier", "scored_count", "disagreement_count", "mean_score_difference")
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    SCORED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    classifier: Classifier
    scored_count: int
    disagreement_count: int
    mean_score_difference: float
    def __init__(self, classifier: _Optional[_Union[Classifier, _Mapping]] = ..., scored_count: _Optional[int] = ..., disagreement_count: _Optional[int] = ..., mean_score_difference: _Optional[float] = ...) -> None: ...

class DriftFigure(_message.Message):
    __slots__ = ("name", "psi", "alarm_psi", "sample_count", "alarming")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    ALARM_PSI_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ALARMING_FIELD_NUMBER: _ClassVar[int]
    name: str
    psi: float
    alarm_psi: float
    sample_count: int
    alarming: bool
    def __init__(self, name: _Optional[str] = ..., psi: _Optional[float] = ..., alarm_psi: _Optional[float] = ..., sample_count: _Optional[int] = ..., alarming: _Optional[bool] = ...) -> None: ...

class ReloadClassifierRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadClassifierResponse(_message.Message):
    __slots__ = ("classifier", "previous_digest")
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    classifier: Classifier
    previous_digest: str
    def __init__(self, classifier: _Optional[_Union[Classifier, _Mapping]] = ..., previous_digest: _Optional[str] = ...) -> None: ...

class PromoteClassifierRequest(_message.Message):
    __slots__ = ("digest", "force_reason")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FORCE_REASON_FIELD_NUMBER: _ClassVar[int]
    digest: str
    force_reason: str
    def __init__(self, digest: _Optional[str] = ..., force_reason: _Optional[str] = ...) -> None: ...

class PromoteClassifierResponse(_message.Message):
    __slots__ = ("classifier", "expected_shares", "previous_digest")
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SHARES_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    classifier: Classifier
    expected_shares: _containers.RepeatedCompositeFieldContainer[RouteShare]
    previous_digest: str
    def __init__(self, classifier: _Optional[_Union[Classifier, _Mapping]] = ..., expected_shares: _Optional[_Iterable[_Union[RouteShare, _Mapping]]] = ..., previous_digest: _Optional[str] = ...) -> None: ...

class RouteShare(_message.Message):
    __slots__ = ("route", "share")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    route: _routing_pb2.Route
    share: float
    def __init__(self, route: _Optional[_Union[_routing_pb2.Route, str]] = ..., share: _Optional[float] = ...) -> None: ...
