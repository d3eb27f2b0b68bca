"""The kernel operations between two states, no more than it takes, in an order that works. Pure.

`difference` is between two states of a topology's hosts, `update` between what the built-in datapath has on the nodes
and what it is to have. What the kernel does by itself on the way (a link that goes down loses routes) is neither done
nor undone twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from niclab.kernel import edit
from niclab.kernel.plan import Cable, bridges
from niclab.kernel.routing import kept
from niclab.net import operation as op
from niclab.net.operation import AddAddress, AddRoute, AddRule, Operation, Remove, SetPacketRules
from niclab.topology.model import Host, Nic, Topology
from niclab.topology.stacking import is_up

Flushed = frozenset[tuple[str, str]]
"""(namespace, interface) that went down or away, and took its routes along."""


def difference(
    before: Topology, after: Topology, standing: Sequence[Cable], cables: Sequence[Cable]
) -> tuple[Operation, ...]:
    """Operations from `before` to `after`; `standing` are the cables of `before`, `cables` those of `after`."""
    names = bridges(after)
    plugs = {cable.tap: (cable.plugged(names), *cable.stands()) for cable in cables}
    ends = {cable.tap: cable.end for cable in standing}
    operations: list[Operation] = []
    for name, target in after.hosts.items():
        start = before.hosts[name]
        if start != target:
            operations += _host(name, start, target, ends, plugs)
    return tuple(operations)


def _host(
    name: str, host: Host, target: Host, ends: Mapping[str, str], plugs: Mapping[str, Sequence[Operation]]
) -> Iterator[Operation]:
    """`ends`: tap → the inner end of its cable; `plugs`: tap → what plugs its cable."""
    for nic in [nic for nic, cable in host.nics.items() if _replaced(cable, target.nics.get(nic))]:
        yield op.DelLink(name, ends[f"{name}.{nic}"])
        host = edit.unplugged(host, nic)
    for nic, planned in target.nics.items():
        if nic not in host.nics:
            yield from plugs[f"{name}.{nic}"]
            host = edit.plugged(host, nic, planned.model_copy(update={"addresses": (), "up": False}))
    for rule in [rule for rule in host.rules if rule not in target.rules]:
        yield Remove(AddRule(name, rule))
    for route, full in zip(host.routes, kept(host, host.routes), strict=True):
        # While the links are still as they were: what a link takes along is gone afterwards.
        if route not in target.routes and not _goes_along(host, target, full.devices):
            yield Remove(AddRoute(name, route))
            host = edit.with_(host, routes=tuple(other for other in host.routes if other != route))
    for nic, wanted in target.interfaces.items():
        if host.interfaces[nic].up and not wanted.up:
            yield op.SetLink(name, nic, up=False)
            host = edit.link_down(host, nic)
    for nic, wanted in target.interfaces.items():
        for interface in host.interfaces[nic].addresses:
            if interface not in wanted.addresses and interface in host.interfaces[nic].addresses:
                yield Remove(AddAddress(name, nic, interface))
                host = edit.address_removed(host, nic, interface)
        for interface in wanted.addresses:
            if interface not in host.interfaces[nic].addresses:
                yield AddAddress(name, nic, interface)
                host = edit.address_added(host, nic, interface)
        if wanted.up and not host.interfaces[nic].up:
            yield op.SetLink(name, nic)
            host = edit.link_up(host, nic)
    for key, value in target.sysctls.items():
        if host.sysctls.get(key) != value:
            yield op.SetSysctl(name, key, value)
    for route in target.routes:
        if route not in host.routes:
            yield AddRoute(name, route)
    for rule in [rule for rule in target.rules if rule not in host.rules]:
        yield AddRule(name, rule)


def _replaced(nic: Nic, wanted: Nic | None) -> bool:
    """Is this cable to go? Fabric, kind, MTU and MAC are a cable's for life."""
    return wanted is None or any(
        getattr(nic, name) != getattr(wanted, name) for name in ("fabric", "kind", "mtu", "mac")
    )


def _goes_along(host: Host, target: Host, devices: frozenset[str]) -> bool:
    """Do all the devices of a route go down, so that the kernel takes the route away itself?"""
    down = {
        device for device in devices if device in host.interfaces and is_up(host, device) and not is_up(target, device)
    }
    return bool(devices) and devices == down


def update(before: Sequence[Operation], after: Sequence[Operation], flushed: Flushed) -> tuple[Operation, ...]:
    """The operations that make `after` of `before`, where the kernel has dropped the routes of the flushed ones.

    Interfaces, namespaces and pods are what they were: an agent does not plug a pod again.
    """

    def dropped(operation: Operation) -> bool:
        devices = operation.route.devices if isinstance(operation, AddRoute) else ()
        return any((operation.namespace, device) in flushed for device in devices)

    standing = [operation for operation in before if not dropped(operation)]  # equal ones may be of two families
    places = {(add.namespace, add.route.key) for add in after if isinstance(add, AddRoute)}
    wanted, there, operations = set(after), set(standing), list[Operation]()
    for operation in standing:
        if isinstance(operation, AddRoute):
            gone = (operation.namespace, operation.route.key) not in places
        else:
            gone = operation not in wanted
        if gone and isinstance(operation, op.Entry):
            operations.append(Remove(operation))
    for operation in after:
        if operation in there:
            continue
        match operation:
            case AddRoute():
                operations.append(replace(operation, replace=True))
            case AddRule() | AddAddress() | op.AddNeighbour() | op.SetSysctl():
                operations.append(operation)
            case SetPacketRules():
                operations.append(replace(operation, again=True))
            case _:
                pass
    ruled = {operation.namespace for operation in after if isinstance(operation, SetPacketRules)}
    unruled = [rules for rules in before if isinstance(rules, SetPacketRules) and rules.namespace not in ruled]
    nothing = [replace(rules, rules=(), frames=None if rules.frames is None else ()) for rules in unruled]
    return (*operations, *(replace(rules, again=True) for rules in nothing))
