"""How a client's channel behaves: limits, keepalive, deadline, and what is tried again.

The rule: only UNAVAILABLE is tried again, a bounded number of times, within the call's own deadline, and never an
answer that has begun. A unary call is retried by the channel (gRPC service config); a stream by its iterator, and only
before its first event, because the server sends headers at once and a channel takes those for the beginning of the
answer. One of the two per method, so that attempts do not multiply. The stream's retries wait as long as the server's
RetryInfo asks, if that is within `retry_wait_limit_s`; the channel knows no RetryInfo, but obeys the server's
`grpc-retry-pushback-ms`: it waits as told, or stops where a blind retry would be wrong, and else backs off by itself.

The server answers UNAVAILABLE only when nothing was billed. A connection that breaks in mid call looks the same to a
channel though, and what it carried may have been billed: then a retry may pay twice, each try a row of the ledger under
the same request id. `attempt_limit=1` switches all of it off. A try that never left this machine, or that a draining
server turned away, is sent again by gRPC whatever the limit.

No gRPC here: what gRPC is told is data.
"""

import json
from dataclasses import dataclass

from router.client.errors import CallFailed, Unavailable

BACKOFF_FACTOR = 2.0
JITTER_SHARE = 0.2
"""Waits are drawn from 1 -+ this share of the backoff, as gRPC does (gRFC A6, 2026-11)."""
ATTEMPT_CEILING = 5
"""gRPC takes no more per call (gRFC A6)."""

_RETRIED = (
    ("router.v1.RouterService", "Generate"),
    ("router.v1.RouterService", "Explain"),
    ("router.v1.SessionService", "GetSession"),
    ("router.v1.OperatorService", "GetCosts"),
    ("router.v1.FeedbackService", "SubmitFeedback"),
)
"""Methods the channel retries. Not OpenSession and CloseSession, which would find their own earlier work done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a client; the defaults suit a backend service in the same network.

    Attributes:
        timeout_s: Deadline of a call that names none, > 0, retries included. The server holds back 20 ms of it, to
            answer before it passes.
        attempt_limit: Tries per call, the first included, 1 to 5.
        backoff_s: Wait before the second try; doubles with each further one, drawn 20 % around.
        backoff_limit_s: Longest backoff.
        retry_wait_limit_s: Longest RetryInfo a stream waits for; longer ones are raised to the caller at once.
        wait_for_ready: Whether a call waits for a connection, up to its deadline, instead of failing when none stands.
        message_bytes_limit: Largest message in either direction; the server's default is the same.
        keepalive_s: Time between pings while calls run, so that a dead peer is noticed in mid answer; at least 30, or
            the server hangs up.
        keepalive_timeout_s: How long a ping may stay unanswered.
    """

    timeout_s: float = 120.0
    attempt_limit: int = 4
    backoff_s: float = 0.2
    backoff_limit_s: float = 5.0
    retry_wait_limit_s: float = 5.0
    wait_for_ready: bool = False
    message_bytes_limit: int = 32 << 20
    keepalive_s: float = 45.0
    keepalive_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive, got {self.timeout_s:g}")
        if not 1 <= self.attempt_limit <= ATTEMPT_CEILING:
            raise ValueError(f"attempt_limit must be 1 to {ATTEMPT_CEILING}, got {self.attempt_limit}")
        if not 0 < self.backoff_s <= self.backoff_limit_s:
            raise ValueError("backoff_s must be positive and at most backoff_limit_s")
        if self.keepalive_s < 30:
            raise ValueError(f"keepalive_s must be at least 30, got {self.keepalive_s:g}")


def channel_options(settings: Settings) -> list[tuple[str, str | int]]:
    """Return the gRPC channel arguments."""
    return [
        ("grpc.service_config", json.dumps(service_config(settings))),
        ("grpc.max_receive_message_length", settings.message_bytes_limit),
        ("grpc.max_send_message_length", settings.message_bytes_limit),
        ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1e3)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout_s * 1e3)),
        # A model that thinks for minutes sends no data meanwhile; by default gRPC stops pinging after two.
        ("grpc.http2.max_pings_without_data", 0),
        # Reconnect sooner than the default second, or every retry would meet the same broken channel.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


def service_config(settings: Settings) -> dict[str, object]:
    """Return the gRPC service config: spread over all addresses of the name, and retry as the module says."""
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if settings.attempt_limit > 1:
        config["methodConfig"] = [
            {
                "name": [{"service": service, "method": method} for service, method in _RETRIED],
                "retryPolicy": {
                    "maxAttempts": settings.attempt_limit,
                    "initialBackoff": f"{settings.backoff_s:g}s",
                    "maxBackoff": f"{settings.backoff_limit_s:g}s",
                    "backoffMultiplier": BACKOFF_FACTOR,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    return config


def stream_wait_s(
    error: CallFailed, *, failed_count: int, remaining_s: float, settings: Settings, draw: float
) -> float | None:
    """Return how long to wait before a stream that has not begun is tried again, None to give up.

    Args:
        error: What the last try ended with.
        failed_count: Tries that failed, the last one included, >= 1.
        remaining_s: Seconds left of the call's deadline.
        draw: Uniform in [0, 1).
    """
    if not isinstance(error, Unavailable) or failed_count >= settings.attempt_limit:
        return None
    backoff_s = min(settings.backoff_s * BACKOFF_FACTOR ** (failed_count - 1), settings.backoff_limit_s)
    wait_s = backoff_s * (1 - JITTER_SHARE + 2 * JITTER_SHARE * draw)
    if error.retry_delay_s is not None:
        if error.retry_delay_s > settings.retry_wait_limit_s:
            return None
        wait_s = max(wait_s, error.retry_delay_s)
    return wait_s if wait_s < remaining_s else None
