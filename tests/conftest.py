"""What every test keeps: seeded properties, no live provider, a clean environment.

Properties run from fixed seeds, so a red test is red for everyone; `HYPOTHESIS_PROFILE=explore` draws anew.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

FOREIGN = ("ANTHROPIC_", "GEMINI_", "GOOGLE_", "OTEL_", "HYBRID_ROUTER__")


@pytest.fixture(autouse=True)
def _no_foreign_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, endpoint or setting of the developer's machine reaches a test: a live call has nothing to log in with."""
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
