"""Refusals while an agent starts: features that cannot run together. Pure.

Up to 1.18 most are daemon/cmd/daemon.go's newDaemon, some of them after it has looked for a direct routing device;
from 1.19 on initAndValidateDaemonConfig has them all before.
"""

from __future__ import annotations

from niclab.cilium.refusals.model import MASQUERADES, Refusal, on, tunnels
from niclab.cilium.refusals.options import dns_proxy
from niclab.cilium.selection import Version, node_port
from niclab.cilium.selection.features import masquerades
from niclab.settings import NodeView

_IPTABLES = "install-no-conntrack-iptables-rules requires the agent to run with"
_BPF = "unable to initialize BPF masquerade support: "
_KPR = "unable to initialize kube-proxy replacement options: "


def before_devices(settings: NodeView, version: Version) -> Refusal | None:
    """The checks of cells, encryption and kube-proxy replacement; from 1.19 on those of masquerading too."""
    checks = (_replacement, _source_range, _encryption, _egress_gateway, _node_port)
    for check in checks if version < (1, 19) else (*checks, _masquerading):
        if found := check(settings, version):
            return found
    return None


def after_devices(settings: NodeView, version: Version) -> Refusal | None:
    """What is left up to 1.18 when there is a direct routing device.

    There are words for a host firewall without devices, but no agent comes to say them: without a device there is no
    direct routing device either, which a host firewall requires.
    """
    return _masquerading(settings, version) if version < (1, 19) else None


def _replacement(settings: NodeView, version: Version) -> Refusal | None:
    reported = settings.get("kube-proxy-replacement")
    if version >= (1, 19) or reported in ("true", "false"):
        return None
    if version < (1, 18):
        words = f"{_KPR}Invalid value for --kube-proxy-replacement: {reported}"
        return Refusal(words, "daemon/cmd/kube_proxy_replacement.go initKubeProxyReplacementOptions")
    return Refusal("invalid value for kube-proxy-replacement", "pkg/kpr/kpr.go NewKPRConfig")


def _source_range(settings: NodeView, version: Version) -> Refusal | None:
    """iptables masquerade what is from a pod CIDR, and other IPAM modes have none (9b3cdde533, 1.19)."""
    by_iptables = masquerades(settings) and not settings.bpf_masquerade
    if version < (1, 19) or not by_iptables or settings.egress_masquerade_interfaces:
        return None
    if settings.ipam in ("cluster-pool", "kubernetes"):
        return None
    return Refusal(
        "panic: Egress masquerading interfaces cannot be empty when IP masquerading is enabled with IPAM mode other "
        "than ClusterPool or Kubernetes",
        "pkg/datapath/iptables/iptables.go newIptablesManager",
    )


def _encryption(settings: NodeView, version: Version) -> Refusal | None:
    source = "daemon/cmd/daemon.go initAndValidateDaemonConfig"
    if settings.wireguard and settings.ipsec:
        old = "pkg/datapath/cells.go newWireguardAgent"
        words = "WireGuard (--enable-wireguard) cannot be used with IPsec (--enable-ipsec)"
        return Refusal(words, old if version < (1, 19) else source)
    if version < (1, 19) or not settings.ipsec:
        return None
    words = dns_proxy(settings) or ""
    if not words and settings.host_firewall:
        words = "IPSec cannot be used with the host firewall."
    if not words and (settings.get("local-router-ipv4") or settings.get("local-router-ipv6")):
        words = "Cannot specify local-router-ipv4 or local-router-ipv6 with enable-ipsec."
    return Refusal(words, source) if words else None


def _egress_gateway(settings: NodeView, version: Version) -> Refusal | None:
    """`identity-allocation-mode` counts where it is said: the agent's default is kvstore, the charts say crd."""
    wanted = (version >= (1, 18) and on(settings, "enable-egress-gateway")) or (
        version < (1, 19) and on(settings, "enable-ipv4-egress-gateway")
    )
    if not wanted:
        return None
    words = None
    mode = settings.get("identity-allocation-mode") or "crd"
    if mode != "crd" and (mode == "kvstore" or version >= (1, 17)):
        mode = "KV store" if version < (1, 17) else mode
        words = f"egress gateway is not supported in {mode} identity allocation mode"
    elif on(settings, "enable-cilium-endpoint-slice"):
        words = "egress gateway is not supported in combination with the CiliumEndpointSlice feature"
    elif not (settings.enable_ipv4 and settings.ipv4_masquerade and settings.bpf_masquerade):
        words = 'egress gateway requires --enable-ipv4-masquerade="true" and --enable-bpf-masquerade="true"'
    elif version >= (1, 19) and settings.get("underlay-protocol") == "ipv6":
        words = "egress gateway requires an IPv4 underlay"
    return Refusal(words, "pkg/egressgateway/manager.go NewEgressGatewayManager") if words else None


def _node_port(settings: NodeView, version: Version) -> Refusal | None:
    words = _direct_server_return(settings, version) if node_port(settings, version) else None
    words = words or _no_conntrack(settings, version)
    if words is not None:
        file = "daemon/cmd" if version < (1, 19) else "pkg/kpr/initializer"
        return Refusal(f"{_KPR}{words}", f"{file}/kube_proxy_replacement.go initKubeProxyReplacementOptions")
    iptables = on(settings, "install-iptables-rules", default=True)
    if version >= (1, 20) and (settings.kube_proxy_replacement or settings.bpf_masquerade) and not iptables:
        return Refusal(
            "kube-proxy replacement (--kube-proxy-replacement) or BPF masquerade (--enable-bpf-masquerade) requires "
            'iptables rules (--install-iptables-rules="true")',
            "daemon/cmd/daemon.go initAndValidateDaemonConfig",
        )
    return None


def _direct_server_return(settings: NodeView, version: Version) -> str | None:
    mode = settings.get("bpf-lb-mode") or "snat"
    if mode == "snat":
        return None
    dispatch = settings.get("bpf-lb-dsr-dispatch") or "opt"
    if tunnels(settings) and settings.tunnel_protocol == "vxlan":
        return f'Node Port "{mode}" mode cannot be used with vxlan tunneling.'
    if tunnels(settings) and dispatch != "geneve":
        return f'Tunnel routing with Node Port "{mode}" mode requires geneve dispatch.'
    if dispatch == "geneve" and settings.tunnel_protocol != "geneve":
        shown = dispatch if version < (1, 18) else f'"{dispatch}"'
        return f'Node Port "{mode}" mode with {shown} dispatch requires geneve tunnel protocol.'
    return None


def _no_conntrack(settings: NodeView, version: Version) -> str | None:
    if not on(settings, "install-no-conntrack-iptables-rules"):
        return None
    if not settings.kube_proxy_replacement:
        return f"{_IPTABLES} kube-proxy-replacement{'=true' if version < (1, 19) else ''}."
    if masquerades(settings) and not settings.bpf_masquerade:
        return f"{_IPTABLES} enable-bpf-masquerade."
    return None


def _masquerading(settings: NodeView, version: Version) -> Refusal | None:
    words = _masquerading_words(settings, version)
    where = "newDaemon" if version < (1, 19) else "initAndValidateDaemonConfig"
    return Refusal(words, f"daemon/cmd/daemon.go {where}") if words else None


def _masquerading_words(settings: NodeView, version: Version) -> str | None:
    if settings.bpf_masquerade and masquerades(settings):
        if version < (1, 19) and not node_port(settings, version):
            return f'{_BPF}BPF masquerade requires NodePort (--enable-node-port="true")'
        if settings.egress_masquerade_interfaces:
            return (
                f"{_BPF}BPF masquerade does not allow to specify devices via --egress-masquerade-interfaces "
                "(use --devices instead)"
            )
        if settings.masquerade_to_route_source:
            return (
                'BPF masquerading to route source (--enable-masquerade-to-route-source="true") currently not supported '
                'with BPF-based masquerading (--enable-bpf-masquerade="true")'
            )
        return None
    if settings.ip_masq_agent:
        return f'BPF ip-masq-agent requires {MASQUERADES} and --enable-bpf-masquerade="true"'
    if settings.bpf_masquerade:
        return f"BPF masquerade requires {MASQUERADES}"
    return None
