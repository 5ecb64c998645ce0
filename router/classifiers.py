"""The classifier that scores now: loaded at start, swapped by one reference.

The rule: a new artifact is loaded and checked whole before it replaces the old one, so a request sees one or the
other, never a mixture, and a bad file changes nothing.
"""

from pathlib import Path

from classifier.artifact import ArtifactError
from classifier.model import DEFAULT_DIRECTORY, Model
from router.config import ConfigError


class Classifiers:
    """Holds the model and where it came from."""

    def __init__(self, directory: str) -> None:
        """Load the artifact in `directory`, the shipped one for "".

        Raises:
            ConfigError: The artifact cannot be used.
        """
        self.directory = Path(directory) if directory else DEFAULT_DIRECTORY
        try:
            self._model = Model.load(self.directory)
        except ArtifactError as error:
            raise ConfigError(f"routing.classifier: {error}") from error

    def current(self) -> Model:
        """The model that scores now."""
        return self._model

    def reload(self) -> tuple[Model, str]:
        """Load the artifact again and swap it in; return the new model and the digest of the one before.

        Raises:
            ArtifactError: The file cannot be used; the old model goes on scoring.
        """
        loaded = Model.load(self.directory)
        previous, self._model = self._model, loaded
        return loaded, previous.digest
