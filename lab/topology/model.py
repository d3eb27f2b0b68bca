"""What exists: fabrics, nodes with their NICs and pods, externals, routers, services, and the flows people ask about.

Frozen pydantic models; the YAML around them is `lab.topology.file`, what must hold between them `lab.topology.rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from itertools import chain
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from lab.route import Address, Family, Network
from lab.topology.fields import (
    HostName,
    Interface,
    IpAddress,
    IpInterface,
    IpNetwork,
    Mac,
    Model,
    NicName,
    Protocol,
    RouteWords,
    RuleWords,
    one_or_many,
    or_empty,
    shown,
)
from lab.topology.flow import Flow, FlowWords
from lab.topology.service import Service, ServiceName, cluster_ips, node_ports


class Fabric(Model):
    """An L2 segment. `subnets`, where given, are the only ones its NICs may have addresses in."""

    subnets: Annotated[tuple[IpNetwork, ...], BeforeValidator(one_or_many)] = ()


class Nic(Model):
    """A physical interface and its cable. `mtu` in bytes; `up` is the administrative state."""

    fabric: str
    addresses: Annotated[
        tuple[IpInterface, ...],
        BeforeValidator(one_or_many),
        Field(description="ADDRESS/LENGTH each; the first of a family is its primary address"),
    ] = ()
    mtu: Annotated[int, Field(strict=True, le=65535)] = 1500
    up: Annotated[bool, Field(strict=True)] = True
    mac: Mac | None = None

    def addresses_of(self, family: Family) -> tuple[Interface, ...]:
        return tuple(address for address in self.addresses if address.version == family)


def _sysctl(value: Any) -> Any:
    return str(int(value)) if isinstance(value, int) else value


class Host(Model):
    """What has NICs on fabrics, its own routing tables and sysctls."""

    nics: Annotated[dict[NicName, Nic], Field(min_length=1)]
    routes: Annotated[tuple[RouteWords, ...], BeforeValidator(one_or_many)] = ()
    rules: Annotated[tuple[RuleWords, ...], BeforeValidator(one_or_many)] = ()
    sysctls: Annotated[
        dict[str, Annotated[str, BeforeValidator(_sysctl)]],
        BeforeValidator(or_empty),
        Field(description="net.* keys of the host's network namespace"),
    ] = {}


class Router(Host):
    """A host that forwards between its NICs and runs no Cilium: a gateway or a top-of-rack switch."""


class External(Host):
    """A host that is no node."""


class Pod(Model):
    """A pod; without `addresses` it gets the next free one of its node's pod CIDRs."""

    addresses: Annotated[tuple[IpAddress, ...], BeforeValidator(one_or_many)] = ()


def _pods(value: Any) -> Any:
    if isinstance(value, dict) or value is None:
        return value or {}
    found: dict[str, Any] = {}
    for name in one_or_many(value):
        if not isinstance(name, str):
            raise ValueError(f"{shown(name)} is not the name of a pod")
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = {}
    return found


class Node(Host):
    """A Kubernetes node: its NICs, the node IPs it announces, its pod CIDRs and its pods."""

    node_ip: Annotated[
        tuple[IpAddress, ...],
        BeforeValidator(one_or_many),
        Field(description="Kubernetes' InternalIP; default: the first NIC's first address of each family"),
    ] = ()
    pod_cidrs: Annotated[tuple[IpNetwork, ...], BeforeValidator(one_or_many)] = ()
    pods: Annotated[
        dict[HostName, Annotated[Pod, BeforeValidator(or_empty)]],
        BeforeValidator(_pods),
        Field(description="a list of names, or a mapping of names to pods"),
    ] = {}
    labels: Annotated[dict[str, str], BeforeValidator(or_empty)] = {}

    def node_ip_of(self, family: Family) -> Address | None:
        """The node IP of one family: as given, else the first address on the first NIC that has one."""
        for address in self.node_ip:
            if address.version == family:
                return address
        for nic in self.nics.values():
            for interface in nic.addresses_of(family):
                return interface.ip
        return None

    def pod_cidr_of(self, family: Family) -> Network | None:
        return next((cidr for cidr in self.pod_cidrs if cidr.version == family), None)


class Topology(Model):
    """A whole lab, as data."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    description: str = ""
    fabrics: Annotated[dict[HostName, Annotated[Fabric, BeforeValidator(or_empty)]], Field(min_length=1)]
    nodes: Annotated[dict[HostName, Node], Field(min_length=1)]
    externals: Annotated[dict[HostName, External], BeforeValidator(or_empty)] = {}
    routers: Annotated[dict[HostName, Router], BeforeValidator(or_empty)] = {}
    services: Annotated[dict[ServiceName, Service], BeforeValidator(or_empty)] = {}
    flows: Annotated[tuple[FlowWords, ...], BeforeValidator(one_or_many)] = ()

    @property
    def hosts(self) -> Mapping[str, Host]:
        """Every host by name: nodes first, then externals, then routers."""
        return {**self.nodes, **self.externals, **self.routers}

    @property
    def pods(self) -> Mapping[str, tuple[str, Pod]]:
        """Pod name → (its node's name, the pod)."""
        return {pod: (name, spec) for name, node in self.nodes.items() for pod, spec in node.pods.items()}

    @property
    def families(self) -> tuple[Family, ...]:
        """The address families of the pods, IPv4 first."""
        present = {cidr.version for node in self.nodes.values() for cidr in node.pod_cidrs}
        return tuple(family for family in (4, 6) if family in present)

    def nic_pairs(self) -> Iterator[tuple[str, str, Nic]]:
        """Every (host, NIC name, NIC) in the lab, nodes first."""
        for name, host in self.hosts.items():
            for nic_name, nic in host.nics.items():
                yield name, nic_name, nic

    def pod_addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Pod name → its addresses, IPv4 first: as given, else the CIDR's 10th address and on."""
        found: dict[str, tuple[Address, ...]] = {}
        for node in self.nodes.values():
            taken = {address for pod in node.pods.values() for address in pod.addresses}
            free = {cidr: _free(cidr, taken) for cidr in node.pod_cidrs}
            for name, pod in node.pods.items():
                given = {address.version for address in pod.addresses}
                made = [next(free[cidr], None) for cidr in node.pod_cidrs if cidr.version not in given]
                found[name] = tuple(
                    sorted([*pod.addresses, *(one for one in made if one)], key=lambda address: address.version)
                )
        return found

    def service_addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Service name → its virtual addresses (ClusterIPs), IPv4 first."""
        found = cluster_ips(self.services, self.families)
        return {name: tuple(sorted(given, key=lambda address: address.version)) for name, given in found.items()}

    def service_node_ports(self) -> Mapping[str, int]:
        """Service name → the port it has on every node, for those that have one."""
        return node_ports(self.services)

    def router_address(self, node: str, family: Family) -> Address | None:
        """What Cilium calls the router IP: the pods' gateway, on `cilium_host`; here the pod CIDR's first address."""
        cidr = self.nodes[node].pod_cidr_of(family)
        return cidr.network_address + 1 if cidr is not None else None


def pod_hosts(cidr: Network) -> int:
    """How many pods a pod CIDR has addresses for: not its own, the router's, nor IPv4's broadcast address."""
    return max(cidr.num_addresses - (3 if cidr.version == 4 else 2), 0)


def _free(cidr: Network, taken: set[Address]) -> Iterator[Address]:
    """The CIDR's addresses for pods that are not taken: from the 10th, then those before it."""
    end = 2 + pod_hosts(cidr)
    first = min(10, max(end - 1, 2))
    for number in chain(range(first, end), range(2, first)):
        address = cidr.network_address + number
        if address not in taken:
            yield address


__all__ = [
    "Address",
    "External",
    "Fabric",
    "Family",
    "Flow",
    "Host",
    "IPv4Network",
    "IPv6Network",
    "Interface",
    "Network",
    "Nic",
    "Node",
    "Pod",
    "Protocol",
    "Router",
    "Service",
    "Topology",
    "pod_hosts",
]
