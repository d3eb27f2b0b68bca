"""The short cut of one selected device: pods' packets leave without a FIB lookup. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from niclab.cilium.selection.devices import Device
from niclab.cilium.selection.direct_routing import DirectRouting
from niclab.cilium.selection.features import bpf_host_routing
from niclab.cilium.version import Version
from niclab.settings import NodeView


def skips_fib(devices: Sequence[Device], drd: DirectRouting, settings: NodeView, version: Version) -> bool:
    """≤1.18: with one selected device pods' packets go straight to it, without a FIB lookup (ENABLE_SKIP_FIB).

    pkg/datapath/linux/config/config.go; the macro went away with b483d1346e (1.19).
    """
    return (
        version < (1, 19)
        and bpf_host_routing(settings, version)
        and drd.device is not None
        and sum(device.selected for device in devices) == 1
        and not settings.endpoint_routes
    )
