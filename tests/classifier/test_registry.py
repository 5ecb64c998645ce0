"""The registry: one champion, a history that explains it, and no way to serve what was not proved."""

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier import artifact as artifacts
from classifier.array_file import ArtifactError
from classifier.model import DEFAULT_DIRECTORY, Model
from classifier.registry import CARD_NAME, HISTORY_NAME, REPORT_NAME, How, Registry, RegistryError

NOW_S = 1_795_392_000.0


def an_artifact(directory: Path, threshold: float) -> Path:
    """The shipped model with another threshold: another manifest, another digest."""
    import msgspec

    shipped = artifacts.load(DEFAULT_DIRECTORY)
    artifacts.save(directory, msgspec.structs.replace(shipped.manifest, threshold=threshold), shipped.arrays)
    return directory


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Path]:
    """Three artifacts outside any registry."""
    base = tmp_path_factory.mktemp("sources")
    return [an_artifact(base / str(number), 0.3 + number / 10) for number in range(3)]


def test_an_empty_registry_serves_the_shipped_model(tmp_path: Path) -> None:
    """No directory, no champion, no entries, and asking makes nothing."""
    registry = Registry(tmp_path / "models")
    assert registry.champion() is None
    assert registry.entries() == ()
    assert not registry.path.exists()


def test_a_promoted_model_is_the_champion_and_loads(tmp_path: Path, sources: list[Path]) -> None:
    """add, promote by prefix, load from the directory the registry names."""
    registry = Registry(tmp_path)
    first, second = (registry.add(source) for source in sources[:2])
    assert registry.promote(first[:8], now_s=NOW_S, how="gate", reason="better") is None
    assert registry.promote(second, now_s=NOW_S + 1, how=How.FORCE, reason="insisted") == first
    champion = registry.champion()
    assert champion is not None
    assert Model.load(champion).digest == second
    assert [change.how for change in registry.history()] == [How.GATE, How.FORCE]
    assert [entry.digest for entry in registry.entries()] == [second, first]


def test_card_and_report_travel_and_strangers_do_not(tmp_path: Path) -> None:
    """Only the artifact's own files are copied."""
    source = an_artifact(tmp_path / "source", 0.4)
    for name in (CARD_NAME, REPORT_NAME, "notes.txt", "evil.py"):
        (source / name).write_text("x")
    registry = Registry(tmp_path / "models")
    directory = registry.path / registry.add(source)
    names = {path.name for path in directory.iterdir()}
    assert names == {
        CARD_NAME,
        REPORT_NAME,
        "manifest.json",
        *(p.name for p in source.glob("weights-*.npz")),
    }
    assert registry.add(source) == directory.name


def test_rollback_goes_back_and_never_forth(tmp_path: Path, sources: list[Path]) -> None:
    """a, b, c, back to b, back to a, back to the shipped model, and no further."""
    registry = Registry(tmp_path)
    a, b, c = (registry.add(source) for source in sources)
    for digest in (a, b, c):
        registry.promote(digest, now_s=NOW_S, how="gate", reason="")
    assert [registry.rollback(now_s=NOW_S, reason="bad").digest for _ in range(3)] == [b, a, ""]
    assert registry.champion() is None
    with pytest.raises(RegistryError, match="nothing to roll back"):
        registry.rollback(now_s=NOW_S, reason="bad")


def test_rollback_passes_over_a_damaged_champion(tmp_path: Path, sources: list[Path]) -> None:
    """When b is damaged, c rolls back to a, and the history says so."""
    registry = Registry(tmp_path)
    a, b, c = (registry.add(source) for source in sources)
    for digest in (a, b, c):
        registry.promote(digest, now_s=NOW_S, how="gate", reason="")
    (tmp_path / b / "manifest.json").write_text("{}")
    change = registry.rollback(now_s=NOW_S, reason="bad")
    assert (change.digest, change.skipped) == (a, (b,))
    assert registry.rollback(now_s=NOW_S, reason="bad").digest == ""


def test_rollback_of_a_model_that_no_longer_serves_is_refused(tmp_path: Path, sources: list[Path]) -> None:
    """A watch that judged b must not take back c, promoted meanwhile."""
    registry = Registry(tmp_path)
    a, b = (registry.add(source) for source in sources[:2])
    registry.promote(a, now_s=NOW_S, how="gate", reason="")
    registry.promote(b, now_s=NOW_S, how="operator", reason="")
    with pytest.raises(RegistryError, match="no longer"):
        registry.rollback(now_s=NOW_S, reason="bad", if_champion=a)
    assert registry.champion_digest() == b


def test_a_model_judged_against_another_champion_is_not_promoted(tmp_path: Path, sources: list[Path]) -> None:
    """Whoever compared b with the shipped model says nothing about a, promoted meanwhile."""
    registry = Registry(tmp_path)
    a, b = (registry.add(source) for source in sources[:2])
    registry.promote(a, now_s=NOW_S, how="gate", reason="", if_champion="")
    with pytest.raises(RegistryError, match=f"the champion is {a}, no longer the shipped one"):
        registry.promote(b, now_s=NOW_S, how="gate", reason="", if_champion="")
    assert registry.champion_digest() == a
    registry.promote(b, now_s=NOW_S, how="gate", reason="", if_champion=a)
    assert registry.champion_digest() == b


def _change_weights(directory: Path) -> None:
    (path,) = directory.glob("weights-*.npz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _change_manifest(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": ', b'"seed": 1'))


def _pickle_weights(directory: Path) -> None:
    (path,) = directory.glob("weights-*.npz")
    path.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")


def _foreign(directory: Path) -> None:
    (directory / "manifest.json").write_text(json.dumps({"format": "sklearn-pickle"}))


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


@pytest.mark.parametrize("harm", [_change_weights, _change_manifest, _pickle_weights, _foreign, _empty])
def test_a_tampered_model_is_refused_and_the_champion_stays(
    harm, tmp_path: Path, sources: list[Path]
) -> None:
    """Promotion proves the artifact; what fails is named, listed as unusable, and changes nothing."""
    registry = Registry(tmp_path)
    good, bad = (registry.add(source) for source in sources[:2])
    registry.promote(good, now_s=NOW_S, how="gate", reason="")
    harm(tmp_path / bad)
    before = (tmp_path / HISTORY_NAME).read_bytes()
    with pytest.raises(ArtifactError, match=bad):
        registry.promote(bad, now_s=NOW_S, how="force", reason="please")
    assert (tmp_path / HISTORY_NAME).read_bytes() == before
    (entry,) = [entry for entry in registry.entries() if entry.digest == bad]
    assert entry.manifest is None
    assert entry.fault
    assert not (Path.cwd() / "owned").exists()


def test_a_tampered_source_never_enters(tmp_path: Path) -> None:
    """`add` proves first and leaves nothing behind."""
    source = an_artifact(tmp_path / "source", 0.4)
    _change_weights(source)
    registry = Registry(tmp_path / "models")
    with pytest.raises(ArtifactError):
        registry.add(source)
    assert registry.entries() == ()


def test_a_crash_while_adding_leaves_no_model(tmp_path: Path, sources: list[Path], monkeypatch) -> None:
    """Neither half a model under its name nor rubbish beside it; the next try succeeds."""
    registry = Registry(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", _crash)
        with pytest.raises(_Crash):
            registry.add(sources[0])
    assert registry.entries() == ()
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}
    assert registry.add(sources[0]) == registry.entries()[0].digest


@pytest.mark.parametrize(
    "text",
    [b'{"digest": 1}\n', b"not json\n", b'{"time_s":1,"digest":"aaaaaaaaaaaa"}\n', b'{"digest": "\xff"}\n'],
)
def test_a_damaged_history_is_an_error_not_a_guess(text: bytes, tmp_path: Path) -> None:
    """The shipped model is not served by mistake because a file is damaged."""
    (tmp_path / HISTORY_NAME).write_bytes(text)
    with pytest.raises(RegistryError, match=HISTORY_NAME):
        Registry(tmp_path).champion()


def test_a_history_that_does_not_follow_is_refused(tmp_path: Path, sources: list[Path]) -> None:
    """A line removed from the middle is noticed."""
    registry = Registry(tmp_path)
    for source in sources:
        registry.promote(registry.add(source), now_s=NOW_S, how="gate", reason="")
    lines = (tmp_path / HISTORY_NAME).read_text().splitlines()
    (tmp_path / HISTORY_NAME).write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(RegistryError, match="line 2"):
        registry.champion()


def test_prefixes_name_one_model(tmp_path: Path) -> None:
    """Unknown and ambiguous prefixes are refused, and so is nothing at all."""
    registry = Registry(tmp_path)
    for digest in ("aaaaaaaaaaa1", "aaaaaaaaaaa2"):
        (tmp_path / digest).mkdir()
    assert registry.resolve("aaaaaaaaaaa1") == "aaaaaaaaaaa1"
    for prefix in ("aaaa", "b", "", "../x"):
        with pytest.raises(RegistryError):
            registry.resolve(prefix)


def test_two_processes_worth_of_changes_lose_none(tmp_path: Path, sources: list[Path]) -> None:
    """Ten promotions from two threads with a registry each: ten changes that follow from each other."""
    digests = [Registry(tmp_path).add(source) for source in sources]
    Registry(tmp_path).promote(digests[2], now_s=NOW_S, how="gate", reason="")
    faults = []

    def change(own: Registry, number: int) -> None:
        try:
            for step in range(5):
                own.promote(digests[(number + step) % 2], now_s=NOW_S, how="operator", reason=f"{number}")
                own.promote(digests[2], now_s=NOW_S, how="operator", reason=f"{number}")
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=change, args=(Registry(tmp_path), number)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(Registry(tmp_path).history()) > 5


class _Crash(Exception):
    pass


steps = st.lists(
    st.one_of(
        st.tuples(st.just("promote"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("rollback"), st.just(0), st.booleans()),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, sources) -> Registry:
    """A registry that holds three models."""
    registry = Registry(tmp_path_factory.mktemp("models"))
    for source in sources:
        registry.add(source)
    return registry


@given(steps)
@settings(max_examples=40)
def test_any_sequence_leaves_a_valid_champion_and_a_history_that_replays(filled, taken):
    """Against a plain list as the model: promotions push, rollbacks pop, a crash before the rename changes nothing."""
    registry = filled
    (registry.path / HISTORY_NAME).unlink(missing_ok=True)
    digests = sorted(entry.digest for entry in registry.entries())
    expected: list[str] = []
    for number, (verb, which, crash) in enumerate(taken):
        with pytest.MonkeyPatch.context() as patched:
            if crash:
                patched.setattr(os, "replace", _crash)
            try:
                if verb == "promote":
                    registry.promote(digests[which], now_s=NOW_S + number, how="gate", reason="")
                    if not expected or expected[-1] != digests[which]:
                        expected.append(digests[which])
                elif expected:
                    registry.rollback(now_s=NOW_S + number, reason="")
                    expected.pop()
            except _Crash:
                pass
        assert registry.champion_digest() == (expected[-1] if expected else "")
        champion = registry.champion()
        if champion is not None:
            registry.load(champion.name)
    # A reader that knows only the file comes to the same champion.
    assert Registry(registry.path).champion_digest() == (expected[-1] if expected else "")


def _crash(*_: object) -> None:
    raise _Crash
