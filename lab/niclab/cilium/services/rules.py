"""Services with kernel parts: who is served on which NIC, by which backend, and whom the backend sees. Pure.

What Cilium's programs do, and what stands in for them:

    cil_from_netdev, nodeport_lb4     prerouting: DNAT on selected NICs, a mark on packet and connection
    tail_nodeport_nat_egress_ipv4     postrouting: SNAT of marked connections that go to other nodes
    tail_nodeport_nat_ingress_ipv4    connection tracking, and a drop where no program is attached
    nodeport_rev_dnat_fwd_ipv4        connection tracking, undone where no program is attached
    tail_nodeport_ipv4_dsr            a note in the packet's header instead of an IP option; the backend's node replaces
                                      the source of the answer statelessly
    cil_sock4_connect, bpf_lxc        prerouting from pods, output of the node: DNAT of what begins in the cluster
    fib_redirect                      routing rules by mark
"""

from __future__ import annotations

from collections.abc import Iterator

from niclab.cilium.decisions import Decisions, NodeDecision
from niclab.cilium.services import direct_return, entrance, forwarding, inside, routes
from niclab.cilium.services.node import NodeServices
from niclab.net.packetrules import PacketRule
from niclab.net.route import Rule


def packet_rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """What a node does to the packets of services, in the order it is asked; before masquerading."""
    services = NodeServices(decisions, node)
    if services.active:
        yield from entrance.rules(services)
        yield from direct_return.rules(services)
        yield from forwarding.rules(services)
    yield from inside.rules(services)


def routing_rules(
    decisions: Decisions, node: NodeDecision, *, tunnel: tuple[int, int], single: tuple[int, int]
) -> Iterator[Rule]:
    """Where they go; `tunnel` and `single`: tables and priorities of peers' pods and of the single device."""
    services = NodeServices(decisions, node)
    if services.active:
        yield from routes.rules(services, tunnel=tunnel, single=single)


__all__ = ["packet_rules", "routing_rules"]
