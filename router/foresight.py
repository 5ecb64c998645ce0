"""Foresight in a running router: what is remembered of sessions, and what their next requests are foreseen from.

The rule: every answered request of a session, whatever its route, extends its history; the forecast is made from the
history alone, once per request, and handed to whoever asks (`router.warming`, a replay). Which model foresees is said
by `warming.foresight` and the registry's shelf; a new champion takes the old one's place in one step of the event loop,
and one that cannot be used changes nothing. Without a model nothing is foreseen and nothing else differs.

Memory is bounded; a restart forgets the histories, and sessions begin anew. It does not know clocks or prices.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path

from classifier.array_file import ArtifactError
from classifier.foresight.history import History, Turn, extended
from classifier.foresight.model import Forecast, Foresight
from classifier.foresight.shelf import shelf_of
from classifier.registry import HISTORY_NAME, RegistryError
from classifier.route import Route
from router.config import ConfigError
from router.settlement import Settlement

logger = logging.getLogger(__name__)

OFF = "off"
DEFAULT = "default"
SESSIONS = 50_000
"""Histories kept, some 600 bytes each; the longest unused go first."""


class Foreseer:
    """Histories of one process and the model that reads them. Not thread-safe; time comes with the turns."""

    def __init__(self, model: Foresight | None, *, max_sessions: int = SESSIONS) -> None:
        """Start with no session.

        Args:
            model: None to foresee nothing.
        """
        self.model = model
        self._max_sessions = max_sessions
        self._histories: OrderedDict[Hashable, History] = OrderedDict()

    def __len__(self) -> int:
        return len(self._histories)

    @property
    def digest(self) -> str:
        """Name of the model, "" for none."""
        return "" if self.model is None else self.model.digest

    def answered(self, whose: Hashable, turn: Turn, before: Hashable | None = None) -> Forecast | None:
        """Note a turn; give what is foreseen after it, None without a model.

        Args:
            whose: Names the session.
            before: Name it had until now, where that changes with every turn.
        """
        history = self.noted(whose, turn, before)
        return None if self.model is None else self.model.forecast(history)

    def noted(self, whose: Hashable, turn: Turn, before: Hashable | None = None) -> History:
        """Note a turn without foreseeing anything; as `answered`."""
        histories = self._histories
        history = extended(histories.pop(whose if before is None else before, None), turn)
        histories[whose] = history
        if len(histories) > self._max_sessions:
            histories.popitem(last=False)
        return history

    def opus_within(self, whose: Hashable, span_s: float, now_s: float) -> float | None:
        """Chance that a session that has been idle since its last turn asks Opus within `span_s`; None unknown."""
        history = self._histories.get(whose)
        if self.model is None or history is None:
            return None
        idle_s = max(0.0, now_s - history.last.time_s)
        return self.model.forecast(history).opus_within(span_s, idle_s)


def turn_of(settlement: Settlement, score: float | None) -> Turn:
    """An answered request as a turn of its session.

    Args:
        score: Chance given beforehand that Opus was needed, None when nothing scored.
    """
    intent, usage = settlement.intent, settlement.usage
    return Turn(
        time_s=intent.started_time_s,
        opus=intent.route == Route.OPUS.value,
        finish=settlement.finish_reason,
        score=score,
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        duration_s=settlement.duration_s,
        application=intent.application,
    )


class Foresights:
    """Where the model comes from: named, or the registry's champion; none ships (classifier/README.md says why).

    Raises:
        ConfigError: The one that was named, or the champion, cannot be used.
    """

    def __init__(self, name: str, *, registry: str = "") -> None:
        """Load it.

        Args:
            name: `OFF`, `DEFAULT` (the registry's champion, nothing without one) or the directory of an artifact.
            registry: Directory of the registry of classifiers, "" for none.
        """
        self._name = name
        self._shelf = shelf_of(registry) if registry and name == DEFAULT else None
        self._pointer = self._state()
        try:
            model = self._load()
        except (ArtifactError, RegistryError) as error:
            raise ConfigError(f"warming.foresight: {error}") from error
        self.foreseer = Foreseer(model)

    @property
    def changes(self) -> bool:
        """Whether another model may become champion while this process runs."""
        return self._shelf is not None

    async def follow(self) -> bool:
        """Take over what a command beside this process made champion; whether it changed. Never raises for a model."""
        try:
            pointer = await asyncio.to_thread(self._state)
            if pointer == self._pointer:
                return False
            self._pointer = pointer
            model = await asyncio.to_thread(self._load)
        except (ArtifactError, RegistryError, OSError) as error:
            logger.error("the champion of the foresights cannot be used and the old one goes on: %s", error)
            return False
        before, self.foreseer.model = self.foreseer.digest, model
        if before == self.foreseer.digest:
            return False
        logger.warning(
            "foresight %s foresees now, in place of %s", self.foreseer.digest or "none", before or "none"
        )
        return True

    def _load(self) -> Foresight | None:
        if self._name == OFF:
            return None
        if self._name != DEFAULT:
            return Foresight.load(Path(self._name))
        digest = "" if self._shelf is None else self._shelf.champion_digest()
        return Foresight(self._shelf.load(digest)) if self._shelf is not None and digest else None

    def _state(self) -> object:
        """What tells that the champion may have changed: the identity of the file that names it."""
        if self._shelf is None:
            return None
        try:
            found = (self._shelf.path / HISTORY_NAME).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
