"""What features make of the selected devices: whether they need one, and how packets leave the host. Pure."""

from __future__ import annotations

from niclab.cilium.behaviours import Behaviour
from niclab.cilium.version import Version
from niclab.settings import NodeView
from niclab.settings.flags import parse_bool


def node_port(settings: NodeView, version: Version) -> bool:
    """Are services on nodes' addresses Cilium's? Up to 1.18 `enable-node-port` alone could say so (pkg/kpr/kpr.go)."""
    alone = version.has(Behaviour.NODE_PORT_OPTION) and parse_bool(settings.get("enable-node-port")) is True
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
        or (settings.ipsec and version.has(Behaviour.IPSEC_REQUIRES_DEVICES))
        or (settings.bpf_masquerade and version.has(Behaviour.MASQUERADING_WITHOUT_NODE_PORT))
    )


def requires_direct_routing(settings: NodeView, version: Version) -> bool:
    """Does the datapath need a direct routing device? (pkg/option/config.go DirectRoutingDeviceRequired)"""
    host_routing = bpf_host_routing(settings, version)
    if not version.has(Behaviour.DIRECT_ROUTING_ALWAYS):
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
        and not (settings.ipsec and version.has(Behaviour.IPSEC_LEGACY_ROUTING))
        and not (masquerades(settings) and not settings.bpf_masquerade)
    )
