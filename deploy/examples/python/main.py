"""One call, one stream, a tool loop, many calls at once and one refused request: python main.py [HOST:PORT [QUESTION]]

QUESTION opens the tool loop.
"""

import asyncio
import sys

from router.client import (
    AsyncClient,
    Client,
    Conversation,
    Decided,
    Exhausted,
    Finished,
    InvalidRequest,
    TextDelta,
    Unavailable,
    text_of,
    tool,
    tool_calls,
    tool_result,
)
from router.v1.accounting_pb2 import Accounting
from router.v1.routing_pb2 import Decision, DecisionReason, Route

SYSTEM = "You answer questions about contracts, briefly."
ENDS = {"lease": "2027-03-31", "hosting": "2026-12-31"}
CONTRACT_END = tool(
    "contract_end",
    "Return the date on which a contract ends.",
    {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
)
ROUND_LIMIT = 5
"""Tool calls in a row before the loop gives up."""


def unary(client: Client) -> None:
    """Ask, wait for the whole answer, and go on with the conversation."""
    chat = Conversation()
    chat.say("Which of these two contracts ends first, and why does that matter?")
    reply = client.generate(chat, session="py-1")
    print("unary:", text_of(reply))
    report("unary", reply.decision, reply.accounting)
    chat.add(reply)  # as it came: thinking and signatures are the model's to read
    chat.say("Say it in one sentence.")
    reply = client.generate(chat, session="py-1")
    report("second turn", reply.decision, reply.accounting)


def stream(client: Client) -> None:
    """Print text as it comes; leaving the block early hangs up on the provider."""
    print("stream: ", end="")
    decision = Decision()
    with client.stream("Tell me about the first one.", session="py-2") as events:
        for event in events:
            match event:
                case Decided():
                    decision = event.decision
                case TextDelta(text=text):
                    print(text, end="", flush=True)
                case Finished():
                    print()
                    report("stream", decision, event.accounting)


def tool_loop(client: Client, question: str) -> None:
    """Run the tools the model asks for until it answers."""
    chat = Conversation()
    chat.say(question)
    for _ in range(ROUND_LIMIT):
        reply = client.generate(chat, tools=[CONTRACT_END], session="py-3")
        chat.add(reply)
        report("tool loop", reply.decision, reply.accounting)
        results = []
        for call in tool_calls(reply):
            known = [end for name, end in ENDS.items() if name in call.arguments_json]
            print(f"tool loop: {call.name} {call.arguments_json} -> {known or 'no such contract'}")
            results.append(tool_result(call, *known) if known else tool_result(call, "none", is_error=True))
        if not results:
            print("tool loop:", text_of(reply))
            return
        chat.answer_calls(*results)
    print(f"tool loop: no answer after {ROUND_LIMIT} rounds")


def refused(client: Client) -> None:
    """Send a request no provider takes, and print what the router says about it."""
    try:
        client.generate("Hello", max_output_tokens=-1)
    except InvalidRequest as error:
        print("refused:", error.code.name, error.reason)
        for violation in error.violations:
            print(f"refused: {violation.field}: {violation.problem}")
    except (Unavailable, Exhausted) as error:  # the client's own retries are over
        print(f"not now; the server advises {error.retry_delay_s} s, request {error.request_id}")


async def many(address: str) -> None:
    """Ask three questions at once over one connection."""
    async with AsyncClient(address, system=SYSTEM, tenant="acme", max_output_tokens=500) as client:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(client.generate(f"When does contract {number} end?", user=f"u-{number}"))
                for number in range(3)
            ]
        for task in tasks:
            report("at once", task.result().decision, task.result().accounting)


def report(what: str, decision: Decision, bill: Accounting) -> None:
    """Print route, cost and cache read; an unknown cost is not zero."""
    cost = f"{bill.total_nano_usd} nano-USD" if bill.HasField("total_nano_usd") else "unknown"
    route, reason = Route.Name(decision.route), DecisionReason.Name(decision.reason)
    read = bill.cache_report.read_tokens
    print(f"{what}: route {route} ({reason}), cost {cost}, cache read {read} tokens")


def main() -> None:
    """Run all of them against the router at the first argument."""
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
    question = sys.argv[2] if len(sys.argv) > 2 else "When does the lease end?"
    with Client(address, system=SYSTEM, tenant="acme", user="u-17", max_output_tokens=500) as client:
        unary(client)
        stream(client)
        tool_loop(client, question)
        refused(client)
    asyncio.run(many(address))


if __name__ == "__main__":
    main()
