"""Server-sent events split by hand: raw bytes in, the data of whole events out.

The rule: only `data:` fields matter; names, ids, retries and comments are skipped, because both providers
repeat the event's type inside its data (A-STREAM, G-GEN, 2026-11). Lines may end in LF or CRLF and may arrive
in any pieces. A body that is no event stream at all (a JSON error under HTTP 200) is handed out whole at its end,
from the first line that begins an object or array. This module does not decode the data.
"""

_JSON_OPENINGS = (b"{", b"[")


class SseSplitter:
    """Collects bytes of one stream; not shared between streams."""

    __slots__ = ("_data", "_plain", "_rest")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._plain: list[bytes] | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes and return the data of every event they complete, in order."""
        if self._plain is not None:
            self._plain.append(chunk)
            return []
        if b"\n" not in chunk:
            self._rest.append(chunk)
            return []
        if self._rest:
            self._rest.append(chunk)
            chunk = b"".join(self._rest)
            self._rest.clear()
        lines = chunk.split(b"\n")
        last = lines.pop()
        if last:
            self._rest.append(last)
        events: list[bytes] = []
        data = self._data
        for at, line in enumerate(lines):
            if line.startswith(b"data:"):
                content = line[6:] if line.startswith(b"data: ") else line[5:]
                if content not in (b"", b"\r"):
                    data.append(content)
            elif data and line in (b"", b"\r"):
                events.append(data[0] if len(data) == 1 else b"\n".join(data))
                data.clear()
            elif line.startswith(_JSON_OPENINGS):
                self._plain = [b"\n".join([*lines[at:], last])]
                self._rest.clear()
                break
        return events

    def flush(self) -> list[bytes]:
        """Return what the stream ended with: an event without its blank line, a body that was no stream."""
        events = self.feed(b"\n\n") if self._rest or self._data else []
        if self._plain is not None:
            events.append(b"".join(self._plain))
            self._plain = None
        return events
