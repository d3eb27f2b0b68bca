"""Cilium's choice of devices, direct routing device and node addresses, by version, each with its reason. Pure.

From links, addresses, routes and settings; the sources are named where each rule is decided. Run-time changes are
`lab.selection.runtime`'s.
"""

from lab.selection.addresses import FALLBACK, NodeAddress, node_addresses
from lab.selection.devices import EXCLUDED_PREFIXES, Choice, Device, select
from lab.selection.direct_routing import (
    NO_DEVICES,
    NO_DIRECT_ROUTING_DEVICE,
    DirectRouting,
    DirectRoutingRule,
    direct_routing,
    direct_routing_address,
)
from lab.selection.features import bpf_host_routing, node_port, requires_devices, requires_direct_routing
from lab.selection.filter import matches
from lab.selection.link import Link, LinkAddress, link_addresses, links_of
from lab.selection.mtu import device_mtu, route_mtu
from lab.selection.rule import Rule
from lab.selection.skip import skips_fib
from lab.selection.version import VERSIONS, Version

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
    "skips_fib",
]
