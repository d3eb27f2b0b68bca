"""A host's routes and rules: what the kernel adds by itself, and what it would refuse half-way through a deployment.

The kernel's reasons are poor ("Nexthop has invalid gateway", EEXIST, ENODEV), and it names no line of a file.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from lab.route import TABLES, NextHop, Route, Rule, numbered
from lab.topology.finding import Finding, Path, nearest
from lab.topology.model import Host

# Interfaces that the lab or Cilium adds to a node after its rules; a rule may name what is not there yet.
_LATER = ("lxc", "cilium_")


def connected(host: Host) -> Iterator[Route]:
    """The routes the kernel adds by itself: one to every address, and one to the network of each NIC that is up.

    [kernel] a NIC that is down keeps the routes to its addresses in table local: the host answers on them.
    """
    local, main = TABLES["local"], TABLES["main"]
    for loopback in (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")):
        yield Route(loopback, (NextHop(dev="lo"),), "local", local, protocol=2)
    for name, nic in host.nics.items():
        hop = (NextHop(dev=name),)
        for interface in nic.addresses:
            alone, v4 = ipaddress.ip_network(interface.ip), interface.version == 4
            yield Route(alone, hop, "local", local, protocol=2, source=interface.ip)
            if nic.up and interface.network != alone:
                yield Route(
                    interface.network,
                    hop,
                    table=main,
                    protocol=2,
                    scope="link" if v4 else None,
                    source=interface.ip if v4 else None,
                    metric=None if v4 else 256,
                )


def check_route(host: Host, route: Route) -> str | None:
    """Why the kernel would refuse this route on this host after the host's other ones, or None."""
    before = _before(host, route)
    for hop in route.nexthops:
        why = _hop(host, route, hop, before)
        if why:
            return why
    own = {interface.ip for nic in host.nics.values() for interface in nic.addresses}
    if route.source is not None and route.source not in own and not route.source.is_loopback:
        return f"src {route.source} is not an address of the host"
    twin = next((one for one in connected(host) if _key(one) == _key(route)), None)
    return f"the kernel has {str(twin)!r} by itself: give yours a metric" if twin else None


def _before(host: Host, route: Route) -> Sequence[Route]:
    index = next((index for index, one in enumerate(host.routes) if one is route), len(host.routes))
    return host.routes[:index]


def _hop(host: Host, route: Route, hop: NextHop, before: Sequence[Route]) -> str | None:
    if hop.dev not in (None, "lo", *host.nics):
        return f"there is no NIC {hop.dev!r} here"
    if hop.dev in host.nics and not host.nics[hop.dev].up and not (route.kind == "local" and route.family == 4):
        return f"NIC {hop.dev!r} is down: the kernel takes no route on it"
    if hop.via is None:
        return None
    own = any(hop.via == interface.ip for nic in host.nics.values() for interface in nic.addresses)
    if own and (hop.onlink or route.family == 6):
        return f"gateway {hop.via} is the host's own address"
    if hop.onlink or (hop.via.is_link_local and route.family == 6):
        return None
    if device_to(host, hop, before, route.table) is None:
        return f"gateway {hop.via} is on no network of {hop.dev or 'any NIC'}: not reachable without `onlink`"
    return None


def device_to(host: Host, hop: NextHop, routes: Sequence[Route], table: int) -> str | None:
    """The device to a hop's gateway: that of the longest prefix among links, as the kernel finds it; None: no way."""
    assert hop.via is not None
    tables = (table, TABLES["main"], TABLES["local"])
    found = [
        (tables.index(route.table), -route.destination.prefixlen, one.dev)
        for route in (*connected(host), *routes)
        for one in route.nexthops
        if one.dev and one.via is None and hop.dev in (None, one.dev)
        if route.table in tables and hop.via in route.destination and (one.dev == "lo" or host.nics[one.dev].up)
    ]
    return min(found)[2] if found else None


def _key(route: Route) -> tuple[object, int, int]:
    """What no two routes share. IPv6 has it so too: a second hop is refused unless it is appended."""
    return route.destination, route.table, route.effective_metric


def routes(section: str, name: str, host: Host) -> Iterator[Finding]:
    seen: dict[tuple[object, int, int], Route] = {}
    for index, route in enumerate(host.routes):
        path: Path = (section, name, "routes", index)
        if why := check_route(host, route):
            unknown = [hop.dev for hop in route.nexthops if hop.dev not in (None, "lo", *host.nics)]
            mend = nearest(str(unknown[0]), host.nics) if unknown else f"its NICs: {_nics(host)}"
            yield Finding(path, f"route {str(route)!r}: {why}", mend)
        elif _key(route) in seen:
            why = f"route {str(route)!r} repeats {str(seen[_key(route)])!r}: same destination, table and metric"
            yield Finding(path, why, "give it another metric, or make one route with nexthops of both (ECMP)")
        seen.setdefault(_key(route), route)


def _nics(host: Host) -> str:
    words = []
    for name, nic in host.nics.items():
        words.append(" ".join([name, *map(str, nic.addresses), *([] if nic.up else ["(down)"])]))
    return ", ".join(words)


def check_rule(host: Host, rule: Rule) -> str | None:
    """Why a rule can never match on this host, or None."""
    for name in (rule.iif, rule.oif):
        if name not in (None, "lo", *host.nics) and not str(name).startswith(_LATER):
            return f"there is no NIC {name!r} here"
    return None


def rules(section: str, name: str, host: Host) -> Iterator[Finding]:
    seen: set[Rule] = set()
    for index, (rule, made) in enumerate(zip(host.rules, numbered(host.rules), strict=True)):
        path: Path = (section, name, "rules", index)
        if why := check_rule(host, rule):
            unknown = rule.iif if rule.iif not in (None, "lo", *host.nics) else rule.oif
            yield Finding(path, f"rule {str(rule)!r}: {why}", nearest(str(unknown), host.nics))
        elif made in seen:
            yield Finding(path, f"rule {str(rule)!r} is there twice", "remove it, or give it another priority")
        seen.add(made)
