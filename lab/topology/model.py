"""What exists: fabrics, nodes with their NICs and pods, externals, routers, and the flows people ask about.

Frozen pydantic models; the YAML around them is `lab.topology.file`, what must hold between them `lab.topology.rules`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from itertools import chain
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

from lab.route import Address, Family, Network, Route, Rule, parse_route, parse_rule
from lab.wordreader import ip_address, ip_network

Interface = IPv4Interface | IPv6Interface
Protocol = Literal["icmp", "udp", "tcp"]

HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
NicName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,14}$")]

_T = TypeVar("_T")


def _one_or_many(value: Any) -> Any:
    """A list may be written as its only entry, or left empty."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


def _parsed(kind: type[_T] | tuple[type[_T], ...], parse: Callable[[str], _T]) -> PlainValidator:
    def validate(value: Any) -> _T:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError(f"{_shown(value)} is not text")
        return parse(value)

    return PlainValidator(validate)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return str(value)


def _ip(word: str) -> Address:
    try:
        return ip_address(word)
    except ValueError:
        raise ValueError(f"{word!r} is not an IP address") from None


def _interface(word: str) -> Interface:
    address, slash, length = word.partition("/")
    try:
        ip = ip_address(address)
    except ValueError:
        raise ValueError(f"{address!r} is not an IP address") from None
    if not slash:
        raise ValueError(f"{word!r} has no prefix length")
    if not (length.isascii() and length.isdecimal()) or int(length[:9]) > ip.max_prefixlen:
        raise ValueError(f"{length!r} is not a prefix length (0 to {ip.max_prefixlen})")
    return ipaddress.ip_interface(word)


def _words(description: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, **more})


RouteWords = Annotated[
    Route,
    _parsed(Route, parse_route),
    PlainSerializer(str),
    _words("a route in iproute2's words", examples=["default via 10.0.0.254 dev eth0"]),
]
RuleWords = Annotated[
    Rule,
    _parsed(Rule, parse_rule),
    PlainSerializer(str),
    _words("a rule in iproute2's words", examples=["from 10.244.1.0/24 lookup 100"]),
]
IpAddress = Annotated[
    Address,
    _parsed((ipaddress.IPv4Address, ipaddress.IPv6Address), _ip),
    PlainSerializer(str),
    _words("an IP address", examples=["10.0.0.1"]),
]
IpNetwork = Annotated[
    Network,
    _parsed((IPv4Network, IPv6Network), ip_network),
    PlainSerializer(str),
    _words("ADDRESS/LENGTH without host bits", examples=["10.0.0.0/24"], pattern="/"),
]
IpInterface = Annotated[
    Interface,
    _parsed((IPv4Interface, IPv6Interface), _interface),
    PlainSerializer(str),
    _words("ADDRESS/LENGTH", examples=["10.0.0.1/24"], pattern="/"),
]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fabric(Model):
    """An L2 segment. `subnets`, where given, are the only ones its NICs may have addresses in."""

    subnets: Annotated[tuple[IpNetwork, ...], BeforeValidator(_one_or_many)] = ()


class Nic(Model):
    """A physical interface and its cable. `mtu` in bytes; `up` is the administrative state."""

    fabric: str
    addresses: Annotated[
        tuple[IpInterface, ...],
        BeforeValidator(_one_or_many),
        Field(description="ADDRESS/LENGTH each; the first of a family is its primary address"),
    ] = ()
    mtu: Annotated[int, Field(strict=True, le=65535)] = 1500
    up: Annotated[bool, Field(strict=True)] = True
    mac: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$", to_lower=True)] | None = None

    def addresses_of(self, family: Family) -> tuple[Interface, ...]:
        return tuple(address for address in self.addresses if address.version == family)


def _sysctl(value: Any) -> Any:
    return str(int(value)) if isinstance(value, int) else value


class Host(Model):
    """What has NICs on fabrics, its own routing tables and sysctls."""

    nics: Annotated[dict[NicName, Nic], Field(min_length=1)]
    routes: Annotated[tuple[RouteWords, ...], BeforeValidator(_one_or_many)] = ()
    rules: Annotated[tuple[RuleWords, ...], BeforeValidator(_one_or_many)] = ()
    sysctls: Annotated[
        dict[str, Annotated[str, BeforeValidator(_sysctl)]],
        BeforeValidator(_or_empty),
        Field(description="net.* keys of the host's network namespace"),
    ] = {}


class Router(Host):
    """A host that forwards between its NICs and runs no Cilium: a gateway or a top-of-rack switch."""


class External(Host):
    """A host that is no node."""


class Pod(Model):
    """A pod; without `addresses` it gets the next free one of its node's pod CIDRs."""

    addresses: Annotated[tuple[IpAddress, ...], BeforeValidator(_one_or_many)] = ()


def _pods(value: Any) -> Any:
    if isinstance(value, dict) or value is None:
        return value or {}
    found: dict[str, Any] = {}
    for name in _one_or_many(value):
        if not isinstance(name, str):
            raise ValueError(f"{_shown(name)} is not the name of a pod")
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = {}
    return found


class Node(Host):
    """A Kubernetes node: its NICs, the node IPs it announces, its pod CIDRs and its pods."""

    node_ip: Annotated[
        tuple[IpAddress, ...],
        BeforeValidator(_one_or_many),
        Field(description="Kubernetes' InternalIP; default: the first NIC's first address of each family"),
    ] = ()
    pod_cidrs: Annotated[tuple[IpNetwork, ...], BeforeValidator(_one_or_many)] = ()
    pods: Annotated[
        dict[HostName, Annotated[Pod, BeforeValidator(_or_empty)]],
        BeforeValidator(_pods),
        Field(description="a list of names, or a mapping of names to pods"),
    ] = {}
    labels: Annotated[dict[str, str], BeforeValidator(_or_empty)] = {}

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


_FLOW = re.compile(
    r"^\s*(?P<source>\S+?)\s*(?:->|→)\s*(?P<destination>[^\s:]+)(?::(?P<protocol>\w+)(?::(?P<port>\d{1,9}))?)?\s*$"
)
_PROTOCOLS: dict[str, tuple[Protocol, Literal[6] | None]] = {
    "icmp": ("icmp", None),
    "udp": ("udp", None),
    "tcp": ("tcp", None),
    "icmp6": ("icmp", 6),
    "udp6": ("udp", 6),
    "tcp6": ("tcp", 6),
}


class Flow(Model):
    """Who talks to whom: ends are a pod, an external, or a NIC written `node.nic`; `family` None means IPv4 if any."""

    source: str
    destination: str
    protocol: Protocol = "icmp"
    port: Annotated[int | None, Field(ge=1, le=65535)] = None
    family: Literal[4, 6] | None = None

    @classmethod
    def parse(cls, text: str) -> Flow:
        """A flow from `FROM -> TO[:udp:PORT|:tcp:PORT|:icmp|:icmp6]`. Raises ValueError."""
        match = _FLOW.match(text)
        if not match:
            raise ValueError(f"{text!r} is not a flow (want FROM -> TO, TO:udp:PORT or TO:tcp:PORT)")
        protocol, port = match["protocol"] or "icmp", match["port"]
        if protocol not in _PROTOCOLS:
            raise ValueError(f"protocol {protocol!r} is not icmp, udp or tcp (or icmp6, udp6, tcp6)")
        base, family = _PROTOCOLS[protocol]
        if base == "icmp" and port is not None:
            raise ValueError("ICMP has no port")
        if base != "icmp" and (port is None or not port.isascii() or not 0 < int(port) < 65536):
            raise ValueError(f"a {base} flow ends in a port 1..65535: {match['destination']}:{protocol}:PORT")
        return cls(
            source=match["source"],
            destination=match["destination"],
            protocol=base,
            port=int(port) if port else None,
            family=family,
        )

    def __str__(self) -> str:
        text = f"{self.source} -> {self.destination}"
        suffix = "6" if self.family == 6 else ""
        if self.protocol != "icmp":
            return f"{text}:{self.protocol}{suffix}:{self.port}"
        return f"{text}:icmp6" if suffix else text


FlowWords = Annotated[
    Flow,
    _parsed(Flow, Flow.parse),
    PlainSerializer(str),
    _words("FROM -> TO, optionally :udp:PORT or :tcp:PORT", examples=["pod1 -> ext1:udp:53"]),
]


class Topology(Model):
    """A whole lab, as data."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    description: str = ""
    fabrics: Annotated[dict[HostName, Annotated[Fabric, BeforeValidator(_or_empty)]], Field(min_length=1)]
    nodes: Annotated[dict[HostName, Node], Field(min_length=1)]
    externals: Annotated[dict[HostName, External], BeforeValidator(_or_empty)] = {}
    routers: Annotated[dict[HostName, Router], BeforeValidator(_or_empty)] = {}
    flows: Annotated[tuple[FlowWords, ...], BeforeValidator(_one_or_many)] = ()

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
    "Topology",
    "pod_hosts",
]
