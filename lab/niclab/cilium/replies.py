"""Answers to masqueraded packets: only NICs' programs know the connection. Pure.

`cil_from_netdev` translates back, and it is attached to selected NICs. What comes in by another is for the host, whose
kernel knows of no such connection.
"""

from __future__ import annotations

from collections.abc import Iterator

from niclab.cilium.decisions import NodeDecision
from niclab.net.packetrules import Devices, Drop, Match, PacketRule
from niclab.net.reason import Why


def rules(node: NodeDecision) -> Iterator[PacketRule]:
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
