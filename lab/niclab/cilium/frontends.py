"""Frontends: the addresses and ports at which one node's agent serves the topology's services. Pure.

Follows pkg/loadbalancer/reflectors/conversions.go (which frontends a service has), pkg/loadbalancer/writer/writer.go
(which backends are behind each) and pkg/loadbalancer/reconciler/bpf_reconciler.go (a node port at every address that
`node-addresses` marks for it); before 1.18 pkg/service and pkg/k8s did the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from niclab.cilium.node import NodeDecision
from niclab.net.packetrules import Backend
from niclab.net.route import Address, Family, family_of, ip_address
from niclab.topology.model import Service, Topology

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
    sticks: bool = False
    """Each client has one backend (sessionAffinity)."""
    redirect: str = ""
    """The local redirect policy that put the node's own pods in the place of the service's."""

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
        rows = [f"{self} {self.kind} → {self._words(self.outside)}"]
        if self.split:
            rows.append(f"{self}/i {self.kind} → {self._words(self.inside)}")
        return tuple(rows)

    def _words(self, backends: tuple[Backend, ...]) -> str:
        ends = sorted(_end(backend.address, backend.port or 0, self.protocol) for backend in backends)
        return ", ".join(ends) or "no backend"


def _end(address: Address, port: int, protocol: str) -> str:
    return f"{address if address.version == 4 else f'[{address}]'}:{port}/{protocol.upper()}"


Plugged = Mapping[str, tuple[Address, ...]]
"""Pod → its addresses that agents know of: of pods that are plugged, in the families that are enabled."""


def frontends(topology: Topology, node: NodeDecision, plugged: Plugged) -> tuple[Frontend, ...]:
    """Every frontend of a node; a node port's is the surrogate. Without kube-proxy replacement cluster IPs alone."""
    virtual, ports = topology.service_addresses(), topology.service_node_ports()
    own = topology.nodes[node.node].pods
    served: list[Frontend] = []
    for name, service in topology.services.items():
        every = [Backend(ip, service.backend_port) for pod in service.pods for ip in plugged.get(pod, ())]
        local = {ip for pod in service.pods if pod in own for ip in plugged.get(pod, ())}
        places: list[tuple[Kind, Address, int]] = [("ClusterIP", address, service.port) for address in virtual[name]]
        if node.serves_node_ports:
            if name in ports:
                families = [family_of(address) for address in virtual[name]]
                places += [("NodePort", SURROGATE[family], ports[name]) for family in families]
            places += [("LoadBalancer", address, service.port) for address in service.load_balancer_ip]
            places += [("ExternalIPs", address, service.port) for address in service.external_ips]
        for kind, address, port in places:
            if family_of(address) in node.families:
                of_all = tuple(backend for backend in every if backend.address.version == address.version)
                of_node = tuple(backend for backend in of_all if backend.address in local)
                at_home = _locality(node, service, kind)
                outside, inside = (of_node if here else of_all for here in at_home)
                if kind == "ClusterIP" and (redirected := _redirected(topology, node, name, plugged)):
                    policy, pods = redirected
                    outside = inside = tuple(pod for pod in pods if pod.address.version == address.version)
                    at_home = (True, True)
                else:
                    policy = ""
                split, sticks = len({*at_home}) > 1, _sticks(node, service)
                served.append(
                    Frontend(name, kind, address, port, service.protocol, outside, inside, split, sticks, policy)
                )
    return tuple(served)


def _redirected(
    topology: Topology, node: NodeDecision, service: str, plugged: Plugged
) -> tuple[str, tuple[Backend, ...]] | None:
    """The local redirect policy of a service that finds pods on this node, and those (redirectpolicy/controller.go:
    cluster IPs alone; without a pod all stays as it is)."""
    spec = topology.services[service]
    for name, policy in topology.local_redirect_policies.items() if node.settings.local_redirect_policy else ():
        own = topology.nodes[node.node].pods.items() if policy.service == service else ()
        chosen = [pod for pod, pod_spec in own if policy.selects(pod, pod_spec.labels)]
        port = policy.target_port or spec.backend_port
        if backends := tuple(Backend(ip, port) for pod in chosen for ip in plugged.get(pod, ())):
            return name, backends
    return None


def _sticks(node: NodeDecision, service: Service) -> bool:
    """Has each client one backend? Up to 1.17 this is an option, which kube-proxy replacement turns on."""
    settings, option = node.settings, node.version.has("session-affinity-option")
    on = not option or settings.kube_proxy_replacement or settings.session_affinity
    return service.session_affinity == "ClientIP" and on


def _locality(node: NodeDecision, service: Service, kind: Kind) -> tuple[bool, bool]:
    """Do clients outside, and clients inside the cluster, get this node's own backends only?"""
    inside = service.internal_traffic_policy == "Local" and node.settings.internal_traffic_policy
    return inside if kind == "ClusterIP" else service.external_traffic_policy == "Local", inside


def outside(served: tuple[Frontend, ...], node: NodeDecision) -> tuple[Frontend, ...]:
    """A node's frontends as clients outside the cluster ask for them: a node port at every address that has it."""
    at_nics: list[Frontend] = []
    for frontend in served:
        if frontend.kind == "NodePort":
            at_nics += [frontend.at(address) for address in node_port_addresses(node, frontend.family)]
        elif node.serves_node_ports:
            at_nics.append(frontend)
    return tuple(at_nics)


def node_port_addresses(node: NodeDecision, family: Family) -> tuple[Address, ...]:
    """The addresses that the agent's table `node-addresses` marks for node ports."""
    rows = [row.address for row in node.node_addresses if row.node_port and row.address.version == family]
    return tuple(dict.fromkeys(rows))
