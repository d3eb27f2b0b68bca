"""Frontends: the addresses and ports at which one node's agent serves the topology's services. Pure.

Follows pkg/loadbalancer/reflectors/conversions.go (which frontends a service has), pkg/loadbalancer/writer/writer.go
(which backends are behind each) and pkg/loadbalancer/reconciler/bpf_reconciler.go (a node port at every address that
`node-addresses` marks for it); before 1.18 pkg/service and pkg/k8s did the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from niclab.net.address import ip_address
from niclab.net.packetrules import Backend
from niclab.net.route import Address, Family, family_of
from niclab.topology.service import Service

if TYPE_CHECKING:
    from niclab.cilium.decisions import Decisions, NodeDecision

Kind = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalIPs"]

Place = tuple[Address, int, str]
"""An address, a port and a protocol: what no two frontends of a node share."""

SURROGATE: dict[Family, Address] = {4: ip_address("0.0.0.0"), 6: ip_address("::")}
"""The address of a node port's own row in an agent's tables, and what sockets look for at a node's address."""


@dataclass(frozen=True, slots=True)
class Frontend:
    """Where a service is served, with its backends by where the client is: outside the cluster, or inside.

    `split`: the two differ by policy, and the agent keeps a row for each.
    """

    service: str
    kind: Kind
    address: Address
    port: int
    protocol: Literal["tcp", "udp"]
    outside: tuple[Backend, ...]
    inside: tuple[Backend, ...]
    split: bool = False

    @property
    def family(self) -> Family:
        return family_of(self.address)

    @property
    def place(self) -> Place:
        return self.address, self.port, self.protocol

    def at(self, address: Address) -> Frontend:
        return replace(self, address=address)

    def __str__(self) -> str:
        return _end(self.address, self.port, self.protocol)

    @property
    def rows(self) -> tuple[str, ...]:
        """As the agent's table `frontends` has it: `ADDRESS TYPE → BACKENDS`, the scope for inside marked `/i`."""
        found = [f"{self} {self.kind} → {self._words(self.outside)}"]
        if self.split:
            found.append(f"{self}/i {self.kind} → {self._words(self.inside)}")
        return tuple(found)

    def _words(self, backends: tuple[Backend, ...]) -> str:
        ends = sorted(_end(one.address, one.port or 0, self.protocol) for one in backends)
        return ", ".join(ends) or "no backend"


def _end(address: Address, port: int, protocol: str) -> str:
    return f"{address if address.version == 4 else f'[{address}]'}:{port}/{protocol.upper()}"


def reported(decisions: Decisions, node: NodeDecision) -> tuple[str, ...]:
    """The node's frontends in the words of its agent, sorted."""
    return tuple(sorted(row for one in decisions.frontends[node.node] for row in one.rows))


def frontends(decisions: Decisions, node: NodeDecision) -> tuple[Frontend, ...]:
    """Every frontend of a node; a node port's is the surrogate. Without kube-proxy replacement cluster IPs alone."""
    topology = decisions.topology
    virtual, ports = topology.service_addresses(), topology.service_node_ports()
    found: list[Frontend] = []
    for name, service in topology.services.items():
        families: list[Family] = [family_of(address) for address in virtual[name]]
        found += [_made(decisions, node, name, "ClusterIP", (address, service.port)) for address in virtual[name]]
        if not node.serves_node_ports:
            continue
        if name in ports:
            every = [SURROGATE[family] for family in families]
            found += [_made(decisions, node, name, "NodePort", (address, ports[name])) for address in every]
        found += [_made(decisions, node, name, "LoadBalancer", (one, service.port)) for one in service.load_balancer_ip]
        found += [_made(decisions, node, name, "ExternalIPs", (one, service.port)) for one in service.external_ips]
    return tuple(one for one in found if one.family in node.families)


def outside(found: tuple[Frontend, ...], node: NodeDecision) -> tuple[Frontend, ...]:
    """A node's frontends as clients outside the cluster ask for them: a node port at every address that has it."""
    at_nics: list[Frontend] = []
    for one in found:
        if one.kind == "NodePort":
            at_nics += [one.at(address) for address in node_port_addresses(node, one.family)]
        elif node.serves_node_ports:
            at_nics.append(one)
    return tuple(at_nics)


def node_port_addresses(node: NodeDecision, family: Family) -> tuple[Address, ...]:
    """The addresses that the agent's table `node-addresses` marks for node ports."""
    rows = (row.address for row in node.node_addresses if row.node_port and row.address.version == family)
    return tuple(dict.fromkeys(rows))


def _made(decisions: Decisions, node: NodeDecision, name: str, kind: Kind, at: tuple[Address, int]) -> Frontend:
    service, (address, port) = decisions.topology.services[name], at
    family = family_of(address)
    every = tuple(_backends(decisions, service, family))
    own = tuple(one for one in every if one in set(_backends(decisions, service, family, node.node)))
    external, internal = service.external_traffic_policy == "Local", service.internal_traffic_policy == "Local"
    if not node.settings.internal_traffic_policy:
        internal = False
    if kind == "ClusterIP":
        external = internal
    return Frontend(
        service=name,
        kind=kind,
        address=address,
        port=port,
        protocol=service.protocol,
        outside=own if external else every,
        inside=own if internal else every,
        split=external != internal,
    )


def _backends(decisions: Decisions, service: Service, family: Family, node: str | None = None) -> Iterator[Backend]:
    """The pods behind a service that are plugged, those of one node if it is given."""
    for pod in service.pods:
        home = decisions.topology.pods[pod][0]
        if home not in decisions.running or node not in (None, home) or family not in decisions.nodes[home].families:
            continue
        for address in decisions.pod_addresses[pod]:
            if address.version == family:
                yield Backend(address, service.backend_port)
