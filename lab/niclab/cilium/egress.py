"""Egress gateways: which pods' packets leave the cluster by which node, NIC and address, and how that is done. Pure.

pkg/egressgateway/policy.go: what a policy says becomes one entry per pod and network in an eBPF map on every node,
looked up by longest prefix (`cilium_egress_gw_policy_v4`, `…_v4_v2`, `…_v6`).

On a pod's node `cil_to_netdev` decides, after the FIB: only a packet that would leave by a selected NIC goes into the
tunnel to its gateway. So a table of the pod's own has a route for every part of a policy's networks that the node's
routes treat alike; where they lead to a NIC that is not selected it has a `throw`: as if it were not there. On the
gateway, a table for what comes out of the tunnel from a pod says by which NIC it goes on. In native routing, a third
table sends answers back into the tunnel.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from niclab.cilium import numbers
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import NodeDecision, pod_interface
from niclab.cilium.numbers import ANSWERING, POLICY_PRIORITY
from niclab.cilium.tables import reason
from niclab.kernel.fib import Fib
from niclab.kernel.plan import TUNNEL, mac
from niclab.net.operation import AddLink, AddNeighbour, AddRoute, AddRule, Operation
from niclab.net.packetrules import Devices, Drop, Match, PacketRule, SetMark, Snat
from niclab.net.route import FAMILIES, Address, Encap, Family, Network, NextHop, Route, Rule, family_of, network_of
from niclab.topology.model import EgressPolicy, Node
from niclab.topology.stacking import is_up


@dataclass(frozen=True, slots=True)
class WayOut:
    """How a gateway sends a pod's packets out. `address` None: the policy fits nothing there, and they are dropped.

    `nic` None with an address: one that no interface has, which agents up to 1.17 use all the same.

    `fixed`: the NIC is the policy's; else it is that of the gateway's route, looked up with `address` as the source.
    """

    node: str
    nic: str | None
    address: Address | None
    fixed: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """What an egress policy makes of one pod's packets to one network. `excluded`: nothing.

    `way_out` None: no gateway runs, and the packets are dropped.
    """

    policy: str
    network: Network
    excluded: bool = False
    way_out: WayOut | None = None

    def by(self, gateway: str) -> WayOut | None:
        """The way out where this node is the gateway."""
        return self.way_out if self.way_out is not None and self.way_out.node == gateway else None


def in_use(decisions: Decisions, node: NodeDecision) -> bool:
    """Are there policies, and does this node's agent follow them as some agent that runs does?"""
    policies, nodes = decisions.topology.egress_policies, decisions.nodes
    running = bool(policies) and any(nodes[name].settings.egress_gateway for name in decisions.running)
    return node.settings.egress_gateway and running


def entries(decisions: Decisions, pod: str, family: Family) -> tuple[Entry, ...]:
    """A pod's entries of one family, the longest prefixes first. Where two policies say something of the same network,
    agents keep either; here it is the first.
    """
    by_network: dict[Network, Entry] = {}
    spec = decisions.topology.pods[pod][1]
    for name, policy in decisions.topology.egress_policies.items():
        if not policy.selects(pod, spec.labels):
            continue
        out = way_out(decisions, policy, pod, family)
        for networks, excluded in ((policy.destinations, False), (policy.excluded, True)):
            for network in networks:
                if network.version == family:
                    by_network.setdefault(network, Entry(name, network, excluded, None if excluded else out))
    longest_first = sorted(by_network, key=lambda network: (-network.prefixlen, int(network.network_address)))
    return tuple(by_network[network] for network in longest_first)


def covering(entries: Iterable[Entry], network: Network) -> Entry | None:
    """The entry of the longest prefix that covers a network; the entries are in that order."""
    return next((entry for entry in entries if inside(network, entry.network)), None)


def inside(network: Network, other: Network) -> bool:
    same = network.version == other.version
    return same and network.prefixlen >= other.prefixlen and network.network_address in other


def way_out(decisions: Decisions, policy: EgressPolicy, pod: str, family: Family) -> WayOut | None:
    """The gateway of a pod, and how it sends. Several share the pods by a hash: agents take one of the UID of the pod's
    endpoint (computeEndpointHash), here it is one of the pod's name.
    """
    running = [name for name in policy.gateways if name in decisions.running and decisions.nodes[name].node_ips.get(4)]
    if not running:
        return None
    # An order all agents agree on: by node IP.
    ordered = sorted(running, key=lambda name: int(decisions.nodes[name].node_ips[4]))
    chosen = ordered[zlib.crc32(pod.encode()) % len(ordered)]
    node = decisions.nodes[chosen]
    nic, address = _egress(node, decisions.topology.nodes[chosen], policy, family)
    by_map = "egress-nic-ipv4" if family == 4 else "egress-nic-ipv6"
    return WayOut(chosen, nic, address, fixed=policy.egress_ip is None and node.version.has(by_map))


def _egress(node: NodeDecision, host: Node, policy: EgressPolicy, family: Family) -> tuple[str | None, Address | None]:
    """The gateway's interface and address (deriveFromPolicyGatewayConfig): any kind of link may be it."""
    wanted, chosen = policy.egress_ip, policy.interface
    if wanted is not None:
        has_it = (name for name, link in host.interfaces.items() if wanted in {own.ip for own in link.addresses})
        chosen = next(has_it, None)
        if chosen is None:
            kept = wanted.version == family and node.version.has("egress-ip-kept")
            return None, wanted if kept else None
        if wanted.version == family:
            return chosen, wanted
        if not node.version.has("egress-ip-for-both-families"):
            return None, None
    name = chosen or node.default_nic(family)
    link = host.interfaces.get(name or "")
    if link is None:
        return None, None
    addresses = [own.ip for own in link.addresses_of(family)]
    if chosen is not None and node.version.has("egress-ip-is-primary"):
        primary = {row.address for row in node.node_addresses if row.device == name and row.primary}
        addresses = [address for address in addresses if address in primary]
    return (name, addresses[0]) if addresses else (None, None)


def gateway_nics(decisions: Decisions, node: NodeDecision) -> Iterator[str]:
    """The NICs by which a gateway sends, whose reverse path filter is loosened (manager.go relaxRPFilter)."""
    if not in_use(decisions, node):
        return
    host = decisions.topology.nodes[node.node]
    for policy in decisions.topology.egress_policies.values():
        nic = _egress(node, host, policy, 4)[0] if node.node in policy.gateways else None
        if nic is not None:
            yield nic


def cluster(decisions: Decisions, family: Family) -> Iterator[Address]:
    """Addresses of pods and nodes: what goes to them stays in the cluster (identity_is_cluster), policy or not."""
    for name in decisions.running:
        node = decisions.nodes[name]
        if family in node.node_ips:
            yield node.node_ips[family]
        router = decisions.topology.router_address(name, family)
        if router is not None:
            yield router
        for pod in decisions.topology.nodes[name].pods:
            yield from (address for address in decisions.pod_addresses[pod] if address.version == family)


def operations(decisions: Decisions, node: NodeDecision) -> Iterator[Operation]:
    """What the policies add to a node that runs."""
    if not in_use(decisions, node):
        return
    if not (node.tunnels or node.returns_by_geneve):
        # The tunnel is there in native routing too (pkg/egressgateway: tunnel.NewEnabler).
        macs = {name: mac(TUNNEL, number, 0) for name, number in decisions.numbers.items()}
        yield AddLink.vxlan(node.node, node.tunnel_device, macs[node.node], node.settings.tunnel_port, node.mtu)
        for peer in decisions.peers(node.node):
            for family in node.families:
                if (via := _via(peer, family)) is not None:
                    yield AddNeighbour(node.node, node.tunnel_device, via, macs[peer.node])
    yield from _Tables(decisions, node).operations()


def _via(peer: NodeDecision, family: Family) -> Address | None:
    """What stands for a peer as a neighbour on the tunnel's device."""
    cidr = peer.pod_cidrs.get(family)
    return cidr.network_address if cidr is not None else peer.node_ips.get(family)


@dataclass(frozen=True)
class _Policed:
    """A pod's address with its entries, and which number it has among those of the lab."""

    name: str
    node: str
    address: Address
    entries: tuple[Entry, ...]
    number: int

    @property
    def family(self) -> Family:
        return family_of(self.address)

    @property
    def alone(self) -> Network:
        return network_of(self.address)

    def by(self, gateway: str) -> bool:
        """Is this node a gateway of the pod?"""
        return any(entry.by(gateway) for entry in self.entries)


def policed(decisions: Decisions) -> tuple[_Policed, ...]:
    """Every pod of a running node that a policy selects."""
    pods: list[_Policed] = []
    for pod, (node, _) in decisions.topology.pods.items():
        if node not in decisions.running or not decisions.nodes[node].settings.egress_gateway:
            continue
        for address in decisions.pod_addresses[pod]:
            family = family_of(address)
            mine = entries(decisions, pod, family) if family in decisions.nodes[node].families else ()
            if mine:
                pods.append(_Policed(pod, node, address, mine, len(pods)))
    return tuple(pods)


@dataclass(frozen=True)
class _Tables:
    """One node's tables."""

    decisions: Decisions
    node: NodeDecision

    @cached_property
    def fib(self) -> Fib:
        return self.decisions.fib(self.node.node)

    def operations(self) -> Iterator[Operation]:
        here = self.node.node
        for pod in policed(self.decisions):
            if pod.node == here:
                table = numbers.EGRESS_FROM_PODS.table(pod.number)
                rule = Rule(table=table, priority=POLICY_PRIORITY, iif=pod_interface(pod.name), mark=(0, ANSWERING))
                yield AddRule(here, replace(rule, explicit_family=pod.family))
                routes = [self._from_pod(pod, *part) for part in self._parts(pod)]
            elif pod.by(here):
                table = numbers.EGRESS_FROM_TUNNEL.table(pod.number)
                rule = Rule(table=table, priority=POLICY_PRIORITY, iif=self.node.tunnel_device, source=pod.alone)
                yield AddRule(here, rule)
                routes = [self._from_tunnel(pod, *part) for part in self._parts(pod)]
            else:
                continue
            for route in routes:
                yield AddRoute(here, replace(route, table=table), replace=True)
            if pod.node != here and not self.node.tunnels:
                yield from self._answers(pod, numbers.EGRESS_ANSWERS.table(pod.number))

    def _answers(self, pod: _Policed, table: int) -> Iterator[Operation]:
        """What comes back from a policy's network goes into the tunnel, even in native routing (nodeport.h). To a node
        without an IPv4 node IP there is none (egress_gw_reply_needs_redirect): the FIB decides.
        """
        if 4 not in self.decisions.nodes[pod.node].node_ips:
            return
        home = replace(self._tunnel(pod.alone, pod.node, "egress.answer-tunnel"), table=table)
        yield AddRoute(self.node.node, home, replace=True)
        for entry in pod.entries:
            for nic in self.node.selected if entry.by(self.node.node) else ():
                source = entry.network if entry.network.prefixlen else None
                rule = Rule(table=table, priority=POLICY_PRIORITY, iif=nic, source=source, destination=pod.alone)
                yield AddRule(self.node.node, rule)

    def _from_pod(self, pod: _Policed, network: Network, sample: Address) -> Route:
        """What becomes of a pod's packets to a part of its policies' networks.

        Where the pod's own node is its gateway, `cil_to_netdev` of the NIC that the FIB chose redirects, or lets it go.
        """
        entry = covering(pod.entries, network)
        if entry is None or entry.excluded or sample in self._clusters[pod.family]:
            return Route(network, kind="throw")
        way = self.fib.lookup(sample, source=pod.address, oif=self.node.single_device)
        if way is None or not way.hops or way.is_local or way.hops[0].dev not in self.node.selected:
            return Route(network, kind="throw")
        out, hops = entry.way_out, way.hops
        if out is not None and out.node != self.node.node:
            return self._tunnel(network, out.node, "egress.gateway")
        if out is None or out.address is None:
            return self._dropped(network, out)
        if not out.fixed:
            again = self.fib.lookup(sample, source=out.address)
            if again is None or not again.hops or again.is_local:
                return Route(network, kind="blackhole")
            hops = hops if again.hops[0].dev == hops[0].dev else again.hops
        elif out.nic is not None and hops[0].dev != out.nic:
            # redirect_neigh without a next hop: [kernel] without a route by this NIC the destination is on-link.
            by_nic = self.fib.lookup(sample, oif=out.nic)
            hops = by_nic.hops if by_nic is not None and by_nic.hops else (NextHop(dev=out.nic),)
        return Route(network, hops, why=reason("egress.at-home"))

    def _from_tunnel(self, pod: _Policed, network: Network, sample: Address) -> Route:
        """from-overlay: one FIB lookup with the egress IP as the source, and what the policy fixes over it."""
        entry = covering(pod.entries, network)
        out = entry.by(self.node.node) if entry is not None else None
        if out is None or sample in self._clusters[pod.family]:
            return Route(network, kind="throw")
        if out.address is None:
            return self._dropped(network, out)
        way = self.fib.lookup(sample, source=out.address)
        if way is None or not way.hops or way.is_local:
            return Route(network, kind="blackhole")
        hops = way.hops
        if out.fixed:
            # The next hop stays that of the FIB, also where it is another NIC's (fib_do_redirect).
            via = hops[0].via
            hops = (NextHop(via=via, dev=out.nic, onlink=True) if via else NextHop(dev=out.nic),)
        return Route(network, hops, why=reason("egress.way-out"))

    def _dropped(self, network: Network, out: WayOut | None) -> Route:
        why = reason("egress.no-gateway") if out is None else reason("egress.no-address", gateway=out.node)
        return Route(network, kind="blackhole", why=why)

    def _tunnel(self, network: Network, node: str, rule: str) -> Route:
        peer = self.decisions.nodes[node]
        hop = NextHop(via=_via(peer, family_of(network)), dev=self.node.tunnel_device, onlink=True)
        encap = Encap(numbers.VNI, peer.node_ips[4])
        return Route(network, (hop,), encap=encap, mtu=self.node.route_mtu, why=reason(rule))

    @cached_property
    def _clusters(self) -> dict[Family, frozenset[Address]]:
        return {family: frozenset(cluster(self.decisions, family)) for family in FAMILIES}

    @cached_property
    def _divisions(self) -> frozenset[Network]:
        """The networks that routes, rules and the datapath itself treat differently."""
        ruled = (rule.destination for rule in self.fib.rules if rule.destination is not None)
        alone = (network_of(address) for every in self._clusters.values() for address in every)
        return frozenset((*(route.destination for route in self.fib.routes), *ruled, *alone))

    def _parts(self, pod: _Policed) -> Iterator[tuple[Network, Address]]:
        """The networks of a pod's entries in parts that the node's routes and rules treat alike.

        Each has an address with it that is in no smaller part.
        """
        networks = {entry.network for entry in pod.entries} | self._divisions
        parts = [part for part in networks if covering(pod.entries, part) is not None]
        parts.sort(key=lambda part: (part.prefixlen, int(part.network_address)))
        for part in parts:
            alone = part.prefixlen == part.max_prefixlen
            smaller = () if alone else [other for other in parts if other != part and inside(other, part)]
            sample = _sample(part, smaller)
            if sample is not None:
                yield part, sample


def _sample(network: Network, smaller: Iterable[Network]) -> Address | None:
    """The first address of a network that is in none of these parts of it; None where they cover it."""
    number = int(network.network_address)
    for part in sorted(smaller, key=lambda part: (int(part.network_address), part.prefixlen)):
        if int(part.network_address) <= number <= int(part.broadcast_address):
            number = int(part.broadcast_address) + 1
    if number > int(network.broadcast_address):
        return None
    return ipaddress.IPv4Address(number) if network.version == 4 else ipaddress.IPv6Address(number)


def packet_rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """SNAT to the egress IP, before all other masquerading, and the mark of answers, which no policy is for."""
    for pod in policed(decisions) if in_use(decisions, node) else ():
        if pod.node == node.node:
            match = Match(iif=Devices((pod_interface(pod.name),)), sources=(pod.alone,), direction="reply")
            yield PacketRule("prerouting", match, SetMark(ANSWERING, ANSWERING), reason("egress.answer"), pod.family)
        elif pod.by(node.node):
            yield from _own(decisions, node, pod)
        if pod.by(node.node):
            yield from _snat(decisions, node, pod)


def _own(decisions: Decisions, node: NodeDecision, pod: _Policed) -> Iterator[PacketRule]:
    """A gateway's own address on a NIC that is not selected is the world's, and the FIB lookup finds a local route."""
    host, known = decisions.topology.nodes[node.node], {row.address for row in node.node_addresses}
    unknown = [
        network_of(interface.ip)
        for name, link in host.interfaces.items()
        if name not in node.selected and is_up(host, name)
        for interface in link.addresses_of(pod.family)
        if interface.ip not in known
    ]
    dropped = tuple(
        alone for alone in unknown if (entry := covering(pod.entries, alone)) is not None and entry.by(node.node)
    )
    if dropped:
        match = Match(iif=Devices((node.tunnel_device,)), sources=(pod.alone,), destinations=dropped)
        drop = Drop("FIB lookup failed, 4")
        yield PacketRule("prerouting", match, drop, reason("egress.own-address"), pod.family)


def _snat(decisions: Decisions, node: NodeDecision, pod: _Policed) -> Iterator[PacketRule]:
    stays = {network_of(address) for address in cluster(decisions, pod.family)}
    for entry in pod.entries:
        out = entry.by(node.node)
        if out is None or out.address is None or not node.selected:
            continue
        smaller = {other.network for other in pod.entries if other is not entry}
        others = sorted(part for part in smaller | stays if inside(part, entry.network))
        match = Match(
            oif=Devices(node.selected),
            sources=(pod.alone,),
            destinations=(entry.network,) if entry.network.prefixlen else (),
            not_destinations=tuple(others),
        )
        whichever = "" if out.fixed else ", whichever NIC the route chose"
        why = reason("egress.snat", policy=entry.policy, address=out.address, whichever=whichever)
        yield PacketRule("postrouting", match, Snat(out.address), why, pod.family)
