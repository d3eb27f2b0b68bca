"""Kernel operations as values: what a plan is made of, and what a substrate carries out.

Each has the iproute2 lines that do the same, which is what golden tests and people read. Namespaces are named by role
(`node1`, `fabric`); the substrate gives them the lab's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface
from types import MappingProxyType

from niclab.net.packetrules import CLEAR, CLEAR_FRAMES, FrameFilter, PacketRule, frame_rules, ruleset
from niclab.net.route import Address, Family, Route, Rule

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AddNamespace:
    """A network namespace whose `lo` is up. `sysctls` are set before any link exists, so links inherit them."""

    namespace: str
    sysctls: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False)


@dataclass(frozen=True, slots=True)
class AddCable:
    """A veth pair: `name` here (enslaved to `master` if given, up), `peer_name` in the peer's namespace, still down.

    `bare`: the peer is there for a NIC on top of it, and answers nobody's ARP. Its index is out of the way of those of
    what people see.
    """

    namespace: str
    name: str
    mac: str
    peer_namespace: str
    peer_name: str
    peer_mac: str
    mtu: int = 1500
    master: str | None = None
    bare: bool = False


@dataclass(frozen=True, slots=True)
class AddLink:
    """A macvlan, bond, bridge, VLAN, VRF, VXLAN device or dummy. `options` are iproute2's of its kind, a word without a
    value with "". Without `mac` it has that of its `parent`.
    """

    namespace: str
    name: str
    kind: str
    options: tuple[tuple[str, str | int], ...] = ()
    mac: str | None = None
    mtu: int | None = None
    parent: str | None = None
    up: bool = False

    @classmethod
    def macvlan(cls, namespace: str, name: str, mac: str | None, parent: str, mode: str) -> AddLink:
        """A macvlan, down, with its parent's MTU; in passthru mode it has its MAC, too."""
        return cls(namespace, name, "macvlan", (("mode", mode),), mac, parent=parent)

    @classmethod
    def bridge(cls, namespace: str, name: str, mac: str) -> AddLink:
        """A bridge without STP and multicast snooping, up."""
        return cls(namespace, name, "bridge", (("stp_state", 0), ("mcast_snooping", 0)), mac, up=True)

    @classmethod
    def bond(cls, namespace: str, name: str, mac: str, mtu: int, *, mode: str, primary: str | None = None) -> AddLink:
        """A bond without slaves, down: a slave is given to it by SetMaster while both are down.

        It looks at its slaves' carriers every 10 ms; by the kernel's default it never looks. `primary`: the slave that
        an active-backup bond goes back to whenever it is up.
        """
        chosen = (("primary", primary),) if primary else ()
        return cls(namespace, name, "bond", (("mode", mode), ("miimon", 10), *chosen), mac, mtu)

    @classmethod
    def vxlan(cls, namespace: str, name: str, mac: str, port: int, mtu: int, *, over: Family = 4) -> AddLink:
        """A flow-based (collect-metadata) VXLAN device without ARP: routes with `encap` say where frames go.

        [kernel] Routes send without a UDP checksum, which IPv6 takes only where it is told to.
        """
        unchecked = (("udp6zerocsumrx", ""),) if over == 6 else ()
        return cls(namespace, name, "vxlan", (("external", ""), ("dstport", port), *unchecked), mac, mtu, up=True)


@dataclass(frozen=True, slots=True)
class SetMaster:
    """Give an interface to a bond, bridge or VRF."""

    namespace: str
    name: str
    master: str


@dataclass(frozen=True, slots=True)
class SetLink:
    """Bring an interface up or down."""

    namespace: str
    name: str
    up: bool = True


@dataclass(frozen=True, slots=True)
class NoAddresses:
    """Keep the kernel from giving an interface, which is down, a link-local address when it goes up."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class DelLink:
    """Remove an interface. Of a cable both ends go; addresses and routes on it go with it."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class AddAddress:
    """An address; IPv6 ones without duplicate address detection, for the lab knows its addresses."""

    namespace: str
    dev: str
    interface: IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class AddRoute:
    """A route; with `replace` it takes the place of one with the same destination, table and metric."""

    namespace: str
    route: Route
    replace: bool = False


@dataclass(frozen=True, slots=True)
class AddRule:
    """A policy-routing rule."""

    namespace: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class AddNeighbour:
    """A permanent neighbour entry."""

    namespace: str
    dev: str
    address: Address
    mac: str


Entry = AddAddress | AddRoute | AddRule | AddNeighbour


@dataclass(frozen=True, slots=True)
class Remove:
    """Take an entry away. With an address go its connected route and those that have it as their source."""

    entry: Entry

    @property
    def namespace(self) -> str:
        return self.entry.namespace


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """A sysctl of the namespace, e.g. of one of its interfaces."""

    namespace: str
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class SetPacketRules:
    """All that a namespace does to packets, as an nftables ruleset; `again`: in place of the one that is there.

    `frames`: what its interfaces do to frames; None where it has no VLANs.
    """

    namespace: str
    rules: tuple[PacketRule, ...]
    again: bool = False
    frames: tuple[FrameFilter, ...] | None = None

    @property
    def ruleset(self) -> str:
        cleared = (CLEAR, *((CLEAR_FRAMES,) if self.frames is not None else ())) if self.again else ()
        return "".join((*cleared, ruleset(self.rules), frame_rules(self.frames or ())))


LinkOperation = AddCable | AddLink | SetMaster | SetLink | NoAddresses | DelLink
Operation = AddNamespace | LinkOperation | Entry | Remove | SetSysctl | SetPacketRules


def lines(operation: Operation) -> list[str]:
    """The operation as shell lines."""
    inside = f"ip netns exec {operation.namespace}"
    match operation:
        case AddNamespace(name, sysctls):
            values = [f"{inside} sysctl -qw {key}={value}" for key, value in sysctls.items()]
            return [f"ip netns add {name}", f"ip -n {name} link set lo up", *values]
        case SetSysctl(_, key, value):
            return [f"{inside} sysctl -qw {key}={value}"]
        case SetPacketRules():
            return [f"{inside} nft -f - <<'EOF'", *operation.ruleset.splitlines(), "EOF"]
        case Remove(entry):
            return [_ip_line(entry, "del")]
        case AddRoute():
            return [_ip_line(operation, "replace" if operation.replace else "add")]
        case AddAddress() | AddRule() | AddNeighbour():
            return [_ip_line(operation, "add")]
        case _:
            return [f"ip -n {operation.namespace} link {_link_words(operation)}"]


def _link_words(operation: LinkOperation) -> str:
    match operation:
        case AddCable(_, name, mac, peer_namespace, peer_name, peer_mac, mtu, master):
            enslaved = f" master {master}" if master else ""
            bare = " arp off" if operation.bare else ""
            peer = f"peer name {peer_name} address {peer_mac} mtu {mtu}{bare} netns {peer_namespace}"
            return f"add {name} address {mac} mtu {mtu}{enslaved} up type veth {peer}"
        case AddLink(_, name, kind, options):
            words = ["add", *(("link", operation.parent, "name") if operation.parent else ()), name]
            words += ["address", operation.mac] if operation.mac else []
            words += ["mtu", str(operation.mtu)] if operation.mtu is not None else []
            words += [*(["up"] if operation.up else []), "type", kind]
            words += [str(word) for option in options for word in option if word != ""]
            return " ".join(words)
        case SetMaster(_, name, master):
            return f"set {name} master {master}"
        case SetLink(_, name, up):
            return f"set {name} {'up' if up else 'down'}"
        case NoAddresses(_, name):
            return f"set {name} addrgenmode none"
        case DelLink(_, name):
            return f"delete {name}"


def _ip_line(entry: Entry, verb: str) -> str:
    added = verb != "del"
    match entry:
        case AddAddress(_, dev, interface):
            words = f"addr {verb} {interface} dev {dev}" + (" nodad" if added and interface.version == 6 else "")
        case AddNeighbour(_, dev, address, mac) if added:
            words = f"neigh {verb} {address} lladdr {mac} dev {dev} nud permanent"
        case AddNeighbour(_, dev, address):
            words = f"neigh {verb} {address} dev {dev}"
        case _:
            what, value = ("route", entry.route) if isinstance(entry, AddRoute) else ("rule", entry.rule)
            family = "-6 " if value.family == 6 else ""
            return f"ip {family}-n {entry.namespace} {what} {verb} {str(value).removeprefix('-6 ')}"
    return f"ip -n {entry.namespace} {words}"


def script(operations: tuple[Operation, ...]) -> str:
    """The operations as shell lines a person can read or run."""
    return "\n".join(line for operation in operations for line in lines(operation)) + "\n"
