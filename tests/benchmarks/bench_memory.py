"""Measure what the router remembers of its traffic: resident memory of one and of two million sessions.

    python tests/benchmarks/bench_memory.py [--sessions 1000000] [--session-limit N] [--prefix-limit N] [--json]

Every session is new: an application of 8 kB that all share, a user context of 2 kB, a first turn of 4 kB that nobody
else has, asked once, one every 20 ms, answered and settled. Each passes through what lives as long as the process:
Demand, PrefixIndex, MissMemory and SessionBook. The process is one of its own; `ps` would show the same
figure. What each structure takes by itself is measured in a process that feeds only that one until its limit is passed.

What each gives up first at its limit:

    PrefixIndex     what expired longest ago, then what expires soonest; a read moves an entry away from that end
    Demand          prefixes longest unused (their forecast is the prior again); turns awaited longest, uncounted
    SessionBook     the session longest unused; likewise MissMemory

Two figures decide: resident memory after twice `--sessions` may not exceed `BOUND_MIB`, and the second half may not
add more than `GROWTH_MIB` once every limit has been reached (exit code 1). `longest ms` is the longest one session held
up the event loop in there, garbage collections included.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec.structs

from cache.demand import Demand
from cache.economics import Rates
from cache.index import Learned, PrefixIndex
from cache.plan import Plan, Strategy, plan
from cache.prefix import extend_digests, prefix_digests
from cache.prompt import Block, BlockKind, CacheScope, Layer, Prompt
from cache.rules import rules_for
from cache.tokens import TokenEstimator
from classifier.route import Route
from router.beliefs import CacheView
from router.call import Identity
from router.config import CacheConfig
from router.cost import Cost, Counterfactuals
from router.misses import MissMemory
from router.session_book import SessionBook
from router.settlement import Intent, Outcome, Purpose, Settlement
from router.usage import Usage

MODEL = "claude-opus-5-5"
SCOPE = CacheScope("anthropic", "bench", MODEL)
BOUND_MIB = 1024.0
GROWTH_MIB = 24.0
"""What the second half may add: the allocator's own unrest, not ours."""
GAP_S = 0.02
SHARED = (
    Block(Layer.TOOLS, BlockKind.TOOL, b'{"name":"find"}' + b"t" * 2000),
    Block(Layer.SYSTEM, BlockKind.TEXT, b"s" * 6000),
)


class Session(NamedTuple):
    """One session's only request, with all that its settlement brings."""

    started_s: float
    identity: Identity
    view: CacheView
    settlement: Settlement


class Parts(NamedTuple):
    """What remembers; None where a structure is left out."""

    demand: Demand | None
    index: PrefixIndex | None
    misses: MissMemory | None
    book: SessionBook | None


def sessions() -> Iterator[Session]:
    """New sessions without end; no two share an object that is not shared in service."""
    estimator, opening = TokenEstimator(), Prompt(SHARED)
    opening_digests = prefix_digests(opening)
    template: Plan | None = None
    number = 0
    while True:
        number += 1
        name, started_s = b"%036d" % number, GAP_S * number
        prompt = Prompt(
            (
                *SHARED,
                Block(Layer.CONTEXT, BlockKind.TEXT, b"context " + name + b"c" * 2000, "user"),
                Block(Layer.TURN, BlockKind.TEXT, b"turn " + name + b"q" * 4000, "user"),
            )
        )
        digests = extend_digests(prompt, opening, opening_digests)
        counts = estimator.cumulative_tokens(prompt, MODEL)
        if template is None:
            template = _template(prompt, digests, counts)
        marks = tuple([mark._replace(digest=digests[mark.position]) for mark in template.breakpoints])
        view = CacheView(SCOPE, prompt, digests, counts, replace(template, breakpoints=marks))
        text = name.decode()
        identity = Identity(
            request_id="r" + text,
            tenant="tenant-" + text[-3:],
            application="desk",
            user="u" + text,
            session=text,
        )
        yield Session(started_s, identity, view, _settlement(identity, view, started_s))


def _template(prompt: Prompt, digests: tuple[bytes, ...], counts: tuple[int, ...]) -> Plan:
    return plan(
        prompt,
        digests,
        counts,
        (None,) * len(digests),
        rules=rules_for(MODEL),
        rates=Rates(1.25, 2.0, 0.05),
        strategy=Strategy.A,
        now=0.0,
    )


def _settlement(identity: Identity, view: CacheView, started_s: float) -> Settlement:
    whole = view.counts[-1]
    return Settlement(
        intent=Intent(
            request_id=identity.request_id,
            attempt=1,
            purpose=Purpose.USER,
            route="opus",
            upstream="anthropic",
            model=MODEL,
            tenant=identity.tenant,
            application=identity.application,
            user=identity.user,
            session=identity.session,
            labels=identity.labels,
            stream=False,
            started_time_s=started_s,
            cost_bound_nano_usd=None,
        ),
        outcome=Outcome.OK,
        settled_time_s=started_s + 2.0,
        duration_s=2.0,
        usage=Usage(
            input_tokens=whole, cache_write_5m_tokens=view.counts[-2], output_tokens=400, thinking_tokens=100
        ),
        cost=Cost(cache_write_5m_nano_usd=whole * 7_000, output_text_nano_usd=400 * 25_000),
        counterfactuals=Counterfactuals(no_caching_nano_usd=whole * 5_000 + 400 * 25_000),
        answered_model=MODEL,
    )


def serve(session: Session, parts: Parts) -> None:
    """What a request and its settlement do to what is remembered."""
    started_s, identity, view, settlement = session
    first_byte_at_s = started_s + 1.0
    if parts.demand is not None:
        parts.demand.arrive(SCOPE, view.prompt, view.digests, started_s, identity.application, view.counts)
    learned = Learned(None, 0)
    if parts.index is not None:
        parts.index.begin(SCOPE, view.plan, started_s)
        parts.index.first_byte(SCOPE, view.plan, started_s, first_byte_at_s)
        learned = parts.index.observe(
            SCOPE,
            view.digests,
            view.counts,
            view.plan,
            started=started_s,
            first_byte_at=first_byte_at_s,
            read_tokens=0,
            write_5m_tokens=view.counts[-2],
            write_1h_tokens=0,
        )
    if parts.misses is not None:
        usage = settlement.usage
        assert usage is not None
        parts.misses.remember(
            identity, view, usage, learned, started_s=started_s, first_byte_at_s=first_byte_at_s
        )
    if parts.book is not None:
        parts.book.remember(identity.tenant, identity.session, Route.OPUS, application=identity.application)
        parts.book.note(settlement, view)


def parts_of(cache: CacheConfig, only: str = "") -> Parts:
    """The structures as the app sizes them; `only` one of them when it is named."""
    from router.state import MISS_SESSION_LIMIT

    limit = cache.prefix_limit
    make: dict[str, Callable[[], object]] = {
        "demand": lambda: Demand(max_prefixes=limit, max_waiting=limit),
        "index": lambda: PrefixIndex(limit),
        "misses": lambda: MissMemory(min(cache.session_limit, MISS_SESSION_LIMIT)),
        "book": lambda: SessionBook(cache.session_limit),
    }
    return Parts(**{name: made() if only in ("", name) else None for name, made in make.items()})  # type: ignore[arg-type]


def resident_mib() -> float:
    """Resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def feed(parts: Parts, source: Iterator[Session], count: int) -> tuple[float, float]:
    """Serve `count` sessions; gives seconds in all and the longest one in milliseconds, building them left out."""
    total = longest = 0.0
    for session in islice(source, count):
        started = perf_counter()
        serve(session, parts)
        took = perf_counter() - started
        total += took
        if took > longest:
            longest = took
    return total, longest * 1e3


def measure_all(cache: CacheConfig, count: int) -> dict[str, float]:
    """Everything in this process: `count` sessions, then as many again."""
    source = sessions()
    feed(parts_of(cache), source, 10)
    before, parts = resident_mib(), parts_of(cache)
    _, first_ms = feed(parts, source, count)
    first = resident_mib()
    spent_s, second_ms = feed(parts, source, count)
    second = resident_mib()
    return {
        "before_mib": before,
        "first_mib": first,
        "second_mib": second,
        "growth_mib": second - first,
        "us_per_session": spent_s / count * 1e6,
        "longest_ms": max(first_ms, second_ms),
    }


def measure_one(cache: CacheConfig, name: str, count: int) -> dict[str, float]:
    """One structure by itself, until its limit is passed."""
    limit = cache.prefix_limit if name in ("demand", "index") else cache.session_limit
    source = sessions()
    feed(parts_of(cache, name), source, 10)
    before, parts = resident_mib(), parts_of(cache, name)
    spent_s, longest_ms = feed(parts, source, min(count, limit + limit // 4))
    size = getattr(getattr(parts, name), "entry_count", None)
    entries = len(getattr(parts, name)) if size is None else size
    taken = resident_mib() - before
    return {
        "entries": entries,
        "mib": taken,
        "bytes_per_entry": taken * 2**20 / max(1, entries),
        "us_per_session": spent_s / min(count, limit + limit // 4) * 1e6,
        "longest_ms": longest_ms,
    }


def _child(arguments: list[str]) -> dict[str, float]:
    """Run this file in a process of its own."""
    command = [sys.executable, __file__, "--json", *arguments]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def main(argv: list[str]) -> int:
    """Print a table, or JSON; 1 when a bound is exceeded."""
    default = CacheConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1_000_000, help="sessions of each half")
    parser.add_argument("--session-limit", type=int, default=default.session_limit)
    parser.add_argument("--prefix-limit", type=int, default=default.prefix_limit)
    parser.add_argument("--only", choices=("all", *Parts._fields), help="measure this in this process")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    cache = msgspec.structs.replace(
        default, session_limit=asked.session_limit, prefix_limit=asked.prefix_limit
    )
    if asked.only:
        found = (
            measure_all(cache, asked.sessions)
            if asked.only == "all"
            else measure_one(cache, asked.only, asked.sessions)
        )
        print(json.dumps(found))
        return 0
    limits = ["--session-limit", str(asked.session_limit), "--prefix-limit", str(asked.prefix_limit)]
    limits += ["--sessions", str(asked.sessions)]
    one = {name: _child([*limits, "--only", name]) for name in Parts._fields}
    whole = _child([*limits, "--only", "all"])
    held = whole["second_mib"] <= BOUND_MIB and whole["growth_mib"] <= GROWTH_MIB
    if asked.json:
        print(json.dumps({"structures": one, "all": whole, "held": held}))
        return 0 if held else 1
    print(f"sessions remembered {asked.session_limit:,}, prefixes {asked.prefix_limit:,}")
    print(f"{'':10}{'entries':>12}{'MiB':>9}{'B/entry':>9}{'us':>8}{'longest ms':>12}")
    for name, row in one.items():
        print(
            f"{name:10}{row['entries']:>12,.0f}{row['mib']:>9.1f}{row['bytes_per_entry']:>9.0f}"
            f"{row['us_per_session']:>8.1f}{row['longest_ms']:>12.1f}"
        )
    print(
        f"all: {whole['before_mib']:.0f} MiB before, {whole['first_mib']:.0f} after {asked.sessions:,} sessions, "
        f"{whole['second_mib']:.0f} after {2 * asked.sessions:,} (growth {whole['growth_mib']:+.1f}); "
        f"{whole['us_per_session']:.1f} us a session, longest {whole['longest_ms']:.1f} ms; "
        f"bound {BOUND_MIB:.0f} MiB {'holds' if held else 'IS EXCEEDED'}"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
