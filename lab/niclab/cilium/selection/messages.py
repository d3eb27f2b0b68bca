"""What netlink tells an agent of a change to its node: the events for `niclab.cilium.selection.runtime`. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from niclab.cilium.selection.link import Link, LinkAddress
from niclab.cilium.selection.routes import RouteRow
from niclab.cilium.selection.runtime import (
    AddressAdded,
    AddressRemoved,
    Event,
    LinkChanged,
    LinkRemoved,
    RouteAdded,
    RouteRemoved,
)


def events(
    before: Sequence[Link], after: Sequence[Link], rows_before: frozenset[RouteRow], rows_after: frozenset[RouteRow]
) -> tuple[Event, ...]:
    """The messages of one change, in one batch: the controller collects for 100 ms, a change takes less."""
    old = {link.index: link for link in before}
    new = {link.index: link for link in after}
    return tuple(_events(old, new, rows_before, rows_after))


def _events(
    old: Mapping[int, Link], new: Mapping[int, Link], rows_before: frozenset[RouteRow], rows_after: frozenset[RouteRow]
) -> Iterator[Event]:
    for index in old.keys() - new.keys():
        yield LinkRemoved(index)
    for index, link in new.items():
        was = old.get(index)
        if was is None or replace(was, addresses=()) != replace(link, addresses=()):
            yield LinkChanged(link)
        had = was.addresses if was else ()
        for address in had:
            if address not in link.addresses:
                yield AddressRemoved(index, address)
        for address in link.addresses:
            if address not in had:
                yield AddressAdded(index, address)
    for row in sorted(rows_before - rows_after, key=str):
        if row.link not in old or row.link not in new or not _silent(row, old[row.link], new[row.link]):
            yield RouteRemoved(row)
    for row in sorted(rows_after - rows_before, key=str):
        yield RouteAdded(row)


def _silent(row: RouteRow, was: Link, link: Link) -> bool:
    """[kernel] IPv4 routes go without a message when their link goes down, or loses its last address; but for those
    that are an address's own (fib_del_ifaddr deletes them one by one)."""
    if row.destination.version != 4:
        return False
    if was.up and not link.up:
        return True
    removed = [one for one in was.addresses if one not in link.addresses and one.version == 4]
    last = bool(removed) and not any(one.version == 4 for one in link.addresses)
    return last and not any(row.destination in _own(one) for one in removed)


def _own(address: LinkAddress) -> tuple[object, object]:
    return address.network, ipaddress.ip_network(address.ip)
