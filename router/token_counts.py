"""Exact token counts of the registered applications' tools and system prompts, from the providers' free counters.

The rule: at the start each registered layer is counted once per content and model, off the request path, and what
comes back is told to the token estimator; until then, and wherever it fails, estimates stay. The counters take whole
requests, so a layer is the difference of two: with it and without it, around one placeholder message (A-COUNT and
G-GEN, countTokens, 2026-11: free, estimates by the vendors' own word, not billed, limits of their own).

What is sent to be counted is the operator's registered text and nothing else, to both providers, since either may be
asked to answer with it. What a request brings (its own system text, context, conversation) is never sent to be
counted: it goes to the provider of its route and to no other.

One call at a time per provider keeps far below their limits (2,000 a minute and up); a refusal that may pass is
retried with growing waits, at least as long as the provider asks. Counts are not kept across restarts: they cost
nothing but a moment, and a stale one would be believed. This module does not know what is cached or billed.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import accumulate

import msgspec

from cache.prompt import Block, Layer
from cache.tokens import TokenEstimator
from classifier.route import Route
from router.applications import Applications
from router.call import Call, Identity, Message, Role, Text, Tool
from router.errors import InvalidRequest, NotSupported, UpstreamError, UpstreamRejected
from router.padding import Padding
from router.tasks import Tasks
from router.upstreams.base import Upstream

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""Longest wait for one count."""
ATTEMPT_LIMIT = 8
"""Attempts at one count; with the waits between them about two minutes."""
FIRST_WAIT_S = 1.0
"""Wait after the first failure; doubles with each, and up to twice as long at random, so that replicas spread."""
WAIT_LIMIT_S = 300.0
"""Longest wait a provider may ask for; for more, estimates stay."""
_PLACEHOLDER = (Message(Role.USER, (Text("."),)),)
"""A request needs a message; its tokens are counted alone, once, and taken off."""


class Opening(msgspec.Struct, frozen=True, gc=False):
    """Layers that prompts open with."""

    tools: tuple[Tool, ...] = ()
    system: tuple[str, ...] = ()


class _Uncounted(Exception):
    """There is no count; `final` when there will be none of this provider either."""

    def __init__(self, why: str, *, final: bool) -> None:
        super().__init__(why)
        self.final = final


class TokenCounts:
    """Counts openings with each upstream's counter and tells the estimator; one per process."""

    def __init__(
        self,
        *,
        upstreams: Mapping[Route, Upstream],
        estimator: TokenEstimator,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Keep references.

        Args:
            draw: Gives jitter in [0, 1).
            sleep: Waits before a retry.
        """
        self._upstreams = upstreams
        self._estimator = estimator
        self._draw = draw
        self._sleep = sleep
        self._turns = {route: asyncio.Lock() for route in upstreams}
        self._tokens: dict[tuple[Route, Opening], int] = {}
        self._running = 0
        self._done = asyncio.Event()

    def start(self, tasks: Tasks, applications: Applications) -> None:
        """Let `tasks` count the layers of all applications with both providers; call it once.

        What fails is logged once per provider.
        """
        found = (applications.get(name) for name in applications.names())
        layers = dict.fromkeys(Opening(each.tools, each.system) for each in found)
        chains = [_chain(opening.tools, (opening.system,)) for opening in layers]
        self._running = len(self._upstreams)
        for route in self._upstreams:
            tasks.start(self._run(route, chains), f"count the applications' layers on {route.value}")

    async def wait(self) -> None:
        """Return once all that was started has ended, whatever came of it."""
        await self._done.wait()

    async def _run(self, route: Route, chains: Sequence[Sequence[Opening]]) -> None:
        try:
            await self._count_all(route, chains)
        finally:
            self._running -= 1
            if not self._running:
                self._done.set()

    async def count_padded(self, padding: Padding) -> None:
        """Count an application's layers with the filler behind them, as Opus gets them."""
        application = padding.application
        filler = padding.system[len(application.system) :]
        await self._count_all(Route.OPUS, [_chain(application.tools, (application.system, filler))])

    async def _count_all(self, route: Route, chains: Sequence[Sequence[Opening]]) -> None:
        """Count each chain's openings with one provider, one call at a time."""
        missed, why = 0, ""
        for index, chain in enumerate(chains):
            try:
                await self._count_chain(route, chain)
            except _Uncounted as error:
                missed, why = missed + 1, str(error)
                if error.final:
                    missed = len(chains) - index + missed - 1
                    break
        if missed:
            model = self._upstreams[route].model
            logger.warning(
                "%s: tokens of %d of %d applications' layers stay estimates: %s",
                model,
                missed,
                len(chains),
                why,
            )

    async def _count_chain(self, route: Route, chain: Sequence[Opening]) -> None:
        """Count openings, each of which continues the one before, and tell the estimator of all of them."""
        if not chain:
            return
        frame = await self._count(route, Opening())
        counts = [await self._count(route, opening) - frame for opening in chain]
        if counts[0] <= 0 or counts != sorted(counts):
            raise _Uncounted("its counts contradict each other", final=False)
        model = self._upstreams[route].model
        for speller in self._upstreams.values():
            # Both routes are planned over one spelling, whichever it is, so the counts are told of either.
            try:
                spelled = [_blocks(speller, opening) for opening in chain]
            except (InvalidRequest, NotSupported):
                continue
            for length in range(1, len(chain) + 1):
                blocks = spelled[length - 1]
                if blocks:
                    ends = [len(each) for each in spelled[:length]]
                    self._estimator.know(blocks, model, spread(blocks, ends, counts[:length]))

    async def _count(self, route: Route, opening: Opening) -> int:
        """Tokens of a request with these layers and the placeholder; asked once."""
        async with self._turns[route]:
            key = (route, opening)
            counted = self._tokens.get(key)
            if counted is None:
                counted = self._tokens[key] = await self._ask(self._upstreams[route], opening)
            return counted

    async def _ask(self, upstream: Upstream, opening: Opening) -> int:
        """Ask the counter until it answers.

        Raises:
            _Uncounted: It refuses, or has failed too often.
        """
        try:
            rendered = upstream.render(_call(opening))
        except (InvalidRequest, NotSupported) as error:
            raise _Uncounted(type(error).__name__, final=False) from error
        wait_s, why = FIRST_WAIT_S, ""
        for attempt in range(ATTEMPT_LIMIT):
            asked_s = 0.0
            if attempt:
                await self._sleep(wait_s)
            try:
                counted = await upstream.count_prompt(rendered, TIMEOUT_S)
                if counted is not None:
                    return counted
                why = "it gave no count"
            except UpstreamError as error:
                why = type(error).__name__
                asked_s = error.retry_after_s or 0.0
                if not error.retryable or asked_s > WAIT_LIMIT_S:
                    # A refused request says nothing of the next one; a refused key, model or cap does.
                    raise _Uncounted(why, final=not isinstance(error, UpstreamRejected)) from error
            backoff_s = FIRST_WAIT_S * 2**attempt
            wait_s = max(asked_s, backoff_s) + backoff_s * self._draw()
        raise _Uncounted(why, final=True)


def spread(blocks: Sequence[Block], ends: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
    """Cumulative tokens of each block: exact at each of `ends`, in proportion to bytes in between.

    Args:
        ends: Numbers of leading blocks that were counted, ascending; the last is all of them.
        counts: Tokens of each.
    """
    spread_counts: list[int] = []
    start = before = 0
    for end, counted in zip(ends, counts, strict=True):
        sizes = list(accumulate([len(block.content) for block in blocks[start:end]]))
        spread_counts += [before + (counted - before) * size // sizes[-1] for size in sizes]
        start, before = end, counted
    return tuple(spread_counts)


def _chain(tools: tuple[Tool, ...], systems: Iterable[tuple[str, ...]]) -> list[Opening]:
    """Openings that each continue the one before: the tools, then one part of the system prompt after the other."""
    chain = [Opening(tools)] if tools else []
    whole: tuple[str, ...] = ()
    for system in systems:
        whole += system
        if system:
            chain.append(Opening(tools, whole))
    return chain


def _call(opening: Opening) -> Call:
    return Call(
        identity=Identity(request_id="count"),
        tools=opening.tools,
        system=opening.system,
        messages=_PLACEHOLDER,
        max_output_tokens=1,
    )


def _blocks(upstream: Upstream, opening: Opening) -> tuple[Block, ...]:
    """The opening's blocks in an upstream's spelling.

    Raises:
        InvalidRequest, NotSupported: It has none.
    """
    prompt = upstream.render(_call(opening)).prompt
    return prompt.blocks[: max(prompt.ends[Layer.TOOLS], prompt.ends[Layer.SYSTEM]) + 1]
