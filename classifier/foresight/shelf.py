"""Where foresights are kept: a shelf of their own below the registry of classifiers, with the same rules.

<registry>/foresight/<digest>/..., champions.jsonl      as in `classifier.registry`
"""

from pathlib import Path
from typing import Final

from classifier.foresight import artifact as artifacts
from classifier.foresight.artifact import Artifact
from classifier.registry import Shelf

DIRECTORY: Final = "foresight"


def shelf_of(registry: Path | str) -> Shelf[Artifact]:
    """The foresights of a registry."""
    return Shelf(Path(registry) / DIRECTORY, artifacts.load)
