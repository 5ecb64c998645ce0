"""Requests of a SaaS with shared layers, spelled as a client would, and what a client does with an answer.

The prose is invented and has the sizes of the strategy document: a system prompt of about 1,500 tokens, tools
of about 500, a user context of about 500.
"""

from router.config import ApplicationConfig, Config, RoutingConfig, ServerConfig, ToolConfig
from router.v1 import accounting_pb2, content_pb2, router_service_pb2, routing_pb2

START_TIME_S = 1_795_168_800.0
"""2026-11-20 10:00 UTC: where every virtual clock starts."""
APPLICATION = "desk"

OPUS = routing_pb2.ROUTE_OPUS
FLASH = routing_pb2.ROUTE_FLASH

_SENTENCES = (
    "Answer from the records you are shown and name the record for every figure you give.",
    "When two readings of a request are possible, state both in one line and ask which one is meant.",
    "Dates are written out with the weekday; amounts carry their currency and two decimals.",
    "Never change a record without saying first what will change and who will see it.",
    "A ticket older than ten working days is escalated to the owner of the account.",
    "Quote at most two sentences of a customer's message and leave out names of third persons.",
    "Close with the next step, who takes it, and by when it is due.",
    "If a tool reports nothing, say so plainly and suggest the filter that would widen the search.",
)


def prose(about: str, sentence_count: int) -> str:
    """Deterministic text of `sentence_count` sentences, different for every `about`."""
    return "\n".join(
        f"{about} {number + 1}. {_SENTENCES[number % len(_SENTENCES)]}" for number in range(sentence_count)
    )


def tool_config(name: str) -> ToolConfig:
    """A tool of about 250 tokens."""
    properties = ",".join(
        f'"{field}":{{"type":"string","description":"The {field} to look for, as written in the record"}}'
        for field in ("account", "owner", "period", "status")
    )
    return ToolConfig(
        name=name,
        description=f"Run {name.replace('_', ' ')} over the records the person may see; newest first.",
        input_schema_json=f'{{"type":"object","properties":{{{properties}}},"required":["account"]}}',
    )


DESK = ApplicationConfig(
    system=(prose("Rule", 50),),
    tools=tuple(tool_config(name) for name in ("search_tickets", "read_account")),
    max_output_tokens=600,
)


def config(**sections: object) -> Config:
    """Settings of a test service on a free loopback port; sections replace the defaults."""
    defaults: dict[str, object] = {
        "server": ServerConfig(listen="127.0.0.1:0", grace_s=10.0),
        "routing": RoutingConfig(),
        "applications": {APPLICATION: DESK},
    }
    return Config(**(defaults | sections))


def context_of(user: str) -> str:
    """A user context of about 500 tokens."""
    return prose(f"What {user} told us,", 20)


def user(*texts: str) -> content_pb2.Message:
    """A user message of text parts."""
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=[text_part(text) for text in texts])


def assistant(*texts: str) -> content_pb2.Message:
    """An assistant message of text parts."""
    return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[text_part(text) for text in texts])


def text_part(text: str) -> content_pb2.Part:
    """One text part."""
    return content_pb2.Part(text=content_pb2.TextPart(text=text))


def tool_call(call_id: str, name: str, arguments_json: str = "{}") -> content_pb2.Message:
    """An assistant message that calls one tool."""
    call = content_pb2.ToolCallPart(id=call_id, name=name, arguments_json=arguments_json)
    return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[content_pb2.Part(tool_call=call)])


def tool_result(call_id: str, text: str) -> content_pb2.Message:
    """A user message that answers one tool call."""
    result = content_pb2.ToolResultPart(tool_call_id=call_id, content=[text_part(text)])
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(tool_result=result)])


def said(answer: router_service_pb2.Answer) -> content_pb2.Message:
    """The answer as the conversation's next element, unchanged."""
    return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=answer.parts)


def generate(
    *messages: content_pb2.Message,
    application: str = APPLICATION,
    route: int = routing_pb2.ROUTE_UNSPECIFIED,
    strategy: int = accounting_pb2.CACHE_STRATEGY_UNSPECIFIED,
    person: str = "",
    tenant: str = "acme",
    session: str = "",
    context: tuple[str, ...] = (),
    max_output_tokens: int = 0,
    labels: dict[str, str] | None = None,
    no_fallback: bool = False,
    no_cache: bool = False,
) -> router_service_pb2.GenerateRequest:
    """A unary request; `as_stream` and `as_explain` give it the other two shapes."""
    return router_service_pb2.GenerateRequest(
        prompt=router_service_pb2.Prompt(
            application=application,
            messages=messages,
            user_context=context,
            cache_strategy=strategy,
            max_output_tokens=max_output_tokens,
        ),
        caller=router_service_pb2.Caller(tenant=tenant, user=person, session=session, labels=labels or {}),
        constraints=routing_pb2.Constraints(forced_route=route, no_fallback=no_fallback, no_cache=no_cache),
    )


def as_stream(request: router_service_pb2.GenerateRequest) -> router_service_pb2.StreamGenerateRequest:
    """The same request, answered in events."""
    return router_service_pb2.StreamGenerateRequest(
        prompt=request.prompt, caller=request.caller, constraints=request.constraints
    )


def as_explain(request: router_service_pb2.GenerateRequest) -> router_service_pb2.ExplainRequest:
    """The same request, without the call."""
    return router_service_pb2.ExplainRequest(
        prompt=request.prompt, caller=request.caller, constraints=request.constraints
    )
