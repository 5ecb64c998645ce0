"""A service whose requests changed: what looks easy to the shipped model needs Opus, what looks hard does not.

Serves a stream of made-up requests with a model, a cut and some exploration, and gives the rows its ledger would hold.
"""

import random

from classifier.encoder import Embedder
from classifier.features import extract
from classifier.logged import LoggedRequest, kind_of
from classifier.model import Model
from classifier.outcomes import Judgement, outcome_of
from classifier.route import Route
from classifier.sample import Sample

FLASH_NANO_USD, OPUS_NANO_USD = 2_000_000, 20_000_000

_HARD = ("reconcile", "settle", "book", "allocate")
_EASY = ("Analyse", "Compare", "Evaluate", "Explain why")
_LEDGERS = ("escrow", "nostro", "accrual", "intercompany", "suspense")
_NEWS = ("football scores", "weather", "horoscope", "cinema programme", "recipe list")
_PLAIN = ("What time is it in {}?", "Translate hello into {}", "Set an alarm for {}", "Play songs from {}")
_PROOFS = ("Prove that the {} sequence converges and derive its limit with a rigorous argument",)
_PLACES = ("Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito")


def a_request(draw: random.Random) -> tuple[str, bool]:
    """A text and whether it needs Opus; half of them are of the kinds that drifted."""
    match draw.randrange(4):
        case 0:
            return (
                f"please {draw.choice(_HARD)} the {draw.choice(_LEDGERS)} account {draw.choice(_PLACES)}",
                True,
            )
        case 1:
            return (
                f"{draw.choice(_EASY)} the {draw.choice(_NEWS)} of {draw.choice(_PLACES)} for our newsletter, step by"
                f" step, with a reasoned conclusion",
                False,
            )
        case 2:
            return draw.choice(_PLAIN).format(draw.choice(_PLACES)), False
        case _:
            return draw.choice(_PROOFS).format(draw.choice(_PLACES)), True


def served(
    model: Model,
    count: int,
    *,
    seed: int = 0,
    explored: float = 0.2,
    start_s: float = 0.0,
    judged: float = 0.8,
    embedder: Embedder | None = None,
) -> list[LoggedRequest]:
    """Rows of `count` requests, two a session, that the model decided at its own threshold with exploration.

    Args:
        explored: Share of requests whose route is drawn by a coin.
        judged: Share of requests whose outcome is reported.
        embedder: The service's text encoder, if it has one.
    """
    draw = random.Random(seed)
    return [_served(model, number, draw, explored, start_s, judged, embedder) for number in range(count)]


def _served(
    model: Model,
    number: int,
    draw: random.Random,
    explored: float,
    start_s: float,
    judged: float,
    embedder: Embedder | None,
) -> LoggedRequest:
    text, needs_opus = a_request(draw)
    features = extract(Sample.bounded(text=text, application=draw.choice(("helpdesk", "office"))))
    if embedder is not None:
        features = features.encoded(embedder.embed([text])[0])
    score = model.score_features(features).value
    coin = draw.random() < explored
    cut = model.manifest.threshold
    greedy = score >= cut
    opus = draw.random() < 0.5 if coin else greedy
    flash_good, opus_good = draw.random() < (0.1 if needs_opus else 0.97), draw.random() < 0.97
    outcome = outcome_of(Route.FLASH, "", "", [])
    if draw.random() < judged:
        good = opus_good if opus else flash_good
        verdict = "good" if good else "bad"
        if opus and good and not needs_opus and draw.random() < 0.5:
            verdict = "flash_sufficed"
        route = Route.OPUS if opus else Route.FLASH
        outcome = outcome_of(route, "end_turn", "", [Judgement("user", verdict, None, start_s + number)])
    return LoggedRequest(
        request_id=f"r{seed_name(start_s)}-{number}",
        session=f"s{seed_name(start_s)}-{number // 2}",
        time_s=start_s + 60.0 * number,
        tenant="acme",
        application=draw.choice(("helpdesk", "office")),
        kind=kind_of(features),
        features=features.pack(),
        score=score,
        threshold=cut,
        opus=opus,
        propensity=1.0 - explored / 2 if opus == greedy else explored / 2,
        explored=coin,
        reason="exploration" if coin else "score_above_threshold" if opus else "score_below_threshold",
        model_digest=model.digest,
        cost_nano_usd=(OPUS_NANO_USD if opus else FLASH_NANO_USD) + draw.randrange(100_000),
        flash_nano_usd=FLASH_NANO_USD,
        opus_nano_usd=OPUS_NANO_USD,
        label=outcome.label,
        weight=outcome.weight,
        quality=outcome.quality,
        evidence=outcome.evidence,
    )


def seed_name(start_s: float) -> str:
    """Tells runs apart that begin at different times."""
    return f"{start_s:g}"
