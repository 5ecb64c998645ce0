"""What is left of a provider's rate limit, by its last answer."""

import time

import pytest

from router.upstreams.rate_room import RateRoom


def headers(requests: tuple[str, str], tokens: tuple[str, str]) -> dict[str, str]:
    """As Claude's API spells them: limit and remaining."""
    return {
        "anthropic-ratelimit-requests-limit": requests[0],
        "anthropic-ratelimit-requests-remaining": requests[1],
        "anthropic-ratelimit-input-tokens-limit": tokens[0],
        "anthropic-ratelimit-input-tokens-remaining": tokens[1],
    }


@pytest.mark.parametrize(
    ("told", "share"),
    [
        (headers(("1000", "900"), ("2000000", "500000")), 0.25),
        (headers(("1000", "100"), ("2000000", "2000000")), 0.1),
        (headers(("0", "0"), ("2000000", "1000000")), 0.5),
        (headers(("many", "-3"), ("", "")), None),
        (headers(("1", "9" * 400), ("1" + "0" * 5_000, "7")), None),
        ({}, None),
        (headers(("1000", "-7"), ("2000000", "2000000")), 0.0),
        (headers(("1000", "2000"), ("", "")), 1.0),
        (headers(("-5", "3"), ("9" * 5000, "1")), None),
    ],
    ids=[
        "tokens",
        "requests",
        "no limit",
        "nonsense",
        "endless digits",
        "none",
        "overdrawn",
        "more than all",
        "beyond numbers",
    ],
)
def test_the_tighter_limit_counts_and_what_is_not_said_is_unknown(
    told: dict[str, str], share: float | None
) -> None:
    """Requests and input tokens; a limit of 0 is none."""
    room = RateRoom()
    assert room.share() is None
    room.note(told)
    found = room.share(time.monotonic())
    assert found is None if share is None else found == pytest.approx(share, abs=0.01)


def test_it_fills_up_within_a_minute() -> None:
    """Buckets fill continuously: what was left then is more by now, and never more than all."""
    room = RateRoom()
    room.note(headers(("1000", "100"), ("2000000", "2000000")))
    now_s = time.monotonic()
    assert room.share(now_s + 30) == pytest.approx(0.6, abs=0.01)
    assert room.share(now_s + 600) == 1.0


def test_a_refusal_that_says_nothing_leaves_what_was_known() -> None:
    """Overload comes from in front of the limits: the bucket is as it was; a refusal by the limit says so itself."""
    room = RateRoom()
    room.note(headers(("1000", "100"), ("2000000", "2000000")))
    room.refused({"retry-after": "3"})
    assert room.share(time.monotonic()) == pytest.approx(0.1, abs=0.01)
    room.refused(headers(("1000", "900"), ("2000000", "0")))
    assert room.share(time.monotonic()) == pytest.approx(0.0, abs=0.01)
