"""Node addresses: the agent's table `node-addresses` (pkg/datapath/tables/node_address.go). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from niclab.cilium.selection.devices import Device, usable
from niclab.cilium.selection.links import Link, LinkAddress
from niclab.cilium.version import Version
from niclab.net.route import FAMILIES, SCOPES, TABLES, Address, Family, Network, Route
from niclab.settings import NodeView

HOST_DEVICE = "cilium_host"
FALLBACK = "*"
"""The device of the addresses that stand for a device without one (WildcardDeviceName)."""

_ALWAYS = (HOST_DEVICE, "lo")

_NOT_PUBLIC = tuple(
    ipaddress.ip_network(cidr)
    for cidr in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "::/128", "::1/128", "100::/64", "2001:2::/48", "2001:db8::/48", "fc00::/7", "fe80::/10"),
        "ff00::/8",
    )
)


def is_public(address: Address) -> bool:
    """pkg/ip/ip.go IsPublicAddr: not what the IANA calls public; 240.0.0.0/4 is, and 2001:db8:1::/48 too."""
    return not any(address in network for network in _NOT_PUBLIC if network.version == address.version)


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """A row of the table. `primary`: what is masqueraded to on this device; `node_port`: services answer here."""

    address: Address
    device: str
    primary: bool = False
    node_port: bool = False

    def __str__(self) -> str:
        words = ", ".join([word for word, on in (("primary", self.primary), ("nodeport", self.node_port)) if on])
        return f"{self.address} on {self.device}" + (f" ({words})" if words else "")


def ordered(addresses: Iterable[LinkAddress]) -> tuple[LinkAddress, ...]:
    """SortedAddresses: not secondary, the wider scope, public before private, IPv4 before IPv6, the smaller one."""
    return tuple(
        sorted(
            addresses,
            key=lambda one: (one.secondary, one.distance, not is_public(one.ip), one.version, int(one.ip)),
        )
    )


def node_addresses(
    links: Sequence[Link],
    devices: Sequence[Device],
    settings: NodeView,
    node_ips: Mapping[Family, Address],
    version: Version,
    *,
    routes: Iterable[Route] = (),
) -> tuple[NodeAddress, ...]:
    """The whole table, device by device in the order of their indices, the fallback `*` last.

    From: the selected devices, `cilium_host`, `lo`, and (≥1.17) devices of kind `dummy` whether up or not. `routes`:
    from 1.19 on, local ones without a source address count as addresses of their device (as GCE's load balancers set
    them).
    """
    selected = frozenset(device.name for device in devices if device.selected)
    known = tuple(
        replace(link, addresses=usable(link.addresses, version)) for link in sorted(links, key=lambda link: link.index)
    )
    rules = _Rules.of(settings, version, node_ips)
    used = tuple(link for link in known if rules.uses(link, selected))
    table = {link.name: rules.addresses(link) for link in used}
    fallback = _fallback(used if version.has("fallback-of-table") else known, selected)
    if version.has("local-route-addresses"):
        _add_local_routes(table, routes, rules)
    rows = [row for link in used for row in table[link.name]]
    return (*rows, *(NodeAddress(address, FALLBACK, primary=True) for address in fallback))


@dataclass(frozen=True, slots=True)
class _Rules:
    version: Version
    node_ips: Mapping[Family, Address]
    cidrs: tuple[Network, ...]
    largest_scope: int

    @classmethod
    def of(cls, settings: NodeView, version: Version, node_ips: Mapping[Family, Address]) -> _Rules:
        cidrs = tuple(ipaddress.ip_network(cidr, strict=False) for cidr in settings.nodeport_addresses)
        return cls(version, node_ips, cidrs, _scope(settings.get("local-max-addr-scope"), version))

    def uses(self, link: Link, selected: Collection[str]) -> bool:
        """getAddressesFromDevice, from 1.19 on shouldUseDeviceForNodeAddress."""
        dummy = link.kind == "dummy" and self.version.has("dummy-addresses")
        return (link.up or dummy) and (link.name in _ALWAYS or link.name in selected or dummy)

    def addresses(self, link: Link) -> list[NodeAddress]:
        """One device's rows."""
        counted = [address.ip for address in ordered(link.addresses) if self._counts(link.name, address)]
        primary = {self._pick(counted, family, public_first=True) for family in FAMILIES}
        node_port: set[Address | None] = set()
        if link.name != HOST_DEVICE:
            if self.cidrs:
                node_port = {ip for ip in counted if self.in_cidrs(ip)}
            elif link.up:
                node_port = {self._pick(counted, family, public_first=False) for family in FAMILIES}
        return [NodeAddress(ip, link.name, ip in primary, ip in node_port) for ip in counted]

    def in_cidrs(self, ip: Address) -> bool:
        return any(ip in cidr for cidr in self.cidrs if cidr.version == ip.version)

    def _counts(self, name: str, address: LinkAddress) -> bool:
        near = name == HOST_DEVICE and address.scope == "link"
        return near or (address.distance <= self.largest_scope and not address.ip.is_loopback)

    def _pick(self, addresses: Iterable[Address], family: Family, *, public_first: bool) -> Address | None:
        """The first public and the first private one, and of these two the one that is wanted first.

        The node IP is chosen when it is there, from 1.20 on only within its own class: a public address comes before a
        private node IP (a598dfd64f). IPv6 link-local addresses stood in for a missing one in 1.19 only (5b2dbd2421).
        """
        public = private = None
        node_ip = self.node_ips.get(family)
        never_link_local = self.version.has("link-local-never-primary")
        for ip in addresses:
            if ip.version != family or (never_link_local and ip.version == 6 and ip.is_link_local):
                continue
            wins = ip == node_ip
            if wins and not self.version.has("node-ip-in-its-class"):
                return ip
            if is_public(ip):
                public = ip if public is None or wins else public
            else:
                private = ip if private is None or wins else private
        first, second = (public, private) if public_first else (private, public)
        return second if first is None else first


def _scope(word: str, version: Version) -> int:
    """`local-max-addr-scope` (pkg/ip/ip_scope_linux.go ParseScope): the narrowest scope that counts.

    Its default was one wider than `link`, from 1.19 on it is `host` (pkg/defaults/defaults_linux.go AddressScopeMax,
    7638b511a2): from then on IPv6 link-local addresses are node addresses.
    """
    if word in SCOPES:
        return next(number for scope, number in SCOPES.items() if scope == word)
    default = SCOPES["host"] if version.has("host-scope") else SCOPES["link"] - 1
    return 255 if word == "nowhere" else int(word) if word else default


def _fallback(links: Iterable[Link], selected: Collection[str]) -> tuple[Address, ...]:
    """The best address of each family on any device: up to 1.18 of all devices, from 1.19 on of those in the table."""
    ranked = sorted(
        (
            link.name not in selected,
            not is_public(address.ip),
            address.distance,
            link.index,
            int(address.ip),
            address.version,
            address.ip,
        )
        for link in links
        if not link.name.startswith("lxc") and link.name != HOST_DEVICE
        for address in link.addresses
        if not address.secondary
    )
    best = (next((row[-1] for row in ranked if row[-1].version == family), None) for family in FAMILIES)
    return tuple(ip for ip in best if ip is not None)


def _add_local_routes(table: dict[str, list[NodeAddress]], routes: Iterable[Route], rules: _Rules) -> None:
    there = {row.address for rows in table.values() for row in rows}
    for route in routes:
        if route.table != TABLES["local"] or route.effective_scope != "host" or route.source is not None:
            continue
        if route.family == 6 or len(route.nexthops) != 1:  # [kernel] IPv6 routes have no scope but the global one
            continue
        ip, name = route.destination.network_address, route.nexthops[0].dev or ""
        rows = table.get(name)
        if rows is None or ip in there or ip.is_loopback or ip.is_unspecified:
            continue
        second = any(row.primary and row.address.version == ip.version for row in rows)
        taken = second and rules.version.has("local-route-second")
        node_port = name != HOST_DEVICE and rules.in_cidrs(ip)
        rows.append(NodeAddress(ip, name, primary=not taken, node_port=node_port))
        there.add(ip)
