"""Routes as Cilium's route table has them: what device selection asks of them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from niclab.cilium.selection.link import Link
from niclab.net.route import TABLES, Address, Network, Route


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
        rows |= {RouteRow(TABLES["local"], link.index, ipaddress.ip_network(address.ip)) for address in link.addresses}
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
