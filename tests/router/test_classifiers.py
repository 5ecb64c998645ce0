"""Classifiers exchanged: proved before they serve, one change after the other, the old one on any fault."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from classifier import artifact as artifacts
from classifier.artifact import MANIFEST_NAME
from classifier.model import DEFAULT_DIRECTORY, Model
from classifier.registry import HISTORY_NAME, How, Registry, RegistryError
from router.classifiers import Classifiers
from router.config import ConfigError
from router.errors import Conflict, NotFound, PreconditionFailed

NOW_S = 1_795_392_000.0


def an_artifact(directory: Path, threshold: float) -> Path:
    """The shipped model with another threshold, so with another digest."""
    shipped = artifacts.load(DEFAULT_DIRECTORY)
    artifacts.save(directory, msgspec.structs.replace(shipped.manifest, threshold=threshold), shipped.arrays)
    return directory


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two models, the first of them champion."""
    registry = Registry(tmp_path / "models")
    for number in range(2):
        registry.add(an_artifact(tmp_path / str(number), 0.3 + number / 10))
    registry.promote(by_threshold(registry, 0.3), now_s=NOW_S, how=How.GATE, reason="first")
    return registry


def by_threshold(registry: Registry, threshold: float) -> str:
    """Digest of the model with this threshold."""
    models = {
        each.manifest.threshold: each.digest for each in registry.entries() if each.manifest is not None
    }
    return models[threshold]


def damage(registry: Registry, digest: str) -> None:
    """Change a byte of a model's manifest."""
    path = registry.path / digest / MANIFEST_NAME
    path.write_bytes(path.read_bytes() + b"\n")


def test_the_champion_serves_and_the_plain_artifact_while_there_is_none(
    registry: Registry, tmp_path: Path
) -> None:
    """A registry without a champion, or without a directory, names nobody."""
    assert Classifiers("", registry=str(registry.path)).current().manifest.threshold == 0.3
    plain = str(tmp_path / "1")
    assert Classifiers(plain, registry=str(tmp_path / "empty")).current().manifest.threshold == 0.4
    assert Classifiers(plain).current().manifest.threshold == 0.4
    assert Classifiers("").current().digest == Model.default().digest


@pytest.mark.parametrize("key", ["registry", "history", "shadow", "no shadow"])
def test_a_start_names_the_setting_that_is_wrong(registry: Registry, tmp_path: Path, key: str) -> None:
    """A damaged champion, history or shadow is no reason to serve something else in silence."""
    damaged = by_threshold(registry, 0.4)
    damage(registry, damaged)
    shadow = {"shadow": damaged, "no shadow": "nowhere"}.get(key, "")
    if key == "registry":
        damage(registry, by_threshold(registry, 0.3))
    if key == "history":
        (registry.path / HISTORY_NAME).write_bytes(b"{}\n")
    name = "classifier.shadow" if "shadow" in key else "classifier.registry"
    with pytest.raises(ConfigError, match=name):
        Classifiers("", registry=str(registry.path), shadow=shadow)


async def test_a_swap_is_told_in_the_step_it_happens(registry: Registry) -> None:
    """Whoever hears of it sees the new model serve already; loading the same again is no swap."""
    classifiers = Classifiers("", registry=str(registry.path))
    heard = []
    classifiers.on_swap(lambda swap: heard.append((swap.model.digest, classifiers.current().digest)))
    await classifiers.reload()
    assert heard == []
    candidate = await classifiers.candidate(by_threshold(registry, 0.4)[:5])
    assert classifiers.current().digest == by_threshold(registry, 0.3), "a candidate does not serve"
    swap = await classifiers.promote(candidate, now_s=NOW_S, reason="better", force_reason="a test")
    assert heard == [(candidate.digest, candidate.digest)]
    assert (swap.previous.digest, swap.rolled_back) == (by_threshold(registry, 0.3), False)
    assert registry.champion_digest() == candidate.digest


async def test_without_consent_and_without_force_nothing_changes(registry: Registry) -> None:
    """No gate has judged it: refused, with the reason; with a reason to insist both are noted."""
    classifiers = Classifiers("", registry=str(registry.path))
    candidate = await classifiers.candidate(by_threshold(registry, 0.4))
    before = registry.history()
    with pytest.raises(PreconditionFailed, match="is not promoted: no gate has judged it"):
        await classifiers.promote(candidate, now_s=NOW_S, reason="asked for")
    assert (registry.history(), classifiers.current().digest) == (before, by_threshold(registry, 0.3))
    await classifiers.promote(candidate, now_s=NOW_S, reason="asked for", force_reason="we know")
    last = registry.history()[-1]
    assert (last.how, last.reason) == (How.FORCE, "asked for: we know (no gate has judged it)")


async def test_what_it_did_itself_is_not_followed(registry: Registry) -> None:
    """The pointer it wrote is the pointer it knows."""
    classifiers = Classifiers("", registry=str(registry.path))
    await classifiers.promote(
        await classifiers.candidate(by_threshold(registry, 0.4)),
        now_s=NOW_S,
        reason="better",
        force_reason="a test",
    )
    assert await classifiers.follow() is None
    swap = await classifiers.roll_back(now_s=NOW_S, reason="worse", if_champion=by_threshold(registry, 0.4))
    assert swap.rolled_back
    assert await classifiers.follow() is None


async def test_a_rollback_beside_the_process_is_followed_as_one(registry: Registry) -> None:
    """A model that was returned to is not on trial; one that was promoted is."""
    classifiers = Classifiers("", registry=str(registry.path))
    registry.promote(by_threshold(registry, 0.4), now_s=NOW_S, how=How.FORCE, reason="by hand")
    promoted = await classifiers.follow()
    registry.rollback(now_s=NOW_S, reason="by hand")
    returned = await classifiers.follow()
    assert (promoted.rolled_back, returned.rolled_back) == (False, True)
    registry.rollback(now_s=NOW_S, reason="to the shipped one")
    assert (await classifiers.follow()).model.digest == Model.default().digest


async def test_a_damaged_champion_is_said_once_and_not_taken(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """The old one goes on; the next sound one is taken."""
    classifiers, damaged = Classifiers("", registry=str(registry.path)), by_threshold(registry, 0.4)
    good = classifiers.current().digest
    registry.promote(damaged, now_s=NOW_S, how=How.FORCE, reason="by hand")
    damage(registry, damaged)
    for _ in range(3):
        assert await classifiers.follow() is None
    assert caplog.text.count("the old classifier goes on") == 1
    assert classifiers.current().digest == good
    with pytest.raises(Conflict, match="the old classifier goes on"):
        await classifiers.reload()
    with pytest.raises(PreconditionFailed, match="nothing was changed"):
        await classifiers.candidate(damaged)
    with pytest.raises(NotFound):
        await classifiers.candidate("0" * 12)
    registry.rollback(now_s=NOW_S, reason="by hand")
    assert await classifiers.follow() is None, "what serves is the champion again"


async def test_only_the_champion_that_was_judged_is_taken_back(registry: Registry) -> None:
    """When somebody was quicker and promoted another, the guard's rollback does nothing."""
    classifiers = Classifiers("", registry=str(registry.path))
    with pytest.raises(RegistryError, match="no longer"):
        await classifiers.roll_back(now_s=NOW_S, reason="late", if_champion=by_threshold(registry, 0.4))
    assert classifiers.current().digest == by_threshold(registry, 0.3)


async def test_changes_are_made_one_after_the_other(registry: Registry) -> None:
    """However many come at once, what serves at the end is what the registry names."""
    classifiers = Classifiers("", registry=str(registry.path))
    candidates = [await classifiers.candidate(by_threshold(registry, value)) for value in (0.3, 0.4)]
    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(
                classifiers.promote(
                    candidates[number % 2], now_s=NOW_S + number, reason="in turn", force_reason="a test"
                )
            )
            group.create_task(classifiers.follow())
            group.create_task(classifiers.reload())
    assert classifiers.current().digest == registry.champion_digest()


def test_a_shadow_that_was_promoted_is_none_any_more(registry: Registry) -> None:
    """A model is not compared with itself."""
    path = str(registry.path)
    assert Classifiers("", registry=path, shadow=by_threshold(registry, 0.4)).shadow() is not None
    assert Classifiers("", registry=path, shadow=by_threshold(registry, 0.3)).shadow() is None
