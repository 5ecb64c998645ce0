"""A session's account: what settlements add to it, what the index says of its prefix now, who is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from classifier.history import NO_HISTORY
from classifier.route import Route
from router import session_book
from router.call import Role
from router.cost import Cost, Counterfactuals
from router.session_book import SessionBook
from router.settlement import Intent, Outcome, Purpose, Settlement
from router.usage import Usage
from tests.router.rig import START_TIME_S, Rig, asked, rigged, said

SYSTEM = " ".join(f"Rule {number}: name the record for every figure you give." for number in range(300))

USAGE = Usage(
    input_tokens=10_000,
    cache_read_tokens=8_000,
    cache_write_5m_tokens=300,
    cache_write_1h_tokens=700,
    output_tokens=500,
    thinking_tokens=200,
)
FREE = Cost()


def settled(session="s", *, tenant="acme", **changes) -> Settlement:
    """A settled attempt; changes of the intent's fields go to the intent."""
    intent = Intent(
        request_id="r",
        attempt=1,
        purpose=Purpose.USER,
        route="opus",
        upstream="anthropic",
        model="claude-opus-5-5",
        tenant=tenant,
        application="desk",
        user="ann",
        session=session,
        labels={},
        stream=False,
        started_time_s=1000.0,
        cost_bound_nano_usd=None,
    )
    own = {name: changes.pop(name) for name in tuple(changes) if name in Intent.__struct_fields__}
    base = Settlement(
        intent=replace(intent, **own),
        outcome=Outcome.OK,
        settled_time_s=1002.0,
        duration_s=2.0,
        usage=USAGE,
        cost=Cost(uncached_input_nano_usd=700, output_text_nano_usd=300),
        counterfactuals=Counterfactuals(no_caching_nano_usd=5_000),
    )
    return replace(base, **changes)


def noted(*settlements):
    """A book that has these, without views."""
    book = SessionBook(100)
    for settlement in settlements:
        book.note(settlement, None)
    return book


def test_sums_are_the_settlements():
    """Usage inclusive as it is, cost and saving exact, first and last start, the last answer's route."""
    book = noted(
        settled(),
        settled(started_time_s=1100.0, route="flash", usage=replace(USAGE, thinking_tokens=None)),
    )
    account = book.find("acme", "s")
    totals = account.totals()
    assert totals.usage() == Usage(
        input_tokens=20_000,
        cache_read_tokens=16_000,
        cache_write_5m_tokens=600,
        cache_write_1h_tokens=1_400,
        output_tokens=1_000,
        thinking_tokens=200,
    )
    assert (totals.cost_nano_usd, totals.saving_nano_usd, totals.unknown_cost_count) == (2_000, 8_000, 0)
    assert (totals.created_time_s, totals.started_time_s, totals.request_count) == (1000.0, 1100.0, 2)
    assert (account.route, account.application, account.user) == ("flash", "desk", "ann")


@pytest.mark.parametrize(
    ("changes", "cost", "saving"),
    [
        ({"cost": None}, 0, 0),
        ({"counterfactuals": None}, 1_000, 0),
        ({"counterfactuals": Counterfactuals()}, 1_000, 0),
        ({"counterfactuals": Counterfactuals(no_caching_nano_usd=400)}, 1_000, -600),
    ],
)
def test_unknown_is_counted_beside_the_sums(changes, cost, saving):
    """A cost that nobody knows is no 0, a saving takes both sides, and caching may have cost money."""
    totals = noted(settled(**changes)).find("acme", "s").totals()
    assert (totals.cost_nano_usd, totals.saving_nano_usd) == (cost, saving)
    assert totals.unknown_cost_count == (changes.get("cost", FREE) is None)


def test_a_request_with_retries_is_one_request():
    """Refused attempts bill nothing and answer nothing; the one that answers is the request's."""
    refused = settled(outcome=Outcome.REFUSED, usage=None, cost=FREE, counterfactuals=None)
    account = noted(refused, settled(attempt=2, route="flash")).find("acme", "s")
    totals = account.totals()
    assert (totals.request_count, account.route, totals.partial_count) == (1, "flash", 0)
    assert (totals.input_tokens, totals.unknown_cost_count, totals.usage().complete) == (10_000, 0, True)


def test_broken_off_calls_make_the_sums_floors():
    """Usage that is cut short counts as far as it goes; none at all is said too; neither is an answer."""
    lost = settled(outcome=Outcome.UNKNOWN, usage=None, cost=None, counterfactuals=None)
    cut = settled(outcome=Outcome.CANCELLED, usage=replace(USAGE, complete=False))
    account = noted(lost, cut).find("acme", "s")
    totals = account.totals()
    assert (totals.partial_count, totals.usage().complete, totals.input_tokens) == (2, False, 10_000)
    assert (account.route, totals.request_count, totals.unknown_cost_count) == ("", 2, 1)


def test_our_own_calls_and_nameless_ones_are_no_session():
    """A warm is on the bill apart, and a request without a session belongs to none."""
    book = noted(settled(purpose=Purpose.WARM), settled(session=""))
    assert len(book) == 0
    assert book.find("acme", "s") is book.find("acme", "") is None


names = st.sampled_from(["a", "b", "c", "d"])


@given(st.lists(st.tuples(names, names)), st.integers(min_value=1, max_value=6))
def test_the_longest_unused_is_forgotten_first(steps, limit):
    """Tenants are apart; at most `limit` accounts, by a model of it; looking at one is not using it."""
    book, model = SessionBook(limit), {}
    for tenant, session in steps:
        book.note(settled(session, tenant=tenant), None)
        model[tenant, session] = model.pop((tenant, session), 0) + 1
        if len(model) > limit:
            model.pop(next(iter(model)))
        book.find("a", "a")
        assert len(book) == len(model)
    for tenant in "abcd":
        for session in "abcd":
            account = book.find(tenant, session)
            assert (None if account is None else account.totals().request_count) == model.get(
                (tenant, session)
            )


# --- what is warm, over the sandbox


async def send(rig: Rig, number: int, *, route: Route = Route.OPUS, session: str = "s") -> Settlement:
    """The `number`-th turn of a session, answered and settled."""
    messages = [said("Which tickets are overdue?")]
    for index in range(1, number):
        messages += [said("Three of them are. " * 40, Role.ASSISTANT), said(f"And in week {index}?")]
    request = asked(
        *messages, route=route, request_id=f"{session}-{number}-{route}", session=session, system=(SYSTEM,)
    )
    prepared = rig.prepare(request)
    attempt = rig.settler.open(prepared, route, number=1, stream=False, trace_id="", fell_back=False)
    rendered = rig.preparation.rendered_for(prepared, route)
    return attempt.answered(await rig.upstreams[route].generate(rendered, prepared.plan_for(route), 5.0))


def warm(rig: Rig, session: str = "s") -> tuple[float, int]:
    """What the book says now."""
    return rig.settler.book.find("acme", session).warm(rig.beliefs.index, rig.clock.now())


async def test_a_session_is_warm_until_its_ttl_after_the_start_of_its_last_request():
    """The clock runs from the start, not from the end, and every turn restarts it; tokens are what was billed."""
    async with rigged() as rig:
        first = await send(rig, 1)
        p_warm, tokens = warm(rig)
        assert p_warm > 0.9
        assert tokens == first.usage.cache_write_tokens > 0
        rig.clock.advance(200)
        second = await send(rig, 2)
        whole = second.usage.cache_read_tokens + second.usage.cache_write_tokens
        started_s = second.intent.started_time_s
        rig.clock.advance(started_s + 299.9 - rig.clock.now())
        assert warm(rig)[1] == whole > tokens
        rig.clock.advance(0.2)
        assert warm(rig) == (0.0, 0)
        account = rig.settler.book.find("acme", "s")
        totals = account.totals()
        assert (totals.prefix_started_time_s, totals.started_time_s) == (started_s, started_s)
        assert set(account.ttls_s) == {300}
        assert totals.created_time_s == START_TIME_S


async def test_what_another_session_proved_counts_for_this_one():
    """A prefix that somebody else read 200 s later lives on: a clock of the session's own would call it cold."""
    async with rigged() as rig:
        await send(rig, 1, session="s")
        rig.clock.advance(200)
        assert (await send(rig, 1, session="other")).usage.cache_read_tokens > 0
        rig.clock.advance(200)
        assert warm(rig, "s") == warm(rig, "other")
        assert warm(rig, "s")[0] > 0.9
        rig.clock.advance(100.1)
        assert warm(rig, "s") == (0.0, 0)


async def test_a_miss_that_nobody_foresaw_lowers_the_chance():
    """The provider dropped everything; the next write is believed again, a little less surely than before."""
    async with rigged() as rig:
        await send(rig, 1)
        before, _ = warm(rig)
        rig.sandbox.reset()
        rig.clock.advance(10)
        assert warm(rig)[0] == before, "nobody but the provider knows yet"
        assert (await send(rig, 1, session="other")).usage.cache_read_tokens == 0
        assert 0.5 < warm(rig)[0] < before


async def test_a_turn_on_flash_leaves_the_opus_prefix_as_it_was():
    """Flash takes no breakpoints: what Opus holds of the session goes on to live and to lapse by itself."""
    async with rigged() as rig:
        await send(rig, 1)
        before = warm(rig)
        rig.clock.advance(100)
        await send(rig, 2, route=Route.FLASH)
        assert warm(rig) == before
        assert rig.settler.book.find("acme", "s").route == "flash"
        rig.clock.advance(201)
        assert warm(rig) == (0.0, 0)


async def test_a_session_without_breakpoints_is_never_warm():
    """Nothing was asked to be cached, so nothing is believed; that is 0, with 0 tokens."""
    async with rigged() as rig:
        await send(rig, 1, route=Route.FLASH)
        assert rig.settler.book.find("acme", "s").scope is None
        assert warm(rig) == (0.0, 0)


class TestHistory:
    """What a session's turns came to, for the score of the next."""

    def test_answers_and_judgements_of_the_last_one_are_remembered(self):
        """Routes, how the last answer ended and when; a later answer makes what was said before past."""
        book = SessionBook(10)
        book.remember("acme", "s", Route.FLASH, request_id="r1", finish="end_turn", now_s=50.0)
        book.judged("acme", "r1", "bad")
        found = book.recall("acme", "s")
        assert found.history == NO_HISTORY.after("flash", "end_turn").judged("bad")
        assert found.answered_s == 50.0
        book.remember(
            "acme", "s", Route.OPUS, request_id="r2", finish="max_tokens", escalated=True, now_s=60.0
        )
        history = book.recall("acme", "s").history
        assert (history.recent_routes, history.last_escalated, history.last_verdict) == ("fo", True, None)

    def test_a_judgement_reaches_only_its_own_sessions_last_answer(self):
        """Not another tenant's, not one answered over, not a request nobody made."""
        book = SessionBook(10)
        book.remember("acme", "s", Route.FLASH, request_id="r1")
        book.remember("acme", "s", Route.FLASH, request_id="r2")
        for tenant, request_id in (("acme", "r1"), ("other", "r2"), ("acme", "r3")):
            book.judged(tenant, request_id, "bad")
        assert book.recall("acme", "s").history.last_verdict is None
        book.judged("acme", "r2", "good")
        assert book.recall("acme", "s").history.last_verdict == "good"

    def test_what_can_be_judged_is_bounded_and_survives_forgetting(self, monkeypatch):
        """The oldest answers drop out; a judgement of a forgotten session is no error."""
        monkeypatch.setattr(session_book, "JUDGEABLE_LIMIT", 2)
        book = SessionBook(1)
        for name in ("a", "b", "c"):
            book.remember("acme", name, Route.FLASH, request_id=f"r-{name}")
        for name in ("a", "b", "c"):
            book.judged("acme", f"r-{name}", "good")
        assert book.recall("acme", "b") is None
        assert book.recall("acme", "c").history.last_verdict == "good"
