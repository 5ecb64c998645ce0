"""What every test keeps: seeded properties, no live provider, a clean environment.

Properties run from fixed seeds, so a red test is red for everyone: 60 examples where a test does not say more.
`HYPOTHESIS_PROFILE=explore` draws anew, and 500.
"""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import postgres_schemas, postgres_server, postgres_url

__all__ = ["postgres_schemas", "postgres_server", "postgres_url"]

settings.register_profile(
    "fixed", max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "explore", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

FOREIGN = ("ANTHROPIC_", "GEMINI_", "GOOGLE_", "OTEL_", "HYBRID_ROUTER__")


@pytest.fixture(autouse=True)
def _no_foreign_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, endpoint or setting of the developer's machine reaches a test: a live call has nothing to log in with."""
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_swallowed_fault(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What the service fences off so that no bill is lost (learning, background work) still fails its test."""
    yield
    if request.node.get_closest_marker("fault_expected"):
        return
    fenced = ("router.settler", "router.tasks", "router.warmer", "router.warming")
    faults = [
        record.getMessage()
        for phase in ("setup", "call")
        for record in caplog.get_records(phase)
        if record.name in fenced and record.levelno >= logging.ERROR
    ]
    assert not faults, faults
