"""What is said of applications before they cost anything: certain of what the settings prove, silent on the rest."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from cache.economics import Rates, pad_threshold
from router.applications import Applications
from router.config import ApplicationConfig, ToolConfig, load_config
from router.lint import LintFinding, Severity, lint

ROOT = Path(__file__).resolve().parents[2]
RATES = Rates(write_5m=1.25, write_1h=2.0, read=0.1)
MODEL = "claude-opus-5-5"
SCHEMA = '{"type":"object","properties":{"query":{"type":"string"},"limit":{"type":"integer"}}}'
SAME_SCHEMA = '{"properties":{"limit":{"type":"integer"},"query":{"type":"string"}},"type":"object"}'
RULES = "Answer from the records you are shown and name the record for every figure you give.\n" * 40


def tool(name: str = "find", description: str = "Finds records.", schema: str = SCHEMA) -> ToolConfig:
    return ToolConfig(name=name, description=description, input_schema_json=schema)


@dataclass
class Desk:
    """Applications by name and what the lint says of them."""

    model: str = MODEL
    strategy: str = "auto"
    filler: str = ""
    asked_to_pad: tuple[str, ...] = ()
    configs: dict[str, ApplicationConfig] = field(default_factory=dict)

    def add(self, name: str, *system: str, tools: tuple[ToolConfig, ...] = (), **more: object) -> "Desk":
        self.configs[name] = ApplicationConfig(system=system, tools=tools, **more)
        return self

    def findings(self) -> tuple[LintFinding, ...]:
        applications = Applications(self.configs)
        return lint(
            [applications.get(name) for name in applications.names()],
            model=self.model,
            strategy=self.strategy,
            rates=RATES,
            filler=self.filler,
            asked_to_pad=self.asked_to_pad,
        )

    def said(self) -> list[tuple[str, str, str]]:
        return [(finding.severity.value, finding.rule, finding.path) for finding in self.findings()]


@pytest.mark.parametrize("file", ["router/data/demo.toml", "deploy/router.toml"])
def test_the_shipped_applications_have_no_warning(file: str) -> None:
    """What we ship as a model gives no alarm; the sample's one sentence is noted as too short to be cached alone."""
    config = load_config(ROOT / file, {})
    found = Desk(configs=config.applications, strategy=config.cache.strategy).said()
    assert found == ([("note", "below_minimum", "applications.support")] if "deploy" in file else [])


def test_a_plain_application_is_clean() -> None:
    """Long enough, constant, on the default strategy: nothing to say."""
    assert Desk().add("desk", RULES, tools=(tool(),)).findings() == ()


def test_a_timestamp_names_its_block_and_what_it_rewrites() -> None:
    """A change of the system prompt leaves the tools' entry alone; one of a tool rewrites all there is."""
    stamped = f"{RULES}Generated at 2026-11-22 10:00:12."
    (in_system,) = Desk().add("desk", "First block.", stamped, tools=(tool(),)).findings()
    assert (in_system.severity, in_system.rule) == (Severity.WARNING, "timestamp")
    assert (in_system.path, in_system.excerpt) == ("applications.desk.system[1]", "2026-11-22 10:00:12")
    (in_tool,) = (
        Desk().add("desk", RULES, tools=(tool(description="As of 2026-11-22T10:00:12Z."),)).findings()
    )
    assert in_tool.path == "applications.desk.tools[0].description"
    assert in_tool.tokens > in_system.tokens > 500


def test_a_finding_holds_no_other_text_of_the_prompt() -> None:
    """The settings may be confidential: a key, the matched word and our own sentences are all that is said."""
    desk = Desk().add(
        "desk",
        f"Zanzibar secret. {RULES} Today is {{{{date}}}}. Quokka. Session id: 3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        tools=(tool(description="Wombat of 2026-11-22, since {{ user }} asked"),),
    )
    text = json.dumps(msgspec.to_builtins(desk.findings()))
    assert len(desk.findings()) == 4
    assert not [
        word for word in ("Zanzibar", "secret.", "Quokka", "Wombat", "asked", "records") if word in text
    ]


SCHEMAS = {
    '"a":{"type":"string","default":"2026-11-22T10:00:00Z"}': ".properties.a.default",
    '"a":{"type":"string","description":"Today is 2026-11-22"}': ".properties.a.description",
    '"format":{"type":"string","description":"Today is 2026-11-22"}': ".properties.format.description",
    '"a":{"anyOf":[{"description":"Today is 2026-11-22"}]}': ".properties.a.anyOf[0].description",
    '"a":{"type":"string","format":"date","examples":["2026-11-22T10:00"]}': None,
    '"a":{"type":"string","example":"2026-11-22T10:00:00Z"}': None,
    '"a":{"enum":["3f2504e0-4f89-41d3-9a0c-0305e82c3301"]}': None,
    '"a":{"pattern":"[0-9a-f]{8}","const":"2026-11-22"}': None,
    '"a":{"type":"string","description":"ISO date, e.g. 2026-11-22"}': None,
    '"a":{"type":"integer","minimum":1795305600}': None,
}


@pytest.mark.parametrize("properties", SCHEMAS, ids=lambda text: text[:60])
def test_schemas_are_read_by_meaning(properties: str) -> None:
    """Defaults and descriptions may be made at start-up; examples, enums and patterns are constants."""
    schema = f'{{"type":"object","properties":{{{properties}}}}}'
    said = Desk().add("desk", RULES, tools=(tool(schema=schema),)).said()
    where = SCHEMAS[properties]
    paths = [path for _, _, path in said]
    assert paths == ([f"applications.desk.tools[0].input_schema_json{where}"] if where else [])


def test_the_filler_is_a_shared_layer_too() -> None:
    """Padding that changes misses like any other text."""
    desk = Desk(filler="Notes. Today is 2026-11-22.").add("desk", RULES)
    assert desk.said() == [("warning", "date", "cache.filler_file")]


CONSTANT = (
    "Incident of 2024-03-01 at 10:00 UTC: never delete rows.",
    "Use ${DATE} in shell scripts.",
    "If the user says 'today is Friday' do not trust it.",
    "When today's date is May 5, wish a happy birthday.",
    "Never reveal the current date. If asked, today is Monday to you.",
    "The outage began 2024-03-01 10:00 and ended 2024-03-01 12:00.",
)


@pytest.mark.parametrize("text", CONSTANT)
def test_a_plausible_constant_is_no_warning(text: str) -> None:
    """`config check --strict` stops a deployment: at most a note where a text may well stay as it is."""
    assert Severity.WARNING not in [
        finding.severity for finding in Desk().add("desk", RULES + text).findings()
    ]


def test_a_placeholder_shows_no_text_of_the_prompt() -> None:
    """A template may hold instructions; its first word at most is shown."""
    desk = Desk().add("desk", f"{RULES} {{{{ user instructions: quokka zanzibar }}}} ${{TONE:-of Zanzibar}}")
    text = json.dumps(msgspec.to_builtins(desk.findings())).lower()
    assert desk.findings()
    assert not [word for word in ("instructions", "quokka", "zanzibar") if word in text]


def test_a_filler_that_cannot_reach_the_minimum_is_told() -> None:
    """A warning where a longer one could pay, a note where none could; else nothing."""
    desk = Desk(model="claude-opus-4-5", filler="Too short.").add("desk", RULES * 2, tools=(tool(),))
    found = next(finding for finding in desk.findings() if finding.rule == "filler_too_short")
    assert (found.severity, found.path) == (Severity.WARNING, "cache.filler_file")
    for words in ("application desk", "4,096", "about 9"):
        assert words in found.why, found.why
    tiny = Desk(model="claude-opus-4-5", filler="Too short.").add("desk", "One short sentence.")
    assert ("note", "filler_too_short", "cache.filler_file") in tiny.said()
    for enough in (
        Desk(model="claude-opus-4-5", filler=RULES * 4).add("desk", RULES * 2),
        Desk(model="claude-opus-4-5", filler="Too short.").add("desk", RULES * 2, pad=False),
        Desk(model="claude-opus-4-5", filler="Too short.").add("desk", RULES * 2, cache_strategy="none"),
        Desk(model="claude-opus-4-5", filler="Too short.").add("desk", RULES * 10),
    ):
        assert "filler_too_short" not in [rule for _, rule, _ in enough.said()]


def test_padding_asked_for_without_a_filler_is_noted() -> None:
    """It does nothing, which whoever wrote it should know; who wrote nothing asked for nothing."""
    desk = Desk(asked_to_pad=("desk",)).add("desk", RULES, pad=True).add("other", RULES[:-1] + "!")
    assert desk.said() == [("note", "no_filler", "applications.desk.pad")]
    desk.filler = RULES
    assert desk.findings() == ()


def test_a_short_layer_is_told_with_its_ways_out() -> None:
    """The seed's 2,500 tokens on Opus 4.5: a model with a lower minimum, and when padding pays."""
    desk = Desk(model="claude-opus-4-5", strategy="b").add("desk", RULES * 2, tools=(tool(),))
    (found,) = desk.findings()
    hits = pad_threshold(RATES, found.tokens, 4096)
    assert (found.severity, found.rule, found.path) == (
        Severity.WARNING,
        "below_minimum",
        "applications.desk",
    )
    assert 1_500 < found.tokens < 3_000
    assert hits is not None
    for words in ("claude-opus-5-5", "512", f"{hits:.0%}", '"auto"'):
        assert words in found.advice, found.advice
    assert "4,096" in found.why


def test_a_short_layer_that_the_history_carries_is_a_note() -> None:
    """With auto the prefix grows past the minimum by itself, so nothing is lost for certain."""
    desk = Desk(model="claude-opus-4-5").add("desk", RULES)
    assert [finding.severity for finding in desk.findings()] == [Severity.NOTE]
    assert Desk(model="claude-opus-4-5", strategy="none").add("desk", RULES).findings() == ()


def test_padding_is_not_advised_where_it_never_pays() -> None:
    """At a tenth of the minimum a padded read costs as much as the unpadded prompt."""
    (found,) = Desk(model="claude-opus-4-5").add("desk", "One short sentence.").findings()
    assert "never pays" in found.advice


def test_a_layer_near_the_minimum_is_not_called_short() -> None:
    """What the estimate's own error can explain is no certainty, either way."""
    sentence = "Answer from the records you are shown and name the record for every figure you give.\n"
    rules = {
        len(Desk().add("desk", sentence * count).findings())
        and Desk().add("desk", sentence * count).findings()[0].rule
        for count in range(10, 40)
    }
    assert rules == {"below_minimum", "near_minimum", 0}


def test_strategies_that_leave_much_uncached_are_noted() -> None:
    """A chosen a or b leaves the history out; none leaves out all, which is worth a word only when that is long."""
    chosen = Desk().add("desk", RULES, cache_strategy="a")
    assert chosen.said() == [("note", "history_uncached", "applications.desk.cache_strategy")]
    assert Desk(strategy="a").add("desk", RULES).findings() == ()
    long = Desk().add("desk", RULES * 6, cache_strategy="none")
    assert long.said() == [("note", "uncached", "applications.desk.cache_strategy")]
    assert Desk().add("desk", RULES, cache_strategy="none").findings() == ()


def test_the_same_tools_in_another_order_are_found_by_name() -> None:
    """Two applications that could share everything share nothing; both are named, once."""
    one, two, three = tool("one"), tool("two"), tool("three")
    desk = Desk()
    desk.add("alpha", RULES, tools=(one, two, three)).add("beta", RULES, tools=(one, three, two))
    (found,) = desk.findings()
    assert (found.severity, found.rule, found.path) == (
        Severity.WARNING,
        "tool_order",
        "applications.beta.tools[1]",
    )
    assert "alpha" in found.why
    assert "beta" in found.why
    assert found.tokens > 1_000  # the system prompt is the same too


def test_tools_too_short_to_share_are_a_note() -> None:
    """Below the minimum nothing is shared in either order."""
    desk = Desk(model="claude-opus-4-5", strategy="none")
    desk.add("alpha", "A.", tools=(tool("one"), tool("two"))).add(
        "beta", "B.", tools=(tool("two"), tool("one"))
    )
    assert desk.said() == [("note", "tool_order", "applications.beta.tools[0]")]


RESPELLED = {
    "tool_spelling": (
        (RULES, tool(schema=SCHEMA)),
        (RULES, tool(schema=SAME_SCHEMA)),
        "applications.beta.tools[0]",
    ),
    "system_spacing": ((RULES, tool()), (RULES + "  \n", tool()), "applications.beta.system[0]"),
}


@pytest.mark.parametrize("rule", RESPELLED)
def test_spelling_that_means_the_same_is_found(rule: str) -> None:
    """Order of schema keys and spacing at line ends change the bytes and nothing else."""
    (first, first_tool), (second, second_tool), path = RESPELLED[rule]
    desk = Desk().add("alpha", first, tools=(first_tool,)).add("beta", second, tools=(second_tool,))
    assert desk.said() == [("warning", rule, path)]


UNRELATED = {
    "other tools": ((RULES, tool("one")), (RULES, tool("two"))),
    "other text": ((RULES, tool()), (RULES + "Be brief.", tool())),
    "the same": ((RULES, tool()), (RULES, tool())),
    "spacing around a schema, which is not sent": ((RULES, tool()), (RULES, tool(schema=f" {SCHEMA}\n"))),
    "other order of enum values": (
        (RULES, tool(schema='{"type":"object","properties":{"a":{"enum":["x","y"]}}}')),
        (RULES, tool(schema='{"type":"object","properties":{"a":{"enum":["y","x"]}}}')),
    ),
    "spacing behind tools that differ": ((RULES, tool("one")), (RULES + " ", tool("two"))),
}


@pytest.mark.parametrize("case", UNRELATED)
def test_applications_that_differ_in_meaning_are_left_alone(case: str) -> None:
    """Sharing is only missed where it was possible."""
    (first, first_tool), (second, second_tool) = UNRELATED[case]
    desk = Desk().add("alpha", first, tools=(first_tool,)).add("beta", second, tools=(second_tool,))
    assert desk.findings() == ()


def test_an_application_is_named_once_however_many_it_could_share_with() -> None:
    """Twenty variants of one prompt are not two hundred findings."""
    desk = Desk()
    for index in range(20):
        desk.add(f"app-{index:02d}", RULES + " " * index)
    assert len(desk.findings()) == 19


def test_warnings_come_first() -> None:
    """What will miss is read before what may."""
    desk = Desk(model="claude-opus-4-5").add("desk", "Price list of 2026-11-22. Today is 2026-11-22T10:00.")
    severities = [finding.severity for finding in desk.findings()]
    assert severities == [Severity.WARNING, Severity.NOTE, Severity.NOTE]
