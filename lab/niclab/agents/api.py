"""The agent's own REST API (api/v1/openapi.yaml) over its Unix socket: what `cilium-dbg` asks, without its cost.

One `cilium-dbg` call costs a tenth of a second of CPU; a lab that waits for its agents asks dozens of times.
"""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from niclab.agents.client import Client
from niclab.net.route import Address

TIMEOUT = 5.0
"""Seconds; the agent answers in milliseconds or is not ready."""
END = "<<end>>\n"
"""What the agent's shell writes behind an answer."""


def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    sock.connect(str(path))
    return sock


def _ask(path: Path, method: str, resource: str) -> tuple[int, bytes]:
    with contextlib.closing(Client(lambda: _connected(path), timeout=TIMEOUT)) as client:
        return client.ask(method, f"/v1/{resource}")


def answer(path: Path, resource: str) -> Any:
    """The JSON behind `GET /v1/RESOURCE`; None when the agent answers with an error.

    Raises OSError when it does not answer, and ValueError when that is no JSON.
    """
    status, body = _ask(path, "GET", resource)
    return json.loads(body) if status == 200 else None


def claim(path: Path, address: Address, owner: str) -> bool:
    """Take an address of the node's pods, so that no pod gets it (`POST /v1/ipam/ADDRESS`); False when it is taken."""
    return _done(path, "POST", f"ipam/{address}?owner={owner}&pool=default")


def release(path: Path, address: Address) -> bool:
    """Give an address back (`DELETE /v1/ipam/ADDRESS`)."""
    return _done(path, "DELETE", f"ipam/{address}?pool=default")


def _done(path: Path, method: str, resource: str) -> bool:
    with contextlib.suppress(OSError):
        return _ask(path, method, resource)[0] == 200
    return False


def shell(path: Path, command: str) -> str:
    """What the agent's shell (`shell.sock`, `cilium-dbg shell`) prints for one command. Raises OSError."""
    with contextlib.closing(_connected(path)) as sock:
        sock.sendall(command.encode() + b"\n")
        sock.shutdown(socket.SHUT_WR)
        data = bytearray()
        while not data.endswith(END.encode()) and (part := sock.recv(65536)):
            data += part
        return data.decode(errors="replace").removesuffix(END)
