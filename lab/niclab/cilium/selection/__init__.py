"""Cilium's choice of devices, direct routing device and node addresses, by version, each with its reason. Pure.

From links, addresses, routes and settings; the sources are named where each rule is decided. What a running agent
makes of changes is `niclab.cilium.selection.controller`'s.
"""

from niclab.cilium.selection.addresses import FALLBACK, NodeAddress, node_addresses
from niclab.cilium.selection.devices import EXCLUDED_PREFIXES, Choice, Device, Rule, matches, select
from niclab.cilium.selection.direct_routing import (
    NO_DEVICES,
    NO_DIRECT_ROUTING_DEVICE,
    DirectRouting,
    DirectRoutingRule,
    direct_routing,
    direct_routing_address,
)
from niclab.cilium.selection.features import bpf_host_routing, node_port, requires_devices, requires_direct_routing
from niclab.cilium.selection.links import Link, LinkAddress, link_addresses, links_of
from niclab.cilium.selection.mtu import device_mtu, route_mtu
from niclab.cilium.version import VERSIONS, Version

__all__ = [
    "EXCLUDED_PREFIXES",
    "FALLBACK",
    "NO_DEVICES",
    "NO_DIRECT_ROUTING_DEVICE",
    "VERSIONS",
    "Choice",
    "Device",
    "DirectRouting",
    "DirectRoutingRule",
    "Link",
    "LinkAddress",
    "NodeAddress",
    "Rule",
    "Version",
    "bpf_host_routing",
    "device_mtu",
    "direct_routing",
    "direct_routing_address",
    "link_addresses",
    "links_of",
    "matches",
    "node_addresses",
    "node_port",
    "requires_devices",
    "requires_direct_routing",
    "route_mtu",
    "select",
]
