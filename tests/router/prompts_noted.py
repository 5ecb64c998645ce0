"""Conversations as the service plans and notes them: for tests of what the ledger keeps of prompts."""

from cache.economics import TokenSplit
from cache.plan import Breakpoint, Plan, Strategy
from cache.prefix import prefix_digests
from cache.prompt import Block, BlockKind, CacheScope, Layer, Prompt, PromptParameters
from cache.tokens import TokenEstimator
from router.beliefs import CacheView
from router.prompt_body import Piece

MODEL = "claude-opus-4-5"
SCOPE = CacheScope("anthropic", "default", MODEL)
KEY = bytes(range(32))
NOTHING = TokenSplit(0, 0, 0, 0)


def a_plan(*marks):
    """A plan with these breakpoints, (block, TTL in seconds)."""
    points = tuple(Breakpoint(place, Layer.TURN, ttl_s, 0, b"", "", 0.0) for place, ttl_s in marks)
    return Plan(Strategy.C, points, (), 0, NOTHING, NOTHING, NOTHING, 0.0, (), 0, 1024)


def a_view(blocks, parameters=PromptParameters(), scope=SCOPE, volatile=(-1, -1), estimator=None):  # noqa: B008
    """Opus's view of a prompt."""
    prompt = Prompt(tuple(blocks), parameters, *volatile)
    counts = (estimator or TokenEstimator()).cumulative_tokens(prompt, scope.model)
    return CacheView(scope, prompt, prefix_digests(prompt), counts, None)


def opening(tag, *, context=b""):
    """Tools and system prompt of an application, and a context."""
    blocks = [
        Block(Layer.TOOLS, BlockKind.TOOL, b'{"name":"%b"}' % tag * 20),
        Block(Layer.SYSTEM, BlockKind.TEXT, tag * 400),
    ]
    return [*blocks, Block(Layer.CONTEXT, BlockKind.TEXT, context, "user")] if context else blocks


def conversation(opened, said):
    """The blocks of a conversation: `said` are texts of user and assistant in turn, the last one the turn."""
    last = len(said) - 1
    return [
        *opened,
        *[
            Block(
                Layer.TURN if place == last else Layer.HISTORY,
                BlockKind.TEXT if place % 3 else BlockKind.TOOL_RESULT,
                text,
                "assistant" if place % 2 else "user",
                place % 5 != 4,
            )
            for place, text in enumerate(said)
        ],
    ]


def expected(view):
    """The blocks of a view as the ledger keeps them, but for their names."""
    before, found = 0, []
    for block, count in zip(view.prompt.blocks, view.counts, strict=True):
        layer = min(block.layer, Layer.HISTORY)
        found.append((layer, block.kind, block.role, block.markable, count - before))
        before = count
    return found


def without_names(pieces: tuple[Piece, ...]):
    """Rebuilt blocks as `expected` gives them."""
    return [tuple(piece)[1:] for piece in pieces]
