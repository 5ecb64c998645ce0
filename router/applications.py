"""Registered applications: shared layers checked once at start, then the same objects in every request.

The rule: a request of an application carries its tools and system prompt by reference, so the bytes that open every
prompt are identical for everyone, and whatever is derived from them is computed once.
"""

from collections.abc import Mapping

import msgspec

from router.call import Tool
from router.config import ApplicationConfig, ConfigError
from router.errors import NotFound
from router.placement import PlacementSetting
from router.tool_schema import fault_of


class Application(msgspec.Struct, frozen=True, gc=False):
    """Layers and defaults of one application.

    Attributes:
        cache_strategy: Strategy name, "" for the service's.
        threshold: Score threshold, None for the service's.
        pad: Whether its shared layers may be lengthened until they can be cached.
        context_placement: Where the user context stands; "auto" decides by what is seen of it.
    """

    name: str
    system: tuple[str, ...]
    tools: tuple[Tool, ...]
    max_output_tokens: int
    cache_strategy: str
    threshold: float | None
    pad: bool = False
    context_placement: PlacementSetting = "auto"


NO_APPLICATION = Application("", (), (), 4096, "", None)
"""What a request without an application gets."""


class Applications:
    """The applications by name."""

    def __init__(self, configs: Mapping[str, ApplicationConfig]) -> None:
        """Check and keep them.

        Raises:
            ConfigError: An application cannot be used; names it and the key.
        """
        self._by_name = {name: _application(name, config) for name, config in configs.items()}

    def get(self, name: str) -> Application:
        """Return the application `name`; "" gives the empty one.

        Raises:
            NotFound: No such application.
        """
        if not name:
            return NO_APPLICATION
        found = self._by_name.get(name)
        if found is None:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise NotFound(
                "application", name, f"registered: {known}; settings [applications.NAME] register one"
            )
        return found

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._by_name))


def _application(name: str, config: ApplicationConfig) -> Application:
    where = f"applications.{name}"
    for index, text in enumerate(config.system):
        if not text.strip():
            raise ConfigError(f"{where}.system[{index}]: is empty; the providers refuse empty text")
    tools: list[Tool] = []
    for index, tool in enumerate(config.tools):
        if any(tool.name == other.name for other in tools):
            raise ConfigError(f"{where}.tools[{index}].name: {tool.name!r} is used twice")
        if fault := fault_of(tool.input_schema_json):
            raise ConfigError(f"{where}.tools[{index}].input_schema_json: {fault}")
        tools.append(Tool(tool.name, tool.description, tool.input_schema_json))
    return Application(
        name=name,
        system=config.system,
        tools=tuple(tools),
        max_output_tokens=config.max_output_tokens,
        cache_strategy=config.cache_strategy or "",
        threshold=config.threshold,
        pad=config.pad is not False,
        context_placement=config.context_placement,
    )
