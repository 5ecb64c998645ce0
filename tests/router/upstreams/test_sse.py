"""Server-sent events come whole, however the bytes are cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.upstreams.sse import SseSplitter

EVENTS = [b'{"a":1}', b'{"b":"\xc3\xa9"}', b"", b'{"c":[]}']


def encoded(newline: bytes) -> bytes:
    return b"".join(b"event: x%bdata: %b%b%b" % (newline, data, newline, newline) for data in EVENTS)


@given(st.sampled_from([b"\n", b"\r\n"]), st.lists(st.integers(0, 120)))
def test_cuts_do_not_matter(newline: bytes, cuts: list[int]) -> None:
    """Bytes arrive in any pieces, also in the middle of a character or of a line end."""
    stream = encoded(newline)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter = SseSplitter()
    found = [
        data.rstrip(b"\r") for start, end in pairwise(edges) for data in splitter.feed(stream[start:end])
    ]
    assert [data for data in found if data] == [data for data in EVENTS if data]


def test_only_data_counts() -> None:
    """Comments, names, ids and retries are skipped; lines of data are joined; the space is optional."""
    splitter = SseSplitter()
    assert splitter.feed(b": hello\nid: 7\nretry: 5\n\n\nevent: e\ndata:1\ndata: 2\n\n") == [b"1\n2"]


def test_last_event_may_lack_its_blank_line() -> None:
    """Gemini ends a stream by closing it; an event without its blank line still counts."""
    splitter = SseSplitter()
    assert splitter.feed(b"data: 1\n\ndata: 2") == [b"1"]
    assert splitter.flush() == [b"2"]
    assert splitter.flush() == []


@given(st.lists(st.integers(0, 60)))
def test_a_body_that_is_no_stream_comes_whole(cuts: list[int]) -> None:
    """A JSON error under HTTP 200, also behind events, is handed out at the end, uncut."""
    body = b'[{\n  "error": {"code": 503}\n}]\n'
    stream = b"data: 1\n\n" + body
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter = SseSplitter()
    found = [data for start, end in pairwise(edges) for data in splitter.feed(stream[start:end])]
    assert found == [b"1"]
    assert splitter.flush() == [body]
    assert splitter.flush() == []
