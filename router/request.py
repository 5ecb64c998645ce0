"""What a caller asked for, checked and complete: the call, the application it names, and the demands on the route."""

import msgspec

from classifier.route import Route
from router.applications import Application
from router.call import Call


class Demands(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The caller's demands on the decision.

    Attributes:
        forced_route: Take this route; None lets the router decide.
        quality_floor: In [0, 1], None for the threshold.
        cost_ceiling_nano_usd: Most the expected cost may be; None for no ceiling.
        expected_follow_ups: Requests expected with the same prefix within five minutes; None: learned.
        fallback_allowed: Whether the other route may answer when the chosen one fails.
        exploration_allowed: Whether the route may be drawn at random.
        escalation_allowed: Whether Opus may be asked again when Flash's answer shows a failure.
    """

    forced_route: Route | None = None
    quality_floor: float | None = None
    cost_ceiling_nano_usd: int | None = None
    expected_follow_ups: int | None = None
    fallback_allowed: bool = True
    exploration_allowed: bool = True
    escalation_allowed: bool = True


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A checked request.

    Attributes:
        action: What the user did that led here, "" for none.
        strategy: Name of the cache strategy asked for, "" for the application's or the service's.
    """

    call: Call
    application: Application
    demands: Demands
    action: str = ""
    strategy: str = ""
