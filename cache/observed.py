"""One application's traffic, digested so that every way of caching it can be priced afterwards.

The rule: what a cache policy costs is linear in a few sums per gap (uses, tokens that would be read), so requests are
added once, in order of their start, and forgotten; memory is bounded by the users and sessions remembered. A request
without a session is a session of its own; one without a user shares its context with nobody. Conversations are taken
to grow by appending: a turn can read at most what the turn before it sent. Two runs of one session that are told
apart too late (the oldest are forgotten) count as two sessions, which understates caching.

It does not know prices, nor what was cached at the time.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from cache.gaps import GapDigest

SIZES = (512, 1024, 2048, 4096)
"""Minimums of the models there are: sizes from which conversations may be worth marking where smaller ones are not."""


@dataclass(slots=True)
class Marked:
    """Sums of the requests of at least `from_tokens`: those whose last message would be marked.

    Attributes:
        first: Of the requests, first turns; `first_tokens` likewise.
        second: Gaps before second turns, with the tokens they could read.
        later: Gaps before all later turns.
    """

    from_tokens: int
    requests: int = 0
    tokens: float = 0.0
    first: int = 0
    first_tokens: float = 0.0
    second: GapDigest = field(default_factory=GapDigest)
    later: GapDigest = field(default_factory=GapDigest)

    def add(self, turn: int, tokens: float, readable_tokens: float, gap_s: float | None) -> None:
        """Count a request that is long enough; `readable_tokens` it has in common with the turn before."""
        self.requests += 1
        self.tokens += tokens
        if turn == 1:
            self.first += 1
            self.first_tokens += tokens
        elif readable_tokens >= self.from_tokens:
            (self.second if turn == 2 else self.later).add(gap_s, readable_tokens)


@dataclass(slots=True, kw_only=True)
class Lane:
    """Sums of all requests as one model would count them; every token count includes the shared layers.

    Attributes:
        minimum_tokens: The model's minimum: a request below it neither writes nor is read.
        factor: Its tokens per token added.
        added_tokens: Tokens put before every request: filler, or what this model's own wrapping has more.
        requests: Requests added; `input_tokens` is their input.
        marked: Those of at least the minimum, and of at least each higher size in `SIZES`, ascending.
    """

    minimum_tokens: int
    factor: float = 1.0
    added_tokens: float = 0.0
    requests: int = 0
    input_tokens: float = 0.0
    marked: tuple[Marked, ...] = field(init=False)

    def __post_init__(self) -> None:
        larger = (size for size in SIZES if size > self.minimum_tokens)
        self.marked = tuple(Marked(size) for size in (self.minimum_tokens, *larger))

    def add(self, turn: int, input_tokens: float, before_tokens: float, gap_s: float | None) -> None:
        """Count a request; `before_tokens` is the input of the turn before it, in the tokens added."""
        tokens = input_tokens * self.factor + self.added_tokens
        self.requests += 1
        self.input_tokens += tokens
        readable = min(before_tokens * self.factor + self.added_tokens, tokens)
        for marked in self.marked:
            if tokens < marked.from_tokens:
                break
            marked.add(turn, tokens, readable, gap_s)


@dataclass(slots=True)
class _Session:
    last_s: float
    input_tokens: float
    turns: int


class Observed:
    """Requests of one application on one route. Not thread-safe."""

    def __init__(self, lanes: Sequence[Lane], *, max_remembered: int = 100_000) -> None:
        """Start empty; at most `max_remembered` users and as many sessions are told apart at a time."""
        self.lanes = tuple(lanes)
        self.shared = GapDigest()
        """Gaps of the layers that every request shares; the first use, a write, counts as one without end."""
        self.users = GapDigest()
        """Gaps between requests of one user."""
        self.turns = GapDigest()
        """Gaps between turns of one session; first turns have none before them."""
        self.seconds = GapDigest()
        """Gaps between first and second turns, of the sessions that have a second."""
        self.session_count = 0
        self.one_off_count = 0
        """Sessions of one request."""
        self.first_s: float | None = None
        self.last_s: float | None = None
        self._users: OrderedDict[Hashable, float] = OrderedDict()
        self._sessions: OrderedDict[Hashable, _Session] = OrderedDict()
        self._max_remembered = max_remembered

    @property
    def request_count(self) -> int:
        """Requests added."""
        return self.shared.count

    def add(
        self, started_s: float, user: Hashable | None, session: Hashable | None, input_tokens: float
    ) -> None:
        """Add a request that started at `started_s`; requests come in that order.

        Args:
            input_tokens: Whole input, cache reads and writes included.
        """
        if self.first_s is None:
            self.first_s = started_s
        self.shared.add(None if self.last_s is None else max(0.0, started_s - self.last_s))
        self.last_s = started_s
        self.users.add(self._since_user(user, started_s))
        before = None if session is None else self._sessions.get(session)
        gap_s = None if before is None else max(0.0, started_s - before.last_s)
        self.turns.add(gap_s)
        turn = 1 if before is None else before.turns + 1
        for lane in self.lanes:
            lane.add(turn, input_tokens, 0.0 if before is None else before.input_tokens, gap_s)
        if turn == 1:
            self.session_count += 1
            self.one_off_count += 1
        elif turn == 2:
            self.one_off_count -= 1
            self.seconds.add(gap_s)
        if before is not None:
            before.last_s, before.input_tokens, before.turns = started_s, input_tokens, turn
            self._sessions.move_to_end(session)
        elif session is not None:
            self._sessions[session] = _Session(started_s, input_tokens, 1)
            if len(self._sessions) > self._max_remembered:
                self._sessions.popitem(last=False)

    def second_share_within(self, span_s: float) -> float:
        """Share of sessions whose second turn came within `span_s` seconds of the first; 0 without sessions."""
        return self.seconds.count_within(span_s) / self.session_count if self.session_count else 0.0

    def _since_user(self, user: Hashable | None, started_s: float) -> float | None:
        if user is None:
            return None
        last_s = self._users.pop(user, None)
        self._users[user] = started_s
        if len(self._users) > self._max_remembered:
            self._users.popitem(last=False)
        return None if last_s is None else max(0.0, started_s - last_s)
