"""How far back the provider looks for an entry from a breakpoint.

The rule (prompt caching page, read 2026-11): from each breakpoint the provider checks its own position and
the ones before it, 20 in all, for an entry an earlier request wrote. A run of adjacent tool calls is one
position, and so is a run of adjacent tool results. Which block of a run an entry must stand on is not
documented; any is assumed.
"""

from collections.abc import Sequence

from cache.prompt import Block, BlockKind
from cache.rules import CacheRules


def steps_back(blocks: Sequence[Block], entry: int, mark: int, rules: CacheRules, limit: int) -> int:
    """Lookback positions from `mark` back to `entry`, 0 when it is the same; counting stops at `limit`.

    Args:
        entry: Position of the entry, at most `mark`.
    """
    if not rules.collapses_tool_runs:
        return min(mark - entry, limit)
    steps = 0
    for position in range(mark, entry, -1):
        if not _continues_run(blocks, position):
            steps += 1
            if steps >= limit:
                return limit
    return steps


def reaches(blocks: Sequence[Block], entry: int, mark: int, rules: CacheRules) -> bool:
    """Whether a breakpoint at `mark` finds an entry at `entry`."""
    if entry > mark:
        return False
    if mark - entry < rules.lookback_positions:
        return True
    return steps_back(blocks, entry, mark, rules, rules.lookback_positions) < rules.lookback_positions


def _continues_run(blocks: Sequence[Block], position: int) -> bool:
    kind = blocks[position].kind
    return (kind is BlockKind.TOOL_CALL or kind is BlockKind.TOOL_RESULT) and blocks[
        position - 1
    ].kind is kind
