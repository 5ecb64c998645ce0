"""Trained models on disk, and which of them serves: promote, roll back, know why.

    <registry>/<digest>/manifest.json, weights-*.npz     an artifact (`classifier.artifact`), named by its digest
    <registry>/<digest>/MODEL_CARD.md, report.json       what people and the gate said of it, where there is any
    <registry>/champions.jsonl                           every change of champion, oldest first; the last one holds
    <registry>/.lock                                     taken by whoever changes something

Rule: the champion and its history are one file, replaced whole by one rename. So they cannot disagree, a reader needs
no lock, and a crash at any step leaves the champion before or the champion after. Artifacts are proved when they enter,
before they are promoted and before a rollback returns to them; one under a name that is not its digest is foreign
and refused. An artifact never changes once it is in.

No champion means: the model that serves without a registry, the one that ships unless settings name another. The way
back ends there; in messages it is called the shipped model.

`Shelf` holds artifacts of any kind; `Registry` is the classifiers' (foresights have a shelf below it).

It does not know the clock (times are passed in), nor whether a candidate deserves to be promoted: that is `gate`. It
guards against damage and accidents, not against someone who may write the directory. `flock` does not work over every
network file system; keep the registry on a local disk of the host that changes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from classifier import artifact as artifacts
from classifier.array_file import ArtifactError
from classifier.artifact import Artifact, Manifest

HISTORY_NAME: Final = "champions.jsonl"
CARD_NAME: Final = "MODEL_CARD.md"
REPORT_NAME: Final = "report.json"
LOCK_NAME: Final = ".lock"

MAX_HISTORY_BYTES: Final = 1 << 24
"""Bound on the history: some 60,000 changes of champion."""

_DIGEST: Final = re.compile(r"[0-9a-f]{12}")
_COMPANIONS: Final = (CARD_NAME, REPORT_NAME)


class RegistryError(Exception):
    """What was asked of the registry cannot be done; the message says why and what to do."""


class How(StrEnum):
    """What made a model the champion."""

    GATE = "gate"
    """It passed the gate."""
    FORCE = "force"
    """Someone insisted; the reason says why."""
    OPERATOR = "operator"
    """Someone chose a model of the registry by hand."""
    ROLLBACK = "rollback"
    """The one after it was taken back."""


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One change of champion.

    Attributes:
        time_s: When, seconds since the epoch.
        digest: Champion from then on, "" for the shipped model.
        previous: Champion until then, "" for the shipped model.
        how: What made it so.
        reason: One sentence for people.
        skipped: Earlier champions a rollback passed over because their artifacts could not be used.
    """

    time_s: float
    digest: str
    previous: str
    how: How
    reason: str
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the registry.

    Attributes:
        manifest: What it is; None when the artifact cannot be used.
        fault: Why it cannot, "" when it can.
        champion: Whether it serves.
        changes: The changes that made it champion, oldest first.
    """

    digest: str
    directory: Path
    manifest: Manifest | None
    fault: str
    champion: bool
    changes: tuple[Change, ...]


class _Manifest(Protocol):
    """What every kind of artifact says of itself."""

    @property
    def arrays_name(self) -> str: ...


class Proved(Protocol):
    """An artifact of any kind, proved."""

    @property
    def manifest(self) -> _Manifest: ...

    @property
    def digest(self) -> str: ...


P = TypeVar("P", bound=Proved)


class Shelf(Generic[P]):
    """A directory of artifacts of one kind with one champion; for several threads and processes at once."""

    def __init__(self, path: Path | str, prove: Callable[[Path], P]) -> None:
        """Name the directory; it is made by the first `add`.

        Args:
            prove: Reads and proves the artifact in a directory, or raises `ArtifactError`.
        """
        self.path = Path(path)
        self._prove = prove

    def champion(self) -> Path | None:
        """Directory of the artifact that serves; None: the shipped model does.

        Raises:
            RegistryError: The history cannot be read. The artifact itself is not looked at: load it to prove it.
        """
        digest = self.champion_digest()
        return self.path / digest if digest else None

    def champion_digest(self) -> str:
        """Digest of the model that serves, "" for the shipped one."""
        history = self.history()
        return history[-1].digest if history else ""

    def history(self) -> tuple[Change, ...]:
        """Every change of champion, oldest first.

        Raises:
            RegistryError: The file is damaged, or its changes do not follow from each other.
        """
        path = self.path / HISTORY_NAME
        try:
            with path.open("rb") as file:
                data = file.read(MAX_HISTORY_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise RegistryError(f"{path} cannot be read: {error.strerror or error}") from error
        if len(data) > MAX_HISTORY_BYTES:
            raise RegistryError(f"{path} is larger than {MAX_HISTORY_BYTES} bytes")
        try:
            changes = tuple(msgspec.json.decode(line, type=Change) for line in data.splitlines())
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise RegistryError(f"{path} is not a history of champions: {error}") from error
        _replay(changes, str(path))
        return changes

    def resolve(self, prefix: str) -> str:
        """The full digest of the only model whose digest begins with `prefix`.

        Raises:
            RegistryError: None or several do.
        """
        if not prefix:
            raise RegistryError("give the digest of a model, or its first characters")
        found = [path.name for path in self._directories() if path.name.startswith(prefix)]
        match found:
            case [digest]:
                return digest
            case []:
                raise RegistryError(f"{self.path} holds no model {prefix!r}")
            case _:
                raise RegistryError(f"{prefix!r} is the beginning of {', '.join(found)}; give more of it")

    def digests(self) -> tuple[str, ...]:
        """Digests of all that is held, by name; not looked at, so that some may be unusable."""
        return tuple([path.name for path in self._directories()])

    def load(self, digest: str) -> P:
        """Read and prove the artifact of `digest`.

        Raises:
            ArtifactError: It is missing, damaged, of another version, or not the one its directory is named after.
        """
        directory = self.path / digest
        artifact = self._prove(directory)
        if artifact.digest != digest:
            raise ArtifactError(
                f"{directory} holds the artifact {artifact.digest}: its manifest was changed or belongs elsewhere"
            )
        return artifact

    def add(self, directory: Path) -> str:
        """Copy an artifact in, with its card and report where there are any; return its digest.

        One that is there already stays as it is.

        Raises:
            ArtifactError: The artifact cannot be used, or the one already there was damaged since.
            OSError: The registry cannot be written.
        """
        proved = self._prove(directory)
        digest = proved.digest
        with self._locked():
            target = self.path / digest
            if target.exists():
                return self.load(digest).digest
            incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.path))
            try:
                _copy(directory, incoming, proved.manifest.arrays_name)
                # Proved again: what was copied is what will be loaded, and the source may have changed meanwhile.
                if self._prove(incoming).digest != digest:
                    raise ArtifactError(f"{directory} changed while it was copied")
                incoming.chmod(0o755)
                os.replace(incoming, target)
                _sync_directory(self.path)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
        return digest

    def promote(
        self, digest: str, *, now_s: float, how: How | str, reason: str, if_champion: str | None = None
    ) -> str | None:
        """Make a model the champion; return the digest of the one before, None if the shipped model served.

        A model that is the champion already stays it, and nothing is noted.

        Args:
            digest: Of a model of the registry, or the beginning of one.
            now_s: Time to note, seconds since the epoch.
            how: What made it champion; not `ROLLBACK`.
            reason: One sentence to note.
            if_champion: Do it only while this model is the champion, "" for the shipped one; None: whichever is.

        Raises:
            RegistryError: No such model, or another champion than `if_champion`.
            ArtifactError: Its artifact cannot be used; the champion stays.
        """
        if (how := How(how)) is How.ROLLBACK:
            raise ValueError("a rollback returns to an earlier champion; use rollback")
        with self._locked():
            digest = self.resolve(digest)
            self.load(digest)
            history = self.history()
            previous = history[-1].digest if history else ""
            if if_champion is not None and if_champion != previous:
                now, before = previous or "the shipped model", if_champion or "the shipped one"
                raise RegistryError(f"the champion is {now}, no longer {before}")
            if digest != previous:
                change = Change(time_s=now_s, digest=digest, previous=previous, how=how, reason=reason)
                self._write((*history, change))
        return previous or None

    def rollback(self, *, now_s: float, reason: str, if_champion: str | None = None) -> Change:
        """Return to the champion before the current one, and note it.

        A second rollback goes one further back, never forth again; the shipped model is the last resort. Earlier
        champions whose artifacts cannot be used any more are passed over.

        Args:
            now_s: Time to note, seconds since the epoch.
            reason: One sentence to note.
            if_champion: Do it only while this model is the champion; None: whichever is.

        Raises:
            RegistryError: The shipped model serves already, or another champion than `if_champion`.
        """
        with self._locked():
            history = self.history()
            reigns = _replay(history, HISTORY_NAME)
            if not reigns:
                raise RegistryError("the shipped model serves; there is nothing to roll back to")
            if if_champion is not None and if_champion != reigns[-1]:
                raise RegistryError(f"the champion is {reigns[-1]}, no longer {if_champion}")
            *earlier, current = reigns
            skipped = []
            while earlier and not self._usable(earlier[-1]):
                skipped.append(earlier.pop())
            change = Change(
                time_s=now_s,
                digest=earlier[-1] if earlier else "",
                previous=current,
                how=How.ROLLBACK,
                reason=reason,
                skipped=tuple(skipped),
            )
            self._write((*history, change))
        return change

    def _usable(self, digest: str) -> bool:
        try:
            self.load(digest)
        except ArtifactError:
            return False
        return True

    def _directories(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        return sorted(path for path in self.path.iterdir() if _DIGEST.fullmatch(path.name) and path.is_dir())

    def _write(self, changes: Sequence[Change]) -> None:
        """Replace the history; the rename is the change."""
        encoded = b"".join(msgspec.json.encode(change) + b"\n" for change in changes)
        partial = self.path / f".{HISTORY_NAME}.partial"
        _write_synced(partial, encoded)
        os.replace(partial, self.path / HISTORY_NAME)
        _sync_directory(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait for the lock, which the kernel releases however its holder ends; held for milliseconds."""
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Registry(Shelf[Artifact]):
    """The registry of classifiers."""

    def __init__(self, path: Path | str) -> None:
        """Name the directory; it is made by the first `add`."""
        super().__init__(path, artifacts.load)

    def entries(self) -> tuple[Entry, ...]:
        """Every model, unusable ones included; those that served last first, then by time of training."""
        history = self.history()
        current = history[-1].digest if history else ""
        found = []
        for directory in self._directories():
            manifest, fault = None, ""
            try:
                manifest = self.load(directory.name).manifest
            except ArtifactError as error:
                fault = str(error)
            found.append(
                Entry(
                    digest=directory.name,
                    directory=directory,
                    manifest=manifest,
                    fault=fault,
                    champion=directory.name == current,
                    changes=tuple(change for change in history if change.digest == directory.name),
                )
            )
        found.sort(key=lambda entry: entry.manifest.created_time if entry.manifest else "", reverse=True)
        found.sort(key=lambda entry: entry.changes[-1].time_s if entry.changes else 0.0, reverse=True)
        return tuple(sorted(found, key=lambda entry: not entry.champion))


def _replay(changes: Sequence[Change], where: str) -> list[str]:
    """The champions a series of rollbacks would go through, the current one last; [] when the shipped model serves.

    Raises:
        RegistryError: A change does not follow from those before it.
    """
    reigns: list[str] = []
    for number, change in enumerate(changes, start=1):
        if change.previous != (reigns[-1] if reigns else ""):
            raise RegistryError(f"{where}, line {number}: does not follow from the line before")
        if change.how is not How.ROLLBACK:
            reigns.append(change.digest)
            continue
        passed = len(change.skipped) + 1
        if passed > len(reigns):
            raise RegistryError(f"{where}, line {number}: rolls back further than there were champions")
        if tuple(reversed(reigns[len(reigns) - passed : -1])) != change.skipped:
            raise RegistryError(f"{where}, line {number}: passes over models that were not champions")
        del reigns[len(reigns) - passed :]
        if change.digest != (reigns[-1] if reigns else ""):
            raise RegistryError(f"{where}, line {number}: is not the champion before")
    return reigns


def _copy(source: Path, target: Path, arrays_name: str) -> None:
    """Copy the files of an artifact, and nothing else that lies beside them."""
    for name in (arrays_name, artifacts.MANIFEST_NAME, *_COMPANIONS):
        path = source / name
        if name not in _COMPANIONS or path.is_file():
            _write_synced(target / name, path.read_bytes())


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make renames in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
