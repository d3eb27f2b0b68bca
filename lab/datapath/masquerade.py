"""Masquerading as packet rules: whose address a packet has when it leaves a node. Pure.

eBPF masquerading happens where `cil_to_netdev` is attached, on selected devices only; iptables masquerading on every
interface that is not Cilium's own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from lab.datapath.decision import Decisions, NodeDecision
from lab.nat import Devices, Exempt, Masquerade, Match, PacketRule, Snat, Why
from lab.route import Family

_BPF = "bpf/lib/nat.h snat_v4_needs_masquerade"
_IPTABLES = "pkg/datapath/iptables/iptables.go installMasqueradeRules"


def rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """Every family's rules, in the order they are asked."""
    for family in node.families:
        if node.masquerades(family):
            yield from _excluded(decisions, node, family)
            yield from _by_bpf(node, family) if node.settings.bpf_masquerade else _by_iptables(node, family)


def _excluded(decisions: Decisions, node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    excluded = node.exclusion(family)
    source = _BPF if node.settings.bpf_masquerade else _IPTABLES
    if excluded is not None:
        native = f"ipv{family}-native-routing-cidr" if node.native_routing_cidr(family) else "the node's own pod CIDR"
        why = Why("masquerade.native-cidr", f"not masqueraded: {{destination}} is in {excluded}, {native}", source)
        yield PacketRule("postrouting", Match(destinations=(excluded,)), Exempt(), why, family)
    if node.tunnels:
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


def _by_bpf(node: NodeDecision, family: Family) -> Iterator[PacketRule]:
    pods = (node.pod_cidrs[family],)
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


__all__ = ["rules"]
