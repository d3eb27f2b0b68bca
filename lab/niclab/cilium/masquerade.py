"""Masquerading as packet rules: whose address a packet has when it leaves a node. Pure.

eBPF masquerading happens where `cil_to_netdev` is attached, on selected devices only; iptables masquerading on every
interface that is not Cilium's own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

from niclab.cilium.behaviours import Behaviour
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import TUNNEL_DEVICE, NodeDecision
from niclab.net.packetrules import Devices, Drop, Exempt, Masquerade, Match, PacketRule, Snat
from niclab.net.route import TABLES, Family, Network, Route, Why
from niclab.settings import ipmasq

_BPF = "bpf/lib/nat.h snat_v4_needs_masquerade"
_IPTABLES = "pkg/datapath/iptables/iptables.go installMasqueradeRules"


def rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """Every family's rules, in the order they are asked."""
    for family in node.families:
        if node.masquerades(family):
            if not node.settings.bpf_masquerade:
                yield from _into_tunnel(decisions, node, family)
            yield from _excluded(decisions, node, family)
            yield from _by_bpf(node, family) if node.settings.bpf_masquerade else _by_iptables(node, family)


def _into_tunnel(decisions: Decisions, node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    """What a node itself sends to pods of other nodes, or forwards to them, through a tunnel (`cilium_host`)."""
    router = decisions.topology.router_address(node.node, family)
    if not node.tunnels or router is None:
        return
    pods = (node.pod_cidrs[family],)
    why = Why(
        "masquerade.host-to-cluster",
        f"masqueraded: not a pod's, and through the tunnel: its source becomes the router IP {router}",
        f"{_IPTABLES} (cilium host->cluster masquerade)",
    )
    match = Match(oif=Devices((TUNNEL_DEVICE,)), not_sources=pods, not_destinations=pods)
    yield PacketRule("postrouting", match, Snat(router), why, family)


def _excluded(decisions: Decisions, node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    excluded = node.exclusion(family)
    source = _BPF if node.settings.bpf_masquerade else _IPTABLES
    by_route = node.settings.masquerade_to_route_source and not node.settings.bpf_masquerade
    if excluded is not None and not by_route:
        native = f"ipv{family}-native-routing-cidr" if node.native_routing_cidr(family) else "the node's own pod CIDR"
        why = Why("masquerade.native-cidr", f"not masqueraded: {{destination}} is in {excluded}, {native}", source)
        yield PacketRule("postrouting", Match(destinations=(excluded,)), Exempt(), why, family)
    if node.settings.bpf_masquerade and node.settings.ip_masq_agent:
        yield from _listed(node, family)
    if node.tunnels or _masquerades_to_nodes(node):
        return
    nodes = [peer.node_ips[family] for peer in decisions.peers(node.node) if family in peer.node_ips]
    if nodes:
        why = Why(
            "masquerade.remote-node",
            "not masqueraded: {destination} is a remote node's node IP, and routing is native",
            source,
        )
        alone = tuple(ipaddress.ip_network(address) for address in nodes)
        yield PacketRule("postrouting", Match(destinations=alone), Exempt(), why, family)


def _listed(node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    """The networks of the ip-masq-agent: one list, the same on every device. It is for pods' packets alone."""
    listed = ipmasq.read(node.settings.ip_masq_agent_config).networks
    ipv4 = ipaddress.collapse_addresses(network for network in listed if isinstance(network, IPv4Network))
    ipv6 = ipaddress.collapse_addresses(network for network in listed if isinstance(network, IPv6Network))
    mine: tuple[Network, ...] = tuple(ipv4) if family == 4 else tuple(ipv6)
    if mine:
        why = Why(
            "masquerade.ip-masq-agent",
            "not masqueraded: {destination} is in a network that the ip-masq-agent lists",
            f"{_BPF} (cilium_ipmasq_v{family}); pkg/ipmasq/ipmasq.go",
        )
        yield PacketRule("postrouting", Match(destinations=mine), Exempt(), why, family)


def _masquerades_to_nodes(node: NodeDecision) -> bool:
    """`enable-remote-node-masquerade` (3f0383ba60, 1.19): node IPs are no exception."""
    return (
        node.settings.bpf_masquerade
        and node.settings.remote_node_masquerade
        and node.version.has(Behaviour.REMOTE_NODE_MASQUERADE)
    )


def _by_bpf(node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    pods = node.pods_of(family)
    for device in node.selected:
        address = node.masquerade_address(device, family)
        if address is None:
            continue
        why = Why(
            "masquerade.bpf",
            f"masqueraded: {{oif}} is selected, and the source is a pod's: it becomes {address}, {{oif}}'s Primary",
            f"{_BPF}; pkg/datapath/loader/loader.go (address)",
        )
        match = Match(oif=Devices((device,)), sources=pods)
        yield PacketRule("postrouting", match, Snat(address), why, family)
    unselected = tuple(link.name for link in node.links if link.name not in node.selected and not link.loopback)
    if unselected:
        why = Why(
            "masquerade.not-selected",
            "not masqueraded: {oif} is not selected, and eBPF masquerading happens on selected devices only",
            "bpf/bpf_host.c cil_to_netdev; pkg/datapath/loader/loader.go",
        )
        match = Match(oif=Devices(unselected), sources=pods)
        yield PacketRule("postrouting", match, Exempt(), why, family)


def _by_iptables(node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    if node.settings.masquerade_to_route_source:
        yield from _to_route_source(node, family)
        return
    listed = node.settings.egress_masquerade_interfaces
    for entry in listed:
        # One rule an entry, and no source match.
        why = Why(
            "masquerade.egress-interfaces",
            f"masqueraded: {{oif}} is in egress-masquerade-interfaces ({entry}), whatever the source is",
            _IPTABLES,
        )
        yield PacketRule("postrouting", Match(oif=Devices((entry,))), Masquerade(), why, family)
    if not listed:
        why = Why(
            "masquerade.iptables",
            "masqueraded: the source is a pod's, and iptables does so on every interface that is not Cilium's own",
            _IPTABLES,
        )
        match = Match(oif=Devices(("cilium_+",), negated=True), sources=(node.pod_cidrs[family],))
        yield PacketRule("postrouting", match, Masquerade(), why, family)


def _to_route_source(node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    """One rule for each route of table main that has a source: what goes by another route keeps the pod's address.

    A default route has one only where it says so (`src`). The longest prefix comes first from 1.20 on (f25e33390b); up
    to 1.19 the first rule is that of the first route in the kernel's own order, with default routes last.
    """
    excluded = node.exclusion(family)
    listed = node.settings.egress_masquerade_interfaces or node.selected
    routes = [
        route
        for route in node.kernel_fib.routes
        if route.table == TABLES["main"] and route.family == family and route.kind == "unicast"
    ]
    by_prefix = node.version.has(Behaviour.ROUTE_SOURCES_BY_PREFIX)
    for route in sorted(routes, key=_longest_first if by_prefix else _as_dumped):
        device = route.nexthops[0].dev if len(route.nexthops) == 1 else None
        if route.source is None or route.destination == excluded:
            continue
        if device is not None and not Devices(listed).include(device):
            continue
        why = Why(
            "masquerade.route-source",
            f"masqueraded: the route {route} has the source {route.source}",
            "pkg/datapath/iptables/iptables.go installMasqueradeRouteSourceRules",
        )
        match = Match(
            oif=Devices((device,)) if device else Devices(("cilium_+",), negated=True),
            sources=(node.pod_cidrs[family],),
            destinations=() if route.is_default else (route.destination,),
            not_destinations=(excluded,) if route.is_default and excluded is not None else (),
        )
        yield PacketRule("postrouting", match, Snat(route.source), why, family)


def _longest_first(route: Route) -> tuple[int, ...]:
    return (-route.destination.prefixlen,)


def _as_dumped(route: Route) -> tuple[int, ...]:
    """[kernel] fib_table_dump: by address, and by prefix where that is the same, the longest first."""
    return route.is_default, int(route.destination.network_address), -route.destination.prefixlen


def answers(node: NodeDecision) -> Iterator[PacketRule]:
    """What a node does with answers that come in by a NIC that is not selected."""
    unselected = tuple(link.name for link in node.links if link.name not in node.selected and not link.loopback)
    if not node.settings.bpf_masquerade or not unselected or node.masquerading == "disabled":
        return
    why = Why(
        "masquerade.answer-not-selected",
        "it answers a masqueraded packet, and comes in by {iif}, which is not selected: nobody translates it back",
        "bpf/bpf_host.c cil_from_netdev; bpf/lib/nodeport.h nodeport_nat_ingress_ipv4",
    )
    match = Match(iif=Devices(unselected), local=True, direction="reply", translated=True)
    yield PacketRule("prerouting", match, Drop("nobody translates the answer back"), why)
