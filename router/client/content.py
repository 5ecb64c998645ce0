"""What callers say, in few words: messages, parts, tools, and a conversation that keeps answers as they came.

The rule: these make and read the proto messages, nothing else; whatever has no helper is said with the protos
themselves. Answers are appended unchanged, with their thinking and signatures, because a model reads its own back and a
cache is lost by a single changed byte.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from router.v1 import content_pb2, router_service_pb2

Content = str | content_pb2.Part
"""A part, or its text."""


class Answered(Protocol):
    """What carries an answer: a GenerateResponse, the `Finished` of a stream."""

    @property
    def answer(self) -> router_service_pb2.Answer:
        """The whole answer."""


def text(value: str) -> content_pb2.Part:
    """Make a text part."""
    return content_pb2.Part(text=content_pb2.TextPart(text=value))


def image(media_type: str, data: bytes) -> content_pb2.Part:
    """Make an image part.

    Args:
        media_type: image/png, image/jpeg, image/gif or image/webp.
        data: The encoded image, at most 5 MiB.
    """
    return content_pb2.Part(image=content_pb2.ImagePart(media_type=media_type, data=data))


def document(media_type: str, data: bytes, title: str = "") -> content_pb2.Part:
    """Make a document part.

    Args:
        media_type: application/pdf or text/plain.
        data: The document, at most 20 MiB.
        title: Shown to the model.
    """
    return content_pb2.Part(document=content_pb2.DocumentPart(media_type=media_type, data=data, title=title))


def user(*content: Content) -> content_pb2.Message:
    """Make a user message of texts and parts, tool results included."""
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=parts(content))


def assistant(said: str | Answered | router_service_pb2.Answer) -> content_pb2.Message:
    """Make the assistant message an answer becomes in the next request, its parts unchanged; or one of plain text."""
    if isinstance(said, str):
        return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[text(said)])
    answer = said if isinstance(said, router_service_pb2.Answer) else said.answer
    return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=answer.parts)


def tool(name: str, description: str, input_schema: str | Mapping[str, object]) -> content_pb2.Tool:
    """Make a tool.

    Args:
        input_schema: JSON Schema of its arguments. A mapping is written as JSON in its own order: keep that order from
            call to call, it is part of the cached prefix.
    """
    return content_pb2.Tool(name=name, description=description, input_schema_json=json_text(input_schema))


def tool_calls(said: Answered | router_service_pb2.Answer) -> list[content_pb2.ToolCallPart]:
    """Return the tool calls of an answer, in order."""
    answer = said if isinstance(said, router_service_pb2.Answer) else said.answer
    return [part.tool_call for part in answer.parts if part.WhichOneof("kind") == "tool_call"]


def tool_result(
    call: content_pb2.ToolCallPart | str, *content: Content, is_error: bool = False
) -> content_pb2.Part:
    """Make the part that answers a tool call; the results of all calls of one answer go into one user message.

    Args:
        call: The call, or its id.
        content: What the tool returned: texts, images, documents; nothing for a tool that returned nothing.
        is_error: Whether the tool failed.
    """
    result = content_pb2.ToolResultPart(
        tool_call_id=call if isinstance(call, str) else call.id, content=parts(content), is_error=is_error
    )
    return content_pb2.Part(tool_result=result)


def text_of(said: Answered | router_service_pb2.Answer) -> str:
    """Return the text of an answer; thinking and tool calls have none."""
    answer = said if isinstance(said, router_service_pb2.Answer) else said.answer
    return "".join(part.text.text for part in answer.parts)


def parts(content: Iterable[Content]) -> list[content_pb2.Part]:
    """Return parts; a string becomes a text part."""
    return [text(each) if isinstance(each, str) else each for each in content]


def json_text(value: str | Mapping[str, object]) -> str:
    """Return JSON text: a string as it is, a mapping written compactly in its own key order."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(slots=True)
class Conversation:
    """A conversation the caller holds; give it to `generate` or `stream` as the messages.

    Example:
        chat = Conversation()
        chat.say("Which contracts end this year?")
        reply = client.generate(chat, application="support")
        chat.add(reply)                          # unchanged: thinking and signatures survive
        for call in chat.open_calls: ...
        chat.answer_calls(tool_result(call, "three"))

    Attributes:
        messages: Oldest first; yours to read, store and restore (they are proto messages).
    """

    messages: list[content_pb2.Message] = field(default_factory=list)

    def __iter__(self) -> Iterator[content_pb2.Message]:
        """Give the messages, oldest first."""
        return iter(self.messages)

    @property
    def open_calls(self) -> list[content_pb2.ToolCallPart]:
        """Tool calls of the last message that wait for their results."""
        if not self.messages or self.messages[-1].role != content_pb2.ROLE_ASSISTANT:
            return []
        return [part.tool_call for part in self.messages[-1].parts if part.WhichOneof("kind") == "tool_call"]

    def say(self, *content: Content) -> None:
        """Append what the user says.

        Raises:
            ValueError: Tool calls are open; answer them first.
        """
        if waiting := self.open_calls:
            raise ValueError(f"{len(waiting)} tool calls wait for results; give them to answer_calls first")
        self.messages.append(user(*content))

    def add(self, said: Answered | router_service_pb2.Answer) -> None:
        """Append an answer, unchanged; an answer without parts (a refusal) is left out, as no model takes it back."""
        message = assistant(said)
        if message.parts:
            self.messages.append(message)

    def answer_calls(self, *results: content_pb2.Part) -> None:
        """Append the results of all open tool calls, made with `tool_result`, in any order.

        Raises:
            ValueError: A call has no result, or a result no call.
        """
        asked = {call.id for call in self.open_calls}
        given = {result.tool_result.tool_call_id for result in results}
        if asked != given or len(results) != len(given):
            raise ValueError(f"{len(asked)} open tool calls need one result each, got {len(results)}")
        self.messages.append(user(*results))
