"""The file in which a probe's answers are kept, and what of them applies to a model.

The rule: every answer stands by itself, with the model it was measured on, its date, its requests and what they cost,
so one file can hold several models and runs. The newest run of a fact and model replaces the older, but a run that was
broken off takes nothing back: only what was seen can speak against what was seen before. What was measured at another
address than the one asked says nothing: a cloud or a proxy may cache otherwise. What else an answer is worth is
`cache.facts`' to say. It holds no text of anybody's.
"""

import os
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from cache.facts import VERDICTS, Answer, FactId, Ignored, Reading, Verdict, facts_for
from cache.rules import UnknownModel, rules_for
from router.config import Config, ConfigError
from router.probe.evidence import Sighting

DAY_S = 86_400.0
PROVIDER_HOST = "api.anthropic.com"
"""Host of the Messages API where no other address is configured (A-VER, 2026-11)."""


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
        contradicted: Whether it is unknown because of what was seen, not because too little was.
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
    contradicted: bool = False
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
    order = list(FactId)
    facts = {_key(each): each for each in kept.facts}
    for each in found:
        earlier = facts.get(_key(each))
        inconclusive = each.verdict is Verdict.UNKNOWN and not each.contradicted
        if not (inconclusive and earlier is not None and earlier.verdict is not Verdict.UNKNOWN):
            facts[_key(each)] = each
    return FactsFile(
        facts=tuple(sorted(facts.values(), key=lambda each: (each.model, order.index(each.fact), each.live)))
    )


def _key(record: FactRecord) -> tuple[FactId, str, bool]:
    return record.fact, record.model, record.live


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
    records: tuple[FactRecord, ...] = ()
    if config.cache.facts_file:
        try:
            records = read_facts(Path(config.cache.facts_file)).facts
        except ConfigError as error:
            raise ConfigError(f"cache.facts_file: {error}") from error
    try:
        model = rules_for(config.opus.model).model
    except UnknownModel as error:
        raise ConfigError(f"opus.model: {error}") from error
    asked = (urlsplit(config.opus.base_url).hostname if config.opus.base_url else None) or PROVIDER_HOST
    here = [each.answer for each in records if each.address == asked or not each.live]
    elsewhere = tuple(
        Ignored(each.answer, f"measured at {each.address}, and the address asked is {asked}")
        for each in records
        if each.address != asked and each.live
    )
    reading = facts_for(model, here, now_s=now_s, age_limit_s=config.cache.facts_age_days * DAY_S)
    return reading._replace(ignored=(*reading.ignored, *elsewhere))


def measured_on(time_s: float) -> str:
    """A time as people read it, UTC, e.g. 2026-11-23T10:00:00Z."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
