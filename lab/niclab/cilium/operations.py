"""The built-in datapath: a model of Cilium's, made of routes, rules, lightweight-tunnel VXLAN and nftables. No eBPF.

Pure: decisions in, kernel operations out. Where Cilium's programs decide before the kernel's FIB is asked, a routing
rule with a table of its own stands in for them: `niclab.cilium.numbers` has them all, in the order they are asked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace

from niclab.cilium import egress, eni, l2, masquerade, numbers, reverse_path, services, vlanfilter
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import ROUTER_DEVICE, NodeDecision, pod_interface
from niclab.cilium.numbers import LOCAL_PODS, PRIORITY, REMOTE_PODS, SINGLE_DEVICE
from niclab.cilium.tables import reason
from niclab.kernel.plan import BASE_SYSCTLS, POD, POD_PORT, ROUTER, TUNNEL, mac
from niclab.net import operation
from niclab.net.operation import AddAddress, AddCable, AddNeighbour, AddRoute, AddRule, Operation, SetLink, SetSysctl
from niclab.net.packetrules import Devices, Drop, Match, PacketRule
from niclab.net.route import EVERYTHING, TABLES, Address, Family, NextHop, Route, Rule, family_of, network_of

_LAST_METRIC = 4294967294


def operations(decisions: Decisions) -> tuple[Operation, ...]:
    """Everything to do on top of the topology's own plan."""
    of_nodes = (operation for name in decisions.running for operation in node_operations(decisions, name))
    return (*of_nodes, *(l2.neighbours(decisions) if decisions.topology.l2_announcement_policies else ()))


def node_operations(decisions: Decisions, name: str) -> Iterator[Operation]:
    """What one node's agent does to its node and its pods."""
    node = decisions.nodes[name]
    number, host = decisions.numbers[name], decisions.topology.nodes[name]
    numbers.check_tables(name, host)
    macs = [mac(ROUTER, number, end) for end in (0, 1)]
    yield AddCable(name, "cilium_net", macs[0], name, ROUTER_DEVICE, macs[1], node.mtu)
    yield SetLink(name, ROUTER_DEVICE)
    for family in node.families:
        yield AddAddress(name, ROUTER_DEVICE, ipaddress.ip_interface(decisions.router(name, family)))
        # [kernel] what the host itself makes "comes in" by lo: no program of Cilium's asks for it.
        yield AddRule(name, replace(_rule(LOCAL_PODS, family, "lo"), negated=True))
    own_pods = [cidr for cidr in node.announced if cidr.version in node.families]
    routes = [Route(cidr, (NextHop(dev=ROUTER_DEVICE),), protocol=2, why=reason("pod.none")) for cidr in own_pods]
    if node.tunnels or node.returns_by_geneve:
        # Geneve too is made of VXLAN frames, to its own port: the addresses outside and what fits in are the same.
        tunnel = node.tunnel_device
        port, own = node.settings.tunnel_port, mac(TUNNEL, number, 0)
        yield operation.AddLink.vxlan(name, tunnel, own, port, node.mtu, over=node.underlay)
        for peer in decisions.peers(name):
            there = mac(TUNNEL, decisions.numbers[peer.node], 0)
            for cidr in peer.announced:
                if cidr.version in node.families:
                    yield AddNeighbour(name, tunnel, cidr.network_address, there)
        for table in (REMOTE_PODS, *([TABLES["main"]] if node.tunnels else ())):
            routes += decisions.tunnel_routes(name, table)
    routes += [*decisions.node_ip_tunnel_routes(name, REMOTE_PODS), *decisions.direct_routes(name)[0]]
    for route in routes:
        yield AddRoute(name, route, replace=True)
    if node.host_routing == "BPF" and not node.tunnels:
        # bpf_fib_lookup is given no ports: an address pair has one NIC, whatever the policy (bpf/lib/fib.h). In tunnel
        # mode the outer packets are the kernel's own, and follow the policy; one namespace cannot have both.
        for policy in ("net.ipv4.fib_multipath_hash_policy", "net.ipv6.fib_multipath_hash_policy"):
            yield SetSysctl(name, policy, "0")
    if node.host_single_device:
        for route in single_device_routes(decisions, node, node.host_single_device):
            yield AddRoute(name, route, replace=True)
        yield from _own_address_operations(decisions, node)
    for rule in services.routing_rules(decisions, node):
        yield AddRule(name, rule)
    yield from _at_sockets(decisions, node)
    for pod_number, pod in enumerate(host.pods):
        yield from _pod(decisions, node, pod, number, pod_number)
    for more in (egress.operations, eni.operations, reverse_path.operations):
        yield from more(decisions, node)
    tagged = any(link.vlan is not None for link in host.links.values())
    rules, frames = packet_rules(decisions, node), vlanfilter.filters(node, host) if tagged else None
    if rules or frames:
        yield operation.SetPacketRules(name, rules, frames=frames)


def _at_sockets(decisions: Decisions, node: NodeDecision) -> Iterator[Operation]:
    addresses, why = services.at_sockets(decisions, node), reason("service.at-connect")
    for family in dict.fromkeys(map(family_of, addresses)):
        yield AddRule(
            node.node,
            Rule(table=numbers.SOCKETS, priority=numbers.SOCKETS_PRIORITY, iif="lo", explicit_family=family),
        )
    for address in addresses:
        alone = Route(network_of(address), (NextHop(dev=ROUTER_DEVICE),), table=numbers.SOCKETS, why=why)
        yield AddRoute(node.node, alone, replace=True)


def _rule(table: int, family: Family, iif: str | None = None) -> Rule:
    return Rule(table=table, priority=PRIORITY[table], iif=iif, explicit_family=family)


def _pod(decisions: Decisions, node: NodeDecision, pod: str, number: int, pod_number: int) -> Iterator[Operation]:
    """A pod as cilium-cni plugs it: one address, everything else through the router IP."""
    lxc = pod_interface(pod)
    pod_mac, lxc_mac = mac(POD, number, pod_number), mac(POD_PORT, number, pod_number)
    yield operation.AddNamespace(pod, BASE_SYSCTLS)
    yield AddCable(node.node, lxc, lxc_mac, pod, "eth0", pod_mac, node.mtu)
    for address in decisions.pod_addresses[pod]:
        family = family_of(address)
        if family not in node.families:
            continue
        alone = network_of(address)
        for table, why in ((LOCAL_PODS, reason("pod.local")), (TABLES["main"], None)):
            yield AddRoute(node.node, Route(alone, (NextHop(dev=lxc),), table=table, why=why), replace=True)
        yield AddNeighbour(node.node, lxc, address, pod_mac)
        for table in [REMOTE_PODS] * node.tunnels + [SINGLE_DEVICE] * (node.single_device is not None):
            yield AddRule(node.node, _rule(table, family, lxc))
        router = decisions.router(node.node, family)
        yield AddAddress(pod, "eth0", ipaddress.ip_interface(address))
        yield SetLink(pod, "eth0")
        yield AddNeighbour(pod, "eth0", router, lxc_mac)
        yield AddRoute(pod, Route(network_of(router), (NextHop(dev="eth0"),)))
        yield AddRoute(pod, Route(EVERYTHING[family], (NextHop(via=router, dev="eth0"),), mtu=node.route_mtu))


def single_device_routes(decisions: Decisions, node: NodeDecision, device: str) -> tuple[Route, ...]:
    """The main table as `redirect_neigh` sees it, which sends by the device whatever it finds.

    [kernel] net/core/filter.c looks routes up with the output device fixed. IPv4 takes only hops through the device,
    and a destination without any for a neighbour (`ip route get 10.244.2.5 oif eth1` → `dev eth1`, without a gateway).
    IPv6 takes the best route by whichever device, and asks the given device's neighbours for that route's gateway, or
    for the destination that is on-link elsewhere: nobody answers, and the packet never leaves [measured on 1.18.10].
    """
    own = Route(EVERYTHING[4], (NextHop(dev=device),), table=SINGLE_DEVICE, why=reason("fib.skipped", only=device))
    routes: dict[tuple[object, int], Route] = {}
    for route in decisions.fib(node.node).routes:
        hops = tuple(hop for hop in route.nexthops if hop.dev == device)
        if route.family == 6 and not hops:
            # A gateway that another device leads to is not asked for here: [kernel] no route may say so. Either way
            # it is a neighbour that the device does not have.
            hops = own.nexthops
        if route.table == TABLES["main"] and route.kind == "unicast" and hops and route.family in node.families:
            seen = replace(route, nexthops=hops, table=SINGLE_DEVICE, why=own.why)
            routes[seen.destination, seen.effective_metric] = seen
    lasts = (own, replace(own, destination=EVERYTHING[6], kind="blackhole", nexthops=()))
    last = [replace(route, metric=_LAST_METRIC) for route in lasts if route.family in node.families]
    return (*(routes | {(route.destination, _LAST_METRIC): route for route in last}).values(),)


def unknown_addresses(node: NodeDecision, family: Family) -> tuple[Address, ...]:
    """The node's own addresses that its agent does not know."""
    known = {row.address for row in node.node_addresses}
    own = (address.ip for link in node.links if link.up for address in link.addresses if address.version == family)
    return tuple(ip for ip in own if ip not in known and not ip.is_loopback and not ip.is_link_local)


def _own_address_rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """The drop of versions that look the address up in the FIB and know nothing better."""
    if node.host_routing != "BPF" or node.single_device or not node.version.has("own-address-dropped"):
        return
    pods = tuple(pod_interface(pod) for pod in decisions.topology.nodes[node.node].pods)
    for family in node.families:
        unknown = tuple(network_of(address) for address in unknown_addresses(node, family))
        if pods and unknown:
            match, drop = Match(iif=Devices(pods), destinations=unknown), Drop("FIB lookup failed, 4")
            yield PacketRule("prerouting", match, drop, reason("host.unknown-address"), family)


def _own_address_operations(decisions: Decisions, node: NodeDecision) -> Iterator[Operation]:
    """Without a FIB lookup: the single device's table before the table of local addresses."""
    for family in node.families:
        unknown = unknown_addresses(node, family) if node.single_device else ()
        pods = decisions.topology.nodes[node.node].pods
        if unknown and pods:
            local = Rule(table=TABLES["local"], priority=numbers.MOVED_LOCAL, explicit_family=family)
            yield AddRule(node.node, local)
            yield operation.Remove(AddRule(node.node, replace(local, priority=0)))
        for lxc in map(pod_interface, pods):
            for alone in map(network_of, unknown):
                before = Rule(table=SINGLE_DEVICE, priority=numbers.BEFORE_LOCAL, destination=alone, iif=lxc)
                yield AddRule(node.node, before)


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
