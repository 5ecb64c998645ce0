"""What is counted of decisions: routes and scores, cascades, judgements, and the classifier's changes.

The rule: a request is counted once for its decision, whatever became of its attempts.

It does not know how a decision is made.
"""

from classifier.route import Route
from router import attributes as names
from router.feedback import Feedback, Receipt, Received, Verdict
from router.settlement import DecisionRecord
from router.telemetry.aggregates import Counter, Histogram
from router.telemetry.labels import Words


class DecisionMetrics:
    """Decisions, and what is learnt of them.

    Args:
        words: What may be a label.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        route = names.ROUTE
        self.decisions = Counter(
            names.DECISIONS, "{decision}", "Routing decisions, by the rule that bound", (route, names.REASON)
        )
        self.escalations = Counter(
            names.ESCALATIONS,
            "{answer}",
            "Flash answers that failed, by how and by what came of it: answered or failed by Opus, left by the caller, "
            "or the reason it was handed on",
            (names.APPLICATION, names.SIGNAL, names.RESULT),
        )
        self.score = Histogram(
            names.DECISION_SCORE,
            "1",
            "Calibrated chance that Opus is needed",
            (route,),
            names.SCORE_BOUNDARIES,
        )
        self.feedback = Counter(
            names.FEEDBACK,
            "{judgement}",
            "Judgements of requests received, by verdict (score: none but a score) and what came of them; route of the "
            "request, empty while it is in progress or when it is unknown",
            (names.ROUTE, names.VERDICT, names.RECEIVED),
        )
        self.swaps = Counter(
            names.CLASSIFIER_SWAPS, "{swap}", "Times another classifier came to score", (names.HOW,)
        )
        self.shadow_decisions = Counter(
            names.SHADOW_DECISIONS,
            "{decision}",
            "Requests scored by the shadow classifier too, by whether it takes the same side of the threshold",
            (names.AGREED,),
        )
        self.embeddings = Counter(
            names.EMBEDDINGS,
            "{request}",
            "Requests given to the text encoder, by whether its embedding was used, late or failed",
            (names.EMBEDDED,),
        )

    def start(self) -> None:
        """Begin at 0 what is known beforehand."""
        for how in ("promoted", "rolled_back"):
            self.swaps.start((how,))
        for agreed in ("yes", "no"):
            self.shadow_decisions.start((agreed,))
        for verdict in (*Verdict, "score"):
            for route in Route:
                self.feedback.start((route.value, str(verdict), Received.RECORDED.value))

    def record_decision(self, decision: DecisionRecord) -> None:
        """Count one decision and its score."""
        self.decisions.add((decision.route, self._words.word(decision.reason)))
        if decision.score is not None:
            self.score.record((decision.route,), decision.score)

    def record_escalation(self, application: str, signal: str, result: str) -> None:
        """Count a failed answer of Flash.

        Args:
            signal: How it failed, of `router.escalation.Signal`.
            result: "answered" or "failed" by Opus, "left" by the caller, or what forbade asking Opus.
        """
        self.escalations.add(
            (self._words.application(application), self._words.word(signal), self._words.word(result))
        )

    def record_feedback(self, feedback: Feedback, receipt: Receipt) -> None:
        """Count one judgement of a request."""
        verdict = feedback.verdict.value if feedback.verdict is not None else "score"
        self.feedback.add((receipt.route, verdict, receipt.received.value))

    def record_swap(self, *, rolled_back: bool) -> None:
        """Count a change of the classifier that scores."""
        self.swaps.add(("rolled_back" if rolled_back else "promoted",))

    def record_embedding(self, outcome: str) -> None:
        """Count a request given to the text encoder."""
        self.embeddings.add((outcome,))

    def record_shadow(self, *, disagreed: bool) -> None:
        """Count a request that the shadow classifier scored too."""
        self.shadow_decisions.add(("no" if disagreed else "yes",))
