"""The strategy document's sharing matrix, row by row, over real gRPC, held against the provider's own bill."""

from dataclasses import dataclass

import pytest

from router.v1 import accounting_pb2
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import OPUS, context_of, generate, said, user
from tests.e2e.service import Service

C = accounting_pb2.CACHE_STRATEGY_C
CONTEXT = accounting_pb2.LAYER_CONTEXT
HISTORY = accounting_pb2.LAYER_HISTORY
ESTIMATE = 0.1
"""Relative error allowed to token estimates; the bill itself is compared to the token."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request of the matrix: the answer, and the provider's line for it."""

    response: pb.GenerateResponse
    read: int
    write: int
    total: int

    @property
    def plan(self) -> accounting_pb2.CachePlan:
        return self.response.accounting.cache_report.plan

    def mark(self, layer: int) -> accounting_pb2.Breakpoint:
        """The breakpoint of a layer."""
        (found,) = [mark for mark in self.plan.breakpoints if mark.layer == layer]
        return found


async def ask(service: Service, person: str, *messages) -> Row:
    """Send one message of `person`'s conversation; what the router reports must be what the provider bills."""
    response = await service.generate(
        generate(
            *messages,
            route=OPUS,
            strategy=C,
            person=person,
            session=f"session-of-{person}",
            context=(context_of(person),),
            max_output_tokens=400,
        )
    )
    line = service.invoice.find(response.answer.response_id)
    assert line is not None
    usage, report = response.accounting.usage, response.accounting.cache_report
    assert (usage.input_tokens, usage.output_tokens) == (line.input_tokens, line.output_tokens)
    assert usage.cache_read_tokens == report.read_tokens == line.read_tokens
    assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (
        line.write_5m_tokens,
        line.write_1h_tokens,
    )
    assert report.write_tokens == line.write_5m_tokens + line.write_1h_tokens
    assert response.accounting.cost.total_nano_usd == line.cost_nano_usd
    return Row(response, line.read_tokens, line.write_5m_tokens, line.input_tokens)


@pytest.fixture
async def matrix(service: Service) -> dict[str, Row]:
    """The five rows of the matrix in its order, twenty virtual seconds apart, and five idle minutes at last."""
    rows: dict[str, Row] = {}
    talk = [user("Which tickets of Northwind are overdue? Name the three oldest and who owns them.")]
    rows["first"] = await ask(service, "ann", *talk)
    service.clock.advance(20)
    talk += [said(rows["first"].response.answer), user("And which of these were reopened since October?")]
    rows["second"] = await ask(service, "ann", *talk)
    service.clock.advance(20)
    talk += [said(rows["second"].response.answer), user("Draft a note to the owners about the oldest one.")]
    rows["third"] = await ask(service, "ann", *talk)
    service.clock.advance(20)
    opening = user("Compare the usage of Contoso in the last two quarters.")
    rows["other"] = await ask(service, "bob", opening)
    service.clock.advance(300)
    rows["idle"] = await ask(service, "cem", user("What does the account of Fabrikam owe us?"))
    return rows


async def test_new_user_writes_every_layer(matrix: dict[str, Row]) -> None:
    """WRITE, WRITE, WRITE: nothing is read, everything up to the user context is written for five minutes."""
    row = matrix["first"]
    assert row.read == 0
    assert row.write == pytest.approx(row.mark(CONTEXT).prefix_tokens, rel=ESTIMATE)
    assert 2_000 < row.write < row.total
    assert [mark.warm_probability for mark in row.plan.breakpoints] == [0.0] * len(row.plan.breakpoints)


async def test_second_message_reads_what_the_first_wrote(matrix: dict[str, Row]) -> None:
    """READ, READ, READ: to the token what the first message wrote; its own history mark is new."""
    first, row = matrix["first"], matrix["second"]
    assert row.read == first.write
    assert row.write > 0
    assert row.mark(CONTEXT).warm_probability > 0.9
    assert row.mark(HISTORY).warm_probability == 0.0


async def test_third_message_also_reads_history(matrix: dict[str, Row]) -> None:
    """READ of the history: the second message's prefix, turn 1 included, and the rest of it is written."""
    second, row = matrix["second"], matrix["third"]
    assert row.read == second.read + second.write
    assert row.write > 0


async def test_other_user_reads_shared_layers_and_writes_only_its_context(matrix: dict[str, Row]) -> None:
    """READ, READ, WRITE: what one user's requests wrote of the shared layers serves the next user."""
    first, row = matrix["first"], matrix["other"]
    shared = [mark for mark in row.plan.breakpoints if mark.layer != CONTEXT]
    assert 0 < row.read < first.write
    assert row.read == pytest.approx(shared[-1].prefix_tokens, rel=ESTIMATE)
    assert row.read + row.write == first.write, "contexts of one length for every user"
    assert all(mark.warm_probability > 0.9 for mark in shared)
    assert row.mark(CONTEXT).warm_probability == 0.0


async def test_five_idle_minutes_cost_a_write_of_everything(matrix: dict[str, Row]) -> None:
    """WRITE, WRITE, WRITE: the shared entries ended five minutes after their last use, and the plan knew."""
    row = matrix["idle"]
    assert row.read == 0
    assert row.write == pytest.approx(row.mark(CONTEXT).prefix_tokens, rel=ESTIMATE)
    assert [mark.warm_probability for mark in row.plan.breakpoints] == [0.0] * len(row.plan.breakpoints)


@pytest.mark.parametrize("name", ["first", "second", "third", "other", "idle"])
async def test_belief_is_what_happens(matrix: dict[str, Row], name: str) -> None:
    """The expected read of every row is the billed read within the estimate's error; only the lapse is a miss."""
    row = matrix[name]
    assert row.plan.expected_read_tokens == pytest.approx(row.read, rel=ESTIMATE)
    assert row.plan.expected_read_tokens + row.plan.expected_write_tokens == pytest.approx(
        row.read + row.write, rel=ESTIMATE
    )
    assert [miss.cause for miss in row.response.accounting.cache_report.misses] == (
        [accounting_pb2.MISS_CAUSE_TTL_LAPSED] if name == "idle" else []
    )


async def test_marks_stand_in_prompt_order_and_say_why(matrix: dict[str, Row]) -> None:
    """At most four breakpoints, deeper ones later, each with a reason and the TTL that was asked for."""
    for row in matrix.values():
        marks = row.plan.breakpoints
        assert 1 <= len(marks) <= 4
        assert [mark.prefix_tokens for mark in marks] == sorted(mark.prefix_tokens for mark in marks)
        assert [mark.block_index for mark in marks] == sorted({mark.block_index for mark in marks})
        assert all(mark.prefix_tokens >= 512 and mark.reason for mark in marks)
        assert {mark.ttl.seconds for mark in marks} == {300}
