"""The direct routing device, the rule that chose it, and the features that cannot do without a device. Pure.

pkg/datapath/tables/direct_routing_device.go Get; pkg/option/config.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from niclab.cilium.selection.addresses import ordered
from niclab.cilium.selection.devices import Device, first_match, usable
from niclab.cilium.selection.links import Link
from niclab.cilium.version import Version
from niclab.net.route import Address, Family
from niclab.settings import NodeView
from niclab.settings.flags import parse_bool

SOURCE = "pkg/datapath/tables/direct_routing_device.go Get"

NO_DIRECT_ROUTING_DEVICE = "unable to determine direct routing device. Use --direct-routing-device to specify it"
"""daemon/cmd/daemon.go: what the agent says as it exits."""

NO_DEVICES = "failed to detect devices, disabling BPF NodePort"
"""daemon/cmd/daemon.go up to 1.17: the warning of an agent that runs without a device, with legacy host routing."""


class DirectRoutingRule(StrEnum):
    """What chose the direct routing device; the value is a stable name for reports."""

    CONFIGURED = "direct-routing.configured"
    ONLY_DEVICE = "direct-routing.only-device"
    NODE_IP = "direct-routing.node-ip"
    NOT_FOUND = "direct-routing.not-found"
    NOT_NEEDED = "direct-routing.not-needed"


@dataclass(frozen=True, slots=True)
class DirectRouting:
    """The direct routing device, or None with the agent's `exits` words where a feature cannot do without it."""

    device: str | None
    reason: str
    exits: str | None = None
    rule: DirectRoutingRule = DirectRoutingRule.NOT_FOUND
    warning: str | None = None
    """What the agent warns of when it runs on without one."""
    source: str = SOURCE


def direct_routing(
    devices: Sequence[Device], links: Sequence[Link], settings: NodeView, node_ip: Address | None, version: Version
) -> DirectRouting:
    """Which selected device is the direct routing device, and by which rule.

    `node_ip` is the Kubernetes node IP: the first InternalIP of any family, else the first ExternalIP (pkg/node/types
    GetK8sNodeIP). A configured name that no selected device has falls back to it; in 1.16, which asked only where the
    datapath needs the device (pkg/datapath/linux/devices.go Detect), it did not.
    """
    names = {device.name for device in devices if device.selected}
    selected = sorted((link for link in links if link.name in names), key=lambda link: link.index)
    old = not version.has("direct-routing-always")
    source = "pkg/datapath/linux/devices.go Detect" if old else SOURCE

    def chosen(link: Link, reason: str, rule: DirectRoutingRule) -> DirectRouting:
        return DirectRouting(link.name, reason, rule=rule, source=source)

    if old and not requires_direct_routing(settings, version):
        return DirectRouting(None, "nothing needs one", rule=DirectRoutingRule.NOT_NEEDED, source=source)
    wanted = settings.direct_routing_device
    entries = tuple(wanted.split(",")) if old else (wanted,)
    for link in selected if wanted else ():
        match = first_match(entries, (link.name,), version)
        if match is not None and not match.excluded:
            return chosen(link, f"direct-routing-device is {wanted}", DirectRoutingRule.CONFIGURED)
    if not wanted and len(selected) == 1:
        return chosen(selected[0], "the only selected device", DirectRoutingRule.ONLY_DEVICE)
    for link in selected if node_ip is not None and not (wanted and old) else ():
        if any(address.ip == node_ip for address in usable(link.addresses, version)):
            return chosen(link, f"the selected device with the node IP {node_ip}", DirectRoutingRule.NODE_IP)
    shown = " ".join(link.name for link in selected)
    reason = f"none of [{shown}] has the node IP {node_ip}" if selected else "no device is selected"
    if wanted and selected:
        reason = f"direct-routing-device {wanted} is no selected device, and {reason}"
    exits = warning = None
    if requires_devices(settings, version):
        exits = f"{'failed to detect devices: ' if old else ''}{NO_DIRECT_ROUTING_DEVICE}"
    elif version.has("devices-warning"):
        warning = NO_DEVICES
    return DirectRouting(None, reason, exits, warning=warning, source=source)


def direct_routing_address(link: Link, family: Family, version: Version) -> Address | None:
    """The direct routing device's address of one family: what the datapath is compiled with, not the node IP.

    IPv4: the first in the kernel's order, from 1.21 on the best (see `addresses.ordered`; e867d3f3e0). IPv6: the first,
    from 1.18 on the first that is not link-local, else the last. None where it has none: the agent then fails to
    initialise its datapath ("IPv4 direct routing device IP not found") and tries again.
    pkg/datapath/linux/config/config.go, writeNodeConfigHeader.
    """
    own = [address for address in usable(link.addresses, version) if address.version == family]
    if family == 4 and version.has("direct-routing-best-ipv4"):
        own = list(ordered(own))
    if family == 6 and version.has("direct-routing-global-ipv6"):
        own = [address for address in own if not address.ip.is_link_local][:1] or own[-1:]
    return own[0].ip if own else None


def node_port(settings: NodeView, version: Version) -> bool:
    """Are services on nodes' addresses Cilium's? Up to 1.18 `enable-node-port` alone could say so (pkg/kpr/kpr.go)."""
    alone = version.has("node-port-option") and parse_bool(settings.get("enable-node-port")) is True
    return settings.kube_proxy_replacement or alone


def requires_devices(settings: NodeView, version: Version) -> bool:
    """Features that cannot run without a device (pkg/option/config.go AreDevicesRequired).

    From 1.17 on IPsec is one of them, from 1.19 on BPF masquerading, which no longer needs NodePort.
    """
    return (
        node_port(settings, version)
        or settings.host_firewall
        or settings.wireguard
        or settings.l2_announcements
        or (settings.ipsec and version.has("ipsec-requires-devices"))
        or (settings.bpf_masquerade and version.has("masquerading-without-node-port"))
    )


def requires_direct_routing(settings: NodeView, version: Version) -> bool:
    """Does the datapath need a direct routing device? (pkg/option/config.go DirectRoutingDeviceRequired)"""
    host_routing = bpf_host_routing(settings, version)
    if not version.has("direct-routing-always"):
        host_routing = not settings.host_legacy_routing  # asked before the agent falls back to legacy host routing
    return node_port(settings, version) or host_routing or settings.wireguard


def masquerades(settings: NodeView) -> bool:
    """Populate takes masquerading of a family that is off for off (pkg/option/config.go)."""
    return (settings.enable_ipv4 and settings.ipv4_masquerade) or (settings.enable_ipv6 and settings.ipv6_masquerade)


def bpf_host_routing(settings: NodeView, version: Version) -> bool:
    """BPF host routing, or legacy: kube-proxy replacement and no iptables masquerading; up to 1.18 no IPsec either.

    daemon/cmd/kube_proxy_replacement.go finishKubeProxyReplacementInit, from 1.19 on pkg/kpr/initializer.
    """
    return (
        settings.kube_proxy_replacement
        and not settings.host_legacy_routing
        and not (settings.ipsec and version.has("ipsec-legacy-routing"))
        and not (masquerades(settings) and not settings.bpf_masquerade)
    )
