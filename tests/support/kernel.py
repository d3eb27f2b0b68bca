"""A real namespace built from a host of a topology, and what the kernel says of routes in it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from niclab.errors import LabError
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.net.operation import AddAddress, AddCable, AddNamespace, AddRoute, AddRule, SetLink
from niclab.net.route import Address, Route, Rule
from niclab.topology.model import Host

privileged = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces of a real kernel")

_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv4.ip_forward": "1",
}
_RTM_GETROUTE = 26
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_REFUSED = (6, 7, 8, 9)
_LOCAL = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What `ip route get` says: `kind` is unicast, local or refused."""

    kind: str
    dev: str | None = None
    via: str | None = None


@contextmanager
def substrate() -> Iterator[NetnsSubstrate]:
    """A substrate with the fabric's namespace and nothing else."""
    ledger = Ledger.open_new(None)
    made = NetnsSubstrate(ledger)
    try:
        made.apply([AddNamespace("fabric")])
        yield made
    finally:
        made.close()
        ledger.release()


class RealHost:
    """A host's namespace; routes and rules are added one by one, and the kernel may refuse them."""

    def __init__(self, real: NetnsSubstrate, name: str, host: Host) -> None:
        self._real = real
        self._name = name
        real.apply([AddNamespace(name, _SYSCTLS)])
        for number, (nic_name, nic) in enumerate(host.nics.items()):
            real.apply([AddCable("fabric", f"{name}.{number}", _mac(1), name, nic_name, _mac(0), nic.mtu)])
            real.apply([AddAddress(name, nic_name, interface) for interface in nic.addresses])
            real.apply([SetLink(name, nic_name)] if nic.up else [])
        with real[name].entered():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._names = {index: nic for nic, index in real[name].indices.items()}

    def close(self) -> None:
        self._socket.close()

    def takes(self, one: Route | Rule) -> str | None:
        """Add a route or a rule; the kernel's words when it refuses."""
        try:
            self._real.apply([AddRoute(self._name, one) if isinstance(one, Route) else AddRule(self._name, one)])
        except LabError as error:
            return error.why or error.what
        return None

    def get(
        self, destination: Address, *, source: Address | None = None, iif: str | None = None, oif: str | None = None
    ) -> Answer:
        """RTM_GETROUTE, as `ip route get` asks it."""
        indices = self._real[self._name].indices
        bits = destination.max_prefixlen
        body = struct.pack("=BBBBBBBBI", _FAMILY[destination.version], bits, bits if source else 0, 0, 0, 0, 0, 0, 0)
        body += _attribute(1, destination.packed)
        body += _attribute(2, source.packed) if source else b""
        body += _attribute(3, struct.pack("=I", indices[iif])) if iif else b""
        body += _attribute(4, struct.pack("=I", indices[oif])) if oif else b""
        self._socket.send(struct.pack("=IHHII", len(body) + 16, _RTM_GETROUTE, 1, 1, 0) + body)
        data = self._socket.recv(1 << 16)
        if struct.unpack_from("=H", data, 4)[0] == 2:
            return Answer("refused")
        return self._parsed(data)

    def _parsed(self, data: bytes) -> Answer:
        length = struct.unpack_from("=I", data)[0]
        family, kind = data[16], data[23]
        attributes: dict[int, bytes] = {}
        at = 28
        while at + 4 <= length:
            size, number = struct.unpack_from("=HH", data, at)
            attributes[number] = data[at + 4 : at + size]
            at += (size + 3) & ~3
        if kind in _REFUSED:
            return Answer("refused")
        if kind == _LOCAL:
            return Answer("local")
        via = socket.inet_ntop(family, attributes[5]) if 5 in attributes else None
        return Answer("unicast", self._names[struct.unpack("=I", attributes[4])[0]], via)


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload


_serial = iter(range(1, 1 << 24))


def _mac(kind: int) -> str:
    number = next(_serial)
    return f"02:{kind:02x}:ff:{number >> 16:02x}:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}"
