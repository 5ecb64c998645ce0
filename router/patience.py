"""How long silence is no sign of trouble: what a healthy provider may need before it says anything.

The rule: an attempt is given up for its silence, never for its length, and never while a healthy provider may still be
at work. Before the first event of a stream a provider reads the prompt, and one that does not show its thinking thinks;
between events it writes, or sends pings. A whole answer is silent until it is finished, so there the bound is the
longest that an answer of the length allowed may take.

The speeds are a floor: no page of either provider states any (2026-11), so they are set to a fraction of what both
deliver. Pure; it does not know who waits.
"""

from math import inf

import msgspec

READ_TOKENS_PER_S = 5_000.0
"""Slowest reading of a prompt that counts as healthy."""
READ_BYTES_PER_S = 4.0 * READ_TOKENS_PER_S
"""The same in bytes of the request; media weigh more than their tokens, which errs on the patient side."""
THINK_TOKENS_PER_S = 50.0
"""Slowest thinking of Flash, of which nothing is seen before the answer."""
WRITE_TOKENS_PER_S = 20.0
"""Slowest writing of either, thinking included."""


class Patience(msgspec.Struct, frozen=True, gc=False):
    """What the operator allows of silence in a stream, seconds; 0 for no bound but the deadline.

    Attributes:
        first_byte_s: Without any event at the start, beyond reading and unseen thinking.
        idle_s: Between two events, pings included.
    """

    first_byte_s: float = 0.0
    idle_s: float = 0.0

    def first_event_s(self, request_bytes: int, unseen_tokens: int = 0) -> float:
        """Longest silence before the first event.

        Args:
            request_bytes: Size of the request's body.
            unseen_tokens: Most tokens that the provider may think before it shows anything.
        """
        if not self.first_byte_s:
            return inf
        return self.first_byte_s + request_bytes / READ_BYTES_PER_S + unseen_tokens / THINK_TOKENS_PER_S

    @property
    def between_events_s(self) -> float:
        """Longest silence between two events."""
        return self.idle_s or inf


def whole_answer_s(prompt_tokens: int, max_output_tokens: int) -> float:
    """Longest that a healthy provider may take for a whole answer of at most so many tokens."""
    return prompt_tokens / READ_TOKENS_PER_S + max_output_tokens / WRITE_TOKENS_PER_S
