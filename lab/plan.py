"""From a topology to the kernel operations that build it, in order. Pure: the same topology gives the same plan."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lab.operation import (
    AddAddress,
    AddBridge,
    AddCable,
    AddNamespace,
    AddNeighbour,
    AddRoute,
    AddRule,
    Operation,
    SetLink,
    SetSysctl,
)
from lab.route import numbered
from lab.topology import Host, Nic, Topology

FABRIC = "fabric"
"""The namespace that holds every fabric, and so the outer end of every cable."""

_IFNAMSIZ = 15

# A namespace starts with the host's own values of these (net.core.devconf_inherit_init_net); the lab must not.
BASE_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.default.accept_dad": "0",
}
_FORWARDING = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}


@dataclass(frozen=True)
class Cable:
    """One NIC's cable: `port` is its outer end, an interface of the fabric namespace, where its tap listens."""

    host: str
    nic_name: str
    nic: Nic
    number: int
    host_number: int

    @property
    def tap(self) -> str:
        return f"{self.host}.{self.nic_name}"

    @property
    def port(self) -> str:
        return self.tap if len(self.tap) <= _IFNAMSIZ else f"p.{self.number}"

    @property
    def mac(self) -> str:
        return self.nic.mac or mac(0, self.host_number, self.number & 0xFF)

    @property
    def port_mac(self) -> str:
        return mac(1, self.host_number, self.number & 0xFF)


def mac(kind: int, host: int, number: int) -> str:
    """A locally administered MAC that says whose it is: 0 NIC, 1 fabric port, 2 bridge, 3 pod, 4 pod's other end."""
    return f"02:{kind:02x}:00:{host >> 8 & 0xFF:02x}:{host & 0xFF:02x}:{number & 0xFF:02x}"


def cables(topology: Topology, standing: Sequence[Cable] = ()) -> tuple[Cable, ...]:
    """Every NIC's cable, nodes first. Those that stand keep their numbers, and so their names and MACs."""
    numbers = {name: number for number, name in enumerate(topology.hosts, 1)}
    known = {cable.tap: cable.number for cable in standing}
    fresh = itertools.count(max(known.values(), default=-1) + 1)
    return tuple(
        Cable(host, nic_name, nic, known[tap] if (tap := f"{host}.{nic_name}") in known else next(fresh), numbers[host])
        for host, nic_name, nic in topology.nic_pairs()
    )


@dataclass(frozen=True)
class Plan:
    """The operations of a topology, and the names they used. `standing`: cables that are there already."""

    topology: Topology
    standing: tuple[Cable, ...] = ()

    @cached_property
    def cables(self) -> tuple[Cable, ...]:
        return cables(self.topology, self.standing)

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        return tuple(self._operations())

    def _operations(self) -> Iterator[Operation]:
        topology = self.topology
        yield AddNamespace(FABRIC)
        for name in topology.hosts:
            yield AddNamespace(name, host_sysctls(topology, name))
        for number, fabric in enumerate(topology.fabrics):
            yield AddBridge(FABRIC, bridge_name(fabric, number), mac(2, 0, number))
        bridges = {fabric: bridge_name(fabric, number) for number, fabric in enumerate(topology.fabrics)}
        for cable in self.cables:
            yield AddCable(
                FABRIC,
                cable.port,
                cable.port_mac,
                cable.host,
                cable.nic_name,
                cable.mac,
                cable.nic.mtu,
                bridges[cable.nic.fabric],
            )
        for name, host in topology.hosts.items():
            yield from _host(name, host)
        yield from self._cloud()

    def _cloud(self) -> Iterator[Operation]:
        """A cloud brings what is for a pod's address to the NIC that it belongs to; nobody asks by ARP."""
        owners = {cable.tap: cable for cable in self.cables}
        addresses = self.topology.pod_addresses()
        for pod, (node, spec) in self.topology.pods.items():
            if not self.topology.nodes[node].enis:
                continue
            owner = owners[f"{node}.{self.topology.nodes[node].nic_of(spec)}"]
            for cable in self.cables:
                if cable.nic.fabric == owner.nic.fabric and cable.host != node and cable.nic.up:
                    for address in addresses[pod]:
                        yield AddNeighbour(cable.host, cable.nic_name, address, owner.mac)


def bridge_name(fabric: str, number: int) -> str:
    return fabric if len(fabric) <= _IFNAMSIZ else f"fabric{number}"


def host_sysctls(topology: Topology, name: str) -> Mapping[str, str]:
    """What a host's namespace starts with: forwarding on nodes and routers. Its own keys come after its links."""
    forwards = name not in topology.externals
    return {**BASE_SYSCTLS, **(_FORWARDING if forwards else {})}


def _host(name: str, host: Host) -> Iterator[Operation]:
    for nic_name, nic in host.nics.items():
        for interface in nic.addresses:
            yield AddAddress(name, nic_name, interface)
        if nic.up:
            yield SetLink(name, nic_name)
    for key, value in host.sysctls.items():
        yield SetSysctl(name, key.replace("/", ".") if "." not in key else key, value)
    for route in host.routes:
        yield AddRoute(name, route)
    for rule in numbered(host.rules):
        yield AddRule(name, rule)


__all__ = ["FABRIC", "Cable", "Plan", "cables", "host_sysctls", "mac"]
