"""What exists: fabrics, nodes with their NICs and pods, externals, routers, and the flows people ask about.

Frozen pydantic models; the YAML around them is `lab.topology.file`, what must hold between them `lab.topology.rules`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Annotated, Any, Literal

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

Interface = IPv4Interface | IPv6Interface
Protocol = Literal["icmp", "udp", "tcp"]

HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
NicName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,14}$")]


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str | int) else value


def _route(value: Any) -> Route:
    return value if isinstance(value, Route) else parse_route(str(value))


def _rule(value: Any) -> Rule:
    return value if isinstance(value, Rule) else parse_rule(str(value))


def _interface(value: Any) -> Any:
    if isinstance(value, str) and "/" not in value:
        raise ValueError(f"{value!r} has no prefix length (want ADDRESS/LENGTH, e.g. {value}/24)")
    return value


RouteWords = Annotated[
    Route,
    PlainValidator(_route),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "description": "a route in iproute2's words: default via 10.0.0.254 dev eth0"}),
]
RuleWords = Annotated[
    Rule,
    PlainValidator(_rule),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "description": "a rule in iproute2's words: from 10.244.1.0/24 lookup 100"}),
]
Addresses = Annotated[
    tuple[Annotated[Interface, BeforeValidator(_interface)], ...],
    Field(description="ADDRESS/LENGTH each; the first of a family is its primary address"),
]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fabric(Model):
    """An L2 segment. `subnets`, where given, are the only ones its NICs may have addresses in."""

    subnets: Annotated[tuple[Network, ...], BeforeValidator(_one_or_many)] = ()


class Nic(Model):
    """A physical interface and its cable. `mtu` in bytes; `up` is the administrative state."""

    fabric: str
    addresses: Addresses = ()
    mtu: Annotated[int, Field(le=65535)] = 1500
    up: bool = True
    mac: Annotated[str | None, StringConstraints(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")] = None

    def addresses_of(self, family: Family) -> tuple[Interface, ...]:
        return tuple(address for address in self.addresses if address.version == family)


class Host(Model):
    """What has NICs on fabrics, its own routing tables and sysctls."""

    nics: Annotated[dict[NicName, Nic], Field(min_length=1)]
    routes: tuple[RouteWords, ...] = ()
    rules: tuple[RuleWords, ...] = ()
    sysctls: Annotated[
        dict[str, str],
        BeforeValidator(lambda value: {k: str(v) for k, v in value.items()} if isinstance(value, dict) else value),
        Field(description="net.* keys of the host's network namespace"),
    ] = {}


class Router(Host):
    """A host that forwards between its NICs and runs no Cilium: a gateway or a top-of-rack switch."""


class External(Host):
    """A host that is no node."""


class Pod(Model):
    """A pod; without `addresses` it gets the next free one of its node's pod CIDRs."""

    addresses: Annotated[tuple[IPv4Address | IPv6Address, ...], BeforeValidator(_one_or_many)] = ()


def _pods(value: Any) -> Any:
    return {name: {} for name in value} if isinstance(value, list | tuple) else value


class Node(Host):
    """A Kubernetes node: its NICs, the node IPs it announces, its pod CIDRs and its pods."""

    node_ip: Annotated[
        tuple[IPv4Address | IPv6Address, ...],
        BeforeValidator(_one_or_many),
        Field(description="Kubernetes' InternalIP; default: the first NIC's first address of each family"),
    ] = ()
    pod_cidrs: Annotated[tuple[Network, ...], BeforeValidator(_one_or_many)] = ()
    pods: Annotated[
        dict[HostName, Pod],
        BeforeValidator(_pods),
        Field(description="a list of names, or a mapping of names to pods"),
    ] = {}
    labels: dict[str, str] = {}

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
    r"^\s*(?P<source>\S+?)\s*(?:->|→)\s*(?P<destination>[^\s:]+)(?::(?P<protocol>\w+)(?::(?P<port>\w+))?)?\s*$"
)


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
        family: Literal[4, 6] | None = None
        base = protocol.removesuffix("6")
        if protocol in ("icmp6", "udp6", "tcp6"):
            family = 6
        if base not in ("icmp", "udp", "tcp"):
            raise ValueError(f"protocol {protocol!r} is not icmp, udp or tcp (or icmp6, udp6, tcp6)")
        if base == "icmp" and port is not None:
            raise ValueError("ICMP has no port")
        if base != "icmp" and (port is None or not port.isdecimal() or not 0 < int(port) < 65536):
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
    PlainValidator(lambda value: value if isinstance(value, Flow) else Flow.parse(str(value))),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "description": "FROM -> TO, optionally :udp:PORT or :tcp:PORT"}),
]


class Topology(Model):
    """A whole lab, as data."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    description: str = ""
    fabrics: Annotated[dict[HostName, Fabric], Field(min_length=1)]
    nodes: Annotated[dict[HostName, Node], Field(min_length=1)]
    externals: dict[HostName, External] = {}
    routers: dict[HostName, Router] = {}
    flows: tuple[FlowWords, ...] = ()

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
            for pod_name, pod in node.pods.items():
                mine: list[Address] = list(pod.addresses)
                for cidr in sorted(node.pod_cidrs, key=lambda network: network.version):
                    if any(address.version == cidr.version for address in mine):
                        continue
                    number = min(10, cidr.num_addresses - 2)
                    while cidr.network_address + number in taken:
                        number += 1
                    address = cidr.network_address + number
                    taken.add(address)
                    mine.append(address)
                found[pod_name] = tuple(sorted(mine, key=lambda address: address.version))
        return found

    def router_address(self, node: str, family: Family) -> Address | None:
        """What Cilium calls the router IP: the pods' gateway, on `cilium_host`; here the pod CIDR's first address."""
        cidr = self.nodes[node].pod_cidr_of(family)
        return cidr.network_address + 1 if cidr is not None else None


def network_of(address: Address) -> Network:
    """The address alone as a network: /32 or /128."""
    return ipaddress.ip_network(address)


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
    "network_of",
]
