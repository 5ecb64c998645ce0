"""Requests kept so that their prefixes can be warmed again: what is sent must equal real traffic to the byte.

The rule: a recipe is the request that wrote or read a prefix, asking for no output, and the breakpoints it had. What
opens it is then the same bytes under the same parameters, so the entry is the one that its traffic reads; whoever sends
it compares the digest all the same. An application's layers are kept with the parameters of its last request and a
placeholder for the conversation. In memory only: a recipe holds what users said, and is given up with the prefix, when
others need the room, and at the end of the process.
"""

from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import msgspec.structs

from cache.plan import Breakpoint
from classifier.route import Route
from router.call import Call, Identity, Message, Part, Role, Text
from router.held_session import byte_count_of_parts
from router.request import Demands, Request

PLACEHOLDER = (Message(Role.USER, (Text("."),)),)
"""Any string with a character that is not white space will do (A-CACHE, pre-warming, 2026-11)."""
_RECIPE_OVERHEAD_BYTES = 2_000


class Recipe(msgspec.Struct, frozen=True, gc=False):
    """How to warm one prefix.

    Attributes:
        key: Digest of the prefix.
        points: Breakpoints of the request that had it, down to this prefix.
        byte_count: Of what it keeps in memory, about.
        tail_tokens: What the request holds behind the prefix, sent as ordinary input.
        answer: What came back, as the conversation will go on from it; () where that is not wanted.
        answer_tokens: Of the answer.
    """

    key: bytes
    request: Request
    points: tuple[Breakpoint, ...]
    byte_count: int
    tail_tokens: int = 0
    answer: tuple[Part, ...] = ()
    answer_tokens: int = 0


class Recipes:
    """Recipes by digest, within a bound in bytes; the longest unused go first."""

    def __init__(self, bytes_limit: int) -> None:
        """Start with none."""
        self._bytes_limit = bytes_limit
        self._recipes: OrderedDict[bytes, Recipe] = OrderedDict()
        self.byte_count = 0

    def __len__(self) -> int:
        return len(self._recipes)

    def keep(self, recipe: Recipe) -> None:
        """Keep one, in the place of an older one for the same prefix."""
        self.forget(recipe.key)
        self._recipes[recipe.key] = recipe
        self.byte_count += recipe.byte_count
        while self.byte_count > self._bytes_limit:
            _, oldest = self._recipes.popitem(last=False)
            self.byte_count -= oldest.byte_count

    def find(self, key: bytes) -> Recipe | None:
        """The recipe of a prefix, which counts as used; None when none is kept."""
        found = self._recipes.get(key)
        if found is not None:
            self._recipes.move_to_end(key)
        return found

    def forget(self, key: bytes) -> None:
        """Give one up."""
        found = self._recipes.pop(key, None)
        if found is not None:
            self.byte_count -= found.byte_count


def recipe_of(
    request: Request,
    points: Sequence[Breakpoint],
    content_bytes: int,
    output_tokens: int = 0,
    *,
    tail_tokens: int = 0,
    answer: tuple[Part, ...] = (),
    answer_tokens: int = 0,
) -> Recipe:
    """Keep a request by the last of `points`.

    Args:
        content_bytes: Bytes of its blocks.
        output_tokens: What a warm asks for.
        tail_tokens: As in `Recipe`; likewise `answer` and `answer_tokens`.
    """
    return Recipe(
        points[-1].digest,
        as_warm(request, request.call, output_tokens=output_tokens),
        tuple(points),
        content_bytes + byte_count_of_parts(answer) + _RECIPE_OVERHEAD_BYTES,
        tail_tokens,
        answer,
        answer_tokens,
    )


def shared_recipe_of(
    request: Request, points: Sequence[Breakpoint], content_bytes: int, output_tokens: int = 0
) -> Recipe:
    """Keep what a request shares with all of its application: tools, system and parameters, nobody's words.

    Nobody's bill either, as long as it is the application's own: not that of the tenant who happened to come first.
    """
    call = request.call
    bare = msgspec.structs.replace(
        call,
        identity=Identity(request_id="", tenant=_payer(request), application=call.identity.application),
        context=(),
        messages=PLACEHOLDER,
    )
    return Recipe(
        points[-1].digest,
        as_warm(request, bare, output_tokens=output_tokens),
        tuple(points),
        content_bytes + _RECIPE_OVERHEAD_BYTES,
    )


def _payer(request: Request) -> str:
    """The tenant whose tools and system prompt these are, "" for those of the application."""
    call, application = request.call, request.application
    own = call.tools == application.tools and call.system == application.system
    return "" if application.name and own else call.identity.tenant


def as_warm(request: Request, call: Call, strategy: str = "", output_tokens: int = 0) -> Request:
    """`request` with `call` in its place, asking Opus for the prompt and for nothing else.

    Args:
        strategy: Name of the cache strategy; "" for the request's own.
        output_tokens: What it asks for: 0, or the one token without which the model takes no call (fact A6).
    """
    return Request(
        call=msgspec.structs.replace(call, max_output_tokens=output_tokens, stop_sequences=()),
        application=request.application,
        demands=Demands(
            forced_route=Route.OPUS,
            fallback_allowed=False,
            exploration_allowed=False,
            escalation_allowed=False,
        ),
        strategy=strategy or request.strategy,
    )
