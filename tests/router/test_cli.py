"""How verbs report what went wrong, and what the command loads to do so."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from classifier.array_file import ArtifactError
from classifier.dataset import DatasetError
from router.cli.fault import USAGE, reported
from router.cli.loop import log_to_stderr, run
from router.config import ConfigError
from router.errors import InvalidRequest
from router.ledger import LedgerLocked, StoreError
from router.timeline import WorkloadError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("server.listen: is 'x'"),
        WorkloadError("traffic.jsonl", 3, "no text"),
        DatasetError("labels.jsonl", 4, "no label"),
        ArtifactError("digest differs"),
        LedgerLocked("in use"),
        StoreError("disk full"),
        InvalidRequest("prompt.messages", "is empty"),
        FileNotFoundError(2, "No such file", "x.toml"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_user_can_mend_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and the message on standard error; no traceback, nothing on standard output."""
    with pytest.raises(SystemExit) as ended, reported():
        raise error
    written = capsys.readouterr()
    assert ended.value.code == USAGE == 2
    assert written.err == f"hybrid-router: {error}\n"
    assert written.out == ""


def test_a_labels_file_that_cannot_carry_a_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Training's own error is known although training is loaded only by its verb."""
    from classifier.training import TrainingError

    with pytest.raises(SystemExit), reported():
        raise TrainingError("too few positives")
    assert capsys.readouterr().err == "hybrid-router: too few positives\n"


def test_a_bug_is_a_traceback() -> None:
    """What no user can mend stays what it is."""
    with pytest.raises(KeyError), reported():
        raise KeyError("bug")


def test_stopping_is_no_error() -> None:
    """Ctrl-C ends with the shell's own code for it."""
    with pytest.raises(SystemExit) as ended, reported():
        raise KeyboardInterrupt
    assert ended.value.code == 130


def test_run_gives_back_what_the_loop_found() -> None:
    """One fresh loop per verb."""

    async def found() -> int:
        return 7

    assert run(found()) == 7


def test_an_unknown_log_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not silently another one."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(ValueError, match="LOUD"):
        log_to_stderr("loud")


def test_the_command_starts_light() -> None:
    """Help must not wait for what a verb may need: no scikit-learn, and no sandbox in a server that uses none."""
    code = (
        "import sys, router.cli; print(sorted(name for name in sys.modules if name in "
        "('sklearn', 'scipy.stats', 'router.sandbox', 'classifier.training')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout.strip() == "[]"
