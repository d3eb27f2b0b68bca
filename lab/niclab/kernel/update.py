"""From what the built-in datapath has on the nodes to what it is to have: only the difference. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from niclab.net.operation import (
    AddAddress,
    AddNeighbour,
    AddRoute,
    AddRule,
    DelAddress,
    DelNeighbour,
    DelRoute,
    DelRule,
    Operation,
    SetPacketRules,
    SetSysctl,
)

Flushed = frozenset[tuple[str, str]]
"""(namespace, interface) that went down or away, and took its routes along."""


def update(before: Sequence[Operation], after: Sequence[Operation], flushed: Flushed) -> tuple[Operation, ...]:
    """The operations that make `after` of `before`, where the kernel has dropped the routes of the flushed ones.

    Interfaces, namespaces and pods are what they were: an agent does not plug a pod again.
    """
    return (*_removals(before, after, flushed), *_additions(before, after, flushed))


def _removals(before: Sequence[Operation], after: Sequence[Operation], flushed: Flushed) -> Iterator[Operation]:
    wanted, places = set(after), set(_places(after))
    for one in _standing(before, flushed):
        match one:
            case AddRoute(namespace, route) if (namespace, route.key) not in places:
                yield DelRoute(namespace, route)
            case AddRule(namespace, rule) if one not in wanted:
                yield DelRule(namespace, rule)
            case AddAddress(namespace, dev, interface) if one not in wanted:
                yield DelAddress(namespace, dev, interface)
            case AddNeighbour(namespace, dev, address) if one not in wanted:
                yield DelNeighbour(namespace, dev, address)
            case _:
                pass


def _additions(before: Sequence[Operation], after: Sequence[Operation], flushed: Flushed) -> Iterator[Operation]:
    standing = set(_standing(before, flushed))
    ruled = {one.namespace for one in after if isinstance(one, SetPacketRules)}
    for one in after:
        if one in standing:
            continue
        match one:
            case AddRoute():
                yield replace(one, replace=True)
            case AddRule() | AddAddress() | AddNeighbour() | SetSysctl():
                yield one
            case SetPacketRules():
                yield replace(one, again=True)
            case _:
                pass
    for one in before:
        if isinstance(one, SetPacketRules) and one.namespace not in ruled:
            yield SetPacketRules(one.namespace, (), again=True)


def _standing(before: Iterable[Operation], flushed: Flushed) -> Iterator[Operation]:
    for one in before:
        if not (isinstance(one, AddRoute) and {(one.namespace, dev) for dev in one.route.devices} & flushed):
            yield one


def _places(operations: Iterable[Operation]) -> Iterator[tuple[object, ...]]:
    return ((one.namespace, one.route.key) for one in operations if isinstance(one, AddRoute))


__all__ = ["Flushed", "update"]
