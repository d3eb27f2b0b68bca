"""The way from a node to the control plane: a port on the node's own loopback, and no network in between.

A node's NICs and routes must stay exactly the topology's, for Cilium chooses its devices among what it finds. So the
nodes have no path to the control plane; a process outside listens in each node's namespace and forwards.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from niclab.agents.controlplane import forwarder
from niclab.errors import LabError
from niclab.host import daemons
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.host.netns import Namespace
from niclab.host.substrate import Substrate

CONTROL = "control"
"""The role of the namespace the control plane runs in; no host of a topology can have this name."""
LOOPBACK = "127.0.0.1"
_BACKLOG = 256


def start(ledger: Ledger, substrate: Substrate, *, nodes: Sequence[str], ports: Sequence[int], log: Path) -> Daemon:
    """One process that forwards 127.0.0.1:PORT of every node to the same port of the control namespace.

    A connection made before the process has started waits in the socket's queue. Raises LabError when a port is taken.
    """
    with contextlib.ExitStack() as closing:
        listeners = [
            (closing.enter_context(_listening(substrate[node], port)).fileno(), port)
            for node in nodes
            for port in ports
        ]
        return daemons.start(
            ledger,
            "relay",
            [sys.executable, "-I", "-S", forwarder.__file__, json.dumps(listeners)],
            log=log,
            netns=substrate[CONTROL].fd,
            outright=True,
            pass_fds=[handle for handle, _ in listeners],
        )


def _listening(node: Namespace, port: int) -> socket.socket:
    try:
        with node.entered():
            return socket.create_server((LOOPBACK, port), backlog=_BACKLOG)
    except OSError as error:
        raise LabError(
            f"cannot listen on {LOOPBACK}:{port} of {node.name}",
            why=error.strerror or str(error),
            fix=f"ip netns exec {node.name} ss -ltnp shows who does",
        ) from None


def dial(control: Namespace, port: int, timeout: float) -> socket.socket:
    """A connection to a port of the control namespace. Raises OSError."""
    with control.entered():
        return socket.create_connection((LOOPBACK, port), timeout)
