"""What is remembered of a session, by a model of it."""

from hypothesis import given
from hypothesis import strategies as st

from classifier.route import Route
from router.session_book import SessionBook

names = st.sampled_from(["", "a", "b", "c", "d"])


@given(st.lists(st.tuples(names, names, st.sampled_from(Route))), st.integers(min_value=1, max_value=6))
def test_it_recalls_the_last_route_of_the_newest_sessions(steps, limit):
    """At most `limit` sessions, the longest unused forgotten first; tenants are apart; no session, no memory."""
    memory, model = SessionBook(limit), {}
    for tenant, session, route in steps:
        memory.remember(tenant, session, route)
        if session:
            count = model.pop((tenant, session), (route, 0))[1]
            model[tenant, session] = (route, count + 1)
            if len(model) > limit:
                model.pop(next(iter(model)))
        assert len(memory) == len(model) <= limit
    for tenant in ("", "a", "b"):
        for session in ("", "a", "b", "c", "d"):
            found = memory.recall(tenant, session)
            assert (found and (found.route, found.request_count)) == model.get((tenant, session))


def test_recalling_is_not_using():
    """A session that is only looked at, as Explain does, ages like any other."""
    memory = SessionBook(2)
    for session in ("old", "new"):
        memory.remember("t", session, Route.OPUS)
    memory.recall("t", "old")
    memory.remember("t", "newest", Route.OPUS)
    assert memory.recall("t", "old") is None
