"""The direct routing device, and the rule that chose it (pkg/datapath/tables/direct_routing_device.go). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.route import Address
from lab.selection.devices import Device
from lab.selection.features import requires_devices
from lab.selection.filter import matches
from lab.selection.link import Link
from lab.settings import NodeView

NO_DIRECT_ROUTING_DEVICE = "unable to determine direct routing device. Use --direct-routing-device to specify it"
"""daemon/cmd/daemon.go: what the agent says as it exits."""


@dataclass(frozen=True, slots=True)
class DirectRouting:
    """The direct routing device, or None with the agent's `exits` words where a feature cannot do without it."""

    device: str | None
    reason: str
    exits: str | None = None


def direct_routing(
    devices: Sequence[Device], links: Sequence[Link], settings: NodeView, node_ip: Address | None
) -> DirectRouting:
    """Which selected device is the direct routing device, and by which rule (direct_routing_device.go Get)."""
    selected = [device.name for device in devices if device.selected]
    wanted = settings.direct_routing_device
    if wanted:
        found = next((name for name in selected if matches(wanted, name)), None)
        if found:
            return DirectRouting(found, f"direct-routing-device is {wanted}")
    elif len(selected) == 1:
        return DirectRouting(selected[0], "the only selected device")
    holder = next(
        (link.name for link in links if link.name in selected and node_ip in {i.ip for i in link.addresses}), None
    )
    if node_ip is not None and holder is not None:
        return DirectRouting(holder, f"the selected device with the node IP {node_ip}")
    reason = f"none of [{' '.join(selected)}] has the node IP {node_ip}" if selected else "no device is selected"
    return DirectRouting(None, reason, NO_DIRECT_ROUTING_DEVICE if requires_devices(settings) else None)
