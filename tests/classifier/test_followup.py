"""Bare follow-ups: accepted in several languages, refused as soon as a turn has a subject."""

from __future__ import annotations

import pytest

from classifier.followup import MAX_CHARACTERS, is_bare_follow_up


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "Yes, please!",
        "go on",
        "OK do it",
        "no thanks",
        "tell me more",
        "continue",
        "try again",
        "why?",
        "ja, bitte",
        "mach weiter",
        "oui, vas-y",
        "sí, claro",
        "sim",
        "sì grazie",
        "iya lanjut",
        "好的",
        "はい",
        "네",
        "да",
        "👍",
        "sounds good, go ahead",
    ],
)
def test_bare_follow_ups_are_recognised(text: str) -> None:
    """Accepting, refusing, thanking or asking for more means nothing without the turn before."""
    assert is_bare_follow_up(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "yes, but why does the index not help?",
        "no, use Postgres",
        "prove it",
        "go to settings",
        "continue the proof",
        "more examples of closures",
        "hi",
        "not",
        "the",
        "ja, aber vergleiche beide Verträge",
        "42",
    ],
)
def test_turns_with_a_subject_are_not(text: str) -> None:
    """One word with a subject of its own makes a turn stand on its own; so does silence."""
    assert not is_bare_follow_up(text)


def test_long_turns_are_never_bare() -> None:
    """Small words alone do not make a long turn bare."""
    assert not is_bare_follow_up("yes " * (MAX_CHARACTERS // 4 + 1))
