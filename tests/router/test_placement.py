"""Where the user context stands: decided from what was seen of it, spelled so that a change rewrites no history."""

from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.prompt import BlockKind, Layer
from classifier.route import Route
from router import errors
from router.app import sandbox_upstreams
from router.applications import Application, Applications
from router.call import Call, ContextPlacement, Identity, Message, Role, Text, Thinking, ToolCall, ToolResult
from router.config import Config, ConfigError, OpusConfig, load_config
from router.placement import NO_CONTEXT, NO_HABIT, ContextSeen, Habit, digest_of, learn, place
from router.request import Demands, Request
from router.sandbox import InvoiceLine, Sandbox, SandboxSettings, VirtualClock
from router.session_book import SessionBook
from router.upstreams.anthropic_models import traits_of
from router.upstreams.anthropic_render import Options, render
from tests.router.rig import START_TIME_S, asked, rigged, said

BEFORE, AFTER = ContextPlacement.BEFORE_HISTORY, ContextPlacement.AFTER_HISTORY
ANN, BOB = ("Ann likes tables.",), ("Bob likes prose.",)
TURN = (said("Hi."), said("Yes.", Role.ASSISTANT), said("And?"), said("So.", Role.ASSISTANT), said("Then?"))
LOOP_CALL, LOOP_RESULT = (ToolCall("c1", "find", "{}"),), (ToolResult("c1", (Text("found"),)),)
OPUS, OLD = "claude-opus-5-5", "claude-opus-4-7"
replace_seen = msgspec.structs.replace

# --- the decision


STEADY = ContextSeen(digest_of(ANN), BEFORE, 1, 4000)
ONCE = ContextSeen(digest_of(ANN), BEFORE, 3, 4000, 0, 1.0, 1.0, 1)
MOVED = ContextSeen(digest_of(ANN), AFTER, 3, 4000, 0, 1.8, 1.8, 2)
LONG_STEADY = ContextSeen(digest_of(ANN), AFTER, 3, 4000, 0, 5.0, 0.1, 3, 4000.0)
CHANGING, KEEPING = Habit(8.0, 8.0, 8 * 4000.0), Habit(50.0, 1.0, 50 * 4000.0)


@pytest.mark.parametrize(
    ("context", "setting", "seen", "habit", "placement"),
    [
        (ANN, "auto", None, NO_HABIT, BEFORE),
        (ANN, "auto", STEADY, NO_HABIT, BEFORE),
        (BOB, "auto", STEADY, NO_HABIT, BEFORE),
        (ANN, "auto", ONCE, NO_HABIT, BEFORE),
        (BOB, "auto", ONCE, NO_HABIT, AFTER),
        (BOB, "auto", replace_seen(ONCE, loop_size=8000.0, turn_size=8000), NO_HABIT, BEFORE),
        (ANN, "auto", NO_CONTEXT, NO_HABIT, BEFORE),
        (ANN, "auto", MOVED, NO_HABIT, AFTER),
        (ANN, "auto", LONG_STEADY, NO_HABIT, BEFORE),
        (ANN, "auto", replace_seen(LONG_STEADY, size=400_000), NO_HABIT, AFTER),
        (ANN, "auto", None, CHANGING, AFTER),
        (ANN, "auto", NO_CONTEXT, CHANGING, AFTER),
        (ANN, "auto", None, Habit(7.9, 7.9, 8 * 4000.0), BEFORE),
        (ANN, "auto", None, Habit(8.0, 8.0, 8 * 4000.0, 8 * 4000.0), BEFORE),
        (ANN, "auto", None, KEEPING, AFTER),
        (("Ann likes tables. " * 100,), "auto", None, KEEPING, BEFORE),
        (ANN, "auto", STEADY, CHANGING, BEFORE),
        (BOB, "before_history", MOVED, CHANGING, BEFORE),
        (ANN, "after_history", None, NO_HABIT, AFTER),
        ((), "after_history", MOVED, NO_HABIT, BEFORE),
    ],
)
def test_the_context_stands_where_it_is_cheaper(context, setting, seen, habit, placement):
    """A setting wins; then what the session did, by two changes at least; then its application. A long loop, a large
    context and few changes speak for before, a long history for after, and for staying.
    """
    assert place(context, TURN, setting, seen, habit) is placement


def test_a_loop_keeps_its_placement_unless_the_context_changes():
    """To move it would rewrite the loop; a context that changed in there has done so already."""
    looping = replace_seen(ONCE, change_count=2, change_weight=2.0, turn_size=1000)
    step = (*TURN[:3], Message(Role.ASSISTANT, LOOP_CALL), Message(Role.USER, LOOP_RESULT))
    assert place(ANN, step, "auto", looping, NO_HABIT) is BEFORE
    assert place(BOB, step, "auto", looping, NO_HABIT) is AFTER
    left = replace_seen(LONG_STEADY, turn_size=1000)
    assert place(ANN, TURN, "auto", left, NO_HABIT) is BEFORE
    for context in (ANN, BOB):
        assert place(context, step, "auto", left, NO_HABIT) is AFTER


def test_bound_thinking_keeps_a_context_that_changed_behind_the_history():
    """Before the history the provider would refuse the thinking that is sent back; another model's is left out."""
    thought = (said("Hi."), Message(Role.ASSISTANT, (Thinking(OPUS, "", "x"), Text("Yes."))), said("And?"))
    steady = replace_seen(STEADY)
    for context, seen, placement in ((ANN, steady, BEFORE), (BOB, steady, AFTER), (ANN, ONCE, AFTER)):
        assert place(context, thought, "auto", seen, NO_HABIT, binding_model=OPUS) is placement
        assert place(context, thought, "auto", seen, NO_HABIT, binding_model="claude-next") is BEFORE
        assert place(context, TURN, "auto", seen, NO_HABIT, binding_model=OPUS) is BEFORE


def conversation(turn_count: int) -> tuple[Message, ...]:
    """A conversation at the question of its last turn."""
    said_so_far = [
        message for _ in range(turn_count) for message in (said("Why? " * 200), said("So.", Role.ASSISTANT))
    ]
    return tuple(said_so_far[:-1])


def walked(contexts) -> tuple[list[ContextPlacement], ContextSeen]:
    """Where each turn's context stood, and what is remembered at the end."""
    seen, habit, placements = None, NO_HABIT, []
    for number, context in enumerate(contexts, 1):
        messages = conversation(number) if context else (said("A title, please."),)
        placement = place(context, messages, "auto", seen, habit)
        seen, habit = learn(context, messages, placement, seen, habit)
        placements.append(placement)
    return placements, seen


def test_a_request_without_context_is_no_change_and_does_not_undo_one():
    """Neither before the move nor after it: what is remembered stays as it was, to the byte."""
    seen, habit = learn(ANN, conversation(3), AFTER, MOVED, KEEPING)
    assert learn((), (said("A title, please."),), BEFORE, seen, habit) == (seen, habit)
    placements, seen = walked((ANN, BOB, ANN, (), BOB, (), (), ANN))
    assert placements == [BEFORE, BEFORE, AFTER, BEFORE, AFTER, BEFORE, BEFORE, AFTER]
    assert seen.change_count == 4
    assert walked(((), ANN, (), ANN, (), ANN))[1].change_count == 0


def test_what_is_remembered_grows_by_what_is_new():
    """Sizes added up request by request are those of the whole conversation."""
    step = (*conversation(2), Message(Role.ASSISTANT, LOOP_CALL), Message(Role.USER, LOOP_RESULT))
    seen, habit = learn(ANN, conversation(1), BEFORE, None, NO_HABIT)
    for messages in (conversation(2), step, conversation(1), step):
        seen, habit = learn(ANN, messages, BEFORE, seen, habit)
        fresh, _ = learn(ANN, messages, BEFORE, None, NO_HABIT)
        assert (seen.message_count, seen.size, seen.turn_size) == (
            fresh.message_count,
            fresh.size,
            fresh.turn_size,
        )
    assert seen.turn_size == len("find" + "{}" + "found")
    assert seen.change_count == 0


contexts = st.lists(st.sampled_from(["", "a", "b", "ab"]), max_size=2).map(tuple)


@given(st.lists(contexts, min_size=1, max_size=12))
def test_a_session_moves_its_context_on_evidence_only(texts):
    """Whatever comes: after the history only from the second change on; without changes never."""
    placements, _ = walked(texts)
    given_texts = [text for text in texts if text]
    change_count = 0
    shown = [placement for placement, text in zip(placements, texts, strict=True) if text]
    for position, placement in enumerate(shown):
        change_count += position > 0 and given_texts[position] != given_texts[position - 1]
        assert placement is BEFORE or change_count >= 2


@given(contexts, contexts)
def test_digests_name_texts(left, right):
    """Equal exactly for equal texts in equal order; cut elsewhere they are other texts."""
    assert (digest_of(left) == digest_of(right)) == (left == right)


def test_an_application_whose_sessions_change_starts_after():
    """On eight sessions that were seen twice; newer ones outweigh older ones; one long session is not enough."""
    memory = SessionBook(1000)

    def session(name, contexts):
        for number, context in enumerate(contexts, 1):
            memory.remember(
                "t", name, Route.OPUS, application="desk", context=context, messages=conversation(number)
            )

    def starts() -> ContextPlacement:
        return place(("Ann. " * 200,), TURN, "auto", None, memory.habit("desk"))

    session("long", (ANN, BOB) * 30)
    assert starts() is BEFORE
    assert memory.habit("desk").turn_weight < 3
    for number in range(10):
        session(f"s{number}", (ANN, BOB))
    assert starts() is AFTER
    assert memory.habit("other") is memory.habit("") is NO_HABIT
    for number in range(10, 60):
        session(f"s{number}", (ANN, ANN, ANN))
    assert starts() is BEFORE


def test_sessions_without_a_context_say_nothing_of_it():
    """They are no evidence that contexts keep."""
    memory = SessionBook(1000)
    for number in range(20):
        for _ in range(3):
            memory.remember("t", str(number), Route.FLASH, application="desk")
    assert memory.habit("desk") == NO_HABIT
    assert memory.recall("t", "3").context is NO_CONTEXT


# --- preparing and remembering


def turn(number: int, *, session: str = "s", context: tuple[str, ...] = ANN) -> Request:
    """The `number`th request of a session, forced to Opus."""
    history = [said(f"{who} {n}", role) for n in range(1, number) for who, role in _SPEAKERS]
    return asked(*history, said(f"question {number}"), route=Route.OPUS, session=session, context=context)


_SPEAKERS = (("question", Role.USER), ("answer", Role.ASSISTANT))


async def test_explaining_places_as_serving_does_and_teaches_nothing():
    """Preparing a request any number of times gives one spelling; only an answer is remembered."""
    async with rigged() as rig:
        for number, context in enumerate((ANN, BOB), 1):
            remembered = turn(number).call.messages
            rig.memory.remember("acme", "s", Route.OPUS, context=context, messages=remembered)
        before, request = rig.memory.recall("acme", "s"), turn(3, context=ANN)
        shown, served = rig.prepare(request), rig.prepare(request)
        assert shown.request.call.context_placement is AFTER
        assert shown.rendered[Route.OPUS].prompt == served.rendered[Route.OPUS].prompt
        assert shown.rendered[Route.OPUS].prompt.volatile_from >= 0
        assert request.call.context_placement is BEFORE
        assert rig.memory.recall("acme", "s") == before


async def test_an_answer_is_what_teaches():
    """The settled call leaves digest, placement and changes, by which the next one is placed."""
    async with rigged() as rig:
        for number, (context, placement) in enumerate(
            ((ANN, BEFORE), (BOB, BEFORE), (ANN, AFTER), (ANN, AFTER)), 1
        ):
            prepared = rig.prepare(turn(number, context=context))
            assert prepared.request.call.context_placement is placement
            attempt = rig.settler.open(
                prepared, Route.OPUS, number=1, stream=False, trace_id="", fell_back=False
            )
            rendered = rig.preparation.rendered_for(prepared, Route.OPUS)
            plan = prepared.plan_for(Route.OPUS)
            attempt.answered(await rig.upstreams[Route.OPUS].generate(rendered, plan, 5.0))
        seen = rig.memory.recall("acme", "s").context
        assert (seen.digest, seen.placement, seen.change_count) == (digest_of(ANN), AFTER, 2)
        assert seen.message_count == len(turn(4).call.messages)


# --- the spelling

LOOP = (
    said("Find it."),
    Message(Role.ASSISTANT, (ToolCall("c1", "find", "{}"),)),
    Message(Role.USER, (ToolResult("c1", (Text("found"),)),)),
)
TALK = (said("Hello."), said("Hi.", Role.ASSISTANT))


def spelled(*messages: Message, model: str = OPUS, context: tuple[str, ...] = ("C", "D")):
    """Blocks as (role, kind, layer), and which of them are volatile."""
    call = Call(
        identity=Identity(request_id="r"),
        system=("S",),
        context=context,
        context_placement=AFTER,
        messages=messages,
        max_output_tokens=100,
    )
    made = render(call, model, traits_of(model), Options())
    prompt = made.prompt
    return prompt, range(prompt.volatile_from, prompt.volatile_end + 1), made.envelope.messages


def test_a_system_entry_follows_the_current_turns_message():
    """The API takes it only right after a user message, and last or before an assistant's: never first, never two."""
    for messages in (TALK[:1], (*TALK, said("Next?")), (*TALK, *LOOP), (*LOOP[:2], *_mixed())):
        prompt, volatile, shape = spelled(*messages)
        roles = [role for role, _ in shape]
        at = roles.index("system")
        assert roles.count("system") == 1
        assert roles[at - 1] == "user"
        assert roles[at + 1 : at + 2] in ([], ["assistant"])
        assert [prompt.blocks[position].role for position in volatile] == ["system"] * 2


def _mixed():
    """Results and words in one turn."""
    return (Message(Role.USER, (ToolResult("c1", (Text("found"),)), Text("And this?"))),)


def test_older_models_get_it_as_text_after_the_tool_results():
    """At the head of the current turn's own words; results stay first, which the providers demand."""
    prompt, volatile, shape = spelled(*TALK, *LOOP[:2], *_mixed(), model=OLD)
    kinds = [block.kind for block in prompt.blocks][-4:]
    assert kinds == [BlockKind.TOOL_RESULT, BlockKind.TEXT, BlockKind.TEXT, BlockKind.TEXT]
    assert list(volatile) == [len(prompt.blocks) - 3, len(prompt.blocks) - 2]
    assert {role for role, _ in shape} == {"user", "assistant"}


@pytest.mark.parametrize("model", [OPUS, OLD])
def test_the_context_stays_where_it_is_while_a_loop_runs(model):
    """The loop's next request begins with the bytes of this one, context included; then the last block recurs."""
    first, _, _ = spelled(*TALK, *LOOP[:1], model=model)
    second, volatile, _ = spelled(*TALK, *LOOP, model=model)
    assert [b.content for b in second.blocks[: len(first.blocks)]] == [b.content for b in first.blocks]
    assert (first.volatile_from, first.volatile_end) == (second.volatile_from, second.volatile_end)
    assert first.recurring_end == volatile.start - 1
    assert second.recurring_end == len(second.blocks) - 1


@pytest.mark.parametrize("model", [OPUS, OLD])
def test_the_next_turn_keeps_every_block_before_the_context(model):
    """Another context, another question: the history's bytes and what came before it are the first of the next."""
    first, volatile, _ = spelled(*TALK, said("Next?"), model=model)
    later, _, _ = spelled(
        *TALK, said("Next?"), said("So.", Role.ASSISTANT), said("Then?"), model=model, context=("E",)
    )
    kept = volatile.start
    assert [b.content for b in later.blocks[:kept]] == [b.content for b in first.blocks[:kept]]
    assert first.ends[Layer.CONTEXT] == later.ends[Layer.CONTEXT] == -1


# --- what it saves, by the sandbox's bill

SYSTEM = "Rule {n}: answer every question about orders, invoices and returns with care. "
TURNS = 6


class Session:
    """One user's conversation through preparation, the real adapter and settlement, over a sandbox."""

    def __init__(self, rig, sandbox, clocks, setting):
        self.rig, self.sandbox, self.clocks = rig, sandbox, clocks
        system = "".join(SYSTEM.format(n=n) for n in range(400))
        self.application = Application("desk", (system,), (), 400, "auto", None, context_placement=setting)
        self.messages: tuple[Message, ...] = ()

    async def ask(self, text: str, context: tuple[str, ...]) -> InvoiceLine:
        """One turn, a minute after the last; the bill."""
        self.messages = (*self.messages, said(text))
        request = Request(
            call=Call(
                identity=Identity(
                    request_id=f"r-{len(self.messages)}", tenant="acme", application="desk", session="s"
                ),
                system=self.application.system,
                context=context,
                messages=self.messages,
                max_output_tokens=400,
            ),
            application=self.application,
            demands=Demands(forced_route=Route.OPUS),
        )
        rig = self.rig
        prepared = rig.prepare(request)
        attempt = rig.settler.open(prepared, Route.OPUS, number=1, stream=False, trace_id="", fell_back=False)
        try:
            rendered = rig.preparation.rendered_for(prepared, Route.OPUS)
            reply = await rig.upstreams[Route.OPUS].generate(rendered, prepared.plan_for(Route.OPUS), 5.0)
        except errors.UpstreamError as error:
            attempt.failed(error)
            raise
        attempt.answered(reply)
        self.messages = (*self.messages, Message(Role.ASSISTANT, reply.parts))
        for clock in self.clocks:
            clock.advance(60)
        return self.sandbox.invoice.lines[-1]


async def session(model: str, setting: str, *, binding: bool = False) -> tuple[InvoiceLine, ...]:
    """Six turns, the context another in each."""
    clock = VirtualClock(START_TIME_S)
    sandbox = Sandbox(SandboxSettings(thinking_binding=binding), clock=clock)
    upstreams = sandbox_upstreams(Config(opus=OpusConfig(model=model)), sandbox)
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(rigged(upstreams=upstreams))
        talk = Session(rig, sandbox, (clock, rig.clock), setting)
        for number in range(TURNS):
            cart = f"The user's cart at step {number}: " + f"item {number} of the list, " * 60
            await talk.ask(f"Question {number}: " + "what about this order? " * 40, (cart,))
    return sandbox.invoice.lines


def input_nano_usd(lines) -> int:
    """Cost of the input alone: answers differ with the prompt."""
    return sum(replace(line, output_tokens=0, thinking_tokens=0).priced().cost_nano_usd for line in lines)


@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-opus-4-7", "claude-opus-4-5"])
async def test_from_the_fourth_turn_on_every_read_covers_the_history(model):
    """What the turn before left is read in full, though the context changed; that costs less than rewriting it."""
    lines = await session(model, "auto")
    for before, line in list(pairwise(lines))[2:]:
        assert line.read_tokens == before.read_tokens + before.write_5m_tokens + before.write_1h_tokens
        assert line.read_tokens > lines[1].read_tokens
    always_before = await session(model, "before_history")
    assert all(line.read_tokens == always_before[1].read_tokens for line in always_before[1:])
    assert input_nano_usd(lines) < 0.85 * input_nano_usd(always_before)
    assert input_nano_usd(lines) < 1.1 * input_nano_usd(await session(model, "after_history"))


async def test_moved_contexts_do_not_break_bound_thinking():
    """Where thinking is bound to the prompt before it, earlier turns' thinking stays away and nothing is refused; left
    before the history, the first change of context is.
    """
    lines = await session("claude-opus-5-5", "auto", binding=True)
    assert len(lines) == TURNS
    with pytest.raises(errors.UpstreamRejected):
        await session("claude-opus-5-5", "before_history", binding=True)


def test_an_application_sets_its_placement(tmp_path):
    """By its settings; anything else than the three words is refused."""
    file = tmp_path / "router.toml"
    file.write_text(
        '[applications.desk]\ncontext_placement = "after_history"\n[applications.chat]\n', encoding="utf-8"
    )
    applications = Applications(load_config(file, {}).applications)
    assert applications.get("desk").context_placement == "after_history"
    assert applications.get("chat").context_placement == applications.get("").context_placement == "auto"
    file.write_text('[applications.desk]\ncontext_placement = "somewhere"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="context_placement"):
        load_config(file, {})
