"""Kernel operations as values: what a plan is made of, and what a substrate carries out.

Each renders itself as the iproute2 line that does the same, which is what golden tests and people read. Namespaces are
named by role (`node1`, `fabric`); the substrate gives them the lab's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface
from types import MappingProxyType

from niclab.net import nftables
from niclab.net.packetrules import PacketRule
from niclab.net.removal import DelAddress, DelLink, DelNeighbour, DelRoute, DelRule
from niclab.net.route import Address, Route, Rule
from niclab.net.stacked import AddBond, AddDummy, AddVlan, AddVrf, SetMaster

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AddNamespace:
    """A network namespace whose `lo` is up. `sysctls` are set before any link exists, so links inherit them."""

    namespace: str
    sysctls: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False)

    def lines(self) -> list[str]:
        return [
            f"ip netns add {self.namespace}",
            f"ip -n {self.namespace} link set lo up",
            *(f"ip netns exec {self.namespace} sysctl -qw {key}={value}" for key, value in self.sysctls.items()),
        ]


@dataclass(frozen=True, slots=True)
class AddBridge:
    """A fabric: a bridge without STP and multicast snooping, up."""

    namespace: str
    name: str
    mac: str

    def lines(self) -> list[str]:
        return [
            (
                f"ip -n {self.namespace} link add {self.name} address {self.mac} up "
                "type bridge stp_state 0 mcast_snooping 0"
            )
        ]


@dataclass(frozen=True, slots=True)
class AddCable:
    """A veth pair: `name` here (enslaved to `master` if given, up), `peer_name` in the peer's namespace, still down."""

    namespace: str
    name: str
    mac: str
    peer_namespace: str
    peer_name: str
    peer_mac: str
    mtu: int = 1500
    master: str | None = None

    def lines(self) -> list[str]:
        master = f" master {self.master}" if self.master else ""
        return [
            (
                f"ip -n {self.namespace} link add {self.name} address {self.mac} mtu {self.mtu}{master} up type veth "
                f"peer name {self.peer_name} address {self.peer_mac} mtu {self.mtu} netns {self.peer_namespace}"
            )
        ]


@dataclass(frozen=True, slots=True)
class AddVxlan:
    """A flow-based (collect-metadata) VXLAN device without ARP: routes with `encap` say where frames go."""

    namespace: str
    name: str
    mac: str
    port: int
    mtu: int

    def lines(self) -> list[str]:
        return [
            (
                f"ip -n {self.namespace} link add {self.name} address {self.mac} mtu {self.mtu} up "
                f"type vxlan external dstport {self.port}"
            )
        ]


@dataclass(frozen=True, slots=True)
class SetLink:
    """Bring an interface up or down."""

    namespace: str
    name: str
    up: bool = True

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} link set {self.name} {'up' if self.up else 'down'}"]


@dataclass(frozen=True, slots=True)
class AddAddress:
    """An address; IPv6 ones without duplicate address detection, for the lab knows its addresses."""

    namespace: str
    dev: str
    interface: IPv4Interface | IPv6Interface

    def lines(self) -> list[str]:
        nodad = " nodad" if self.interface.version == 6 else ""
        return [f"ip -n {self.namespace} addr add {self.interface} dev {self.dev}{nodad}"]


@dataclass(frozen=True, slots=True)
class AddRoute:
    """A route; with `replace` it takes the place of one with the same destination, table and metric."""

    namespace: str
    route: Route
    replace: bool = False

    def lines(self) -> list[str]:
        family = "-6 " if self.route.family == 6 else ""
        verb = "replace" if self.replace else "add"
        return [f"ip {family}-n {self.namespace} route {verb} {str(self.route).removeprefix('-6 ')}"]


@dataclass(frozen=True, slots=True)
class AddRule:
    """A policy-routing rule."""

    namespace: str
    rule: Rule

    def lines(self) -> list[str]:
        family = "-6 " if self.rule.family == 6 else ""
        return [f"ip {family}-n {self.namespace} rule add {str(self.rule).removeprefix('-6 ')}"]


@dataclass(frozen=True, slots=True)
class AddNeighbour:
    """A permanent neighbour entry."""

    namespace: str
    dev: str
    address: Address
    mac: str

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} neigh add {self.address} lladdr {self.mac} dev {self.dev} nud permanent"]


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """A sysctl of the namespace, e.g. of one of its interfaces."""

    namespace: str
    key: str
    value: str

    def lines(self) -> list[str]:
        return [f"ip netns exec {self.namespace} sysctl -qw {self.key}={self.value}"]


@dataclass(frozen=True, slots=True)
class SetNftables:
    """A whole nftables ruleset for the namespace."""

    namespace: str
    ruleset: str

    def lines(self) -> list[str]:
        return [f"ip netns exec {self.namespace} nft -f - <<'EOF'", *self.ruleset.splitlines(), "EOF"]


@dataclass(frozen=True, slots=True)
class SetPacketRules:
    """All that a namespace does to packets, as an nftables ruleset; `again`: in place of the one that is there."""

    namespace: str
    rules: tuple[PacketRule, ...]
    again: bool = False

    @property
    def ruleset(self) -> str:
        return (nftables.CLEAR if self.again else "") + nftables.ruleset(self.rules)

    def lines(self) -> list[str]:
        return SetNftables(self.namespace, self.ruleset).lines()


Operation = (
    AddNamespace
    | AddBridge
    | AddCable
    | AddVxlan
    | SetLink
    | AddAddress
    | AddRoute
    | AddRule
    | AddNeighbour
    | SetSysctl
    | SetNftables
    | SetPacketRules
    | AddBond
    | AddVlan
    | AddVrf
    | AddDummy
    | SetMaster
    | DelLink
    | DelAddress
    | DelRoute
    | DelRule
    | DelNeighbour
)


def script(operations: tuple[Operation, ...]) -> str:
    """The operations as shell lines a person can read or run."""
    return "\n".join(line for operation in operations for line in operation.lines()) + "\n"
