"""What exists: fabrics, nodes with their NICs and pods, externals, routers, services, and the flows people ask about.

Frozen pydantic models. The YAML around them is read by `niclab.topology.file`; `niclab.check.topology` checks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from niclab.net.route import FAMILIES, Address, Family, Network, family_of
from niclab.topology.bgp import Bgp
from niclab.topology.egress import EgressPolicy
from niclab.topology.fields import (
    HostName,
    Interface,
    IpAddress,
    IpInterface,
    IpNetwork,
    Mac,
    Model,
    NicName,
    RouteWords,
    RuleWords,
    one_or_many,
    or_empty,
    shown,
)
from niclab.topology.flow import FlowWords
from niclab.topology.link import Link
from niclab.topology.service import Service, ServiceName, cluster_ips, node_ports


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
    pod_addresses: Annotated[
        tuple[IpNetwork, ...],
        BeforeValidator(one_or_many),
        Field(description="addresses of its subnet that belong to this NIC and go to pods: it is an ENI (ipam=eni)"),
    ] = ()

    def addresses_of(self, family: Family) -> tuple[Interface, ...]:
        return tuple(address for address in self.addresses if address.version == family)


def _sysctl(value: Any) -> Any:
    return str(int(value)) if isinstance(value, int) else value


class Host(Model):
    """What has NICs on fabrics, its own routing tables and sysctls."""

    nics: Annotated[dict[NicName, Nic], Field(min_length=1)]
    links: Annotated[
        dict[NicName, Annotated[Link, BeforeValidator(or_empty)]],
        BeforeValidator(or_empty),
        Field(description="bonds, VLANs, bridges, VRFs and dummies on top of the NICs; `lo` for addresses on it"),
    ] = {}
    routes: Annotated[tuple[RouteWords, ...], BeforeValidator(one_or_many)] = ()
    rules: Annotated[tuple[RuleWords, ...], BeforeValidator(one_or_many)] = ()
    sysctls: Annotated[
        dict[str, Annotated[str, BeforeValidator(_sysctl)]],
        BeforeValidator(or_empty),
        Field(description="net.* keys of the host's network namespace"),
    ] = {}

    @property
    def interfaces(self) -> Mapping[str, Nic | Link]:
        """NICs and links: whatever can have an address."""
        return {**self.nics, **self.links} if self.links else self.nics


class Router(Host):
    """A host that forwards between its NICs and runs no Cilium: a gateway or a top-of-rack switch."""


class External(Host):
    """A host that is no node."""


class Pod(Model):
    """A pod; without `addresses` it gets the next free one of its node's pod CIDRs, its pool's or its NIC's."""

    addresses: Annotated[tuple[IpAddress, ...], BeforeValidator(one_or_many)] = ()
    labels: Annotated[dict[str, str], BeforeValidator(or_empty)] = {}
    pool: Annotated[
        str | None, Field(description="the pool of its node that it takes its address from (ipam=multi-pool)")
    ] = None
    nic: Annotated[NicName | None, Field(description="the NIC of its node that its address belongs to (ipam=eni)")] = (
        None
    )


def _pods(value: Any) -> Any:
    if isinstance(value, dict) or value is None:
        return value or {}
    pods: dict[str, Any] = {}
    for name in one_or_many(value):
        if not isinstance(name, str):
            raise ValueError(f"{shown(name)} is not the name of a pod")
        if name in pods:
            raise ValueError(f"{name!r} is there twice")
        pods[name] = {}
    return pods


class Node(Host):
    """A Kubernetes node: its NICs, the node IPs it announces, its pod CIDRs and its pods."""

    node_ip: Annotated[
        tuple[IpAddress, ...],
        BeforeValidator(one_or_many),
        Field(description="Kubernetes' InternalIP; default: the first address of each family, NICs before links"),
    ] = ()
    pod_cidrs: Annotated[tuple[IpNetwork, ...], BeforeValidator(one_or_many)] = ()
    pools: Annotated[
        dict[HostName, Annotated[tuple[IpNetwork, ...], BeforeValidator(one_or_many)]],
        BeforeValidator(or_empty),
        Field(description="pod CIDRs of other pools than `default`, whose are in pod_cidrs (ipam=multi-pool)"),
    ] = {}
    pods: Annotated[
        dict[HostName, Annotated[Pod, BeforeValidator(or_empty)]],
        BeforeValidator(_pods),
        Field(description="a list of names, or a mapping of names to pods"),
    ] = {}
    labels: Annotated[dict[str, str], BeforeValidator(or_empty)] = {}

    def node_ip_of(self, family: Family) -> Address | None:
        """The node IP of one family: as given, else the first address there is, NICs before links."""
        for address in self.node_ip:
            if address.version == family:
                return address
        for interface in self.interfaces.values():
            for address in interface.addresses_of(family):
                return address.ip
        return None

    @property
    def enis(self) -> Mapping[str, Nic]:
        """The NICs whose addresses pods have, by name."""
        return {name: nic for name, nic in self.nics.items() if nic.pod_addresses}

    @property
    def every_pod_cidr(self) -> tuple[Network, ...]:
        """Where the node's pods have their addresses: its pod CIDRs, its other pools', and its NICs' own."""
        pools = chain.from_iterable(self.pools.values())
        return (*self.pod_cidrs, *pools, *chain.from_iterable(nic.pod_addresses for nic in self.nics.values()))

    def pod_cidrs_of(self, pod: Pod) -> tuple[Network, ...]:
        """Where one pod has its addresses: its pool, its NIC (by default the first that has any), or the pod CIDRs."""
        if pod.pool is not None and pod.pool != DEFAULT_POOL:
            return self.pools.get(pod.pool, ())
        if self.enis:
            nic = self.enis.get(self.nic_of(pod) or "")
            return nic.pod_addresses if nic else ()
        return self.pod_cidrs

    def nic_of(self, pod: Pod) -> str | None:
        """The NIC that a pod's address belongs to; None where pods have no NIC's."""
        return pod.nic or next(iter(self.enis), None)

    def pod_cidr_of(self, family: Family) -> Network | None:
        return next((cidr for cidr in self.every_pod_cidr if cidr.version == family), None)


Ipam = Literal["kubernetes", "multi-pool", "eni"]


class Topology(Model):
    """A whole lab, as data."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    description: str = ""
    fabrics: Annotated[dict[HostName, Annotated[Fabric, BeforeValidator(or_empty)]], Field(min_length=1)]
    nodes: Annotated[dict[HostName, Node], Field(min_length=1)]
    externals: Annotated[dict[HostName, External], BeforeValidator(or_empty)] = {}
    routers: Annotated[dict[HostName, Router], BeforeValidator(or_empty)] = {}
    vpc: Annotated[
        tuple[IpNetwork, ...],
        BeforeValidator(one_or_many),
        Field(description="the CIDRs of the cloud's network (ipam=eni), the primary one first; default: the ENIs' own"),
    ] = ()
    services: Annotated[dict[ServiceName, Service], BeforeValidator(or_empty)] = {}
    egress_policies: Annotated[dict[HostName, EgressPolicy], BeforeValidator(or_empty)] = {}
    bgp: Bgp | None = None
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
        present = {cidr.version for node in self.nodes.values() for cidr in node.every_pod_cidr}
        return tuple(family for family in FAMILIES if family in present)

    @property
    def ipam(self) -> Ipam:
        """The IPAM mode that the nodes' pod addresses ask for."""
        if any(node.enis for node in self.nodes.values()):
            return "eni"
        return "multi-pool" if any(node.pools for node in self.nodes.values()) else "kubernetes"

    @property
    def vpc_cidrs(self) -> tuple[Network, ...]:
        """The CIDRs of the cloud's network: as given, else the networks of every ENI, in the nodes' order."""
        nics = (nic for node in self.nodes.values() for nic in node.enis.values())
        return self.vpc or tuple(dict.fromkeys(interface.network for nic in nics for interface in nic.addresses))

    def nic_pairs(self) -> Iterator[tuple[str, str, Nic]]:
        """Every (host, NIC name, NIC) in the lab, nodes first."""
        for name, host in self.hosts.items():
            for nic_name, nic in host.nics.items():
                yield name, nic_name, nic

    def interface_pairs(self) -> Iterator[tuple[str, str, Nic | Link]]:
        """Every (host, interface name, NIC or link) in the lab, nodes first."""
        for name, host in self.hosts.items():
            for interface_name, interface in host.interfaces.items():
                yield name, interface_name, interface

    def pod_addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Pod name → its addresses, IPv4 first: as given, else the CIDR's 10th address and on."""
        addresses: dict[str, tuple[Address, ...]] = {}
        for node in self.nodes.values():
            taken = {address for pod in node.pods.values() for address in pod.addresses}
            free = {cidr: _free(cidr, taken) for cidr in node.every_pod_cidr}
            for name, pod in node.pods.items():
                given = {address.version for address in pod.addresses}
                own = {cidr.version: cidr for cidr in reversed(node.pod_cidrs_of(pod))}
                made = [next(free[cidr], None) for family, cidr in own.items() if family not in given]
                addresses[name] = tuple(
                    sorted([*pod.addresses, *(address for address in made if address)], key=family_of)
                )
        return addresses

    def service_addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Service name → its virtual addresses (ClusterIPs), IPv4 first."""
        addresses = cluster_ips(self.services, self.families)
        return {name: tuple(sorted(given, key=family_of)) for name, given in addresses.items()}

    def service_node_ports(self) -> Mapping[str, int]:
        """Service name → the port it has on every node, for those that have one."""
        return node_ports(self.services)

    def router_address(self, node: str, family: Family) -> Address | None:
        """What Cilium calls the router IP: the pods' gateway, on `cilium_host`; here the pod CIDR's first address."""
        cidr = self.nodes[node].pod_cidr_of(family)
        return cidr.network_address + 1 if cidr is not None else None


DEFAULT_POOL = "default"
"""The pool of pods that ask for none (`ipam-default-ip-pool`)."""


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
