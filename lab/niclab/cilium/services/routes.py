"""Routing rules for what NICs' programs forward for services: the FIB is asked as those programs ask it. Pure.

`fib_redirect` asks with the source that the packet will have: the direct routing device's for a backend of another
node, the service's own for an answer. The kernel routes before it translates, so that where a rule looks at the source
such packets carry a number that stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from niclab.cilium.services.node import FROM_NIC, SOURCE_MASK, SOURCE_SHIFT, NodeServices
from niclab.net.route import TABLES, Address, Family, Rule, numbered
from niclab.topology import Host

PRIORITY = 13
"""After the rules of pods, tunnels and the single device."""


def rules(services: NodeServices, *, tunnel: tuple[int, int], single: tuple[int, int]) -> Iterator[Rule]:
    """A node's rules; `tunnel` and `single`: tables and priorities of peers' pods and of the single device."""
    node = services.node
    host = services.decisions.topology.nodes[node.node]
    for family in node.families:
        if node.tunnels:
            table, priority = tunnel
            yield Rule(table=table, priority=priority, mark=(FROM_NIC, FROM_NIC), explicit_family=family)
        if node.host_single_device:
            table, priority = single
            yield Rule(table=table, priority=priority, mark=(FROM_NIC, FROM_NIC), explicit_family=family)
        for address, number in services.sources.items():
            if address.version == family:
                yield from _as_from(host, address, number, family)


def _as_from(host: Host, address: Address, number: int, family: Family) -> Iterator[Rule]:
    """The node's own rules as a packet from `address` meets them."""
    mark = (number << SOURCE_SHIFT, SOURCE_MASK)
    base = [Rule(table=TABLES["main"], priority=32766, explicit_family=family)]
    own = [rule for rule in numbered(host.rules) if rule.family == family]
    for rule in sorted([*own, *base], key=lambda rule: rule.priority or 0):
        found = _met(rule, address)
        if found is not None:
            yield replace(found, mark=mark, priority=PRIORITY, explicit_family=family)
    yield Rule(table=None, action="unreachable", mark=mark, priority=PRIORITY, explicit_family=family)


def _met(rule: Rule, address: Address) -> Rule | None:
    """What is left of a rule once the source is known and the packet's own mark is 0; None when it cannot match.

    A rule with `not` that looks at more than the source is left out: its other half cannot be told from our mark.
    """
    inside = (rule.source is None or address in rule.source) and (rule.mark is None or not rule.mark[0] & rule.mark[1])
    if rule.negated:
        return None if inside else Rule(table=rule.table, action=rule.action)
    return replace(rule, source=None, mark=None) if inside else None
