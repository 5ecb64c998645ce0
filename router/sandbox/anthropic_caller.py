"""Who sends an Anthropic request: credential, workspace, protocol version, betas (A-AUTH, A-VER; 2026-11).

Rule: `x-api-key` wins over a bearer token when both arrive; an unknown key is a 401, an absent or unknown
version and an unknown beta are 400s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.sandbox.anthropic_betas import KNOWN
from router.sandbox.anthropic_errors import ApiError, invalid
from router.sandbox.anthropic_request import NEW_VERSION, OLD_VERSION
from router.sandbox.invoice import fingerprint
from router.sandbox.state import scope_of
from router.sandbox.wire import WireRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, when, and under which protocol version."""

    request_id: str
    workspace: str
    key_fingerprint: str
    version: str
    betas: frozenset[str]
    now: float


def identify(request: WireRequest, request_id: str, keys: Mapping[str, str] | None, now: float) -> Caller:
    """Read the caller from the headers; `keys` maps accepted keys to workspaces (None: any key).

    Raises:
        ApiError: if the request may not pass.
    """
    headers = request.headers
    key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ").strip()
    workspace = scope_of(key, keys, "wrkspc_sandbox")
    if workspace is None:
        raise ApiError("authentication_error", "invalid x-api-key")
    version = headers.get("anthropic-version")
    if version is None:
        raise invalid(("anthropic-version",), "header is required")
    if version not in (OLD_VERSION, NEW_VERSION):
        raise invalid(("anthropic-version",), f'"{version}" is not a valid version')
    betas = frozenset(b.strip() for b in headers.get("anthropic-beta", "").split(",") if b.strip())
    unknown = sorted(betas - KNOWN)
    if unknown:
        shown = ", ".join(f"`{b}`" for b in unknown)
        raise invalid((), f"Unexpected value(s) {shown} for the `anthropic-beta` header.")
    return Caller(
        request_id=request_id,
        workspace=workspace,
        key_fingerprint=fingerprint(key),
        version=version,
        betas=betas,
        now=now,
    )
