"""The shipped alert rules and dashboards, against the metrics of a running router.

A rule about a metric that does not exist is valid PromQL and never fires. So every selector of both files must find a
series in a real scrape, and every label they group, join or show by must be on what they select. This takes no
Prometheus; where promtool is at hand, the rules' own unit tests run, too.
"""

import asyncio
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, cycle
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
import typer.main
from prometheus_client.samples import Sample

from router.cli import app as cli
from router.config import (
    ApplicationConfig,
    CacheConfig,
    CascadeConfig,
    Config,
    OpusConfig,
    TelemetryConfig,
    WarmingConfig,
)
from router.sandbox import Fault
from router.v1 import accounting_pb2, operator_service_pb2, session_service_pb2
from router.v1.session_service_pb2_grpc import SessionServiceStub
from tests.block_yaml import read_yaml
from tests.e2e.builders import APPLICATION, DESK, FLASH, OPUS, config, context_of, generate, prose, user
from tests.e2e.service import TIMEOUT_S, Service, serving
from tests.e2e.test_metrics import free_port, scraped

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
ALERTS_TEST = DEPLOY / "prometheus" / "alerts_test.yaml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))

SCRAPER_LABELS = {"job": "router", "instance": "a"}
"""What Prometheus adds to every series it scrapes."""

SCHEMA_VERSION = 42
"""Of Grafana 12, the last of its classic dashboards; 13 reads it, too."""

SHORT = "short"
"""An application under the model's minimum, which the filler lengthens."""
OPUS_QUESTIONS = 24


def settings(port: int) -> Config:
    """Buckets, an application to pad, and the model with the highest minimum."""
    return config(
        opus=OpusConfig(model="claude-opus-4-5-20251101"),
        cache=CacheConfig(
            filler="\n\n".join(prose(f"Worked example {number},", 6) for number in range(1, 40))
        ),
        applications={
            APPLICATION: ApplicationConfig(system=(*DESK.system, prose("Case", 80)), tools=DESK.tools),
            SHORT: ApplicationConfig(system=(prose("Rule", 86),), tools=DESK.tools),
        },
        telemetry=TelemetryConfig(prometheus_port=port, bucket_label="team", buckets=("search", "reports")),
        cascade=CascadeConfig(enabled=True, needed_s=1.0),
        warming=WarmingConfig(policy="session_start", usd_per_hour=1000.0, hold_out=0.4),
    )


async def worked(service: Service) -> None:
    """Both routes, unary and streamed: cache hits, misses after a lapse and a loss, padding, a request
    that fails after its retry, a caller that leaves; warms of each kind, a wait for another's write, an escalation."""
    for number in range(OPUS_QUESTIONS):
        service.clock.advance(40)
        request = generate(
            user(f"Question {number}: which tickets of account {number} are overdue?"),
            route=OPUS,
            application=SHORT,
            max_output_tokens=64,
        )
        await service.generate(request)
        if number % 6 == 5:
            service.sandbox.reset()
        request = generate(
            user(f"Case {number}: which tickets are overdue?"),
            route=OPUS,
            strategy=accounting_pb2.CACHE_STRATEGY_B,
            context=(context_of(("ann", "bob")[number % 2]),),
            labels={"team": ("search", "reports", "")[number % 3]},
        )
        await service.stream(request)
        await service.generate(generate(user(f"Thanks, {number}."), labels={"team": "search"}))
    await service.stream(generate(user("And Flash?"), route=FLASH))
    service.sandbox.inject(Fault(kind="overloaded", times=2))
    with pytest.raises(grpc.aio.AioRpcError):
        await service.generate(generate(user("And once more?"), route=FLASH, no_fallback=True))
    service.sandbox.inject(Fault(kind="stall"))
    left = service.router.Generate(generate(user("Sum up."), route=OPUS), timeout=TIMEOUT_S)
    await service.clock.held()
    left.cancel()
    await service.settled(3 * OPUS_QUESTIONS + 4)
    await warmed(service)
    await service.generate(
        generate(
            user("How many? [[sandbox upstream=gemini stop=SAFETY]]"), session="failing", no_fallback=True
        )
    )
    service.sandbox.inject(Fault(kind="stall", stall_s=1.0))
    asking = [
        asyncio.ensure_future(
            service.generate(
                generate(
                    user(f"And of account {number}?"),
                    route=OPUS,
                    strategy=accounting_pb2.CACHE_STRATEGY_B,
                    context=(context_of("eve"),),
                )
            )
        )
        for number in range(2)
    ]
    await service.clock.held()
    async with asyncio.timeout(TIMEOUT_S):
        while not all(each.done() for each in asking):
            await service.clock.travel(0.1)
            await asyncio.sleep(0.01)


SESSIONS = ("one", "two", "three", "four", "five", "left", "short")


async def warmed(service: Service) -> None:
    """Sessions opened: some that are used, one that nobody comes for, some held out, one that cannot be warmed."""
    sessions = SessionServiceStub(service.channel)
    thinking = generate(user("And why?"), route=OPUS, application=SHORT)
    thinking.prompt.include_thinking = True
    await service.generate(thinking)
    for name in SESSIONS:
        await sessions.OpenSession(
            session_service_pb2.OpenSessionRequest(
                session=name,
                application=SHORT if name == "short" else APPLICATION,
                tenant="acme",
                user_context=[prose(f"Known of {name}", 300)],
            ),
            timeout=TIMEOUT_S,
        )
        while service.app.ledger.stats().intents != service.app.ledger.stats().settlements:  # noqa: ASYNC110
            await asyncio.sleep(0)
        if name != "left":
            await service.generate(
                generate(user("Which tickets are overdue?"), route=OPUS, session=name, application="")
            )
    service.clock.advance(400)
    for name in SESSIONS:
        # So that all of this can be done again.
        closing = session_service_pb2.CloseSessionRequest(session=name, tenant="acme")
        await sessions.CloseSession(closing, timeout=TIMEOUT_S)
    await service.operator.GetCosts(operator_service_pb2.GetCostsRequest(), timeout=TIMEOUT_S)


async def observed() -> list[Sample]:
    """One scrape after that work."""
    port = free_port()
    # What is drawn for anything but a warm stays 0 often enough for the rest to go on as ever.
    draws = cycle((0.0, 0.9, 0.0, 0.0, 0.9))
    async with serving(settings(port), draw=lambda: next(draws)) as service:
        await worked(service)
        return await scraped(port)


@pytest.fixture(scope="module")
def samples(rules: list[dict]) -> list[Sample]:
    """What Prometheus holds of a router that did all of this: its series as scraped, and the recorded ones."""
    scrape = [
        sample._replace(labels=SCRAPER_LABELS | sample.labels)
        for sample in asyncio.run(observed())
        # A series that starts at 0 proves that a selector could match, not that anything is ever counted there.
        if sample.value or not sample.name.endswith("_total")
    ]
    return scrape + [
        Sample(rule["record"], dict.fromkeys(parsed(rule["expr"]).kept, "any"), 1.0)
        for rule in rules
        if "record" in rule
    ]


@pytest.fixture(scope="module")
def rules() -> list[dict]:
    """Recording and alert rules, in order."""
    return [rule for group in read_yaml(ALERTS.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict:
    """One dashboard's JSON."""
    return json.loads(request.param.read_text())


# --- as much of PromQL as tells what an expression is about


class Selector(NamedTuple):
    """A metric and what its labels must be."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    position: int

    def selects(self, sample: Sample) -> bool:
        """Whether a series is among those selected; an absent label is an empty one, as in Prometheus."""
        return sample.name == self.name and all(
            {
                "=": lambda value, wanted: value == wanted,
                "!=": lambda value, wanted: value != wanted,
                "=~": lambda value, wanted: re.fullmatch(wanted, value) is not None,
                "!~": lambda value, wanted: re.fullmatch(wanted, value) is None,
            }[operator](sample.labels.get(label, ""), wanted)
            for label, operator, wanted in self.matchers
        )


class Grouping(NamedTuple):
    """Labels of a `by`, `on` or `ignoring`, and the tokens it is about."""

    word: str
    labels: tuple[str, ...]
    start: int
    end: int


class Expression(NamedTuple):
    """What an expression selects and groups by."""

    selectors: tuple[Selector, ...]
    groupings: tuple[Grouping, ...]

    @property
    def kept(self) -> set[str]:
        """Labels that aggregations keep."""
        return {label for grouping in self.groupings if grouping.word == "by" for label in grouping.labels}


_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[[^\]]+\])|(?P<word>[a-zA-Z_:][\w:]*)|(?P<number>[\d.]+[a-z]*)"""
    r"""|(?P<sign>=~|!~|!=|>=|<=|==|[-+*/<>=(){},])|(?P<space>\s+)|(?P<bad>.)"""
)
_GROUPING = {"by", "on", "ignoring", "group_left"}
_OPERATORS = {"and", "or", "unless", "offset"}


def parsed(expr: str) -> Expression:
    """Find the selectors and groupings of an expression, Grafana's variables given a value."""
    for variable, value in (("$__rate_interval", "5m"), ("$__range", "1d"), ("$job", ".+")):
        expr = expr.replace(variable, value)
    tokens = [match for match in _TOKEN.finditer(expr) if match.lastgroup != "space"]
    assert not [match.group() for match in tokens if match.lastgroup == "bad"], expr
    texts = [match.group() for match in tokens] + [""]
    selectors, groupings, position = [], [], 0
    while position < len(tokens):
        word, after = texts[position], texts[position + 1]
        if tokens[position].lastgroup != "word" or word in _OPERATORS:
            position += 1
        elif word in _GROUPING:
            end = texts.index(")", position)
            labels = tuple(text for text in texts[position + 2 : end] if text != ",")
            scope = (end + 1, _closing(texts, end + 1)) if word == "by" else (0, len(tokens))
            groupings.append(Grouping(word, labels, *scope))
            position = end + 1
        elif after == "(" or after in _GROUPING:
            position += 1
        else:
            end = texts.index("}", position) if after == "{" else position
            inside = [text for text in texts[position + 2 : end] if text != ","]
            matchers = zip(inside[::3], inside[1::3], map(json.loads, inside[2::3]), strict=True)
            selectors.append(Selector(word, tuple(matchers), position))
            position = end + 1
    return Expression(tuple(selectors), tuple(groupings))


def _closing(texts: Sequence[str], opening: int) -> int:
    """Where the parenthesis at `opening` closes."""
    assert texts[opening] == "(", "labels stand before what is aggregated"
    depth = 0
    for position in range(opening, len(texts)):
        depth += {"(": 1, ")": -1}.get(texts[position], 0)
        if not depth:
            return position
    raise AssertionError("a parenthesis is open")


def faults(expr: str, samples: Iterable[Sample]) -> list[str]:
    """What of an expression no series answers to."""
    expression = parsed(expr)
    found = []
    selected: dict[Selector, list[Sample]] = {}
    for selector in expression.selectors:
        selected[selector] = [sample for sample in samples if selector.selects(sample)]
        if not selected[selector]:
            found.append(f"nothing is {selector.name}{list(selector.matchers)}")
        named = {label for sample in samples if sample.name == selector.name for label in sample.labels}
        found += [
            f"{selector.name} has no {label}" for label, _, _ in selector.matchers if label not in named
        ]
    for word, labels, start, end in expression.groupings:
        within = [selector for selector in expression.selectors if start <= selector.position < end]
        for label in labels:
            lacking = [
                selector.name
                for selector in within
                if not any(label in sample.labels for sample in selected[selector])
            ]
            if lacking and (word == "by" or len(lacking) == len(within)):
                found.append(f"{word} {label}: not on {lacking}")
    return found


GOOD = 'sum by (hybrid_router_route) (rate(hybrid_router_cost_total{hybrid_router_part="cache_read"}[5m]))'


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("hybrid_router_cost_total", "hybrid_router_costs_total", "nothing is hybrid_router_costs_total"),
        ('"cache_read"', '"cached"', "nothing is hybrid_router_cost_total"),
        ('hybrid_router_part="cache_read"', 'part!="x"', "has no part"),
        ("by (hybrid_router_route)", "by (hybrid_router_rout)", "by hybrid_router_rout: not on"),
        ("by (hybrid_router_route)", "by (job, le)", "by le: not on"),
    ],
)
def test_the_check_sees_what_promtool_does_not(samples, old: str, new: str, fault: str) -> None:
    """A misspelt metric, value or label is valid PromQL; here it is a fault."""
    assert not faults(GOOD, samples)
    broken = GOOD.replace(old, new)
    assert broken != GOOD
    assert fault in " ".join(faults(broken, samples))


# --- alert rules


def test_every_rule_finds_its_series(rules, samples) -> None:
    """Every selector of every rule selects something of a running router, and every label it names is there."""
    assert len(rules) >= 10
    found = {rule.get("alert", rule.get("record")): faults(rule["expr"], samples) for rule in rules}
    assert {key: each for key, each in found.items() if each} == {}


def test_the_rules_own_tests_use_series_that_exist(samples) -> None:
    """Metric and label names of `alerts_test.yaml` are a router's; its values are the test's."""
    series = re.findall(r"series: '([^']+)'", ALERTS_TEST.read_text())
    assert len(series) > 30
    for each in series:
        (selector,) = parsed(each).selectors
        named = [set(sample.labels) for sample in samples if sample.name == selector.name]
        assert any({label for label, _, _ in selector.matchers} <= labels for labels in named), each


_ROW = re.compile(r"#   (\w+)  +(.*\S)  +(-|\d+[hdm])  +(-|.*\S)  +(\d+[hm])$")
_LIMIT = re.compile(r"(>=|<|>) ([\d.]+)$")


def thresholds() -> dict[str, tuple[str, str, str, str]]:
    """The table at the top of the rules: alert to (limit, window, minimum, for)."""
    rows = [match.groups() for line in ALERTS.read_text().splitlines() if (match := _ROW.match(line))]
    return {
        name: (_limit(when), window.strip("-"), _limit(only), held) for name, when, window, only, held in rows
    }


def _limit(text: str) -> str:
    found = _LIMIT.search(text)
    return found.group() if found else ""


def test_thresholds_are_those_of_the_table(rules) -> None:
    """Limit, window, minimum and `for` of every alert, and the number in its text, are what the table says."""
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    recorded = {rule["record"]: rule["expr"] for rule in rules if "record" in rule}
    table = thresholds()
    assert set(table) == set(alerts)
    for name, (limit, window, minimum, held) in table.items():
        rule = alerts[name]
        whole = rule["expr"] + "".join(
            recorded.get(selector.name, "") for selector in parsed(rule["expr"]).selectors
        )
        assert rule["for"] == held, name
        # A count of series is no threshold.
        limits = set(
            re.findall(r"(?:>=|<|>) [\d.]+", rule["expr"].replace("cache_hit_ratio:rate1h) > 1", ""))
        )
        assert limits == {limit, minimum} - {""}, name
        assert not window or set(re.findall(r"\[(\w+)\]", whole)) == {window}, name
        number = float(limit.split()[1]) if limit else 0.0
        text = rule["annotations"]["description"]
        assert not number or f"{number:g}" in text or f"{100 * number:g} %" in text, name


def test_alerts_say_what_to_run(rules) -> None:
    """Texts use labels the alert has, and name verbs and options the command has."""
    group = typer.main.get_command(cli)
    kept = {rule["record"]: parsed(rule["expr"]).kept for rule in rules if "record" in rule}
    for rule in rules:
        if "alert" not in rule:
            continue
        texts = "\n".join(rule["annotations"].values())
        expression = parsed(rule["expr"])
        has = expression.kept.union(*(kept.get(selector.name, ()) for selector in expression.selectors))
        assert set(re.findall(r"\$labels\.(\w+)", texts)) <= has, rule["alert"]
        commands = re.findall(r"`hybrid-router ([^`]+)`", texts)
        assert commands, rule["alert"]
        for command in commands:
            words = command.split()
            verb = group.commands[words[0]]
            if hasattr(verb, "commands"):
                verb = verb.commands[words[1]]
            options = {option for parameter in verb.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, command


@pytest.mark.parametrize(
    "arguments", [("check", "rules", "--lint=all", ALERTS), ("test", "rules", ALERTS_TEST)]
)
def test_promtool_passes_the_rules(arguments: Sequence[object]) -> None:
    """Prometheus's own checker takes the rules, and each alert fires and holds still as its tests say."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH (comes with Prometheus): rules checked against a scrape only")
    ran = subprocess.run(
        [promtool, *map(str, arguments)], capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "SUCCESS" in ran.stdout


# --- dashboards


def panels_of(dashboard: Mapping) -> Iterator[dict]:
    """Panels that show something."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def test_there_is_a_dashboard_for_each_question() -> None:
    """Cost per route, cache, classifier and reliability; each found by its file's name, and all of one kind."""
    found = {path.stem: json.loads(path.read_text()) for path in DASHBOARDS}
    assert set(found) == {
        "hybrid-router",
        "hybrid-router-cache",
        "hybrid-router-classifier",
        "hybrid-router-reliability",
    }
    for name, dashboard in found.items():
        assert dashboard["uid"] == name
        assert dashboard["id"] is None
        assert dashboard["schemaVersion"] == SCHEMA_VERSION
        assert "hybrid-router" in dashboard["tags"]
        (link,) = dashboard["links"]
        assert (link["type"], link["tags"]) == ("dashboards", ["hybrid-router"])
    assert len({dashboard["title"] for dashboard in found.values()}) == len(found)


def test_every_panel_finds_its_series(dashboard, samples) -> None:
    """Every expression of every panel selects something of a running router, of the service chosen."""
    found = {
        (panel["title"], target["refId"]): faults(target["expr"], samples)
        for panel in panels_of(dashboard)
        for target in panel["targets"]
    }
    assert len(found) >= 12
    assert {key: each for key, each in found.items() if each} == {}
    for panel in panels_of(dashboard):
        for target in panel["targets"]:
            for selector in parsed(target["expr"]).selectors:
                assert ("job", "=~", ".+") in selector.matchers, (panel["title"], target["refId"])


def test_every_panel_is_defined(dashboard) -> None:
    """Each has queries, a unit, a text, the chosen data source and a place of its own; what it shows is queried."""
    source, job = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (job["name"], job["query"]["query"]) == ("job", "label_values(hybrid_router_in_flight, job)")
    assert max(Counter(panel["id"] for panel in dashboard["panels"]).values()) == 1
    for panel in panels_of(dashboard):
        title, targets = panel["title"], panel["targets"]
        assert panel["description"], title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert targets, title
        assert len({target["refId"] for target in targets}) == len(targets), title
        assert {target["datasource"]["uid"] for target in [panel, *targets]} == {"${datasource}"}, title
        for target in targets:
            shown = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            assert shown <= parsed(target["expr"]).kept, title
        if panel["type"] == "table":
            kept = set.union(*(parsed(target["expr"]).kept for target in targets))
            (renamed,) = [
                each["options"]["renameByName"]
                for each in panel["transformations"]
                if each["id"] == "organize"
            ]
            assert set(renamed) == kept | {f"Value #{target['refId']}" for target in targets}, title
            shown = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
            assert shown <= set(renamed.values()), title


def test_panels_do_not_overlap(dashboard) -> None:
    """Every panel stands within the 24 columns, and none on another."""
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


def test_threshold_lines_are_the_alerts() -> None:
    """The lines drawn stand where the alerts fire; hit rate's at 60 %, by tokens and by calls."""
    drawn = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        for path in DASHBOARDS
        for panel in panels_of(json.loads(path.read_text()))
        if panel["type"] == "timeseries"
        and panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] != "off"
    }
    limit = {name: float(row[0].split()[1]) for name, row in thresholds().items() if row[0]}
    assert limit["CacheHitRateLow"] == limit["CacheHitRateLowInBucket"] == 0.6
    assert drawn == {
        "Hit rate on Opus by tokens": limit["CacheHitRateLow"],
        "Hit rate on Opus by calls": limit["CacheHitRateLow"],
        "Lost to misses, share of the Opus input cost": limit["CacheMissesDear"],
        "Gap of chance given and held share": limit["BeliefDrifts"],
        "Ledger lag": limit["LedgerLags"],
    }
