"""What a session that stayed on Opus would have read: parts of one prompt, whatever was counted and what estimated."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from cache.economics import TokenSplit
from router.never_switch import Left, would_be_read

ASKED_S = 1_000.0


@given(
    total=st.integers(1, 5_000),
    prefixes=st.lists(st.integers(1, 5_000), min_size=2, max_size=6).map(sorted),
    ttl_s=st.sampled_from([300, 3600]),
)
def test_parts_of_a_prompt_are_never_negative(total, prefixes, ttl_s):
    """A prefix that is counted may be more than a whole that is estimated; nothing is read or written beyond it."""
    last = len(prefixes) - 1
    mark = SimpleNamespace(position=last, prefix_tokens=prefixes[last], ttl_s=ttl_s)
    view = SimpleNamespace(
        scope=SimpleNamespace(model="claude-opus-5-5"),
        digests=[b"%d" % position for position in range(len(prefixes))],
        prompt=SimpleNamespace(blocks=[SimpleNamespace(run=0, kind="") for _ in prefixes]),
        counts=prefixes,
        plan=SimpleNamespace(
            total_tokens=total, breakpoints=(mark,), expected=TokenSplit(0, prefixes[last], 0, 0)
        ),
    )
    split = would_be_read(view, Left(b"0", ttl_s, ASKED_S - 1), ASKED_S)
    assert split is not None
    assert min(split) >= 0
    assert split.total == max(total, prefixes[last])
