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
from niclab.net.route import Address, Route, Rule

_NOTHING: Mapping[str, str] = MappingProxyType({})

MIIMON = 10
"""Milliseconds between a bond's looks at its slaves' carriers; 0, the kernel's default, never looks."""


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
class AddBond:
    """A bond without slaves, down: a slave is given to it by SetMaster while both are down.

    `primary`: the slave that an active-backup bond goes back to whenever it is up.
    """

    namespace: str
    name: str
    mac: str
    mode: str
    mtu: int
    primary: str | None = None

    def lines(self) -> list[str]:
        primary = f" primary {self.primary}" if self.primary else ""
        return [
            (
                f"ip -n {self.namespace} link add {self.name} address {self.mac} mtu {self.mtu} "
                f"type bond mode {self.mode} miimon {MIIMON}{primary}"
            )
        ]


@dataclass(frozen=True, slots=True)
class AddVlan:
    """An 802.1Q sub-interface of `parent`, down."""

    namespace: str
    name: str
    parent: str
    vlan: int
    mtu: int

    def lines(self) -> list[str]:
        return [
            (
                f"ip -n {self.namespace} link add link {self.parent} name {self.name} mtu {self.mtu} "
                f"type vlan id {self.vlan}"
            )
        ]


@dataclass(frozen=True, slots=True)
class AddVrf:
    """A VRF with a routing table of its own, down."""

    namespace: str
    name: str
    mac: str
    table: int

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} link add {self.name} address {self.mac} type vrf table {self.table}"]


@dataclass(frozen=True, slots=True)
class AddDummy:
    """An interface that leads nowhere, down."""

    namespace: str
    name: str
    mac: str
    mtu: int

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} link add {self.name} address {self.mac} mtu {self.mtu} type dummy"]


@dataclass(frozen=True, slots=True)
class SetMaster:
    """Give an interface to a bond, bridge or VRF."""

    namespace: str
    name: str
    master: str

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} link set {self.name} master {self.master}"]


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
        return [_ip_line(self.namespace, "route replace" if self.replace else "route add", self.route)]


@dataclass(frozen=True, slots=True)
class AddRule:
    """A policy-routing rule."""

    namespace: str
    rule: Rule

    def lines(self) -> list[str]:
        return [_ip_line(self.namespace, "rule add", self.rule)]


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


@dataclass(frozen=True, slots=True)
class DelLink:
    """Remove an interface. Of a cable both ends go; addresses and routes on it go with it."""

    namespace: str
    name: str

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} link delete {self.name}"]


@dataclass(frozen=True, slots=True)
class DelAddress:
    """Remove an address, and with it the connected route and those that have it as their source."""

    namespace: str
    dev: str
    interface: IPv4Interface | IPv6Interface

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} addr del {self.interface} dev {self.dev}"]


@dataclass(frozen=True, slots=True)
class DelRoute:
    """Remove a route."""

    namespace: str
    route: Route

    def lines(self) -> list[str]:
        return [_ip_line(self.namespace, "route del", self.route)]


@dataclass(frozen=True, slots=True)
class DelRule:
    """Remove a policy-routing rule."""

    namespace: str
    rule: Rule

    def lines(self) -> list[str]:
        return [_ip_line(self.namespace, "rule del", self.rule)]


@dataclass(frozen=True, slots=True)
class DelNeighbour:
    """Remove a neighbour entry."""

    namespace: str
    dev: str
    address: Address

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} neigh del {self.address} dev {self.dev}"]


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


def _ip_line(namespace: str, verb: str, entry: Route | Rule) -> str:
    family = "-6 " if entry.family == 6 else ""
    return f"ip {family}-n {namespace} {verb} {str(entry).removeprefix('-6 ')}"


def script(operations: tuple[Operation, ...]) -> str:
    """The operations as shell lines a person can read or run."""
    return "\n".join(line for operation in operations for line in operation.lines()) + "\n"
