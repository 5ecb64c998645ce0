"""Single flight as a state machine: one writes, the others wait, whoever fails is replaced, nobody is forgotten."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.economics import Rates
from cache.facts import FactId, Facts
from cache.first_byte import PRIOR_KAPPA_S, PRIOR_T0_S, FirstByte, prior_of
from cache.flight import FlightBook, Signal, Ticket, scope_tag, worth_s
from cache.prompt import CacheScope

R05 = Rates(write_5m=1.25, write_1h=2.0, read=0.05)
SYSTEM, USER, TURN, OTHER = b"system", b"user", b"turn", b"other turn"


class Herd:
    """Requests on one book, and what woke each."""

    def __init__(self, **limits) -> None:
        self.book = FlightBook(**limits)
        self.woken: dict[int, list[Signal]] = {}

    def join(self, *keys: bytes, expected_at: float = 1.0, overdue_at: float = 1.5) -> Ticket:
        """A request; it waits when there is something to wait for."""
        ticket = self.book.join(keys)
        self.book.expect(ticket, expected_at, overdue_at)
        self.woken[ticket.number] = []
        self.wait(ticket)
        return ticket

    def wait(self, ticket: Ticket) -> None:
        """Wait for what is ahead, if anything is."""
        ahead = self.book.ahead(ticket)
        if ahead is not None:
            self.book.wait(ticket, ahead.place, self.woken[ticket.number].append)

    def signals(self, *tickets: Ticket) -> list[list[Signal]]:
        """What woke each of them."""
        return [self.woken[ticket.number] for ticket in tickets]


def test_the_first_leads_and_the_others_are_woken_by_its_first_byte():
    """Once, with LANDED; afterwards nothing is in flight but what they write themselves."""
    herd = Herd()
    lead, second, third = (herd.join(SYSTEM, turn) for turn in (b"1", b"2", b"3"))
    assert lead.led == [SYSTEM, b"1"]
    assert second.led == [b"2"]
    herd.book.land(lead)
    assert herd.signals(lead, second, third) == [[], [Signal.LANDED], [Signal.LANDED]]
    assert herd.book.ahead(second) is None
    herd.book.leave(lead)
    herd.book.leave(second)
    herd.book.leave(third)
    assert len(herd.book) == 0
    assert herd.signals(second, third) == [[Signal.LANDED], [Signal.LANDED]]


def test_a_lead_that_fails_is_followed_by_the_first_to_come():
    """Exactly one is promoted; the others go on waiting, for it."""
    herd = Herd()
    lead, second, third = herd.join(SYSTEM), herd.join(SYSTEM), herd.join(SYSTEM)
    herd.book.leave(lead)
    assert herd.signals(second, third) == [[Signal.PROMOTED], []]
    assert second.led == [SYSTEM]
    herd.book.land(second)
    assert herd.signals(third) == [[Signal.LANDED]]
    assert herd.book.promotions == 1


def test_a_promoted_request_that_is_cancelled_hands_on():
    """Between being woken and being run it may be cancelled: the next takes over."""
    herd = Herd()
    lead, second, third = herd.join(SYSTEM), herd.join(SYSTEM), herd.join(SYSTEM)
    herd.book.leave(lead)
    herd.book.leave(second)
    assert herd.signals(third) == [[Signal.PROMOTED]]


def test_an_overdue_lead_is_replaced_once_and_may_still_land():
    """One takes over, and is not overdue at once; the first byte of either wakes the others."""
    herd = Herd()
    lead, second, third = herd.join(SYSTEM), herd.join(SYSTEM), herd.join(SYSTEM)
    herd.book.overdue(third, 1.4)
    assert herd.signals(second, third) == [[], []]
    herd.book.overdue(third, 1.5)
    herd.book.overdue(third, 1.6)
    assert herd.signals(second, third) == [[Signal.PROMOTED], []]
    herd.book.land(lead)
    assert herd.signals(third) == [[Signal.LANDED]]
    herd.book.land(second)
    assert herd.signals(second, third) == [[Signal.PROMOTED], [Signal.LANDED]]


def test_the_deepest_prefix_in_flight_is_waited_for():
    """The same user's other request writes more of what this one would than the system prompt's lead."""
    herd = Herd()
    herd.join(SYSTEM, b"1")
    users = herd.join(SYSTEM, USER, TURN)
    late = herd.join(SYSTEM, USER, OTHER)
    found = herd.book.ahead(late)
    assert found.place == 1
    herd.book.leave(users)
    assert herd.signals(late) == [[Signal.PROMOTED]]
    found = herd.book.ahead(late)
    assert found.place == 0, "now it leads the user's layers and waits for the system prompt"


def test_what_is_being_waited_for_must_be_ahead():
    """Waiting for oneself, or for two at once, would never end."""
    herd = Herd()
    lead, second = herd.join(SYSTEM), herd.join(SYSTEM)
    with pytest.raises(ValueError, match="earlier"):
        herd.book.wait(lead, 0, lambda _: None)
    with pytest.raises(ValueError, match="one prefix"):
        herd.book.wait(second, 0, lambda _: None)


def test_a_full_book_leads_nothing_more():
    """Requests beyond the bound go as if alone."""
    herd = Herd(most_lanes=1)
    first, second = herd.join(SYSTEM, USER), herd.join(OTHER)
    assert (first.led, second.led) == ([SYSTEM], [])
    assert len(herd.book) == 1


def test_scopes_do_not_meet():
    """The same bytes for another model or workspace are another entry."""
    scopes = [CacheScope("anthropic", "w", "m"), CacheScope("anthropic", "wm", ""), CacheScope("a", "w", "m")]
    assert len({scope_tag(scope) for scope in scopes}) == 3


@settings(max_examples=120)
@given(st.data())
def test_nobody_is_forgotten_and_nobody_waits_in_a_circle(data):
    """Whatever lands, fails, is late or gives up, in any order: each prefix has one lead, waits end, nothing stays."""
    herd = Herd()
    book, alive, now = herd.book, [], 0.0
    chains = st.sampled_from(
        [(SYSTEM,), (SYSTEM, USER), (SYSTEM, USER, TURN), (USER, TURN), (SYSTEM, OTHER), (TURN,)]
    )
    for _ in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["join", "join", "land", "leave", "late", "give up"]))
        now += 0.3
        if step == "join" or not alive:
            alive.append(herd.join(*data.draw(chains), expected_at=now + 1, overdue_at=now + 1.5))
            continue
        ticket = data.draw(st.sampled_from(alive))
        match step:
            case "land" if ticket.lane is None:
                book.land(ticket)
            case "late":
                book.overdue(ticket, now)
            case "give up":
                book.stop_waiting(ticket)
            case "leave":
                book.leave(ticket)
                alive.remove(ticket)
        for each in alive:
            if each.lane is None and herd.woken[each.number][-1:] == [Signal.PROMOTED]:
                book.expect(each, now + 1, now + 1.5)
                herd.wait(each)
        lanes = list(book._lanes.values())
        assert len({lane.key for lane in lanes}) == len(lanes)
        for lane in lanes:
            assert lane.lead in alive
            assert lane.lead not in lane.waiting
            assert all(waiter.number > lane.lead.number and waiter.lane is lane for waiter in lane.waiting)
    for ticket in alive:
        book.leave(ticket)
    assert len(book) == 0


# --- what a wait is worth


def test_the_wait_that_is_worth_it_is_that_of_the_derivation():
    """10,000 tokens at $5 per million and r = 0.1 are worth 4.5 s at $0.01, and 0.8 s for their prefill."""
    rates = Rates(write_5m=1.25, write_1h=2.0, read=0.1)
    assert worth_s(10_000, rates, 5e-6, 0.01, 80e-6) == pytest.approx(5.3)
    assert worth_s(10_000, rates, 5e-6, 0.05, 80e-6) == pytest.approx(1.7)
    assert worth_s(10_000, R05, 5e-6, 0.0, 80e-6) == inf


def test_time_to_the_first_byte_is_learnt():
    """From the assumption to what is seen; one length alone moves the constant and leaves the slope."""
    line = FirstByte()
    assert line.line() == pytest.approx((PRIOR_T0_S, PRIOR_KAPPA_S))
    for number in range(300):
        tokens = 1000 * (number % 30)
        line.observe(tokens, 0.3 + 20e-6 * tokens)
    assert line.line() == pytest.approx((0.3, 20e-6), rel=0.05)
    same = FirstByte()
    for _ in range(3000):
        same.observe(500, 2.0)
    assert same.expected_s(500) == pytest.approx(2.0, rel=0.01)
    assert same.expected_s(100_000) < 20


def test_time_to_the_first_byte_begins_as_it_was_measured():
    """Where the probe measured it; what was only assumed elsewhere does not count, and both are learnt away alike."""
    measured = Facts(first_byte_s=0.7, prefill_s_per_token=55e-6, verified=frozenset({FactId.A4}))
    line = prior_of(measured)
    assert line.line() == pytest.approx((0.7, 55e-6))
    assert line.expected_s(100_000) == pytest.approx(6.2)
    assert prior_of(Facts(first_byte_s=0.7, prefill_s_per_token=55e-6)) == FirstByte()
    for _ in range(500):
        line.observe(500, 0.7 + 55e-6 * 500)
    assert line.line()[1] == pytest.approx(55e-6, rel=0.05), "one length alone leaves the measured slope"
    for number in range(300):
        line.observe(1000 * (number % 30), 0.3 + 0.02 * (number % 30))
    assert line.line() == pytest.approx((0.3, 20e-6), rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 200_000), st.floats(0, 60)), max_size=60))
def test_expected_time_is_never_negative(seen):
    """Whatever was observed."""
    line = FirstByte()
    for tokens, seconds in seen:
        line.observe(tokens, seconds)
    t0_s, kappa_s = line.line()
    assert t0_s >= 0
    assert kappa_s >= 0
