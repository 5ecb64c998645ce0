"""Notes, for the ledger, what the prompt of a call consists of: little, because most of it was noted before.

The rule: a prompt is noted as the longest prefix of it that this process noted since midnight (UTC), and the blocks
past that, each by a name under the ledger's key (`router.prompt_body`). What can be continued is remembered: whole
prompts, and prefixes that end with a stable layer or before the turn. Nothing is noted upon what was noted on another
day before, because the ledger forgets by whole days: what is kept can be read whatever was pruned. What a process that
died had noted is noted anew.

It knows no text (it is handed digests), no table and no clock. One thread at a time.
"""

from hashlib import blake2b
from itertools import islice

from cache.plan import Plan
from cache.prompt import Layer
from cache.rules import TTL_1H_S
from router.beliefs import CacheView
from router.prompt_body import (
    HAS_BLOCKS,
    HAS_PARENT,
    HAS_VOLATILE,
    IS_PARTIAL,
    KIND_CODES,
    MARKABLE_CODE,
    NAME_BYTES,
    ROLE_CODES,
    VERSION,
    append_number,
)

DAY_S = 86_400.0
LIMIT = 32_768
"""Prefixes that are remembered at most, about 5 MB; forgetting one costs the ledger a prompt that is noted whole."""
NEW_LIMIT = 2_048
"""Blocks noted of one call: 1.4 ms and 23 kB. The prompt of a call with more of them is unknown; the next that begins
like it goes on from there, so a conversation that is longer at midnight or at a start is caught up with in a few."""
_CONVERSATION = int(Layer.HISTORY)


class PrefixNotes:
    """What has been noted since midnight, of one cache scope at a time."""

    def __init__(self, key: bytes, limit: int = LIMIT) -> None:
        """Start having noted nothing.

        Args:
            key: The ledger's own (`Ledger.prefix_key`), at most 64 bytes.
            limit: Prefixes remembered, >= 4.
        """
        self._key = key
        self._limit = limit
        self._known: dict[bytes, bytes] = {}
        self._day = 0.0
        self._lost = 0
        self._scope: object = None
        self._start = blake2b(digest_size=NAME_BYTES, key=key)

    def note(self, view: CacheView, plan: Plan | None, started_s: float, lost: int = 0) -> bytes:
        """What the ledger is to keep of a prompt, b"" of an empty one.

        Args:
            view: Opus's view of it, whichever route was asked.
            plan: Breakpoints that were sent; None for none.
            started_s: When the call began, seconds since the epoch.
            lost: Settlements that the ledger has lost so far: what was noted with them cannot be relied on.
        """
        digests, prompt = view.digests, view.prompt
        length = len(digests)
        if not length:
            return b""
        known = self._ready(view, started_s, lost)
        shared = length
        parent = None
        for digest in reversed(digests):
            parent = known.get(digest)
            if parent is not None:
                break
            shared -= 1
        end = min(length, shared + NEW_LIMIT)
        tools_end, system_end, context_end, history_end, _ = prompt.ends
        system_end = max(tools_end, system_end)
        stable_end = max(system_end, context_end)
        turn_from = max(stable_end, history_end) + 1
        body = bytearray((VERSION,))
        if parent is not None:
            body[0] |= HAS_PARENT
            body += parent
            append_number(body, shared)
        if end < length:
            body[0] |= IS_PARTIAL
        append_number(body, length - turn_from if end == length else 0)
        append_number(body, len(view.counted.counts))
        marks = () if plan is None or end < length else plan.breakpoints
        append_number(body, len(marks))
        for mark in marks:
            append_number(body, mark.position << 1 | (mark.ttl_s >= TTL_1H_S))
        if prompt.volatile_from >= 0:
            body[0] |= HAS_VOLATILE
            append_number(body, prompt.volatile_from)
            append_number(body, prompt.volatile_end)
        if shared == length:
            return bytes(body)
        body[0] |= HAS_BLOCKS
        name = self._add_blocks(body, view, shared, end)
        if started_s >= self._day:
            for place in (system_end, stable_end, turn_from - 1):
                if shared <= place < end:
                    known.setdefault(digests[place], name)
            known[digests[end - 1]] = name
            if len(known) > self._limit:
                # A dict looks for its first key past all that were deleted: 7.5 us each, of many at once .24.
                for digest in list(islice(known, len(known) - self._limit + self._limit // 64)):
                    del known[digest]
        return bytes(body)

    def _ready(self, view: CacheView, started_s: float, lost: int) -> dict[bytes, bytes]:
        """What may be built upon for a call of that time; forgotten are other days, scopes, and what is lost."""
        if started_s >= self._day + DAY_S or lost != self._lost or view.scope is not self._scope:
            if view.scope != self._scope:
                self._start = blake2b("\0".join(view.scope).encode(), digest_size=NAME_BYTES, key=self._key)
                self._known = {}
            self._scope = view.scope
            if started_s >= self._day + DAY_S or lost != self._lost:
                self._known = {}
            self._day, self._lost = max(self._day, started_s // DAY_S * DAY_S), lost
        return self._known

    def _add_blocks(self, body: bytearray, view: CacheView, shared: int, end: int) -> bytes:
        """Append the blocks from `shared` to `end`; give the name of the last."""
        digests, blocks, counts, fresh = view.digests, view.prompt.blocks, view.counts, self._start.copy
        before = counts[shared - 1] if shared else 0
        name = b""
        for place in range(shared, end):
            layer, kind, _, role, markable, _, _ = blocks[place]
            code = KIND_CODES[kind] | ROLE_CODES.get(role, 0)
            code |= layer if layer < _CONVERSATION else _CONVERSATION
            body.append(code | MARKABLE_CODE if markable else code)
            count = counts[place]
            tokens = count - before
            before = count
            if tokens < 0x80:
                body.append(tokens if tokens > 0 else 0)
            else:
                append_number(body, tokens)
            step = fresh()
            step.update(digests[place])
            name = step.digest()
            body += name
        return name
