"""etcd in the control namespace: where agents without Kubernetes meet, and where the API server keeps its objects."""

from __future__ import annotations

import http.client
import shutil
from pathlib import Path

from niclab.agents.bundle.memory import remembered
from niclab.agents.controlplane import program
from niclab.agents.controlplane.relay import LOOPBACK, dial
from niclab.errors import LabError
from niclab.host import daemons
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.host.netns import Namespace
from niclab.host.process import environment, run

PORT = 2379
_PEER_PORT = 2380
_QUICK = 5.0
"""Seconds for a program to tell its version."""
_HARMLESS = "--unsafe-no-fsync"


def find(chosen: Path | None = None) -> Path:
    """The etcd to run: the chosen one, else the system's. Raises LabError when there is none."""
    found = str(chosen) if chosen else shutil.which("etcd", path=environment()["PATH"])
    if found is None or not Path(found).is_file():
        raise LabError(
            f"there is no etcd{f' at {chosen}' if chosen else ''}",
            why="real Cilium keeps its state in it, alone or behind kube-apiserver",
            fix="apt-get install etcd-server",
        )
    return Path(found)


def version(etcd: Path) -> str:
    """What `etcd --version` says in its first line. Raises LabError."""

    def ask() -> str:
        return run([str(etcd), "--version"], timeout=_QUICK).partition("\n")[0].rpartition(" ")[2]

    return remembered(etcd, "version of etcd", ask)


def start(ledger: Ledger, control: Namespace, *, etcd: Path, data: Path, log: Path) -> Daemon:
    """Start etcd on `data`; it is not ready yet. Raises LabError."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    client, peer = f"http://{LOOPBACK}:{PORT}", f"http://{LOOPBACK}:{_PEER_PORT}"
    arguments = [
        str(etcd),
        "--name=niclab",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=niclab={peer}",
        # A single member elects itself; from earlier data only after a timeout, of 1 to 2 s by default.
        "--heartbeat-interval=10",
        "--election-timeout=100",
        "--logger=zap",
        "--log-level=warn",
    ]
    if _knows_no_fsync(etcd):
        arguments.append(_HARMLESS)
    return daemons.start(ledger, "etcd", arguments, log=log, netns=control.fd, outright=True)


def _knows_no_fsync(etcd: Path) -> bool:
    """A lab's data need not survive the machine. Debian's 3.4 has the flag and does not list it in its help."""

    def ask() -> str:
        try:
            run([str(etcd), _HARMLESS, "--version"], timeout=_QUICK)
        except LabError:
            return "no"
        return "yes"

    return remembered(etcd, f"does it know {_HARMLESS}", ask) == "yes"


def wait(daemon: Daemon, control: Namespace, *, deadline: float) -> None:
    """Return when etcd is healthy: after 0.2 s on a quiet machine. Raises LabError."""
    program.until_ready(daemon, lambda: _missing(control), deadline=deadline)


def _missing(control: Namespace) -> str:
    """What /health lacks, in words; nothing when it is healthy."""
    connection = http.client.HTTPConnection(LOOPBACK, PORT, timeout=1)
    try:
        connection.sock = dial(control, PORT, 1)
        connection.request("GET", "/health")
        body = connection.getresponse().read(4096)
    except (OSError, http.client.HTTPException) as error:
        return f"/health gives no answer ({str(error) or type(error).__name__})"
    finally:
        connection.close()
    healthy = b'"health":"true"' in body.replace(b" ", b"")
    return "" if healthy else f"/health answers {body[:80].decode(errors='replace')!r}"
