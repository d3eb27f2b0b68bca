"""Settings that an agent refuses to run with, in its own words, by version. Pure.

The words are those of the sources of 1.16.19, 1.17.12, 1.18.10, 1.19.0-rc.0, 1.20 and 1.21, without what wraps them
("unable to run agent: failed to start: …"); those of 1.18.10 and 1.20.0-dev were read in agents' logs too. The first
check that an agent comes to has the word, so their order is the agent's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from niclab.cilium.behaviours import Behaviour
from niclab.cilium.selection.direct_routing import DirectRouting
from niclab.cilium.selection.features import masquerades, node_port
from niclab.cilium.version import Version
from niclab.settings import NodeView
from niclab.settings.flags import agent_keys
from niclab.settings.values import parse_bool

_MASQUERADES = '(--enable-ipv4-masquerade="true" or --enable-ipv6-masquerade="true")'


@dataclass(frozen=True, slots=True)
class Refusal:
    """An agent's last words, and where Cilium has them: file and function."""

    words: str
    source: str


def _on(settings: NodeView, key: str, *, default: bool = False) -> bool:
    """A boolean that the view has no property for; `default` is the agent's."""
    value = parse_bool(settings.get(key))
    return default if value is None else value


def _tunnels(settings: NodeView) -> bool:
    return settings.routing_mode != "native"


def refused(settings: NodeView, version: Version, drd: DirectRouting | None = None) -> Refusal | None:
    """Why an agent with these settings exits, or None. `drd`: what it makes of its devices, where that is known."""
    for check in (*_OPTIONS, _before_devices):
        if refusal := check(settings, version):
            return refusal
    if drd is not None and drd.exits is not None:
        where = "daemon.go configureDaemon" if version.has(Behaviour.CHECKS_BEFORE_DEVICES) else "daemon.go newDaemon"
        return Refusal(drd.exits, f"daemon/cmd/{where}")
    return _after_devices(settings, version)


# Options that contradict each other: InitConfig and Populate (pkg/option/config.go), initEnv
# (daemon/cmd/daemon_main.go), Validate (config.go), in this order, before anything is started.

_POPULATE = "pkg/option/config.go Populate"
_INIT = "daemon/cmd/daemon_main.go initEnv"
_VALIDATE = "pkg/option/config.go Validate"
_DIRECT, _SKIP = "auto-direct-node-routes", "direct-routing-skip-unreachable"
_ROUTER = "local-router-ipv4 or local-router-ipv6"


def _values(settings: NodeView, version: Version) -> Refusal | None:
    """Values that a flag cannot have: of those that can be set here, words of 1.13 for a boolean of 1.19 on."""
    given = settings.get("kube-proxy-replacement")
    if not version.has(Behaviour.REPLACEMENT_IS_BOOLEAN) or parse_bool(given) is not None:
        return None
    return Refusal(
        f'Incorrect config-map flag value: option kube-proxy-replacement: strconv.ParseBool: parsing "{given}": '
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
    tproxy = version.has(Behaviour.BPF_TPROXY)
    if (
        _on(settings, "enable-l7-proxy", default=True)
        and not _on(settings, "install-iptables-rules", default=True)
        and not (tproxy and _on(settings, "enable-bpf-tproxy"))
    ):
        words = 'L7 proxy requires iptables rules (--install-iptables-rules="true")'
        return f'{words} or BPF TProxy (--enable-bpf-tproxy="true")' if tproxy else words
    return None


def _encryption(settings: NodeView, version: Version) -> str | None:
    """From 1.19 on these are daemon/cmd/daemon.go's: see `_encryption_at_start`."""
    if not version.has(Behaviour.CHECKS_BEFORE_DEVICES):
        if settings.ipsec and (words := _dns_proxy(settings)):
            return words
        if settings.ipsec and not settings.enable_ipv4 and version.has(Behaviour.IPSEC_NEEDS_IPV4):
            return 'IPSec requires IPv4 addressing to be enabled (--enable-ipv4="true")'
    elif _on(settings, "enable-remote-node-masquerade") and not settings.bpf_masquerade:
        return "Option enable-remote-node-masquerade requires BPF masquerade to be enabled (enable-bpf-masquerade)"
    return None


def _dns_proxy(settings: NodeView) -> str | None:
    """What IPsec wants of the DNS proxy."""
    if (
        _on(settings, "enable-l7-proxy", default=True)
        and not _on(settings, "dnsproxy-enable-transparent-mode")
        and not _on(settings, "dnsproxy-insecure-skip-transparent-mode-check")
    ):
        return 'IPSec requires DNS proxy transparent mode to be enabled (--dnsproxy-enable-transparent-mode="true")'
    return None


def _routes(settings: NodeView, version: Version) -> str | None:
    if settings.auto_direct_node_routes and _tunnels(settings):
        if not version.has(Behaviour.HYBRID_ROUTING):
            return f"{_DIRECT} cannot be used with tunneling. Packets must be routed through the tunnel device."
        return f"{_DIRECT} requires native or hybrid routing mode."
    if settings.host_firewall and settings.ipsec and not version.has(Behaviour.CHECKS_BEFORE_DEVICES):
        return "IPSec cannot be used with the host firewall."
    return _router(settings, version)


def _router(settings: NodeView, version: Version) -> str | None:
    if not (settings.get("local-router-ipv4") or settings.get("local-router-ipv6")):
        return None
    if _tunnels(settings):
        if not version.has(Behaviour.HYBRID_ROUTING):
            return f"Cannot specify {_ROUTER} in tunnel mode."
        return "local-router-ipv4 and local-router-ipv6 require native or hybrid routing mode."
    if not settings.endpoint_routes:
        return f"Cannot specify {_ROUTER}  without enable-endpoint-routes."
    if settings.ipsec and not version.has(Behaviour.CHECKS_BEFORE_DEVICES):
        return f"Cannot specify {_ROUTER} with enable-ipsec."
    return None


def _ipam(settings: NodeView, version: Version) -> str | None:
    if settings.ipam == "eni" and _tunnels(settings):
        return "Cannot specify IPAM mode eni in tunnel mode."
    if settings.ipam == "multi-pool" and not version.has(Behaviour.MULTI_POOL_IN_TUNNELS):
        if _tunnels(settings):
            return "Cannot specify IPAM mode multi-pool in tunnel mode."
        if settings.ipsec:
            return "Cannot specify IPAM mode multi-pool with enable-ipsec."
    native_ipsec = settings.ipam == "multi-pool" and settings.ipsec and not _tunnels(settings)
    if native_ipsec and version.has(Behaviour.MULTI_POOL_IPSEC_IN_TUNNELS_ONLY):
        return "IPAM mode multi-pool with enable-ipsec is supported only in tunnel mode."
    return None


def _conntrack(settings: NodeView) -> str | None:
    if _on(settings, "install-no-conntrack-iptables-rules"):
        if _tunnels(settings):
            return "install-no-conntrack-iptables-rules requires the agent to run in direct routing mode."
        if not settings.enable_ipv4:
            return "install-no-conntrack-iptables-rules requires IPv4 support."
    return None


def _validate(settings: NodeView, version: Version) -> Refusal | None:
    words = _eni(settings, version) or _native_cidr(settings) or _delegated(settings)
    return Refusal(words, _VALIDATE) if words else None


def _eni(settings: NodeView, version: Version) -> str | None:
    if settings.ipam == "eni" and settings.enable_ipv6 and not version.has(Behaviour.ENI_IPV6):
        return "IPv6 cannot be enabled in ENI IPAM mode"
    return None


def _native_cidr(settings: NodeView) -> str | None:
    """Native routing with masquerading needs to know what not to masquerade (checkIPv4NativeRoutingCIDR, …IPv6…)."""
    families = (
        ("4", settings.enable_ipv4, settings.ipv4_masquerade, settings.ipv4_native_routing_cidr),
        ("6", settings.enable_ipv6, settings.ipv6_masquerade, settings.ipv6_native_routing_cidr),
    )
    if _tunnels(settings) or settings.ip_masq_agent or settings.ipam in ("eni", "alibabacloud"):
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
    if _on(settings, "enable-endpoint-health-checking", default=True):
        return f"--enable-endpoint-health-checking must be disabled {with_ipam}"
    if _on(settings, "enable-envoy-config"):
        return f"--enable-envoy-config must be disabled {with_ipam}"
    return None


_OPTIONS = (_values, _populate, _init_env, _validate)


# Features that cannot run together. Up to 1.18 most are daemon/cmd/daemon.go's newDaemon, some of them after it has
# looked for a direct routing device; from 1.19 on initAndValidateDaemonConfig has them all before.

_IPTABLES = "install-no-conntrack-iptables-rules requires the agent to run with"
_BPF = "unable to initialize BPF masquerade support: "
_KPR = "unable to initialize kube-proxy replacement options: "


def _before_devices(settings: NodeView, version: Version) -> Refusal | None:
    """The checks of cells, encryption and kube-proxy replacement; from 1.19 on those of masquerading too."""
    checks = (_replacement, _source_range, _encryption_at_start, _egress_gateway, _node_port)
    every = (*checks, _masquerading) if version.has(Behaviour.CHECKS_BEFORE_DEVICES) else checks
    return next((refusal for check in every if (refusal := check(settings, version))), None)


def _after_devices(settings: NodeView, version: Version) -> Refusal | None:
    """What is left up to 1.18 when there is a direct routing device.

    There are words for a host firewall without devices, but no agent comes to say them: without a device there is no
    direct routing device either, which a host firewall requires.
    """
    return None if version.has(Behaviour.CHECKS_BEFORE_DEVICES) else _masquerading(settings, version)


def _replacement(settings: NodeView, version: Version) -> Refusal | None:
    given = settings.get("kube-proxy-replacement")
    if version.has(Behaviour.REPLACEMENT_IS_BOOLEAN) or given in ("true", "false"):
        return None
    if not version.has(Behaviour.REPLACEMENT_BY_KPR):
        words = f"{_KPR}Invalid value for --kube-proxy-replacement: {given}"
        return Refusal(words, "daemon/cmd/kube_proxy_replacement.go initKubeProxyReplacementOptions")
    return Refusal("invalid value for kube-proxy-replacement", "pkg/kpr/kpr.go NewKPRConfig")


def _source_range(settings: NodeView, version: Version) -> Refusal | None:
    """iptables masquerade what is from a pod CIDR, and other IPAM modes have none (9b3cdde533, 1.19)."""
    by_iptables = masquerades(settings) and not settings.bpf_masquerade
    if (
        not version.has(Behaviour.MASQUERADING_NEEDS_POD_CIDR)
        or not by_iptables
        or settings.egress_masquerade_interfaces
    ):
        return None
    if settings.ipam in ("cluster-pool", "kubernetes"):
        return None
    return Refusal(
        "panic: Egress masquerading interfaces cannot be empty when IP masquerading is enabled with IPAM mode other "
        "than ClusterPool or Kubernetes",
        "pkg/datapath/iptables/iptables.go newIptablesManager",
    )


def _encryption_at_start(settings: NodeView, version: Version) -> Refusal | None:
    source = "daemon/cmd/daemon.go initAndValidateDaemonConfig"
    if settings.wireguard and settings.ipsec:
        old = "pkg/datapath/cells.go newWireguardAgent"
        words = "WireGuard (--enable-wireguard) cannot be used with IPsec (--enable-ipsec)"
        return Refusal(words, source if version.has(Behaviour.CHECKS_BEFORE_DEVICES) else old)
    if not version.has(Behaviour.CHECKS_BEFORE_DEVICES) or not settings.ipsec:
        return None
    words = _dns_proxy(settings) or ""
    if not words and settings.host_firewall:
        words = "IPSec cannot be used with the host firewall."
    if not words and (settings.get("local-router-ipv4") or settings.get("local-router-ipv6")):
        words = "Cannot specify local-router-ipv4 or local-router-ipv6 with enable-ipsec."
    return Refusal(words, source) if words else None


def _egress_gateway(settings: NodeView, version: Version) -> Refusal | None:
    """`identity-allocation-mode` counts where it is set: the agent's default is kvstore, that of the charts crd."""
    wanted = (version.has(Behaviour.EGRESS_GATEWAY_OPTION) and _on(settings, "enable-egress-gateway")) or (
        version.has(Behaviour.EGRESS_GATEWAY_IPV4_OPTION) and _on(settings, "enable-ipv4-egress-gateway")
    )
    if not wanted:
        return None
    words = None
    mode = settings.get("identity-allocation-mode") or "crd"
    any_but_crd = version.has(Behaviour.EGRESS_GATEWAY_NEEDS_CRD)
    if mode != "crd" and (mode == "kvstore" or any_but_crd):
        mode = mode if any_but_crd else "KV store"
        words = f"egress gateway is not supported in {mode} identity allocation mode"
    elif _on(settings, "enable-cilium-endpoint-slice"):
        words = "egress gateway is not supported in combination with the CiliumEndpointSlice feature"
    elif not (settings.enable_ipv4 and settings.ipv4_masquerade and settings.bpf_masquerade):
        words = 'egress gateway requires --enable-ipv4-masquerade="true" and --enable-bpf-masquerade="true"'
    elif version.has(Behaviour.EGRESS_GATEWAY_IPV4_UNDERLAY) and settings.get("underlay-protocol") == "ipv6":
        words = "egress gateway requires an IPv4 underlay"
    return Refusal(words, "pkg/egressgateway/manager.go NewEgressGatewayManager") if words else None


def _node_port(settings: NodeView, version: Version) -> Refusal | None:
    words = _direct_server_return(settings, version) if node_port(settings, version) else None
    words = words or _no_conntrack(settings, version)
    if words is not None:
        file = "pkg/kpr/initializer" if version.has(Behaviour.CHECKS_BEFORE_DEVICES) else "daemon/cmd"
        return Refusal(f"{_KPR}{words}", f"{file}/kube_proxy_replacement.go initKubeProxyReplacementOptions")
    iptables = _on(settings, "install-iptables-rules", default=True)
    needs = version.has(Behaviour.NEEDS_IPTABLES_RULES) and not iptables
    if needs and (settings.kube_proxy_replacement or settings.bpf_masquerade):
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
    if _tunnels(settings) and settings.tunnel_protocol == "vxlan":
        return f'Node Port "{mode}" mode cannot be used with vxlan tunneling.'
    if _tunnels(settings) and dispatch != "geneve":
        return f'Tunnel routing with Node Port "{mode}" mode requires geneve dispatch.'
    if dispatch == "geneve" and settings.tunnel_protocol != "geneve":
        shown = f'"{dispatch}"' if version.has(Behaviour.QUOTED_DISPATCH) else dispatch
        return f'Node Port "{mode}" mode with {shown} dispatch requires geneve tunnel protocol.'
    return None


def _no_conntrack(settings: NodeView, version: Version) -> str | None:
    if not _on(settings, "install-no-conntrack-iptables-rules"):
        return None
    if not settings.kube_proxy_replacement:
        return f"{_IPTABLES} kube-proxy-replacement{'' if version.has(Behaviour.REPLACEMENT_IS_BOOLEAN) else '=true'}."
    if masquerades(settings) and not settings.bpf_masquerade:
        return f"{_IPTABLES} enable-bpf-masquerade."
    return None


def _masquerading(settings: NodeView, version: Version) -> Refusal | None:
    words = _masquerading_words(settings, version)
    where = "initAndValidateDaemonConfig" if version.has(Behaviour.CHECKS_BEFORE_DEVICES) else "newDaemon"
    return Refusal(words, f"daemon/cmd/daemon.go {where}") if words else None


def _masquerading_words(settings: NodeView, version: Version) -> str | None:
    if settings.bpf_masquerade and masquerades(settings):
        if not version.has(Behaviour.MASQUERADING_WITHOUT_NODE_PORT) and not node_port(settings, version):
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
        return f'BPF ip-masq-agent requires {_MASQUERADES} and --enable-bpf-masquerade="true"'
    if settings.bpf_masquerade:
        return f"BPF masquerade requires {_MASQUERADES}"
    return None


_FIXES = (
    (
        "unable to determine direct routing device",
        "select the device that has the node IP (devices), or name a selected one (direct-routing-device)",
    ),
    (
        "auto-direct-node-routes",
        "set routing-mode=native with ipv4-native-routing-cidr, or leave auto-direct-node-routes out",
    ),
    ("native routing cidr must be configured", "set ipv4-native-routing-cidr to the range that holds every pod CIDR"),
    ("BPF ip-masq-agent requires", "set enable-bpf-masquerade=true and enable-ipv4-masquerade=true"),
    ("BPF masquerade requires", "set enable-ipv4-masquerade=true, or leave enable-bpf-masquerade out"),
    (
        "BPF masquerading to route source",
        "set enable-bpf-masquerade=false, or leave enable-masquerade-to-route-source out",
    ),
    ("BPF masquerade does not allow to specify devices", "use devices, not egress-masquerade-interfaces"),
    ("Either IPv4 or IPv6 addressing must be enabled", "set enable-ipv4=true or enable-ipv6=true"),
    ("Host firewall's external facing device", "name the devices (devices): none is selected"),
)


_FLAG = re.compile(r"(?:--|\b)([a-z0-9]+(?:-[a-z0-9]+)+)\b")


def fix(exits: str) -> str:
    """How an agent that exits with these words is made to run: as is known here, else by the flags that they name."""
    known = next((fix for part, fix in _FIXES if part in exits), "")
    flags = list(dict.fromkeys(flag for flag in _FLAG.findall(exits) if flag in agent_keys()))
    return known or (f"tell it otherwise: {', '.join(flags)}" if flags else "")
