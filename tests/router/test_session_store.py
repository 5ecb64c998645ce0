"""Where held sessions are kept: one turn at a time, limits that hold, nothing that lives given up, by a model of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from router.call import Message, Role, Text, Thinking, ToolCall, ToolResult
from router.config import ConfigError, SessionsConfig, load_config
from router.errors import AlreadyExists, Conflict, NotFound, SessionBusy, SessionsFull
from router.held_session import Held
from router.sampling import Past
from router.session_store import MemorySessionStore, SessionLimits, check_version
from tests.router.rig import said

ROOM = SessionLimits(100, 1 << 30)


def held(session="s", *, tenant="t", at=0.0, ttl=100.0, size=10, **more) -> Held:
    """A session opened at an instant."""
    return Held(
        tenant=tenant, session=session, created_s=at, used_s=at, idle_ttl_s=ttl, byte_count=size, **more
    )


async def begun(store, now_s, session="s", *, tenant="t", version=None, size=0):
    """A claim."""
    return await store.begin(tenant, session, version, size, now_s)


async def test_a_claim_is_exclusive_until_it_is_given_back():
    """The first to begin wins, whatever the version; finished or released, the next may begin."""
    store = MemorySessionStore(ROOM)
    await store.open(held())
    claimed = await begun(store, 1.0, version=1)
    for version in (None, 1, 2):
        with pytest.raises(SessionBusy, match=r"'s'.*in progress.*version 1"):
            await begun(store, 2.0, version=version)
    with pytest.raises(SessionBusy, match="in progress"):
        await store.close("t", "s", 2.0)
    await store.release("t", "s", 3.0)
    assert (await store.find("t", "s", 3.0)).version == 1
    claimed = await begun(store, 4.0, version=1)
    await store.finish(replace(claimed, version=2))
    with pytest.raises(Conflict, match=r"is at version 2, and the turn continues version 1.*GetSession"):
        await begun(store, 5.0, version=1)
    assert (await begun(store, 5.0, version=2)).version == 2


async def test_a_turn_in_progress_does_not_lapse():
    """However long an answer takes, its session is there for it; then the idle time begins anew."""
    store = MemorySessionStore(ROOM)
    await store.open(held(ttl=10.0))
    claimed = await begun(store, 9.0)
    assert claimed.used_s == 9.0
    assert await store.find("t", "s", 500.0) is not None
    await store.open(held("other", at=500.0))
    await store.finish(replace(claimed, version=2, used_s=500.0))
    assert (await store.find("t", "s", 509.9)).version == 2
    assert await store.find("t", "s", 510.0) is None
    assert (len(store), store.byte_count) == (1, 10)


async def test_a_refused_turn_leaves_no_claim():
    """Of another version, or without room: the session can be used by the next."""
    store = MemorySessionStore(SessionLimits(10, 100))
    await store.open(held(size=60))
    with pytest.raises(Conflict):
        await begun(store, 1.0, version=9)
    with pytest.raises(SessionsFull, match=r"60 bytes and this adds 50; at most 100"):
        await begun(store, 1.0, size=50)
    assert await begun(store, 1.0, version=1, size=40) is not None


async def test_what_has_lapsed_makes_room():
    """Room for bytes and for sessions is made of what lapsed, never of what lives."""
    store = MemorySessionStore(SessionLimits(2, 100))
    await store.open(held("a", size=50, ttl=10.0))
    await store.open(held("b", size=50, ttl=20.0))
    with pytest.raises(SessionsFull, match="held_limit: 2"):
        await store.open(held("c", size=1, at=9.0))
    await store.open(held("c", size=50, at=10.0))
    with pytest.raises(SessionsFull, match="held_limit"):
        await store.open(held("d", size=1, at=19.0))
    assert await begun(store, 20.0, "c", size=50) is not None
    assert (len(store), store.byte_count) == (1, 50)


async def test_closing_returns_and_forgets():
    """What it was comes back once; then it does not exist, and its name is free."""
    store = MemorySessionStore(ROOM)
    await store.open(held(messages=(said("Hi"),)))
    with pytest.raises(AlreadyExists, match="'s' is open already"):
        await store.open(held())
    assert (await store.close("t", "s", 1.0)).messages == (said("Hi"),)
    with pytest.raises(NotFound, match="restart"):
        await store.close("t", "s", 1.0)
    assert store.byte_count == 0
    await store.open(held(at=1.0))


async def test_names_that_come_and_go_leave_nothing_behind():
    """A store that is opened and closed for ever does not grow."""
    store = MemorySessionStore(ROOM)
    for number in range(2000):
        await store.open(held(f"s{number}", at=float(number), ttl=86_400.0))
        await store.close("t", f"s{number}", float(number))
    assert len(store._due) < 200


names = st.sampled_from(["a", "b", "c"])
steps = st.tuples(
    st.sampled_from(["open", "begin", "finish", "release", "close", "find"]),
    names,
    st.sampled_from(["t", "u"]),
    st.floats(0.0, 40.0),
    st.integers(0, 30),
)


@settings(max_examples=200)
@given(st.lists(steps, max_size=60))
async def test_it_is_what_a_plain_model_of_it_is(moves):
    """Over any order of calls: who is held, who has a claim, which version, and how many bytes."""
    store, model, now_s = MemorySessionStore(SessionLimits(3, 80)), {}, 0.0
    for move, session, tenant, gap_s, size in moves:
        now_s += gap_s
        key = (tenant, session)
        for each, (kept, busy) in list(model.items()):
            if not busy and kept.expires_s <= now_s:
                del model[each]
        kept, busy = model.get(key, (None, False))
        total = sum(one.byte_count for one, _ in model.values())
        match move:
            case "open":
                new = held(session, tenant=tenant, at=now_s, ttl=30.0 + size, size=size)
                if kept is not None:
                    with pytest.raises(AlreadyExists):
                        await store.open(new)
                elif len(model) >= 3 or total + size > 80:
                    with pytest.raises(SessionsFull):
                        await store.open(new)
                else:
                    await store.open(new)
                    model[key] = (new, False)
            case "begin":
                if kept is None:
                    assert await begun(store, now_s, session, tenant=tenant) is None
                elif busy:
                    with pytest.raises(SessionBusy):
                        await begun(store, now_s, session, tenant=tenant)
                elif total + size > 80:
                    with pytest.raises(SessionsFull):
                        await begun(store, now_s, session, tenant=tenant, size=size)
                else:
                    found = await begun(store, now_s, session, tenant=tenant, version=kept.version, size=size)
                    model[key] = (kept.used(now_s), True)
                    assert found == model[key][0]
            case "finish" if busy:
                after = replace(
                    kept, version=kept.version + 1, byte_count=kept.byte_count + size, used_s=now_s
                )
                await store.finish(after)
                model[key] = (after, False)
            case "release" if busy:
                await store.release(tenant, session, now_s)
                model[key] = (kept.used(now_s), False)
            case "close":
                if kept is None:
                    with pytest.raises(NotFound):
                        await store.close(tenant, session, now_s)
                elif busy:
                    with pytest.raises(SessionBusy):
                        await store.close(tenant, session, now_s)
                else:
                    assert await store.close(tenant, session, now_s) == kept
                    del model[key]
        assert await store.find(tenant, session, now_s) == model.get(key, (None, False))[0]
    for tenant in ("t", "u"):
        for session in ("a", "b", "c"):
            expected = model.get((tenant, session), (None, False))[0]
            assert await store.find(tenant, session, now_s) == expected
    assert len(store) >= len(model)
    if len(store) == len(model):
        assert store.byte_count == sum(one.byte_count for one, _ in model.values())


@pytest.mark.parametrize(
    ("key", "value"), [("held_limit", 0), ("session_message_limit", 1), ("idle_ttl_s", 0), ("held_limits", 5)]
)
def test_limits_are_settings(tmp_path, key, value):
    """They are read from their section, and what is out of range or unknown is refused by name."""
    file = tmp_path / "router.toml"
    file.write_text("[sessions]\nheld_limit = 7\nidle_ttl_limit_s = 60\n", encoding="utf-8")
    assert load_config(file, {}).sessions == SessionsConfig(held_limit=7, idle_ttl_limit_s=60.0)
    file.write_text(f"[sessions]\n{key} = {value}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sessions" if key != "held_limits" else key):
        load_config(file, {})


# --- one version after the other


def answer(*parts):
    """The next version after one turn."""
    before = held(messages=(), context=("about Ann",))
    return before.answered(
        (said("Ask"),),
        parts,
        context=before.context,
        turn_byte_count=5,
        planned=None,
        now_s=7.0,
    )


def test_an_answer_is_kept_as_it_was_given():
    """Thinking, signatures, calls, in order; blank text is not, for no request may carry it."""
    parts = (
        Thinking("claude-opus-5-5", "", "c2ln"),
        Text(" "),
        Text("", "sig", "gemini-3.8-flash"),
        Text("Yes"),
        ToolCall("c1", "find", "{}"),
    )
    after = answer(*parts)
    assert after.messages == (said("Ask"), Message(Role.ASSISTANT, (parts[0], *parts[2:])))
    assert (after.version, after.used_s, after.context) == (2, 7.0, ("about Ann",))
    assert after.byte_count > 10 + 5
    assert after.open_calls() == ["c1"]
    assert after.known_past == Past(1, len("Ask") + len("Yes") + 2, "Ask")


def test_an_answer_without_content_is_no_message():
    """A refusal may say nothing: the turn is history, and what is asked next follows it."""
    after = answer(Text(""))
    assert after.messages == (said("Ask"),)
    assert (after.version, after.open_calls(), after.known_past) == (2, [], None)


def test_open_calls_are_those_of_the_last_answer():
    """Answered ones are closed, and so are those of earlier answers."""
    called = Message(Role.ASSISTANT, (ToolCall("c1", "f", "{}"), ToolCall("c2", "f", "{}")))
    results = Message(Role.USER, (ToolResult("c1", ()), ToolResult("c2", ())))
    assert held(messages=(said("x"), called)).open_calls() == ["c1", "c2"]
    assert held(messages=(said("x"), called, called)).open_calls() == ["c1", "c2"] * 2
    assert held(messages=(said("x"), called, results)).open_calls() == []
    assert held(messages=(said("x"), called, results, said("y", Role.ASSISTANT))).open_calls() == []


def test_the_version_is_asked_for_only_if_it_is_given():
    """No version continues whatever there is."""
    check_version(held(), None)
    check_version(held(), 1)
    with pytest.raises(Conflict):
        check_version(held(), 0)
