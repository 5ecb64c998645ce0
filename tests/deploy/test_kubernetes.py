"""The Kubernetes manifests against each other, the settings they mount and the limits the service is built with.

What a schema knows (names and types of fields) is checked by hand with kustomize and kubectl-validate, as
deploy/README.md says; what a schema cannot know is checked here: that every reference resolves, that ports, paths and
times agree with the settings, and that nothing runs with more rights than it needs.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router import app, server
from router.config import Config, load_config
from router.telemetry import Telemetry
from tests.block_yaml import read_yaml

DIRECTORY = Path(__file__).parents[2] / "deploy" / "kubernetes"
NAME = "hybrid-router"
KINDS = {
    "Namespace": "v1",
    "ServiceAccount": "v1",
    "Service": "v1",
    "StatefulSet": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "NetworkPolicy": "networking.k8s.io/v1",
}
TELEMETRY_FLUSH_S = 2 * Telemetry.shutdown.__defaults__[0]
"""Spans, then metrics."""
MIB = 1 << 20


@pytest.fixture(scope="module")
def kustomization() -> dict[str, Any]:
    """What `kubectl apply -k` reads."""
    return read_yaml((DIRECTORY / "kustomization.yaml").read_text())


@pytest.fixture(scope="module")
def manifests(kustomization: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every manifest, by kind."""
    found = [read_yaml((DIRECTORY / name).read_text()) for name in kustomization["resources"]]
    return {each["kind"]: each for each in found}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The pods' specification."""
    return manifests["StatefulSet"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    """The only container of a pod."""
    (found,) = pod["containers"]
    return found


@pytest.fixture(scope="module")
def settings() -> Config:
    """The settings that become the ConfigMap, read as the service reads them."""
    return load_config(DIRECTORY / "router.toml", environ={})


def test_the_directory_holds_what_is_applied(kustomization, manifests) -> None:
    """No manifest lies about unapplied, each has the version its kind is served at, and all have the same name."""
    files = {path.name for path in DIRECTORY.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(kustomization["resources"])
    assert {kind: each["apiVersion"] for kind, each in manifests.items()} == KINDS
    assert {each["metadata"]["name"] for each in manifests.values()} == {NAME}
    assert kustomization["namespace"] == NAME
    (generator,) = kustomization["configMapGenerator"]
    assert generator["files"] == ["router.toml"]
    (image,) = kustomization["images"]
    assert image["newTag"] not in ("", "latest")


def _labelled(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Every selector by labels, wherever it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "matchLabels":
                yield path, inner
            yield from _labelled(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _labelled(inner, path)


def test_every_selector_means_the_pods(manifests) -> None:
    """Service, set, budget, spread and policy select the labels that the pods carry."""
    labels = manifests["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Service"]["spec"]["selector"] == labels
    own = [
        (kind, path, selected)
        for kind, each in manifests.items()
        for path, selected in _labelled(each)
        if "ingress" not in path and "egress" not in path
    ]
    assert len(own) == 5
    assert all(selected == labels for _, _, selected in own), own


def test_references_resolve(kustomization, manifests, pod, container) -> None:
    """Service, account, config map, volumes and scale target name something that is there."""
    spec = manifests["StatefulSet"]["spec"]
    assert spec["serviceName"] == manifests["Service"]["metadata"]["name"]
    assert pod["serviceAccountName"] == manifests["ServiceAccount"]["metadata"]["name"]
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["apiVersion"]) == ("StatefulSet", KINDS["StatefulSet"])
    assert target["name"] == manifests["StatefulSet"]["metadata"]["name"]
    claims = [each["metadata"]["name"] for each in spec["volumeClaimTemplates"]]
    volumes = [each["name"] for each in pod["volumes"]]
    mounts = [each["name"] for each in container["volumeMounts"]]
    assert sorted(mounts) == sorted(claims + volumes)
    (generator,) = kustomization["configMapGenerator"]
    by_name = {each["name"]: each for each in pod["volumes"]}
    assert by_name["settings"]["configMap"]["name"] == generator["name"]


def test_paths_and_ports_are_those_of_the_settings(manifests, pod, container, settings) -> None:
    """The settings are mounted where the command reads them, keys and ledger where the settings look, and every port
    that is probed, scraped or let through is one that is listened on."""
    mounted = {each["name"]: Path(each["mountPath"]) for each in container["volumeMounts"]}
    assert Path(container["args"][-1]) == mounted["settings"] / "router.toml"
    assert mounted["ledger"] in Path(settings.ledger.path).parents
    (keys,) = [each["secret"] for each in pod["volumes"] if each["name"] == "keys"]
    files = {str(mounted["keys"] / item["path"]) for item in keys["items"]}
    assert files == {settings.opus.api_key_file, settings.flash.api_key_file}
    host, _, port = settings.server.listen.rpartition(":")
    assert (host, settings.telemetry.prometheus_address) == ("0.0.0.0", "0.0.0.0")
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"grpc": port, "metrics": str(settings.telemetry.prometheus_port)}
    served = {each["targetPort"]: each["port"] for each in manifests["Service"]["spec"]["ports"]}
    assert served == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": ports["grpc"]}, probe
    let_in = [
        each["port"] for rule in manifests["NetworkPolicy"]["spec"]["ingress"] for each in rule["ports"]
    ]
    assert let_in == [ports["grpc"], ports["metrics"]]
    annotations = manifests["StatefulSet"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == ports["metrics"]


def test_clients_are_told_every_pod(manifests) -> None:
    """The service is headless: behind one address a channel would stay with one pod."""
    assert manifests["Service"]["spec"]["clusterIP"] == "None"


def test_the_end_is_waited_for(pod, settings) -> None:
    """The kubelet kills later than draining, grace, settling and flushing can take together."""
    needed_s = (
        settings.server.drain_s
        + settings.server.grace_s
        + server.IDLE_TIMEOUT_S
        + app.SETTLE_TIMEOUT_S
        + TELEMETRY_FLUSH_S
    )
    assert int(pod["terminationGracePeriodSeconds"]) >= needed_s + 10


def test_draining_is_seen_and_a_slow_start_is_not_a_fault(container, settings) -> None:
    """Readiness fails within the drain; liveness takes longer than that to give up; starting has a minute."""
    ready, live, start = (container[f"{name}Probe"] for name in ("readiness", "liveness", "startup"))
    assert _patience_s(ready) < settings.server.drain_s
    assert _patience_s(live) >= 60
    assert _patience_s(start) >= 60


def _patience_s(probe: dict[str, Any]) -> int:
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


def test_memory_holds_what_the_settings_allow(container, settings) -> None:
    """The limit covers the process, the index of prefixes, the held sessions and a thousand open streams."""
    limit_mib = _mib(container["resources"]["limits"]["memory"])
    process_mib, prefix_mib = 201, settings.cache.prefix_limit / 1000
    sessions_mib = 2 * settings.sessions.bytes_limit / MIB
    streams_mib = settings.server.in_flight_limit * 62 / 1024
    assert process_mib + prefix_mib + sessions_mib + streams_mib < 0.8 * limit_mib
    assert process_mib + prefix_mib < _mib(container["resources"]["requests"]["memory"])
    # Throttled, every stream of a pod stands still at once.
    assert "cpu" not in container["resources"]["limits"]


def _mib(text: str) -> int:
    found = re.fullmatch(r"(\d+)(Mi|Gi)", text)
    assert found
    return int(found[1]) * {"Mi": 1, "Gi": 1024}[found[2]]


def test_a_pod_has_no_rights_it_does_not_need(manifests, pod, container) -> None:
    """The restricted standard, a root file system nobody writes, and no credentials for the cluster."""
    assert manifests["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["automountServiceAccountToken"] == "false"
    assert manifests["ServiceAccount"]["automountServiceAccountToken"] == "false"
    of_pod, of_container = pod["securityContext"], container["securityContext"]
    assert of_pod["runAsNonRoot"] == "true"
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container["allowPrivilegeEscalation"] == "false"
    assert of_container["readOnlyRootFilesystem"] == "true"
    assert of_container["capabilities"] == {"drop": ["ALL"]}
    # Keys are read by the group the files are given to, and by no one else.
    (keys,) = [each["secret"] for each in pod["volumes"] if each["name"] == "keys"]
    assert int(keys["defaultMode"]) == 0o440
    user = re.search(r"USER (\d+):(\d+)", (DIRECTORY.parent / "Dockerfile").read_text())
    assert user
    assert (of_pod["runAsUser"], of_pod["runAsGroup"], of_pod["fsGroup"]) == (user[1], user[2], user[2])


def test_each_pod_keeps_its_ledger(manifests) -> None:
    """One writer per volume, and no bill goes with its pod: volumes outlive scaling and the set."""
    spec = manifests["StatefulSet"]["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}


def test_scaling_and_disruption_leave_pods_running(manifests) -> None:
    """At least two pods, one gone at a time, and no number of replicas for the autoscaler to fight with."""
    scaler = manifests["HorizontalPodAutoscaler"]["spec"]
    assert 2 <= int(scaler["minReplicas"]) < int(scaler["maxReplicas"])
    assert manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"] == "1"
    assert "replicas" not in manifests["StatefulSet"]["spec"]
    assert int(scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"]) >= 600


def test_nothing_private_is_reached_but_what_is_named(manifests) -> None:
    """Out go DNS, HTTPS to public addresses and spans; the cloud's metadata address is no public one."""
    rules = manifests["NetworkPolicy"]["spec"]["egress"]
    ports = [[each["port"] for each in rule["ports"]] for rule in rules]
    assert ports == [["53", "53"], ["443"], ["4317"]]
    (block,) = [peer["ipBlock"] for rule in rules for peer in rule["to"] if "ipBlock" in peer]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(block["except"])
