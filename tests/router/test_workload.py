"""Workload files: what is read, in which order it is sent, and what is refused with which words."""

import gzip
import json
import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import router
from router.call import Effort, Role, Text, ToolCall, ToolResult
from router.timeline import WorkloadRequest, interleave
from router.workload import WorkloadError, parse_workload, read_workload

DATA = Path(router.__file__).parent / "data"


def parse(*lines: object, **options):
    return parse_workload((json.dumps(line) for line in lines), source="w.jsonl", **options)


def system_line(text: str = "Be exact.") -> dict:
    return {"type": "system", "id": "s0", "content": text}


def dialogue(*messages: dict, task: int = 0, trial: int = 0) -> dict:
    return {"type": "dialogue", "task": task, "trial": trial, "system": "s0", "messages": list(messages)}


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


def asked(text: str) -> dict:
    return {"role": "user", "content": text}


def called(id: str, name: str, arguments: str) -> dict:
    return {"role": "assistant", "tool_calls": [{"id": id, "name": name, "arguments": arguments}]}


def returned(id: str, text: str) -> dict:
    return {"role": "tool", "tool_call_id": id, "name": "t", "content": text}


def grown(session: str, seq: int, keep: int, add: str) -> dict:
    return {"agent": "a", "session": session, "seq": seq, "t": 0.0, "keep": keep, "add": add, "output": "x"}


class TestOwnFormat:
    def test_every_field_arrives(self):
        """Each documented field of a request ends up in its place, in the router's own words."""
        workload = parse(
            {"type": "workload", "version": 1, "max_tool_steps": 2, "tool_results": {"t": {"b": 1, "a": 2}}},
            {
                "id": "r",
                "session": "s",
                "tenant": "acme",
                "user": "u",
                "application": "app",
                "system": ["sys"],
                "tools": [{"name": "t", "description": "d", "input_schema": {"type": "object", "a": 1}}],
                "user_context": ["ctx"],
                "turn": "hello",
                "after_s": 3,
                "stream": True,
                "cancel_after_events": 2,
                "max_output_tokens": 10,
                "effort": "low",
                "cache_strategy": "c",
                "constraints": {"forced_route": "opus", "quality_floor": 0.5, "no_cache": True},
                "labels": {"k": "v"},
                "action": "open_board",
                "tool_results": {"own": "text"},
            },
        )
        request = workload.requests[0]
        assert (workload.max_tool_steps, workload.format) == (2, "workload")
        assert request.tools[0].input_schema_json == '{"type":"object","a":1}'
        assert request.tool_results == {"t": '{"b":1,"a":2}', "own": "text"}
        assert request.constraints.forced_route == "opus"
        assert request.constraints.quality_floor == 0.5
        assert request.constraints.no_cache
        assert request.effort is Effort.LOW
        assert (request.id, request.session, request.tenant, request.user) == ("r", "s", "acme", "u")
        assert (request.application, request.system, request.user_context) == ("app", ("sys",), ("ctx",))
        assert (request.after_s, request.stream, request.cancel_after_events) == (3.0, True, 2)
        assert (request.max_output_tokens, request.cache_strategy, request.action) == (10, "c", "open_board")
        assert request.continues
        assert request.messages[0].parts == (Text("hello"),)

    def test_user_line_supplies_what_the_request_leaves_out(self):
        """A request's own tenant, context and labels win over those of its user's line."""
        user = {
            "type": "user",
            "user": "u",
            "tenant": "acme",
            "user_context": ["c"],
            "labels": {"a": "1", "b": "1"},
        }
        plain, own = parse(
            user,
            {"user": "u", "turn": "x"},
            {"user": "u", "turn": "x", "tenant": "other", "user_context": [], "labels": {"b": "2"}},
        ).requests
        assert (plain.tenant, plain.user_context, plain.labels) == ("acme", ("c",), {"a": "1", "b": "1"})
        assert (own.tenant, own.user_context, own.labels) == ("other", (), {"a": "1", "b": "2"})

    def test_messages_hold_calls_results_and_media(self):
        """A whole conversation may hold every kind of part a client can have at rest."""
        request = parse(
            {
                "messages": [
                    {
                        "role": "user",
                        "parts": [{"text": "see"}, {"image": {"media_type": "image/png", "data": "aGk="}}],
                    },
                    {
                        "role": "assistant",
                        "parts": [{"tool_call": {"id": "c", "name": "t", "arguments": {"z": 1, "a": 2}}}],
                    },
                    {
                        "role": "user",
                        "parts": [{"tool_result": {"tool_call_id": "c", "content": [1], "is_error": True}}],
                    },
                ]
            }
        ).requests[0]
        assert request.messages[0].parts[1].data == b"hi"
        assert request.messages[1].parts == (ToolCall("c", "t", '{"z":1,"a":2}'),)
        assert request.messages[2].parts == (ToolResult("c", (Text("[1]"),), is_error=True),)
        assert not request.continues

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ({"turn": "x", "max_output_tokens": 0}, ["w.jsonl:2: max_output_tokens", "`int` >= 1", "got 0"]),
            ({"turn": "x", "after_s": -1.5}, ["after_s", ">= 0", "got -1.5"]),
            ({"turn": "x", "effort": "huge"}, ["effort", "'huge'"]),
            ({"turn": "x", "colour": 1}, ["unknown field `colour`"]),
            (
                {"turn": "x", "constraints": {"quality_floor": 2}},
                ["constraints.quality_floor", "<= 1", "got 2"],
            ),
            ({"turn": "x", "cancel_after_events": 3}, ["cancel_after_events", "needs stream true"]),
            ({"turn": "  "}, ["turn", 'got "  "']),
            ({}, ["turn: give either turn or messages"]),
            ({"turn": "x", "messages": [{"role": "user", "text": "x"}]}, ["either turn or messages"]),
            ({"turn": {"role": "assistant", "text": "x"}}, ["turn.role", "must be user"]),
            ({"messages": [{"role": "tool", "text": "x"}]}, ["messages[0].role", "'tool'"]),
            (
                {"messages": [{"role": "user", "text": "x"}, {"role": "assistant", "text": "y"}]},
                ["messages[1].role", "must be user"],
            ),
            ({"messages": [{"role": "user"}]}, ["messages[0]: give either text or parts"]),
            ({"messages": [{"role": "user", "parts": [{}]}]}, ["messages[0].parts[0]", "got none"]),
            ({"turn": "x", "type": "usr"}, ["type", 'got "usr"', "workload, user, request"]),
            ({"turn": "x", "id": "first"}, ["id", "'first' is used twice"]),
            ({"type": "workload", "version": 1}, ["type", "must be the first line"]),
        ],
    )
    def test_wrong_line_is_refused_with_place_value_and_limit(self, line, words):
        """An error names file, line and field, and says what it got and what it takes."""
        with pytest.raises(WorkloadError) as caught:
            parse({"id": "first", "turn": "x"}, line)
        assert caught.value.line == 2
        for word in words:
            assert word in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "holds no line"),
            ('{"type":"workload","version":1}', "holds no request"),
            ('{"type":"workload","version":2}', "got 2"),
            ("[1]", "must be a JSON object, got list"),
            ('{"turn":', "w.jsonl:1: is not JSON"),
            ('{"type":"trace"}', "none of the formats known"),
            (
                '{"type":"user","user":"u"}\n{"type":"user","user":"u"}',
                "w.jsonl:2: user: 'u' has a line already",
            ),
        ],
    )
    def test_wrong_file_is_refused(self, text, words):
        """A file without requests, of another version or another format is refused as a whole."""
        with pytest.raises(WorkloadError, match=r"w\.jsonl") as caught:
            parse_workload(text.split("\n"), source="w.jsonl")
        assert words in str(caught.value)

    def test_limit_keeps_the_first_requests(self):
        """A limit cuts the timeline, it does not sample it."""
        workload = parse(*({"id": f"r{i}", "turn": "x", "after_s": 1} for i in range(5)), limit=2)
        assert [request.id for request in workload.requests] == ["r0", "r1"]
        assert workload.duration_s == 2.0

    @pytest.mark.parametrize("options", [{"limit": 0}, {"concurrency": 0}, {"spacing_s": -1.0}])
    def test_arguments_out_of_range_are_refused(self, options):
        """Limits of the reader's own arguments hold, too."""
        with pytest.raises(ValueError, match="must be >= 1"):
            parse({"turn": "x"}, **options)


class TestFiles:
    def test_gzip_is_told_by_content(self, tmp_path):
        """A compressed file is read whatever its name."""
        path = tmp_path / "w.jsonl"
        path.write_bytes(gzip.compress(b'{"turn":"x"}\n'))
        assert len(read_workload(path).requests) == 1

    @pytest.mark.parametrize("content", [b"\x1f\x8b\x08broken", b"\xff\xfe\x00", None])
    def test_unreadable_file_is_a_workload_error(self, tmp_path, content):
        """A missing, damaged or binary file is one error with the file's name."""
        path = tmp_path / "w.jsonl"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(WorkloadError, match=r"w\.jsonl"):
            read_workload(path)

    def test_line_separators_inside_text_do_not_split_lines(self):
        """Only a newline ends a line: JSON may hold U+2028 as it is."""
        assert parse_workload(['{"turn":"a\u2028b"}'], source="w").requests[0].messages[0].parts == (
            Text("a\u2028b"),
        )


class TestToolDialogues:
    def test_each_answer_is_a_request_with_all_before_it(self):
        """The prompt of a request is the system prompt and the messages before the recorded answer."""
        workload = parse(system_line(), dialogue(asked("a"), said("b"), asked("c"), said("d"), asked("bye")))
        first, second = workload.requests
        assert workload.format == "tool_dialogues"
        assert first.system == ("Be exact.",)
        assert [message.role for message in second.messages] == [Role.USER, Role.ASSISTANT, Role.USER]
        assert second.messages[: len(first.messages)] == first.messages
        assert first.session == second.session == "dialogue-0-0"
        assert not first.continues

    def test_repeated_call_ids_become_unique_and_keep_their_results(self):
        """The second use of a recorded id is renamed, and its result answers the renamed call."""
        messages = (
            parse(
                system_line(),
                dialogue(
                    asked("a"),
                    called("c", "t", "{}"),
                    returned("c", "1"),
                    called("c", "t", "{}"),
                    returned("c", ""),
                    said("z"),
                ),
            )
            .requests[-1]
            .messages
        )
        calls = [part.id for message in messages for part in message.parts if isinstance(part, ToolCall)]
        results = [part for message in messages for part in message.parts if isinstance(part, ToolResult)]
        assert calls == ["c", "c-2"] == [result.call_id for result in results]
        assert [result.content for result in results] == [(Text("1"),), (Text(""),)]

    def test_results_in_a_row_are_one_user_message(self):
        """Parallel calls are answered together, as the API wants it."""
        both = {"role": "assistant", "content": "two", "tool_calls": []}
        both["tool_calls"] = [{"id": i, "name": "t", "arguments": "{}"} for i in ("x", "y")]
        messages = (
            parse(
                system_line(), dialogue(asked("a"), both, returned("x", "1"), returned("y", "2"), said("z"))
            )
            .requests[-1]
            .messages
        )
        assert len(messages) == 3
        assert [part.call_id for part in messages[2].parts] == ["x", "y"]
        assert messages[1].parts[0] == Text("two")

    def test_tools_are_derived_from_all_calls_in_a_fixed_order(self):
        """Definitions are the same bytes whatever the order of dialogues; required means in every call."""
        one = dialogue(
            asked("a"), called("1", "zeta", '{"q":"s","n":1}'), returned("1", "r"), said("x"), task=1
        )
        two = dialogue(
            asked("a"),
            called("1", "zeta", '{"q":2}'),
            returned("1", "r"),
            called("2", "alpha", '{"l":[{"k":true}]}'),
            task=2,
        )
        forward, backward = parse(system_line(), one, two), parse(system_line(), two, one)
        assert forward.requests[0].tools == backward.requests[0].tools
        alpha, zeta = forward.requests[0].tools
        item = {"type": "object", "properties": {"k": {"type": "boolean"}}, "required": ["k"]}
        assert json.loads(alpha.input_schema_json) == {
            "type": "object",
            "properties": {"l": {"type": "array", "items": item}},
            "required": ["l"],
        }
        assert json.loads(zeta.input_schema_json) == {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "q": {"type": ["integer", "string"]}},
            "required": ["q"],
        }

    @pytest.mark.parametrize(
        ("lines", "words"),
        [
            (
                [dialogue(asked("a"), called("c", "t", "{}"), asked("b"), said("z"))],
                "1 tool calls need as many",
            ),
            ([dialogue(asked("a"), returned("c", "1"), said("z"))], "'c' answers no call before it"),
            (
                [dialogue(asked("a"), called("c", "t", "{"))],
                "messages[1].tool_calls[0].arguments: is not JSON",
            ),
            ([dialogue(asked("a"), called("c", "t", "[]"))], "must be a JSON object, got list"),
            ([dialogue(said("a"))], "must follow a user or tool message"),
            ([dialogue({"role": "boss", "content": "a"})], "messages[0].role"),
            ([{"type": "dialogue", "system": "s9", "messages": []}], "'s9' is not an id of a system line"),
        ],
    )
    def test_broken_dialogue_is_refused(self, lines, words):
        """What no API would take is refused when it is read, with its line."""
        with pytest.raises(WorkloadError) as caught:
            parse(system_line(), *lines)
        assert words in str(caught.value)
        assert caught.value.line == 2

    def test_dialogues_of_one_name_stay_apart(self):
        """Two recordings of one task and trial are two sessions."""
        workload = parse(system_line(), dialogue(asked("a"), said("b")), dialogue(asked("a"), said("b")))
        assert {request.session for request in workload.requests} == {"dialogue-0-0", "dialogue-0-0-2"}


class TestAgentText:
    def test_appended_prompt_keeps_earlier_parts(self):
        """Every append is a new text part, so the earlier parts are a prefix byte for byte."""
        first, second = parse(grown("s", 0, 0, "task"), grown("s", 1, 4, "\n\nresult")).requests
        assert first.messages[0].parts == (Text("task"),)
        assert second.messages[0].parts == (Text("task"), Text("\n\nresult"))

    def test_cut_prompt_is_rebuilt_from_the_cut(self):
        """Parts before the cut stay; the part that is cut is joined with what follows."""
        rows = (grown("s", 0, 0, "one"), grown("s", 1, 3, "two"), grown("s", 2, 4, "x"))
        assert parse(*rows).requests[2].messages[0].parts == (Text("one"), Text("tx"))

    def test_impossible_keep_is_refused(self):
        """A prompt cannot keep more than there was."""
        with pytest.raises(WorkloadError, match=r"w\.jsonl:2: keep: must be 0 to 3, .* got 4"):
            parse(grown("s", 0, 0, "one"), grown("s", 1, 4, "x"))

    @given(st.lists(st.tuples(st.floats(0, 1), st.text("ab \n", max_size=6)), min_size=1, max_size=12))
    def test_parts_join_to_the_recorded_prompt(self, steps):
        """However a prompt grows or shrinks, the parts join to it and none is blank."""
        prompt, rows, expected = "start", [grown("s", 0, 0, "start")], ["start"]
        for seq, (share, add) in enumerate(steps, start=1):
            keep = 1 + int(share * (len(prompt) - 1))
            rows.append(grown("s", seq, keep, add))
            prompt = prompt[:keep] + add
            expected.append(prompt)
        for request, text in zip(parse(*rows).requests, expected, strict=True):
            parts = [part.text for part in request.messages[0].parts]
            assert "".join(parts) == text
            assert all(part.strip() for part in parts)


class TestInterleave:
    @given(st.lists(st.integers(1, 6), max_size=8), st.sampled_from([0.0, 1.0, 7.5]), st.integers(1, 5))
    def test_sessions_keep_their_order_and_their_number(self, lengths, spacing_s, concurrency):
        """No request is lost, sessions stay in order, and never more than `concurrency` are open."""
        messages = ()
        sessions = [
            tuple(WorkloadRequest(id=f"{s}-{i}", session=str(s), messages=messages) for i in range(length))
            for s, length in enumerate(lengths)
        ]
        requests = interleave(sessions, spacing_s=spacing_s, concurrency=concurrency)
        assert sorted(request.id for request in requests) == sorted(r.id for s in sessions for r in s)
        for s, session in enumerate(sessions):
            assert [r.id for r in requests if r.session == str(s)] == [r.id for r in session]
        open_sessions: set[str] = set()
        left = {str(s): length for s, length in enumerate(lengths)}
        for request in requests:
            assert request.after_s >= 0
            open_sessions.add(request.session)
            if spacing_s:
                assert len(open_sessions) <= concurrency
            left[request.session] -= 1
            if not left[request.session]:
                open_sessions.discard(request.session)

    def test_same_session_requests_are_spaced(self):
        """A lone session has a request every `spacing_s`."""
        rows = [grown("s", 0, 0, "a"), grown("s", 1, 1, "b"), grown("s", 2, 2, "c")]
        assert [r.after_s for r in parse(*rows, spacing_s=7.0, concurrency=1).requests] == [0.0, 7.0, 7.0]


class TestShippedDemo:
    workload = read_workload(DATA / "demo.jsonl")
    applications = tomllib.loads((DATA / "demo.toml").read_text(encoding="utf-8"))["applications"]

    def test_it_is_what_the_documentation_promises(self):
        """250 to 400 requests of about 120 sessions, two in five streamed and some of these left."""
        requests = self.workload.requests
        assert 250 <= len(requests) <= 400
        assert 100 <= self.workload.session_count <= 140
        assert 0.3 <= sum(request.stream for request in requests) / len(requests) <= 0.5
        assert 3 <= sum(request.cancel_after_events is not None for request in requests) <= 10
        assert (DATA / "demo.jsonl").stat().st_size < 400_000

    def test_sessions_idle_past_both_ttls(self):
        """Some sessions come back after five minutes and some after an hour, so that both TTLs matter."""
        at_s, last, gaps = 0.0, {}, []
        for request in self.workload.requests:
            at_s += request.after_s
            if request.session in last:
                gaps.append(at_s - last[request.session])
            last[request.session] = at_s
        assert sum(gap > 300 for gap in gaps) >= 20
        assert sum(gap > 3600 for gap in gaps) >= 5

    def test_every_tool_has_a_result_and_every_application_exists(self):
        """A tool the router's answer may call is answered, and no request names what is not registered."""
        tools = {tool["name"] for entry in self.applications.values() for tool in entry["tools"]}
        assert tools == set(self.workload.requests[0].tool_results)
        assert {request.application for request in self.workload.requests} == set(self.applications)
        assert all(request.user_context and request.tenant for request in self.workload.requests)


@pytest.mark.parametrize("name", ["tool_dialogues.dev.jsonl.gz", "agent_text.dev.jsonl.gz"])
def test_public_recordings_are_read_whole(name):
    """With HYBRID_ROUTER_DATA naming a folder of recordings, every prompt of them is a legal conversation."""
    folder = os.environ.get("HYBRID_ROUTER_DATA")
    if not folder:
        pytest.skip("HYBRID_ROUTER_DATA is not set: it names the folder that holds traces/")
    workload = read_workload(Path(folder) / "traces" / name)
    assert len(workload.requests) > 100
    for request in workload.requests:
        assert request.messages[0].role is Role.USER
        assert request.messages[-1].role is Role.USER
        calls = [part.id for m in request.messages for part in m.parts if isinstance(part, ToolCall)]
        assert len(calls) == len(set(calls))
