"""What BGP makes each router learn: pure, from topology and decisions.

Path vectors (RFC 4271, 9.1) as far as a lab needs them: every session is external, the shortest AS path wins, paths of
equal length are used together (`bgp bestpath as-path multipath-relax`), a path with one's own number in it is refused,
and the next hop is the address of the peer's end of the session (`next-hop-self`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from niclab.cilium.bgp.session import Session, sessions, speakers
from niclab.cilium.decisions import Decisions, NodeDecision
from niclab.net.route import PROTOCOLS, Address, Network, NextHop, Route
from niclab.settings.values import parse_bool
from niclab.topology import Service, Topology

Rib = Mapping[Network, frozenset[Address]]
"""Prefix → the next hops in use."""

METRIC = 20
"""With which zebra installs BGP's routes (zebra/zebra_rib.c: the distance of external BGP)."""
SWITCH = "enable-bgp-control-plane"


@dataclass(frozen=True, slots=True)
class _Best:
    """The paths a speaker uses for one prefix: the first one's AS numbers, which it passes on, and the way to each."""

    path: tuple[int, ...]
    hops: tuple[NextHop, ...] = ()


_Table = dict[str, dict[Network, _Best]]


def advertised(decisions: Decisions) -> Mapping[str, tuple[Network, ...]]:
    """Node → the prefixes it advertises; a node whose agent exits, or is told not to, advertises none.

    pkg/bgpv1/manager/reconcilerv2 (1.20: pkg/bgp/manager/reconciler), pod_cidr.go and service.go: the addresses of a
    load balancer and external IPs, each alone; with externalTrafficPolicy Local only where a backend is.
    """
    bgp = decisions.topology.bgp
    if bgp is None:
        return {}
    found: dict[str, tuple[Network, ...]] = dict.fromkeys(decisions.topology.nodes, ())
    for name in decisions.running:
        node = decisions.nodes[name]
        if not speaks(node):
            continue
        prefixes: list[Network] = []
        if "pod-cidrs" in bgp.advertise:
            prefixes += [node.pod_cidrs[family] for family in node.families]
        if "services" in bgp.advertise:
            prefixes += _services(decisions.topology, node)
        found[name] = tuple(dict.fromkeys(prefixes))
    return found


def originated(decisions: Decisions) -> Mapping[str, tuple[Network, ...]]:
    """Speaker → the prefixes it brings into BGP."""
    bgp = decisions.topology.bgp
    routers = {name: router.networks for name, router in bgp.routers.items()} if bgp is not None else {}
    return {**routers, **advertised(decisions)}


def speaks(node: NodeDecision) -> bool:
    """In a topology with BGP the lab turns the agent's switch on, unless the settings turn it off."""
    return parse_bool(node.settings.values.get(SWITCH, "true")) is True


def _services(topology: Topology, node: NodeDecision) -> list[Network]:
    return [
        ipaddress.ip_network(address)
        for service in topology.services.values()
        if _serves(topology, service, node.node)
        for address in service.outside
        if address.version in node.families
    ]


def _serves(topology: Topology, service: Service, node: str) -> bool:
    local = service.external_traffic_policy == "Local"
    return not local or any(pod in topology.nodes[node].pods for pod in service.pods)


def ribs(decisions: Decisions) -> Mapping[str, Rib]:
    """Speaker → what it learns. A node learns nothing: agents reject whatever they hear (pkg/bgpv1/gobgp/server.go)."""
    return {
        **{
            router: {
                prefix: frozenset(hop.via for hop in best.hops if hop.via)
                for prefix, best in sorted(table.items(), key=_rank)
            }
            for router, table in _learned(decisions).items()
        },
        **{node: {} for node in advertised(decisions) if speaks(decisions.nodes[node])},
    }


def learned_routes(decisions: Decisions) -> Mapping[str, tuple[Route, ...]]:
    """Router → the routes it installs, as zebra does; {} without BGP."""
    return {
        router: tuple(
            Route(prefix, best.hops, protocol=PROTOCOLS["bgp"], metric=METRIC)
            for prefix, best in sorted(table.items(), key=_rank)
        )
        for router, table in _learned(decisions).items()
    }


def _rank(entry: tuple[Network, _Best]) -> tuple[int, int, int]:
    prefix = entry[0]
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def _learned(decisions: Decisions) -> _Table:
    topology = decisions.topology
    numbers = speakers(topology)
    routers = [name for name in numbers if name in topology.routers]
    every = [session for session in sessions(topology) if session.own.host in routers]
    own = _own(decisions)
    tables: _Table = {router: {} for router in routers}
    # A path is at most as long as there are speakers, and each round makes all paths of one more length known.
    for _ in numbers:
        news = {
            router: _heard([session for session in every if session.own.host == router], tables, own)
            for router in routers
        }
        if news == tables:
            break
        tables = news
    return tables


def _own(decisions: Decisions) -> _Table:
    return {name: dict.fromkeys(prefixes, _Best(())) for name, prefixes in originated(decisions).items()}


def _heard(mine: list[Session], tables: _Table, own: _Table) -> dict[Network, _Best]:
    """What a router makes of what all its peers use; what it originates itself it learns from nobody."""
    found: dict[Network, _Best] = {}
    for session in mine:
        theirs = {**tables.get(session.peer.host, {}), **own.get(session.peer.host, {})}
        for prefix, best in theirs.items():
            path = (session.peer.asn, *best.path)
            if prefix.version != session.family or session.own.asn in path or prefix in own.get(session.own.host, ()):
                continue
            hop = NextHop(via=session.peer.address, dev=session.own.nic)
            known = found.get(prefix)
            if known is None or len(path) < len(known.path):
                found[prefix] = _Best(path, (hop,))
            elif len(path) == len(known.path):
                found[prefix] = _Best(known.path, (*known.hops, hop))
    return found
