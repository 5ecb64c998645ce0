"""Fixtures of the router's tests."""

import pytest

from tests.router.ledger_homes import PostgresHome, SqliteHome


@pytest.fixture(params=["sqlite", "postgres"])
def home(request):
    """Where ledgers live: what is tested with it holds for either database."""
    chosen = (
        SqliteHome()
        if request.param == "sqlite"
        else PostgresHome(request.getfixturevalue("postgres_schemas"))
    )
    yield chosen
    chosen.close()
