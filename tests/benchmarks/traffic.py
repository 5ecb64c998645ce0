"""What the gateway benchmark sends: one application, a pool of distinct requests of about 2 KB, the settings.

The rule: every target gets the same bytes, built and serialised before anything is measured. The pool is large
enough that no digest, prefix or session repeats within a second, and half commands, half analyses, so that
routed traffic takes both routes. The upstream body is spelled here a second time, by hand, for the floors.
"""

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from router.v1 import content_pb2, router_service_pb2, routing_pb2

OPUS, FLASH = "claude-opus-5-5", "gemini-3.8-flash"
APPLICATION = "desk"
TENANT = "bench"
POOL = 1024
SESSIONS = 256
CHUNKS = 40
"""Text deltas of one streamed answer."""
ANSWER_BYTES = 2000
MAX_OUTPUT_TOKENS = 1024

SYSTEM = " ".join(
    f"Rule {number}: answer in the user's language, cite the record you used, and never guess a figure."
    for number in range(1, 41)
)
TOOLS = tuple(
    (
        f"search_{kind}",
        f"Find {kind} of the workspace by words, people and dates.",
        '{"type":"object","properties":{"query":{"type":"string"},"limit":{"type":"integer"}},"required":["query"]}',
    )
    for kind in ("tasks", "documents", "people")
)
_COMMANDS = ("Move task {n} to done and tell me its key.", "Rename list {n} to Backlog please.")
_ANALYSES = (
    "Compare the throughput of the last {n} weeks with the plan, prove which assumption failed, and derive a forecast.",
    "Analyse why project {n} slipped: weigh the rival explanations and work out what would tell them apart.",
)
_PAST = "The report lists open tasks by team, with owner, age and the reason each of them is blocked. " * 5
_CONTEXT = "The user leads the delivery team, works in Lisbon, and prefers short answers with dates. " * 3


def requests(route: str, count: int = POOL) -> list[bytes]:
    """Serialised requests; `route` is "opus", "flash" or "routed"."""
    forced = {
        "opus": routing_pb2.ROUTE_OPUS,
        "flash": routing_pb2.ROUTE_FLASH,
        "routed": routing_pb2.ROUTE_UNSPECIFIED,
    }[route]
    return [_request(number, forced).SerializeToString() for number in range(count)]


def endless(route: str) -> Iterator[bytes]:
    """The pool, again and again."""
    return cycle(requests(route))


def _request(number: int, forced: "routing_pb2.Route") -> router_service_pb2.GenerateRequest:
    templates = _COMMANDS if number % 4 else _ANALYSES
    turn = templates[number // 4 % 2].format(n=number) + f" Reference {number:06d}. " + _PAST
    said = (
        (content_pb2.ROLE_USER, f"Show me report {number}."),
        (content_pb2.ROLE_ASSISTANT, f"Report {number}: {_PAST}"),
        (content_pb2.ROLE_USER, turn),
    )
    return router_service_pb2.GenerateRequest(
        prompt=router_service_pb2.Prompt(
            application=APPLICATION,
            user_context=[_CONTEXT],
            messages=[
                content_pb2.Message(role=role, parts=[content_pb2.Part(text=content_pb2.TextPart(text=text))])
                for role, text in said
            ],
            max_output_tokens=MAX_OUTPUT_TOKENS,
        ),
        caller=router_service_pb2.Caller(
            tenant=TENANT,
            user=f"user-{number % 64}",
            session=f"session-{number % SESSIONS}",
            labels={"team": "delivery"},
            action="open_report",
        ),
        constraints=routing_pb2.Constraints(forced_route=forced),
    )


def anthropic_body(prompt: router_service_pb2.Prompt, *, stream: bool) -> dict[str, object]:
    """The request as the Messages API takes it; what a handler without a router would spell."""
    roles = {content_pb2.ROLE_USER: "user", content_pb2.ROLE_ASSISTANT: "assistant"}
    return {
        "model": OPUS,
        "max_tokens": prompt.max_output_tokens,
        "system": [
            {"type": "text", "text": SYSTEM},
            *({"type": "text", "text": t} for t in prompt.user_context),
        ],
        "tools": _ANTHROPIC_TOOLS,
        "messages": [
            {
                "role": roles[message.role],
                "content": [{"type": "text", "text": p.text.text} for p in message.parts],
            }
            for message in prompt.messages
        ],
    } | ({"stream": True} if stream else {})


def gemini_body(prompt: router_service_pb2.Prompt) -> dict[str, object]:
    """The request as generateContent takes it."""
    roles = {content_pb2.ROLE_USER: "user", content_pb2.ROLE_ASSISTANT: "model"}
    return {
        "systemInstruction": {"parts": [{"text": SYSTEM}, *({"text": t} for t in prompt.user_context)]},
        "contents": [
            {"role": roles[message.role], "parts": [{"text": part.text.text} for part in message.parts]}
            for message in prompt.messages
        ],
        "tools": _GEMINI_TOOLS,
        "generationConfig": {"maxOutputTokens": prompt.max_output_tokens},
    }


def settings(*, directory: Path, provider_url: str, prometheus_port: int) -> str:
    """The router's settings as TOML: shipped defaults, pointed at the mock, ledger in `directory`."""
    lines = [
        "[server]",
        'listen = "127.0.0.1:0"',
        "[opus]",
        f"base_url = {json.dumps(provider_url)}",
        "[flash]",
        f"base_url = {json.dumps(provider_url)}",
        "[ledger]",
        f"path = {json.dumps(str(directory))}",
        "[telemetry]",
        f"prometheus_port = {prometheus_port}",
        f"[applications.{APPLICATION}]",
        f"system = [{json.dumps(SYSTEM)}]",
    ]
    for name, description, schema in TOOLS:
        lines += [
            f"[[applications.{APPLICATION}.tools]]",
            f"name = {json.dumps(name)}",
            f"description = {json.dumps(description)}",
            f"input_schema_json = {json.dumps(schema)}",
        ]
    return "\n".join(lines) + "\n"


_ANTHROPIC_TOOLS = [
    {"name": name, "description": description, "input_schema": json.loads(schema)}
    for name, description, schema in TOOLS
]
_GEMINI_TOOLS = [
    {
        "functionDeclarations": [
            {"name": name, "description": description, "parametersJsonSchema": json.loads(schema)}
            for name, description, schema in TOOLS
        ]
    }
]
