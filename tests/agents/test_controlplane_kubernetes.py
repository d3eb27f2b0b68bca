"""The Kubernetes control plane for real: kube-apiserver and Cilium's operator, where they are at hand."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from niclab.agents import bundle, controlplane, kube
from niclab.agents.controlplane import Kubernetes
from niclab.agents.controlplane.programs import lacking_definitions
from niclab.errors import LabError

from tests.support import bundles, processes
from tests.support.controlplanes import ETCD, WEB, Site, doomed
from tests.support.kernel import privileged

pytestmark = privileged


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "home")
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class Programs:
    kubernetes: Path
    operator: Path


@pytest.fixture(scope="module")
def programs() -> Programs:
    """A real API server and a real operator."""
    why = "needs etcd, kube-apiserver (NICLAB_KUBERNETES) and a Cilium with its operator (NICLAB_CILIUM)"
    try:
        server = bundle.find(bundle.KUBERNETES)
        operators = [found for one in bundles.by_minor().values() if (found := one.outside(one.companion))]
    except LabError:
        pytest.skip(why)
    if ETCD is None or not operators:
        pytest.skip(why)
    program = server.outside(server.required("kube-apiserver"))
    assert program is not None
    return Programs(program, operators[0])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests below: the first prepares what the others use."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.timeout(200)
def test_kubernetes(site: Site, programs: Programs, home: Path) -> None:
    site.home = home
    before = set(os.listdir("/run"))  # noqa: PTH208 (names are wanted)
    plane = site.start("kubernetes", kubernetes=programs.kubernetes, operator=programs.operator)
    assert isinstance(plane, Kubernetes)
    assert site.running == {"relay", "etcd", "kube-apiserver"}, "ipam=kubernetes needs no operator"
    assert set(os.listdir("/run")) <= before | {"netns", "niclab"}, "the operator works in a /run of its own"  # noqa: PTH208
    assert lacking_definitions(plane.api) == ""
    plane.apply([kube.node("node1", addresses=[IPv4Address("10.0.0.1")], pod_cidrs=[IPv4Network("10.244.1.0/24")])])
    variables = plane.add_pod(kube.pod("pod1", "node1", labels={"app": "web"}))
    assert variables["CNI_ARGS"].startswith("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod1;K8S_POD_UID=")
    plane.pod_running("pod1", [IPv4Address("10.244.1.7")])
    pod = plane.api.get("v1", "Pod", "pod1", namespace="default")
    assert pod is not None
    assert (pod["status"]["podIP"], pod["status"]["hostIP"]) == ("10.244.1.7", "10.0.0.1")
    plane.apply(WEB.objects())
    plane.apply(WEB.objects())  # the same again is fine
    service = plane.api.get("v1", "Service", "web", namespace="default")
    assert service is not None
    assert (service["spec"]["clusterIP"], service["spec"]["ports"][0]["nodePort"]) == ("10.96.0.80", 30080)
    assert [one["metadata"]["name"] for one in plane.api.objects("discovery.k8s.io/v1", "EndpointSlice")] == ["web-v4"]
    plane.api.apply({"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "node1"}, "spec": {}})
    config = json.loads(Path(plane.agent_settings["k8s-kubeconfig-path"]).read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
    # By the relay, as an agent would: no plain HTTP is spoken there.
    assert site.get("node1", 6443, "/")[0] == 400
    attached = controlplane.attach("kubernetes", substrate=site.substrate, ledger=site.ledger)
    attached.add_pod(kube.pod("pod2", "node1"))
    attached.close()
    plane.close()
    assert site.running == set()


@pytest.mark.timeout(200)
def test_prepared_data_holds_the_definitions_and_nothing_of_the_lab(site: Site, programs: Programs, home: Path) -> None:
    site.home = home
    site.start("kubernetes", kubernetes=programs.kubernetes, operator=programs.operator).close()
    assert set(site.pids) <= {"relay", "etcd", "kube-apiserver", "cilium-operator"}
    other = Site(home)
    try:
        before = time.monotonic()
        plane = other.start("kubernetes", kubernetes=programs.kubernetes, operator=programs.operator)
        took = time.monotonic() - before
        assert isinstance(plane, Kubernetes)
        assert set(other.pids) == {"relay", "etcd", "kube-apiserver"}
        assert lacking_definitions(plane.api) == ""
        for kind in ("Node", "Pod"):
            assert plane.api.objects("v1", kind) == []
        assert took < 10, "1.5 s on a quiet machine"
    finally:
        other.close()


@pytest.mark.timeout(200)
def test_kill_9_while_data_is_prepared(programs: Programs, tmp_path: Path) -> None:
    pids = doomed("saving", tmp_path, programs.kubernetes, programs.operator)
    assert set(pids) == {"relay", "etcd", "kube-apiserver", "cilium-operator"}
    assert not any(map(processes.runs, pids.values()))
    assert [path.name[:5] for path in (tmp_path / "prepared").iterdir()] == [".new-"]


@pytest.mark.timeout(200)
def test_kill_9_of_a_kubernetes_lab_and_a_sweep_leave_no_process(programs: Programs, home: Path) -> None:
    pids = doomed("kubernetes", home, programs.kubernetes, programs.operator)
    assert not any(map(processes.runs, pids.values()))


@pytest.mark.timeout(200)
def test_damaged_prepared_data_is_discarded(site: Site, programs: Programs, home: Path, tmp_path: Path) -> None:
    site.home = home
    site.start("kubernetes", kubernetes=programs.kubernetes, operator=programs.operator).close()
    shutil.copytree(home, tmp_path / "copy")
    for log in (tmp_path / "copy").rglob("*.wal"):
        log.write_bytes(os.urandom(10000))
    other = Site(tmp_path / "copy")
    try:
        with pytest.raises(LabError, match="etcd ended") as caught:
            other.start("kubernetes", kubernetes=programs.kubernetes, operator=programs.operator)
        assert "try again" in caught.value.fix
        assert list((tmp_path / "copy/prepared").iterdir()) == []
        assert other.running == set()
    finally:
        other.close()
