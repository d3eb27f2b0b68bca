"""A lab's decisions after a change: agents remember, and the kernel has taken some of their routes along. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from niclab.cilium.decisions import Decisions
from niclab.cilium.memory import Memory
from niclab.cilium.selection import links_of
from niclab.cilium.selection.messages import events
from niclab.cilium.selection.routes import rows_of
from niclab.cilium.selection.runtime import Controller
from niclab.kernel.fib import Fib
from niclab.kernel.update import Flushed
from niclab.topology import Node, Topology
from niclab.topology.stacking import is_up


def after(decisions: Decisions, topology: Topology) -> Decisions:
    """The decisions once the agents that run have heard of everything that differs in `topology`."""
    gone = flushed(decisions.topology, topology)
    memory = {name: _memory(decisions, name, topology.nodes[name], gone) for name in decisions.running}
    return replace(decisions, topology=topology, memory=memory)


def validated(decisions: Decisions) -> Decisions:
    """The decisions once every agent has validated its nodes again: missing direct node routes are added.

    pkg/node/manager/manager.go backgroundSync, about once a minute (backoff.go ClusterSizeDependantInterval).
    """
    fresh = replace(decisions, memory={})
    memory = {name: replace(one, direct_routes=fresh.direct_routes(name)[0]) for name, one in decisions.memory.items()}
    return replace(decisions, memory=memory)


def flushed(before: Topology, after: Topology) -> Flushed:
    """What went down, or away: the routes by it are gone."""
    return frozenset(
        (host, name)
        for host, name, one in before.interface_pairs()
        if (now := after.hosts[host].interfaces.get(name)) is None
        or (is_up(before.hosts[host], name) and not is_up(after.hosts[host], name))
        or (bool(one.addresses_of(4)) and not now.addresses_of(4))
    )


def _memory(decisions: Decisions, name: str, node: Node, gone: Flushed) -> Memory:
    known = decisions.memory.get(name) or _start(decisions, name)
    indices = _indices(known.indices, node)
    before, links = links_of(decisions.topology.nodes[name], known.indices), links_of(node, indices)
    rows = rows_of(Fib.of(decisions.topology.nodes[name]).routes, before)
    controller = known.controller.after(*events(before, links, rows, rows_of(Fib.of(node).routes, links)))
    lost = {device for host, device in gone if host == name}
    direct = tuple(route for route in decisions.direct_routes(name)[0] if route.devices.isdisjoint(lost))
    return Memory(controller, indices, direct)


def _start(decisions: Decisions, name: str) -> Memory:
    decision = decisions.nodes[name]
    rows = rows_of(decision.kernel_fib.routes, decision.links)
    controller = Controller.of(decision.settings, decision.version, decision.links, rows)
    return Memory(controller, {link.name: link.index for link in decision.links})


def _indices(known: Mapping[str, int], node: Node) -> Mapping[str, int]:
    """The indices of the interfaces that are there; a new one gets the next free number, never an old one."""
    found = {name: index for name, index in known.items() if name == "lo" or name in node.interfaces}
    highest = max(known.values())
    for name in node.interfaces:
        if name not in found:
            highest += 1
            found[name] = highest
    return found
