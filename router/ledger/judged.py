"""Feedback in the ledger's tables, and decided requests with what became of them: what a classifier is retrained from.

The rule: a judgement is kept for a user's request that this ledger knows, under the request's own tenant; the tables
decide, in the writer's transaction, so there is one answer however many ask at once. A request is one row of training
data whatever its attempts: decided once, at its first attempt; its end is the last attempt's; its cost is all of them.
Nothing here is text of a request; packed features are hashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from router.feedback import MAX_SOURCES, Feedback, Receipt, Received, Verdict
from router.ledger import codec
from router.ledger.database import Database
from router.settlement import DecisionRecord, Outcome, Settlement

_IDS_AT_ONCE = 500
"""Ids bound in one statement."""

_FIND = """
SELECT tenant, started_time_s, kind, route, coalesce(json_extract(CAST(record AS TEXT), '$.decision.model_digest'), ''),
       coalesce(reason, '')
FROM calls WHERE request_id = ? AND purpose = 'user' ORDER BY attempt LIMIT 1
"""
_STANDING = "SELECT verdict, score, time_s, replaced_count FROM feedback WHERE request_id = ? AND source = ?"
_INSERT = "INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?, 0)"
_REPLACE = (
    "UPDATE feedback SET verdict = ?, score = ?, time_s = ?, replaced_count = replaced_count + 1"
    " WHERE request_id = ? AND source = ?"
)


class DecidedAttempt(msgspec.Struct, frozen=True, gc=False):
    """One attempt of a decided request, as far as training asks.

    Attributes:
        discarded: Failure for which its answer was not handed on, "" when it was.
        cost_nano_usd: None when unknown; 0 for a refused one.
        input_tokens, output_tokens: None without usage.
        duration_s: Seconds from its start to its end.
    """

    attempt: int
    route: str
    outcome: Outcome
    error: str
    finish_reason: str
    discarded: str
    cost_nano_usd: int | None
    input_tokens: int | None = None
    output_tokens: int | None = None
    duration_s: float | None = None


class DecidedRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A user's request that was decided and settled, with how it turned out.

    Attributes:
        started_time_s: Start of its first attempt, seconds since the epoch.
        route: Route it was decided for: that of the first attempt.
        decision: The first attempt's; `features` are packed, "" when none were kept.
        answered_route: Route of the last attempt, the one the caller got its answer from, if it got one.
        outcome, error, finish_reason: Of the last attempt.
        discarded: Failure for which an answer of Flash was discarded and Opus asked instead, "" when none was.
        cost_nano_usd: Of all attempts, None when any of them is unknown, as an interrupted one always is.
        attempts: All settled ones, in order.
        feedback: Judgements, by source.
    """

    request_id: str
    session: str
    tenant: str
    application: str
    labels: Mapping[str, str]
    started_time_s: float
    route: str
    decision: DecisionRecord
    answered_route: str
    outcome: Outcome
    error: str
    finish_reason: str
    discarded: str
    cost_nano_usd: int | None
    attempts: tuple[DecidedAttempt, ...]
    feedback: tuple[Feedback, ...]


def keep(
    connection: Database, feedback: Feedback, open_requests: Mapping[str, str], oldest_s: float
) -> Receipt:
    """Keep one judgement, inside the caller's transaction; see `LedgerStore.keep_feedback`."""
    request_id, source, time_s = feedback.request_id, feedback.source, feedback.time_s
    found = connection.execute(_FIND, (request_id,)).fetchone()
    route = digest = reason = ""
    if found is not None:
        tenant, started_s, kind = found[:3]
        if kind == "settled":
            route, digest, reason = found[3:]
        if tenant == feedback.tenant and started_s < oldest_s:
            return Receipt(received=Received.EXPIRED, time_s=time_s)
    else:
        tenant = open_requests.get(request_id)
    if tenant is None or tenant != feedback.tenant:
        return Receipt(received=Received.UNKNOWN, time_s=time_s)

    verdict = feedback.verdict or ""
    standing = connection.execute(_STANDING, (request_id, source)).fetchone()
    replaced = False
    if standing is None:
        (count,) = connection.execute(
            "SELECT count(*) FROM feedback WHERE request_id = ?", (request_id,)
        ).fetchone()
        if count >= MAX_SOURCES:
            return Receipt(received=Received.TOO_MANY, time_s=time_s)
        connection.execute(_INSERT, (request_id, source, tenant, verdict, feedback.score, time_s))
        received = Received.RECORDED
    elif standing[:2] == (verdict, feedback.score) or time_s < standing[2]:
        received, time_s, replaced = Received.REPEATED, standing[2], standing[3] > 0
    else:
        connection.execute(_REPLACE, (verdict, feedback.score, time_s, request_id, source))
        received, replaced = Received.REPLACED, True
    return Receipt(
        received=received, time_s=time_s, replaced=replaced, route=route, model_digest=digest, reason=reason
    )


def feedback_for(connection: Database, request_ids: Iterable[str]) -> dict[str, tuple[Feedback, ...]]:
    """Return the judgements of requests, by source; requests that nobody judged are left out."""
    found: dict[str, list[Feedback]] = {}
    for ids in _batches(request_ids):
        rows = connection.execute(
            "SELECT request_id, tenant, source, verdict, score, time_s FROM feedback"
            f" WHERE request_id IN ({', '.join('?' * len(ids))}) ORDER BY request_id, source",
            ids,
        )
        for request_id, tenant, source, verdict, score, time_s in rows:
            found.setdefault(request_id, []).append(
                Feedback(
                    request_id=request_id,
                    tenant=tenant,
                    source=source,
                    verdict=Verdict(verdict) if verdict else None,
                    score=score,
                    time_s=time_s,
                )
            )
    return {request_id: tuple(judgements) for request_id, judgements in found.items()}


def decided_page(
    connection: Database,
    since_s: float | None,
    until_s: float | None,
    after: tuple[float, int] | None,
    limit: int,
) -> list[tuple[tuple[float, int], DecidedRequest]]:
    """Return at most `limit` decided requests behind the position `after`; see `LedgerReader.decided`."""
    conditions, bound = ["kind = 'settled'", "purpose = 'user'", "attempt = 1"], list[float]()
    if since_s is not None:
        conditions.append("started_time_s >= ?")
        bound.append(since_s)
    if until_s is not None:
        conditions.append("started_time_s < ?")
        bound.append(until_s)
    if after is not None:
        conditions.append("(started_time_s, id) > (?, ?)")
        bound += after
    # A first attempt without a decision was made by a release that kept none; it is read over, not returned short.
    conditions.append("reason IS NOT NULL")
    rows = connection.execute(
        f"SELECT started_time_s, id, record FROM calls WHERE {' AND '.join(conditions)}"
        " ORDER BY started_time_s, id LIMIT ?",
        (*bound, limit),
    ).fetchall()
    firsts = [((started_s, number), codec.decode_settlement(body)) for started_s, number, body in rows]
    ids = [first.intent.request_id for _, first in firsts]
    later, feedback = _later_attempts(connection, ids), feedback_for(connection, ids)
    broken_off = _broken_off(connection, ids)
    return [
        (
            place,
            _request(
                first, later.get(request_id, ()), feedback.get(request_id, ()), request_id in broken_off
            ),
        )
        for request_id, (place, first) in zip(ids, firsts, strict=True)
    ]


def _later_attempts(connection: Database, request_ids: Iterable[str]) -> dict[str, list[Settlement]]:
    found: dict[str, list[Settlement]] = {}
    for ids in _batches(request_ids):
        rows = connection.execute(
            "SELECT request_id, record FROM calls WHERE kind = 'settled' AND attempt > 1"
            f" AND request_id IN ({', '.join('?' * len(ids))}) ORDER BY request_id, attempt",
            ids,
        )
        for request_id, body in rows:
            found.setdefault(request_id, []).append(codec.decode_settlement(body))
    return found


def _broken_off(connection: Database, request_ids: Iterable[str]) -> set[str]:
    """Requests one of whose attempts was interrupted: nobody knows what that one cost."""
    found: set[str] = set()
    for ids in _batches(request_ids):
        found.update(
            request_id
            for (request_id,) in connection.execute(
                "SELECT request_id FROM calls WHERE kind = 'interrupted'"
                f" AND request_id IN ({', '.join('?' * len(ids))})",
                ids,
            )
        )
    return found


def _request(
    first: Settlement, later: Sequence[Settlement], feedback: tuple[Feedback, ...], broken_off: bool
) -> DecidedRequest:
    settlements = (first, *later)
    attempts = tuple(
        DecidedAttempt(
            each.intent.attempt,
            each.intent.route,
            each.outcome,
            each.error,
            each.finish_reason,
            each.discarded,
            _cost(each),
            None if each.usage is None else each.usage.input_tokens,
            None if each.usage is None else each.usage.output_tokens,
            each.duration_s,
        )
        for each in settlements
    )
    costs = [each.cost_nano_usd for each in attempts]
    intent, decision, last = first.intent, first.decision, attempts[-1]
    assert decision is not None, "the query asks for decided ones"
    return DecidedRequest(
        request_id=intent.request_id,
        session=intent.session,
        tenant=intent.tenant,
        application=intent.application,
        labels=intent.labels,
        started_time_s=intent.started_time_s,
        route=intent.route,
        decision=decision,
        answered_route=last.route,
        outcome=last.outcome,
        error=last.error,
        finish_reason=last.finish_reason,
        discarded=next((each.discarded for each in attempts if each.discarded), ""),
        cost_nano_usd=None
        if broken_off or None in costs
        else sum(cost for cost in costs if cost is not None),
        attempts=attempts,
        feedback=feedback,
    )


def _cost(settlement: Settlement) -> int | None:
    if settlement.cost is not None:
        return settlement.cost.total_nano_usd
    return 0 if settlement.outcome is Outcome.REFUSED else None


def _batches(ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Cut ids into tuples that one statement can bind."""
    rest = iter(ids)
    while batch := tuple(islice(rest, _IDS_AT_ONCE)):
        yield batch
