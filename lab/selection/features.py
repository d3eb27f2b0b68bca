"""What features make of the selected devices: whether they need one, and how packets leave the host. Pure."""

from __future__ import annotations

from lab.settings import NodeView


def requires_devices(settings: NodeView) -> bool:
    """DaemonConfig.AreDevicesRequired (pkg/option/config.go): features that cannot run without a device."""
    return (
        settings.kube_proxy_replacement
        or settings.host_firewall
        or settings.wireguard
        or settings.l2_announcements
        or settings.ipsec
    )


def bpf_host_routing(settings: NodeView) -> bool:
    """BPF host routing, or legacy: NodePort, no IPsec, no iptables masquerading (kube_proxy_replacement.go)."""
    iptables_masquerading = (settings.ipv4_masquerade or settings.ipv6_masquerade) and not settings.bpf_masquerade
    return (
        settings.kube_proxy_replacement
        and not settings.host_legacy_routing
        and not settings.ipsec
        and not iptables_masquerading
    )
