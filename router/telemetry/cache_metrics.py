"""What is counted of the providers' caches: what calls proved, what was believed and missed, who waited for whom.

The rule: a miss is counted by its cause and the layer it begins in, and its money only where it is known. Belief is
counted beside what came of it, so that a chart can hold the one against the other.

It does not know how a miss is told from a hit: `cache.diagnose` and the settlement do.
"""

from collections.abc import Callable, Iterable

from cache.diagnose import MissCause
from cache.index import CALIBRATION_BINS, Calibration
from cache.prompt import Layer
from classifier.route import Route
from router import attributes as names
from router.money import NANO_PER_USD
from router.settlement import CacheRecord, Purpose, Settlement
from router.telemetry.aggregates import Counter, Histogram, Labels, Observed
from router.telemetry.labels import RESULTS, Words, result_of

_LAYERS = tuple(layer.name.lower() for layer in Layer)
_MISS_LAYERS = {
    MissCause.TOOLS: ("tools",),
    MissCause.SYSTEM: ("system",),
    MissCause.CONTEXT: ("context",),
    MissCause.HISTORY_EDITED: ("history", "turn"),
    MissCause.PARAMETER: _LAYERS,
    MissCause.IMAGE: ("context", "history", "turn"),
}
"""Layers that a miss of a cause begins in as `cache.diagnose` tells it; any, or none that can be told, otherwise."""
_BIN_LABELS = tuple(f"{number / CALIBRATION_BINS:.1f}" for number in range(CALIBRATION_BINS))

Calibrations = Callable[[], Iterable[tuple[str, Calibration]]]
"""Gives (model, how good belief in its cache has been); called in another thread, must be quick."""


class CacheMetrics:
    """Hits, misses, belief and flights.

    Args:
        words: What may be a label.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        route, model, purpose = names.ROUTE, names.MODEL, names.PURPOSE
        self.calls = Counter(
            names.CACHE_CALLS,
            "{call}",
            "Calls with usage, by what they proved about the provider's cache: hit (something was read), "
            "write (only written), none",
            (route, model, purpose, names.CACHE_RESULT),
        )
        self.belief = Counter(
            names.CACHE_BELIEF_TOKENS,
            "{token}",
            "Tokens believed warm before the call (expected) and read by it (read)",
            (route, purpose, names.TOKEN_KIND),
        )
        miss = (route, purpose, names.CACHE_MISS_CAUSE, names.CACHE_MISS_LAYER)
        self.misses = Counter(
            names.CACHE_MISSES, "{miss}", "Prefixes that could have been read and were not", miss
        )
        self.missed = Counter(
            names.CACHE_MISSED_TOKENS, "{token}", "Input tokens that could have been read and were not", miss
        )
        self.lost = Counter(
            names.CACHE_LOST_COST,
            names.USD,
            "USD billed beyond what a read would have cost; misses of calls without a price are not in it",
            miss,
            divisor=NANO_PER_USD,
        )
        self.padding = Counter(
            names.CACHE_PADDING_COST,
            names.USD,
            "USD billed for the operator's filler, a part of the calls' cost",
            (names.APPLICATION, route, purpose),
            divisor=NANO_PER_USD,
        )
        self.flight_leads = Counter(
            names.FLIGHT_LEADS,
            "{call}",
            "Calls that began to write a cold prefix that nobody was writing, by whose they are",
            (names.PURPOSE,),
        )
        self.flight_wait = Histogram(
            names.FLIGHT_WAIT,
            names.SECONDS,
            "Time requests waited for another that was writing the same cold prefix, by what ended the wait",
            (names.FLIGHT_OUTCOME,),
            names.GEN_AI_DURATION_BOUNDARIES,
        )

    def start(self) -> None:
        """Begin at 0 what is known beforehand of users' calls, models apart."""
        user = Purpose.USER.value
        for kind in ("expected", "read"):
            self.belief.start((Route.OPUS.value, user, kind))
        for cause in MissCause:
            self._words.word.admit(cause.value)
            for layer in _MISS_LAYERS.get(cause, (*_LAYERS, "")):
                for counter in (self.misses, self.missed, self.lost):
                    counter.start((Route.OPUS.value, user, cause.value, layer))
        for layer in _LAYERS:
            self._words.word.admit(layer)

    def start_model(self, route: str, model: str) -> None:
        """Begin at 0 users' calls of a route on its model."""
        for result in RESULTS:
            self.calls.start((route, model, Purpose.USER.value, result))

    def watch_calibration(self, observe: Calibrations) -> None:
        """Export how good belief in the providers' caches is: a reliability table and a Brier score per model."""

        def column(of: Callable[[Calibration, int], float]) -> Callable[[], Iterable[tuple[Labels, float]]]:
            return lambda: [
                ((model, label), of(found, number))
                for model, found in observe()
                for number, label in enumerate(_BIN_LABELS)
            ]

        labels = (names.MODEL, names.CHANCE_BIN)
        self.belief_tested = Observed(
            names.BELIEF_TESTED,
            "{belief}",
            "Calls for which something was believed warm and whose usage told, by tenth of the chance given",
            labels,
            column(lambda found, number: found.bins[number].tested),
            monotonic=True,
        )
        self.belief_predicted = Observed(
            names.BELIEF_PREDICTED,
            "{belief}",
            "Sum of the chances given to them",
            labels,
            column(lambda found, number: found.bins[number].predicted),
            monotonic=True,
        )
        self.belief_held = Observed(
            names.BELIEF_HELD,
            "{belief}",
            "Those of them that came true",
            labels,
            column(lambda found, number: found.bins[number].held),
            monotonic=True,
        )
        self.belief_brier = Observed(
            names.BELIEF_BRIER,
            "{score}",
            "Mean squared difference of chance and outcome since the start; 0 is perfect, 0.25 is a coin",
            (names.MODEL,),
            lambda: [((model,), found.brier / found.tested) for model, found in observe() if found.tested],
            monotonic=False,
        )

    def watch_promotions(self, observe: Callable[[], int]) -> None:
        """Export how many requests took over the write of a cold prefix."""
        self.flight_promotions = Observed(
            names.FLIGHT_PROMOTIONS,
            "{promotion}",
            "Requests that took over the write of a cold prefix from one that failed, left or was late",
            (),
            lambda: [((), observe())],
            monotonic=True,
        )

    def record_flight(self, outcome: str, waited_s: float) -> None:
        """Count one request that met another's write, and how long it waited."""
        self.flight_wait.record((outcome,), waited_s)

    def record_lead(self, purpose: str) -> None:
        """Count one call that began to write what is cold."""
        self.flight_leads.add((purpose,))

    def record(self, settlement: Settlement, route: str, model: str, purpose: str) -> None:
        """Count what an attempt with usage proved, and what was missed."""
        usage = settlement.usage
        if usage is None:
            return
        self.calls.add((route, model, purpose, result_of(usage)))
        record = settlement.cache
        if record is None:
            return
        if record.expected_read_tokens:
            self.belief.add((route, purpose, "expected"), record.expected_read_tokens)
        if usage.cache_read_tokens:
            self.belief.add((route, purpose, "read"), usage.cache_read_tokens)
        self.record_losses(record, settlement.intent.application, route, purpose)

    def record_losses(self, record: CacheRecord, application: str, route: str, purpose: str) -> None:
        """Count the misses of a call and what its filler cost."""
        for miss in record.misses:
            labels = (route, purpose, self._words.word(miss.cause), self._words.word(miss.layer))
            self.misses.add(labels)
            self.missed.add(labels, miss.missed_tokens)
            if miss.lost_nano_usd is not None:
                self.lost.add(labels, miss.lost_nano_usd)
        if record.padding_nano_usd:
            owner = self._words.application(application)
            self.padding.add((owner, route, purpose), record.padding_nano_usd)
