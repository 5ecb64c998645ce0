"""Errors a user can act on, as one line and an exit code instead of a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from classifier.array_file import ArtifactError
from classifier.dataset import DatasetError
from classifier.encoder import EncoderError
from classifier.registry import RegistryError
from router.config import ConfigError
from router.errors import RouterError
from router.ledger import LedgerLocked, StoreError
from router.timeline import WorkloadError

USAGE = 2
"""Exit code when the job could not be done as asked."""

_EXPECTED = (
    ConfigError,
    WorkloadError,
    DatasetError,
    ArtifactError,
    EncoderError,
    RegistryError,
    LedgerLocked,
    StoreError,
    RouterError,
    OSError,
    ValueError,
)


@contextmanager
def reported() -> Iterator[None]:
    """Turn expected errors into a line on standard error and exit code 2."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        _stop(f"the router answered {error.code().name}: {error.details()}")
    except _expected() as error:
        _stop(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _expected() -> tuple[type[Exception], ...]:
    """Evaluated only when something was raised: training, and scikit-learn with it, is loaded only by its verb."""
    training = sys.modules.get("classifier.training")
    return _EXPECTED if training is None else (*_EXPECTED, training.TrainingError)


def _stop(message: str) -> None:
    print(f"hybrid-router: {message}", file=sys.stderr)
    sys.exit(USAGE)
