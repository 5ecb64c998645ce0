"""The invoice: open lines, settlement, totals, and what reset does to running streams."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sandbox import Invoice, InvoiceLine, fingerprint

counts = st.integers(0, 10**6)
lines = st.builds(
    InvoiceLine,
    request_id=st.just("r"),
    response_id=st.just("m"),
    upstream=st.just("anthropic"),
    workspace=st.sampled_from(["one", "two"]),
    key_fingerprint=st.just("k"),
    model=st.sampled_from(["claude-opus-5-5", "claude-haiku-5-5"]),
    requested_model=st.just("x"),
    time=st.just(1_795_348_800.0),
    uncached_input_tokens=counts,
    write_5m_tokens=counts,
    write_1h_tokens=counts,
    read_tokens=counts,
    output_tokens=counts,
    thinking_tokens=st.just(0),
    inference_geo=st.sampled_from(["global", "us"]),
)


@given(st.lists(lines, max_size=8))
def test_totals_are_the_sums_of_the_lines_and_split_by_workspace(some):
    """Every column sums; the parts of two workspaces add up to the whole."""
    invoice = Invoice()
    for line in some:
        invoice.add(line)
    whole = invoice.totals()
    parts = [invoice.totals(lambda x, w=w: x.workspace == w) for w in ("one", "two")]
    assert whole.requests == len(some)
    assert whole.cost_pico_usd == sum(p.cost_pico_usd for p in parts) == sum(x.cost_pico_usd for x in invoice)
    assert whole.read_tokens == sum(x.read_tokens for x in some)


@given(lines)
def test_rounding_is_within_half_a_nano_usd(line):
    """The nano-USD of a line is its exact cost, rounded once."""
    priced = line.priced()
    assert abs(priced.cost_nano_usd * 1000 - priced.cost_pico_usd) <= 500


async def test_stream_running_across_a_reset_does_not_come_back(bench, kit):
    """Its line was cleared; closing it later adds nothing and breaks nothing."""
    stream = await bench.claude.messages.create(
        model=kit.OPUS, max_tokens=99, messages=[kit.user("x")], stream=True
    )
    assert [x.status for x in bench.sandbox.invoice] == ["open"]
    bench.sandbox.reset()
    await stream.close()
    await bench.ask()
    assert [x.status for x in bench.sandbox.invoice] == ["complete"]


async def test_reader_task_cancelled_mid_stream_is_a_disconnect(bench, kit):
    """Cancelling the task that reads, at whichever event, settles the line with what it had read."""
    for reads in range(1, 8):
        seen, reached = [], asyncio.Event()

        async def read(limit=reads, seen=seen, reached=reached):
            async with bench.claude.messages.stream(
                model=kit.OPUS, max_tokens=200, messages=[kit.user("[[sandbox tokens=60 thinking=0]]")]
            ) as stream:
                async for text in stream.text_stream:
                    seen.append(text)
                    if len(seen) == limit:
                        reached.set()
                        await asyncio.Event().wait()

        task = asyncio.ensure_future(read())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        line = bench.sandbox.invoice.lines[-1]
        assert (line.status, line.complete) == ("disconnected", False)
        assert 0 < line.output_tokens <= 60


def test_fingerprints_name_keys_without_telling_them():
    """Same key, same name; the key is not in it."""
    assert fingerprint("sk-1") == fingerprint("sk-1") != fingerprint("sk-2")
    assert "sk-1" not in fingerprint("sk-1")
