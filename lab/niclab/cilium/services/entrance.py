"""What comes in by a NIC: clients' requests, and backends' answers to requests that were forwarded. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from niclab.cilium.services.frontends import Frontend
from niclab.cilium.services.node import FROM_NIC, QUIET, SERVED, NodeServices, at, ends
from niclab.net.packetrules import Devices, Dnat, Drop, Mark, Match, PacketRule, Reject, SetConnectionMark, SetMark
from niclab.net.reason import Why

_NODE_PORT = "bpf/lib/nodeport.h nodeport_lb4"


def rules(services: NodeServices) -> Iterator[PacketRule]:
    yield from _answers(services)
    for one in services.frontends:
        yield from _routed_as_service(services, one)
    for one in services.frontends:
        yield from _request(services, one)


def _answers(services: NodeServices) -> Iterator[PacketRule]:
    """Answers of other nodes' backends: translated back by the NIC's program, so not where none is attached."""
    mark = Mark(SERVED, SERVED)
    known = Devices((*services.node.selected, *services.tunnel, *services.pod_devices), negated=True)
    why = Why(
        "service.answer-not-taken",
        "comes in by {iif}, which is not selected: nobody translates the backend's answer back",
        "bpf/lib/nodeport.h tail_nodeport_nat_ingress_ipv4; bpf/bpf_host.c cil_from_netdev",
    )
    drop = Drop("the node refuses it: it is no connection of its own")
    yield PacketRule("prerouting", Match(iif=known, connection_mark=mark, direction="reply"), drop, why)
    why = Why(
        "service.answer",
        "answers a client of a service: it leaves by the route to the client, whichever NIC the request came in by",
        "bpf/lib/nodeport.h nodeport_rev_dnat_ipv4",
    )
    # The tunnel's program asks the FIB on every version: no mark there.
    match = Match(iif=services.selected, connection_mark=mark, direction="reply")
    yield PacketRule("prerouting", match, SetMark(FROM_NIC, FROM_NIC), why)


def _routed_as_service(services: NodeServices, one: Frontend) -> Iterator[PacketRule]:
    match = Match(connection_mark=services.taken_in(one), direction="reply")
    if services.translates_at_pods or services.away is None:
        yield from services.as_from(one, one.address, match)
        return
    yield from services.as_from(one, one.address, replace(match, iif=services.away))
    # A pod's program asks as the pod; the NIC's, where the packet is to leave, asks once more as the service.
    leaving = replace(match, iif=Devices(services.pod_devices), route=services.selected)
    yield from services.as_from(one, one.address, leaving)


def _request(services: NodeServices, one: Frontend) -> Iterator[PacketRule]:
    """A client outside the cluster asks at a selected NIC."""
    node, match = services.node, services.to(one, (one.address,), services.selected)
    if one.kind == "ClusterIP" and not node.settings.external_cluster_ip:
        why = Why(
            "service.cluster-ip",
            f"{one} is {one.service}'s cluster IP: not served to clients outside the cluster",
            "bpf/lib/nodeport.h nodeport_svc_lb4 (lb4_svc_is_routable)",
        )
        yield at("prerouting", match, Drop("a cluster IP is not served from outside"), why, one.family)
        return
    if not one.outside:
        told = node.settings.refuses_without_backend
        why = Why(
            "service.no-backend",
            f"{one} of {one.service} has no backend here: " + ("refused" if told else "dropped"),
            "bpf/lib/nodeport.h nodeport_svc_lb4 (service-no-backend-response)",
        )
        words = f"{one.service} has no backend that {node.node} may use"
        yield at("prerouting", match, Reject(words) if told else Drop(words), why, one.family)
        return
    why = Why(
        "service.taken-in",
        f"{{iif}} is selected and {one} is a frontend of {one.service} ({one.kind}): taken in",
        f"{_NODE_PORT}; pkg/loadbalancer/reconciler/bpf_reconciler.go",
    )
    yield at("prerouting", match, SetMark(FROM_NIC, FROM_NIC), why, one.family)
    yield at("prerouting", match, SetConnectionMark(services.value(one)), QUIET, one.family)
    direct = node.direct_routing_address(one.family)
    if direct is not None and not services.returns_directly(one):
        yield from services.as_from(one, direct, match)
    words = f"sent to a backend of {one.service}: {ends(one, outside=True)}"
    yield at(
        "prerouting", match, Dnat(one.outside), Why("service.backend", words, "bpf/lib/lb.h lb4_local"), one.family
    )
