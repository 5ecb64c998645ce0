"""What GetCosts answers, from the sums of a ledger: asked of a running router or of a ledger's file alike.

The rule: what the ledger does not know stays unset, and what was pruned is said beside what is left.
"""

from collections.abc import Callable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from router.convert_response import cost_fields
from router.errors import InvalidRequest
from router.ledger import Comparison, CostRow, Filter, WarmRow
from router.ledger.past import Past
from router.money import NANO_PER_USD
from router.v1 import accounting_pb2
from router.v1 import operator_service_pb2 as pb

_GROUPS = {
    pb.COST_DIMENSION_UNSPECIFIED: "",
    pb.COST_DIMENSION_ROUTE: "route",
    pb.COST_DIMENSION_MODEL: "model",
    pb.COST_DIMENSION_TENANT: "tenant",
    pb.COST_DIMENSION_APPLICATION: "application",
    pb.COST_DIMENSION_DAY: "day",
    pb.COST_DIMENSION_PURPOSE: "purpose",
    pb.COST_DIMENSION_SESSION: "session",
}


def costs_response(
    request: pb.GetCostsRequest,
    costs: Callable[[Sequence[str], Filter | None], list[CostRow]],
    totals: Callable[[Filter | None], CostRow],
    warms: Callable[[Filter | None], WarmRow | None],
) -> pb.GetCostsResponse:
    """Answer GetCosts from a ledger's file, without a server.

    Args:
        warms: What warms came to; None where that cannot be told.

    Raises:
        InvalidRequest: A field of the request is wrong.
    """
    group, where = costs_asked(request)
    found = warms(where)
    report = None if found is None else warm_report(found)
    return spelled_costs(group, costs((group,) if group else (), where), totals(where), report)


def costs_asked(request: pb.GetCostsRequest) -> tuple[str, Filter]:
    """Return what to group by, "" for nothing, and which calls to sum.

    Raises:
        InvalidRequest: A field of the request is wrong.
    """
    return _group(request), _filter(request)


def spelled_costs(
    group: str, rows: list[CostRow], total: CostRow, warms: pb.WarmReport | None
) -> pb.GetCostsResponse:
    """Spell sums, the dearest first; `rows` is put in that order."""
    rows.sort(key=lambda row: -row.cost.total_nano_usd)
    return pb.GetCostsResponse(
        rows=[_row(row, row.group.get(group, "") if group else "total") for row in rows],
        total=_row(total, "total"),
        warms=warms,
    )


def pruned_costs(past: Past) -> pb.PrunedCosts:
    """Spell what a window has lost to sums by day."""
    return pb.PrunedCosts(
        before_time=Timestamp(seconds=int(past.before_s)),
        total=None if past.sums is None else _row(past.sums, "total"),
    )


def warm_report(row: WarmRow, open_count: int = 0, switched_off_count: int = 0) -> pb.WarmReport | None:
    """Spell what warms were worth; None when there were none."""
    if not row.decisions and not open_count and not switched_off_count:
        return None
    report = pb.WarmReport(
        used_count=row.used,
        wasted_count=row.wasted,
        superfluous_count=row.superfluous,
        held_out_count=row.held_out,
        open_count=open_count,
        spent_nano_usd=row.cost_nano_usd,
        switched_off_count=switched_off_count,
        brought_nano_usd=row.benefit_nano_usd,
    )
    found = row.estimate
    if found is not None:
        report.benefit_nano_usd = round(found.usd * NANO_PER_USD)
        report.benefit_low_nano_usd = round(found.low_usd * NANO_PER_USD)
        report.benefit_high_nano_usd = round(found.high_usd * NANO_PER_USD)
        report.first_token_gain.FromNanoseconds(round(found.seconds * 1e9))
    return report


def _group(request: pb.GetCostsRequest) -> str:
    if request.dimension == pb.COST_DIMENSION_LABEL:
        if not request.label_key:
            raise InvalidRequest("label_key", "is empty; COST_DIMENSION_LABEL needs the label to sum by")
        return f"label:{request.label_key}"
    if request.label_key:
        raise InvalidRequest("label_key", "is only allowed with COST_DIMENSION_LABEL")
    if request.dimension not in _GROUPS:
        raise InvalidRequest("dimension", f"is {request.dimension}, which this release does not know")
    return _GROUPS[request.dimension]


def _filter(request: pb.GetCostsRequest) -> Filter:
    since_s = _seconds(request.start_time) if request.HasField("start_time") else None
    until_s = _seconds(request.end_time) if request.HasField("end_time") else None
    if since_s is not None and until_s is not None and until_s < since_s:
        raise InvalidRequest("end_time", "lies before start_time")
    equal = {"tenant": request.tenant, "application": request.application}
    return Filter(
        since_s=since_s, until_s=until_s, equal={key: value for key, value in equal.items() if value}
    )


def _seconds(timestamp: Timestamp) -> float:
    return timestamp.seconds + timestamp.nanos / 1e9


def _row(row: CostRow, key: str) -> pb.CostRow:
    tokens = row.tokens
    return pb.CostRow(
        key=key,
        call_count=row.calls,
        usage=accounting_pb2.Usage(
            input_tokens=tokens.input_tokens,
            cache_read_tokens=tokens.cache_read_tokens,
            cache_write_5m_tokens=tokens.cache_write_5m_tokens,
            cache_write_1h_tokens=tokens.cache_write_1h_tokens,
            output_tokens=tokens.output_tokens,
            thinking_tokens=tokens.thinking_tokens,
            uncached_input_tokens=tokens.uncached_input_tokens,
            complete=row.usage_calls == row.calls and not (row.incomplete_calls or row.unknown_calls),
        ),
        cost=cost_fields(row.cost, ""),
        no_caching=_comparison(row.no_caching),
        all_opus=_comparison(row.all_opus),
        all_flash=_comparison(row.all_flash),
        all_opus_no_caching=_comparison(row.all_opus_no_caching),
        never_switch=_comparison(row.never_switch),
        unknown_cost_count=row.unknown_calls,
        unknown_cost_bound_nano_usd=row.unknown_bound_nano_usd,
        unbounded_count=row.unbounded_calls,
        usage_count=row.usage_calls,
        incomplete_count=row.incomplete_calls,
        incomplete_bound_nano_usd=row.incomplete_bound_nano_usd,
    )


def _comparison(comparison: Comparison) -> pb.CostComparison:
    return pb.CostComparison(
        call_count=comparison.calls,
        baseline_nano_usd=comparison.baseline_nano_usd,
        cost_nano_usd=comparison.cost_nano_usd,
    )
