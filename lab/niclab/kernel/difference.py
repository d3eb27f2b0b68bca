"""The kernel operations between two states of a topology's hosts: no more than it takes, in an order that works. Pure.

What the kernel does by itself on the way (a link that goes down loses routes) is neither done nor undone twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from niclab.kernel import linkchange
from niclab.kernel.plan import Cable, bridges
from niclab.kernel.routing import kept
from niclab.net.operation import (
    AddAddress,
    AddCable,
    AddRoute,
    AddRule,
    DelAddress,
    DelLink,
    DelRoute,
    DelRule,
    Operation,
    SetLink,
    SetSysctl,
)
from niclab.topology import Host, Nic, Topology
from niclab.topology.stacking import is_up


def difference(before: Topology, after: Topology, cables: Sequence[Cable]) -> tuple[Operation, ...]:
    """Operations from `before` to `after`; `cables` are those of `after`."""
    names = bridges(after)
    plugs = {cable.tap: cable.plugged(names) for cable in cables}
    found: list[Operation] = []
    for name, target in after.hosts.items():
        start = before.hosts[name]
        if start != target:
            found += _host(name, start, target, plugs)
    return tuple(found)


def _host(name: str, host: Host, target: Host, plugs: Mapping[str, AddCable]) -> Iterator[Operation]:
    """`plugs`: tap → what plugs its cable."""
    for nic in [nic for nic, one in host.nics.items() if _replaced(one, target.nics.get(nic))]:
        yield DelLink(name, nic)
        host = linkchange.unplugged(host, nic)
    for nic, wanted in target.nics.items():
        if nic not in host.nics:
            yield plugs[f"{name}.{nic}"]
            host = linkchange.plugged(host, nic, wanted.model_copy(update={"addresses": (), "up": False}))
    for rule in [one for one in host.rules if one not in target.rules]:
        yield DelRule(name, rule)
    for route, full in zip(host.routes, kept(host, host.routes), strict=True):
        # While the links are still as they were: what a link takes along is gone afterwards.
        if route not in target.routes and not _goes_along(host, target, full.devices):
            yield DelRoute(name, route)
            host = linkchange.with_(host, routes=tuple(one for one in host.routes if one != route))
    for nic, one in target.interfaces.items():
        if host.interfaces[nic].up and not one.up:
            yield SetLink(name, nic, up=False)
            host = linkchange.link_down(host, nic)
    for nic, one in target.interfaces.items():
        for interface in host.interfaces[nic].addresses:
            if interface not in one.addresses and interface in host.interfaces[nic].addresses:
                yield DelAddress(name, nic, interface)
                host = linkchange.address_removed(host, nic, interface)
        for interface in one.addresses:
            if interface not in host.interfaces[nic].addresses:
                yield AddAddress(name, nic, interface)
                host = linkchange.address_added(host, nic, interface)
        if one.up and not host.interfaces[nic].up:
            yield SetLink(name, nic)
            host = linkchange.link_up(host, nic)
    for key, value in target.sysctls.items():
        if host.sysctls.get(key) != value:
            yield SetSysctl(name, key, value)
    for route in target.routes:
        if route not in host.routes:
            yield AddRoute(name, route)
    for rule in [one for one in target.rules if one not in host.rules]:
        yield AddRule(name, rule)


def _replaced(nic: Nic, wanted: Nic | None) -> bool:
    """Is this cable to go? Fabric, MTU and MAC are a cable's for life."""
    return wanted is None or (nic.fabric, nic.mtu, nic.mac) != (wanted.fabric, wanted.mtu, wanted.mac)


def _goes_along(host: Host, target: Host, devices: frozenset[str]) -> bool:
    """Do all the devices of a route go down, so that the kernel takes the route away itself?"""
    down = {one for one in devices if one in host.interfaces and is_up(host, one) and not is_up(target, one)}
    return bool(devices) and devices == down
