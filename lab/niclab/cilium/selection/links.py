"""A node's interfaces and routes as the agent's tables `devices` and `routes` have them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from niclab.net.route import SCOPES, TABLES, Address, Network, Route, Scope, network_of
from niclab.topology.fields import Interface
from niclab.topology.model import Node
from niclab.topology.stacking import carriers, is_up, master_of, mtu_of

IFF_UP, IFF_BROADCAST, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x2, 0x8, 0x40
IFF_SLAVE, IFF_MULTICAST, IFF_LOWER_UP = 0x800, 0x1000, 0x10000


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address on an interface, with what the kernel says of it (pkg/datapath/tables/device.go DeviceAddress)."""

    interface: Interface
    scope: Scope = "global"
    secondary: bool = False
    tentative: bool = False
    """Duplicate address detection still runs (IFA_F_TENTATIVE)."""
    dadfailed: bool = False
    """Duplicate address detection found another owner (IFA_F_DADFAILED)."""

    @property
    def ip(self) -> Address:
        return self.interface.ip

    @property
    def network(self) -> Network:
        return self.interface.network

    @property
    def version(self) -> int:
        return self.interface.version

    @property
    def distance(self) -> int:
        """The scope as rtnetlink(7) numbers it: 0 is the widest."""
        return SCOPES[self.scope]

    @classmethod
    def of(cls, interface: Interface) -> LinkAddress:
        """The address with the scope that `ip address add` gives it [kernel]."""
        if interface.ip.is_loopback:
            return cls(interface, "host")
        return cls(interface, "link" if interface.version == 6 and interface.ip.is_link_local else "global")


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. `addresses` are in the kernel's order, `master` is the index of the device it is enslaved to."""

    name: str
    index: int
    kind: str
    up: bool = True
    addresses: tuple[LinkAddress, ...] = ()
    master: int = 0
    loopback: bool = False
    slave: bool = False
    """IFF_SLAVE, which bonding sets on its ports; a bridge or a VRF does not [kernel]."""
    mtu: int = 1500
    altnames: tuple[str, ...] = ()
    flags: int | None = None
    """The raw interface flags; None: those of an Ethernet device (or of `lo`) with its cable in."""

    @property
    def raw_flags(self) -> int:
        """As rtnetlink has them, for the agent's words."""
        if self.flags is not None:
            return self.flags
        kind = IFF_LOOPBACK if self.loopback else IFF_BROADCAST | IFF_MULTICAST
        state = IFF_UP | IFF_RUNNING | IFF_LOWER_UP if self.up else 0
        return kind | state | (IFF_SLAVE if self.slave else 0)


def link_addresses(interfaces: Sequence[Interface]) -> tuple[LinkAddress, ...]:
    """Addresses in the order and with the flags the kernel has them after they were added one by one [kernel].

    IPv4: an address in the network of an earlier one is secondary and comes after all primary ones (inet_insert_ifa).
    IPv6: a new address comes before those of its scope and narrower ones (ipv6_link_dev_addr).
    """
    primary: list[LinkAddress] = []
    secondary: list[LinkAddress] = []
    for address in (LinkAddress.of(interface) for interface in interfaces if interface.version == 4):
        if any(address.network == other.network for other in primary):
            secondary.append(replace(address, secondary=True))
        else:
            primary.append(address)
    v6 = [LinkAddress.of(interface) for interface in reversed(interfaces) if interface.version == 6]
    return (*primary, *secondary, *sorted(v6, key=lambda address: address.distance))


_LOOPBACK: tuple[Interface, ...] = (ipaddress.ip_interface("127.0.0.1/8"), ipaddress.ip_interface("::1/128"))
_LINK_LOCAL: Interface = ipaddress.ip_interface("fe80::1/64")


def links_of(node: Node, indices: Mapping[str, int] | None = None) -> tuple[Link, ...]:
    """A lab node's interfaces before Cilium adds its own: `lo`, veths and what stands on them.

    `indices`: interface → its index, where they are not simply counted.
    """
    more = node.links["lo"].addresses if "lo" in node.links else ()
    own = link_addresses([*_LOOPBACK, *more])
    names = [name for name in node.interfaces if name != "lo"]
    numbers = {name: (indices or {}).get(name, number) for number, name in enumerate(names, 2)}
    links = [Link("lo", 1, "device", loopback=True, addresses=own, mtu=65536)]
    links += [_link(node, name, numbers) for name in numbers]
    return tuple(sorted(links, key=lambda link: link.index))


def _link(node: Node, name: str, numbers: Mapping[str, int]) -> Link:
    interface, up = node.interfaces[name], is_up(node, name)
    master = master_of(node, name)
    owner = node.links[master].kind if master is not None else ""
    # [cilium] Of kinds of NICs agents know veth alone: what a machine has is a `device` (isSelectedDevice).
    kind = interface.kind if interface.kind != "physical" else "device"
    # [kernel] No link-local without a carrier, nor on what a bond holds (IFF_SLAVE, addrconf.c).
    linked = up and owner != "bond" and not (kind == "bridge" and not carriers(node, name))
    local = (_LINK_LOCAL,) if linked and kind != "vrf" else ()
    return Link(
        name,
        numbers[name],
        # The device of a bridge's port has no kind: a message of AF_BRIDGE, which says none, comes last.
        "device" if owner == "bridge" else kind,
        up=up,
        addresses=link_addresses((*interface.addresses, *local)),
        master=numbers[master] if master is not None else 0,
        slave=owner == "bond",
        mtu=mtu_of(node, name),
    )


class RouteRow(NamedTuple):
    """A row of the route table: its whole key, so two routes that differ by metric only are one (RouteID)."""

    table: int
    link: int
    """The interface's index; 0 for a route of several hops, which has no RTA_OIF, or of none."""
    destination: Network


def route_row(route: Route, indices: dict[str, int]) -> RouteRow:
    """The row a route becomes. `indices`: name → index."""
    hop = route.nexthops[0].dev if len(route.nexthops) == 1 else None
    return RouteRow(route.table, indices.get(hop or "", 0), route.destination)


def rows_of(routes: Iterable[Route], links: Iterable[Link]) -> frozenset[RouteRow]:
    """The rows of these routes, and of those the kernel adds for the interfaces' own addresses [kernel]."""
    known = tuple(links)
    indices = {link.name: link.index for link in known}
    rows = {route_row(route, indices) for route in routes}
    for link in known:
        rows |= {RouteRow(TABLES["local"], link.index, network_of(address.ip)) for address in link.addresses}
    return frozenset(rows)


def has_default_route(index: int, rows: Iterable[RouteRow]) -> bool:
    """A default route in table main that is this device's alone (pkg/datapath/tables/route.go HasDefaultRoute)."""
    main = TABLES["main"]
    return any(row.link == index and row.table == main and row.destination.prefixlen == 0 for row in rows)


def has_global_route(index: int, rows: Iterable[RouteRow]) -> bool:
    """Any table counts, `local` too, so any global unicast address is enough (devices_controller.go hasGlobalRoute)."""
    return any(row.link == index and is_global_unicast(row.destination.network_address) for row in rows)


def is_global_unicast(address: Address) -> bool:
    """Go's net.IP.IsGlobalUnicast: private addresses count, loopback, link-local, multicast and unspecified do not."""
    broadcast = address.version == 4 and int(address) == 0xFFFFFFFF
    return not (
        address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified or broadcast
    )
