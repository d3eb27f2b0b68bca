"""Pods whose addresses belong to NICs (ipam=eni): rules and tables that send their packets out of their own NIC. Pure.

pkg/datapath/linux/routing/routing.go Configure; the gateway is the subnet's first address (pkg/ipam/crd.go), the
table's number that of the ENI on its instance, plus ten. For every ENI that it knows of, an agent takes the kernel's
route of the subnet out of table main (pkg/ipam/crd_eni.go configureENINetlinkDevice).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from niclab.cilium import numbers
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import NodeDecision, pod_interface
from niclab.cilium.numbers import ANSWERING
from niclab.cilium.tables import reason
from niclab.kernel.reversepath import LOOSE, OFF
from niclab.net.operation import AddRoute, AddRule, Operation, Remove
from niclab.net.packetrules import Devices, Match, PacketRule, SetMark
from niclab.net.route import EVERYTHING, PROTOCOLS, Address, Network, NextHop, Route, Rule, collapsed, network_of
from niclab.settings import ipmasq
from niclab.topology.model import Node

_KERNEL = PROTOCOLS["kernel"]


def operations(decisions: Decisions, node: NodeDecision) -> Iterator[Operation]:
    """What a node with ENIs has besides what every node has."""
    host = decisions.topology.nodes[node.node]
    if not host.enis:
        return
    for route in subnet_routes(host):
        yield Remove(AddRoute(node.node, route))
    node_port = numbers.NODE_PORT_MARK
    yield AddRule(node.node, Rule(priority=numbers.ENI_NODE_PORT, mark=(node_port, node_port)))
    for name, nic in host.enis.items():
        table, subnet = table_of(node, name), nic.addresses_of(4)[0].network
        gateway = subnet.network_address + 1
        direct = Route(network_of(gateway), (NextHop(dev=name),), table=table, protocol=_KERNEL, scope="link")
        yield AddRoute(node.node, direct, replace=True)
        world = Route(EVERYTHING[4], (NextHop(via=gateway, dev=name),), table=table, protocol=_KERNEL)
        yield AddRoute(node.node, world, replace=True)
    router = decisions.topology.router_address(node.node, 4)
    if router is not None:
        yield from _from(decisions, node, router, table_of(node, next(iter(host.enis))))
    for pod, spec in host.pods.items():
        for address in decisions.pod_addresses[pod]:
            alone = network_of(address)
            hop = NextHop(dev=pod_interface(pod))
            yield AddRoute(node.node, Route(alone, (hop,), protocol=_KERNEL, scope="link"), replace=True)
            yield AddRule(node.node, Rule(priority=numbers.ENI_TO_POD, destination=alone))
            yield from _from(decisions, node, address, table_of(node, str(host.nic_of(spec))))
    yield from _answers(decisions, node)


def filters(decisions: Decisions, node: NodeDecision) -> Mapping[str, int]:
    """NIC → the reverse path filter that agents give it: loose on that of the default route, none on the other ENIs.

    pkg/datapath/loader/base.go addENIRules; pkg/ipam/crd_eni.go.
    """
    enis = decisions.topology.nodes[node.node].enis
    default = node.default_nic(4)
    if not enis or default is None:
        return {}
    return {**dict.fromkeys(enis, OFF), default: LOOSE}


def _answers(decisions: Decisions, node: NodeDecision) -> Iterator[Operation]:
    """eBPF masquerading sends an answer that would leave by another NIC out of the pod's own (nodeport_egress.h, 1.17).

    `cil_to_netdev` of the NIC that the routes chose does so. redirect_neigh looks for the destination on the pod's NIC
    [kernel: without a route by it, as a neighbour], so the world beyond a gateway is not reached this way. Up to 1.18
    (4e18049245) the frame does leave, to the MAC of the other NIC's next hop, and reaches nobody; here it stays.
    """
    for number, (pod, nic) in enumerate(_away(decisions, node)):
        table = numbers.ENI_ANSWERS.table(number)
        for cidr in _by_own_nic(decisions, node):
            yield AddRoute(node.node, Route(cidr, kind="throw", table=table), replace=True)
        yield AddRoute(node.node, Route(EVERYTHING[4], (NextHop(dev=nic),), table=table), replace=True)
        lxc, mark = pod_interface(pod), (ANSWERING, ANSWERING)
        yield AddRule(node.node, Rule(priority=numbers.POLICY_PRIORITY, iif=lxc, mark=mark, table=table))


def packet_rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """The mark of answers whose pods have a NIC of their own."""
    for pod, _ in _away(decisions, node):
        match = Match(iif=Devices((pod_interface(pod),)), direction="reply")
        yield PacketRule("prerouting", match, SetMark(ANSWERING, ANSWERING), reason("eni.answer"), 4)


def _away(decisions: Decisions, node: NodeDecision) -> Iterator[tuple[str, str]]:
    """Pods whose answers are sent home, with their NIC: it is not that of the default route, where that is selected."""
    bpf = node.settings.bpf_masquerade and node.masquerades(4)
    sends_home = bool(node.vpc) and bpf and node.version.has("eni-answers-by-own-nic")
    default = node.default_nic(4)
    host = decisions.topology.nodes[node.node]
    for pod, spec in host.pods.items() if sends_home and default in node.selected else ():
        nic = host.nic_of(spec)
        if nic is not None and nic != default:
            yield pod, nic


def _from(decisions: Decisions, node: NodeDecision, address: Address, table: int) -> Iterator[Operation]:
    """With masquerading only what stays in the VPC, or is not masqueraded by its settings, leaves by the pod's NIC: the
    rest is masqueraded elsewhere (#20554). The rules are made when the pod is, and not made anew.

    From 1.21 on all of it leaves there, by one rule (58be8e42aa and 483fb470a0, #45137).
    """
    alone = network_of(address)
    priority = numbers.ENI_FROM_POD_COMPATIBLE if _compatible(node) else numbers.ENI_FROM_POD
    destinations: tuple[Network | None, ...] = (None,)
    if node.masquerades(4) and node.version.has("eni-world-by-main"):
        destinations = tuple(cidr if cidr.prefixlen else None for cidr in _by_own_nic(decisions, node))
    for to in destinations:
        yield AddRule(node.node, Rule(priority=priority, source=alone, destination=to, table=table))


def _by_own_nic(decisions: Decisions, node: NodeDecision) -> tuple[Network, ...]:
    """Where to pods send by their own NICs (pkg/ipam/crd.go buildAllocationResult): the VPC's CIDRs, the native routing
    CIDR that is set, from 1.19 on those of the ip-masq-agent; as few as cover them (cilium-cni cmd/interface.go)."""
    settings = node.settings
    cidrs = [*decisions.topology.vpc_cidrs]
    if settings.ipv4_native_routing_cidr:
        cidrs.append(settings.ipv4_native_routing_cidr)
    if settings.ip_masq_agent and node.version.has("eni-masq-agent-cidrs"):
        cidrs += ipmasq.read(settings.ip_masq_agent_config).networks
    return collapsed(cidrs, 4)


def table_of(node: NodeDecision, nic: str) -> int:
    """The table of an ENI: by its number on the instance, or, in the old scheme, by the interface's index."""
    if _compatible(node):
        return next(link.index for link in node.links if link.name == nic)
    names = [link.name for link in node.links if not link.loopback]
    return numbers.ENI_NICS.table(names.index(nic))


def _compatible(node: NodeDecision) -> bool:
    """`egress-multi-home-ip-rule-compat`, gone with 1.19."""
    return node.settings.egress_rule_compatible and node.version.has("eni-compatible-rules")


def subnet_routes(node: Node) -> Iterator[Route]:
    """The kernel's routes of the ENIs' subnets, which agents take away."""
    for name, nic in node.enis.items():
        for interface in nic.addresses_of(4)[:1]:
            if nic.up and interface.network.prefixlen < 32:
                hop = (NextHop(dev=name),)
                yield Route(interface.network, hop, protocol=_KERNEL, scope="link", source=interface.ip)
