"""Which devices an agent selects, and why (pkg/datapath/linux/devices_controller.go isSelectedDevice). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.route import TABLES, Address, Route
from lab.selection.filter import first_match
from lab.selection.link import Link
from lab.selection.version import Version
from lab.settings import NodeView

EXCLUDED_PREFIXES = ("cilium_", "lo", "lxc", "cni", "docker")
"""pkg/defaults/node.go ExcludedDevicePrefixes. `lowan0` is excluded too: a prefix, not a name."""


@dataclass(frozen=True, slots=True)
class Device:
    """What Cilium decided about one interface, and the rule that decided."""

    name: str
    selected: bool
    reason: str


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
        verdict = first_match(settings.devices, link.name, version)
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
    return any(is_global_unicast(network.network_address) for network in networks if network.prefixlen)


def is_global_unicast(address: Address) -> bool:
    """Go's net.IP.IsGlobalUnicast: private addresses count, loopback, link-local, multicast and unspecified do not."""
    broadcast = address.version == 4 and int(address) == 0xFFFFFFFF
    return not (
        address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified or broadcast
    )
