"""The image's recipe: what it is built from, who it runs as, how it is asked and ended.

Without an engine nothing is built here; by hand hadolint reads it and its steps are run outside a container, as
deploy/README.md says.
"""

import fnmatch
import json
import re
import tomllib
from pathlib import Path

import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from router.cli import app as cli
from router.config import load_config
from tests.block_yaml import read_yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IGNORED = ROOT / "deploy" / "Dockerfile.dockerignore"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) in order, continuation lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and line[0] != "#"]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in text.split("\n"))
    ]


@pytest.fixture(scope="module")
def final(instructions: list[tuple[str, str]]) -> dict[str, str]:
    """The last stage; the last of each instruction counts."""
    last = max(number for number, (name, _) in enumerate(instructions) if name == "FROM")
    return dict(instructions[last:])


def test_both_stages_stand_on_the_interpreter_the_tests_run_on(instructions) -> None:
    """One base, pinned by digest, of the Python that pyproject.toml and the lock are made for."""
    assert [rest.split()[0] for name, rest in instructions if name == "FROM"] == ["${PYTHON_IMAGE}"] * 2
    (image,) = [rest.partition("=")[2] for name, rest in instructions if rest.startswith("PYTHON_IMAGE=")]
    found = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+@sha256:[0-9a-f]{64}", image)
    assert found
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == f">={found[1]}"


def test_every_install_is_by_hash_and_compiles_nothing(instructions) -> None:
    """Nothing comes from an index but what the lock names with its hash, and the package itself from no index."""
    installs = [
        each
        for name, rest in instructions
        if name == "RUN"
        for each in rest.split("&&")
        if re.search(r"\bpip\b.* (install|wheel) ", each)
    ]
    assert len(installs) == 4
    for each in installs:
        assert "--require-hashes --only-binary :all:" in each or (
            "--no-deps" in each and "--no-index" in each
        )


def locked(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Requirement line's name and marker to its version and hashes."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for block in re.split(r"\n(?=[a-zA-Z])", "\n" + path.read_text()):
        head = re.match(r"\n?([\w.-]+)==(\S+)( ; [^\\]+)?", block)
        if head:
            key = head[1] + (head[3] or "").rstrip()
            found[key] = (head[2], frozenset(re.findall(r"sha256:[0-9a-f]{64}", block)))
    return found


def test_the_images_lock_is_the_run_time_part_of_the_developers() -> None:
    """The same versions and hashes as were tested, every run-time dependency, and no tool: `make lock` makes both."""
    whole, part = locked(ROOT / "requirements.lock"), locked(ROOT / "deploy" / "requirements.lock")
    # By name, not marker: the same package may be wanted under wider conditions with the tools than without.
    tested = {(key.split(" ;")[0], value) for key, value in whole.items()}
    assert {key for key, value in part.items() if (key.split(" ;")[0], value) not in tested} == set()
    assert all(hashes for _, hashes in part.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {canonicalize_name(re.split(r" ;", key)[0]) for key in part}
    needed = {canonicalize_name(Requirement(each).name) for each in project["dependencies"]}
    assert needed <= names
    tools = {canonicalize_name(Requirement(each).name) for each in project["optional-dependencies"]["dev"]}
    assert not names & tools
    assert "setuptools" in {re.split(r" ;", key)[0] for key in whole}, "the build takes it from there"


def test_it_runs_as_nobody_in_particular(instructions, final) -> None:
    """A numbered user that the recipe makes, and who owns nothing but the ledger's directory."""
    user = re.fullmatch(r"(\d+):(\d+)", final["USER"])
    assert user
    assert int(user[1]) >= 10_000
    made = " ".join(rest for name, rest in instructions if name == "RUN")
    assert f"--uid {user[1]}" in made
    assert f"--gid {user[2]}" in made
    assert "-o router -g router -m 0750 /var/lib/hybrid-router" in made
    assert json.loads(final["VOLUME"]) == ["/var/lib/hybrid-router"]


def test_it_is_the_first_process_and_hears_sigterm(final) -> None:
    """Exec form: no shell stands between the engine and the router."""
    assert json.loads(final["ENTRYPOINT"]) == ["hybrid-router"]
    assert json.loads(final["CMD"]) == ["serve"]
    assert final["STOPSIGNAL"] == "SIGTERM"


def test_the_health_check_is_a_verb_and_asks_where_it_listens(final) -> None:
    """Its options are the verb's, its address is that of the image's settings."""
    check = final["HEALTHCHECK"]
    command = json.loads(check[check.index("[") :])
    assert command[:2] == ["hybrid-router", "health"]
    parameters = typer.main.get_command(cli).commands["health"].params
    known = {option for parameter in parameters for option in parameter.opts}
    assert {each for each in command if each.startswith("--")} <= known
    environ = dict(re.findall(r"(HYBRID_ROUTER__\w+)=(\S+)", DOCKERFILE.read_text()))
    settings = load_config(None, environ=environ)
    port = settings.server.listen.rpartition(":")[2]
    assert command[-1] == f"127.0.0.1:{port}"
    assert port in final["EXPOSE"].split()
    assert Path(settings.ledger.path).parent == Path("/var/lib/hybrid-router")


def test_the_image_says_what_it_is(instructions, final) -> None:
    """Labels of the OCI, with the package's version."""
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', final["LABEL"]))
    assert set(labels) == {"title", "description", "licenses", "version", "revision"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ("ARG", f"VERSION={project['version']}") in instructions
    assert labels["licenses"] == project["license"]


def test_the_build_sees_what_it_copies_and_little_else(instructions) -> None:
    """Every file that is copied is let through, and neither ledgers nor keys nor history are."""
    rules = [line for line in IGNORED.read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule[0] == "!"]
    copied = [
        source
        for name, rest in instructions
        if name == "COPY" and "--from=" not in rest
        for source in rest.split()[:-1]
    ]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / each).exists() for each in copied)
    for secret in (".git", ".env", "var", ".venv", "deploy/router.toml"):
        assert not [rule for rule in allowed if fnmatch.fnmatch(secret, rule)]


def test_the_images_of_compose_and_kubernetes_are_this_one() -> None:
    """Name and tag are the same wherever they stand."""
    compose = read_yaml((ROOT / "deploy" / "compose.yaml").read_text())
    kustomization = read_yaml((ROOT / "deploy" / "kubernetes" / "kustomization.yaml").read_text())
    (image,) = kustomization["images"]
    assert compose["services"]["router"]["image"] == f"{image['newName']}:{image['newTag']}"
    assert f"-t {image['newName']}:{image['newTag']} ." in DOCKERFILE.read_text()
