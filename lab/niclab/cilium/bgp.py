"""BGP between routers and nodes: who has a session with whom, and what each router learns. Pure.

Path vectors (RFC 4271, 9.1) as far as a lab needs them: every session is external, the shortest AS path wins, paths of
equal length are used together (`bgp bestpath as-path multipath-relax`), a path with one's own number in it is refused,
and the next hop is the address of the peer's end of the session (`next-hop-self`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product

from niclab.cilium.decisions import Decisions
from niclab.cilium.node import NodeDecision
from niclab.cilium.tables import reason
from niclab.net.route import FAMILIES, PROTOCOLS, Address, Family, Network, NextHop, Route, family_of, network_of
from niclab.settings.flags import parse_bool
from niclab.topology.model import Topology

_Place = tuple[str, Address]
"""A NIC's name, and an address it has."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a session: whose, by which NIC, at which address, in which autonomous system."""

    host: str
    nic: str
    address: Address
    asn: int

    @property
    def tap(self) -> str:
        return f"{self.host}.{self.nic}"


@dataclass(frozen=True, slots=True)
class Session:
    """A session as one of its two speakers sees it. It carries the prefixes of its addresses' family.

    `passive`: the other one dials. Cilium dials and does not listen, so routers wait for nodes.
    """

    own: End
    peer: End
    passive: bool

    @property
    def family(self) -> Family:
        return family_of(self.own.address)


def speakers(topology: Topology) -> dict[str, int]:
    """Who speaks BGP, routers first → the number of its autonomous system."""
    bgp = topology.bgp
    if bgp is None:
        return {}
    return {
        **{name: router.asn for name, router in bgp.routers.items()},
        **dict.fromkeys(topology.nodes, bgp.nodes.asn),
    }


def sessions(topology: Topology) -> tuple[Session, ...]:
    """Every session twice, once for each end; in the order of the speakers."""
    numbers = speakers(topology)
    every: list[Session] = []
    for host, other in combinations(numbers, 2):
        if host in topology.nodes and other in topology.nodes:
            continue
        for mine, theirs in _ends(topology, host, other):
            own, peer = End(host, *mine, numbers[host]), End(other, *theirs, numbers[other])
            every += [Session(own, peer, passive=True), Session(peer, own, passive=False)]
    order = list(numbers)
    return tuple(sorted(every, key=lambda session: order.index(session.own.host)))


def _ends(topology: Topology, host: str, other: str) -> Iterator[tuple[_Place, _Place]]:
    """Where two speakers meet: on each fabric they share, once for each family in which they have a common network.
    Sessions over link-local addresses (unnumbered) are not run.
    """
    for fabric, family in product(topology.fabrics, FAMILIES):
        near, far = (
            [
                (name, interface)
                for name, nic in topology.hosts[end].nics.items()
                if nic.fabric == fabric and nic.up
                for interface in nic.addresses_of(family)
                if not interface.ip.is_link_local
            ]
            for end in (host, other)
        )
        for (mine, own), (theirs, peer) in product(near, far):
            if own.ip in peer.network and peer.ip in own.network:
                yield (mine, own.ip), (theirs, peer.ip)
                break


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
    """Node → the prefixes it advertises; a node whose agent exits, or whose settings turn BGP off, advertises none.

    pkg/bgpv1/manager/reconcilerv2 (1.20: pkg/bgp/manager/reconciler), pod_cidr.go and service.go: the addresses of a
    load balancer and external IPs, each alone; with externalTrafficPolicy Local only where a backend is.
    """
    bgp = decisions.topology.bgp
    if bgp is None:
        return {}
    prefixes: dict[str, dict[Network, None]] = {name: {} for name in decisions.topology.nodes}
    for name in decisions.running:
        node = decisions.nodes[name]
        if speaks(node) and "pod-cidrs" in bgp.advertise:
            prefixes[name] |= {node.pod_cidrs[family]: None for family in node.families}
        for service in decisions.topology.services.values():
            local = service.external_traffic_policy == "Local"
            here = not local or any(pod in decisions.topology.nodes[name].pods for pod in service.pods)
            if speaks(node) and "services" in bgp.advertise and here:
                own = (address for address in service.outside if address.version in node.families)
                prefixes[name] |= {network_of(address): None for address in own}
    return {name: tuple(mine) for name, mine in prefixes.items()}


def originated(decisions: Decisions) -> Mapping[str, tuple[Network, ...]]:
    """Speaker → the prefixes it brings into BGP."""
    bgp = decisions.topology.bgp
    routers = {name: router.networks for name, router in bgp.routers.items()} if bgp is not None else {}
    return {**routers, **advertised(decisions)}


def speaks(node: NodeDecision) -> bool:
    """In a topology with BGP the lab turns the agent's switch on, unless the settings turn it off."""
    return parse_bool(node.settings.values.get(SWITCH, "true")) is True


def ribs(decisions: Decisions) -> Mapping[str, Rib]:
    """Speaker → what it learns. A node learns nothing: agents reject whatever they hear (pkg/bgpv1/gobgp/server.go)."""
    learned = {
        router: {prefix: frozenset(hop.via for hop in best.hops if hop.via) for prefix, best in table.items()}
        for router, table in _learned(decisions).items()
    }
    return {**learned, **{node: {} for node in advertised(decisions) if speaks(decisions.nodes[node])}}


def learned_routes(decisions: Decisions) -> Mapping[str, tuple[Route, ...]]:
    """Router → the routes it installs, as zebra does; {} without BGP."""
    return {
        router: tuple(
            Route(prefix, best.hops, protocol=PROTOCOLS["bgp"], metric=METRIC, why=reason("route.bgp"))
            for prefix, best in table.items()
        )
        for router, table in _learned(decisions).items()
    }


def _learned(decisions: Decisions) -> _Table:
    """Router → the paths that it uses, in the order of their prefixes."""
    topology = decisions.topology
    numbers = speakers(topology)
    routers = [name for name in numbers if name in topology.routers]
    every = [session for session in sessions(topology) if session.own.host in routers]
    own = {name: dict.fromkeys(prefixes, _Best(())) for name, prefixes in originated(decisions).items()}
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

    def rank(prefix: Network) -> tuple[int, int, int]:
        return prefix.version, int(prefix.network_address), prefix.prefixlen

    return {router: {prefix: table[prefix] for prefix in sorted(table, key=rank)} for router, table in tables.items()}


def _heard(mine: list[Session], tables: _Table, own: _Table) -> dict[Network, _Best]:
    """What a router makes of what all its peers use; what it originates itself it learns from nobody."""
    heard: dict[Network, _Best] = {}
    for session in mine:
        theirs = {**tables.get(session.peer.host, {}), **own.get(session.peer.host, {})}
        for prefix, best in theirs.items():
            path = (session.peer.asn, *best.path)
            if prefix.version != session.family or session.own.asn in path or prefix in own.get(session.own.host, ()):
                continue
            hop = NextHop(via=session.peer.address, dev=session.own.nic)
            known = heard.get(prefix)
            if known is None or len(path) < len(known.path):
                heard[prefix] = _Best(path, (hop,))
            elif len(path) == len(known.path):
                heard[prefix] = _Best(known.path, (*known.hops, hop))
    return heard
