"""Settings that are refused say which key, what it is and what is allowed, and never show text of a prompt."""

from pathlib import Path

import pytest

from router.config import Config, ConfigError, PriceConfig, load_config
from router.tariff import price_table

WRONG = {
    '[applications."Bad Name"]': ("applications: 'Bad Name' is no name", "matching regex"),
    '[applications.a]\n[applications.b]\ncontext_placement = "sideways"': (
        "applications.b.context_placement: ",
        "'sideways'",
    ),
    "[applications.a]\n[applications.b]\nmax_output_tokens = 0": (
        "applications.b.max_output_tokens: ",
        ">= 1",
        "is 0",
    ),
    "[applications.a]\nzanzibar = 0": ("applications.a: ", "unknown field `zanzibar`"),
    '[applications."a.b"]\npad = 3': ('applications."a.b".pad: ', "is 3"),
    '[[applications.a.tools]]\nname = "9"': ("applications.a.tools[0].name: ", "matching regex"),
    "[applications]\na = 5": ("applications.a: ", "is 5"),
    '[prices."claude-opus-5-5"]\ninput = 5': ("prices.claude-opus-5-5.input: ", "is 5"),
    '[cache]\nstrategy = "zz"': ("cache.strategy: ", "'zz'"),
    "[server]\nin_flight_limit = 0": ("server.in_flight_limit: ", ">= 1", "is 0"),
    "applications = 5": ("applications: ", "is 5"),
    "zanzibar = 5": ("Object contains unknown field `zanzibar`",),
}


def refusal(tmp_path: Path, text: str) -> str:
    """What is said of a file of settings."""
    file = tmp_path / "router.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    return str(caught.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize("text", WRONG)
def test_what_is_refused_is_named_with_its_value(tmp_path: Path, text: str):
    """The key with every name in it, the value, and what is allowed."""
    said = refusal(tmp_path, text)
    assert said.startswith(WRONG[text][0])
    for words in WRONG[text]:
        assert words in said, said


@pytest.mark.parametrize(
    "text",
    [
        '[applications.a]\nsystem = "Quokka"',
        '[applications.a]\nsystem = ["x", 42]',
        '[applications.a]\ntools = "Quokka"',
        '[[applications.a.tools]]\nname = "t"\ndescription = 42',
        '[applications.a]\nmax_output_tokens = "Be a quokka."',
    ],
)
def test_text_of_a_prompt_is_not_shown(tmp_path: Path, text: str):
    """The settings may be confidential: values of prompts' keys, and of more than a word, stay out."""
    said = refusal(tmp_path, text)
    assert said.startswith("applications.a.")
    assert "quokka" not in said.lower()
    assert "42" not in said


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("input", "0", "above 0"),
        ("input", "0.00", "above 0"),
        ("input", "-1", "0 or more"),
        ("output", "-0.5", "0 or more"),
        ("cache_read", "NaN", "0 or more"),
        ("output", "free", "no number"),
    ],
)
def test_a_price_that_is_no_price_is_refused_by_name(field: str, value: str, why: str):
    """Cache prices are told in units of the input's: that cannot be nothing."""
    config = Config(prices={"claude-opus-5-5": PriceConfig(**{field: value})})
    with pytest.raises(ConfigError) as caught:
        price_table(config)
    for words in ('prices."claude-opus-5-5"', field, repr(value), why):
        assert words in str(caught.value)
