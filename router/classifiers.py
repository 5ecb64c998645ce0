"""The classifier that scores now: loaded at start, swapped by one reference while requests are served.

The rule: a new artifact is loaded and proved whole, in a thread, before it takes the old one's place in one step of the
event loop; so a request sees one or the other, never a mixture, none waits and none fails, and a bad file changes
nothing. Changes are made one after the other. Where a registry is set, its champion serves, whoever named it: this
process (`promote`, `roll_back`) or a command beside it (`follow`, which looks at the pointer); while it names none, the
plain artifact does. The shadow scores beside and decides nothing.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from classifier.array_file import ArtifactError
from classifier.artifact import Artifact, load
from classifier.consent import consent
from classifier.encoder import Embedder, EncoderError, require
from classifier.model import DEFAULT_DIRECTORY, Model
from classifier.registry import HISTORY_NAME, Change, How, Registry, RegistryError
from router.config import ConfigError
from router.errors import Conflict, NotFound, PreconditionFailed

logger = logging.getLogger(__name__)

NO_REGISTRY = "no registry of classifiers is set: name its directory in classifier.registry and restart"


class Swap(NamedTuple):
    """A change of the classifier that scores.

    Attributes:
        model: The one that scores now.
        previous: The one before; the same when it was loaded again and had not changed.
        rolled_back: Whether an earlier one was returned to.
    """

    model: Model
    previous: Model
    rolled_back: bool = False


class Classifiers:
    """Holds the models and where they came from.

    Args:
        directory: The plain artifact, "" for the shipped one.
        registry: Directory of a registry, "" for none.
        shadow: Digest in the registry, or directory, of a model that scores beside; "" for none.
        embedder: The text encoder, for models fitted with one; they do not load without it.

    Raises:
        ConfigError: An artifact cannot be used.
    """

    def __init__(
        self, directory: str, *, registry: str = "", shadow: str = "", embedder: Embedder | None = None
    ) -> None:
        self.embedder = embedder
        self.directory = Path(directory) if directory else DEFAULT_DIRECTORY
        self.registry = Registry(registry) if registry else None
        self._shadow_name = shadow
        self._changing = asyncio.Lock()
        self._pointer: object = None
        self._tell: Callable[[Swap], None] = lambda swap: None
        try:
            self._pointer = self._pointer_state()
            self._model = self._load_champion()
        except (ArtifactError, RegistryError) as error:
            name = "classifier.registry" if self.registry is not None else "routing.classifier"
            raise ConfigError(f"{name}: {error}") from error
        try:
            self._shadow = self._load_shadow()
        except (ArtifactError, RegistryError) as error:
            raise ConfigError(f"classifier.shadow: {error}") from error

    def current(self) -> Model:
        """The model that scores now."""
        return self._model

    def shadow(self) -> Model | None:
        """The model that scores beside it; None without one, and while it is itself the one that decides."""
        shadow = self._shadow
        return None if shadow is None or shadow.digest == self._model.digest else shadow

    def on_swap(self, tell: Callable[[Swap], None]) -> None:
        """Have every change told, in the step in which it happens; `tell` is quick and does not raise."""
        self._tell = tell

    def last_change(self) -> Change | None:
        """The registry's last change of champion, None without any; reads a small file.

        Raises:
            RegistryError: It is damaged.
        """
        history = self.registry.history() if self.registry is not None else ()
        return history[-1] if history else None

    async def reload(self) -> Swap:
        """Load champion and shadow again, from where they are, and swap them in.

        Raises:
            Conflict: An artifact cannot be used; the old ones go on.
        """
        async with self._changing:
            try:
                pointer = await asyncio.to_thread(self._pointer_state)
                loaded = await asyncio.to_thread(self._load_champion)
                shadow = await asyncio.to_thread(self._load_shadow)
            except (ArtifactError, RegistryError) as error:
                raise Conflict(
                    f"the artifact was not loaded and the old classifier goes on: {error}"
                ) from error
            self._pointer, self._shadow = pointer, shadow
            return self._swap(loaded)

    async def candidate(self, digest: str) -> Model:
        """Load and prove a model of the registry without letting it serve.

        Raises:
            PreconditionFailed: There is no registry, or the artifact cannot be used.
            NotFound: The registry holds no such model.
        """
        registry = self._registry()
        try:
            full = await asyncio.to_thread(registry.resolve, digest)
        except RegistryError as error:
            raise NotFound("classifier", digest, str(error)) from error
        try:
            return await asyncio.to_thread(lambda: self._proved(registry.load(full)))
        except ArtifactError as error:
            raise PreconditionFailed(f"the candidate cannot be used; nothing was changed: {error}") from error

    async def promote(self, candidate: Model, *, now_s: float, reason: str, force_reason: str = "") -> Swap:
        """Make a model of the registry the champion, there and here, if it may be or somebody insists.

        Args:
            candidate: From `candidate`.
            now_s: Time to note, seconds since the epoch.
            reason: One sentence to note; the consent's stands behind it.
            force_reason: Why although there is no consent (`classifier.consent`), "" for not then; noted as well.

        Raises:
            PreconditionFailed: It may not or cannot be promoted; the old one goes on.
        """
        registry = self._registry()
        async with self._changing:
            try:
                given, how, why = await asyncio.to_thread(
                    consent, registry, candidate.digest, self._model.digest
                )
                if not given and not force_reason:
                    raise PreconditionFailed(f"{candidate.digest} is not promoted: {why}")
                noted = f"{reason}: {why}"
                if not given:
                    how, noted = How.FORCE, f"{reason}: {force_reason} ({why})"
                    logger.warning("classifier %s is promoted by force: %s", candidate.digest, noted)
                await asyncio.to_thread(
                    registry.promote, candidate.digest, now_s=now_s, how=how, reason=noted
                )
                pointer = await asyncio.to_thread(self._pointer_state)
            except (ArtifactError, RegistryError, OSError) as error:
                raise PreconditionFailed(f"the candidate was not promoted: {error}") from error
            self._pointer = pointer
            return self._swap(candidate)

    async def roll_back(self, *, now_s: float, reason: str, if_champion: str) -> Swap:
        """Return to the champion before `if_champion`, there and here, if that is still the champion.

        Raises:
            RegistryError, ArtifactError, OSError: It was not done; what serves goes on.
        """
        registry = self._registry()
        async with self._changing:
            await asyncio.to_thread(registry.rollback, now_s=now_s, reason=reason, if_champion=if_champion)
            pointer = await asyncio.to_thread(self._pointer_state)
            loaded = await asyncio.to_thread(self._load_champion)
            self._pointer = pointer
            return self._swap(loaded, rolled_back=True)

    async def follow(self) -> Swap | None:
        """Take over what a command beside this process made the champion; None when nothing changed.

        An artifact that cannot be used is logged, once, and what serves goes on.
        """
        if self.registry is None:
            return None
        async with self._changing:
            try:
                pointer = await asyncio.to_thread(self._pointer_state)
                if pointer == self._pointer:
                    return None
                self._pointer = pointer
                change = await asyncio.to_thread(self.last_change)
                loaded = await asyncio.to_thread(self._load_champion)
            except (ArtifactError, RegistryError, OSError) as error:
                logger.error(
                    "the registry's champion cannot be used and the old classifier goes on: %s", error
                )
                return None
            if loaded.digest == self._model.digest:
                return None
            return self._swap(loaded, rolled_back=change is not None and change.how is How.ROLLBACK)

    def _swap(self, model: Model, *, rolled_back: bool = False) -> Swap:
        """Let `model` score from now on: the one step in which it changes."""
        swap = Swap(model, self._model, rolled_back)
        self._model = model
        if model.digest != swap.previous.digest:
            logger.warning("classifier %s scores now, in place of %s", model.digest, swap.previous.digest)
            self._tell(swap)
        return swap

    def _registry(self) -> Registry:
        if self.registry is None:
            raise PreconditionFailed(NO_REGISTRY)
        return self.registry

    def _pointer_state(self) -> object:
        """What tells that the registry's champion may have changed: the identity of the file that names it."""
        if self.registry is None:
            return None
        try:
            found = (self.registry.path / HISTORY_NAME).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _load_champion(self) -> Model:
        """Load the registry's champion, the plain artifact while there is none; in a thread."""
        digest = self.registry.champion_digest() if self.registry is not None else ""
        if self.registry is None or not digest:
            return self._proved(load(self.directory))
        return self._proved(self.registry.load(digest))

    def _load_shadow(self) -> Model | None:
        name = self._shadow_name
        if not name:
            return None
        if self.registry is not None and not Path(name).is_dir():
            return self._proved(self.registry.load(self.registry.resolve(name)))
        return self._proved(load(Path(name)))

    def _proved(self, artifact: Artifact) -> Model:
        """The model of an artifact, refused without the text encoder it was fitted with."""
        try:
            require(artifact.manifest.encoder, self.embedder, artifact.digest)
            return Model(artifact, self.embedder)
        except EncoderError as error:
            raise ArtifactError(str(error)) from error
