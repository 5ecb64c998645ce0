"""The experiments behind facts A1 to A6: requests, waits, and what each hypothesis expects to see. Pure values.

The rule: an experiment holds its own controls, so that its verdict needs no other: an entry that must be gone, or must
be there, under every hypothesis. A trial decides only if every request showed what one single hypothesis expects;
anything else is unknown. Times are from the start of the trial's first request, because lives are counted from the
start of requests (A-CACHE, 2026-11), and stay a minute or more away from every life's end.

Prompts are pieces of meaningless words; see `router.probe.prompts`. Nothing here knows prices, clocks or providers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from cache.facts import FactId, Verdict

FIVE_MINUTES_S = 300
HOUR_S = 3600
MINIMUM_SLACK_WORDS = 48
"""Words beyond the model's minimum; a word is at least one token, so a prefix of so many is never too short."""
SHORT_WORDS = 96
"""Words of what stands on top of a prefix."""
QUESTION_WORDS = 4
LATENCY_WORDS = (64, 1024, 4096)
"""Sizes between which the time to the first byte is compared."""
LATENCY_SPACING_S = 10.0
BESIDE_AFTER_S = 0.05
"""How long after the writer the request beside it is sent: on its way before any first byte can be back."""


class Seen(StrEnum):
    """What one request's usage says of the cache up to its last mark."""

    READ = "read"
    """All of it was read."""
    WROTE = "wrote"
    """Nothing was read, and it was written."""
    PARTLY = "partly"
    """Some was read, and the rest written."""
    NOTHING = "nothing"
    """Neither read nor written."""
    REFUSED = "refused"
    """The provider refused the request as invalid."""


class Piece(NamedTuple):
    """Text of `words` meaningless words; the same name is the same text within a trial, and nowhere else."""

    name: str
    words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request.

    Attributes:
        at_s: Seconds after the trial's first request.
        system: System prompt, a block each.
        turns: Messages, by user and assistant in turn; the last is the user's.
        marks: (index of the piece, system before turns; TTL in seconds), ascending.
        expects: What each hypothesis expects; all of the experiment's verdicts are keys.
        partly_to: Index of the piece up to which PARTLY reads; -1 where nothing expects it.
        max_output_tokens: 0 only warms.
        stream: Whether the answer is streamed, which shows when its first byte came.
        beside: Another request, sent while this one's answer has not begun.
    """

    name: str
    at_s: float
    system: tuple[Piece, ...] = ()
    turns: tuple[Piece, ...]
    marks: tuple[tuple[int, int], ...] = ()
    expects: Mapping[Verdict, Seen]
    partly_to: int = -1
    max_output_tokens: int = 1
    stream: bool = False
    beside: "Step | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """How one fact is settled.

    Attributes:
        verdicts: Hypotheses.
        repeats: Whether one trial could be chance, so that several must agree.
        steps: In the order of their times.
    """

    fact: FactId
    question: str
    verdicts: tuple[Verdict, ...]
    repeats: bool
    steps: tuple[Step, ...]

    def requests(self) -> Iterator[Step]:
        """Every request of a trial, those beside others included."""
        for step in self.steps:
            yield step
            if step.beside is not None:
                yield step.beside

    @property
    def duration_s(self) -> float:
        """Seconds from the first request to the last."""
        return self.steps[-1].at_s


def experiments(minimum_tokens: int) -> dict[FactId, Experiment]:
    """One experiment per fact, for a model whose shortest cached prefix is `minimum_tokens` tokens."""
    base = minimum_tokens + MINIMUM_SLACK_WORDS
    made = (
        _refresh(base, FactId.A1_MARKED),
        _refresh(base, FactId.A1_UNMARKED),
        _hour_on_top(base),
        _hour_in_place(base),
        _latency(),
        _beside(base),
        _zero_output(base),
    )
    return {each.fact: each for each in made}


_YES_NO = (Verdict.YES, Verdict.NO)


def _all(verdicts: tuple[Verdict, ...], seen: Seen) -> dict[Verdict, Seen]:
    return dict.fromkeys(verdicts, seen)


def _ask(name: str) -> tuple[Piece, ...]:
    return (Piece(name, QUESTION_WORDS),)


def _refresh(base: int, fact: FactId) -> Experiment:
    """Write S and S+U; touch S+U at 4 min; at 7 min S is there only if the touch prolonged it."""
    shared, user = Piece("shared", base), Piece("user", SHORT_WORDS)
    other, control = Piece("other user", SHORT_WORDS), Piece("control", base)
    both = ((0, FIVE_MINUTES_S), (1, FIVE_MINUTES_S))
    touched = both if fact is FactId.A1_MARKED else both[1:]
    where = "marked" if fact is FactId.A1_MARKED else "unmarked"
    wrote, read = _all(_YES_NO, Seen.WROTE), _all(_YES_NO, Seen.READ)
    first = ((0, FIVE_MINUTES_S),)
    return Experiment(
        fact=fact,
        question=f"does a hit on a deep entry refresh shallower {where} entries?",
        verdicts=_YES_NO,
        repeats=True,
        steps=(
            Step(
                name="write both",
                at_s=0,
                system=(shared, user),
                turns=_ask("q"),
                marks=both,
                expects=wrote,
            ),
            Step(
                name="write control",
                at_s=0,
                system=(control,),
                turns=_ask("q"),
                marks=first,
                expects=wrote,
            ),
            Step(
                name="touch deep",
                at_s=240,
                system=(shared, user),
                turns=_ask("r"),
                marks=touched,
                expects=read,
            ),
            Step(
                name="ask shallow",
                at_s=420,
                system=(shared, other),
                turns=_ask("s"),
                marks=first,
                expects={Verdict.YES: Seen.READ, Verdict.NO: Seen.WROTE},
            ),
            Step(
                name="control is gone",
                at_s=420,
                system=(control,),
                turns=_ask("s"),
                marks=first,
                expects=wrote,
            ),
        ),
    )


def _hour_on_top(base: int) -> Experiment:
    """Write P at 5m; at 1 min read it and write a at 1h on top; at 15 min P+a is there only if a holds all of it."""
    prefix, question, reply = Piece("prefix", base), Piece("q", QUESTION_WORDS), Piece("reply", SHORT_WORDS)
    hour, minutes = Piece("hour control", base), Piece("minutes control", base)
    wrote = _all(_YES_NO, Seen.WROTE)
    at_5m, at_1h = ((0, FIVE_MINUTES_S),), ((0, HOUR_S),)
    return Experiment(
        fact=FactId.A2,
        question="does a 1h entry on top of a 5m-read prefix keep the whole prefix for its hour?",
        verdicts=_YES_NO,
        repeats=True,
        steps=(
            Step(
                name="write 5m",
                at_s=0,
                system=(prefix,),
                turns=(question,),
                marks=at_5m,
                expects=wrote,
            ),
            Step(
                name="write 1h on top",
                at_s=60,
                system=(prefix,),
                turns=(question, reply, *_ask("r")),
                marks=((2, HOUR_S),),
                expects=_all(_YES_NO, Seen.PARTLY),
                partly_to=0,
            ),
            Step(name="write 1h", at_s=60, system=(hour,), turns=_ask("q"), marks=at_1h, expects=wrote),
            Step(
                name="write 5m too", at_s=60, system=(minutes,), turns=_ask("q"), marks=at_5m, expects=wrote
            ),
            Step(
                name="ask for all",
                at_s=900,
                system=(prefix,),
                turns=(question, reply, *_ask("s")),
                marks=((2, FIVE_MINUTES_S),),
                expects={Verdict.YES: Seen.READ, Verdict.NO: Seen.WROTE},
            ),
            Step(
                name="1h control lives",
                at_s=900,
                system=(hour,),
                turns=_ask("s"),
                marks=at_5m,
                expects=_all(_YES_NO, Seen.READ),
            ),
            Step(
                name="5m control is gone",
                at_s=900,
                system=(minutes,),
                turns=_ask("s"),
                marks=at_5m,
                expects=wrote,
            ),
        ),
    )


def _hour_in_place(base: int) -> Experiment:
    """Write P at 5m; at 1 min mark it 1h; at 8 min it is there only if that made it a 1h entry."""
    verdicts = (Verdict.NO, Verdict.FREE, Verdict.BILLED)
    prefix, control = Piece("prefix", base), Piece("control", base)
    wrote, read = _all(verdicts, Seen.WROTE), _all(verdicts, Seen.READ)
    at_5m = ((0, FIVE_MINUTES_S),)
    return Experiment(
        fact=FactId.A3,
        question="does a 1h mark on a live 5m entry upgrade it, and is that billed?",
        verdicts=verdicts,
        repeats=True,
        steps=(
            Step(name="write 5m", at_s=0, system=(prefix,), turns=_ask("q"), marks=at_5m, expects=wrote),
            Step(
                name="write control", at_s=0, system=(control,), turns=_ask("q"), marks=at_5m, expects=wrote
            ),
            Step(
                name="mark 1h",
                at_s=60,
                system=(prefix,),
                turns=_ask("r"),
                marks=((0, HOUR_S),),
                expects={Verdict.NO: Seen.READ, Verdict.FREE: Seen.READ, Verdict.BILLED: Seen.WROTE},
            ),
            Step(
                name="touch control", at_s=60, system=(control,), turns=_ask("r"), marks=at_5m, expects=read
            ),
            Step(
                name="ask",
                at_s=480,
                system=(prefix,),
                turns=_ask("s"),
                marks=at_5m,
                expects={Verdict.NO: Seen.WROTE, Verdict.FREE: Seen.READ, Verdict.BILLED: Seen.READ},
            ),
            Step(
                name="control is gone",
                at_s=480,
                system=(control,),
                turns=_ask("s"),
                marks=at_5m,
                expects=wrote,
            ),
        ),
    )


def _latency() -> Experiment:
    """Cold prompts of three sizes; a line through sizes and times to the first byte."""
    verdicts = (Verdict.MEASURED,)
    return Experiment(
        fact=FactId.A4,
        question="seconds to the first byte, and per uncached token?",
        verdicts=verdicts,
        repeats=True,
        steps=tuple(
            Step(
                name=f"{words} words",
                at_s=place * LATENCY_SPACING_S,
                system=(Piece(f"{words} words", words),),
                turns=_ask("q"),
                expects=_all(verdicts, Seen.NOTHING),
                stream=True,
            )
            for place, words in enumerate(LATENCY_WORDS)
        ),
    )


def _beside(base: int) -> Experiment:
    """Write P while the same prompt without marks is in flight; then ask for P."""
    prefix = Piece("prefix", base)
    at_5m = ((0, FIVE_MINUTES_S),)
    stripped = Step(
        name="without marks",
        at_s=BESIDE_AFTER_S,
        system=(prefix,),
        turns=_ask("r"),
        expects=_all(_YES_NO, Seen.NOTHING),
    )
    return Experiment(
        fact=FactId.A5,
        question="does a request without marks, beside the writer, disturb the writer's entry?",
        verdicts=_YES_NO,
        repeats=True,
        steps=(
            Step(
                name="write",
                at_s=0,
                system=(prefix,),
                turns=_ask("q"),
                marks=at_5m,
                expects=_all(_YES_NO, Seen.WROTE),
                stream=True,
                beside=stripped,
            ),
            Step(
                name="ask",
                at_s=20,
                system=(prefix,),
                turns=_ask("s"),
                marks=at_5m,
                expects={Verdict.NO: Seen.READ, Verdict.YES: Seen.WROTE},
            ),
        ),
    )


def _zero_output(base: int) -> Experiment:
    """Warm with no output at all, then ask: it was accepted only if what it wrote is read."""
    prefix = Piece("prefix", base)
    at_5m = ((0, FIVE_MINUTES_S),)
    return Experiment(
        fact=FactId.A6,
        question="is max_tokens: 0 accepted with the model's own thinking, and read by real traffic?",
        verdicts=_YES_NO,
        repeats=False,
        steps=(
            Step(
                name="warm",
                at_s=0,
                system=(prefix,),
                turns=_ask("q"),
                marks=at_5m,
                expects={Verdict.YES: Seen.WROTE, Verdict.NO: Seen.REFUSED},
                max_output_tokens=0,
            ),
            Step(
                name="ask",
                at_s=5,
                system=(prefix,),
                turns=_ask("s"),
                marks=at_5m,
                expects={Verdict.YES: Seen.READ, Verdict.NO: Seen.WROTE},
            ),
        ),
    )
