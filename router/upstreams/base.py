"""What every upstream adapter offers the rest of the router.

The rule: an adapter maps both ways and nothing more. It does not retry, choose, price or remember. `render` is pure
and gives the blocks whose bytes will be sent, so that the cache plans over exactly those bytes.
"""

from collections.abc import AsyncIterator
from typing import Any, Protocol, runtime_checkable

import msgspec

from cache.plan import Plan
from cache.prompt import Prompt
from router.call import Call
from router.reply import Chunk, Reply


class Rendered(msgspec.Struct, frozen=True, gc=False):
    """A call in one provider's spelling, before cache breakpoints.

    Attributes:
        call: What was rendered.
        model: Model id it is for.
        prompt: The blocks as the cache sees them; `prompt.blocks[i].content` are the bytes sent for block i.
        envelope: The adapter's own remainder of the request; opaque to everyone else.
    """

    call: Call
    model: str
    prompt: Prompt
    envelope: Any


class Upstream(Protocol):
    """One provider's API behind one model id. Safe for concurrent calls; one connection pool."""

    name: str
    """"anthropic" or "gemini"."""
    provider_name: str
    """Value of `gen_ai.provider.name`."""
    operation: str
    """Value of `gen_ai.operation.name`."""
    model: str
    """Full model id asked."""
    server_address: str
    server_port: int

    def render(self, call: Call) -> Rendered:
        """Spell `call` for this provider. Pure.

        Raises:
            InvalidRequest: A parameter or content the model does not take; `field` is its path within the proto's
                `prompt`.
        """
        ...

    async def generate(self, rendered: Rendered, plan: Plan | None, timeout_s: float) -> Reply:
        """Ask for the whole answer. `plan` None sends no breakpoints.

        Raises:
            UpstreamError: As its subclass says; `usage` is set when the provider is known to have billed.
        """
        ...

    def stream(
        self, rendered: Rendered, plan: Plan | None, timeout_s: float, *, waits: bool = False
    ) -> AsyncIterator[Chunk]:
        """Ask for the answer in chunks: Started, deltas and UsageSeen as they come, then Finished.

        Closing the iterator early closes the provider's connection. `timeout_s` bounds the whole stream. With
        `waits` it may be silent as long as that: nobody watches it come.

        Raises:
            UpstreamError: Before Started any subclass; after it only UpstreamInterrupted, with the usage seen.
        """
        ...

    async def count_prompt(self, rendered: Rendered, timeout_s: float) -> int | None:
        """Count tokens of the blocks of `rendered` by the provider's free counter; None when it cannot say.

        Parameters (effort, tool choice, output format) are left out, so what they add is not in the count; what the
        provider adds for having tools or a message at all is.

        Raises:
            UpstreamError: As `generate`; nothing is ever billed.
        """
        ...

    async def count_output(self, reply_text: str, timeout_s: float) -> int | None:
        """Count tokens of a broken-off answer by the provider's free counter; None when it cannot say."""
        ...

    async def close(self) -> None:
        """Close the connection pool."""
        ...


@runtime_checkable
class Continuing(Protocol):
    """An adapter that can spell a conversation's next turn without spelling its history again."""

    def render_continued(self, previous: Rendered, call: Call) -> Rendered | None:
        """Spell `call`, whose messages begin with those of `previous`, in time linear in what it adds. Pure.

        Returns:
            What `render(call)` gives; None when only that can tell.

        Raises:
            InvalidRequest, NotSupported: As `Upstream.render`.
        """
        ...
