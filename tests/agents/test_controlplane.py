"""Control planes: what is said when their programs misbehave, and the one without Kubernetes for real."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest
from niclab.agents import controlplane, kube
from niclab.agents.controlplane.programs import needs_operator
from niclab.agents.kube import Deployed
from niclab.errors import LabError
from niclab.topology.model import Service

from tests.support import processes
from tests.support.controlplanes import NODES, WEB, Site, doomed, real_etcd
from tests.support.kernel import privileged

pytestmark = privileged

PATIENCE = 1.5
"""Seconds given to stand-ins."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "home")
    try:
        yield made
    finally:
        made.close()


def program(path: Path, code: str) -> Path:
    """A stand-in. As etcd it is asked for its version first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable} -IS\nimport sys, os, time\n"
        f"if '--version' in sys.argv: print('etcd Version: 0.0.1'); sys.exit()\n{code}"
    )
    path.chmod(0o755)
    return path


# Bodies of programs that stand in for a server: one that is slow to listen, others that never answer. Tests kill them.
HEALTHY = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"health": "true"}')
time.sleep(0.4)
HTTPServer(("127.0.0.1", 2379), Handler).serve_forever()
"""
HANGING = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('thinking', flush=True); time.sleep(60)"
SILENT = "time.sleep(60)"
MUTE = """
import socket
listening = socket.create_server(("127.0.0.1", 2379))
time.sleep(60)
"""
EXITING = 'print(\'starting\\n{"level":"fatal","msg":"no space on device"}\\nbye\'); sys.exit(3)'
RUBBISH = "os.write(1, bytes(range(256)) * 50 + b'\\n' + b'\\x1b[2J\\xff\\xfe' * 30); sys.exit(1)"
DYING = "import signal; os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize(
    ("code", "what", "why"),
    [
        (EXITING, "etcd ended with status 3 before it was ready", "no space on device"),
        (RUBBISH, "etcd ended with status 1 before it was ready", ""),
        (DYING, "etcd ended by signal 11 before it was ready", ""),
        (HANGING, "etcd was not ready after 1.5 s: /health gives no answer", "it said last: thinking"),
        (SILENT, "etcd was not ready after 1.5 s: /health gives no answer", "it said nothing"),
        (MUTE, "etcd was not ready after 1.5 s: /health gives no answer (timed out)", "it said nothing"),
    ],
    ids=["exiting", "rubbish", "dying", "hanging", "silent", "mute"],
)
def test_an_etcd_that_misbehaves(site: Site, tmp_path: Path, code: str, what: str, why: str) -> None:
    etcd = program(tmp_path / "etcd", code)
    before = time.monotonic()
    with pytest.raises(LabError) as caught:
        site.start("kvstore", etcd_program=etcd, patience=PATIENCE)
    assert time.monotonic() - before < PATIENCE + 3
    assert caught.value.what.startswith(what)
    assert why in caught.value.why
    assert "\n" not in caught.value.what + caught.value.why
    assert all(character.isprintable() for character in str(caught.value).replace("\n", ""))
    assert set(site.pids) == {"relay", "etcd"}
    assert site.running == set()


def test_an_etcd_that_comes_late_is_waited_for(site: Site, tmp_path: Path) -> None:
    plane = site.start("kvstore", etcd_program=program(tmp_path / "etcd", HEALTHY), patience=10)
    assert site.running == {"relay", "etcd"}
    assert site.get("node2", 2379, "/health") == (200, b'{"health": "true"}')
    plane.close()
    assert site.running == set()


def test_an_etcd_that_cannot_be_run(site: Site, tmp_path: Path) -> None:
    etcd = tmp_path / "etcd"
    etcd.write_text("neither a program nor a script")
    with pytest.raises(LabError, match="etcd ended with status") as caught:
        site.start("kvstore", etcd_program=etcd, patience=PATIENCE)
    assert "PermissionError" in caught.value.why or "denied" in caught.value.why
    with pytest.raises(LabError, match="there is no etcd at"):
        site.start("kvstore", etcd_program=tmp_path / "none")


@pytest.mark.parametrize(
    ("code", "what", "why"),
    [
        ("print('E0102 bad flag'); sys.exit(1)", "kube-apiserver ended with status 1 before it was ready", "bad flag"),
        (RUBBISH, "kube-apiserver ended with status 1 before it was ready", ""),
        (HANGING, "kube-apiserver was not ready after 1.5 s: /readyz gives no answer", "thinking"),
        # Something that is no TLS server.
        (HEALTHY.replace("2379", "6443"), "kube-apiserver was not ready after 1.5 s: /readyz gives no answer", ""),
    ],
    ids=["exiting", "rubbish", "hanging", "no TLS"],
)
def test_an_api_server_that_misbehaves(site: Site, tmp_path: Path, code: str, what: str, why: str) -> None:
    with pytest.raises(LabError) as caught:
        site.start(
            "kubernetes",
            etcd_program=program(tmp_path / "etcd", HEALTHY),
            kubernetes=program(tmp_path / "kube-apiserver", code),
            operator=program(tmp_path / "cilium-operator-generic", SILENT),
            patience=PATIENCE,
        )
    assert caught.value.what.startswith(what)
    assert why in caught.value.why
    assert "\n" not in caught.value.what + caught.value.why
    assert set(site.pids) == {"relay", "etcd", "kube-apiserver"}
    assert site.running == set()
    assert not (site.home / "prepared").exists()


def test_missing_programs_are_named(site: Site, tmp_path: Path) -> None:
    etcd = program(tmp_path / "etcd", HEALTHY)
    with pytest.raises(LabError, match="there is no kube-apiserver") as caught:
        site.start("kubernetes", etcd_program=etcd, kubernetes=tmp_path)
    assert "control-plane kvstore" in caught.value.fix
    server = program(tmp_path / "kube-apiserver", SILENT)
    with pytest.raises(LabError, match="there is no cilium-operator-generic"):
        site.start("kubernetes", etcd_program=etcd, kubernetes=server)
    assert site.running == set()


def test_the_operator_runs_for_what_only_it_does() -> None:
    assert not needs_operator(["enable-egress-gateway"], {"ipam": "kubernetes"})
    assert needs_operator(["enable-bgp-control-plane"], {})
    assert needs_operator([], {"ipam": "cluster-pool"})


@real_etcd
def test_kvstore(site: Site) -> None:
    plane = site.start("kvstore")
    for node in NODES:
        assert json.loads(site.get(node, 2379, "/health")[1])["health"] == "true"
    settings = plane.agent_settings
    assert settings["enable-k8s"] == "false"
    assert settings["identity-allocation-mode"] == "kvstore"
    assert json.loads(settings["kvstore-opt"]) == {"etcd.address": "http://127.0.0.1:2379"}
    assert plane.agent_environment("node1") == {"K8S_NODE_NAME": "node1"}
    plane.apply([kube.node("node1", addresses=[IPv4Address("10.0.0.1")], pod_cidrs=[IPv4Network("10.244.1.0/24")])])
    assert plane.add_pod(kube.pod("pod1", "node1")) == {}
    plane.pod_running("pod1", [IPv4Address("10.244.1.7")])
    # The nodes' own interfaces are what they were.
    with site.substrate["node1"].entered():
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
    plane.close()
    assert site.running == set()


@real_etcd
def test_services_reach_agents_by_a_file(site: Site) -> None:
    plane = site.start("kvstore")
    file = Path(plane.agent_settings["lb-state-file"])
    assert str(file.parent) in plane.binds
    assert json.loads(file.read_text()) == {"services": [], "endpoints": []}
    plane.apply(WEB.objects())
    both = (IPv4Address("10.96.0.81"), IPv6Address("fd00:10:96::81"))
    plane.apply(Deployed("other", Service(port=1), both).objects())
    plane.apply(WEB.objects())
    state = json.loads(file.read_text())
    assert state["services"][-1] == WEB.objects()[0]
    assert [one["metadata"]["name"] for one in state["endpoints"]] == ["other-v4", "other-v6", "web-v4"]


@real_etcd
def test_a_kept_lab_is_found_again(site: Site) -> None:
    plane = site.start("kvstore")
    plane.apply(WEB.objects())
    site.ledger.keep()
    plane.close()
    assert site.running == {"relay", "etcd"}
    again = controlplane.attach("kvstore", substrate=site.substrate, ledger=site.ledger)
    again.apply(Deployed("other", Service(port=1), (IPv4Address("10.96.0.81"),)).objects())
    state = json.loads(Path(again.agent_settings["lb-state-file"]).read_text())
    assert [one["metadata"]["name"] for one in state["services"]] == ["web", "other"]
    assert again.agent_settings == plane.agent_settings
    site.ledger.kept = False
    site.close()
    assert not site.ledger.path.exists()


@real_etcd
def test_kill_9_and_a_sweep_leave_no_process(tmp_path: Path) -> None:
    pids = doomed("kvstore", tmp_path)
    assert set(pids) == {"relay", "etcd"}
    assert not any(map(processes.runs, pids.values()))
