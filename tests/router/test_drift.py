"""Drift of the traffic: seen against the model's youth or what came with it, over the last requests only."""

import random

from classifier.drift import FIGURES, reference_of
from classifier.features import STRUCTURE_NAMES
from router.drift import MINIMUM_REQUESTS, REFERENCE_REQUESTS, DriftWatch, Level

STILL = [0.0] * len(STRUCTURE_NAMES)


def structure(**columns):
    """Structure with some columns set."""
    found = list(STILL)
    for name, value in columns.items():
        found[STRUCTURE_NAMES.index(name)] = value
    return found


def feed(watch, count, chance, *, low=0.0, high=1.0, opus_above=0.7, **columns):
    """Show `count` requests with scores drawn evenly between two bounds."""
    for _ in range(count):
        score = chance.uniform(low, high)
        watch.observe(score, score >= opus_above, structure(**columns))


def by_name(watch):
    """The figures by name."""
    return {each.name: each for each in watch.figures()}


def test_without_enough_requests_nothing_is_said():
    """No index while the reference is gathered, nor over a handful of requests after it; no alarm either."""
    watch, chance = DriftWatch(1_000), random.Random(1)
    watch.begin()
    feed(watch, REFERENCE_REQUESTS + MINIMUM_REQUESTS - 1, chance)
    assert [each.name for each in watch.figures()] == list(FIGURES)
    assert {(each.psi, each.level) for each in watch.figures()} == {(None, Level.NONE)}
    feed(watch, 1, chance)
    assert all(each.psi is not None for each in watch.figures())


def test_steady_traffic_raises_no_alarm_and_moved_traffic_does():
    """Scores that move up are seen in score and Opus share; longer questions in length; nothing else alarms."""
    watch, chance = DriftWatch(1_000), random.Random(2)
    watch.begin()
    for _ in range(REFERENCE_REQUESTS + 1_000):
        feed(watch, 1, chance, text_characters_log=chance.uniform(3, 6))
    assert {each.level for each in watch.figures()} == {Level.NONE}
    for _ in range(1_000):
        feed(watch, 1, chance, low=0.5, text_characters_log=chance.uniform(5, 8))
    found = by_name(watch)
    assert {name for name, each in found.items() if each.level} == {"score", "opus_share", "length"}
    assert found["score"].level is found["length"].level is Level.ACT
    assert found["score"].request_count == 1_000


def test_what_passed_is_forgotten():
    """When the traffic returns to what it was, so do the figures, within a window."""
    watch, chance = DriftWatch(500), random.Random(3)
    watch.begin()
    feed(watch, REFERENCE_REQUESTS, chance)
    feed(watch, 500, chance, low=0.9)
    assert by_name(watch)["score"].level is Level.ACT
    feed(watch, 500, chance)
    assert by_name(watch)["score"].level is Level.NONE


def test_a_reference_that_came_with_the_model_is_compared_with_at_once():
    """Then the first day's traffic is seen to differ from training, too."""
    watch, chance = DriftWatch(500), random.Random(4)
    watch.begin({name: reference_of([chance.random() for _ in range(1_000)]) for name in FIGURES})
    feed(watch, MINIMUM_REQUESTS, chance, low=0.9)
    assert by_name(watch)["score"].level is Level.ACT


def test_another_model_begins_anew():
    """Scores of two models are not compared."""
    watch, chance = DriftWatch(500), random.Random(5)
    watch.begin()
    feed(watch, REFERENCE_REQUESTS + 500, chance)
    watch.begin()
    feed(watch, 500, chance, low=0.9)
    assert {each.psi for each in watch.figures()} == {None}
