"""Registered applications: checked once, shared by reference, found by name."""

import pytest

from router.applications import NO_APPLICATION, Applications
from router.config import ApplicationConfig, ConfigError, ToolConfig
from router.errors import NotFound

TOOL = ToolConfig(name="find", input_schema_json='{"type":"object"}')


def test_requests_share_the_same_layers():
    """Every request of an application gets the very same objects: the bytes before everyone's prompt are one."""
    applications = Applications({"desk": ApplicationConfig(system=("Be brief.",), tools=(TOOL,))})
    first, second = applications.get("desk"), applications.get("desk")
    assert first is second
    assert first.tools[0].input_schema_json is TOOL.input_schema_json


def test_no_name_is_the_empty_application():
    """A request may bring everything itself."""
    assert Applications({}).get("") is NO_APPLICATION


def test_an_unknown_name_is_refused_with_those_there_are():
    """A typo is told apart from an empty registry."""
    with pytest.raises(NotFound, match="registered: board, desk"):
        Applications({"desk": ApplicationConfig(), "board": ApplicationConfig()}).get("dsk")
    with pytest.raises(NotFound, match="registered: none"):
        Applications({}).get("dsk")


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (ApplicationConfig(system=("ok", " \n")), r"applications\.desk\.system\[1\]"),
        (ApplicationConfig(tools=(TOOL, TOOL)), r"applications\.desk\.tools\[1\]\.name.*'find'"),
        (
            ApplicationConfig(tools=(ToolConfig(name="a", input_schema_json="{"),)),
            r"tools\[0\]\.input_schema_json.*JSON",
        ),
        (
            ApplicationConfig(tools=(ToolConfig(name="a", input_schema_json="[]"),)),
            r"tools\[0\]\.input_schema_json.*object",
        ),
        (
            ApplicationConfig(tools=(ToolConfig(name="a", input_schema_json="[" * 100_000),)),
            r"tools\[0\]\.input_schema_json",
        ),
    ],
)
def test_a_bad_application_is_refused_at_start(config, where):
    """What no provider would take is found before the first request, by its path."""
    with pytest.raises(ConfigError, match=where):
        Applications({"desk": config})
