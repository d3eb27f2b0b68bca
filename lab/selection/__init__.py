"""Cilium's choice of devices, direct routing device and node addresses, by version, each with its reason. Pure.

Follows pkg/datapath/linux/devices_controller.go (isSelectedDevice), pkg/datapath/tables/device.go (DeviceFilter),
direct_routing_device.go and node_address.go as of 1.18; what later versions changed is marked where it is decided.
"""

from lab.selection.addresses import primary_address
from lab.selection.devices import EXCLUDED_PREFIXES, Device, select
from lab.selection.direct_routing import NO_DIRECT_ROUTING_DEVICE, DirectRouting, direct_routing
from lab.selection.features import bpf_host_routing, requires_devices
from lab.selection.filter import matches
from lab.selection.link import Link, links_of
from lab.selection.skip import skips_fib
from lab.selection.version import Version

__all__ = [
    "EXCLUDED_PREFIXES",
    "NO_DIRECT_ROUTING_DEVICE",
    "Device",
    "DirectRouting",
    "Link",
    "Version",
    "bpf_host_routing",
    "direct_routing",
    "links_of",
    "matches",
    "primary_address",
    "requires_devices",
    "select",
    "skips_fib",
]
