"""Which frames with a VLAN tag a node's programs let through: Cilium's VLAN filter. Pure.

bpf/bpf_host.c cil_from_netdev, cil_to_netdev (allow_vlan): a tagged frame at a selected device goes on to the kernel
untouched if its tag is allowed there, and is dropped if not, before anybody looks at what it carries: ARP and ND too.
pkg/datapath/linux/config/config.go vlanFilterMacros: allowed is the tag of a VLAN that stands on the device itself and
is selected, or is in `vlan-bpf-bypass`; with a 0 in there every tag is. Measured on 1.21.0-dev: with eth0 selected and
eth0.100 not, neither pods nor the node reach the VLAN; with both, both do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from niclab.cilium.node import NodeDecision
from niclab.cilium.selection.direct_routing import requires_devices
from niclab.net.packetrules import FrameFilter
from niclab.topology.model import Host, Node

_LARGEST = 5
"""How many tags a node's program may list."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Where a frame is dropped, and for which tag. `out`: as it leaves too, not only what comes in."""

    device: str
    tag: int
    out: bool


def dropped(node: NodeDecision, host: Node, device: str, nic: str) -> Dropped | None:
    """What drops the frames of an interface that come and go by one of the NICs below it."""
    for lower, tag in _levels(host, device, nic):
        if lower in node.selected and not allows(node, host, lower, tag):
            return Dropped(lower, tag, out=requires_devices(node.settings, node.version))
    return None


def allows(node: NodeDecision, host: Node, device: str, tag: int) -> bool:
    """Do a device's programs let a tag through?"""
    return 0 in node.settings.vlan_bypass or tag in allowed(node, host, device)


def allowed(node: NodeDecision, host: Node, device: str) -> tuple[int, ...]:
    """The tags that are allowed on a device because of the VLANs that stand on it."""
    return tuple(
        sorted(
            link.vlan
            for name, link in host.links.items()
            if link.vlan is not None and link.parent == device
            if name in node.selected or link.vlan in node.settings.vlan_bypass
        )
    )


def filters(node: NodeDecision, host: Node) -> tuple[FrameFilter, ...]:
    """The filter of every selected device, for netfilter; none where every tag may pass."""
    if 0 in node.settings.vlan_bypass:
        return ()
    out = requires_devices(node.settings, node.version)
    return tuple(FrameFilter(device, allowed(node, host, device), out) for device in node.selected)


def warnings(node: NodeDecision, host: Node) -> Iterator[str]:
    """What is wrong with a node's links for its programs."""
    entries = sum(len(allowed(node, host, device)) for device in node.selected)
    if entries > _LARGEST and 0 not in node.settings.vlan_bypass:
        yield (
            f"allowed VLAN list is too big - {entries} entries, please use '--vlan-bpf-bypass 0' in order to allow all "
            "available VLANs: a real agent loads no programs, and what its NICs do is not what is predicted"
        )
    for name, link in host.links.items():
        slaves = [slave for slave in link.members if slave in node.selected]
        if link.mode == "802.3ad" and slaves and node.settings.host_firewall:
            yield f"{', '.join(slaves)}: the host firewall drops LACP on selected devices, and {name} loses its partner"


def _levels(host: Host, device: str, nic: str, tag: int | None = None) -> Iterator[tuple[str, int]]:
    """The interfaces below one, down to a NIC, with the tag that its frames have there."""
    link = host.links.get(device)
    if link is None or link.kind == "vrf":
        return
    tag = link.vlan if link.vlan is not None else tag
    for under in link.below:
        if under == nic or _stands_on(host, under, nic):
            if tag is not None:
                yield under, tag
            yield from _levels(host, under, nic, tag)


def _stands_on(host: Host, name: str, nic: str) -> bool:
    link = host.links.get(name)
    return link is not None and any(under == nic or _stands_on(host, under, nic) for under in link.below)
