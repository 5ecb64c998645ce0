"""A running service for a test, and what makes starting 250 of them quick."""

import ssl
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from classifier.model import DEFAULT_DIRECTORY, Model
from tests.e2e.service import Service, serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in here starts a real server."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session", autouse=True)
def _loaded_once() -> Iterator[None]:
    """Read the CA bundle, which no loopback call looks at, and the shipped classifier, which never changes, once."""
    shipped, load = Model.load(DEFAULT_DIRECTORY), Model.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", lru_cache(ssl.create_default_context))
        patch.setattr(
            Model,
            "load",
            staticmethod(
                lambda directory, *beside: (
                    shipped
                    if directory == DEFAULT_DIRECTORY and not any(beside)
                    else load(directory, *beside)
                )
            ),
        )
        yield


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A router over a fresh sandbox, with the default settings of `builders.config`."""
    async with serving() as running:
        yield running
