"""The circuit breaker on a driven clock: when it opens, how it is probed, what says nothing, and that it recovers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from classifier.policy import Reason
from classifier.route import Route
from router import errors
from router.circuit import (
    JITTER,
    NOT_COUNTED,
    Circuit,
    Circuits,
    CircuitSettings,
    Signal,
    State,
    signal_of,
)
from router.config import Config
from router.settlement import Purpose
from tests.router.test_attempts import CLASSES

SETTINGS = CircuitSettings(
    window_s=30.0,
    minimum_calls=20,
    failure_share=0.5,
    failures_in_a_row=10,
    open_s=10.0,
    open_limit_s=35.0,
    probe_limit=2,
)
NOW_S = 1_000.0


def tell(circuit: Circuit, signal: Signal, now_s: float = NOW_S, jitter: float = 0.0) -> None:
    """One admitted attempt and its outcome."""
    permit = circuit.admit(now_s)
    assert permit is not None
    circuit.report(permit, signal, now_s, jitter)


def opened(settings: CircuitSettings = SETTINGS, now_s: float = NOW_S) -> Circuit:
    """A circuit that has just opened."""
    circuit = Circuit(settings)
    for _ in range(settings.failures_in_a_row):
        tell(circuit, Signal.ILL, now_s)
    assert circuit.state(now_s) is State.OPEN
    return circuit


def test_failures_in_a_row_open_it_however_few_the_calls():
    """At a call a minute no share of a window says anything; ten failures on end do."""
    circuit = Circuit(SETTINGS)
    for minute in range(9):
        tell(circuit, Signal.ILL, NOW_S + 60.0 * minute)
    assert circuit.state(NOW_S + 540.0) is State.CLOSED
    tell(circuit, Signal.ILL, NOW_S + 540.0)
    assert circuit.state(NOW_S + 540.0) is State.OPEN
    assert circuit.held_for_s(NOW_S + 541.0) == 9.0


def test_an_answer_between_breaks_the_row():
    """Nine failures, an answer, nine failures: too few calls for a share, and no row of ten."""
    circuit = Circuit(SETTINGS)
    for signal in [Signal.ILL] * 9 + [Signal.WELL] + [Signal.ILL] * 9:
        tell(circuit, signal)
    assert circuit.state(NOW_S) is State.CLOSED


def test_a_share_of_failures_opens_it_once_there_are_enough_calls():
    """Every other call fails: at the twentieth call, not before."""
    circuit = Circuit(SETTINGS)
    for number in range(19):
        tell(circuit, (Signal.WELL, Signal.ILL)[number % 2], NOW_S + number)
        assert circuit.state(NOW_S + number) is State.CLOSED
    tell(circuit, Signal.ILL, NOW_S + 19)
    assert circuit.state(NOW_S + 19) is State.OPEN


def test_what_is_older_than_the_window_is_forgotten():
    """Failures of half a minute ago do not add up with today's."""
    circuit = Circuit(SETTINGS)
    for number in range(18):
        tell(circuit, (Signal.ILL, Signal.WELL)[number % 2])
    later_s = NOW_S + 31.0
    assert circuit.counts(later_s) == (0, 0)
    tell(circuit, Signal.ILL, later_s)
    tell(circuit, Signal.ILL, later_s)
    assert (circuit.counts(later_s), circuit.state(later_s)) == ((2, 2), State.CLOSED)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_open_time_doubles_to_its_limit_and_is_stretched_by_jitter(jitter: float):
    """10, 20, 35, 35 s: each failed probe opens it for longer, and processes do not come back together."""
    circuit, now_s = Circuit(SETTINGS), NOW_S
    for _ in range(10):
        tell(circuit, Signal.ILL, now_s, jitter)
    for open_s in (10.0, 20.0, 35.0, 35.0):
        assert circuit.held_for_s(now_s) == pytest.approx(open_s * (1 + JITTER * jitter))
        assert circuit.admit(now_s + open_s * 0.99) is None
        now_s += open_s * 1.2
        tell(circuit, Signal.ILL, now_s, jitter)


def test_half_open_lets_a_bounded_number_of_probes_through():
    """Two at a time; their answers close it."""
    circuit = opened()
    probe_s = NOW_S + 10.0
    assert (circuit.state(probe_s), circuit.held_for_s(probe_s)) == (State.HALF_OPEN, None)
    permits = [circuit.admit(probe_s) for _ in range(4)]
    assert permits[2:] == [None, None]
    assert circuit.held_for_s(probe_s) == 10.0
    for permit in permits[:2]:
        circuit.report(permit, Signal.WELL, probe_s, 0.0)
    assert circuit.state(probe_s) is State.CLOSED


def test_one_failed_probe_opens_it_again():
    """Whatever another probe says."""
    circuit = opened()
    first, second = (circuit.admit(NOW_S + 10.0) for _ in range(2))
    circuit.report(first, Signal.WELL, NOW_S + 11.0, 0.0)
    circuit.report(second, Signal.ILL, NOW_S + 11.0, 0.0)
    assert circuit.state(NOW_S + 11.0) is State.OPEN
    assert circuit.held_for_s(NOW_S + 11.0) == 20.0


def test_a_probe_that_says_nothing_gives_its_place_back():
    """Its caller left: the next one probes."""
    circuit = opened()
    for _ in range(20):
        tell(circuit, Signal.NOTHING, NOW_S + 10.0)
    assert circuit.state(NOW_S + 10.0) is State.HALF_OPEN


def test_probes_that_never_end_do_not_hold_everybody_off():
    """After the circuit's own open time their places are given to others."""
    circuit = opened()
    late = [circuit.admit(NOW_S + 10.0) for _ in range(2)]
    assert circuit.admit(NOW_S + 19.9) is None
    assert circuit.held_for_s(NOW_S + 20.0) is None
    fresh = [circuit.admit(NOW_S + 20.0) for _ in range(3)]
    assert None not in fresh[:2]
    assert fresh[2] is None
    for permit in late:
        circuit.report(permit, Signal.WELL, NOW_S + 60.0, 0.0)
    assert circuit.state(NOW_S + 60.0) is State.CLOSED, "a slow answer is an answer"


def test_what_was_sent_before_it_opened_does_not_close_it():
    """Nor does a late failure open one that has closed since."""
    circuit = Circuit(SETTINGS)
    stragglers = [circuit.admit(NOW_S) for _ in range(20)]
    for _ in range(10):
        tell(circuit, Signal.ILL)
    tell(circuit, Signal.NOTHING, NOW_S + 10.0)  # half open now
    for permit in stragglers[:5]:
        circuit.report(permit, Signal.WELL, NOW_S + 10.0, 0.0)
    assert circuit.state(NOW_S + 10.0) is State.HALF_OPEN
    for _ in range(2):
        tell(circuit, Signal.WELL, NOW_S + 10.0)
    for permit in stragglers[5:]:
        circuit.report(permit, Signal.ILL, NOW_S + 10.0, 0.0)
    assert (circuit.state(NOW_S + 10.0), circuit.counts(NOW_S + 10.0)) == (State.CLOSED, (0, 0))


def test_one_that_closed_too_soon_goes_on_with_its_backoff():
    """Opening again within a window of closing is the same trouble; later it is new trouble."""
    for since_s, expected_s in ((5.0, 20.0), (31.0, 10.0)):
        circuit = opened()
        for _ in range(2):
            tell(circuit, Signal.WELL, NOW_S + 10.0)
        for _ in range(10):
            tell(circuit, Signal.ILL, NOW_S + 10.0 + since_s)
        assert circuit.held_for_s(NOW_S + 10.0 + since_s) == expected_s


def test_warms_neither_trip_nor_probe():
    """Failing warms leave it closed; while it is not closed none is sent, and none takes a probe's place."""
    circuit = Circuit(SETTINGS)
    for _ in range(100):
        permit = circuit.admit(NOW_S, Purpose.WARM)
        assert permit == NOT_COUNTED
        circuit.report(permit, Signal.ILL, NOW_S, 0.0)
    assert (circuit.state(NOW_S), circuit.counts(NOW_S)) == (State.CLOSED, (0, 0))
    circuit = opened()
    for now_s in (NOW_S, NOW_S + 10.0, NOW_S + 1000.0):
        assert circuit.admit(now_s, Purpose.WARM) is None
    assert [circuit.admit(NOW_S + 10.0) is None for _ in range(3)] == [False, False, True]
    assert circuit.admit(NOW_S + 10.0, Purpose.WARM) is None


def test_a_clock_set_back_does_not_keep_it_open():
    """An hour back: a circuit that opened "in the future" may be probed."""
    circuit = opened()
    assert circuit.held_for_s(NOW_S - 3600.0) is None
    tell(circuit, Signal.WELL, NOW_S - 3600.0)
    tell(circuit, Signal.WELL, NOW_S - 3600.0)
    assert circuit.state(NOW_S - 3600.0) is State.CLOSED


def test_switched_off_it_never_opens():
    """Every attempt is let through and none is counted."""
    circuits = Circuits({Route.OPUS: ("anthropic", "m")}, CircuitSettings(enabled=False), draw=lambda: 0.0)
    for _ in range(100):
        permit = circuits.admit(Route.OPUS, NOW_S)
        circuits.report(Route.OPUS, permit, Signal.ILL, NOW_S)
    assert circuits.held_for_s(Route.OPUS, NOW_S) is None
    assert Circuits.off().admit(Route.FLASH, NOW_S) == NOT_COUNTED


ILL = {
    errors.UpstreamOverloaded,
    errors.UpstreamFailed,
    errors.UpstreamUnreachable,
    errors.UpstreamMalformed,
    errors.UpstreamSpendLimited,
    errors.UpstreamInterrupted,
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_only_what_is_the_providers_own_counts(kind):
    """Refused requests, credentials and models, and limits of unknown length say nothing about the provider."""
    expected = Signal.ILL if kind in ILL else Signal.NOTHING
    assert signal_of(kind("anthropic", "failed"), 1.0, SETTINGS) is expected


@pytest.mark.parametrize(
    ("retry_after_s", "expected"),
    [
        (None, Signal.NOTHING),
        (1.0, Signal.NOTHING),
        (2.0, Signal.NOTHING),
        (2.1, Signal.ILL),
        (60.0, Signal.ILL),
    ],
)
def test_a_rate_limit_counts_when_it_asks_for_a_long_wait(retry_after_s, expected):
    """A short one is waited for and is the ordinary life of a busy key."""
    error = errors.UpstreamRateLimited("gemini", "slow down", retry_after_s=retry_after_s)
    assert signal_of(error, 0.1, SETTINGS) is expected


@pytest.mark.parametrize(
    ("waited_s", "expected"), [(0.4, Signal.NOTHING), (29.9, Signal.NOTHING), (30.0, Signal.ILL)]
)
def test_a_timeout_counts_when_the_provider_had_time(waited_s, expected):
    """Callers in a hurry must not close a working upstream to all others."""
    assert signal_of(errors.UpstreamTimeout("gemini", "late"), waited_s, SETTINGS) is expected


def test_an_answer_cut_by_its_callers_deadline_says_nothing():
    """It flowed; cut by anything else it counts."""
    interrupted = errors.UpstreamInterrupted("anthropic", "broke off")
    for cause in CLASSES:
        interrupted.cause = cause
        expected = Signal.NOTHING if cause is errors.UpstreamTimeout else Signal.ILL
        assert signal_of(interrupted, 300.0, SETTINGS) is expected


def both(draw=lambda: 0.0) -> Circuits:
    """Circuits of both routes, closed."""
    targets = {Route.OPUS: ("anthropic", "claude"), Route.FLASH: ("gemini", "flash")}
    return Circuits(targets, SETTINGS, draw=draw)


def break_circuit(circuits: Circuits, route: Route, now_s: float = NOW_S) -> None:
    """Fail until it opens."""
    for _ in range(SETTINGS.failures_in_a_row):
        permit = circuits.admit(route, now_s)
        circuits.failed(route, permit, errors.UpstreamFailed("x", "broke"), 0.1, now_s)


def test_circuits_are_apart_and_reported():
    """One provider's trouble is not the other's; a report says who, where it stands, and when it is probed."""
    circuits = both()
    break_circuit(circuits, Route.OPUS)
    with pytest.raises(errors.CircuitOpen, match=r"anthropic \(claude\).*retry in 9 s") as caught:
        circuits.admit(Route.OPUS, NOW_S + 1.0)
    assert caught.value.retry_after_s == 9.0
    circuits.admit(Route.FLASH, NOW_S + 1.0)
    opus, flash = circuits.snapshot(NOW_S + 1.0)
    assert (opus.route, opus.upstream, opus.state, opus.retry_after_s) == (
        Route.OPUS,
        "anthropic",
        State.OPEN,
        9.0,
    )
    assert (opus.calls, opus.failures) == (10, 10)
    assert (flash.state, flash.retry_after_s, flash.calls) == (State.CLOSED, 0.0, 0)


def test_defaults_of_the_settings_file_are_the_ones_here():
    """The documented defaults and the state machine's own do not drift apart."""
    routing = Config().routing
    default = CircuitSettings()
    for name in default.__slots__:
        if name in ("enabled", "wait_limit_s"):
            continue
        assert getattr(routing, f"circuit_{name}") == getattr(default, name), name
    assert (routing.circuit, routing.retry_wait_limit_s) == (default.enabled, default.wait_limit_s)
    assert (routing.hedge_after_s, routing.hedge_routes) == (0.0, ("flash",))
    assert Reason.OPEN_CIRCUIT.value == "open_circuit"


class Life(RuleBasedStateMachine):
    """Any course of calls, outcomes and time."""

    @initialize(
        row=st.integers(1, 4), share=st.floats(0.1, 1.0), minimum=st.integers(1, 8), probes=st.integers(1, 3)
    )
    def begin(self, row: int, share: float, minimum: int, probes: int) -> None:
        self.settings = CircuitSettings(
            failures_in_a_row=row,
            failure_share=share,
            minimum_calls=minimum,
            probe_limit=probes,
            open_limit_s=40.0,
        )
        self.circuit = Circuit(self.settings)
        self.now_s = NOW_S
        self.out: list[int] = []

    @rule(seconds=st.floats(0.0, 60.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def ask(self) -> None:
        held_s = self.circuit.held_for_s(self.now_s)
        permit = self.circuit.admit(self.now_s)
        assert (permit is None) == (held_s is not None), "what was said to be free is free, and only that"
        if permit is not None:
            self.out.append(permit)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), signal=st.sampled_from(Signal), jitter=st.floats(0, 0.999))
    def end(self, data, signal: Signal, jitter: float) -> None:
        index = data.draw(st.integers(0, len(self.out) - 1))
        self.circuit.report(self.out.pop(index), signal, self.now_s, jitter)

    @invariant()
    def nobody_is_held_off_for_longer_than_the_limit(self) -> None:
        held_s = self.circuit.held_for_s(self.now_s)
        assert held_s is None or 0 < held_s <= 40.0 * (1 + JITTER)
        calls, failures = self.circuit.counts(self.now_s)
        assert 0 <= failures <= calls

    def teardown(self) -> None:
        """However it went, a provider that answers again is asked again."""
        for _ in range(4):
            self.now_s += 60.0
            while (permit := self.circuit.admit(self.now_s)) is not None:
                self.circuit.report(permit, Signal.WELL, self.now_s, 0.0)
                if self.circuit.state(self.now_s) is State.CLOSED:
                    return
        raise AssertionError("it never closed")


TestLife = Life.TestCase


@given(st.lists(st.sampled_from([Signal.WELL, Signal.NOTHING]), max_size=200))
def test_without_failures_it_stays_closed(signals):
    """Answers and what says nothing never open a circuit."""
    circuit = Circuit(CircuitSettings(failures_in_a_row=1, minimum_calls=1, failure_share=0.01))
    for number, signal in enumerate(signals):
        tell(circuit, signal, NOW_S + number)
    assert circuit.state(NOW_S + len(signals)) is State.CLOSED
