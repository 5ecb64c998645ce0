"""What the ledger keeps of prompts gives back the prompts: whatever came before, was pruned, or died."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cache.prompt import Block, BlockKind, CacheScope, Layer, PromptParameters
from cache.rules import TTL_1H_S, TTL_5M_S
from router.ledger.prefixes import PromptCall
from router.ledger_trace import Rebuilding
from router.prefix_notes import DAY_S, NEW_LIMIT, PrefixNotes
from router.prompt_body import Undecodable, decode, prompt_name
from tests.router.prompts_noted import (
    KEY,
    SCOPE,
    a_plan,
    a_view,
    conversation,
    expected,
    opening,
    without_names,
)

NOON_S = 20_000 * DAY_S + DAY_S / 2


class Rows:
    """The ledger's table, as a list."""

    def __init__(self):
        self.bodies = {}
        self.days = {}

    def add(self, body, started_s):
        """Keep what was noted of a call; return its number."""
        number = len(self.days) + 1
        self.bodies[number], self.days[number] = body, started_s // DAY_S
        return number

    def prune(self, day):
        """Take away the calls of every day before."""
        self.bodies = {number: body for number, body in self.bodies.items() if self.days[number] >= day}

    def find(self, prompt, before_number):
        """As `prefixes.named`."""
        for number, body in sorted(self.bodies.items()):
            if number < before_number and prompt_name(body) == prompt:
                return number, body
        return None


def a_call(number, body, **changes):
    """A call on Opus of 1,000 tokens, of which nothing was cached."""
    call = PromptCall(
        NOON_S,
        number,
        "opus",
        "ok",
        "acme",
        "desk",
        "",
        "m",
        "m",
        "c",
        "stop",
        1.0,
        1_000,
        0,
        0,
        0,
        10,
        5,
        None,
        body,
    )
    return call._replace(**changes)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 3), st.integers(1, 3)),
        st.tuples(st.just("again"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("forget"), st.integers(0, 3), st.integers(0, 4)),
        st.tuples(st.just("think"), st.integers(0, 3), st.integers(0, 1)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
        st.tuples(st.just("lose"), st.just(0), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 30)),
        st.tuples(st.just("late"), st.integers(0, 3), st.integers(1, 2)),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([4, 8, 1_000]), st.sampled_from([5, 300_000]), st.booleans())
def test_what_is_kept_is_what_was_asked(steps, limit, block_limit, in_order):
    """Blocks, their layers, kinds, roles, tokens and order come back for every call that is kept.

    Whatever sessions said before, whichever prompts were said again, cut, or asked with other parameters, and whether
    the process died, forgot, or ran over midnight; in whatever order calls are read; and after days were pruned.
    """
    notes, rows, asked, lost, now_s, dealt = PrefixNotes(KEY, limit), Rows(), [], 0, NOON_S, 0
    said = [[b"hello"] for _ in range(4)]
    deep = [PromptParameters() for _ in range(4)]
    for step, who, count in steps:
        match step:
            case "restart":
                notes, lost = PrefixNotes(KEY, limit), 0
                continue
            case "lose":
                lost += 1
                continue
            case "wait":
                now_s += count * 3600.0
                continue
            case "say" | "late":
                for _ in range(count):
                    dealt += 1
                    said[who] += [b"answer %d" % dealt * 9, b"question %d" % dealt * 5]
            case "forget":
                del said[who][1 : 1 + 2 * count]
            case "think":
                deep[who] = PromptParameters(messages=("", "tool_choice=any")[count])
        # Two applications, two users each, one of whom brings a context.
        opened = opening(b"app%d" % (who // 2), context=b"" if who % 2 else b"a profile" * 30)
        view = a_view(conversation(opened, said[who]), deep[who])
        started_s = now_s - DAY_S / 2 if step == "late" else now_s
        body = notes.note(view, None, started_s, lost)
        asked.append((rows.add(body, started_s), view, started_s))
    for oldest in (0, NOON_S // DAY_S, NOON_S // DAY_S + 1):
        rows.prune(oldest)
        rebuilt = Rebuilding(rows.find, block_limit)
        names = {}
        kept = [each for each in asked if each[0] in rows.bodies]
        for number, view, _ in kept if in_order else sorted(kept, key=lambda each: (each[2], -each[0])):
            found = rebuilt.pieces(a_call(number, rows.bodies[number]))
            assert found is not None
            body, pieces = found
            assert without_names(pieces) == expected(view)
            turn = [block.layer for block in view.prompt.blocks].count(Layer.TURN)
            assert body.turn == turn
            for digest, piece in zip(view.digests, pieces, strict=True):
                assert names.setdefault(digest, piece.name) == piece.name
        assert len(set(names.values())) == len(names)


def test_a_turn_costs_what_it_adds():
    """Of a conversation each call keeps its own answer and turn: tens of bytes, however long it is."""
    notes, said, sizes = PrefixNotes(KEY), [b"hello"], []
    for turn in range(300):
        sizes.append(len(notes.note(a_view(conversation(opening(b"app"), said)), None, NOON_S)))
        said += [b"answer %d" % turn * 50, b"question %d" % turn * 10]
    assert sizes[0] < 60
    assert max(sizes[1:]) <= 36


def test_a_call_never_costs_more_than_so_many_blocks():
    """A prompt with more new blocks is unknown, and caught up with: the next call goes on where that one ended."""
    notes, rows = PrefixNotes(KEY), Rows()
    view = a_view(conversation(opening(b"app"), [b"text %d" % place for place in range(2 * NEW_LIMIT)]))
    bodies = [notes.note(view, a_plan((1, TTL_5M_S)), NOON_S) for _ in range(4)]
    numbers = [rows.add(body, NOON_S) for body in bodies]
    assert [len(decode(body).pieces) for body in bodies] == [NEW_LIMIT, NEW_LIMIT, 2, 0]
    rebuilt = Rebuilding(rows.find)
    found = [rebuilt.pieces(a_call(number, body)) for number, body in zip(numbers, bodies, strict=True)]
    assert found[:2] == [None, None]
    assert [without_names(each[1]) for each in found[2:]] == [expected(view)] * 2


def test_sessions_share_what_they_begin_with():
    """Tools and system prompt are kept once a day, whoever asks."""
    notes = PrefixNotes(KEY)
    first, second, tomorrow = (
        decode(notes.note(a_view(conversation(opening(b"app"), [text])), None, started_s))
        for text, started_s in ((b"one", NOON_S), (b"two", NOON_S), (b"three", NOON_S + DAY_S))
    )
    assert (first.shared, second.shared, len(second.pieces)) == (0, 2, 1)
    assert (tomorrow.shared, len(tomorrow.pieces)) == (0, 3)
    assert tomorrow.pieces[:2] == first.pieces[:2]


def test_nothing_is_noted_upon_a_call_of_the_day_before():
    """A call that began before midnight and ended after it may build on today's; today's never build on it."""
    notes, said = PrefixNotes(KEY), [b"hello"]
    bodies = []
    for started_s in (NOON_S + DAY_S, NOON_S, NOON_S + DAY_S):
        bodies.append(decode(notes.note(a_view(conversation(opening(b"app"), said)), None, started_s)))
        said += [b"answer", b"question"]
    assert [body.shared for body in bodies] == [0, 3, 3]


def test_a_name_says_model_and_workspace_and_parameters():
    """What another model, workspace or parameter makes another entry of the provider's cache has another name."""
    blocks = conversation(opening(b"app"), [b"hello"])
    views = [
        a_view(blocks),
        a_view(blocks, scope=CacheScope("anthropic", "default", "claude-opus-5")),
        a_view(blocks, scope=SCOPE._replace(workspace="other")),
        a_view(blocks, PromptParameters(everywhere="effort=high")),
    ]
    notes = PrefixNotes(KEY)
    bodies = [decode(notes.note(view, None, NOON_S)) for view in views]
    assert all(body.parent is None for body in bodies)
    assert len({body.pieces[0].name for body in bodies}) == len(views)


def test_a_name_cannot_be_made_without_the_key():
    """The same prompt has other names in another ledger, and none of them is the digest that the planner knows."""
    view = a_view(conversation(opening(b"app"), [b"yes"]))
    one, other = (PrefixNotes(key).note(view, None, NOON_S) for key in (KEY, bytes(32)))
    named = [{piece.name for piece in decode(body).pieces} for body in (one, other)]
    assert not named[0] & named[1]
    assert not any(digest[:8] in one for digest in view.digests)


def test_marks_and_a_context_behind_the_history_are_kept():
    """Breakpoints with their TTLs, and where a volatile context stands, come back as they were sent."""
    blocks = conversation(opening(b"app"), [b"hello", b"answer", b"and?"])
    blocks.append(Block(Layer.TURN, BlockKind.TEXT, b"today's profile", "system"))
    view = a_view(blocks, volatile=(5, 5))
    body = decode(PrefixNotes(KEY).note(view, a_plan((1, TTL_1H_S), (4, TTL_5M_S)), NOON_S))
    assert body.marks == ((1, TTL_1H_S), (4, TTL_5M_S))
    assert (body.volatile, body.turn) == ((5, 5), 2)


@given(st.binary(max_size=60))
def test_damage_is_unknown_not_a_prompt_or_a_fault(raw):
    """Whatever stands in the table, the call's prompt is unknown or some prompt; reading goes on."""
    try:
        body = decode(raw)
    except Undecodable:
        assert Rebuilding(lambda prompt, before: None).row(a_call(1, raw), 0.0) is None
        return
    assert 0 <= body.turn <= body.blocks
    Rebuilding(lambda prompt, before: None).row(a_call(1, raw), 0.0)


def test_prefixes_are_forgotten_many_at_once_the_oldest_first():
    """What is remembered is bounded; one deletion at a time costs a request of a busy day 15 us, not .5."""
    notes, sizes = PrefixNotes(KEY, 256), []
    views = [a_view(conversation(opening(b"app%d" % number), [b"hello"])) for number in range(200)]
    for view in views:
        notes.note(view, None, NOON_S)
        sizes.append(len(notes._known))
    assert max(sizes) <= 256
    drops = [before - after for before, after in pairwise(sizes) if after < before]
    assert drops
    assert min(drops) >= 2
    assert sizes[-1] > 256 - 4 - 256 // 64
    assert len(decode(notes.note(views[-1], None, NOON_S)).pieces) == 0
    assert len(decode(notes.note(views[0], None, NOON_S)).pieces) == len(views[0].prompt.blocks)


def test_what_builds_on_itself_is_unknown():
    """Rows that name each other end the search."""
    notes = PrefixNotes(KEY)
    first = notes.note(a_view(conversation(opening(b"app"), [b"a"])), None, NOON_S)
    second = notes.note(a_view(conversation(opening(b"app"), [b"a", b"b", b"c"])), None, NOON_S)
    rows = Rows()
    rows.bodies = {2: second, 3: first}
    rebuilt = Rebuilding(rows.find)
    assert rebuilt.row(a_call(2, second), 0.0) is None
    assert rebuilt.row(a_call(3, first), 1.0) is not None
