"""The catalogue: minimum per model, aliases, and a refusal that helps for everything else."""

import pytest

from cache.rules import ASSUMED, RETIRED, Tokenizer, UnknownModel, known_models, rules_for


@pytest.mark.parametrize(
    ("model", "minimum"),
    [
        ("claude-opus-5-5", 512),
        ("claude-opus-5", 512),
        ("claude-opus-4-8", 1024),
        ("claude-opus-4-7", 2048),
        ("claude-opus-4-6", 4096),
        ("claude-opus-4-5", 4096),
        ("claude-sonnet-5-5", 512),
        ("claude-sonnet-5", 1024),
        ("claude-sonnet-4-6", 1024),
        ("claude-haiku-4-5", 4096),
        ("claude-fable-5-2", 512),
        ("claude-mythos-5-1", 512),
        ("gemini-3.8-flash", 4096),
        ("gemini-2.5-flash", 2048),
    ],
)
def test_minimum_per_model(model, minimum):
    """The documented floor of each model, read 2026-11."""
    assert rules_for(model).minimum_tokens == minimum


def test_an_alias_is_its_dated_model():
    """A cache is per model, so the alias must not become a second scope."""
    assert rules_for("claude-opus-4-5") is rules_for("claude-opus-4-5-20251101")


@pytest.mark.parametrize("model", [*RETIRED, "claude-opus-4-5-20250229", "claude-opus-9", ""])
def test_an_id_outside_the_catalogue_is_refused(model):
    """Guessing a minimum would waste money silently; the error says what to do."""
    with pytest.raises(UnknownModel, match="unknown model"):
        rules_for(model)


def test_a_wrong_date_is_answered_with_the_right_one():
    """The strategy document's own id never existed."""
    with pytest.raises(UnknownModel, match="claude-opus-4-5-20251101"):
        rules_for("claude-opus-4-5-20250229")


def test_every_row_says_where_it_is_from():
    """A limit without page and date can not be checked again."""
    for rules in known_models():
        assert rules.source.startswith("https://")
        assert rules.read_on == "2026-11"


def test_tokenizer_families_split_at_4_7():
    """Counts must never be carried over between the two."""
    assert rules_for("claude-opus-4-6").tokenizer is Tokenizer.CLAUDE_4_6
    assert rules_for("claude-opus-4-7").tokenizer is Tokenizer.CLAUDE_4_7


def test_unverified_upgrades_are_assumed_not_to_work():
    """What would make us spend money on an unverified behaviour is off until it is measured."""
    assert not ASSUMED.hour_mark_extends_read_prefix
    assert not ASSUMED.hour_mark_upgrades_entry
