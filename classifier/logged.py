"""Requests as they were decided and what came of them: the rows a model is retrained from and judged on.

One row per decided request of a user, whatever its attempts. No text: features are hashed and packed. The rule: what
the policy could have done otherwise is told by `threshold`; where it is None the score did not decide (a caller forced
the route, a tool loop stayed, only one route could take it), and any candidate would have done the same.

It does not know where rows are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from math import log2
from typing import Final

import msgspec

from classifier.dataset import LabelledFeatures
from classifier.features import STRUCTURE_NAMES, Features
from classifier.outcomes import FIRM_WEIGHT

MAX_ROWS: Final = 50_000
"""Rows of each sort that are kept by default: some 100 MB with their features."""


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One decided request.

    Attributes:
        session: Rows of one session are never split; the request's own id where it had none.
        time_s: Start of its first attempt, seconds since the epoch.
        kind: The caller's word for the sort of request, or what `kind_of` makes of the features.
        features: Packed (`Features.pack`); "" when none were kept.
        score: Of the deciding model, None when none scored.
        threshold: Cut the score was compared with, None when the score did not decide.
        opus: Whether the policy took Opus; what answered in the end may differ (fallback, cascade).
        propensity: Chance in (0, 1] with which the policy did what it did.
        explored: Whether the route was drawn at random.
        cost_nano_usd: Of all attempts, None unknown.
        flash_nano_usd, opus_nano_usd: Expected cost of each route when deciding, None unknown.
        answer_value_nano_usd: What a needed answer of Opus was taken to be worth, None under a fixed threshold.
        opus_leaves_nano_usd: Expected value of the cache that Opus would leave warm when deciding (economics: G).
        shadow_score, shadow_digest: Of the shadow model, None and "" without one.
        label, weight, quality, evidence: As in `classifier.outcomes.Outcome`.
        answered_opus: Whether Opus answered in the end, None when not told.
        finish: Why the answer ended, "" when not told.
        input_tokens, output_tokens: Of the attempt that answered, None unknown; the input with its cached part.
        duration_s: Seconds that attempt took, None unknown.
    """

    request_id: str
    session: str
    time_s: float
    tenant: str
    application: str
    kind: str
    features: str
    score: float | None
    threshold: float | None
    opus: bool
    propensity: float
    explored: bool
    reason: str
    model_digest: str
    cost_nano_usd: int | None
    flash_nano_usd: int | None
    opus_nano_usd: int | None
    answer_value_nano_usd: int | None = None
    opus_leaves_nano_usd: int = 0
    shadow_score: float | None = None
    shadow_digest: str = ""
    label: int | None = None
    weight: float = 0.0
    quality: float | None = None
    evidence: str = ""
    answered_opus: bool | None = None
    finish: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    duration_s: float | None = None

    @property
    def firm(self) -> bool:
        """Whether the label is good enough to judge a model by, not only to train one."""
        return self.label is not None and self.weight >= FIRM_WEIGHT

    def labelled(self, weight: float | None = None) -> LabelledFeatures:
        """The row as training takes it; needs a label and features.

        Args:
            weight: Instead of its own.

        Raises:
            ValueError: The features are of another version, or damaged.
        """
        assert self.label is not None, "only labelled rows can be trained on"
        return LabelledFeatures(
            id=self.request_id,
            features=Features.unpack(self.features),
            label=self.label,
            weight=self.weight if weight is None else weight,
            group=self.session,
            kind=self.kind or None,
        )


_COLUMN: Final = {name: index for index, name in enumerate(STRUCTURE_NAMES)}
_KINDS: Final = (
    ("tool_loop", "tool_loop"),
    ("is_bare_follow_up", "follow_up"),
    ("tools_offered", "tools"),
    ("has_document", "document"),
    ("has_image", "image"),
    ("code_fence", "code"),
    ("code_words", "code"),
    ("maths_words", "maths"),
    ("opens_with_analysis", "analysis"),
    ("analysis_words", "analysis"),
    ("opens_with_light_writing", "writing"),
    ("opens_with_command", "command"),
    ("opens_with_lookup", "lookup"),
    ("ends_with_question", "question"),
)
"""Structure column above 0 -> kind; the first that holds."""


def kind_of(features: Features) -> str:
    """A coarse sort of request told from its features alone, for slices of reports where nobody named one."""
    for column, kind in _KINDS:
        if features.structure[_COLUMN[column]] > 0.0:
            return kind
    return "other"


class SessionSample:
    """At most `limit` rows of a stream of any length, whole sessions, each session with the same chance.

    A session is in by the hash of its name, so the sample does not depend on order, and another run over the same
    rows keeps the same ones. When it grows over the limit, the share of hashes kept is halved.

    Attributes:
        share: Share of sessions kept so far, in (0, 1].
        seen: Rows offered.
    """

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` rows, >= 1."""
        if limit < 1:
            raise ValueError(f"limit must be >= 1, got {limit}")
        self._limit, self._bits, self.seen = limit, 0, 0
        self._rows: list[tuple[int, LoggedRequest]] = []

    @property
    def share(self) -> float:
        """Share of sessions kept."""
        return 0.5**self._bits

    @property
    def rows(self) -> list[LoggedRequest]:
        """What was kept, in the order it came."""
        return [row for _, row in self._rows]

    def offer(self, row: LoggedRequest) -> None:
        """Keep `row` if its session is in the sample."""
        self.seen += 1
        hashed = _hash(row.session)
        if hashed >> (64 - self._bits):
            return
        self._rows.append((hashed, row))
        while len(self._rows) > self._limit and self._bits < 64:
            self._bits += 1
            self._rows = [kept for kept in self._rows if not kept[0] >> (64 - self._bits)]


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """A bounded picture of a log of any length.

    Attributes:
        labelled: Rows with a label or a quality, in order of time.
        others: Rows without either.
        labelled_share, others_share: Share of sessions that each of them holds.
        seen: Decided requests read.
        judged: Requests with a quality among them, by the route the policy took, as (Flash, Opus).
        decided: All requests by the route taken, likewise.
        unusable: Rows without features, or with features of another version.
    """

    labelled: list[LoggedRequest]
    others: list[LoggedRequest]
    labelled_share: float
    others_share: float
    seen: int
    judged: tuple[int, int]
    decided: tuple[int, int]
    unusable: int

    @property
    def seen_share(self) -> tuple[float, float]:
        """Share of requests with a quality after (Flash, Opus); 0 for a route never taken."""
        flash, opus = (
            judged / decided if decided else 0.0
            for judged, decided in zip(self.judged, self.decided, strict=True)
        )
        return flash, opus

    def alike(self) -> list[LoggedRequest]:
        """Rows with and without an outcome in their true proportion: all rows of the sessions both samples hold."""
        bits = round(-log2(min(self.labelled_share, self.others_share)))
        return [row for row in (*self.labelled, *self.others) if not _hash(row.session) >> (64 - bits)]


def collect(rows: Iterable[LoggedRequest], limit: int = MAX_ROWS) -> Collected:
    """Read a stream of rows once, in memory that does not grow with it.

    Args:
        rows: In any order.
        limit: Most rows with an outcome to keep, and most without; >= 1.
    """
    labelled, others = SessionSample(limit), SessionSample(limit)
    judged, decided, seen, unusable = [0, 0], [0, 0], 0, 0
    for row in rows:
        seen += 1
        decided[row.opus] += 1
        judged[row.opus] += row.quality is not None
        if not _usable(row):
            unusable += 1
        elif row.label is not None or row.quality is not None:
            labelled.offer(row)
        else:
            others.offer(row)
    return Collected(
        labelled=sorted(labelled.rows, key=_by_time),
        others=sorted(others.rows, key=_by_time),
        labelled_share=labelled.share,
        others_share=others.share,
        seen=seen,
        judged=(judged[0], judged[1]),
        decided=(decided[0], decided[1]),
        unusable=unusable,
    )


def _by_time(row: LoggedRequest) -> tuple[float, str]:
    return row.time_s, row.request_id


def _usable(row: LoggedRequest) -> bool:
    if not row.features:
        return False
    try:
        Features.unpack(row.features)
    except ValueError:
        return False
    return True
