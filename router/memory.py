"""What the router remembers of a conversation between its requests: the last route, and where its context stands.

The rule: lost without harm. It serves whoever names a session; nothing of what was said is in it, only which route
answered, how its turns scored, and a digest of the user context. `router.session_book` keeps it, beside the session's
account.
"""

import msgspec

from classifier.history import NO_HISTORY, History
from classifier.route import Route
from router.placement import NO_CONTEXT, ContextSeen


class Remembered(msgspec.Struct, frozen=True, gc=False):
    """Of one session.

    Attributes:
        route: Route of its last answer.
        request_count: Requests answered so far.
        context: Its user context, as far as placing it needs.
        score_mean: Running mean of its scores in [0, 1] (`classifier.thresholds.mean_score`).
        scored_count: Turns that had a score.
        history: What its turns came to, for the score of the next.
        answered_s: When its last answer ended, seconds since the epoch; 0 unknown.
    """

    route: Route
    request_count: int
    context: ContextSeen = NO_CONTEXT
    score_mean: float = 0.0
    scored_count: int = 0
    history: History = NO_HISTORY
    answered_s: float = 0.0
