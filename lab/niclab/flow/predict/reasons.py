"""The decisions about a packet that are no packet rules: ids, words and who decides so."""

from __future__ import annotations

import functools

from niclab.cilium.selection.devices import Device
from niclab.kernel.fib import Lookup
from niclab.net.route import TABLES, Why

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

ENCAPSULATED = Why(
    "tunnel.outer",
    "encapsulated ({protocol}) from {source} to {remote}: neither is chosen by `devices`; the kernel's route to the "
    "peer's node IP gives NIC and source",
    "bpf/lib/encap.h; bpf/lib/overloadable_skb.h ctx_set_encap_info4",
)
DECAPSULATED = Why("tunnel.end", "taken out of the tunnel: {source} to {destination}", "bpf/bpf_overlay.c")

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


def of_route(lookup: Lookup) -> Why:
    """Why this route was chosen: its own reason where it has one, else the kernel's routing."""
    route = lookup.route
    if lookup.is_local:
        return LOCAL
    if len(lookup.hops) > 1 and route.table in TABLES.values():
        return MULTIPATH
    if route.why is not None:
        return route.why
    if len(lookup.hops) > 1:
        return MULTIPATH
    own_rule = lookup.rule.table in TABLES.values() and lookup.rule.source is None and lookup.rule.mark is None
    return ROUTE if own_rule else ROUTE_OF_RULE
