"""What every named session has used, cost and saved, how it was answered, and what is believed warm of it.

The rule: one account per (tenant, session), kept for every session a caller names, stateless ones included. Its sums
are fed by settlements only (`note`), so they hold what the ledger books and nothing else. Calls made for the caller
(Purpose.USER) count; our own are apart on the bill. Sums hold what is known: a call of unknown cost is counted beside
them, never as 0. Beside the sums stands what the session's next request is decided by (`remember`, `recall`): the last
route, and where the user context stands.

Whether a session is warm is not remembered but asked: the account keeps the digest of the deepest breakpoint that was
last sent for the session, and `PrefixIndex` says what is believed of that prefix NOW, after every write, read, miss
and lapse since, whoever caused it. A clock of the session's own would call a prefix warm that the provider dropped, and
cold one that another session refreshed. Calls without breakpoints (Flash, one-off prompts) leave the last prefix as it
was.

Bounded: `limit` sessions; the longest unused is forgotten first, with its totals, which the ledger still has. One
account takes about 600 bytes (tests/benchmarks/bench_memory.py). It does not know what was said: of a user context
only a digest.
"""

from collections import OrderedDict
from collections.abc import Sequence
from struct import Struct
from sys import intern
from typing import NamedTuple

import msgspec

from cache.belief import Belief
from cache.index import PrefixIndex
from cache.prefix import DIGEST_SIZE
from cache.prompt import CacheScope
from classifier.history import NO_HISTORY, History
from classifier.route import Route
from classifier.thresholds import mean_score
from router.beliefs import CacheView
from router.call import Call, ContextPlacement, Message
from router.memory import Remembered
from router.never_switch import Left, is_first, left_by
from router.placement import NO_CONTEXT, NO_HABIT, ContextSeen, Habit, learn
from router.settlement import Outcome, Purpose, Settlement
from router.usage import Usage


class Totals(NamedTuple):
    """Sums and instants of one session.

    Attributes:
        request_count: Requests, answered or not; a retry or a fallback is no request of its own.
        unknown_cost_count: Calls that may have been billed and whose cost is not known; they are in no sum.
        partial_count: Calls whose usage is unknown or was cut short, so that the token sums are floors.
        thinking_count: Calls whose provider told how much of the output was thinking.
        input_tokens: All input, cache reads and writes included; the next three are parts of it.
        output_tokens: All output, thinking included.
        thinking_tokens: Part of the output spent on thinking, over the calls of `thinking_count`.
        cost_nano_usd: Sum over the calls of known cost.
        saving_nano_usd: Cost without caching minus cost, over the calls where both are known; may be negative.
        created_time_s: Start of its first call, seconds since the epoch.
        started_time_s: Start of its last call, from which TTLs count.
        prefix_started_time_s: Start of the last call that sent breakpoints; 0 while none did.
        digest: Digest of the prefix ending at the deepest of them.
    """

    request_count: int = 0
    unknown_cost_count: int = 0
    partial_count: int = 0
    thinking_count: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cost_nano_usd: int = 0
    saving_nano_usd: int = 0
    created_time_s: float = 0.0
    started_time_s: float = 0.0
    prefix_started_time_s: float = 0.0
    digest: bytes = bytes(DIGEST_SIZE)

    def usage(self) -> Usage:
        """The token sums in normal form; thinking is None when no provider told of any."""
        return Usage(
            input_tokens=self.input_tokens,
            cache_read_tokens=self.cache_read_tokens,
            cache_write_5m_tokens=self.cache_write_5m_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens,
            output_tokens=self.output_tokens,
            thinking_tokens=self.thinking_tokens if self.thinking_count else None,
            complete=not self.partial_count,
        )


# As objects these take 600 bytes of a session, packed 160; packing costs half a microsecond.
_PACKED = Struct(f"<4i8q3d{DIGEST_SIZE}s")
_NOTHING = _PACKED.pack(*Totals())
JUDGEABLE_LIMIT = 16_384
"""Last answers whose judgement still reaches their session's next turn: minutes of traffic, 200 bytes each."""
_ROUTES = {str(route): route for route in Route}


class Account(msgspec.Struct, gc=False):
    """One session so far; only the book writes it.

    Attributes:
        application: Application of its last call, "" for none; likewise `user`.
        route: Route of its last answer, "" while there is none.
        packed: Its `Totals`.
        scope: Cache that the last breakpoints were sent to; None while there were none.
        ttls_s: Their TTLs in prompt order, seconds.
        answer_count: Requests answered.
        context: Its user context, as far as placing it needs.
        score_mean: Running mean of its scores, and
        scored_count: the turns that had one.
        history: What its turns came to, for the score of the next.
        answered_s: When its last answer ended, seconds since the epoch; 0 unknown.
        request_id: Of its last answer, "" when nobody can judge it.
        began: Route its first request was first sent to, "" when that was not seen.
        left: Of a session begun on Opus whose last answer is Flash's: what Opus's would have left in its cache.
    """

    application: str
    user: str
    route: str = ""
    packed: bytes = _NOTHING
    scope: CacheScope | None = None
    ttls_s: tuple[int, ...] = ()
    answer_count: int = 0
    context: ContextSeen = NO_CONTEXT
    score_mean: float = 0.0
    scored_count: int = 0
    history: History = NO_HISTORY
    answered_s: float = 0.0
    request_id: str = ""
    began: str = ""
    left: Left | None = None

    def totals(self) -> Totals:
        """What the session has used, cost and saved."""
        return Totals(*_PACKED.unpack(self.packed))

    def warm(self, index: PrefixIndex, now_s: float) -> tuple[float, int]:
        """(chance in [0, 1] that the provider holds its last prefix at `now_s`, tokens of it); zeros for neither."""
        if self.scope is None:
            return 0.0, 0
        belief: Belief | None = index.belief(self.scope, (self.totals().digest,))[0]
        p_warm = 0.0 if belief is None else belief.p_warm(now_s)
        return (p_warm, belief.tokens) if belief is not None and p_warm > 0 else (0.0, 0)


class SessionBook:
    """Accounts by (tenant, session)."""

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` sessions."""
        self._limit = limit
        self._accounts: OrderedDict[tuple[str, str], Account] = OrderedDict()
        # The few combinations of at most four TTLs, so that a million accounts share them.
        self._ttls: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._habits: dict[str, Habit] = {}  # by registered application, so bounded by the settings
        # Request -> key of the session it answered last; judgements come soon or not for the next turn.
        self._judgeable: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def find(self, tenant: str, session: str) -> Account | None:
        """The session's account, None when there is none or it was forgotten. Does not count as use."""
        return self._accounts.get((tenant, session)) if session else None

    def recall(self, tenant: str, session: str) -> Remembered | None:
        """How the session was answered last, None when it never was or was forgotten. Does not count as use."""
        account = self._accounts.get((tenant, session)) if session else None
        if account is None or not account.answer_count:
            return None
        return Remembered(
            _ROUTES[account.route],
            account.answer_count,
            account.context,
            account.score_mean,
            account.scored_count,
            account.history,
            account.answered_s,
        )

    def habit(self, application: str) -> Habit:
        """How sessions of an application treat their context; requests without one have nothing in common."""
        return self._habits.get(application, NO_HABIT)

    def remember(
        self,
        tenant: str,
        session: str,
        route: Route,
        *,
        application: str = "",
        context: Sequence[str] = (),
        placement: ContextPlacement = ContextPlacement.BEFORE_HISTORY,
        messages: Sequence[Message] = (),
        score: float | None = None,
        request_id: str = "",
        finish: str | None = None,
        escalated: bool = False,
        now_s: float = 0.0,
    ) -> None:
        """Note that `route` answered the session; no-op for the empty session.

        Args:
            application: Name of a registered one, "" for none.
            context: User context of the request; only its digest is kept.
            placement: Where it stood.
            messages: The request's; only how many and how long they are is kept.
            score: Of the turn, in [0, 1]; None when it says nothing of the conversation.
            request_id: By which the answer may be judged (`judged`); "" when it cannot be.
            finish: How the answer ended, None unknown.
            escalated: Whether it was asked for because Flash's had failed.
            now_s: When it ended, seconds since the epoch; 0 unknown.
        """
        if not session:
            return
        account = self._account(tenant, session, application, None)
        account.history = account.history.after(route, finish, escalated=escalated)
        account.answered_s, account.request_id = now_s, request_id
        if request_id:
            self._judgeable[request_id] = (tenant, session)
            if len(self._judgeable) > JUDGEABLE_LIMIT:
                self._judgeable.popitem(last=False)
        before = account.context if account.answer_count else None
        account.answer_count += 1
        habit = self.habit(application)
        account.context, learnt = learn(context, messages, placement, before, habit)
        account.route = str(route)
        if score is not None:
            account.score_mean = mean_score(account.score_mean, account.scored_count, score)
            account.scored_count += 1
        if application and learnt is not habit:
            self._habits[application] = learnt

    def judged(self, tenant: str, request_id: str, verdict: str) -> None:
        """Note what somebody said of a session's last answer; no-op for any other request.

        Args:
            verdict: One of `classifier.history.VERDICTS`.
        """
        key = self._judgeable.get(request_id)
        if key is None or key[0] != tenant:
            return
        account = self._accounts.get(key)
        if account is not None and account.request_id == request_id:
            account.history = account.history.judged(verdict)

    def begin(self, call: Call, route: Route) -> None:
        """Note that a request was first sent to `route`; no-op unless its session begins with it."""
        identity = call.identity
        key = (identity.tenant, identity.session)
        if identity.session and key not in self._accounts and is_first(call):
            account = self._account(identity.tenant, identity.session, identity.application, identity.user)
            account.began = str(route)

    def stay(self, tenant: str, session: str, route: Route, opus: CacheView | None, asked_s: float) -> None:
        """Note that `route` answered a request decided at `asked_s`, whose view of Opus this is.

        It matters to sessions begun on Opus alone (`router.never_switch`).
        """
        account = self.find(tenant, session)
        if account is not None and account.began == str(Route.OPUS):
            account.left = left_by(opus, asked_s) if route is Route.FLASH else None

    def note(self, settlement: Settlement, view: CacheView | None) -> None:
        """Book one settled attempt; no-op without a session.

        Args:
            view: The route's view of the prompt that was sent, None when there was none.
        """
        intent = settlement.intent
        if not intent.session or intent.purpose is not Purpose.USER:
            return
        account = self._account(intent.tenant, intent.session, intent.application, intent.user)
        digest = None
        if view is not None and view.plan.breakpoints and settlement.outcome is not Outcome.REFUSED:
            marks = view.plan.breakpoints
            ttls_s = tuple([mark.ttl_s for mark in marks])
            account.scope, digest = view.scope, marks[-1].digest
            account.ttls_s = self._ttls.setdefault(ttls_s, ttls_s)
        account.packed = _added(account.packed, settlement, digest)
        if settlement.outcome is Outcome.OK:
            account.route = intent.route

    def _account(self, tenant: str, session: str, application: str, user: str | None) -> Account:
        """The account to write in, now the one used last; a new one may push out the longest unused.

        Args:
            user: None leaves it as it is.
        """
        key = (tenant, session)
        account = self._accounts.get(key)
        if account is None:
            # Many sessions, few tenants and applications: one string each.
            account = self._accounts[intern(tenant), session] = Account(intern(application), user or "")
            if len(self._accounts) > self._limit:
                self._accounts.popitem(last=False)
            return account
        self._accounts.move_to_end(key)
        if account.application != application:
            account.application = intern(application)
        if user is not None and account.user != user:
            account.user = user
        return account


def _added(packed: bytes, settlement: Settlement, digest: bytes | None) -> bytes:
    """The totals with one more attempt. A refused one bills nothing, but may be the first of a request.

    Args:
        digest: Of the prefix ending at the deepest breakpoint sent; None when none was.
    """
    before = Totals(*_PACKED.unpack(packed))
    requests, unknown, partial, told, whole, read, write_5m, write_1h, output, thinking, spent, saved = (
        before[:12]
    )
    started_s = settlement.intent.started_time_s
    requests += settlement.intent.attempt == 1
    usage, cost, otherwise = settlement.usage, settlement.cost, settlement.counterfactuals
    if usage is None:
        partial += settlement.outcome is not Outcome.REFUSED
    else:
        partial += not usage.complete
        whole += usage.input_tokens
        read += usage.cache_read_tokens
        write_5m += usage.cache_write_5m_tokens
        write_1h += usage.cache_write_1h_tokens
        output += usage.output_tokens
        if usage.thinking_tokens is not None:
            told += 1
            thinking += usage.thinking_tokens
    if cost is None:
        unknown += settlement.outcome is not Outcome.REFUSED
    else:
        total = cost.total_nano_usd
        spent += total
        if otherwise is not None and otherwise.no_caching_nano_usd is not None:
            saved += otherwise.no_caching_nano_usd - total
    return _PACKED.pack(
        requests,
        unknown,
        partial,
        told,
        whole,
        read,
        write_5m,
        write_1h,
        output,
        thinking,
        spent,
        saved,
        before.created_time_s or started_s,
        started_s,
        before.prefix_started_time_s if digest is None else started_s,
        before.digest if digest is None else digest,
    )
