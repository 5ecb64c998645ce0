"""The Python client of a router: gRPC and protobuf, and nothing of the server.

    with Client("127.0.0.1:50051", application="support", tenant="acme") as client:
        chat = Conversation()
        chat.say("Which contracts end this year?")
        reply = client.generate(chat)
        chat.add(reply)
        print(text_of(reply), reply.accounting.cost.total_nano_usd)

The rule: what goes out and what comes back are the messages of protos/router/v1; this adds short ways to write and read
them, one typed error per thing a caller can do about it, and retries that cannot pay twice for an answer that has
begun (`router.client.settings` says exactly what is retried). Money is int nano-USD (1e-9 USD), times are seconds.

`Client` blocks and serves threads, `AsyncClient` serves asyncio. No text that was asked or answered is in any error.
"""

from router.client.aio import AsyncClient, AsyncStream
from router.client.blocking import Client, Stream
from router.client.content import (
    Conversation,
    assistant,
    document,
    image,
    text,
    text_of,
    tool,
    tool_calls,
    tool_result,
    user,
)
from router.client.errors import (
    AlreadyExists,
    CallFailed,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Denied,
    Exhausted,
    InvalidRequest,
    NotFound,
    Refused,
    ServerFault,
    Unavailable,
    Unimplemented,
    Violation,
)
from router.client.events import Decided, Event, Finished, TextDelta, ThinkingDelta, ToolCallDelta
from router.client.requests import Fields
from router.client.settings import Settings

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "AsyncStream",
    "CallFailed",
    "Cancelled",
    "Client",
    "Conflict",
    "Conversation",
    "DeadlineExceeded",
    "Decided",
    "Denied",
    "Event",
    "Exhausted",
    "Fields",
    "Finished",
    "InvalidRequest",
    "NotFound",
    "Refused",
    "ServerFault",
    "Settings",
    "Stream",
    "TextDelta",
    "ThinkingDelta",
    "ToolCallDelta",
    "Unavailable",
    "Unimplemented",
    "Violation",
    "assistant",
    "document",
    "image",
    "text",
    "text_of",
    "tool",
    "tool_calls",
    "tool_result",
    "user",
]
