"""A lab of two nodes without NICs, and whatever control plane a test starts for it."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from niclab.agents import controlplane
from niclab.agents.controlplane import ControlPlane
from niclab.agents.kube import Deployed
from niclab.host import ledgers
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.host.process import environment
from niclab.net.operation import AddNamespace
from niclab.topology.model import Service

from tests.support import processes
from tests.support.busy import PATIENCE

ETCD = shutil.which("etcd", path=environment()["PATH"])
real_etcd = pytest.mark.skipif(ETCD is None, reason="needs etcd: apt-get install etcd-server")
NODES = ("node1", "node2")
WEB = Deployed(
    "web",
    Service(type="NodePort", port=80, target_port=8080),
    cluster_ips=(IPv4Address("10.96.0.80"),),
    node_port=30080,
    backends=((IPv4Address("10.244.2.7"), "node2", "pod2"),),
)


@dataclass
class Site:
    """Two nodes without NICs, and whatever control plane is started."""

    home: Path
    ledger: Ledger = field(default_factory=Ledger.open_new)

    def __post_init__(self) -> None:
        self.substrate = NetnsSubstrate(self.ledger)
        self.substrate.apply([AddNamespace(node) for node in NODES])

    def start(self, kind: controlplane.Kind, **more: Any) -> ControlPlane:
        return controlplane.start(
            kind, substrate=self.substrate, ledger=self.ledger, nodes=NODES, home=self.home, **more
        )

    @property
    def pids(self) -> dict[str, list[int]]:
        """Every process the lab has ever started, by name."""
        pids: dict[str, list[int]] = {}
        for line in (self.ledger.path / "ledger").read_text().splitlines():
            entry: dict[str, Any] = json.loads(line) if line else {}
            if entry.get("act") == "started process":
                pids.setdefault(entry["name"], []).append(entry["pid"])
        return pids

    @property
    def running(self) -> set[str]:
        return {name for name, pids in self.pids.items() if any(map(processes.runs, pids))}

    def get(self, node: str, port: int, path: str) -> tuple[int, bytes]:
        """What an agent on the node would be answered."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with self.substrate[node].entered():
            connection.sock = socket.create_connection(("127.0.0.1", port), 5)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        self.substrate.close()
        self.ledger.release()


_DOOMED = """
import os, signal, sys
from pathlib import Path
from niclab.agents import controlplane
from niclab.agents.controlplane import prepared
from niclab.net.operation import AddNamespace
from niclab.host.netns import NetnsSubstrate
from niclab.host.ledgers import Ledger
kind, home, server, operator = sys.argv[1:]
ledger = Ledger.open_new()
print(ledger.path, flush=True)
substrate = NetnsSubstrate(ledger)
substrate.apply([AddNamespace("node1")])
if kind == "saving":
    prepared._sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
controlplane.start(
    "kvstore" if kind == "kvstore" else "kubernetes",
    substrate=substrate, ledger=ledger, nodes=["node1"], home=Path(home),
    kubernetes=Path(server), operator=Path(operator),
)
os.kill(os.getpid(), signal.SIGKILL)
"""


def doomed(kind: str, home: Path, server: object = "-", operator: object = "-") -> dict[str, int]:
    """Start a control plane in a process that is killed; the programs it had started, by name."""
    arguments = [sys.executable, "-c", _DOOMED, kind, str(home), str(server), str(operator)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    path = Path(done.stdout.strip())
    entries = [json.loads(line) for line in (path / "ledger").read_text().splitlines() if line]
    pids = {entry["name"]: entry["pid"] for entry in entries if entry["act"] == "started process"}
    assert path.name in ledgers.sweep().labs
    assert not path.exists()
    return pids
