"""The built-in datapath: a model of Cilium's, made of routes, rules, lightweight-tunnel VXLAN and nftables. No eBPF.

Pure: decisions in, kernel operations out. Where Cilium's programs decide before the kernel's FIB is asked, a routing
rule with a table of its own stands in for them: `niclab.cilium.numbers` has them all, in the order they are asked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace

from niclab.cilium import egress, eni, masquerade, reverse_path, services
from niclab.cilium.behaviours import Behaviour
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import ROUTER_DEVICE, TUNNEL_DEVICE, NodeDecision, pod_interface
from niclab.cilium.numbers import (
    BEFORE_LOCAL,
    LOCAL_PODS,
    MOVED_LOCAL,
    PRIORITY,
    REMOTE_PODS,
    SINGLE_DEVICE,
    check_tables,
)
from niclab.kernel.plan import BASE_SYSCTLS, POD, POD_PORT, ROUTER, TUNNEL, mac
from niclab.net.operation import (
    AddAddress,
    AddCable,
    AddLink,
    AddNamespace,
    AddNeighbour,
    AddRoute,
    AddRule,
    Operation,
    Remove,
    SetLink,
    SetPacketRules,
    SetSysctl,
)
from niclab.net.packetrules import Devices, Drop, Match, PacketRule
from niclab.net.route import TABLES, Address, Family, NextHop, Route, Rule, Why, family_of

_LOCAL_POD = Why(
    "pod.local", "{destination} is a pod of this node: delivered to {device}", "bpf/bpf_lxc.c handle_ipv4_from_lxc"
)
_SINGLE_DEVICE = Why(
    "fib.skipped",
    "{device} is the only selected device: up to 1.18 pods' packets go there without a FIB lookup",
    "bpf/lib/fib.h fib_redirect; pkg/datapath/linux/config/config.go ENABLE_SKIP_FIB",
)
_LAST_METRIC = 4294967294


def operations(decisions: Decisions) -> tuple[Operation, ...]:
    """Everything to do on top of the topology's own plan."""
    return tuple(operation for name in decisions.running for operation in node_operations(decisions, name))


def node_operations(decisions: Decisions, name: str) -> Iterator[Operation]:
    """What one node's agent does to its node and its pods."""
    node = decisions.nodes[name]
    check_tables(name, decisions.topology.nodes[name])
    number = decisions.numbers[name]
    yield AddCable(
        node.node, "cilium_net", mac(ROUTER, number, 0), node.node, ROUTER_DEVICE, mac(ROUTER, number, 1), node.mtu
    )
    yield SetLink(node.node, ROUTER_DEVICE)
    for family in node.families:
        router = decisions.topology.router_address(node.node, family)
        assert router is not None
        yield AddAddress(node.node, ROUTER_DEVICE, ipaddress.ip_interface(router))
        # [kernel] what the host itself makes "comes in" by lo: no program of Cilium's asks for it.
        yield AddRule(node.node, replace(_rule(LOCAL_PODS, family, "lo"), negated=True))
    if node.tunnels:
        yield AddLink.vxlan(node.node, TUNNEL_DEVICE, mac(TUNNEL, number, 0), node.settings.tunnel_port, node.mtu)
        for peer in decisions.peers(node.node):
            for cidr in peer.announced:
                if cidr.version in node.families:
                    yield AddNeighbour(
                        node.node, TUNNEL_DEVICE, cidr.network_address, mac(TUNNEL, decisions.numbers[peer.node], 0)
                    )
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
        yield from _own_address_operations(decisions, node)
    for rule in services.routing_rules(decisions, node):
        yield AddRule(node.node, rule)
    for pod_number, pod in enumerate(decisions.topology.nodes[node.node].pods):
        yield from _pod(decisions, node, pod, number, pod_number)
    yield from egress.operations(decisions, node)
    yield from eni.operations(decisions, node)
    yield from reverse_path.operations(decisions, node)
    if rules := packet_rules(decisions, node):
        yield SetPacketRules(node.node, rules)


def _rule(table: int, family: Family, iif: str | None = None) -> Rule:
    return Rule(table=table, priority=PRIORITY[table], iif=iif, explicit_family=family)


def _pod(decisions: Decisions, node: NodeDecision, pod: str, number: int, pod_number: int) -> Iterator[Operation]:
    """A pod as cilium-cni plugs it: one address, everything else through the router IP."""
    lxc = pod_interface(pod)
    pod_mac, lxc_mac = mac(POD, number, pod_number), mac(POD_PORT, number, pod_number)
    yield AddNamespace(pod, BASE_SYSCTLS)
    yield AddCable(node.node, lxc, lxc_mac, pod, "eth0", pod_mac, node.mtu)
    for address in decisions.pod_addresses[pod]:
        family = family_of(address)
        if family not in node.families:
            continue
        alone = ipaddress.ip_network(address)
        for table, why in ((LOCAL_PODS, _LOCAL_POD), (TABLES["main"], None)):
            yield AddRoute(node.node, Route(alone, (NextHop(dev=lxc),), table=table, why=why), replace=True)
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
    routes: dict[tuple[object, int], Route] = {}
    for route in (*node.kernel_fib.routes, *decisions.direct_routes(node.node)[0]):
        hops = tuple(hop for hop in route.nexthops if hop.dev == device)
        if route.family == 6 and not hops:
            # A gateway that another device leads to is not asked for here: [kernel] no route may say so. Either way
            # it is a neighbour that the device does not have.
            hops = (NextHop(dev=device),)
        if route.table == TABLES["main"] and route.kind == "unicast" and hops and route.family in node.families:
            seen = replace(route, nexthops=hops, table=SINGLE_DEVICE, why=_SINGLE_DEVICE)
            routes[seen.destination, seen.effective_metric] = seen
    last = Route(ipaddress.ip_network("0.0.0.0/0"), (), table=SINGLE_DEVICE, metric=_LAST_METRIC, why=_SINGLE_DEVICE)
    lasts = (
        replace(last, nexthops=(NextHop(dev=device),)),
        replace(last, destination=ipaddress.ip_network("::/0"), kind="blackhole"),
    )
    routes |= {(last.destination, _LAST_METRIC): last for last in lasts if last.family in node.families}
    return tuple(routes.values())


def unknown_addresses(node: NodeDecision, family: Family) -> tuple[Address, ...]:
    """The node's own addresses that its agent does not know."""
    known = {row.address for row in node.node_addresses}
    own = (address.ip for link in node.links if link.up for address in link.addresses if address.version == family)
    return tuple(ip for ip in own if ip not in known and not ip.is_loopback and not ip.is_link_local)


def _own_address_rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """The drop of versions that look the address up in the FIB and know nothing better."""
    if node.host_routing != "BPF" or node.single_device or not node.version.has(Behaviour.OWN_ADDRESS_DROPPED):
        return
    pods = tuple(pod_interface(pod) for pod in decisions.topology.nodes[node.node].pods)
    why = Why(
        "host.unknown-address",
        "{destination} is this node's own, on a NIC that is not selected: dropped (FIB lookup failed, 4)",
        "bpf/bpf_lxc.c handle_ipv4_from_lxc (fib_redirect_v4); pkg/datapath/tables/node_address.go",
    )
    for family in node.families:
        unknown = unknown_addresses(node, family)
        if pods and unknown:
            match = Match(iif=Devices(pods), destinations=tuple(ipaddress.ip_network(address) for address in unknown))
            yield PacketRule("prerouting", match, Drop("FIB lookup failed, 4"), why, family)


def _own_address_operations(decisions: Decisions, node: NodeDecision) -> Iterator[Operation]:
    """Without a FIB lookup: the single device's table before the table of local addresses."""
    for family in node.families:
        unknown = unknown_addresses(node, family) if node.single_device else ()
        pods = decisions.topology.nodes[node.node].pods
        if not unknown or not pods:
            continue
        yield AddRule(node.node, Rule(table=TABLES["local"], priority=MOVED_LOCAL, explicit_family=family))
        yield Remove(AddRule(node.node, Rule(table=TABLES["local"], priority=0, explicit_family=family)))
        for pod in pods:
            for address in unknown:
                alone = ipaddress.ip_network(address)
                yield AddRule(
                    node.node,
                    Rule(table=SINGLE_DEVICE, priority=BEFORE_LOCAL, destination=alone, iif=pod_interface(pod)),
                )


def packet_rules(decisions: Decisions, node: NodeDecision) -> tuple[PacketRule, ...]:
    """All that a node does to packets, in the order it does it."""
    return (
        *_own_address_rules(decisions, node),
        *services.packet_rules(decisions, node),
        *masquerade.answers(node),
        *egress.packet_rules(decisions, node),
        *eni.packet_rules(decisions, node),
        *reverse_path.packet_rules(decisions, node),
        *masquerade.rules(decisions, node),
    )
