"""`hybrid-router reconcile` over real traffic: the demo, and a sandbox that is asked for its invoice over HTTP."""

import asyncio
import json
from pathlib import Path

from router.ledger import Ledger
from router.sandbox import Fault
from router.sandbox.listener import serve
from tests.e2e.builders import FLASH, OPUS, START_TIME_S, generate, user
from tests.e2e.process import verb
from tests.e2e.service import TIMEOUT_S, WatchedClock, serving


async def test_the_demo_is_billed_as_booked(tmp_path: Path) -> None:
    """Hundreds of calls on both routes: ledger and invoice agree call by call; without one line they do not."""
    code, _, errors = await verb("demo", "--limit", "60", "--keep", "kept", cwd=tmp_path)
    assert code == 0, errors
    asked = ("reconcile", "kept/invoice.json", "--ledger", "kept", "--json")
    code, out, errors = await verb(*asked, cwd=tmp_path)
    (found,) = json.loads(out)
    assert (code, found["differences"], errors) == (0, [], "")
    assert found["equal"] == found["compared"] > 60
    assert found["difference_nano_usd"] == 0 < found["invoice_nano_usd"]

    path = tmp_path / "kept" / "invoice.json"
    invoice = json.loads(path.read_text(encoding="utf-8"))
    taken = invoice["lines"].pop()
    path.write_text(json.dumps(invoice), encoding="utf-8")
    code, out, _ = await verb(*asked, cwd=tmp_path)
    (found,) = json.loads(out)
    assert (code, found["causes"], found["difference_nano_usd"]) == (
        1,
        {"not_invoiced": 1},
        -taken["cost_nano_usd"],
    )

    again, _, errors = await verb("demo", "--keep", "kept", cwd=tmp_path)
    assert (again, "--keep" in errors) == (2, True)


async def test_unknown_spend_is_found_on_the_invoice(tmp_path: Path) -> None:
    """An answer lost on its way is billed and has no id in the ledger: found by time, within its bound, and told."""
    ledger = Ledger.open(tmp_path / "ledger", clock=WatchedClock(START_TIME_S))
    try:
        async with serving(ledger=ledger) as service:
            await service.generate(generate(user("One"), route=OPUS))
            service.clock.advance(60)
            service.sandbox.inject(Fault(kind="cut", times=1))
            await service.generate(generate(user("Two"), route=OPUS))
            service.clock.advance(60)
            await service.generate(generate(user("Three"), route=FLASH))
            await service.ledger.flush()
            async with serve(service.sandbox, "127.0.0.1", 0) as port, asyncio.timeout(2 * TIMEOUT_S):
                asked = ("reconcile", f"http://127.0.0.1:{port}", "--ledger", "ledger")
                code, out, errors = await verb(*asked, "--json", cwd=tmp_path)
                accepted, table, _ = await verb(*asked, "--accept-explained", cwd=tmp_path)
    finally:
        await ledger.close()
    (found,) = json.loads(out)
    assert (code, errors) == (1, "")
    (lost,) = found["differences"]
    assert (lost["cause"], lost["ledger_nano_usd"]) == ("unknown_spend", None)
    assert lost["difference"] == found["difference_nano_usd"] > 0
    assert "not by an id" in lost["detail"]
    assert accepted == 0
    assert "differ as announced" in table
