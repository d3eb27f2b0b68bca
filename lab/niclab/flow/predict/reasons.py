"""The decisions a packet meets on its way that are no packet rules: ids, words and who decides so."""

from __future__ import annotations

import functools
from collections.abc import Collection

from niclab.cilium import egressroutes, operations
from niclab.cilium.selection import Device
from niclab.kernel.fib import Lookup
from niclab.net.reason import Why
from niclab.net.route import PROTOCOLS, TABLES, Route

ROUTE = Why("route", "{destination}: by the route {route}", "[kernel] fib_table_lookup")
ROUTE_OF_RULE = Why(
    "route.rule", "{destination}: {route} in table {table}, by the rule `{rule}`", "[kernel] fib_rules_lookup"
)
MULTIPATH = Why(
    "route.multipath",
    "{destination}: {route}; a hash of the addresses chooses among {hops}: here {hop}",
    "[kernel] fib_select_multipath; bpf_fib_lookup passes no ports",
)
NO_ROUTE = Why("route.none", "there is no route to {destination}", "[kernel] fib_lookup")
REFUSED = Why("route.refused", "{destination} is refused: {route}", "[kernel] fib_lookup")
LOCAL = Why("route.local", "{destination} is an address of this host", "[kernel] table local")
NO_FORWARDING = Why("forward.none", "this host does not forward", "[kernel] net.ipv4.ip_forward=0")

LOCAL_POD = Why(
    "pod.local", "{destination} is a pod of this node: delivered to {device}", "bpf/bpf_lxc.c handle_ipv4_from_lxc"
)
TUNNEL = Why(
    "tunnel.pod-cidr",
    "{destination} is in {cidr}, a pod CIDR of the peer with node IP {remote}: into the tunnel",
    "bpf/bpf_lxc.c encap_and_redirect_lxc; pkg/node/manager/manager.go (ipcache: pod CIDR → node IP)",
)
TUNNEL_OF_NODE = Why(
    "tunnel.node-route",
    "{destination}: the agent's route of {cidr} through cilium_host, into the tunnel to {remote}",
    "pkg/datapath/linux/node.go createNodeRouteSpec; bpf/bpf_host.c",
)
ENCAPSULATED = Why(
    "tunnel.outer",
    "encapsulated ({protocol}) from {source} to {remote}: neither is chosen by `devices`; the kernel's route to the "
    "peer's node IP gives NIC and source",
    "bpf/lib/encap.h; bpf/lib/overloadable_skb.h ctx_set_encap_info4",
)
DECAPSULATED = Why("tunnel.end", "taken out of the tunnel: {source} to {destination}", "bpf/bpf_overlay.c")
TO_GATEWAY = Why(
    "egress.gateway",
    "{destination}: an egress policy is for this pod, and its routes lead to a selected NIC: into the tunnel to its "
    "gateway's node IP {remote}",
    "bpf/lib/egress_gateway.h egress_gw_handle_packet; pkg/egressgateway/policy.go",
)
AT_HOME = Why(
    "egress.at-home",
    "{destination}: the pod's own node is its gateway: by {hop}",
    "bpf/lib/nodeport_egress.h nodeport_snat_fwd_ipv4; bpf/lib/egress_gateway.h",
)
ON_GATEWAY = Why(
    "egress.way-out",
    "{destination}: out of the tunnel, and on by {hop}: the route of the egress IP chooses the NIC, from 1.20 on the "
    "policy's interface does",
    "bpf/bpf_overlay.c; bpf/lib/egress_gateway.h egress_gw_fib_lookup_and_redirect",
)
ANSWER_TO_POD = Why(
    "egress.answer-tunnel",
    "{destination}: an answer for a pod of an egress policy: into the tunnel to its node {remote}",
    "bpf/lib/nodeport.h egress_gw_reply_needs_redirect_hook",
)
SINGLE_DEVICE = Why(
    "fib.skipped",
    "{device} is the only selected device: up to 1.18 pods' packets go there without a FIB lookup",
    "bpf/lib/fib.h fib_redirect; pkg/datapath/linux/config/config.go ENABLE_SKIP_FIB",
)
DIRECT_ROUTE = Why(
    "route.direct-node-route",
    "{destination}: {route}, the one route that auto-direct-node-routes made: by the NIC of the route to the node IP",
    "pkg/datapath/linux/node.go createDirectRouteSpec",
)
BGP_ROUTE = Why(
    "route.bgp",
    "{destination}: {route}, which BGP taught this router: the next hop is the peer's own address",
    "RFC 4271",
)

LEAVES = Why("device.other", "leaves by {device}", "[kernel]")
ANSWER = Why("nat.answer", "not masqueraded: it answers a connection that came in", "[kernel] nf_nat_inet_fn")
TRANSLATED_BACK = Why(
    "nat.reverse", "translated back: {before} becomes {after}", "[kernel] nf_nat_core.c; bpf/lib/nat.h snat_v4_rev_nat"
)
NOT_TRANSLATED = Why("nat.none", "not masqueraded: no rule is for {source} on {oif}", "[kernel] nf_nat_inet_fn")
NO_ADDRESS = Why("nat.no-address", "{oif} has no address to masquerade with", "[kernel] nf_nat_masquerade_ipv4")
NO_SOURCE = Why("tunnel.no-source", "this host has no address to send to {remote} from", "[kernel] ip_route_output_key")
NO_NEIGHBOUR = Why("neighbour.none", "nobody on {fabric} has {address}", "[kernel] ARP, ND")
SEVERAL_ANSWER = Why(
    "neighbour.several",
    "several interfaces answer for {address} ({several}): here it arrives by {into}",
    "[kernel] arp_process, arp_ignore=0",
)
NOWHERE = Why("device.nowhere", "{device} leads nowhere", "[kernel]")
ARRIVED = Why("arrived", "{end} sees the source {source}, {whose}", "[kernel]")
MARTIAN = Why(
    "source.own", "{source} comes in from outside and is this host's own: dropped", "[kernel] fib_validate_source"
)
REVERSE_PATH = Why(
    "source.reverse-path",
    "{source} comes in by {iif}, whose reverse path filter drops it: its way back is by {back} (rp_filter={mode})",
    "[kernel] fib_validate_source",
)
ASKER_NOT_BELIEVED = Why(
    "neighbour.not-believed",
    "{end} does not answer who has {address}: {asker} asks by an interface by which it is not believed (rp_filter)",
    "[kernel] arp_process",
)
NO_SERVER = Why(
    "arrived.no-server",
    "nothing listens at {destination} port {port}: the host itself refuses",
    "[kernel] tcp_v4_send_reset, icmp_send",
)
LOOP = Why("loop", "it goes round in a loop", "[kernel] TTL")


@functools.cache
def _of_device(selected: bool, source: str) -> Why:
    if selected:
        return Why("device.selected", "leaves by {device}, a selected device: {reason} (rule {number})", source)
    return Why("device.not-selected", "leaves by {device}, which is not selected: {reason} (rule {number})", source)


def of_device(device: Device) -> Why:
    """Whether Cilium is where the packet leaves; the rule's number is its place in the version's order."""
    return _of_device(device.selected, device.source)


def of_route(found: Lookup, direct: Collection[Route]) -> Why:
    """Why this route was chosen: what Cilium decides has words of its own, the rest is the kernel's routing."""
    route = found.route
    if route.why is not None:
        return route.why
    if route.table in egressroutes.FROM_PODS and found.hops:
        return TO_GATEWAY if route.encap is not None else AT_HOME
    if route.table in egressroutes.FROM_TUNNEL and found.hops:
        return ON_GATEWAY
    if route.table in egressroutes.ANSWERS:
        return ANSWER_TO_POD
    if route.table == operations.LOCAL_PODS:
        return LOCAL_POD
    if route.encap is not None:
        return TUNNEL if route.table == operations.REMOTE_PODS else TUNNEL_OF_NODE
    if route.table == operations.SINGLE_DEVICE:
        return SINGLE_DEVICE
    if found.is_local:
        return LOCAL
    if len(found.hops) > 1:
        return MULTIPATH
    if route in direct:
        return DIRECT_ROUTE
    if route.protocol == PROTOCOLS["bgp"]:
        return BGP_ROUTE
    own_rule = found.rule.table in TABLES.values() and found.rule.source is None and found.rule.mark is None
    return ROUTE if own_rule else ROUTE_OF_RULE
