"""The built-in datapath: a model of Cilium's, made of routes, rules, lightweight-tunnel VXLAN and nftables. No eBPF.

Pure: decisions in, kernel operations out. Where Cilium's programs decide before the kernel's FIB is asked, a routing
rule with a table of its own stands in for them:

    priority  8  the way back to what NICs' programs take: lab.datapath.unfiltered
    priority  9  egress gateways: lab.datapath.egressroutes
    priority 10  what comes in      table 2010  pods of this node; what the node itself makes goes by table main
    priority 11  from pods (iif)    table 2011  pods of other nodes, encapsulated (tunnel mode)
    priority 12  from pods (iif)    table 2012  ≤1.18 with one selected device: everything to that device
    priority 11, 12 and 13 by mark  what NICs' programs forward for services (lab.datapath.services)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace

from niclab.cilium import egressroutes, eni, masquerade, ownaddresses, replies, unfiltered
from niclab.cilium.decisions import ROUTER_DEVICE, TUNNEL_DEVICE, Decisions, NodeDecision, pod_interface
from niclab.cilium.services import rules as service_rules
from niclab.kernel.plan import BASE_SYSCTLS, mac
from niclab.net.operation import (
    AddAddress,
    AddCable,
    AddNamespace,
    AddNeighbour,
    AddRoute,
    AddRule,
    AddVxlan,
    Operation,
    SetLink,
    SetPacketRules,
    SetSysctl,
)
from niclab.net.packetrules import PacketRule
from niclab.net.route import TABLES, Family, NextHop, Route, Rule, family_of

LOCAL_PODS, REMOTE_PODS, SINGLE_DEVICE = 2010, 2011, 2012
_PRIORITY = {LOCAL_PODS: 10, REMOTE_PODS: 11, SINGLE_DEVICE: 12}
_LAST_METRIC = 4294967294


def operations(decisions: Decisions) -> tuple[Operation, ...]:
    """Everything to do on top of the topology's own plan."""
    return tuple(operation for name in decisions.running for operation in node_operations(decisions, name))


def node_operations(decisions: Decisions, name: str) -> Iterator[Operation]:
    """What one node's agent does to its node and its pods."""
    node = decisions.nodes[name]
    number = list(decisions.topology.nodes).index(node.node) + 1
    yield AddCable(node.node, "cilium_net", mac(6, number, 0), node.node, ROUTER_DEVICE, mac(6, number, 1), node.mtu)
    yield SetLink(node.node, ROUTER_DEVICE)
    for family in node.families:
        router = decisions.topology.router_address(node.node, family)
        assert router is not None
        yield AddAddress(node.node, ROUTER_DEVICE, ipaddress.ip_interface(router))
        # [kernel] what the host itself makes "comes in" by lo: no program of Cilium's asks for it.
        yield AddRule(node.node, replace(_rule(LOCAL_PODS, family, "lo"), negated=True))
    if node.tunnels:
        yield AddVxlan(node.node, TUNNEL_DEVICE, mac(5, number, 0), node.settings.tunnel_port, node.mtu)
        for peer in decisions.peers(node.node):
            peer_number = list(decisions.topology.nodes).index(peer.node) + 1
            for cidr in peer.announced:
                if cidr.version in node.families:
                    yield AddNeighbour(node.node, TUNNEL_DEVICE, cidr.network_address, mac(5, peer_number, 0))
        for table in (REMOTE_PODS, TABLES["main"]):
            for route in decisions.tunnel_routes(node.node, table):
                yield AddRoute(node.node, route, replace=True)
    for route in decisions.node_ip_tunnel_routes(node.node, REMOTE_PODS):
        yield AddRoute(node.node, route, replace=True)
    for route in decisions.direct_routes(node.node)[0]:
        yield AddRoute(node.node, route, replace=True)
    if node.host_routing == "BPF" and not node.tunnels:
        # bpf_fib_lookup is given no ports: an address pair has one NIC, whatever the policy (bpf/lib/fib.h). In tunnel
        # mode the outer packets are the kernel's own, and follow the policy; one namespace cannot have both.
        for policy in ("net.ipv4.fib_multipath_hash_policy", "net.ipv6.fib_multipath_hash_policy"):
            yield SetSysctl(node.node, policy, "0")
    if node.host_single_device:
        for route in single_device_routes(decisions, node):
            yield AddRoute(node.node, route, replace=True)
        yield from ownaddresses.operations(decisions, node, SINGLE_DEVICE)
    remote, single = (REMOTE_PODS, _PRIORITY[REMOTE_PODS]), (SINGLE_DEVICE, _PRIORITY[SINGLE_DEVICE])
    for rule in service_rules.routing_rules(decisions, node, tunnel=remote, single=single):
        yield AddRule(node.node, rule)
    for pod_number, pod in enumerate(decisions.topology.nodes[node.node].pods):
        yield from _pod(decisions, node, pod, number, pod_number)
    yield from egressroutes.operations(decisions, node)
    yield from eni.operations(decisions, node)
    yield from unfiltered.operations(decisions, node)
    if rules := packet_rules(decisions, node):
        yield SetPacketRules(node.node, rules)


def _rule(table: int, family: Family, iif: str | None = None) -> Rule:
    return Rule(table=table, priority=_PRIORITY[table], iif=iif, explicit_family=family)


def _pod(decisions: Decisions, node: NodeDecision, pod: str, number: int, pod_number: int) -> Iterator[Operation]:
    """A pod as cilium-cni plugs it: one address, everything else through the router IP."""
    lxc = pod_interface(pod)
    pod_mac, lxc_mac = mac(3, number, pod_number), mac(4, number, pod_number)
    yield AddNamespace(pod, BASE_SYSCTLS)
    yield AddCable(node.node, lxc, lxc_mac, pod, "eth0", pod_mac, node.mtu)
    for address in decisions.pod_addresses[pod]:
        family = family_of(address)
        if family not in node.families:
            continue
        alone = ipaddress.ip_network(address)
        for table in (LOCAL_PODS, TABLES["main"]):
            yield AddRoute(node.node, Route(alone, (NextHop(dev=lxc),), table=table), replace=True)
        yield AddNeighbour(node.node, lxc, address, pod_mac)
        if node.tunnels:
            yield AddRule(node.node, _rule(REMOTE_PODS, family, lxc))
        if node.single_device:
            yield AddRule(node.node, _rule(SINGLE_DEVICE, family, lxc))
        router = decisions.topology.router_address(node.node, family)
        assert router is not None
        yield AddAddress(pod, "eth0", ipaddress.ip_interface(address))
        yield SetLink(pod, "eth0")
        yield AddNeighbour(pod, "eth0", router, lxc_mac)
        yield AddRoute(pod, Route(ipaddress.ip_network(router), (NextHop(dev="eth0"),)))
        everything = ipaddress.ip_network("0.0.0.0/0" if family == 4 else "::/0")
        yield AddRoute(pod, Route(everything, (NextHop(via=router, dev="eth0"),), mtu=node.route_mtu))


def single_device_routes(decisions: Decisions, node: NodeDecision) -> tuple[Route, ...]:
    """The main table as `redirect_neigh` sees it, which sends by the device whatever it finds.

    [kernel] net/core/filter.c looks routes up with the output device fixed. IPv4 takes only hops through the device,
    and a destination without any for a neighbour (`ip route get 10.244.2.5 oif eth1` → `dev eth1`, without a gateway).
    IPv6 takes the best route by whichever device, and asks the given device's neighbours for that route's gateway, or
    for the destination that is on-link elsewhere: nobody answers, and the packet never leaves [measured on 1.18.10].
    """
    device = node.host_single_device
    assert device is not None
    found: dict[tuple[object, int], Route] = {}
    for route in (*node.kernel_fib.routes, *decisions.direct_routes(node.node)[0]):
        hops = tuple(hop for hop in route.nexthops if hop.dev == device)
        if route.family == 6 and not hops:
            # A gateway that another device leads to is not asked for here: [kernel] no route may say so. Either way
            # it is a neighbour that the device does not have.
            hops = (NextHop(dev=device),)
        if route.table == TABLES["main"] and route.kind == "unicast" and hops and route.family in node.families:
            one = replace(route, nexthops=hops, table=SINGLE_DEVICE)
            found[one.destination, one.effective_metric] = one
    lasts = (
        Route(ipaddress.ip_network("0.0.0.0/0"), (NextHop(dev=device),), table=SINGLE_DEVICE, metric=_LAST_METRIC),
        Route(ipaddress.ip_network("::/0"), kind="blackhole", table=SINGLE_DEVICE, metric=_LAST_METRIC),
    )
    found |= {(last.destination, _LAST_METRIC): last for last in lasts if last.family in node.families}
    return tuple(found.values())


def packet_rules(decisions: Decisions, node: NodeDecision) -> tuple[PacketRule, ...]:
    """All that a node does to packets, in the order it does it."""
    return (
        *ownaddresses.rules(decisions, node),
        *service_rules.packet_rules(decisions, node),
        *replies.rules(node),
        *egressroutes.packet_rules(decisions, node),
        *eni.packet_rules(decisions, node),
        *unfiltered.packet_rules(decisions, node),
        *masquerade.rules(decisions, node),
    )
