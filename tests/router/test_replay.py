"""Replay: decisions from the past only, in their documented form, on a bill that a second model agrees with."""

import gzip
import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cache.economics import Rates, cost_units
from cache.prompt import BlockKind, Layer
from router.cli import app
from router.cli.fault import reported
from router.replay import Policy, Settings, decision, replay
from router.replay_provider import ReferenceCache
from router.replay_report import Tally
from router.replay_trace import LayerEnd, PromptBuilder, Shape, TraceRow, common_blocks, in_order, read_trace
from router.timeline import WorkloadError

SIZE = 64
LIST = Rates(1.25, 2.0, 0.1)


def row(session, sequence, time_s, runs, *, namespace="n", added=("text",), extra=0, **kwargs):
    blocks = sum(count for _, count in runs)
    return TraceRow(
        namespace=namespace,
        session=session,
        stream="main",
        sequence=sequence,
        time_s=time_s,
        input_tokens=blocks * SIZE + extra,
        output_tokens=100,
        block_tokens=SIZE,
        runs=tuple(runs),
        added=added,
        **kwargs,
    )


def traffic(seed=5, namespaces=6):
    """Agents that loop, pause, replace their last block and are compacted; some never return."""
    random, rows = Random(seed), []
    for number in range(namespaces):
        now, first, length = 0.0, 1, 60 + random.randrange(60)
        runs, fresh = [(1, length)], 10_000
        for sequence in range(random.randrange(1, 25)):
            loop = ("tool_result",) if sequence and random.random() < 0.8 else ("text",)
            name = f"n{number}"
            rows.append(
                row(
                    name, sequence, now, runs, namespace=name, added=loop, extra=random.randrange(SIZE)
                )._replace(tools_tokens=20 * SIZE, system_tokens=10 * SIZE, kind=f"model {number % 2}")
            )
            now += random.choice([5.0, 20.0, 20.0, 60.0, 900.0, 5000.0])
            first, count = runs[-1]
            match random.random():
                case p if p < 0.1 and len(runs) == 1:
                    runs = [(1, 32), (fresh, 40)]
                case p if p < 0.3 and count > 1:
                    runs = [*runs[:-1], (first, count - 1), (fresh, 3)]
                case _:
                    runs = [*runs[:-1], (first, count), (fresh, random.randrange(1, 30))]
            fresh += 100
    return in_order(rows)


ROWS = traffic()


@pytest.mark.parametrize("policy", Policy)
def test_a_trace_cut_short_is_decided_alike(policy):
    """Whatever comes after a request has no part in its decision."""
    whole = [decision(served) for served in replay(ROWS, policy)]
    for length in (1, 7, len(ROWS) // 2, len(ROWS) - 1):
        assert [decision(served) for served in replay(ROWS[:length], policy)] == whole[:length]


def test_what_follows_a_request_cannot_change_it():
    """Same past, other futures: the request at the fork is decided alike."""
    cut = len(ROWS) // 2
    changed = [
        found._replace(time_s=found.time_s + 7e5, runs=((9_000_000, 300),), input_tokens=300 * SIZE)
        for found in ROWS[cut:]
    ]
    futures = [list(replay([*ROWS[:cut], *rest], Policy.AUTO)) for rest in (ROWS[cut:], changed)]
    assert [decision(s) for s in futures[0][:cut]] == [decision(s) for s in futures[1][:cut]]


@pytest.mark.parametrize("policy", Policy)
def test_decisions_have_the_documented_form(policy):
    """One per request, keyed as the trace is; whole blocks, no more than four marks, 1h before 5m, no keep-alives."""
    keys = set()
    for served in replay(ROWS, policy):
        found = json.loads(json.dumps(decision(served)))
        assert set(found) == {"ns", "stream", "session", "seq", "ttl", "keepalive", "every", "bp"}
        assert found["ttl"] in ("none", "5m", "1h")
        assert found["keepalive"] == 0
        marks = [(tokens, ttl) for tokens, ttl in found["bp"]]
        if found["ttl"] != "none":
            marks.append((served.row.whole_blocks * SIZE, found["ttl"]))
        assert len(marks) <= 4
        assert [tokens for tokens, _ in marks] == sorted({tokens for tokens, _ in marks})
        assert all(tokens % SIZE == 0 and 0 < tokens <= served.row.input_tokens for tokens, _ in marks)
        assert [ttl for _, ttl in marks] == sorted((ttl for _, ttl in marks))
        keys.add((found["ns"], found["session"], found["stream"], found["seq"]))
    assert keys == {(r.namespace, r.session, r.stream, r.sequence) for r in ROWS}


def slow_bill(rows, marks_of, minimum_tokens=1024):
    """The cache model again, from its words: entries by whole prefix, every prefix of the prompt tried, no index."""
    total, entries, namespace = [], {}, None
    for served in rows:
        if served.namespace != namespace:
            entries, namespace = {}, served.namespace
        ids = [first + i for first, count in served.runs for i in range(count)][: served.whole_blocks]
        live, now = [0], served.time_s
        reach = max([blocks for blocks, _ in marks_of(served)], default=0)
        for end in range(1, min(reach, len(ids)) + 1):
            entry = entries.get(tuple(ids[:end]))
            if entry and entry["expires"] > now and entry["before"] in live:
                live.append(end)
                entry["expires"] = now + entry["ttl"]
        hit = live[-1]
        marks = sorted(m for m in marks_of(served) if m[0] > hit and m[0] * SIZE >= minimum_tokens)
        b = max([hit] + [blocks for blocks, ttl in marks if ttl == 3600])
        c = max([hit] + [blocks for blocks, _ in marks])
        before = hit
        for blocks, _ in marks:
            ttl = 3600 if blocks <= b else 300
            entry, known = (
                {"ttl": ttl, "expires": now + ttl, "before": before},
                entries.get(tuple(ids[:blocks])),
            )
            if known and known["before"] == before and known["expires"] > entry["expires"]:
                entry |= {"ttl": max(ttl, known["ttl"]), "expires": known["expires"]}
            entries[tuple(ids[:blocks])] = entry
            before = blocks
        total.append((hit * SIZE, (c - b) * SIZE, (b - hit) * SIZE, served.input_tokens - c * SIZE))
    return total


@pytest.mark.parametrize("policy", Policy)
def test_the_bill_is_that_of_the_slow_model(policy):
    """Request by request, for every policy's decisions."""
    served = list(replay(ROWS, policy))
    marks = {id(found.row): found.marks for found in served}
    expected = slow_bill([found.row for found in served], lambda found: marks[id(found)])
    assert [tuple(found.split) for found in served] == expected


@settings(max_examples=60)
@given(st.data())
def test_any_marks_are_billed_alike(data):
    """Also marks no planner would set: 1h on 5m, below the minimum, at the end of a part that was replaced."""
    rows = traffic(data.draw(st.integers(0, 50)), namespaces=1)
    mark = st.tuples(st.integers(1, 40), st.sampled_from([300, 3600]))
    chosen = {
        id(found): [
            (min(blocks, found.whole_blocks), ttl)
            for blocks, ttl in data.draw(st.lists(mark, max_size=4, unique_by=lambda m: m[0]))
        ]
        for found in rows
    }
    cache = ReferenceCache(1024)
    billed = [
        tuple(
            cache.serve(
                found.runs,
                whole_blocks=found.whole_blocks,
                input_tokens=found.input_tokens,
                block_tokens=SIZE,
                marks=chosen[id(found)],
                now_s=found.time_s,
            )
        )
        for found in rows
    ]
    assert billed == slow_bill(rows, lambda found: sorted(set(chosen[id(found)])))


def test_an_entry_lives_its_ttl_from_the_latest_use():
    """299 seconds after the start it is read, and its clock restarts; 300 after that it is gone."""
    rows = [row("s", i, t, [(1, 40)]) for i, t in enumerate((0.0, 299.0, 599.0))]
    splits = [served.split for served in replay(rows, Policy.TTL_5M)]
    assert [split.read for split in splits] == [0, 40 * SIZE, 0]
    assert [split.write_5m for split in splits] == [40 * SIZE, 0, 40 * SIZE]


def test_a_run_of_tool_calls_is_one_position():
    """And so is a run of results; without shapes every block is one of its own, without layers nobody knows."""
    text, call, result = (
        Shape(kind, "user", True) for kind in (BlockKind.TEXT, BlockKind.TOOL_CALL, BlockKind.TOOL_RESULT)
    )
    layers = tuple([LayerEnd(end, Layer.HISTORY) for end in (2, 3, 4, 7, 8, 9)])
    told = row("s", 0, 0.0, [(1, 9)], layers=layers)
    assert told.position_ends == (2, 3, 4, 7, 8, 9)
    assert told._replace(shapes=(text, call, call, result, result, text)).position_ends == (2, 4, 8, 9)
    assert told._replace(shapes=(text, text, call, call, call, call)).position_ends == (2, 3, 9)
    assert told._replace(layers=()).position_ends == ()


def test_prompts_share_names_exactly_as_far_as_they_share_blocks():
    """An id is a prefix: the names of two prompts agree up to the block where they part."""
    builder = PromptBuilder()
    first = builder.prompt(row("s", 0, 0.0, [(1, 50)], tools_tokens=20 * SIZE, system_tokens=10 * SIZE))
    second = builder.prompt(
        row("s", 1, 9.0, [(1, 49), (900, 20)], tools_tokens=20 * SIZE, system_tokens=10 * SIZE)
    )
    common = [
        end
        for end, left, right in zip(first.ends, first.digests, second.digests, strict=False)
        if left == right
    ]
    assert max(common) == 46  # the last 256 tokens are a block of their own, and were replaced in part
    assert second.returned_gap_s == 9.0
    assert [second.ends[end] for end in second.prompt.ends[:2]] == [20, 30]
    assert sum(block.token_count for block in second.prompt.blocks) == 69 * SIZE


def test_a_compacted_conversation_keeps_what_it_kept():
    """History is what was sent before, cut where that was cut; the rest is the turn."""
    builder = PromptBuilder()
    builder.prompt(row("s", 0, 0.0, [(1, 300)], tools_tokens=20 * SIZE, system_tokens=10 * SIZE))
    found = builder.prompt(
        row("s", 1, 9.0, [(1, 35), (900, 20)], tools_tokens=20 * SIZE, system_tokens=10 * SIZE)
    )
    assert found.returned_gap_s is None
    assert found.ends[found.prompt.ends[Layer.HISTORY]] == 35


def test_common_blocks_stop_at_the_first_difference():
    """Also within a run, and where one prompt is the other's beginning."""
    assert common_blocks(((1, 5), (9, 3)), ((1, 5), (9, 7))) == 8
    assert common_blocks(((1, 5), (9, 3)), ((1, 4), (9, 3))) == 4
    assert common_blocks(((1, 5),), ((2, 5),)) == 0


def test_auto_learns_who_comes_back():
    """Chat that never returns is not written; a loop that always does is, and ends far below both fixed rules."""
    never = [row(f"s{i}", 0, 40.0 * i, [(1000 * i, 60)]) for i in range(300)]
    assert all(not served.marks for served in replay(never, Policy.AUTO))
    loops = [
        row(
            f"s{i}",
            n,
            1e4 * i + 20 * n,
            [(10_000 * i, 60 + 5 * n)],
            added=("tool_result",) if n else ("text",),
        )
        for i in range(30)
        for n in range(12)
    ]
    costs = {
        policy: sum(cost_units(served.split, LIST) for served in replay(in_order(loops), policy))
        for policy in (Policy.AUTO, Policy.NONE, Policy.TTL_1H)
    }
    assert costs[Policy.AUTO] < 0.35 * costs[Policy.NONE]
    assert costs[Policy.AUTO] < costs[Policy.TTL_1H]


def test_figures_add_up():
    """Tokens are accounted once; chances lie in their bins; the interval holds the figure; NONE costs 1."""
    tally = Tally(Policy.AUTO, LIST)
    served = list(replay(ROWS, Policy.AUTO))
    for found in served:
        tally.add(found)
    figures = tally.figures()
    assert figures.split.total == sum(found.input_tokens for found in ROWS)
    assert figures.cost_units == pytest.approx(sum(cost_units(found.split, LIST) for found in served))
    low, high = figures.interval
    assert low <= figures.relative_cost <= high
    assert figures.warm.requests == len(ROWS) >= figures.returns.requests > 0
    for bin_ in (*figures.warm.bins, *figures.returns.bins):
        assert bin_.low <= bin_.predicted <= bin_.low + 0.1 + 1e-9
        assert 0 <= bin_.observed <= 1
    nothing = Tally(Policy.NONE, LIST)
    for found in replay(ROWS, Policy.NONE):
        nothing.add(found)
    assert nothing.figures().relative_cost == 1.0


def test_what_is_believed_warm_is_read():
    """Belief rests on the same rules as the reference bill, so on a trace it is nearly never wrong."""
    served = list(replay(traffic(9, 40), Policy.AUTO, Settings()))
    believed = [found for found in served if found.p_hit > 0]
    assert len(believed) > 100
    assert sum(found.held for found in believed) / len(believed) > 0.97


# --- the command


def as_json_row(found):
    return {
        "ns": found.namespace,
        "session": found.session,
        "stream": found.stream,
        "seq": found.sequence,
        "t": found.time_s,
        "in": found.input_tokens,
        "out": found.output_tokens,
        "bs": found.block_tokens,
        "blocks": [list(run) for run in found.runs],
        "model": found.kind,
        "new": list(found.added),
        "tools_tok": found.tools_tokens,
        "system_tok": found.system_tokens,
    }


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(as_json_row(found)) + "\n" for found in ROWS)
    return path


def test_the_command_writes_decisions_and_figures(trace, tmp_path):
    """One line per request, equal to what the library decides, and figures a machine may read."""
    out = tmp_path / "out.jsonl"
    result = CliRunner().invoke(
        app, ["replay", str(trace), "--policy", "auto", "--decisions", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert read_trace(trace) == ROWS
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert written == [json.loads(json.dumps(decision(served))) for served in replay(ROWS, Policy.AUTO)]
    (figures,) = json.loads(result.stdout)["policies"]
    assert figures["requests"] == len(ROWS)
    assert figures["decision_us"]["p50"] > 0


def test_policies_are_compared_in_one_table(trace):
    """Repeat --policy."""
    result = CliRunner().invoke(app, ["replay", str(trace), "--policy", "none", "--policy", "1h"])
    assert result.exit_code == 0
    assert "1.0000" in result.stdout


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--model", "nope"), "--model"),
        (("--requests-per-day", "inf"), "--requests-per-day"),
        (("--requests-per-day", "nan"), "--requests-per-day"),
        (("--days", "inf"), "--days"),
        (("--days", "nan"), "--days"),
        (("--days", "1e300"), "--days"),
        (("--read", "nan"), "--read"),
        (("--write-1h", "inf"), "--write-1h"),
    ],
)
def test_what_cannot_be_replayed_is_refused_by_its_option(options, named, capsys):
    """One line of ours, or the parser's own words; exit code 2, never a traceback."""
    with pytest.raises(SystemExit) as ended, reported():
        app(["replay", "--workload", "saas", *options])
    written = capsys.readouterr()
    assert ended.value.code == 2
    assert named in written.err
    assert "Traceback" not in written.err
    assert written.out == ""


def test_a_broken_line_is_named(tmp_path):
    """File, line and field, so that it can be mended."""
    path = tmp_path / "trace.jsonl"
    broken = as_json_row(ROWS[0])
    del broken["blocks"]
    path.write_text(json.dumps(as_json_row(ROWS[0])) + "\n" + json.dumps(broken) + "\n")
    with pytest.raises(WorkloadError, match=r"trace\.jsonl:2: blocks: missing"):
        read_trace(path)
    path.write_text("")
    with pytest.raises(WorkloadError, match="no requests"):
        read_trace(path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"t": float("nan")}, "t: "),
        ({"t": float("inf")}, "t: "),
        ({"t": 1e300}, "t: "),
        ({"in": 10**400}, "in: "),
        ({"out": -1}, "out: "),
        ({"tools_tok": -400}, "tools_tok: "),
        ({"api_s": float("nan")}, "api_s: "),
        ({"blocks": [[10**30, 2]]}, "blocks: "),
        ({"blocks": [[1, float("inf")]]}, "not a request"),
        ({"ns": ["a"]}, "is no name"),
        ({"stop": ["a"]}, "is no name"),
    ],
)
def test_a_number_that_cannot_be_reckoned_with_is_named(changed, named, tmp_path):
    """Before anything is replayed: a time without end would be waited for, an id without bound has no name."""
    path = tmp_path / "trace.jsonl"
    path.write_text(
        json.dumps(as_json_row(ROWS[0])) + "\n" + json.dumps(as_json_row(ROWS[0]) | changed) + "\n"
    )
    with pytest.raises(WorkloadError, match=r"trace\.jsonl:2: ") as refused:
        read_trace(path)
    assert named in str(refused.value)


def test_names_may_be_numbers(tmp_path):
    """Recordings number their sessions; numbers and texts side by side have an order, too."""
    path = tmp_path / "trace.jsonl"
    rows = [as_json_row(ROWS[0]) | {"ns": name, "session": name} for name in (2, "b", None)]
    path.write_text("".join([json.dumps(row) + "\n" for row in rows]))
    assert [row.namespace for row in read_trace(path)] == ["", "2", "b"]


def test_a_file_that_breaks_off_is_named(tmp_path):
    """A compressed file without its end or with another inside, a line nested without end, bytes that are no text."""
    whole = gzip.compress((json.dumps(as_json_row(ROWS[0])) + "\n").encode())
    inside = whole[:12] + bytes([whole[12] ^ 0xFF]) + whole[13:]
    for name, content in (
        ("a.gz", whole[: len(whole) // 2]),
        ("b.gz", inside),
        ("c.jsonl", b"[" * 100_000),
        ("d.jsonl", b'{"ns": "\xff"}'),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(WorkloadError, match=name):
            read_trace(path)
