"""Refusals before anything is started: flags that contradict each other. Pure.

In the agent's order: InitConfig and Populate (pkg/option/config.go), initEnv (daemon/cmd/daemon_main.go), Validate
(config.go).
"""

from __future__ import annotations

from niclab.cilium.refusals.model import Refusal, on, tunnels
from niclab.cilium.selection import Version
from niclab.settings import NodeView
from niclab.settings.values import parse_bool

_POPULATE = "pkg/option/config.go Populate"
_INIT = "daemon/cmd/daemon_main.go initEnv"
_VALIDATE = "pkg/option/config.go Validate"
_DIRECT, _SKIP = "auto-direct-node-routes", "direct-routing-skip-unreachable"
_ROUTER = "local-router-ipv4 or local-router-ipv6"


def _values(settings: NodeView, version: Version) -> Refusal | None:
    """Values that a flag cannot have: of those that can be set here, words of 1.13 for a boolean of 1.19 on."""
    reported = settings.get("kube-proxy-replacement")
    if version < (1, 19) or parse_bool(reported) is not None:
        return None
    return Refusal(
        f'Incorrect config-map flag value: option kube-proxy-replacement: strconv.ParseBool: parsing "{reported}": '
        "invalid syntax",
        "pkg/option/config.go InitConfig",
    )


def _populate(settings: NodeView, _version: Version) -> Refusal | None:
    if settings.direct_routing_skip_unreachable and not settings.auto_direct_node_routes:
        return Refusal(
            f"Flag {_SKIP} cannot be enabled when {_DIRECT} is not enabled. As if {_DIRECT} is then enabled, it may "
            "lead to unexpected behaviour causing network connectivity issues.",
            _POPULATE,
        )
    return None


def _init_env(settings: NodeView, version: Version) -> Refusal | None:
    words = (
        _families(settings)
        or _proxy(settings, version)
        or _encryption(settings, version)
        or _routes(settings, version)
        or _ipam(settings, version)
        or _conntrack(settings)
    )
    return Refusal(words, _INIT) if words else None


def _families(settings: NodeView) -> str | None:
    if not settings.enable_ipv4 and not settings.enable_ipv6:
        return "Either IPv4 or IPv6 addressing must be enabled"
    return None


def _proxy(settings: NodeView, version: Version) -> str | None:
    tproxy = version >= (1, 20)
    if (
        on(settings, "enable-l7-proxy", default=True)
        and not on(settings, "install-iptables-rules", default=True)
        and not (tproxy and on(settings, "enable-bpf-tproxy"))
    ):
        words = 'L7 proxy requires iptables rules (--install-iptables-rules="true")'
        return f'{words} or BPF TProxy (--enable-bpf-tproxy="true")' if tproxy else words
    return None


def _encryption(settings: NodeView, version: Version) -> str | None:
    """From 1.19 on these are daemon/cmd/daemon.go's: see `start`."""
    if version < (1, 19):
        if settings.ipsec and (words := dns_proxy(settings)):
            return words
        if settings.ipsec and not settings.enable_ipv4 and version < (1, 18):
            return 'IPSec requires IPv4 addressing to be enabled (--enable-ipv4="true")'
    elif on(settings, "enable-remote-node-masquerade") and not settings.bpf_masquerade:
        return "Option enable-remote-node-masquerade requires BPF masquerade to be enabled (enable-bpf-masquerade)"
    return None


def dns_proxy(settings: NodeView) -> str | None:
    """What IPsec wants of the DNS proxy."""
    if (
        on(settings, "enable-l7-proxy", default=True)
        and not on(settings, "dnsproxy-enable-transparent-mode")
        and not on(settings, "dnsproxy-insecure-skip-transparent-mode-check")
    ):
        return 'IPSec requires DNS proxy transparent mode to be enabled (--dnsproxy-enable-transparent-mode="true")'
    return None


def _routes(settings: NodeView, version: Version) -> str | None:
    if settings.auto_direct_node_routes and tunnels(settings):
        if version < (1, 20):
            return f"{_DIRECT} cannot be used with tunneling. Packets must be routed through the tunnel device."
        return f"{_DIRECT} requires native or hybrid routing mode."
    if settings.host_firewall and settings.ipsec and version < (1, 19):
        return "IPSec cannot be used with the host firewall."
    return _router(settings, version)


def _router(settings: NodeView, version: Version) -> str | None:
    if not (settings.get("local-router-ipv4") or settings.get("local-router-ipv6")):
        return None
    if tunnels(settings):
        if version < (1, 20):
            return f"Cannot specify {_ROUTER} in tunnel mode."
        return "local-router-ipv4 and local-router-ipv6 require native or hybrid routing mode."
    if not settings.endpoint_routes:
        return f"Cannot specify {_ROUTER}  without enable-endpoint-routes."
    if settings.ipsec and version < (1, 19):
        return f"Cannot specify {_ROUTER} with enable-ipsec."
    return None


def _ipam(settings: NodeView, version: Version) -> str | None:
    if settings.ipam == "eni" and tunnels(settings):
        return "Cannot specify IPAM mode eni in tunnel mode."
    if settings.ipam == "multi-pool" and version < (1, 18):
        if tunnels(settings):
            return "Cannot specify IPAM mode multi-pool in tunnel mode."
        if settings.ipsec:
            return "Cannot specify IPAM mode multi-pool with enable-ipsec."
    if settings.ipam == "multi-pool" and settings.ipsec and not tunnels(settings) and version < (1, 19):
        return "IPAM mode multi-pool with enable-ipsec is supported only in tunnel mode."
    return None


def _conntrack(settings: NodeView) -> str | None:
    if on(settings, "install-no-conntrack-iptables-rules"):
        if tunnels(settings):
            return "install-no-conntrack-iptables-rules requires the agent to run in direct routing mode."
        if not settings.enable_ipv4:
            return "install-no-conntrack-iptables-rules requires IPv4 support."
    return None


def _validate(settings: NodeView, version: Version) -> Refusal | None:
    words = _eni(settings, version) or _native_cidr(settings) or _delegated(settings)
    return Refusal(words, _VALIDATE) if words else None


def _eni(settings: NodeView, version: Version) -> str | None:
    if settings.ipam == "eni" and settings.enable_ipv6 and version < (1, 20):
        return "IPv6 cannot be enabled in ENI IPAM mode"
    return None


def _native_cidr(settings: NodeView) -> str | None:
    """Native routing with masquerading needs to know what not to masquerade (checkIPv4NativeRoutingCIDR, …IPv6…)."""
    families = (
        ("4", settings.enable_ipv4, settings.ipv4_masquerade, settings.ipv4_native_routing_cidr),
        ("6", settings.enable_ipv6, settings.ipv6_masquerade, settings.ipv6_native_routing_cidr),
    )
    if tunnels(settings) or settings.ip_masq_agent or settings.ipam in ("eni", "alibabacloud"):
        return None
    for family, enabled, masquerading, cidr in families:
        if enabled and masquerading and cidr is None:
            return (
                f"native routing cidr must be configured with option --ipv{family}-native-routing-cidr in combination "
                f"with --enable-ipv{family}=true --enable-ipv{family}-masquerade=true --enable-ip-masq-agent=false "
                f"--routing-mode=native --ipam={settings.ipam}"
            )
    return None


def _delegated(settings: NodeView) -> str | None:
    """With IPAM by a plugin the agent allocates no address for itself (checkIPAMDelegatedPlugin)."""
    if settings.ipam != "delegated-plugin":
        return None
    with_ipam = "with --ipam=delegated-plugin"
    for family, enabled in (("4", settings.enable_ipv4), ("6", settings.enable_ipv6)):
        if enabled and not settings.get(f"local-router-ipv{family}"):
            given = f"{with_ipam.removeprefix('with ')}"
            return f"--local-router-ipv{family} must be provided when IPv{family} is enabled with {given}"
    if on(settings, "enable-endpoint-health-checking", default=True):
        return f"--enable-endpoint-health-checking must be disabled {with_ipam}"
    if on(settings, "enable-envoy-config"):
        return f"--enable-envoy-config must be disabled {with_ipam}"
    return None


OPTIONS = (_values, _populate, _init_env, _validate)
"""The checks of options in their order."""
