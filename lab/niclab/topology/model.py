"""What exists: fabrics, nodes with their NICs and pods, externals, routers, services, and the flows people ask about.

Frozen pydantic models. The YAML around them is read by `niclab.topology.file`; `niclab.check.topology` checks them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import chain
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from niclab.errors import InputError, Problem
from niclab.net.route import FAMILIES, Address, Family, Network, family_of
from niclab.topology.fields import (
    HostName,
    Interface,
    IpAddress,
    IpInterface,
    IpNetwork,
    Mac,
    Many,
    Model,
    NicName,
    OrEmpty,
    Protocol,
    RouteWords,
    RuleWords,
    Written,
    one_or_many,
    shown,
)


class Fabric(Model):
    """An L2 segment. `subnets`, where given, are the only ones its NICs may have addresses in."""

    subnets: Many[IpNetwork] = ()


NicKind = Literal["physical", "veth"]


class Nic(Model):
    """A host's interface and its cable. `mtu` in bytes; `up` is the administrative state."""

    fabric: str
    kind: NicKind = Field(
        default="physical",
        description="a node's; veth where it is a container, as in kind: agents treat such a NIC otherwise",
    )
    addresses: Many[IpInterface] = Field(
        default=(), description="ADDRESS/LENGTH each; the first of a family is its primary address"
    )
    mtu: int = Field(default=1500, strict=True, le=65535)
    up: bool = Field(default=True, strict=True)
    mac: Mac | None = None
    pod_addresses: Many[IpNetwork] = Field(
        default=(),
        description="addresses of its subnet that belong to this NIC and go to pods: it is an ENI (ipam=eni)",
    )

    def addresses_of(self, family: Family) -> tuple[Interface, ...]:
        return tuple(address for address in self.addresses if address.version == family)


Kind = Literal["bond", "bridge", "vlan", "vrf", "dummy", "loopback"]

_KINDS: tuple[Kind, ...] = ("bond", "bridge", "vlan", "vrf", "dummy")

_Members = Annotated[
    tuple[NicName, ...] | None, BeforeValidator(lambda value: None if value is None else one_or_many(value))
]


BondMode = Literal["active-backup", "balance-rr", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"]


class Link(Model):
    """An interface that stands on NICs, or on nothing: it has no tap; what it sends is seen on the NICs below it.

    One of `bond`, `bridge`, `vlan` (with `parent`), `vrf` (with `table`) and `dummy`; none of them for `lo`.
    """

    bond: _Members = Field(default=None, description="the NICs that it bonds, the primary first")
    mode: BondMode | None = Field(
        default=None,
        description="a bond's: active-backup (the default), balance-rr, balance-xor, broadcast, 802.3ad, balance-tlb, "
        "balance-alb",
    )
    bridge: _Members = Field(default=None, description="the NIC that is its port, or none ([])")
    vlan: int | None = Field(default=None, strict=True, ge=1, le=4094, description="the 802.1Q tag of its frames")
    parent: NicName | None = Field(default=None, description="what a VLAN stands on")
    vrf: _Members = Field(default=None, description="the interfaces that route by its table")
    table: int | None = Field(default=None, strict=True, ge=1, le=4294967295, description="a VRF's routing table")
    dummy: bool = Field(default=False, strict=True, description="leads nowhere: for addresses")
    addresses: Many[IpInterface] = Field(default=(), description="ADDRESS/LENGTH each")
    mtu: int | None = Field(default=None, strict=True, le=65535, description="bytes; default: the lowest below it")
    up: bool = Field(default=True, strict=True)
    mac: Mac | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = [kind for kind in _KINDS if value.get(kind) not in (None, False)]
        if len(given) > 1:
            raise ValueError(f"it is {given[0]} and {given[1]} at once")
        for part, owner in (("mode", "bond"), ("parent", "vlan"), ("table", "vrf")):
            if value.get(part) is not None and owner not in given:
                raise ValueError(f"{part!r} belongs to a {owner}")
        for owner, part in (("vlan", "parent"), ("vrf", "table")):
            if owner in given and value.get(part) is None:
                raise ValueError(f"a {owner} needs its {part!r}")
        return value

    @property
    def kind(self) -> Kind:
        return next((kind for kind in _KINDS if getattr(self, kind) not in (None, False)), "loopback")

    @property
    def members(self) -> tuple[str, ...]:
        """The interfaces enslaved to it."""
        return self.bond or self.bridge or self.vrf or ()

    @property
    def below(self) -> tuple[str, ...]:
        """The interfaces it cannot be without."""
        return (self.parent,) if self.parent is not None else self.members

    def addresses_of(self, family: Family) -> tuple[Interface, ...]:
        return tuple(address for address in self.addresses if address.version == family)


def _sysctl(value: Any) -> Any:
    return str(int(value)) if isinstance(value, int) else value


class Host(Model):
    """What has NICs on fabrics, its own routing tables and sysctls."""

    nics: Annotated[dict[NicName, Nic], Field(min_length=1)]
    links: OrEmpty[dict[NicName, OrEmpty[Link]]] = Field(
        default={}, description="bonds, VLANs, bridges, VRFs and dummies on top of the NICs; `lo` for addresses on it"
    )
    routes: Many[RouteWords] = ()
    rules: Many[RuleWords] = ()
    sysctls: OrEmpty[dict[str, Annotated[str, BeforeValidator(_sysctl)]]] = Field(
        default={}, description="net.* keys of the host's network namespace"
    )

    @property
    def interfaces(self) -> Mapping[str, Nic | Link]:
        """NICs and links: whatever can have an address."""
        return {**self.nics, **self.links} if self.links else self.nics

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every address of the host, NICs before links."""
        return tuple(interface.ip for device in self.interfaces.values() for interface in device.addresses)


class Router(Host):
    """A host that forwards between its NICs and runs no Cilium: a gateway or a top-of-rack switch."""


class External(Host):
    """A host that is no node."""


class Pod(Model):
    """A pod; without `addresses` it gets the next free one of its node's pod CIDRs, its pool's or its NIC's."""

    addresses: Many[IpAddress] = ()
    labels: OrEmpty[dict[str, str]] = {}
    pool: str | None = Field(
        default=None, description="the pool of its node that it takes its address from (ipam=multi-pool)"
    )
    nic: NicName | None = Field(default=None, description="the NIC of its node that its address belongs to (ipam=eni)")


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

    node_ip: Many[IpAddress] = Field(
        default=(), description="Kubernetes' InternalIP; default: the first address of each family, NICs before links"
    )
    pod_cidrs: Many[IpNetwork] = ()
    pools: OrEmpty[dict[HostName, Many[IpNetwork]]] = Field(
        default={}, description="pod CIDRs of other pools than `default`, whose are in pod_cidrs (ipam=multi-pool)"
    )
    pods: Annotated[dict[HostName, OrEmpty[Pod]], BeforeValidator(_pods)] = Field(
        default={}, description="a list of names, or a mapping of names to pods"
    )
    labels: OrEmpty[dict[str, str]] = {}

    def node_ip_of(self, family: Family) -> Address | None:
        """The node IP of one family: as given, else the first address there is, NICs before links."""
        for address in self.node_ip:
            if address.version == family:
                return address
        for interface in self.interfaces.values():
            for address in interface.addresses_of(family):
                if not (family == 6 and address.ip.is_link_local):
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


ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer"]
TrafficPolicy = Literal["Cluster", "Local"]

SERVICE_CIDRS: Mapping[Family, Network] = MappingProxyType(
    {4: IPv4Network("10.96.0.0/16"), 6: IPv6Network("fd00:10:96::/112")}
)
"""Where virtual addresses are: the range the lab's API server is started with."""
NODE_PORTS = range(30000, 32768)
"""kube-apiserver's --service-node-port-range, and Cilium's `node-port-range`."""
# [kubernetes] the first address is the service `kubernetes`; those up to here are left to other fixed ones.
_FIRST_ADDRESS = 10

# RFC 1035: unlike other names, a service's begins with a letter.
ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
_Port = Annotated[int, Field(strict=True, ge=1, le=65535)]


class Service(Model):
    """One port of a Kubernetes service and the pods behind it. `port` is the service's own, `target_port` the pods'."""

    type: ServiceType = "ClusterIP"
    port: _Port
    target_port: _Port | None = Field(default=None, description="the pods' port; default: the same as `port`")
    protocol: Literal["tcp", "udp"] = "tcp"
    node_port: int | None = Field(
        default=None, strict=True, description="30000 to 32767, open on every node; default: the next free one"
    )
    cluster_ip: Many[IpAddress] = Field(
        default=(), description="one of each family at most; default: the next free ones of the service CIDR"
    )
    external_ips: Many[IpAddress] = ()
    load_balancer_ip: Many[IpAddress] = Field(
        default=(), description="what a cloud provider would assign to a LoadBalancer; clients need a route to it"
    )
    external_traffic_policy: TrafficPolicy | None = None
    internal_traffic_policy: TrafficPolicy | None = None
    session_affinity: Literal["None", "ClientIP"] = Field(
        default="None", description="ClientIP: one backend for each client; how long is not modelled"
    )
    pods: Many[str] = Field(default=(), description="the backends")

    @property
    def backend_port(self) -> int:
        return self.port if self.target_port is None else self.target_port

    @property
    def has_node_port(self) -> bool:
        return self.type in ("NodePort", "LoadBalancer")

    @property
    def outside(self) -> tuple[Address, ...]:
        """The addresses for clients outside the cluster: the load balancer's, then the external IPs."""
        return (*self.load_balancer_ip, *self.external_ips)


# What a CiliumEgressGatewayPolicy says (pkg/k8s/apis/cilium.io/v2/cegp_types.go), with nodes and pods by their names.
class EgressPolicy(Model):
    """Which pods, to where, by which gateway. With neither `interface` nor `egress_ip` the gateway's NIC is the one
    with the default route.
    """

    pods: Many[str] = Field(default=(), description="names of pods")
    labels: OrEmpty[dict[str, str]] = Field(default={}, description="pods that have all of these labels")
    destinations: Annotated[Many[IpNetwork], Field(min_length=1)]
    excluded: Many[IpNetwork] = Field(default=(), description="parts of the destinations that the policy leaves alone")
    gateways: Annotated[
        Many[str], Field(min_length=1, description="names of nodes; with several, each pod has one of them")
    ]
    interface: NicName | None = Field(
        default=None, description="the gateway's NIC or link, whose first address is the egress IP"
    )
    egress_ip: IpAddress | None = Field(default=None, description="an address of one of the gateway's interfaces")

    def selects(self, pod: str, labels: Mapping[str, str]) -> bool:
        """Does the policy apply to a pod of this name with these labels?"""
        return pod in self.pods or self.selects_by_label(labels)

    def selects_by_label(self, labels: Mapping[str, str]) -> bool:
        """Does the policy name labels, and does a pod with these have all of them?"""
        return bool(self.labels) and self.labels.items() <= labels.items()


# What a CiliumLocalRedirectPolicy with a serviceMatcher says (pkg/k8s/apis/cilium.io/v2/clrp_types.go).
class LocalRedirectPolicy(Model):
    """A service's cluster IP is served by pods of the client's own node, where such are: nothing leaves the node."""

    service: str
    pods: Many[str] = Field(default=(), description="names of pods")
    labels: OrEmpty[dict[str, str]] = Field(default={}, description="pods that have all of these labels")
    target_port: _Port | None = Field(default=None, description="the pods' port; default: that of the service's pods")

    def selects(self, pod: str, labels: Mapping[str, str]) -> bool:
        """Does the policy name a pod, or all of a few labels of it?"""
        return pod in self.pods or (bool(self.labels) and self.labels.items() <= labels.items())


# What a CiliumL2AnnouncementPolicy says (pkg/k8s/apis/cilium.io/v2alpha1/l2announcement_types.go).
class L2AnnouncementPolicy(Model):
    """Which services' addresses are answered for on a fabric (ARP, ND), by which nodes and on which of their NICs."""

    nodes: Many[str] = Field(default=(), description="names of nodes; default: all, or those with `node_labels`")
    node_labels: OrEmpty[dict[str, str]] = Field(default={}, description="nodes that have all of these labels")
    services: Many[str] = Field(default=(), description="names of services; default: all")
    interfaces: Many[str] = Field(
        default=(), description="regular expressions (Go's) of selected NICs; default: every selected one"
    )
    load_balancer_ips: bool = Field(default=False, strict=True)
    external_ips: bool = Field(default=False, strict=True)


Advertised = Literal["pod-cidrs", "services"]

Asn = Annotated[int, Field(strict=True, ge=1, le=4294967295)]
_Seconds = Annotated[int, Field(strict=True, ge=1, le=65535)]


class BgpSpeaker(Model):
    """Someone's part in BGP: the number of its autonomous system."""

    asn: Asn


class BgpRouter(BgpSpeaker):
    """A router's part; `networks` are prefixes it advertises itself, beside what it passes on."""

    networks: Many[IpNetwork] = ()


class BgpTimers(Model):
    """Seconds; the smallest that FRR and Cilium take are the defaults, so that a lab need not wait."""

    connect: _Seconds = 1
    keepalive: _Seconds = 1
    hold: int = Field(default=3, strict=True, ge=3, le=65535)


class Bgp(Model):
    """Routers and nodes that speak BGP. Two of them that share a fabric are peers, unless both are nodes.

    `nodes` speak as Cilium does: they advertise, and install nothing of what they learn.
    """

    nodes: BgpSpeaker
    routers: Annotated[dict[HostName, BgpRouter], Field(min_length=1)]
    advertise: Annotated[Many[Advertised], Field(min_length=1)] = Field(
        default=("pod-cidrs", "services"),
        description="what nodes advertise; of services the addresses for clients outside",
    )
    timers: OrEmpty[BgpTimers] = BgpTimers()


_FLOW = re.compile(
    r"""^\s*(?P<source>\S+?)\s*(?:->|→)\s*
    (?P<destination>(?:[^\s:/]+/)?(?:\[[^\s\]]+\]|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]{0,15}?)|[^\s:]+)
    (?::(?P<protocol>\w+)(?::(?P<port>\d{1,9}))?)?\s*$""",
    re.VERBOSE,
)
_PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


class Flow(Model):
    """Who talks to whom: ends are a pod, an external, or a NIC written `node.nic`; `family` None means IPv4 if any.

    The destination may be a service, by default on its own protocol and port, and any address: `10.0.0.11`,
    `[fd00::1]`, or one of a NIC's `node1.eth0/10.0.0.11`.
    """

    source: str
    destination: str
    protocol: Protocol = "icmp"
    port: int | None = Field(default=None, ge=1, le=65535)
    family: Literal[4, 6] | None = None

    @classmethod
    def parse(cls, text: str) -> Flow:
        """A flow from `FROM -> TO[:udp:PORT|:tcp:PORT|:icmp|:icmp6]`. Raises ValueError."""
        match = _FLOW.match(text)
        if not match:
            raise ValueError(f"{text!r} is not a flow (want FROM -> TO, TO:udp:PORT or TO:tcp:PORT)")
        protocol, port = match["protocol"] or "icmp", match["port"]
        base = next((known for known in _PROTOCOLS if protocol.removesuffix("6") == known), None)
        if base is None:
            raise ValueError(f"protocol {protocol!r} is not icmp, udp or tcp (or icmp6, udp6, tcp6)")
        if base == "icmp" and port is not None:
            raise ValueError("ICMP has no port")
        if base != "icmp" and (port is None or not port.isascii() or not 0 < int(port) < 65536):
            raise ValueError(f"a {base} flow ends in a port 1..65535: {match['destination']}:{protocol}:PORT")
        return cls(
            source=match["source"],
            destination=_destination(match["destination"]),
            protocol=base,
            port=int(port) if port else None,
            family=6 if protocol.endswith("6") else None,
        )

    @property
    def nic(self) -> str:
        """The NIC whose address the destination is, where one is named with its address."""
        return self.destination.partition("/")[0] if "/" in self.destination else ""

    @cached_property
    def address(self) -> Address | None:
        """The address that the destination is, where it is written as one."""
        text = self.destination.rpartition("/")[2]
        if not text[:1].isdecimal() and not text.startswith("["):
            return None
        try:
            return ip_address(text.strip("[]"))
        except ValueError:
            return None

    def __str__(self) -> str:
        text = f"{self.source} -> {self.destination}"
        suffix = "6" if self.family == 6 else ""
        if self.protocol != "icmp":
            return f"{text}:{self.protocol}{suffix}:{self.port}"
        return f"{text}:icmp6" if suffix else text


def _destination(text: str) -> str:
    """IPv6 addresses are written one way, and in brackets. Raises ValueError."""
    nic, slash, address = text.rpartition("/")
    if ":" not in address and not address.startswith("["):
        return text
    try:
        return f"{nic}{slash}[{IPv6Address(address.strip('[]'))}]"
    except ValueError:
        raise ValueError(f"{address} is not an IPv6 address") from None


FlowWords = Annotated[Flow, Written(Flow.parse, "FROM -> TO, optionally :udp:PORT or :tcp:PORT", "pod1 -> ext1:udp:53")]


def asked(text: str) -> Flow:
    """A flow as somebody asks for it. Raises InputError."""
    try:
        return Flow.parse(text)
    except ValueError as error:
        raise InputError([Problem(f"flow {text!r}", 0, "", str(error), "e.g. pod1 -> ext1:udp:53")]) from None


Ipam = Literal["kubernetes", "multi-pool", "eni"]


class Topology(Model):
    """A whole lab, as data."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    description: str = ""
    fabrics: Annotated[dict[HostName, OrEmpty[Fabric]], Field(min_length=1)]
    nodes: Annotated[dict[HostName, Node], Field(min_length=1)]
    externals: OrEmpty[dict[HostName, External]] = {}
    routers: OrEmpty[dict[HostName, Router]] = {}
    vpc: Many[IpNetwork] = Field(
        default=(),
        description="the CIDRs of the cloud's network (ipam=eni), the primary one first; default: the ENIs' own",
    )
    services: OrEmpty[dict[ServiceName, Service]] = {}
    egress_policies: OrEmpty[dict[HostName, EgressPolicy]] = {}
    local_redirect_policies: OrEmpty[dict[HostName, LocalRedirectPolicy]] = {}
    l2_announcement_policies: OrEmpty[dict[HostName, L2AnnouncementPolicy]] = {}
    bgp: Bgp | None = None
    flows: Many[FlowWords] = ()

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

    def sections(self) -> Iterator[tuple[str, str, Host]]:
        """Every (section of the file, host name, host), nodes first."""
        for section, hosts in (("nodes", self.nodes), ("externals", self.externals), ("routers", self.routers)):
            for name, host in hosts.items():
                yield section, name, host

    def with_hosts(self, hosts: Mapping[str, Host]) -> Topology:
        """The same with these hosts in place of those of their names."""
        update: dict[str, dict[str, Host]] = {}
        for section, name, host in self.sections():
            update.setdefault(section, {})[name] = hosts.get(name, host)
        return self.model_copy(update=update)

    def nic_pairs(self) -> Iterator[tuple[str, str, Nic]]:
        """Every (host, NIC name, NIC) in the lab, nodes first."""
        for name, host in self.hosts.items():
            for nic_name, nic in host.nics.items():
                yield name, nic_name, nic

    @property
    def nic_kinds(self) -> frozenset[NicKind]:
        """What the nodes' NICs are; every node has some."""
        return frozenset(nic.kind for node in self.nodes.values() for nic in node.nics.values())

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
        """Service name → its virtual addresses (ClusterIPs), IPv4 first: as given, else one of each family."""
        if not self.services:
            return {}
        taken = {address for service in self.services.values() for address in service.cluster_ip}
        free = [_untaken(SERVICE_CIDRS[family], taken) for family in self.families]
        return {
            name: tuple(sorted(service.cluster_ip or [next(addresses) for addresses in free], key=family_of))
            for name, service in self.services.items()
        }

    def service_node_ports(self) -> Mapping[str, int]:
        """Service name → the port it has on every node, for those that have one: as given, else the next free one."""
        taken = {service.node_port for service in self.services.values()}
        free = (port for port in NODE_PORTS if port not in taken)
        return {
            name: service.node_port if service.node_port is not None else next(free)
            for name, service in self.services.items()
            if service.has_node_port
        }

    def router_address(self, node: str, family: Family) -> Address | None:
        """What Cilium calls the router IP: the pods' gateway, on `cilium_host`; here the pod CIDR's first address."""
        cidr = self.nodes[node].pod_cidr_of(family)
        return cidr.network_address + 1 if cidr is not None else None

    def own_addresses(self, host: str) -> tuple[Address, ...]:
        """A host's addresses, those on its NICs first; of a node also the router IPs, which are on none."""
        routers = [self.router_address(host, family) for family in FAMILIES] if host in self.nodes else []
        return *self.hosts[host].addresses, *(router for router in routers if router is not None)


DEFAULT_POOL = "default"
"""The pool of pods that ask for none (`ipam-default-ip-pool`)."""


def pod_hosts(cidr: Network) -> int:
    """How many pods a pod CIDR has addresses for: not its own, the router's, nor IPv4's broadcast address."""
    return max(cidr.num_addresses - (3 if cidr.version == 4 else 2), 0)


def _untaken(cidr: Network, taken: set[Address]) -> Iterator[Address]:
    numbers = range(_FIRST_ADDRESS, cidr.num_addresses - 1)
    return (address for number in numbers if (address := cidr.network_address + number) not in taken)


def _free(cidr: Network, taken: set[Address]) -> Iterator[Address]:
    """The CIDR's addresses for pods that are not taken: from the 10th, then those before it."""
    end = 2 + pod_hosts(cidr)
    first = min(10, max(end - 1, 2))
    for number in chain(range(first, end), range(2, first)):
        address = cidr.network_address + number
        if address not in taken:
            yield address


def service_of(topology: Topology, flow: Flow) -> str | None:
    """The service a flow goes to: named, or behind its or a node's address and the port. None for every other flow."""
    if flow.destination in topology.services and flow.port is None:
        return flow.destination
    behind = service_at(topology, flow)
    if behind:
        asked_for = (flow.protocol, flow.port)
        services = topology.services
        return next((name for name in behind if (services[name].protocol, services[name].port) == asked_for), None)
    if flow.address is not None:
        on_node = any(flow.address in node.addresses for node in topology.nodes.values())
    else:
        host, dot, _ = flow.destination.partition(".")
        on_node = bool(dot) and host in topology.nodes
    if not on_node or flow.port is None:
        return None
    ports = topology.service_node_ports()
    return next(
        (
            name
            for name, port in ports.items()
            if (topology.services[name].protocol, port) == (flow.protocol, flow.port)
        ),
        None,
    )


def answering(topology: Topology, service: str) -> dict[str, int]:
    """The pods that may answer for a service, its own and those of local redirect policies, each with its port."""
    spec = topology.services[service]
    pods = dict.fromkeys(spec.pods, spec.backend_port)
    for policy in topology.local_redirect_policies.values():
        for name, (_, pod) in topology.pods.items() if policy.service == service else ():
            if policy.selects(name, pod.labels):
                pods.setdefault(name, policy.target_port or spec.backend_port)
    return pods


def service_at(topology: Topology, flow: Flow) -> tuple[str, ...]:
    """The services that a flow's destination is, or is an address of, whatever the port: nobody else has that."""
    if flow.destination in topology.services:
        return (flow.destination,)
    if flow.address is None or not topology.services:
        return ()
    virtual = topology.service_addresses()
    return tuple(
        name
        for name, service in topology.services.items()
        if flow.address in virtual[name] or flow.address in service.outside
    )


def check_service_flow(topology: Topology, flow: Flow) -> tuple[str, str] | None:
    """Why a flow to a service's name cannot be sent, and how to fix it; or None. Its source is known to be right."""
    name = flow.destination
    service = topology.services[name]
    if _inside(topology, flow.source) or service.outside:
        return None
    if not service.has_node_port:
        return (
            f"nothing outside the cluster reaches service {name!r}: it has a cluster IP only",
            "give it external_ips, or type: NodePort or LoadBalancer",
        )
    node = next(iter(topology.nodes))
    nic = next(iter(topology.nodes[node].nics))
    port = topology.service_node_ports()[name]
    return (
        f"service {name!r} has no address for clients outside the cluster, only node ports",
        f"write {flow.source} -> {node}.{nic}:{service.protocol}:{port}",
    )


def _inside(topology: Topology, end: str) -> bool:
    """Is a flow's end a pod or a node's NIC?"""
    return end in topology.pods or end.partition(".")[0] in topology.nodes


def targets(topology: Topology, flow: Flow) -> tuple[Address, ...]:
    """The addresses of the service that a flow names: virtual ones within the cluster, else those for outside."""
    if _inside(topology, flow.source):
        return topology.service_addresses()[flow.destination]
    return topology.services[flow.destination].outside


def as_sent(topology: Topology, flow: Flow) -> Flow:
    """The flow with the protocol and port its packets have: a service's own where a service is named without them."""
    service = topology.services.get(flow.destination)
    if service is None or flow.port is not None:
        return flow
    return flow.model_copy(update={"protocol": service.protocol, "port": service.port})
