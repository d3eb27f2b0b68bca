"""What leaves for a client of a service or for its backend: whose address it has. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from niclab.cilium.services.node import DIRECT_RETURN, FROM_NIC, KIND_MASK, QUIET, SERVED, NodeServices, at
from niclab.net.packetrules import Devices, Exempt, Mark, Match, PacketRule, Rewrite, SetMark, Snat
from niclab.net.reason import Why
from niclab.net.route import Address, Family

_NAT = "bpf/lib/nodeport.h tail_nodeport_nat_egress_ipv4"
_TRANSLATED = Mark(SERVED, KIND_MASK)
_DIRECT = Mark(SERVED | DIRECT_RETURN, KIND_MASK)


def rules(services: NodeServices) -> Iterator[PacketRule]:
    for device in services.tunnel:
        # The tunnel's own packets take their own route.
        match = Match(oif=Devices((device,)), mark=Mark(FROM_NIC, FROM_NIC))
        yield PacketRule("postrouting", match, SetMark(0, FROM_NIC), QUIET)
    for family in services.node.families:
        for match, address, why in _sources(services, family):
            yield PacketRule("postrouting", match, Snat(address), why, family)
    why = Why(
        "service.client-seen",
        "not masqueraded: the backend sees the client, {source}",
        "bpf/lib/nodeport.h nodeport_svc_lb4",
    )
    for mark in (_TRANSLATED, _DIRECT):
        yield PacketRule("postrouting", Match(connection_mark=mark), Exempt(), why)
    if not services.translates_at_pods:
        yield from _answers(services)


def _sources(services: NodeServices, family: Family) -> Iterator[tuple[Match, Address, Why]]:
    """The address that backends of other nodes see."""
    node = services.node
    match = Match(oif=services.away, connection_mark=_TRANSLATED)
    if node.tunnels:
        router = services.decisions.topology.router_address(node.node, family)
        if router is not None:
            words = f"to a backend of another node: its source becomes the router IP {router}, as in every tunnel"
            yield match, router, Why("service.snat-tunnel", words, f"{_NAT} (IPV4_GATEWAY)")
        return
    if node.settings.dynamic_node_port_source and node.version >= (1, 20):
        yield from _route_sources(services, family, match)
    address = node.direct_routing_address(family)
    if address is not None:
        words = (
            f"to a backend of another node: its source becomes {address}, the address of the direct routing device "
            f"{node.drd.device}, whichever NIC it leaves by"
        )
        yield match, address, Why("service.snat-drd", words, f"{_NAT} (IPV4_DIRECT_ROUTING)")


def _route_sources(services: NodeServices, family: Family, match: Match) -> Iterator[tuple[Match, Address, Why]]:
    """`enable-dynamic-source-lookup-nodeport`: what a lookup without a source says for each peer's pods."""
    decisions, name = services.decisions, services.node.node
    fib = services.node.kernel_fib.with_routes(decisions.direct_routes(name)[0])
    for peer in decisions.peers(name):
        cidr = peer.pod_cidrs.get(family)
        found = fib.lookup(cidr.network_address) if cidr is not None else None
        if cidr is None or found is None:
            continue
        address = fib.source_for(cidr.network_address, found, decisions.topology.nodes[name])
        if address is not None:
            words = f"to a backend of another node: its source becomes {address}, which the route to {cidr} says"
            why = Why("service.snat-route", words, f"{_NAT} (fib_lookup_src_v4, 6c788332c0)")
            yield replace(match, destinations=(cidr,)), address, why


def _answers(services: NodeServices) -> Iterator[PacketRule]:
    """Answers of this node's own backends are translated back where they leave by a selected NIC, and nowhere else."""
    elsewhere = Devices((*services.node.selected, *services.tunnel), negated=True)
    for one in services.frontends:
        if one.kind == "ClusterIP" and not services.node.settings.external_cluster_ip:
            continue
        for backend in one.outside:
            device = services.pods.get(backend.address)
            if device is None:
                continue
            why = Why(
                "service.answer-not-translated",
                f"leaves by {{oif}}, which is not selected: the client sees {backend.address}, and not {one}",
                "bpf/lib/nodeport_egress.h nodeport_rev_dnat_fwd_ipv4; bpf/bpf_host.c cil_to_netdev",
            )
            match = Match(
                iif=Devices((device,)),
                oif=elsewhere,
                protocol=one.protocol,
                connection_mark=services.taken_in(one),
                direction="reply",
            )
            yield at("leaving", match, Rewrite(source=backend.address, source_port=backend.port), why, one.family)
