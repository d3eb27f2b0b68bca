"""Egress gateways carried out: routing tables and packet rules on the pods' nodes and on gateways. Pure.

On a pod's node the decision is made by `cil_to_netdev`, after the FIB: only a packet that would leave by a selected NIC
goes into the tunnel to its gateway. So a table of the pod's own has a route for every part of a policy's networks that
the node's routes treat alike; where they lead to a NIC that is not selected it has a `throw`: as if it were not there.
On the gateway, a table for what comes out of the tunnel from a pod says by which NIC it goes on.

    priority 9  from pods with a policy (iif)      tables 2100…  into the tunnel, or by the gateway's NIC
    priority 9  from the tunnel (iif, from a pod)  tables 2300…  by the gateway's NIC
    priority 9  to such pods, from NICs            tables 2500…  answers, back into the tunnel (native routing)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from niclab.cilium.decisions import TUNNEL_DEVICE, Decisions, NodeDecision, pod_interface
from niclab.cilium.egress import Entry, WayOut, cluster, covering, entries, in_use, inside
from niclab.kernel.fib import Fib, Lookup
from niclab.kernel.plan import mac
from niclab.net.operation import AddNeighbour, AddRoute, AddRule, AddVxlan, Operation
from niclab.net.packetrules import Devices, Drop, Match, PacketRule, SetMark, Snat
from niclab.net.reason import Why
from niclab.net.route import FAMILIES, Address, Encap, Family, Network, NextHop, Route, Rule, family_of

PRIORITY = 9
FROM_PODS, FROM_TUNNEL, ANSWERS = range(2100, 2300), range(2300, 2500), range(2500, 2700)
"""Tables: one for each pod and family that a policy selects."""
ANSWERING = 0x4000
"""A bit of packets' marks: it answers a connection that came in, and no policy is asked (ct_is_reply)."""

_SOURCE = "bpf/lib/egress_gateway.h; bpf/lib/nat.h snat_v4_needs_masquerade"


def operations(decisions: Decisions, node: NodeDecision) -> Iterator[Operation]:
    """What the policies add to a node that runs."""
    if not node.settings.egress_gateway or not in_use(decisions):
        return
    if not node.tunnels:
        # The tunnel is there in native routing too (pkg/egressgateway: tunnel.NewEnabler).
        number = list(decisions.topology.nodes).index(node.node) + 1
        yield AddVxlan(node.node, TUNNEL_DEVICE, mac(5, number, 0), node.settings.tunnel_port, node.mtu)
        for peer in decisions.peers(node.node):
            theirs = list(decisions.topology.nodes).index(peer.node) + 1
            for family in node.families:
                if (via := _via(peer, family)) is not None:
                    yield AddNeighbour(node.node, TUNNEL_DEVICE, via, mac(5, theirs, 0))
    yield from _Tables(decisions, node).operations()


def _via(peer: NodeDecision, family: Family) -> Address | None:
    """What stands for a peer as a neighbour on the tunnel's device."""
    cidr = peer.pod_cidrs.get(family)
    return cidr.network_address if cidr is not None else peer.node_ips.get(family)


@dataclass(frozen=True)
class _Policed:
    """A pod with entries of one family, and which number it has among those of the lab."""

    pod: str
    node: str
    address: Address
    entries: tuple[Entry, ...]
    number: int

    @property
    def family(self) -> Family:
        return family_of(self.address)

    @property
    def alone(self) -> Network:
        return ipaddress.ip_network(self.address)

    def by(self, gateway: str) -> bool:
        """Is this node a gateway of the pod?"""
        return any(entry.way_out is not None and entry.way_out.node == gateway for entry in self.entries)


def policed(decisions: Decisions) -> tuple[_Policed, ...]:
    """Every pod of a running node that a policy selects."""
    found: list[_Policed] = []
    for pod, (node, _) in decisions.topology.pods.items():
        if node not in decisions.running or not decisions.nodes[node].settings.egress_gateway:
            continue
        for address in decisions.pod_addresses[pod]:
            family = family_of(address)
            mine = entries(decisions, pod, family) if family in decisions.nodes[node].families else ()
            if mine:
                found.append(_Policed(pod, node, address, mine, len(found)))
    return tuple(found)


@dataclass(frozen=True)
class _Tables:
    """One node's tables."""

    decisions: Decisions
    node: NodeDecision

    @cached_property
    def fib(self) -> Fib:
        return self.node.kernel_fib.with_routes(self.decisions.direct_routes(self.node.node)[0])

    def operations(self) -> Iterator[Operation]:
        here = self.node.node
        for one in policed(self.decisions):
            family = one.family
            if one.node == here:
                table = FROM_PODS[one.number]
                rule = Rule(table=table, priority=PRIORITY, iif=pod_interface(one.pod), mark=(0, ANSWERING))
                yield from self._table(replace(rule, explicit_family=family), self._of_pod(one, table))
            elif one.by(here):
                table = FROM_TUNNEL[one.number]
                rule = Rule(table=table, priority=PRIORITY, iif=TUNNEL_DEVICE, source=one.alone)
                yield from self._table(rule, self._of_gateway(one, table))
                if not self.node.tunnels:
                    yield from self._answers(one, ANSWERS[one.number])

    def _table(self, rule: Rule, routes: Iterable[Route]) -> Iterator[Operation]:
        yield AddRule(self.node.node, rule)
        for route in routes:
            yield AddRoute(self.node.node, route, replace=True)

    def _answers(self, one: _Policed, table: int) -> Iterator[Operation]:
        """What comes back from a policy's network goes into the tunnel, even in native routing (nodeport.h)."""
        home = self.decisions.nodes[one.node]
        yield AddRoute(self.node.node, self._tunnel(one.alone, table, home), replace=True)
        for entry in one.entries:
            for nic in self.node.selected if entry.way_out and entry.way_out.node == self.node.node else ():
                source = entry.network if entry.network.prefixlen else None
                yield AddRule(
                    self.node.node,
                    Rule(table=table, priority=PRIORITY, iif=nic, source=source, destination=one.alone),
                )

    def _of_pod(self, one: _Policed, table: int) -> Iterator[Route]:
        for network, sample in self._parts(one):
            yield self._from_pod(one, network, sample, table)

    def _from_pod(self, one: _Policed, network: Network, sample: Address, table: int) -> Route:
        """What becomes of a pod's packets to a part of its policies' networks."""
        skip = Route(network, kind="throw", table=table)
        entry = covering(one.entries, network)
        if entry is None or entry.excluded or sample in self._cluster(one.family):
            return skip
        device = self.node.single_device
        found = self.fib.lookup(sample, source=one.address, oif=device)
        if found is None or not found.hops or found.is_local or found.hops[0].dev not in self.node.selected:
            return skip
        out = entry.way_out
        if out is None:
            return Route(network, kind="blackhole", table=table)
        if out.node == self.node.node:
            return self._staying(network, sample, table, found, out)
        return self._tunnel(network, table, self.decisions.nodes[out.node])

    def _staying(self, network: Network, sample: Address, table: int, found: Lookup, out: WayOut) -> Route:
        """The pod's own node is its gateway: `cil_to_netdev` of the NIC that the FIB chose redirects, or lets it go."""
        if out.nic is None or out.address is None:
            return Route(network, kind="blackhole", table=table)
        if out.fixed:
            if found.hops[0].dev == out.nic:
                return Route(network, found.hops, table=table)
            # redirect_neigh without a next hop: [kernel] without a route by this NIC the destination is on-link.
            by_nic = self.fib.lookup(sample, oif=out.nic)
            hops = by_nic.hops if by_nic is not None and by_nic.hops else (NextHop(dev=out.nic),)
            return Route(network, hops, table=table)
        again = self.fib.lookup(sample, source=out.address)
        if again is None or not again.hops or again.is_local:
            return Route(network, kind="blackhole", table=table)
        same = again.hops[0].dev == found.hops[0].dev
        return Route(network, found.hops if same else again.hops, table=table)

    def _of_gateway(self, one: _Policed, table: int) -> Iterator[Route]:
        """from-overlay: one FIB lookup with the egress IP as the source, and what the policy fixes over it."""
        for network, sample in self._parts(one):
            entry = covering(one.entries, network)
            out = entry.way_out if entry is not None else None
            if out is None or out.node != self.node.node or sample in self._cluster(one.family):
                yield Route(network, kind="throw", table=table)
                continue
            found = self.fib.lookup(sample, source=out.address) if out.address is not None else None
            if found is None or not found.hops or found.is_local:
                yield Route(network, kind="blackhole", table=table)
            elif out.fixed:
                via = found.hops[0].via
                # The next hop stays that of the FIB, also where it is another NIC's (fib_do_redirect).
                hop = NextHop(via=via, dev=out.nic, onlink=True) if via else NextHop(dev=out.nic)
                yield Route(network, (hop,), table=table)
            else:
                yield Route(network, found.hops, table=table)

    def _tunnel(self, network: Network, table: int, to: NodeDecision) -> Route:
        via = _via(to, family_of(network))
        hop = NextHop(via=via, dev=TUNNEL_DEVICE, onlink=True)
        mtu = self.node.route_mtu
        return Route(network, (hop,), table=table, encap=Encap(vni=2, remote=to.node_ips[4]), mtu=mtu)

    def _cluster(self, family: Family) -> frozenset[Address]:
        return self._clusters[family]

    @cached_property
    def _clusters(self) -> dict[Family, frozenset[Address]]:
        return {family: frozenset(cluster(self.decisions, family)) for family in FAMILIES}

    def _parts(self, one: _Policed) -> Iterator[tuple[Network, Address]]:
        """The networks of a pod's entries in parts that the node's routes and rules treat alike.

        Each has an address with it that is in no smaller part.
        """
        networks = {entry.network for entry in one.entries}
        networks |= {route.destination for route in self.fib.routes}
        networks |= {rule.destination for rule in self.fib.rules if rule.destination is not None}
        networks |= {ipaddress.ip_network(address) for address in self._cluster(one.family)}
        parts = [part for part in networks if covering(one.entries, part) is not None]
        parts.sort(key=lambda part: (part.prefixlen, int(part.network_address)))
        for part in parts:
            sample = _sample(part, [other for other in parts if other != part and inside(other, part)])
            if sample is not None:
                yield part, sample


def _sample(network: Network, smaller: Iterable[Network]) -> Address | None:
    """The first address of a network that is in none of these parts of it; None where they cover it."""
    number = int(network.network_address)
    for part in sorted(smaller, key=lambda one: (int(one.network_address), one.prefixlen)):
        if int(part.network_address) <= number <= int(part.broadcast_address):
            number = int(part.broadcast_address) + 1
    if number > int(network.broadcast_address):
        return None
    return ipaddress.IPv4Address(number) if network.version == 4 else ipaddress.IPv6Address(number)


def packet_rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """SNAT to the egress IP, before all other masquerading, and the mark of answers, which no policy is for."""
    if not node.settings.egress_gateway or not in_use(decisions):
        return
    for one in policed(decisions):
        family = one.family
        if one.node == node.node:
            why = Why("egress.answer", "it answers a connection that came in: no egress policy is asked", _SOURCE)
            match = Match(iif=Devices((pod_interface(one.pod),)), sources=(one.alone,), direction="reply")
            yield PacketRule("prerouting", match, SetMark(ANSWERING, ANSWERING), why, family)
        if one.by(node.node):
            if one.node != node.node:
                yield from _own(decisions, node, one)
            yield from _snat(decisions, node, one)


def _own(decisions: Decisions, node: NodeDecision, one: _Policed) -> Iterator[PacketRule]:
    """A gateway's own address on a NIC that is not selected is the world's, and the FIB lookup finds a local route."""
    nics = decisions.topology.nodes[node.node].nics
    unknown = [
        ipaddress.ip_network(interface.ip)
        for name, nic in nics.items()
        if name not in node.selected and nic.up
        for interface in nic.addresses_of(one.family)
    ]
    found = tuple(
        alone
        for alone in unknown
        if (entry := covering(one.entries, alone)) and entry.way_out and entry.way_out.node == node.node
    )
    if found:
        why = Why(
            "egress.own-address",
            "{destination} is the gateway's own, on a NIC that is not selected: dropped (FIB lookup failed, 4)",
            "bpf/lib/egress_gateway.h egress_gw_fib_lookup_and_redirect",
        )
        match = Match(iif=Devices((TUNNEL_DEVICE,)), sources=(one.alone,), destinations=found)
        yield PacketRule("prerouting", match, Drop("FIB lookup failed, 4"), why, one.family)


def _snat(decisions: Decisions, node: NodeDecision, one: _Policed) -> Iterator[PacketRule]:
    stays = {ipaddress.ip_network(address) for address in cluster(decisions, one.family)}
    for entry in one.entries:
        out = entry.way_out
        if out is None or out.node != node.node or out.address is None or not node.selected:
            continue
        smaller = {other.network for other in one.entries if other is not entry}
        but = sorted(part for part in smaller | stays if inside(part, entry.network))
        why = Why(
            "egress.snat",
            f"egress policy {entry.policy}: {{oif}} is selected, and the source becomes the egress IP {out.address}"
            + ("" if out.fixed else ", whichever NIC the route chose"),
            _SOURCE,
        )
        match = Match(
            oif=Devices(node.selected),
            sources=(one.alone,),
            destinations=(entry.network,) if entry.network.prefixlen else (),
            not_destinations=tuple(but),
        )
        yield PacketRule("postrouting", match, Snat(out.address), why, one.family)
