"""A pod asks for an address of its own node that the agent does not know: one on a NIC that is not selected. Pure.

`bpf_lxc` delivers to the host what is in the endpoint map: the addresses of `node-addresses`. Any other goes the way of
the world's, whose FIB lookup finds a local route. Up to 1.17 such a packet is dropped ("FIB lookup failed, 4"); from
1.18 on (4415e131d4, in 1.18 by 1.18.6) it is handed to the kernel, as with legacy host routing. Where there is no FIB
lookup (≤1.18, one device) it leaves the node like all others.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from niclab.cilium.decisions import Decisions, NodeDecision, pod_interface
from niclab.net.operation import AddRule, DelRule, Operation
from niclab.net.packetrules import Devices, Drop, Match, PacketRule
from niclab.net.reason import Why
from niclab.net.route import TABLES, Address, Family, Rule

MOVED_LOCAL = 1
"""The priority of table `local` where rules have to come before it."""


def unknown(node: NodeDecision, family: Family) -> tuple[Address, ...]:
    """The node's own addresses that its agent does not know."""
    known = {row.address for row in node.node_addresses}
    up = (link for link in node.links if link.up)
    own = (one.ip for link in up for one in link.addresses if one.version == family and not one.ip.is_loopback)
    return tuple(one for one in own if one not in known and not one.is_link_local)


def rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """The drop of versions that look the address up in the FIB and know nothing better."""
    if node.host_routing != "BPF" or node.single_device or node.version >= (1, 18):
        return
    pods = tuple(pod_interface(pod) for pod in decisions.topology.nodes[node.node].pods)
    why = Why(
        "host.unknown-address",
        "{destination} is this node's own, on a NIC that is not selected: dropped (FIB lookup failed, 4)",
        "bpf/bpf_lxc.c handle_ipv4_from_lxc (fib_redirect_v4); pkg/datapath/tables/node_address.go",
    )
    for family in node.families:
        found = unknown(node, family)
        if pods and found:
            match = Match(iif=Devices(pods), destinations=tuple(ipaddress.ip_network(one) for one in found))
            yield PacketRule("prerouting", match, Drop("FIB lookup failed, 4"), why, family)


def operations(decisions: Decisions, node: NodeDecision, table: int) -> Iterator[Operation]:
    """Without a FIB lookup: `table`, the single device's, before the table of local addresses."""
    for family in node.families:
        found = unknown(node, family) if node.single_device else ()
        pods = decisions.topology.nodes[node.node].pods
        if not found or not pods:
            continue
        yield AddRule(node.node, Rule(table=TABLES["local"], priority=MOVED_LOCAL, explicit_family=family))
        yield DelRule(node.node, Rule(table=TABLES["local"], priority=0, explicit_family=family))
        for pod in pods:
            for one in found:
                alone = ipaddress.ip_network(one)
                yield AddRule(node.node, Rule(table=table, priority=0, destination=alone, iif=pod_interface(pod)))
