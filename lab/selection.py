"""Cilium's choice of devices, direct routing device and node addresses, by version, each with its reason. Pure.

Follows pkg/datapath/linux/devices_controller.go (isSelectedDevice), pkg/datapath/tables/device.go (DeviceFilter),
direct_routing_device.go and node_address.go as of 1.18; what later versions changed is marked where it is decided.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lab.route import TABLES, Address, Family, Route
from lab.settings import NodeView
from lab.topology import Interface, Node

EXCLUDED_PREFIXES = ("cilium_", "lo", "lxc", "cni", "docker")
"""pkg/defaults/node.go ExcludedDevicePrefixes. `lowan0` is excluded too: a prefix, not a name."""

NO_DIRECT_ROUTING_DEVICE = "unable to determine direct routing device. Use --direct-routing-device to specify it"
"""daemon/cmd/daemon.go: what the agent says as it exits."""


class Version(NamedTuple):
    """A Cilium minor version."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """From `1.18`, `v1.18.3` or `1.20.0-dev`. Raises ValueError."""
        parts = text.strip().removeprefix("v").split(".")
        try:
            return cls(int(parts[0]), int(parts[1].split("-")[0]))
        except (IndexError, ValueError):
            raise ValueError(f"{text!r} is not a Cilium version (want MAJOR.MINOR, e.g. 1.18)") from None

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as Cilium's device table sees it. `master` is the kind of the device it is enslaved to."""

    name: str
    index: int
    kind: str
    up: bool = True
    addresses: tuple[Interface, ...] = ()
    master: str | None = None
    loopback: bool = False
    slave: bool = False
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Device:
    """What Cilium decided about one interface, and the rule that decided."""

    name: str
    selected: bool
    reason: str


def links_of(node: Node) -> tuple[Link, ...]:
    """A lab node's interfaces before Cilium adds its own: `lo` and veths, with IPv6 link-locals when up."""
    found = [Link("lo", 1, "device", loopback=True, addresses=(ipaddress.ip_interface("127.0.0.1/8"),))]
    local = ipaddress.ip_interface("fe80::1/64")
    for index, (name, nic) in enumerate(node.nics.items(), 2):
        addresses = (*nic.addresses, *((local,) if nic.up else ()))
        found.append(Link(name, index, "veth", up=nic.up, addresses=addresses, mtu=nic.mtu))
    return tuple(found)


def matches(entry: str, name: str) -> bool:
    """Does one entry of `devices` name this interface? `eth+` is a prefix, else exact (DeviceFilter.Match)."""
    return name.startswith(entry[:-1]) if entry.endswith("+") else name == entry


def _filter(entries: Sequence[str], name: str, version: Version) -> bool | None:
    """The first matching entry's word: selected, excluded (`!`, ≥1.19, PR #40152), or None when nothing matches."""
    for entry in entries:
        if entry.startswith("!") and version >= (1, 19):
            if matches(entry[1:], name):
                return False
        elif matches(entry, name):
            return True
    return None


def select(links: Iterable[Link], routes: Sequence[Route], settings: NodeView, version: Version) -> tuple[Device, ...]:
    """Every interface with Cilium's decision about it, in the order of their indices."""
    return tuple(_decide(link, routes, settings, version) for link in sorted(links, key=lambda link: link.index))


def _decide(link: Link, routes: Sequence[Route], settings: NodeView, version: Version) -> Device:
    def no(reason: str) -> Device:
        return Device(link.name, False, reason)

    def usable() -> str | None:
        if not link.addresses:
            return "device has no addresses"
        return None if link.up else "missing required flag (mask=0x1): not UP"

    listed = bool(settings.devices)
    # From 1.19 on the user's list comes before the address and UP checks (6d5900a0d7, PR #41837).
    if version < (1, 19) and (why := usable()):
        return no(why)
    if listed:
        verdict = _filter(settings.devices, link.name, version)
        if verdict is True:
            return Device(link.name, True, f"matches devices [{' '.join(settings.devices)}]")
        if verdict is False:
            return no(f"excluded by devices [{' '.join(settings.devices)}]")
        if not settings.force_device_detection:
            return no(f"not matching user filter [{' '.join(settings.devices)}]")
    if version >= (1, 19) and (why := usable()):
        return no(why)
    return _detect(link, routes, listed, version)


def _detect(link: Link, routes: Sequence[Route], listed: bool, version: Version) -> Device:
    """Auto-detection: the tests that only an interface that is not listed has to pass."""

    def no(reason: str) -> Device:
        return Device(link.name, False, reason)

    if link.loopback:
        return no("excluded flag set (mask=0x8): loopback")
    vrf_member = link.master == "vrf" and version >= (1, 20)  # bac08dfb5c
    if link.slave and not vrf_member:
        return no("excluded flag set (mask=0x800): slave")
    if link.master and not vrf_member:
        return no(f"bridged or bonded to a {link.master}")
    prefix = next((prefix for prefix in EXCLUDED_PREFIXES if link.name.startswith(prefix)), None)
    if prefix:
        return no(f"excluded prefix {prefix!r}")
    if link.kind == "veth" and not listed and not _has_default_route(link, routes):
        return no("veth without default route")
    if link.kind in ("bridge", "openvswitch", "ipoib"):
        return no(f"{link.kind} device, use --devices to override")
    if not _has_global_route(link, routes):
        return no("no global unicast routes")
    return Device(link.name, True, "auto-detected: up, addressed, with a global unicast route")


def _has_default_route(link: Link, routes: Sequence[Route]) -> bool:
    """A default route in table main with this device as its only hop: a multipath one has no RTA_OIF."""
    return any(
        route.is_default
        and route.table == TABLES["main"]
        and route.kind == "unicast"
        and len(route.nexthops) == 1
        and route.nexthops[0].dev == link.name
        for route in routes
    )


def _has_global_route(link: Link, routes: Sequence[Route]) -> bool:
    """Any table counts, `local` too, so any global unicast address is enough (devices_controller.go routeFilter)."""
    networks = [route.destination for route in routes if len(route.nexthops) == 1 and link.name in route.devices]
    networks += [ipaddress.ip_network(interface.ip) for interface in link.addresses]
    return any(_is_global_unicast(network.network_address) for network in networks if network.prefixlen)


def _is_global_unicast(address: Address) -> bool:
    """Go's net.IP.IsGlobalUnicast: private addresses count, loopback, link-local, multicast and unspecified do not."""
    broadcast = address.version == 4 and int(address) == 0xFFFFFFFF
    return not (
        address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified or broadcast
    )


@dataclass(frozen=True, slots=True)
class DirectRouting:
    """The direct routing device, or None with the agent's `exits` words where a feature cannot do without it."""

    device: str | None
    reason: str
    exits: str | None = None


def direct_routing(
    devices: Sequence[Device], links: Sequence[Link], settings: NodeView, node_ip: Address | None
) -> DirectRouting:
    """Which selected device is the direct routing device, and by which rule (direct_routing_device.go Get)."""
    selected = [device.name for device in devices if device.selected]
    wanted = settings.direct_routing_device
    if wanted:
        found = next((name for name in selected if matches(wanted, name)), None)
        if found:
            return DirectRouting(found, f"direct-routing-device is {wanted}")
    elif len(selected) == 1:
        return DirectRouting(selected[0], "the only selected device")
    holder = next(
        (link.name for link in links if link.name in selected and node_ip in {i.ip for i in link.addresses}), None
    )
    if node_ip is not None and holder is not None:
        return DirectRouting(holder, f"the selected device with the node IP {node_ip}")
    reason = f"none of [{' '.join(selected)}] has the node IP {node_ip}" if selected else "no device is selected"
    return DirectRouting(None, reason, NO_DIRECT_ROUTING_DEVICE if requires_devices(settings) else None)


def requires_devices(settings: NodeView) -> bool:
    """DaemonConfig.AreDevicesRequired (pkg/option/config.go): features that cannot run without a device."""
    return (
        settings.kube_proxy_replacement
        or settings.host_firewall
        or settings.wireguard
        or settings.l2_announcements
        or settings.ipsec
    )


def bpf_host_routing(settings: NodeView) -> bool:
    """BPF host routing, or legacy: NodePort, no IPsec, no iptables masquerading (kube_proxy_replacement.go)."""
    iptables_masquerading = (settings.ipv4_masquerade or settings.ipv6_masquerade) and not settings.bpf_masquerade
    return (
        settings.kube_proxy_replacement
        and not settings.host_legacy_routing
        and not settings.ipsec
        and not iptables_masquerading
    )


def skips_fib(devices: Sequence[Device], drd: DirectRouting, settings: NodeView, version: Version) -> bool:
    """≤1.18: with one selected device pods' packets go straight to it, without a FIB lookup (ENABLE_SKIP_FIB).

    pkg/datapath/linux/config/config.go; the macro went away with b483d1346e (1.19).
    """
    return (
        version < (1, 19)
        and bpf_host_routing(settings)
        and drd.device is not None
        and sum(device.selected for device in devices) == 1
        and not settings.endpoint_routes
    )


def _is_public(address: Address) -> bool:
    return not address.is_private


def primary_address(
    addresses: Sequence[Interface], family: Family, node_ip: Address | None, version: Version
) -> Address | None:
    """The address packets are masqueraded to on one device (node_address.go): its Primary.

    The node IP when it is on the device, else the first public, else the first private address. From 1.20 on the node
    IP wins only within its own class: a public address comes before a private node IP (a598dfd64f).
    """
    own = sorted(
        {interface.ip for interface in addresses if interface.version == family and _is_global_unicast(interface.ip)},
        key=lambda address: (not _is_public(address), int(address)),
    )
    first = own[0] if own else None
    if node_ip in own and (version < (1, 20) or first is None or _is_public(first) == _is_public(node_ip)):
        return node_ip
    return first
