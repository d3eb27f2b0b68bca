"""Masquerading as packet rules: whose address a packet has when it leaves a node. Pure.

eBPF masquerading happens where `cil_to_netdev` is attached, on selected devices only; iptables masquerading on every
interface that is not Cilium's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from niclab.cilium.decisions import Decisions
from niclab.cilium.node import NodeDecision
from niclab.cilium.tables import reason
from niclab.net.packetrules import Devices, Drop, Exempt, Masquerade, Match, PacketRule, Snat
from niclab.net.route import TABLES, Family, Network, Route, collapsed, network_of
from niclab.settings import ipmasq

_FOREIGN = Devices(("cilium_+",), negated=True)
"""Every interface that is not Cilium's own."""


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
    if node.tunnels and router is not None:
        pods = (node.pod_cidrs[family],)
        match = Match(oif=Devices((node.tunnel_device,)), not_sources=pods, not_destinations=pods)
        yield PacketRule(
            "postrouting", match, Snat(router), reason("masquerade.host-to-cluster", router=router), family
        )


def _excluded(decisions: Decisions, node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    """Destinations that are never masqueraded. The list of the ip-masq-agent is the same on every device, and for
    pods' packets alone; with `enable-remote-node-masquerade` (3f0383ba60, 1.19) node IPs are no exception."""
    settings = node.settings

    def exempt(rule: str, destinations: tuple[Network, ...], **values: object) -> PacketRule:
        source = "bpf/lib/nat.h snat_v4_needs_masquerade"
        if not settings.bpf_masquerade:
            source = "pkg/datapath/iptables/iptables.go installMasqueradeRules"
        why = reason(rule, source=source, **values)
        return PacketRule("postrouting", Match(destinations=destinations), Exempt(), why, family)

    cidr = node.exclusion(family)
    if cidr is not None and (settings.bpf_masquerade or not settings.masquerade_to_route_source):
        native = f"ipv{family}-native-routing-cidr" if node.native_routing_cidr(family) else "the node's own pod CIDR"
        yield exempt("masquerade.native-cidr", (cidr,), cidr=cidr, which=native)
    if settings.bpf_masquerade and settings.ip_masq_agent:
        networks = ipmasq.read(settings.ip_masq_agent_config).networks
        if listed := collapsed(networks, family):
            yield exempt("masquerade.ip-masq-agent", listed, family=family)
    to_nodes = settings.bpf_masquerade and settings.remote_node_masquerade
    if node.tunnels or (to_nodes and node.version.has("remote-node-masquerade")):
        return
    nodes = [peer.node_ips[family] for peer in decisions.peers(node.node) if family in peer.node_ips]
    if nodes:
        yield exempt("masquerade.remote-node", tuple(network_of(address) for address in nodes))


def _unselected(node: NodeDecision) -> tuple[str, ...]:
    return tuple(link.name for link in node.links if link.name not in node.selected and not link.loopback)


def _by_bpf(node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    pods = node.pods_of(family)
    for device in node.selected:
        address = node.masquerade_address(device, family)
        if address is not None:
            match = Match(oif=Devices((device,)), sources=pods)
            yield PacketRule("postrouting", match, Snat(address), reason("masquerade.bpf", address=address), family)
    if unselected := _unselected(node):
        match = Match(oif=Devices(unselected), sources=pods)
        yield PacketRule("postrouting", match, Exempt(), reason("masquerade.not-selected"), family)


def _by_iptables(node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    if node.settings.masquerade_to_route_source:
        yield from _to_route_source(node, family)
        return
    listed = node.settings.egress_masquerade_interfaces
    for entry in listed:
        # One rule an entry, and no source match.
        match, why = Match(oif=Devices((entry,))), reason("masquerade.egress-interfaces", entry=entry)
        yield PacketRule("postrouting", match, Masquerade(), why, family)
    if listed:
        unlisted = Match(oif=_FOREIGN, sources=node.pods_of(family))
        why = reason("masquerade.not-listed", listed=", ".join(listed))
        yield PacketRule("postrouting", unlisted, Exempt(), why, family)
    else:
        match = Match(oif=_FOREIGN, sources=(node.pod_cidrs[family],))
        yield PacketRule("postrouting", match, Masquerade(), reason("masquerade.iptables"), family)


def _to_route_source(node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    """One rule for each route of table main that has a source: what goes by another route keeps the pod's address.

    A default route has one only where it says so (`src`). The longest prefix comes first from 1.20 on (f25e33390b); up
    to 1.19 the first rule is that of the first route in the kernel's own order, with default routes last.
    """
    excluded = node.exclusion(family)
    listed = Devices(node.settings.egress_masquerade_interfaces or node.selected)
    by_prefix = node.version.has("route-sources-by-prefix")

    def place(route: Route) -> tuple[int, ...]:
        length = route.destination.prefixlen
        # [kernel] fib_table_dump: by address, and by prefix where that is the same, the longest first.
        return (-length,) if by_prefix else (route.is_default, int(route.destination.network_address), -length)

    for route in sorted(node.kernel_fib.routes, key=place):
        device = route.nexthops[0].dev if len(route.nexthops) == 1 else None
        if (route.table, route.family, route.kind) != (TABLES["main"], family, "unicast"):
            continue
        if route.source is None or route.destination == excluded or (device and not listed.include(device)):
            continue
        match = Match(
            oif=Devices((device,)) if device else _FOREIGN,
            sources=(node.pod_cidrs[family],),
            destinations=() if route.is_default else (route.destination,),
            not_destinations=(excluded,) if route.is_default and excluded is not None else (),
        )
        why = reason("masquerade.route-source", route=route, source=route.source)
        yield PacketRule("postrouting", match, Snat(route.source), why, family)


def answers(node: NodeDecision) -> Iterator[PacketRule]:
    """What a node does with answers that come in by a NIC that is not selected."""
    unselected = _unselected(node)
    if node.settings.bpf_masquerade and unselected and node.masquerading != "disabled":
        match = Match(iif=Devices(unselected), local=True, direction="reply", translated=True)
        drop = Drop("nobody translates the answer back")
        yield PacketRule("prerouting", match, drop, reason("masquerade.answer-not-selected"))
