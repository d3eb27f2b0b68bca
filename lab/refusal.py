"""Settings that an agent refuses to run with, in its own words. Pure.

The words are those of agents of 1.18.10 and 1.20.0-dev, read in their logs; the checks are those of
pkg/option/config.go (Validate), daemon/cmd/daemon.go and daemon_main.go.
"""

from __future__ import annotations

from lab.selection import Version
from lab.settings import NodeView

_BPF_WITH_DEVICES = (
    "unable to initialize BPF masquerade support: BPF masquerade does not allow to specify devices via "
    "--egress-masquerade-interfaces (use --devices instead)"
)
_BPF_TO_ROUTE_SOURCE = (
    'BPF masquerading to route source (--enable-masquerade-to-route-source="true") currently not supported '
    'with BPF-based masquerading (--enable-bpf-masquerade="true")'
)
_MASQUERADES = '(--enable-ipv4-masquerade="true" or --enable-ipv6-masquerade="true")'


def refusal(settings: NodeView, version: Version) -> str | None:
    """The last words of an agent that is told this, or None; what needs devices is `selection.direct_routing`'s."""
    if not settings.enable_ipv4 and not settings.enable_ipv6:
        return "Either IPv4 or IPv6 addressing must be enabled"
    native = settings.routing_mode == "native"
    if settings.auto_direct_node_routes and not native:
        if version <= (1, 18):
            return (
                "auto-direct-node-routes cannot be used with tunneling. "
                "Packets must be routed through the tunnel device."
            )
        return "auto-direct-node-routes requires native or hybrid routing mode."
    if native and (words := _without_native_cidr(settings)):
        return words
    masquerades = (settings.enable_ipv4 and settings.ipv4_masquerade) or (
        settings.enable_ipv6 and settings.ipv6_masquerade
    )
    if settings.ip_masq_agent and not (settings.bpf_masquerade and masquerades) and version <= (1, 18):
        return f'BPF ip-masq-agent requires {_MASQUERADES} and --enable-bpf-masquerade="true"'
    if settings.bpf_masquerade:
        if not masquerades:
            return f"BPF masquerade requires {_MASQUERADES}"
        if settings.masquerade_to_route_source:
            return _BPF_TO_ROUTE_SOURCE
        if settings.egress_masquerade_interfaces:
            return _BPF_WITH_DEVICES
    return None


def _without_native_cidr(settings: NodeView) -> str | None:
    """Native routing with masquerading needs to know what not to masquerade (pkg/option/config.go)."""
    families = (
        ("4", settings.enable_ipv4, settings.ipv4_masquerade, settings.ipv4_native_routing_cidr),
        ("6", settings.enable_ipv6, settings.ipv6_masquerade, settings.ipv6_native_routing_cidr),
    )
    if settings.ip_masq_agent or settings.ipam in ("eni", "alibabacloud"):
        return None
    for family, enabled, masquerades, cidr in families:
        if enabled and masquerades and cidr is None:
            return (
                f"native routing cidr must be configured with option --ipv{family}-native-routing-cidr in combination "
                f"with --enable-ipv{family}=true --enable-ipv{family}-masquerade=true --enable-ip-masq-agent=false "
                f"--routing-mode=native --ipam={settings.ipam}"
            )
    return None
