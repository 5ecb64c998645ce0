"""CPU of one call in the client alone: our adapters against the SDKs' raw floor and their parsed answers.

    python tests/benchmarks/bench_upstreams.py --calls 400 --rounds 5

The mock provider runs as its own process, so `process_time` here is the client's cost only. Rounds of the
variants are interleaved and the smallest round counts, because machines are shared; read the ratios.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
from google import genai
from google.genai import types

from router.call import Call, Identity, Message, Role, Text, Tool
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.gemini import GeminiUpstream

OPUS, FLASH = "claude-opus-5-5", "gemini-3.8-flash"
TEXT = "Please analyse the following paragraph with care. " * 40
SCHEMA = '{"type":"object","properties":{"query":{"type":"string"},"limit":{"type":"integer"}}}'
CALL = Call(
    identity=Identity(request_id="bench"),
    tools=tuple(Tool(f"search_{i}", "Search the documents of the tenant.", SCHEMA) for i in range(5)),
    system=("You are a careful assistant. " * 60,),
    messages=(Message(Role.USER, (Text(TEXT),)),),
    max_output_tokens=1024,
)
TIMEOUT_S = 30.0
Variant = Callable[[], Awaitable[object]]


def variants(base_url: str) -> tuple[dict[str, Variant], list[Any]]:
    """Build every variant, and what to close afterwards."""
    opus = AnthropicUpstream(model=OPUS, api_key="bench", base_url=base_url)
    flash = GeminiUpstream(model=FLASH, api_key="bench", base_url=base_url)
    client = anthropic.AsyncAnthropic(
        api_key="bench",
        base_url=base_url,
        max_retries=0,
        open_telemetry=False,
        http_client=anthropic.DefaultAioHttpClient(),
    )
    google = genai.Client(vertexai=False, api_key="bench", http_options=types.HttpOptions(base_url=base_url))
    tools: Any = [
        {"name": t.name, "description": t.description, "input_schema": json.loads(t.input_schema_json)}
        for t in CALL.tools
    ]
    claude: Any = {
        "model": OPUS,
        "max_tokens": 1024,
        "system": [{"type": "text", "text": CALL.system[0]}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}],
        "tools": tools,
    }
    declarations = [
        {"name": t["name"], "description": t["description"], "parametersJsonSchema": t["input_schema"]}
        for t in tools
    ]
    gemini: dict[str, object] = {
        "systemInstruction": {"parts": [{"text": CALL.system[0]}]},
        "contents": [{"role": "user", "parts": [{"text": TEXT}]}],
        "tools": [{"functionDeclarations": declarations}],
        "generationConfig": {"maxOutputTokens": 1024},
    }
    config: Any = {
        "system_instruction": CALL.system[0],
        "max_output_tokens": 1024,
        "tools": [
            {
                "function_declarations": [
                    {
                        "name": t["name"],
                        "description": t["description"],
                        "parameters_json_schema": t["input_schema"],
                    }
                    for t in tools
                ]
            }
        ],
    }
    layer: Any = google._api_client

    async def drain(stream: AsyncIterator[object]) -> None:
        async for _ in stream:
            pass

    async def claude_raw_stream() -> None:
        async with client.messages.with_streaming_response.create(**claude, stream=True) as response:
            async for _ in response.iter_lines():
                pass

    async def claude_parsed_stream() -> None:
        await drain(await client.messages.create(**claude, stream=True))

    async def gemini_raw_stream() -> None:
        path = f"models/{FLASH}:streamGenerateContent?alt=sse"
        await drain(await layer.async_request_streamed("post", path, dict(gemini)))

    async def gemini_parsed_stream() -> None:
        await drain(
            await google.aio.models.generate_content_stream(model=FLASH, contents=TEXT, config=config)
        )

    return {
        "anthropic unary  ours": lambda: opus.generate(opus.render(CALL), None, TIMEOUT_S),
        "anthropic unary  sdk raw": lambda: client.messages.with_raw_response.create(**claude),
        "anthropic unary  sdk parsed": lambda: client.messages.create(**claude),
        "anthropic stream ours": lambda: drain(opus.stream(opus.render(CALL), None, TIMEOUT_S)),
        "anthropic stream sdk raw": claude_raw_stream,
        "anthropic stream sdk parsed": claude_parsed_stream,
        "gemini unary  ours": lambda: flash.generate(flash.render(CALL), None, TIMEOUT_S),
        "gemini unary  sdk raw": lambda: layer.async_request(
            "post", f"models/{FLASH}:generateContent", dict(gemini)
        ),
        "gemini unary  sdk parsed": lambda: google.aio.models.generate_content(
            model=FLASH, contents=TEXT, config=config
        ),
        "gemini stream ours": lambda: drain(flash.stream(flash.render(CALL), None, TIMEOUT_S)),
        "gemini stream sdk raw": gemini_raw_stream,
        "gemini stream sdk parsed": gemini_parsed_stream,
    }, [opus.close, flash.close, client.close, google.aio.aclose]


@asynccontextmanager
async def mock_provider(chunks: int, size: int) -> AsyncIterator[str]:
    """Run the mock in its own process; give its base URL."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("mock_provider.py")),
        f"--chunks={chunks}",
        f"--bytes={size}",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        assert process.stdin is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


async def measure(run: Variant, calls: int) -> float:
    """Return CPU milliseconds per call."""
    start = time.process_time()
    for _ in range(calls):
        await run()
    return (time.process_time() - start) * 1000 / calls


async def main() -> None:
    """Measure every variant and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--bytes", type=int, default=2000, dest="size")
    parser.add_argument("--only", default="", help="substring of the variants to run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    async with mock_provider(options.chunks, options.size) as base_url:
        runs, closers = variants(base_url)
        runs = {name: run for name, run in runs.items() if options.only in name}
        best: dict[str, float] = {}
        for round_ in range(options.rounds + 1):
            for name, run in runs.items():
                slow = "parsed" in name
                cpu_ms = await measure(run, max(5, options.calls // (8 if slow else 1)) if round_ else 3)
                if round_:  # the first round warms connections and caches
                    best[name] = min(best.get(name, cpu_ms), cpu_ms)
        for close in closers:
            await close()
    if options.json:
        print(json.dumps(best))
        return
    for name, cpu_ms in best.items():
        floor = best.get(
            f"{name.rsplit(' ', 1)[0] if 'ours' in name else name.rsplit(' ', 2)[0]} sdk raw", cpu_ms
        )
        print(f"{name:30} {cpu_ms:7.3f} ms   {cpu_ms / floor:5.2f}x of the SDK's raw floor")


if __name__ == "__main__":
    asyncio.run(main())
