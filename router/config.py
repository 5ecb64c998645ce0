"""The operator's settings: one frozen tree, loaded once, unknown keys refused.

Order, later wins: defaults below, the TOML file, then environment variables `HYBRID_ROUTER__SECTION__KEY`.
Secrets come from the environment or from files, never from the TOML file itself. This is the only module that reads
`os.environ`. A setting exists when two deployments differ in it; what never differs is a constant beside its use.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Meta, Struct

from router.config_errors import located
from router.placement import PlacementSetting

ENVIRONMENT_PREFIX = "HYBRID_ROUTER__"
FILLER_BYTES_LIMIT = 1 << 20
"""Largest filler, bytes: a hundred times what the strictest model's minimum takes."""

Port = Annotated[int, Meta(ge=0, le=65535)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
PositiveUsd = Annotated[float, Meta(ge=1e-6, le=1e6)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
StrategyName = Literal["none", "a", "b", "c", "auto"]
SignalName = Literal["malformed", "refusal", "schema", "empty", "truncated"]


class ConfigError(Exception):
    """The settings cannot be used; the message names the key, its value and what is allowed."""


class ServerConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The gRPC edge."""

    listen: str = "127.0.0.1:50051"
    """Address and port to listen on; port 0 picks a free one."""
    reflection: bool = False
    """Answer gRPC reflection; off because it shows the whole contract to whoever can connect."""
    operator_service: bool = True
    """Serve OperatorService on the same port; switch off where callers must not see costs."""
    in_flight_limit: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Requests in progress beyond which new ones are refused; health checks are not counted."""
    message_bytes_limit: Annotated[int, Meta(ge=1 << 16, le=1 << 29)] = 32 << 20
    """Largest request message, bytes; the providers take 32 MB (A-ERR, 2026-11)."""
    default_deadline_s: PositiveSeconds = 120.0
    """Deadline of requests that bring none."""
    deadline_limit_s: PositiveSeconds = 600.0
    """Longest deadline; longer ones are cut to it."""
    drain_s: Annotated[float, Meta(ge=0, le=300)] = 0.0
    """After SIGTERM: time between reporting NOT_SERVING and refusing calls, for balancers to notice."""
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """After that: time for running calls to finish."""


class UpstreamConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One provider."""

    model: str
    """Full model id, one of the catalogue's."""
    base_url: Annotated[str, Meta(pattern=r"^(https?://[^\s/?#]+\S*)?$")] = ""
    """Other address than the provider's own, e.g. a regional proxy: http://... or https://..."""
    api_key_file: str = ""
    """File that holds the key; the environment variable wins when both are set."""
    workspace: str = "default"
    """Name of the provider workspace or project the key belongs to; caches are never shared across two."""


class OpusConfig(UpstreamConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The strong route: key from ANTHROPIC_API_KEY or `api_key_file`."""

    model: str = "claude-opus-5-5"
    diagnostics: bool = False
    """Ask the provider, too, why a cache read was missed: told beside our own cause. GA on the Claude API, not on
    partner clouds (A-DIAG, 2026-11). Off because each request then leaves a fingerprint with the provider."""


class FlashConfig(UpstreamConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The cheap route: key from GEMINI_API_KEY, GOOGLE_API_KEY or `api_key_file`."""

    model: str = "gemini-3.8-flash"


class RoutingConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How routes are chosen."""

    classifier: str = ""
    """Directory of the classifier artifact; empty: the one that ships with the package."""
    threshold: Share | None = None
    """Score at or above which Opus is taken; absent: what the classifier's training suggests."""
    answer_value_usd: PositiveUsd | None = None
    """What one needed Opus answer is worth. Opus is then taken where the chance that it is needed pays what it costs
    more with what is warm now (economics of `classifier/POLICY.md`); absent: the fixed threshold."""
    budget_usd_per_day: PositiveUsd | None = None
    """Spend of a day (UTC) to hold to. What is free to choose goes to Flash when it is used up; nothing is refused."""
    opus_share_limit: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Opus's share of the requests to hold to, on the mean."""
    quality_floor: Annotated[float, Meta(ge=0, lt=1)] | None = None
    """Share of answers that do, by the classifier's own chances, to hold to on the mean; money has the last word."""
    exploration_share: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    """Share of the requests decided by score whose route is drawn at random, evenly, to judge the next classifier by.
    0.01 is plenty; each draws Opus where Flash was meant, or the other way, half of the time."""
    exploration_band: Share | None = None
    """Draw only where the score is at most this far from the threshold; absent: everywhere."""
    default_route: Literal["flash", "opus"] = "flash"
    """Route when no classifier can score."""
    follow_up_inherits: bool = True
    """A bare follow-up ("yes, go on") stays on its session's route."""
    retry_limit: Annotated[int, Meta(ge=0, le=5)] = 1
    """Further tries on the same route after a failure that may pass."""
    retry_wait_limit_s: Annotated[float, Meta(ge=0, le=60)] = 2.0
    """Longest wait before a retry; a provider that asks for more is not waited for."""
    fallback: bool = True
    """Take the other route when the chosen one fails before it answers."""
    circuit: bool = True
    """Hold calls back from an upstream that keeps failing; the other route takes them where it may."""
    circuit_window_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """Recent time whose outcomes are counted."""
    circuit_minimum_calls: Annotated[int, Meta(ge=1, le=100_000)] = 20
    """Outcomes in it below which the share of failures says nothing."""
    circuit_failure_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Share of failures that opens a circuit. Only what is the provider's own counts: 5xx and 529, lost connections,
    broken answers, timeouts after `circuit_slow_s`, limits that ask for more than `retry_wait_limit_s`."""
    circuit_failures_in_a_row: Annotated[int, Meta(ge=1, le=100_000)] = 10
    """Failures without an answer between that open it too, however few the calls."""
    circuit_open_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    """How long it stays open at first, stretched by up to a fifth at random; doubles each time it opens again."""
    circuit_open_limit_s: Annotated[float, Meta(gt=0, le=86_400)] = 120.0
    """Longest it stays open."""
    circuit_probe_limit: Annotated[int, Meta(ge=1, le=1000)] = 2
    """Requests let through at a time once that is over; as many answers close it, one failure opens it again."""
    circuit_slow_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """A timeout counts only if the provider had this long: a caller in a hurry says nothing about the provider."""
    hedge_after_s: Annotated[float, Meta(ge=0, le=600)] = 0.0
    """Unary only: ask the same route once more when no answer came for so long, and take the first; 0 switches it off.
    Set it near the 95th percentile of the route's answers: the one that loses may be billed all the same."""
    hedge_routes: tuple[Literal["flash", "opus"], ...] = ("flash",)
    """Routes that may be hedged. On Opus both calls pay their prompt, and may both write the cache."""


class AttemptsConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long one attempt may take before it counts as lost; the caller's deadline bounds it in any case."""

    first_byte_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """Streams: time without any event at the start, beyond what the provider may need to read the prompt and, on
    Gemini, to think before it shows anything; 0 waits for the deadline."""
    idle_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 60.0
    """Streams: time between two events, the provider's pings included; 0 waits for the deadline."""
    attempt_share: Share = 0.0
    """Unary: an attempt after which another could follow may use this share of the time left, but is never cut while
    an answer of the length allowed may still be on its way; 0 gives it all."""


class CascadeConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Asking Opus when Flash's answer shows a failure; the discarded answer is paid for too."""

    enabled: bool = False
    """Off, because each escalation costs a second answer and its time."""
    on: tuple[SignalName, ...] = ("malformed", "refusal", "schema", "empty")
    """Failures that count: a malformed tool call, a refusal or safety block, an answer that violates the schema asked
    for, an empty one. "truncated" counts an answer cut at its bound of tokens, which Opus may exceed as well."""
    needed_s: PositiveSeconds = 10.0
    """Least time before the deadline with which Opus is asked; with less, Flash's answer is handed on."""


class CacheConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How Opus prompts are cached."""

    strategy: StrategyName = "auto"
    """Default strategy; applications and requests may choose another."""
    prefix_limit: Annotated[int, Meta(ge=100, le=10_000_000)] = 50_000
    """Prefixes to remember, about 1 kB each; the soonest to expire are forgotten first. A request adds about three that
    live five minutes: raise it from 50 requests per second on."""
    session_limit: Annotated[int, Meta(ge=100, le=10_000_000)] = 100_000
    """Sessions to remember: last route and totals, about 600 bytes each; the longest unused go first."""
    count_tokens: bool = True
    """Let the providers count the applications' tools and system prompts, once at the start: free, not billed, exact
    where estimates are a tenth off. Sends these, and never anything of a request, to both; false estimates."""
    single_flight: bool = True
    """Let requests that would write the same cold prefix wait for the first of them, and read what it wrote."""
    flight_limit_s: Annotated[float, Meta(ge=0, le=60)] = 3.0
    """Longest such wait; half of what the caller's deadline leaves is never exceeded."""
    flight_second_usd: Annotated[float, Meta(ge=0, le=1000)] = 0.01
    """What a second of a caller's waiting costs, USD: what the write would cost is held against it. 0: any wait within
    the limit is worth it. Above zero by default, because it is the callers who wait."""
    filler_file: str = ""
    """Text that may lengthen shared layers too short to be cached, UTF-8, relative to the config file; empty: never.
    Opus reads it with every padded request: examples and notes that help its answers, the most useful first."""
    filler: str = ""
    """What `filler_file` holds, once loaded; not for the file of settings."""
    facts_file: str = ""
    """Facts about the provider's cache that `hybrid-router probe` measured, relative to the config file; empty: what
    the documents leave open is assumed. Read once, at the start."""
    facts_age_days: Annotated[float, Meta(gt=0, le=3650)] = 90.0
    """Facts measured longer ago are ignored: a provider may have changed by then."""


class WarmingConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Calls of zero output that keep or make prefixes warm on Opus; priced apart from the users' calls."""

    policy: Literal["off", "session_start", "keep_alive", "predictive", "shared", "auto"] = "off"
    """What is warmed. "auto": what is expected to pay; the four in the middle do what they say whether it pays or not,
    for comparison. Off by default, because a warm is money that nobody asked to be spent."""
    second_usd: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    """What a second less to the first token is worth, USD. At 0 only keep-alives and shared layers can pay: warming
    ahead of a request is never cheaper in money. 0 by default: a gain we would claim has to be somebody's word."""
    usd_per_hour: Annotated[float, Meta(ge=0, le=1_000_000)] = 1.0
    """Most that warms may cost in an hour, USD."""
    requests_per_minute: Annotated[float, Meta(ge=0, le=100_000)] = 30.0
    """Most warms in a minute; they count towards the provider's limits."""
    rate_reserve: Share = 0.25
    """Share of the provider's rate limit, in requests and in input tokens a minute, that is left to users: while its
    last answer says that less is left, no warm is sent. Cache reads do not count to it, a warm that writes does."""
    hold_out: Share = 0.05
    """Share of warms that pay but are not sent, at random, so that what the others bring can be told from chance."""
    actions: tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...] = ()
    """Users' actions (SessionService.ReportAction) taken to precede a request on Opus until it is seen otherwise."""
    score: Share = 0.2
    """Least score of a turn that Flash answered, or where it is foreseen least chance that the session asks Opus within
    five minutes, from which "predictive" warms the session's prefix on Opus. The shipped threshold, from which Opus is
    asked at once, is 0.25. "auto" asks what pays instead: nothing, unless second_usd says what time is worth."""
    foresight: Annotated[str, Meta(min_length=1)] = "default"
    """What foresees a session's next request beside what is learnt online: "default" is the champion that `retrain` put
    into the registry (classifier.registry), nothing without one; "off" is nothing; else the directory of an artifact.
    What is foreseen wrongly washes out per application, so the default is safe to leave."""
    recipe_bytes_limit: Annotated[int, Meta(ge=1 << 20, le=1 << 36)] = 128 << 20
    """Bytes of requests kept in memory to be warmed again; the longest unused are given up first."""


class SessionsConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conversations held for callers (SessionService.OpenSession), in memory: a restart loses them."""

    held_limit: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    """Sessions held at once; more are refused, because one that is held is a promise."""
    bytes_limit: Annotated[int, Meta(ge=1 << 20, le=1 << 40)] = 512 << 20
    """Bytes of all their messages, 350 more counted for each; resident memory is about twice that."""
    session_bytes_limit: Annotated[int, Meta(ge=1 << 10, le=1 << 30)] = 16 << 20
    """Bytes of one session's messages and user context, counted likewise."""
    session_message_limit: Annotated[int, Meta(ge=2, le=100_000)] = 10_000
    """Messages of one session."""
    idle_ttl_s: PositiveSeconds = 3600.0
    """How long a session is kept when unused, if OpenSession does not say."""
    idle_ttl_limit_s: PositiveSeconds = 86_400.0
    """Longest it may ask for."""


class LedgerConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where calls are booked."""

    path: str = "var/ledger"
    """Directory of the ledger; made when missing. One process at a time."""
    url: str = ""
    """PostgreSQL database that several routers share instead of a file in `path`, where the journal still is:
    postgresql://user@host:5432/name?sslmode=verify-full. Empty: SQLite. A password does not belong here: see below."""
    password_file: str = ""
    """File that holds the password of `url`; without it PGPASSWORD or ~/.pgpass is used."""
    feedback_days: Annotated[float, Meta(gt=0, le=3650)] = 90.0
    """How long after it began a request may be judged (SubmitFeedback); later its id is as unknown as any other."""
    keep_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    """How long single calls are kept; older ones are moved into sums by day, route, model, tenant and application, a
    few at a time, by the running router. 0: for ever."""
    keep_prefixes: bool = True
    """Keep what each prompt consists of, so that `replay` can tell what another caching policy would have cost: a name
    of eight bytes and the tokens for each block that is new, under a key of the ledger's; .1 kB a call. No text, but
    whoever holds the database, knows everything a prompt holds before a block, and guesses the block, can see that the
    guess is right: false for none of it."""


class ClassifierConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the classifier is exchanged and watched while requests are served."""

    registry: str = ""
    """Directory of a registry of classifiers; its champion scores, `routing.classifier` while it has none. Empty: no
    registry, and nothing is promoted or rolled back."""
    watch_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """How often to look whether a command made another model of the registry the champion; 0: only when told to."""
    shadow: str = ""
    """Digest in the registry, or directory, of a model that scores every request and decides none; empty: none."""
    keep_features: bool = True
    """Keep in the ledger what each score was computed from, hashed, for training: 0.25 kB for a short question, 1.5 kB
    for 2,000 characters, 5 kB at most. No text, but whoever holds the ledger can test guesses at words against
    it: false for none of it."""
    encoder: Annotated[str, Meta(pattern=r"^$|^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] = ""
    """A text encoder (sentence embeddings) beside words and structure: "package.module:factory" of your code, called
    once at start; empty: none. What is kept of a vector is 64 numbers, in the ledger too, from which parts of a text's
    meaning can be guessed. A model fitted with an encoder serves only beside it."""
    encoder_wait_s: Annotated[float, Meta(ge=0, le=5)] = 0.05
    """Longest that a request waits for its embedding; later ones are scored without."""
    drift_window: Annotated[int, Meta(ge=200, le=100_000)] = 2_000
    """Last requests whose figures are compared with the reference."""
    rollback_margin: Share = 0.05
    """With a registry: a new model whose share of bad outcomes is surely larger than the one's before by more than this
    is taken back by itself; 1: never."""


class TelemetryConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Spans and metrics; the exporter itself is set by the standard OTEL_* variables."""

    prometheus_port: Port = 0
    """Port of the Prometheus endpoint; 0 switches it off."""
    prometheus_address: str = "127.0.0.1"
    """Address of the Prometheus endpoint."""
    sample_ratio: Share = 0.1
    """Share of traces kept when the caller has not decided and OTEL_TRACES_SAMPLER is not set."""
    legacy_cache_attribute: bool = True
    """Also write gen_ai.usage.cache_creation.input_tokens, which Jaeger's GenAI tab still reads."""
    tenants: tuple[str, ...] = ()
    """Tenants that get a metric label of their own; the others share "other"."""
    bucket_label: Annotated[str, Meta(max_length=64)] = ""
    """Name of the request label whose value is the bucket of hit rate and saving, e.g. "feature"; empty: no buckets."""
    buckets: Annotated[tuple[str, ...], Meta(max_length=100)] = ()
    """Values of that label with series of their own; the others share "other", requests without it are "none"."""


class ToolConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tool of an application."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z_][a-zA-Z0-9_-]{0,127}$")]
    description: str = ""
    input_schema_json: str = '{"type":"object"}'
    """JSON Schema as text; its bytes are kept."""


class ApplicationConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A registered application: layers that are the same bytes for everyone."""

    system: tuple[str, ...] = ()
    """System prompt, in blocks."""
    system_files: tuple[str, ...] = ()
    """Files appended to `system`, one block each; relative to the config file."""
    tools: tuple[ToolConfig, ...] = ()
    """Tools, in the order they are sent."""
    max_output_tokens: Annotated[int, Meta(ge=1, le=128_000)] = 4096
    """Bound of answers when a request sets none."""
    cache_strategy: StrategyName | None = None
    """Strategy of this application; absent: the service's."""
    threshold: Share | None = None
    """Threshold of this application; absent: the service's."""
    context_placement: PlacementSetting = "auto"
    """Where the user context stands. "before_history": cached with the conversation, which a change rewrites;
    "after_history": sent anew with each turn, and a change rewrites nothing; "auto": before, until a session changes
    its own."""
    cascade: bool | None = None
    """Whether Opus is asked when Flash's answer fails; absent: as `cascade.enabled` says."""
    cascade_on: tuple[SignalName, ...] | None = None
    """Failures that count for this application; absent: `cascade.on`."""
    pad: bool | None = None
    """Whether its shared layers may be lengthened by `cache.filler_file` when that pays; absent: yes where there is a
    filler. Nothing without one."""


class PriceConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A negotiated price, USD per million tokens as decimal text, e.g. "3.60"; absent: the list price."""

    input: str | None = None
    cache_read: str | None = None
    cache_write_5m: str | None = None
    cache_write_1h: str | None = None
    output: str | None = None


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole tree."""

    server: ServerConfig = ServerConfig()
    opus: OpusConfig = OpusConfig()
    flash: FlashConfig = FlashConfig()
    routing: RoutingConfig = RoutingConfig()
    attempts: AttemptsConfig = AttemptsConfig()
    cascade: CascadeConfig = CascadeConfig()
    cache: CacheConfig = CacheConfig()
    warming: WarmingConfig = WarmingConfig()
    sessions: SessionsConfig = SessionsConfig()
    ledger: LedgerConfig = LedgerConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    applications: dict[Name, ApplicationConfig] = {}
    prices: dict[str, PriceConfig] = {}


class Secrets(Struct, frozen=True, kw_only=True):
    """Provider keys; never printed."""

    opus_api_key: str = ""
    flash_api_key: str = ""

    def __repr__(self) -> str:
        shown = {name: "set" if getattr(self, name) else "missing" for name in self.__struct_fields__}
        return f"Secrets({shown})"


def load_config(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings.

    Args:
        path: TOML file; None for defaults and environment only.
        environ: Environment to read; None for the process's.

    Raises:
        ConfigError: The file cannot be read, or a key is unknown or out of range.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
    _refuse_password(tree)
    _override(tree, os.environ if environ is None else environ)
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path or 'settings'}: {located(tree, str(error), _is_wrong)}") from error
    routing = config.routing
    if routing.circuit_open_limit_s < routing.circuit_open_s:
        raise ConfigError(
            f"routing.circuit_open_limit_s: is {routing.circuit_open_limit_s:g}; it must be at least "
            f"routing.circuit_open_s, which is {routing.circuit_open_s:g}"
        )
    _check_url(config.ledger.url)
    if "://" in config.ledger.path:
        raise ConfigError(
            "ledger.path: is a directory for the journal; the URL of a server belongs in ledger.url"
        )
    base = path.parent if path else Path.cwd()
    return _with_facts_file(_with_filler(_with_system_files(config, base), base), base)


def _is_wrong(table: str, name: str, entry: Any) -> bool:
    """Whether one entry of a table of tables is refused by itself."""
    try:
        msgspec.convert({table: {name: entry}}, Config)
    except msgspec.ValidationError:
        return True
    return False


def load_secrets(config: Config, environ: Mapping[str, str] | None = None) -> Secrets:
    """Read the provider keys from the environment, else from the files the config names.

    Raises:
        ConfigError: A key file is named and cannot be read.
    """
    env = os.environ if environ is None else environ
    return Secrets(
        opus_api_key=env.get("ANTHROPIC_API_KEY", "") or _key_file("opus", config.opus.api_key_file),
        flash_api_key=env.get("GEMINI_API_KEY", "")
        or env.get("GOOGLE_API_KEY", "")
        or _key_file("flash", config.flash.api_key_file),
    )


def ledger_password(config: Config) -> str:
    """Read the password of the ledger's server from the file the config names, "" without one.

    Raises:
        ConfigError: The file cannot be read.
    """
    return _secret_file("ledger.password_file", config.ledger.password_file)


def telemetry_environment() -> Mapping[str, str]:
    """The process environment, for the standard OTEL_* variables."""
    return dict(os.environ)


def show_config(config: Config) -> str:
    """The whole tree as JSON, prompts shortened to their length; it holds no secrets by construction."""
    tree = msgspec.to_builtins(config)
    for application in tree["applications"].values():
        application["system"] = [f"<{len(text)} characters>" for text in application["system"]]
    if _has_password(config.ledger.url):
        tree["ledger"]["url"] = "<a URL with a password>"
    if tree["cache"]["filler"]:
        tree["cache"]["filler"] = f"<{len(tree['cache']['filler'])} characters>"
    return msgspec.json.format(msgspec.json.encode(tree), indent=2).decode()


def _key_file(section: str, name: str) -> str:
    return _secret_file(f"{section}.api_key_file", name)


def _secret_file(setting: str, name: str) -> str:
    if not name:
        return ""
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{setting}: {name}: {error.strerror}") from error


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.password) or "password" in parse_qs(parts.query)


def _refuse_password(tree: Mapping[str, Any]) -> None:
    """A settings file is shown, copied and committed; the environment may bring a URL with a password."""
    ledger = tree.get("ledger")
    url = ledger.get("url") if isinstance(ledger, dict) else None
    if isinstance(url, str) and _has_password(url):
        raise ConfigError(
            "ledger.url: holds a password; put it into a file and name that in ledger.password_file, or set PGPASSWORD"
        )


def _check_url(url: str) -> None:
    """Refuse what is no URL of PostgreSQL's, without repeating it."""
    try:
        known = not url or urlsplit(url).scheme in {"postgresql", "postgres"}
    except ValueError:
        known = False
    if not known:
        raise ConfigError("ledger.url: is no URL of a PostgreSQL database: postgresql://user@host/name")


def _override(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Write HYBRID_ROUTER__SECTION__KEY variables into the tree; values are read as TOML, else as text."""
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if len(keys) < 2 or not all(keys):
            raise ConfigError(
                f"{variable}: use {ENVIRONMENT_PREFIX}SECTION__KEY, e.g. {ENVIRONMENT_PREFIX}SERVER__LISTEN"
            )
        node = tree
        for key in keys[:-1]:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{variable}: {key} is a value, not a section")
            node = child
        node[keys[-1]] = _environment_value(environ[variable])


def _environment_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _with_system_files(config: Config, base: Path) -> Config:
    applications: dict[str, ApplicationConfig] = {}
    for name, application in config.applications.items():
        texts = list(application.system)
        for file in application.system_files:
            try:
                texts.append((base / file).read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"applications.{name}.system_files: {file}: {error}") from error
        applications[name] = msgspec.structs.replace(application, system=tuple(texts), system_files=())
    return msgspec.structs.replace(config, applications=applications)


def _with_facts_file(config: Config, base: Path) -> Config:
    if not config.cache.facts_file:
        return config
    path = str(base / config.cache.facts_file)
    return msgspec.structs.replace(config, cache=msgspec.structs.replace(config.cache, facts_file=path))


def _with_filler(config: Config, base: Path) -> Config:
    cache = config.cache
    if cache.filler:
        raise ConfigError("cache.filler: put the text into a file and name it in cache.filler_file")
    if not cache.filler_file:
        return config
    try:
        with (base / cache.filler_file).open("rb") as file:
            content = file.read(FILLER_BYTES_LIMIT + 1)
            size = max(len(content), os.fstat(file.fileno()).st_size)
        text = content.decode() if size <= FILLER_BYTES_LIMIT else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cache.filler_file: {cache.filler_file}: {error}") from error
    if size > FILLER_BYTES_LIMIT:
        raise ConfigError(
            f"cache.filler_file: {cache.filler_file}: has {size:,} bytes, more than the {FILLER_BYTES_LIMIT:,} allowed"
        )
    if not text.strip():
        raise ConfigError(
            f"cache.filler_file: {cache.filler_file}: is empty; the providers refuse empty text"
        )
    return msgspec.structs.replace(config, cache=msgspec.structs.replace(cache, filler=text))
