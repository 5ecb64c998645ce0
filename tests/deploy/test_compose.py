"""compose.yaml, what it mounts and what it starts, without a container engine.

The specification's own schema is checked by hand with compose-go, as deploy/README.md says. Here: everything named is
there, what must be reachable is where the others look for it, and the commands are ones the programs have.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from router import app, server
from router.cli import app as cli
from router.config import load_config
from router.telemetry import Telemetry
from tests.block_yaml import read_yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PINNED = re.compile(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}")
OURS = "hybrid-router:0.1.0"
DATASOURCES = DEPLOY / "grafana" / "provisioning" / "datasources" / "datasources.yaml"
DASHBOARDS = DEPLOY / "grafana" / "provisioning" / "dashboards" / "dashboards.yaml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file."""
    return read_yaml((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its services by name, which are host names to each other."""
    return compose["services"]


def _mounts(service: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Target path to (source, mode)."""
    found = [each.split(":") for each in service.get("volumes", [])]
    return {target: (source, mode[0] if mode else "rw") for source, target, *mode in found}


def test_everything_that_shows_what_the_router_does_is_there(services) -> None:
    """The router, traffic for it, Jaeger, Prometheus and Grafana."""
    assert set(services) == {"router", "traffic", "jaeger", "prometheus", "grafana"}
    assert services["traffic"]["profiles"] == ["traffic"], "traffic only for those who ask"
    assert not [name for name, each in services.items() if "profiles" in each and name != "traffic"]


def test_images_are_pinned(services) -> None:
    """Others' images by version and digest; ours is built from here, and named like the package's version."""
    for name, service in services.items():
        if "build" in service or service["image"] == services["router"]["image"]:
            assert service["image"] == OURS, name
        else:
            assert PINNED.fullmatch(service["image"]), name
    version = re.search(r'^version = "(.+)"$', (DEPLOY.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert f"hybrid-router:{version[1]}" == OURS
    build = services["router"]["build"]
    assert (DEPLOY / build["context"]).resolve() == DEPLOY.parent
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_what_is_mounted_exists_and_stays_unwritten(compose, services) -> None:
    """A missing source would be made, as an empty directory. Files of the repository are mounted read-only."""
    for name, service in services.items():
        for target, (source, mode) in _mounts(service).items():
            if source.startswith("."):
                assert (DEPLOY / source).exists(), (name, source)
                assert mode == "ro", (name, target)
            else:
                assert source in compose["volumes"], (name, source)


def test_ports_are_published_on_loopback_once(services) -> None:
    """Nothing here has a password, so nothing is published beyond the machine."""
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published) == 5


def test_the_router_listens_where_the_others_look(services) -> None:
    """Its settings, as the container reads them: gRPC, metrics for Prometheus, spans to Jaeger, traffic to itself."""
    router = services["router"]
    settings = load_config(_source_of(router, _option(router, "--config")), environ=_environment(router))
    assert settings.server.listen == "0.0.0.0:50051"
    assert settings.telemetry.prometheus_address == "0.0.0.0"
    metrics = f"router:{settings.telemetry.prometheus_port}"
    prometheus = read_yaml((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    (scrape,) = prometheus["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [metrics]}]
    assert settings.telemetry.sample_ratio == 1.0
    assert router["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4317"
    assert _option(services["traffic"], "--target") == "router:50051"
    inside = {port.split(":")[2] for port in router["ports"]}
    assert inside == {"50051", str(settings.telemetry.prometheus_port)}
    volume, _ = _mounts(router)["/var/lib/hybrid-router"]
    assert volume == "ledger"
    assert Path(settings.ledger.path).parent == Path("/var/lib/hybrid-router")


def _source_of(service: dict[str, Any], target: str) -> Path:
    return (DEPLOY / _mounts(service)[target][0]).resolve()


def _option(service: dict[str, Any], name: str) -> str:
    command = service["command"]
    return command[command.index(name) + 1]


def _environment(service: dict[str, Any]) -> dict[str, str]:
    """Of the image, then of the service."""
    image = dict(re.findall(r"(HYBRID_ROUTER__\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))
    return image | service["environment"]


@pytest.mark.parametrize("name", ["router", "traffic"])
def test_the_command_is_one_the_program_has(services, name: str) -> None:
    """Verbs and options of ours are those of the command line."""
    verb, *arguments = services[name]["command"]
    parameters = typer.main.get_command(cli).commands[verb].params
    known = {option for parameter in parameters for option in parameter.opts}
    assert {each for each in arguments if each.startswith("--")} <= known


def test_prometheus_reads_the_rules_beside_its_settings(services) -> None:
    """Rules are named relative to the settings, both in the mounted directory."""
    assert _source_of(services["prometheus"], "/etc/prometheus") == DEPLOY / "prometheus"
    settings = read_yaml((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    for rules in settings["rule_files"]:
        assert (DEPLOY / "prometheus" / rules).is_file()
    assert "--config.file=/etc/prometheus/prometheus.yaml" in services["prometheus"]["command"]


def test_grafana_is_given_sources_and_dashboards(services) -> None:
    """Sources point at services of this file, and the dashboards lie where the provider looks."""
    mounts = _mounts(services["grafana"])
    sources = {each["type"]: each["url"] for each in read_yaml(DATASOURCES.read_text())["datasources"]}
    assert sources == {"prometheus": "http://prometheus:9090", "jaeger": "http://jaeger:16686"}
    (provider,) = read_yaml(DASHBOARDS.read_text())["providers"]
    source, _ = mounts[provider["options"]["path"]]
    assert len(list((DEPLOY / source).glob("*.json"))) == 4
    assert (DEPLOY / mounts["/etc/grafana/provisioning"][0] / "dashboards").is_dir()


def test_who_depends_on_health_depends_on_someone_with_a_check(services) -> None:
    """A service waited for until healthy has a health check: its own, or ours from the image."""
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other] or services[other]["image"] == OURS, (name, other)


def test_containers_of_ours_have_no_rights_they_do_not_need(services) -> None:
    """A root file system nobody writes, no capabilities, no new privileges; the end is waited for."""
    for name in ("router", "traffic"):
        service = services[name]
        assert service["read_only"] == "true", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    router = services["router"]
    settings = load_config(None, environ=_environment(router)).server
    flush_s = 2 * Telemetry.shutdown.__defaults__[0]
    needed_s = settings.drain_s + settings.grace_s + server.IDLE_TIMEOUT_S + app.SETTLE_TIMEOUT_S + flush_s
    assert float(router["stop_grace_period"].removesuffix("s")) > needed_s
