"""What of OpenTelemetry's standard variables this service honours, as one frozen value.

The rule: the operator configures exporters with the variables every OpenTelemetry service takes
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables, read 2026-11); nothing here
reads the environment, the mapping is passed in by `router.config`. Signals are off until someone says where
they should go: spans are exported when an OTLP endpoint is named (or `OTEL_TRACES_EXPORTER=otlp`), metrics
are served when a Prometheus port is set and pushed when `OTEL_METRICS_EXPORTER` names `otlp`.

Not honoured: message content. `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` is refused unless it is
`NO_CONTENT`: this release never puts prompts or answers into telemetry, and a setting that looks accepted
would be a wrong promise either way. `OTEL_PROPAGATORS` is fixed to W3C trace context.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

SERVICE_NAME = "hybrid-router"

DEFAULT_SAMPLE_RATIO = 0.1
"""Share of root traces kept when neither the caller's trace nor `OTEL_TRACES_SAMPLER_ARG` decides. Exporting
every span costs about as much CPU as all our own work on a request; costs and counts do not depend on
sampling, they come from metrics and the ledger. A caller that wants one request traced sends a sampled
`traceparent`."""

SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)

GRPC = "grpc"
HTTP = "http/protobuf"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpTarget:
    """Where one signal is pushed.

    Attributes:
        endpoint: URL; for http/protobuf the full one with its path.
        protocol: "grpc" or "http/protobuf".
        headers: Sent with every export; may hold credentials, so it is not in the repr.
        timeout_s: Bound of one export, retries included, > 0.
    """

    endpoint: str
    protocol: str = GRPC
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """Everything `Telemetry` is built from.

    Attributes:
        enabled: False when `OTEL_SDK_DISABLED` is true: no spans, no metrics, no threads, no port.
        traces: Where spans go, None for nowhere.
        metrics: Where metrics are pushed, None for nowhere.
        metrics_period_s: Seconds between two pushes of metrics, > 0.
        prometheus_port: Port of the scrape endpoint, 0 for none.
        prometheus_host: Address it binds.
        sampler: One of `SAMPLERS`.
        sample_ratio: Share of root traces kept by the ratio samplers, in [0, 1].
        resource: Attributes of this process, service.name included.
        queue_size: Spans held for export; more are dropped.
        batch_size: Spans per export, <= queue_size.
        schedule_delay_s: Longest a finished span waits for its export, > 0.
        applications: Names that may become metric labels; others count as "other".
        tenants: Likewise.
        bucket_label: Name of the request label that is the bucket of metrics, "" for none.
        buckets: Its values that may become metric labels; others count as "other".
        old_cache_write_name: Whether the cache-write count is also written under its name of before
        2026, which
            Jaeger's GenAI tab still reads.
        server_address: Host this service is known by (the channel target), "" to leave it out.
        server_port: Port it is known by, 0 to leave it out.
    """

    enabled: bool = True
    traces: OtlpTarget | None = None
    metrics: OtlpTarget | None = None
    metrics_period_s: float = 60.0
    prometheus_port: int = 0
    prometheus_host: str = "127.0.0.1"
    sampler: str = "parentbased_traceidratio"
    sample_ratio: float = DEFAULT_SAMPLE_RATIO
    resource: Mapping[str, str] = field(default_factory=lambda: {"service.name": SERVICE_NAME})
    queue_size: int = 2048
    batch_size: int = 512
    schedule_delay_s: float = 5.0
    applications: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    bucket_label: str = ""
    buckets: frozenset[str] = frozenset()
    old_cache_write_name: bool = True
    server_address: str = ""
    server_port: int = 0

    def __post_init__(self) -> None:
        if self.buckets and not self.bucket_label:
            raise ValueError("buckets are named, but not the label they are values of: set bucket_label")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"OTEL_TRACES_SAMPLER={self.sampler!r} is not one of {', '.join(SAMPLERS)}")
        if not 0.0 <= self.sample_ratio <= 1.0:
            raise ValueError(f"OTEL_TRACES_SAMPLER_ARG must be within [0, 1], got {self.sample_ratio!r}")
        if not 0 <= self.prometheus_port <= 65535:
            raise ValueError(f"the Prometheus port must be within [0, 65535], got {self.prometheus_port}")
        if not 0 < self.batch_size <= self.queue_size:
            raise ValueError(f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE must be within [1, {self.queue_size}]")
        if min(self.schedule_delay_s, self.metrics_period_s) <= 0:
            raise ValueError("OTEL_BSP_SCHEDULE_DELAY and OTEL_METRIC_EXPORT_INTERVAL must be positive")


def from_environ(
    environ: Mapping[str, str],
    *,
    prometheus_port: int = 0,
    prometheus_host: str = "127.0.0.1",
    sample_ratio: float = DEFAULT_SAMPLE_RATIO,
    applications: frozenset[str] = frozenset(),
    tenants: frozenset[str] = frozenset(),
    bucket_label: str = "",
    buckets: frozenset[str] = frozenset(),
    old_cache_write_name: bool = True,
    server_address: str = "",
    server_port: int = 0,
    service_version: str = "",
) -> TelemetrySettings:
    """Read the standard variables from `environ`; they win over the arguments, which are our own config.

    Raises:
        ValueError: A variable has a value this service does not take; the message names the variable.
    """
    content = environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").strip().upper()
    if content not in ("", "NO_CONTENT", "FALSE"):
        raise ValueError(
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT: capturing content is not supported; "
            "unset it or set NO_CONTENT"
        )
    return TelemetrySettings(
        enabled=environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true",
        traces=_traces(environ),
        metrics=_metrics(environ),
        metrics_period_s=_number(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1e3,
        prometheus_port=int(_number(environ, "OTEL_EXPORTER_PROMETHEUS_PORT", prometheus_port)),
        prometheus_host=environ.get("OTEL_EXPORTER_PROMETHEUS_HOST", "") or prometheus_host,
        sampler=environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_traceidratio",
        sample_ratio=_number(environ, "OTEL_TRACES_SAMPLER_ARG", sample_ratio),
        resource=_resource(environ, service_version),
        queue_size=int(_number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)),
        batch_size=int(_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)),
        schedule_delay_s=_number(environ, "OTEL_BSP_SCHEDULE_DELAY", 5_000) / 1e3,
        applications=applications,
        tenants=tenants,
        bucket_label=bucket_label,
        buckets=buckets,
        old_cache_write_name=old_cache_write_name,
        server_address=server_address,
        server_port=server_port,
    )


def _traces(environ: Mapping[str, str]) -> OtlpTarget | None:
    exporters = _exporters(environ, "OTEL_TRACES_EXPORTER", ("otlp", "none"))
    target = _target(environ, "TRACES", "v1/traces")
    if "none" in exporters or (not exporters and target is None):
        return None
    return target or _default_target(environ, "TRACES", "v1/traces")


def _metrics(environ: Mapping[str, str]) -> OtlpTarget | None:
    # Unlike spans, metrics are not pushed just because an endpoint is named: it is usually Jaeger's, which
    # refuses metrics.
    exporters = _exporters(environ, "OTEL_METRICS_EXPORTER", ("otlp", "prometheus", "none"))
    if "otlp" not in exporters:
        return None
    return _target(environ, "METRICS", "v1/metrics") or _default_target(environ, "METRICS", "v1/metrics")


def _exporters(environ: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    exporters = tuple(part.strip() for part in environ.get(name, "").split(",") if part.strip())
    for exporter in exporters:
        if exporter not in allowed:
            raise ValueError(f"{name}={exporter!r} is not one of {', '.join(allowed)}")
    return exporters


def _target(environ: Mapping[str, str], signal: str, path: str) -> OtlpTarget | None:
    """The target named for this signal, or for all; only the latter gets the signal's path (OTLP
    exporter spec)."""
    protocol = _protocol(environ, signal)
    own = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "").strip()
    shared = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not own and not shared:
        return None
    endpoint = own or (shared if protocol == GRPC else f"{shared.rstrip('/')}/{path}")
    return _complete(environ, signal, endpoint, protocol)


def _default_target(environ: Mapping[str, str], signal: str, path: str) -> OtlpTarget:
    protocol = _protocol(environ, signal)
    endpoint = "http://localhost:4317" if protocol == GRPC else f"http://localhost:4318/{path}"
    return _complete(environ, signal, endpoint, protocol)


def _complete(environ: Mapping[str, str], signal: str, endpoint: str, protocol: str) -> OtlpTarget:
    shared = environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    headers = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_HEADERS") or shared
    # SDK 1.45.2 reads the OTLP timeout in seconds, the specification says milliseconds; we follow the SDK, so
    # that one value means the same to it and to us.
    shared_timeout_s = _number(environ, "OTEL_EXPORTER_OTLP_TIMEOUT", 10)
    timeout_s = _number(environ, f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT", shared_timeout_s)
    return OtlpTarget(
        endpoint=endpoint,
        protocol=protocol,
        headers=_pairs(headers, "OTEL_EXPORTER_OTLP_HEADERS", lower=True),
        timeout_s=timeout_s,
    )


def _protocol(environ: Mapping[str, str], signal: str) -> str:
    name = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    protocol = environ.get(name) or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or GRPC
    if protocol not in (GRPC, HTTP):
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r} is not one of {GRPC}, {HTTP}")
    return protocol


def _resource(environ: Mapping[str, str], service_version: str) -> dict[str, str]:
    resource = {"service.name": SERVICE_NAME}
    if service_version:
        resource["service.version"] = service_version
    resource |= _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""), "OTEL_RESOURCE_ATTRIBUTES")
    if name := environ.get("OTEL_SERVICE_NAME", "").strip():
        resource["service.name"] = name
    return resource


def _pairs(text: str, name: str, *, lower: bool = False) -> dict[str, str]:
    """Parse "k=v,k2=v2" with percent-encoded values."""
    pairs: dict[str, str] = {}
    for item in text.split(","):
        if not item.strip():
            continue
        key, separator, value = item.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"{name}: each entry must be key=value")
        pairs[key.strip().lower() if lower else key.strip()] = unquote(value.strip())
    return pairs


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "").strip()
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None
