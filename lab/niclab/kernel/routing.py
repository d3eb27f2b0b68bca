"""A host's routes and rules: what the kernel adds by itself, and what it would refuse half-way through a deployment.

The kernel's reasons are poor ("Nexthop has invalid gateway", EEXIST, ENODEV), and it names no line of a file.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from niclab.errors import Finding, nearest
from niclab.net.route import TABLES, Address, Family, NextHop, Route, Rule, network_of, numbered
from niclab.topology.model import Host
from niclab.topology.stacking import is_up, vrf_of
from niclab.topology.yamlfile import Field

# Interfaces that the lab or Cilium adds to a node after its rules; a rule may name what is not there yet.
_LATER = ("lxc", "cilium_")
_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1")


def connected(host: Host) -> Iterator[Route]:
    """The routes the kernel adds by itself: one to every address, and one to the network of each NIC that is up.

    [kernel] a NIC that is down keeps the routes to its addresses in table local: the host answers on them.
    """
    for loopback in _LOOPBACK:
        yield Route(loopback, (NextHop(dev="lo"),), "local", TABLES["local"], protocol=2)
    for name, device in host.interfaces.items():
        hop = (NextHop(dev=name),)
        vrf = vrf_of(host, name)
        local, main = (vrf.table, vrf.table) if vrf and vrf.table else (TABLES["local"], TABLES["main"])
        for interface in device.addresses:
            alone, v4 = network_of(interface.ip), interface.version == 4
            yield Route(alone, hop, "local", local, protocol=2, source=interface.ip)
            if name != "lo" and is_up(host, name) and interface.network != alone:
                yield Route(
                    interface.network,
                    hop,
                    table=main,
                    protocol=2,
                    scope="link" if v4 else None,
                    source=interface.ip if v4 else None,
                    metric=None if v4 else 256,
                )


def kept(host: Host, routes: Iterable[Route]) -> tuple[Route, ...]:
    """The routes as the kernel keeps them: with a device for every gateway that is given without one."""
    before = [*connected(host)]
    own = len(before)
    for route in routes:
        before.append(_kept(route, before))
    return tuple(before[own:])


def alive(host: Host, routes: Iterable[Route]) -> Iterator[Route]:
    """The routes without their dead hops; of a multipath route the others go on [kernel].

    A hop dies with its NIC, an IPv4 one of a multipath route also with the NIC's last IPv4 address (fib_disable_ip).
    """
    down = {name for name in host.interfaces if not is_up(host, name)}
    bare = {name for name, device in host.interfaces.items() if not device.addresses_of(4)}
    every = tuple(routes)

    def dies(hop: NextHop, route: Route) -> bool:
        if hop.dev in down:
            return route.kind != "local"
        stranded = route.family == 4 and len(route.nexthops) > 1 and hop.via is not None and not hop.onlink
        if not stranded or (hop.via is not None and hop.via.version == 6) or hop.dev not in bare:
            return False
        others = (other for other in every if other is not route)
        return link_to(hop, [*connected(host), *others], route.table) is None

    for route in every:
        hops = tuple(hop for hop in route.nexthops if not dies(hop, route))
        if hops or not route.nexthops:
            yield route if hops == route.nexthops else replace(route, nexthops=hops)


def address_on(host: Host, device: str, family: Family, neighbour: Address | None) -> Address | None:
    """The host's address that a packet of its own leaves by a device with: None where the device has none.

    [kernel] inet_select_addr: the device's first address in the neighbour's network, else its first. IPv6 prefers the
    device's own too, the nearest to the destination (RFC 6724).
    """
    interface = host.interfaces.get(device)
    addresses = interface.addresses_of(family) if interface else ()
    near = (own.ip for own in addresses if neighbour is not None and neighbour in own.network)
    return next(near, addresses[0].ip if addresses else None)


def addresses_elsewhere(host: Host, family: Family) -> Iterator[Address]:
    """What a packet is sent with where its device has no address: another device's, none of a link's own."""
    for interface in host.interfaces.values():
        yield from (own.ip for own in interface.addresses_of(family) if not own.ip.is_link_local)


def _kept(route: Route, before: Sequence[Route]) -> Route:
    """`before`: every route that is there already, here and below with those the kernel adds by itself."""
    hops = tuple(_kept_hop(hop, before, route.table) for hop in route.nexthops)
    onlink = [hop.via for hop in hops] != [hop.via for hop in route.nexthops]
    return replace(route, nexthops=hops, scope=route.effective_scope if onlink else route.scope)


def _kept_hop(hop: NextHop, before: Sequence[Route], table: int) -> NextHop:
    link = link_to(hop, before, table) if hop.via and not hop.onlink else None
    if link is None:
        return hop
    # [kernel] an IPv4 gateway that is the host itself means that the destination is on-link (fib_nh_scope).
    return replace(hop, dev=hop.dev or link.nexthops[0].dev, via=None if link.kind == "local" else hop.via)


def check_route(host: Host, route: Route) -> str | None:
    """Why the kernel would refuse this route on this host after the host's other ones, or None."""
    index = next((index for index, known in enumerate(host.routes) if known is route), len(host.routes))
    before = kept(host, host.routes[:index])
    same = next((other for other in before if other.key == route.key), None)
    if same:
        return f"it repeats {str(same)!r}: same destination, table and metric"
    return _refusal(host, route, (*connected(host), *before))


def _refusal(host: Host, route: Route, before: Sequence[Route]) -> str | None:
    for hop in route.nexthops:
        why = _hop(host, route, hop, before)
        if why:
            return why
    hops = _kept(route, before).nexthops
    if route.family == 6 and len({(hop.via, hop.dev) for hop in hops}) < len(hops):
        return "two of its nexthops are the same"
    if route.source is not None and route.source not in host.addresses and not route.source.is_loopback:
        return f"src {route.source} is not an address of the host"
    same = next((other for other in before if other.key == route.key), None)
    return f"the kernel has {str(same)!r} by itself: give yours a metric" if same else None


def _hop(host: Host, route: Route, hop: NextHop, before: Sequence[Route]) -> str | None:
    if hop.dev not in (None, "lo", *host.interfaces):
        return f"there is no NIC {hop.dev!r} here"
    if hop.dev and hop.dev != "lo" and not is_up(host, hop.dev) and not (route.kind == "local" and route.family == 4):
        return f"NIC {hop.dev!r} is down: the kernel takes no route on it"
    if hop.via is None:
        return None
    if hop.via in host.addresses and (hop.onlink or hop.via.version == 6):
        return f"gateway {hop.via} is the host's own address"
    if hop.via.is_link_local and hop.via.version == 6:
        return None
    if hop.onlink:
        return _elsewhere(hop, before) if hop.via.version == 6 else None
    link = link_to(hop, before, route.table)
    up = {"lo", *(name for name in host.interfaces if is_up(host, name))}
    if link is None or link.devices.isdisjoint(up):
        down = [
            name
            for name, device in host.interfaces.items()
            if not is_up(host, name) and any(hop.via in interface.network for interface in device.addresses)
        ]
        if down:
            return f"gateway {hop.via} is on {down[0]}, which is down"
        return f"gateway {hop.via} is on no network of {hop.dev or 'any NIC'}: not reachable without `onlink`"
    return None


def _elsewhere(hop: NextHop, before: Sequence[Route]) -> str | None:
    """[kernel] IPv6's `onlink` is no way around a route to the gateway by another device, but for a default one."""
    main = [route for route in before if route.table == TABLES["main"] and not route.is_default]
    chosen = _best([route for route in main if hop.via in route.destination])
    if not chosen or any(route.kind != "unicast" or hop.dev in route.devices for route in chosen):
        return None
    return f"gateway {hop.via} is not on {hop.dev}: {str(chosen[0])!r}"


def link_to(hop: NextHop, before: Sequence[Route], table: int) -> Route | None:
    """The route to a hop's gateway, which must be a link's: as the kernel looks it up when a route is added."""
    every = [
        route for route in before if hop.via in route.destination and (hop.dev is None or hop.dev in route.devices)
    ]
    # [kernel] IPv4 passes over what is no link, by scope; IPv6 takes the best route, and then that must be one.
    v4 = hop.via is not None and hop.via.version == 4
    usable = [route for route in every if _is_link(route)] if v4 else every
    local, main, default = TABLES["local"], TABLES["main"], TABLES["default"]
    ruled = (local, main, default) if v4 else (local, main)
    stages = (ruled,) if v4 and table == main else ((table,), ruled)
    for tables in stages:
        chosen = next((best for number in tables if (best := _best([r for r in usable if r.table == number]))), None)
        if chosen and _is_link(chosen[0]):
            return chosen[0]
    return None


def _best(routes: Sequence[Route]) -> list[Route]:
    """Those of the longest prefix and lowest metric."""

    def rank(route: Route) -> tuple[int, int]:
        return -route.destination.prefixlen, route.effective_metric

    lowest = min(map(rank, routes), default=None)
    return [route for route in routes if rank(route) == lowest]


def _is_link(route: Route) -> bool:
    """Leads straight to its destinations (IPv4 goes by scope)."""
    link = route.family == 6 or route.effective_scope in ("link", "host")
    return link and any(hop.dev and hop.via is None for hop in route.nexthops)


def routes(section: str, name: str, host: Host) -> Iterator[Finding]:
    before = [*connected(host)]
    seen: dict[tuple[object, int, int], Route] = {}
    for index, route in enumerate(host.routes):
        path: Field = (section, name, "routes", index)
        why: str | None
        same = seen.setdefault(route.key, route)
        if same is not route:
            why = f"route {str(route)!r} repeats {str(same)!r}: same destination, table and metric"
            yield Finding(path, why, "give it another metric, or make one route with nexthops of both (ECMP)")
        elif why := _refusal(host, route, before):
            unknown = [hop.dev for hop in route.nexthops if hop.dev not in (None, "lo", *host.interfaces)]
            fix = nearest(str(unknown[0]), host.interfaces) if unknown else f"its NICs: {_nics(host)}"
            yield Finding(path, f"route {str(route)!r}: {why}", fix)
        before.append(_kept(route, before))


def _nics(host: Host) -> str:
    words = []
    for name, device in host.interfaces.items():
        words.append(" ".join([name, *map(str, device.addresses), *([] if device.up else ["(down)"])]))
    return ", ".join(words)


def check_rule(host: Host, rule: Rule) -> str | None:
    """Why the kernel would refuse this rule after the host's other ones, or why it can never match; or None."""
    for name in (rule.iif, rule.oif):
        if name not in (None, "lo", *host.interfaces) and not str(name).startswith(_LATER):
            return f"there is no NIC {name!r} here"
    index = next((index for index, known in enumerate(host.rules) if known is rule), len(host.rules))
    *before, made = numbered((*host.rules[:index], rule))
    same = next((other for other in before if _same(other, made)), None)
    return f"the kernel takes it for {str(same)!r}, which is there: give it another priority" if same else None


def _same(old: Rule, new: Rule) -> bool:
    """[kernel] the new one is refused: `not` is no difference, nor is a `from` or `to` that only the old one has."""

    def traits(rule: Rule) -> tuple[object, ...]:
        return rule.family, rule.action, rule.table, rule.priority, rule.iif, rule.oif, rule.mark

    return traits(old) == traits(new) and all(
        mine in (None, theirs) for mine, theirs in ((new.source, old.source), (new.destination, old.destination))
    )


def rules(section: str, name: str, host: Host) -> Iterator[Finding]:
    for index, rule in enumerate(host.rules):
        if why := check_rule(host, rule):
            unknown = [name for name in (rule.iif, rule.oif) if name not in (None, "lo", *host.interfaces)]
            fix = nearest(str(unknown[0]), host.interfaces) if unknown else "no two rules may be alike"
            yield Finding((section, name, "rules", index), f"rule {str(rule)!r}: {why}", fix)
