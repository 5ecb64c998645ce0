"""The file in which a probe's answers are kept, and what of them applies to a model.

The rule: every answer stands by itself, with the model it was measured on, its date, its requests and what they cost,
so one file can hold several models and runs; the newest run of a fact and model replaces the older. Reading is this
module's; what an answer is worth is `cache.facts`'. It holds no text of anybody's.
"""

import os
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from cache.facts import VERDICTS, Answer, FactId, Reading, Verdict, facts_for
from cache.rules import UnknownModel, rules_for
from router.config import Config, ConfigError
from router.probe.evidence import Sighting

FORMAT = 1
DAY_S = 86_400.0


class TrialRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Evidence: one trial's requests in the order they were sent."""

    verdict: Verdict
    why: str = ""
    requests: tuple[Sighting, ...] = ()


class FactRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fact, measured once.

    Attributes:
        measured_on: UTC date and time, for people; `measured_time_s` counts.
        live: False for a run against an emulator, which is never used.
        address: Host that answered.
        price_table: Version of the prices that `cost_nano_usd` follows.
        run: Random name of the run.
    """

    fact: FactId
    verdict: Verdict
    why: str = ""
    model: str
    measured_time_s: float
    measured_on: str
    live: bool
    address: str
    price_table: str
    run: str
    cost_nano_usd: Annotated[int, Meta(ge=0)]
    prefill_s_per_token: Annotated[float, Meta(gt=0)] | None = None
    first_byte_s: Annotated[float, Meta(gt=0)] | None = None
    trials: tuple[TrialRecord, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS[self.fact]:
            raise ValueError(f"{self.fact.value} cannot be {self.verdict.value!r}")
        if self.verdict is Verdict.MEASURED and None in (self.prefill_s_per_token, self.first_byte_s):
            raise ValueError(f"{self.fact.value} is measured, but its numbers are missing")

    @property
    def answer(self) -> Answer:
        """What it says, without its evidence."""
        return Answer(
            self.fact,
            self.model,
            self.verdict,
            self.measured_time_s,
            self.live,
            self.prefill_s_per_token,
            self.first_byte_s,
        )


class FactsFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a file holds."""

    format: Literal[1] = 1
    facts: tuple[FactRecord, ...] = ()


def read_facts(path: Path) -> FactsFile:
    """Read a file of facts.

    Raises:
        ConfigError: It cannot be read, or is none; the message names the file and what is wrong.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=FactsFile)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no file of facts: {error}") from error


def merged(kept: FactsFile, found: Iterable[FactRecord]) -> FactsFile:
    """`kept` with what was found in place of older answers about the same fact, model and world."""
    new = {(each.fact, each.model, each.live): each for each in found}
    rest = tuple(each for each in kept.facts if (each.fact, each.model, each.live) not in new)
    order = list(FactId)
    facts = sorted((*rest, *new.values()), key=lambda each: (each.model, order.index(each.fact), each.live))
    return FactsFile(facts=tuple(facts))


def write_facts(path: Path, facts: FactsFile) -> None:
    """Replace the file whole, so that no reader sees half of it.

    Raises:
        OSError: It cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(facts), indent=2)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text + b"\n")
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def applying(config: Config, now_s: float) -> Reading:
    """What is known of the Opus route's model: the configured file's answers over the assumptions.

    Raises:
        ConfigError: A file is named and cannot be read.
    """
    answers: tuple[Answer, ...] = ()
    if config.cache.facts_file:
        try:
            answers = tuple(each.answer for each in read_facts(Path(config.cache.facts_file)).facts)
        except ConfigError as error:
            raise ConfigError(f"cache.facts_file: {error}") from error
    try:
        model = rules_for(config.opus.model).model
    except UnknownModel as error:
        raise ConfigError(f"opus.model: {error}") from error
    return facts_for(model, answers, now_s=now_s, age_limit_s=config.cache.facts_age_days * DAY_S)


def measured_on(time_s: float) -> str:
    """A time as people read it, UTC, e.g. 2026-11-23T10:00:00Z."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
