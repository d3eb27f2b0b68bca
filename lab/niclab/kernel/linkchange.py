"""What the kernel makes of a change to one host: which addresses and routes go with a link. Pure; every rule [kernel].

A host's state is its part of the topology: the NICs it has now, whether they are up, the addresses and routes left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from niclab.kernel.routing import kept
from niclab.net.route import Route
from niclab.topology import Host, Interface, Link, Nic
from niclab.topology.stacking import is_up

H = TypeVar("H", bound=Host)

_KEEPS = ("net.ipv6.conf.all.keep_addr_on_down", "net.ipv6.conf.{}.keep_addr_on_down")


def with_(host: H, **changes: Any) -> H:
    return host.model_copy(update=changes)


def link_down(host: H, name: str) -> H:
    """IPv4 routes go, silently; a multipath route stays while another hop is alive (fib_sync_down_dev).

    IPv6: routes go, and the addresses too (addrconf_ifdown) unless `keep_addr_on_down` is set. VLANs go down with what
    they stand on.
    """
    gone = {link for link in _with_vlans(host, name) if is_up(host, link)}
    if not gone:
        return host
    down = _changed(host, name, up=False)
    for link in gone:
        if not any(host.sysctls.get(key.format(link), "0") not in ("0", "-1") for key in _KEEPS):
            down = _changed(down, link, addresses=down.interfaces[link].addresses_of(4))

    def dead(route: Route) -> bool:
        devices = {hop.dev for hop in route.nexthops if hop.dev in host.interfaces}
        # Local routes of IPv4 have a scope that the flush passes over.
        local = route.family == 4 and route.kind == "local"
        return not local and not devices.isdisjoint(gone) and not any(is_up(down, dev) for dev in devices if dev)

    return with_(down, routes=_living(host, dead))


def link_up(host: H, name: str) -> H:
    """The connected routes of the addresses that are left come back; nothing else does."""
    return _changed(host, name, up=True)


def _with_vlans(host: Host, name: str) -> Iterator[str]:
    yield name
    for other, link in host.links.items():
        if link.parent == name:
            yield from _with_vlans(host, other)


def plugged(host: H, name: str, nic: Nic) -> H:
    return with_(host, nics={**host.nics, name: nic})


def unplugged(host: H, name: str) -> H:
    """Routes with a hop by this NIC go, of IPv4 also multipath ones (fib_sync_down_dev, NETDEV_UNREGISTER); an IPv6
    route keeps its other hops."""
    nics = {nic: kept_nic for nic, kept_nic in host.nics.items() if nic != name}
    routes: list[Route] = []
    for route, full in zip(host.routes, kept(host, host.routes), strict=True):
        left = tuple(hop for hop in full.nexthops if hop.dev != name)
        if name not in full.devices:
            routes.append(route)
        elif route.family == 6 and left:
            routes.append(replace(full, nexthops=left))
    return with_(host, nics=nics, routes=tuple(routes))


def address_added(host: H, name: str, interface: Interface) -> H:
    return _changed(host, name, addresses=(*host.interfaces[name].addresses, interface))


def address_removed(host: H, name: str, interface: Interface) -> H:
    """IPv4: routes with it as their source go, secondaries go with their primary (unless `promote_secondaries`), and
    with the last address every route by this NIC (fib_del_ifaddr). IPv6: only its own."""
    before = host.interfaces[name].addresses
    kin = [address for address in before if address.version == 4 and address.network == interface.network]
    gone = set(kin) if kin[:1] == [interface] else {interface}
    left = tuple(address for address in before if address not in gone)
    lost = {address.ip for address in gone if address.version == 4}
    last = bool(lost) and not any(address.version == 4 for address in left)

    def dead(route: Route) -> bool:
        devices = {hop.dev for hop in route.nexthops}
        return route.family == 4 and (route.source in lost or (last and devices == {name}))

    return with_(_changed(host, name, addresses=left), routes=_living(host, dead))


def _changed(host: H, name: str, **changes: Any) -> H:
    field = "nics" if name in host.nics else "links"
    known: Mapping[str, Nic | Link] = host.nics if name in host.nics else host.links
    return with_(host, **{field: {**known, name: known[name].model_copy(update=changes)}})


def _living(host: Host, dead: Callable[[Route], bool]) -> tuple[Route, ...]:
    """The host's routes without the dead ones; `dead` is given each route with its devices filled in."""
    return tuple(route for route, full in zip(host.routes, kept(host, host.routes), strict=True) if not dead(full))
