"""The direction of dependencies, read from the imports themselves: what the design says, no module may undo.

The source is parsed, never imported, so that a forbidden import is found even where it would never run.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cache", "classifier", "router")
GENERATED = "router.v1"

GRPC_EDGE = {
    "router.cli.costs",
    "router.cli.demo",
    "router.cli.explain",
    "router.cli.fault",
    "router.cli.health",
    "router.cli.top",
    "router.client.aio",
    "router.client.blocking",
    "router.client.content",
    "router.client.errors",
    "router.client.events",
    "router.client.requests",
    "router.convert_costs",
    "router.convert_request",
    "router.convert_response",
    "router.convert_workload",
    "router.cost_sheet",
    "router.demo",
    "router.feedback_service",
    "router.interceptors",
    "router.operator_service",
    "router.registration",
    "router.server",
    "router.service",
    "router.session_service",
    "router.status",
    "router.tables",
}
"""All that may know gRPC, protobuf or generated messages: the server's edge, the client, and the verbs, clients too."""

TASK_OWNERS = {"router.cli.feedback", "router.demo", "router.hedge", "router.probe.run", "router.tasks"}
"""Modules with a TaskGroup of their own; everyone else awaits, or hands work to `router.tasks`."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import: who, of what, and whether it runs when the module is loaded."""

    module: str
    target: str
    at_load: bool


@cache
def sources() -> dict[str, Path]:
    """Every module of ours but the generated ones, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name != GENERATED and not name.startswith(f"{GENERATED}."):
                found[name] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


@cache
def imports() -> tuple[Import, ...]:
    """Every import of every module of ours."""
    return tuple(each for module in sources() for each in _imports_of(module))


def _imports_of(module: str) -> Iterator[Import]:
    def visit(node: ast.AST, at_load: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, at_load)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; names are spelled out here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                known = whole in sources() or whole.startswith(f"{GENERATED}.") or _is_google(whole)
                yield Import(module, whole if known else str(node.module), at_load)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        runs_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_load and not typing_only and not runs_later)

    return visit(tree(module), True)


def _is_google(name: str) -> bool:
    return name.startswith("google.") and name.count(".") == 1


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of the packages or below one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def importers(*packages: str) -> set[str]:
    """Modules of ours that import something of the packages, anywhere in their source."""
    return {each.module for each in imports() if within(each.target, *packages)}


def test_the_tree_is_read() -> None:
    """The rules below look at something: all three packages, with imports of each kind."""
    assert len(sources()) > 100
    assert {name.split(".")[0] for name in sources()} == set(PACKAGES)
    assert {each.at_load for each in imports()} == {True, False}
    assert importers("grpc") & GRPC_EDGE


@pytest.mark.parametrize(
    ("package", "others"), [("cache", ("classifier", "router")), ("classifier", ("cache", "router"))]
)
def test_cache_and_classifier_stand_alone(package: str, others: tuple[str, ...]) -> None:
    """`router` imports both; neither imports `router` or the other."""
    assert not {module for module in importers(*others) if within(module, package)}


def test_cache_needs_only_the_standard_library() -> None:
    """What a prefix is worth is arithmetic: no third party is needed, so none can change it."""
    allowed = {*sys.stdlib_module_names, "cache"}
    foreign = {
        (each.module, each.target)
        for each in imports()
        if within(each.module, "cache") and each.target.split(".")[0] not in allowed
    }
    assert foreign == set()


@pytest.mark.parametrize("package", ["cache", "classifier"])
def test_the_core_knows_no_wire_and_no_telemetry(package: str) -> None:
    """No gRPC, no SDK, no OpenTelemetry below the router."""
    wire = importers("grpc", "google", "anthropic", "opentelemetry", "httpx2", "aiohttp", "asyncio")
    assert not {module for module in wire if within(module, package)}


def test_grpc_and_protobuf_stay_at_the_edge() -> None:
    """Generated messages and statuses are turned into our own values at once; the list is whole and not too long."""
    assert importers(
        "grpc", "grpc_status", "grpc_health", "grpc_reflection", "google.protobuf", "google.rpc", GENERATED
    ) == (GRPC_EDGE)


def test_each_sdk_is_known_to_its_adapter_alone() -> None:
    """A provider's wire is one adapter's business."""
    assert importers("anthropic") == {
        "router.upstreams.anthropic_errors",
        "router.upstreams.anthropic_transport",
    }
    assert importers("google.genai") == {
        "router.upstreams.gemini",
        "router.upstreams.gemini_errors",
        "router.upstreams.gemini_transport",
    }


def test_the_telemetry_sdk_stays_in_telemetry() -> None:
    """Others see the API's Span at most."""
    assert {
        name
        for name in importers("opentelemetry.sdk", "opentelemetry.exporter")
        if not within(name, "router.telemetry")
    } == set()
    assert {name for name in importers("opentelemetry") if not within(name, "router.telemetry")} <= {
        "router.interceptors",
        "router.settler",
    }


def test_only_config_reads_the_environment() -> None:
    """A setting nobody can find in `router.config` does not exist."""
    readers = {
        module
        for module in sources()
        for node in ast.walk(tree(module))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"})
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {"environ", "getenv"} & {a.name for a in node.names}
        )
    }
    assert readers == {"router.config"}


def test_the_sandbox_shares_no_code_with_what_it_judges() -> None:
    """It imports nothing of ours, and nobody loads it but those who were asked for it."""
    below = {each.target for each in imports() if within(each.module, "router.sandbox")}
    assert {
        target for target in below if within(target, *PACKAGES) and not within(target, "router.sandbox")
    } == set()
    users = [
        each
        for each in imports()
        if within(each.target, "router.sandbox") and not within(each.module, "router.sandbox")
    ]
    assert {each.module for each in users if not within(each.module, "router.cli")} == {"router.app"}
    assert [each for each in users if each.at_load] == []


def test_there_is_no_import_cycle() -> None:
    """Modules can be read, loaded and tested from the leaves up."""
    graph: dict[str, set[str]] = {module: set() for module in sources()}
    for each in imports():
        if each.at_load and each.target in graph and each.target != each.module:
            graph[each.module].add(each.target)
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        assert module not in path, f"cycle: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        path.append(module)
        for below in sorted(graph[module]):
            visit(below)
        path.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)
    assert done == set(graph)


def test_every_task_has_an_owner() -> None:
    """Tasks are started by listed owners only; gather, which leaves siblings running, by nobody."""
    starters, gatherers = set(), set()
    for module in sources():
        for node in ast.walk(tree(module)):
            name = (
                node.attr
                if isinstance(node, ast.Attribute)
                else node.id
                if isinstance(node, ast.Name)
                else ""
            )
            if name in {"create_task", "ensure_future"}:
                starters.add(module)
            elif name == "gather":
                gatherers.add(module)
    assert starters == TASK_OWNERS
    assert gatherers == set()


def test_nothing_prints_but_the_verbs() -> None:
    """Output belongs to whoever runs the command; the library logs."""
    printers = {
        module
        for module in sources()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"print", "breakpoint"}
    }
    assert printers
    assert not {module for module in printers if not within(module, "router.cli")}


def test_no_machine_is_named() -> None:
    """No absolute path of somebody's disk in code, tests or settings."""
    personal = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|mnt|srv)/\w")
    files = [
        path
        for folder in (*PACKAGES, "tests", "deploy", "protos")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".toml", ".md", ".yaml", ".yml", ".proto", ".json", ".jsonl"}
        and path != Path(__file__)
        and "node_modules" not in path.parts
    ]
    assert len(files) > 150
    found = [
        str(path.relative_to(ROOT)) for path in files if personal.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_every_module_says_its_rule() -> None:
    """A docstring opens every module."""
    assert [module for module in sources() if not ast.get_docstring(tree(module))] == []
