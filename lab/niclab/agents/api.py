"""The agent's own REST API (api/v1/openapi.yaml) over its Unix socket: what `cilium-dbg` asks, without its cost.

One `cilium-dbg` call costs a tenth of a second of CPU; a lab that waits for its agents asks dozens of times.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import json
import socket
from pathlib import Path
from typing import Any

from niclab.net.route import Address

TIMEOUT = 5.0
"""Seconds; the agent answers in milliseconds or is not ready."""


END = "<<end>>\n"
"""What the agent's shell writes behind an answer."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))


def get(path: Path, resource: str) -> Any:
    """The JSON behind `GET /v1/RESOURCE`; None when the agent does not answer, or with an error."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        return answer(path, resource)
    return None


def answer(path: Path, resource: str) -> Any:
    """The JSON behind `GET /v1/RESOURCE`; None when the agent answers with an error.

    Raises OSError, HTTPException or ValueError when it does not answer, or no JSON.
    """
    with contextlib.closing(_UnixConnection(path)) as connection:
        connection.request("GET", f"/v1/{resource}")
        response = connection.getresponse()
        body = response.read()
        return json.loads(body) if response.status == http.HTTPStatus.OK else None


def claim(path: Path, address: Address, owner: str) -> bool:
    """Take an address of the node's pods, so that no pod gets it (`POST /v1/ipam/ADDRESS`); False when it is taken."""
    return _ask(path, "POST", f"ipam/{address}?owner={owner}&pool=default")


def release(path: Path, address: Address) -> bool:
    """Give an address back (`DELETE /v1/ipam/ADDRESS`)."""
    return _ask(path, "DELETE", f"ipam/{address}?pool=default")


def _ask(path: Path, method: str, resource: str) -> bool:
    connection = _UnixConnection(path)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request(method, f"/v1/{resource}")
        response = connection.getresponse()
        response.read()
        return response.status == 200
    return False


def shell(path: Path, command: str) -> str | None:
    """What the agent's shell (`shell.sock`, `cilium-dbg shell`) prints for one command; None without an answer."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock, contextlib.suppress(OSError):
        sock.settimeout(TIMEOUT)
        sock.connect(str(path))
        sock.sendall(command.encode() + b"\n")
        sock.shutdown(socket.SHUT_WR)
        data = bytearray()
        while part := sock.recv(65536):
            data += part
            if data.endswith(END.encode()):
                break
        return data.decode(errors="replace")
    return None
