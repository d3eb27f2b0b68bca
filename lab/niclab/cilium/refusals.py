"""Settings that an agent refuses to run with, in its own words, by version. Pure.

The words are those of the sources of 1.16.19, 1.17.12, 1.18.10, 1.19.0-rc.0, 1.20 and 1.21, without what wraps them
("unable to run agent: failed to start: …"); those of 1.18.10 and 1.20.0-dev were read in agents' logs too. The first
check that an agent comes to has the word, so their order is the agent's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from niclab.cilium.selection.direct_routing import DirectRouting, masquerades, node_port
from niclab.cilium.selection.links import Link
from niclab.cilium.tables import paragraphs
from niclab.cilium.version import Version
from niclab.settings import NodeView
from niclab.settings.flags import agent_keys, parse_bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """An agent's last words, and where Cilium has them: file and function."""

    words: str
    source: str


def refused(
    settings: NodeView, version: Version, drd: DirectRouting | None = None, devices: Sequence[Link] = ()
) -> Refusal | None:
    """Why an agent with these settings exits, or None. `drd`: what it makes of its devices, where that is known;
    `devices`: those it selected."""
    return next(_refusals(settings, version, drd, devices), None)


def without_xdp(devices: Sequence[Link]) -> tuple[str, ...]:
    """Those of the devices that no XDP program can be attached to in their driver [kernel]: drivers without ndo_bpf.

    What a machine has is taken to have it. Cilium's own WireGuard device is passed over (reinitializeXDPLocked).
    """
    return tuple(link.name for link in devices if link.kind in _WITHOUT_XDP and not link.name.startswith("cilium_"))


_WITHOUT_XDP = frozenset({"vlan", "macvlan", "ipvlan", "dummy", "vrf", "bridge", "wireguard", "geneve", "vxlan", "gre"})


def _refusals(
    settings: NodeView, version: Version, drd: DirectRouting | None, devices: Sequence[Link]
) -> Iterator[Refusal]:
    """Everything that is wrong, as the agent comes to it. Every function here yields its words in the agent's order.

    First are options that contradict each other, before anything is started; then features that cannot run together. Up
    to 1.18 most of these are daemon/cmd/daemon.go's newDaemon, those of masquerading after it has looked for a direct
    routing device; from 1.19 on initAndValidateDaemonConfig has them all before. There are words for a host firewall
    without devices, but no agent comes to say them: without a device there is no direct routing device either.
    """
    at_start = version.has("checks-before-devices")
    daemon = f"daemon/cmd/daemon.go {'initAndValidateDaemonConfig' if at_start else 'newDaemon'}"
    replacement = "pkg/kpr/kpr.go NewKPRConfig"
    if not version.has("replacement-by-kpr"):
        replacement = "daemon/cmd/kube_proxy_replacement.go initKubeProxyReplacementOptions"
    node_ports = f"{'pkg/kpr/initializer' if at_start else 'daemon/cmd'}/kube_proxy_replacement.go"
    checks = [
        (_values, "pkg/option/config.go InitConfig"),
        (_populate, "pkg/option/config.go Populate"),
        (_init_env, "daemon/cmd/daemon_main.go initEnv"),
        (_validate, "pkg/option/config.go Validate"),
        (_replacement, replacement),
        (_underlay, "pkg/datapath/tunnel/tunnel.go newConfig"),
        (_source_range, "pkg/datapath/iptables/iptables.go newIptablesManager"),
        (_wireguard, daemon if at_start else "pkg/datapath/cells.go newWireguardAgent"),
        (_ipsec, daemon),
        (_egress_gateway, "pkg/egressgateway/manager.go NewEgressGatewayManager"),
        (_netkit, "pkg/datapath/connector/config.go canUseNetkit"),
        (_node_port, f"{node_ports} initKubeProxyReplacementOptions"),
        (_iptables_rules, daemon),
    ]
    for check, source in [*checks, (_masquerading, daemon)] if at_start else checks:
        yield from (Refusal(words, source) for words in check(settings, version))
    if drd is not None and drd.exits is not None:
        yield Refusal(drd.exits, f"daemon/cmd/daemon.go {'configureDaemon' if at_start else 'newDaemon'}")
    yield from (Refusal(words, daemon) for words in _masquerading(settings, version))
    if settings.get("bpf-lb-acceleration") == "native":
        # The datapath is not made, and the agent never gets ready: Kubernetes restarts it.
        for name in without_xdp(devices):
            words = f"attaching XDP program to interface {name}: operation not supported"
            yield Refusal(words, "pkg/datapath/loader/base.go reinitializeXDPLocked")


def _on(settings: NodeView, key: str, *, default: bool = False) -> bool:
    """A boolean that the view has no property for; `default` is the agent's."""
    value = parse_bool(settings.get(key))
    return default if value is None else value


def _tunnels(settings: NodeView) -> bool:
    return settings.routing_mode != "native"


def _values(settings: NodeView, version: Version) -> Iterator[str]:
    """Values that a flag cannot have: of those that can be set here, words of 1.13 for a boolean of 1.19 on."""
    given = settings.get("kube-proxy-replacement")
    if version.has("replacement-is-boolean") and parse_bool(given) is None:
        yield (
            f'Incorrect config-map flag value: option kube-proxy-replacement: strconv.ParseBool: parsing "{given}": '
            "invalid syntax"
        )


_DIRECT, _SKIP = "auto-direct-node-routes", "direct-routing-skip-unreachable"
_ROUTER = "local-router-ipv4 or local-router-ipv6"


def _populate(settings: NodeView, _: Version) -> Iterator[str]:
    if settings.direct_routing_skip_unreachable and not settings.auto_direct_node_routes:
        yield (
            f"Flag {_SKIP} cannot be enabled when {_DIRECT} is not enabled. As if {_DIRECT} is then enabled, it may "
            "lead to unexpected behaviour causing network connectivity issues."
        )


def _init_env(settings: NodeView, version: Version) -> Iterator[str]:
    """From 1.19 on what is about IPsec is daemon/cmd/daemon.go's: see `_ipsec`."""
    early_ipsec = settings.ipsec and not version.has("checks-before-devices")
    if not settings.enable_ipv4 and not settings.enable_ipv6:
        yield "Either IPv4 or IPv6 addressing must be enabled"
    proxies = _on(settings, "enable-l7-proxy", default=True)
    if proxies and not _on(settings, "install-iptables-rules", default=True):
        words = 'L7 proxy requires iptables rules (--install-iptables-rules="true")'
        if not version.has("bpf-tproxy"):
            yield words
        elif not _on(settings, "enable-bpf-tproxy"):
            yield f'{words} or BPF TProxy (--enable-bpf-tproxy="true")'
    if early_ipsec:
        yield from _dns_proxy(settings)
        if not settings.enable_ipv4 and version.has("ipsec-needs-ipv4"):
            yield 'IPSec requires IPv4 addressing to be enabled (--enable-ipv4="true")'
    remote = version.has("checks-before-devices") and _on(settings, "enable-remote-node-masquerade")
    if remote and not settings.bpf_masquerade:
        yield "Option enable-remote-node-masquerade requires BPF masquerade to be enabled (enable-bpf-masquerade)"
    if settings.auto_direct_node_routes and _tunnels(settings):
        if version.has("hybrid-routing"):
            yield f"{_DIRECT} requires native or hybrid routing mode."
        yield f"{_DIRECT} cannot be used with tunneling. Packets must be routed through the tunnel device."
    if early_ipsec and settings.host_firewall:
        yield "IPSec cannot be used with the host firewall."
    if _has_router(settings):
        if _tunnels(settings) and version.has("hybrid-routing"):
            yield "local-router-ipv4 and local-router-ipv6 require native or hybrid routing mode."
        if _tunnels(settings):
            yield f"Cannot specify {_ROUTER} in tunnel mode."
        if not settings.endpoint_routes:
            yield f"Cannot specify {_ROUTER}  without enable-endpoint-routes."
        if early_ipsec:
            yield f"Cannot specify {_ROUTER} with enable-ipsec."
    yield from _ipam(settings, version)
    if _on(settings, "install-no-conntrack-iptables-rules"):
        if _tunnels(settings):
            yield "install-no-conntrack-iptables-rules requires the agent to run in direct routing mode."
        if not settings.enable_ipv4:
            yield "install-no-conntrack-iptables-rules requires IPv4 support."


def _dns_proxy(settings: NodeView) -> Iterator[str]:
    """What IPsec wants of the DNS proxy."""
    skips = "dnsproxy-enable-transparent-mode", "dnsproxy-insecure-skip-transparent-mode-check"
    if _on(settings, "enable-l7-proxy", default=True) and not any(_on(settings, key) for key in skips):
        yield 'IPSec requires DNS proxy transparent mode to be enabled (--dnsproxy-enable-transparent-mode="true")'


def _has_router(settings: NodeView) -> bool:
    return bool(settings.get("local-router-ipv4") or settings.get("local-router-ipv6"))


def _ipam(settings: NodeView, version: Version) -> Iterator[str]:
    if settings.ipam == "eni" and _tunnels(settings):
        yield "Cannot specify IPAM mode eni in tunnel mode."
    if settings.ipam == "multi-pool" and not version.has("multi-pool-in-tunnels"):
        if _tunnels(settings):
            yield "Cannot specify IPAM mode multi-pool in tunnel mode."
        if settings.ipsec:
            yield "Cannot specify IPAM mode multi-pool with enable-ipsec."
    native_ipsec = settings.ipam == "multi-pool" and settings.ipsec and not _tunnels(settings)
    if native_ipsec and version.has("multi-pool-ipsec-in-tunnels-only"):
        yield "IPAM mode multi-pool with enable-ipsec is supported only in tunnel mode."


def _validate(settings: NodeView, version: Version) -> Iterator[str]:
    """With IPAM by a plugin the agent allocates no address for itself (checkIPAMDelegatedPlugin); native routing with
    masquerading needs to know what not to masquerade (checkIPv4NativeRoutingCIDR, …IPv6…).
    """
    if settings.ipam == "eni" and settings.enable_ipv6 and not version.has("eni-ipv6"):
        yield "IPv6 cannot be enabled in ENI IPAM mode"
    families = (
        ("4", settings.enable_ipv4, settings.ipv4_masquerade, settings.ipv4_native_routing_cidr),
        ("6", settings.enable_ipv6, settings.ipv6_masquerade, settings.ipv6_native_routing_cidr),
    )
    if not (_tunnels(settings) or settings.ip_masq_agent or settings.ipam in ("eni", "alibabacloud")):
        for family, enabled, masquerading, cidr in families:
            if enabled and masquerading and cidr is None:
                yield (
                    f"native routing cidr must be configured with option --ipv{family}-native-routing-cidr in "
                    f"combination with --enable-ipv{family}=true --enable-ipv{family}-masquerade=true "
                    f"--enable-ip-masq-agent=false --routing-mode=native --ipam={settings.ipam}"
                )
    if settings.ipam == "delegated-plugin":
        by_plugin = "with --ipam=delegated-plugin"
        for family, enabled, _, _ in families:
            if enabled and not settings.get(f"local-router-ipv{family}"):
                yield f"--local-router-ipv{family} must be provided when IPv{family} is enabled {by_plugin}"
        if _on(settings, "enable-endpoint-health-checking", default=True):
            yield f"--enable-endpoint-health-checking must be disabled {by_plugin}"
        if _on(settings, "enable-envoy-config"):
            yield f"--enable-envoy-config must be disabled {by_plugin}"


_IPTABLES = "install-no-conntrack-iptables-rules requires the agent to run with"
_BPF = "unable to initialize BPF masquerade support: "
_KPR = "unable to initialize kube-proxy replacement options: "


def _replacement(settings: NodeView, version: Version) -> Iterator[str]:
    given = settings.get("kube-proxy-replacement")
    if not version.has("replacement-is-boolean") and given not in ("true", "false"):
        if not version.has("replacement-by-kpr"):
            yield f"{_KPR}Invalid value for --kube-proxy-replacement: {given}"
        yield "invalid value for kube-proxy-replacement"


def _underlay(settings: NodeView, version: Version) -> Iterator[str]:
    if version.has("underlay-needs-its-family"):
        for family, enabled in (("IPv4", settings.enable_ipv4), ("IPv6", settings.enable_ipv6)):
            if settings.get("underlay-protocol") == family.lower() and not enabled:
                yield f"underlay protocol set to {family}, but {family} is disabled"


def _source_range(settings: NodeView, version: Version) -> Iterator[str]:
    """iptables masquerade what is from a pod CIDR, and other IPAM modes have none (9b3cdde533, 1.19)."""
    by_iptables = masquerades(settings) and not settings.bpf_masquerade and not settings.egress_masquerade_interfaces
    without_cidr = by_iptables and settings.ipam not in ("cluster-pool", "kubernetes")
    if without_cidr and version.has("masquerading-needs-pod-cidr"):
        yield (
            "panic: Egress masquerading interfaces cannot be empty when IP masquerading is enabled with IPAM mode "
            "other than ClusterPool or Kubernetes"
        )


def _wireguard(settings: NodeView, _: Version) -> Iterator[str]:
    if settings.wireguard and settings.ipsec:
        yield "WireGuard (--enable-wireguard) cannot be used with IPsec (--enable-ipsec)"


def _ipsec(settings: NodeView, version: Version) -> Iterator[str]:
    if settings.ipsec and version.has("checks-before-devices"):
        yield from _dns_proxy(settings)
        if settings.host_firewall:
            yield "IPSec cannot be used with the host firewall."
        if _has_router(settings):
            yield f"Cannot specify {_ROUTER} with enable-ipsec."


def _egress_gateway(settings: NodeView, version: Version) -> Iterator[str]:
    """`identity-allocation-mode` counts where it is set: the agent's default is kvstore, that of the charts crd."""
    wanted = (version.has("egress-gateway-option") and _on(settings, "enable-egress-gateway")) or (
        version.has("egress-gateway-ipv4-option") and _on(settings, "enable-ipv4-egress-gateway")
    )
    if not wanted:
        return
    mode = settings.get("identity-allocation-mode") or "crd"
    if mode != "crd" and version.has("egress-gateway-needs-crd"):
        yield f"egress gateway is not supported in {mode} identity allocation mode"
    if mode == "kvstore":
        yield "egress gateway is not supported in KV store identity allocation mode"
    if _on(settings, "enable-cilium-endpoint-slice"):
        yield "egress gateway is not supported in combination with the CiliumEndpointSlice feature"
    if not (settings.enable_ipv4 and settings.ipv4_masquerade and settings.bpf_masquerade):
        yield 'egress gateway requires --enable-ipv4-masquerade="true" and --enable-bpf-masquerade="true"'
    if version.has("egress-gateway-ipv4-underlay") and settings.get("underlay-protocol") == "ipv6":
        yield "egress gateway requires an IPv4 underlay"


def _netkit(settings: NodeView, version: Version) -> Iterator[str]:
    """What netkit pods cannot be with; `auto` falls back to veth."""
    if settings.get("datapath-mode") not in ("netkit", "netkit-l2") or not version.has("netkit-refused"):
        return
    refused = "netkit connector not available: netkit devices"
    if settings.host_legacy_routing:
        yield f"{refused} cannot be used with --enable-host-legacy-routing=true"
    if masquerades(settings) and not settings.bpf_masquerade:
        yield f"{refused} require BPF masquerade (--enable-bpf-masquerade=true)"
    if not settings.kube_proxy_replacement:
        yield f"{refused} require --kube-proxy-replacement"
    if _on(settings, "enable-bpf-tproxy"):
        yield f"{refused} cannot be used with --enable-bpf-tproxy=true"


def _acceleration(settings: NodeView, version: Version) -> Iterator[str]:
    """What wants XDP, and what XDP cannot be with."""
    accelerated = settings.get("bpf-lb-acceleration") not in ("", "disabled")
    ipip = settings.load_balancer_mode != "snat" and settings.get("bpf-lb-dsr-dispatch") == "ipip"
    if ipip and not accelerated and version.has("ipip-needs-xdp"):
        shown = '"ipip"' if version.has("quoted-dispatch") else "ipip"
        yield f"{_KPR}DSR dispatch mode {shown} currently only available under XDP acceleration"
    over_ipv6 = _tunnels(settings) and settings.get("underlay-protocol") == "ipv6"
    if accelerated and over_ipv6 and version.has("underlay-protocol"):
        yield f"{_KPR}XDP acceleration cannot be used with an IPv6 underlay"


def _node_port(settings: NodeView, version: Version) -> Iterator[str]:
    mode = settings.get("bpf-lb-mode") or "snat"
    if node_port(settings, version):
        yield from _acceleration(settings, version)
    if mode != "snat" and node_port(settings, version):
        dispatch = settings.get("bpf-lb-dsr-dispatch") or "opt"
        if _tunnels(settings) and settings.tunnel_protocol == "vxlan":
            yield f'{_KPR}Node Port "{mode}" mode cannot be used with vxlan tunneling.'
        if _tunnels(settings) and dispatch != "geneve":
            yield f'{_KPR}Tunnel routing with Node Port "{mode}" mode requires geneve dispatch.'
        if dispatch == "geneve" and settings.tunnel_protocol != "geneve":
            shown = f'"{dispatch}"' if version.has("quoted-dispatch") else dispatch
            yield f'{_KPR}Node Port "{mode}" mode with {shown} dispatch requires geneve tunnel protocol.'
    if _on(settings, "install-no-conntrack-iptables-rules"):
        if not settings.kube_proxy_replacement:
            on = "" if version.has("replacement-is-boolean") else "=true"
            yield f"{_KPR}{_IPTABLES} kube-proxy-replacement{on}."
        if masquerades(settings) and not settings.bpf_masquerade:
            yield f"{_KPR}{_IPTABLES} enable-bpf-masquerade."


def _iptables_rules(settings: NodeView, version: Version) -> Iterator[str]:
    needs = version.has("needs-iptables-rules") and (settings.kube_proxy_replacement or settings.bpf_masquerade)
    if needs and not _on(settings, "install-iptables-rules", default=True):
        yield (
            "kube-proxy replacement (--kube-proxy-replacement) or BPF masquerade (--enable-bpf-masquerade) requires "
            'iptables rules (--install-iptables-rules="true")'
        )


def _masquerading(settings: NodeView, version: Version) -> Iterator[str]:
    if settings.bpf_masquerade and masquerades(settings):
        if not version.has("masquerading-without-node-port") and not node_port(settings, version):
            yield f'{_BPF}BPF masquerade requires NodePort (--enable-node-port="true")'
        if settings.egress_masquerade_interfaces:
            yield (
                f"{_BPF}BPF masquerade does not allow to specify devices via --egress-masquerade-interfaces "
                "(use --devices instead)"
            )
        if settings.masquerade_to_route_source:
            yield (
                'BPF masquerading to route source (--enable-masquerade-to-route-source="true") currently not supported '
                'with BPF-based masquerading (--enable-bpf-masquerade="true")'
            )
        return
    either = '(--enable-ipv4-masquerade="true" or --enable-ipv6-masquerade="true")'
    if settings.ip_masq_agent:
        yield f'BPF ip-masq-agent requires {either} and --enable-bpf-masquerade="true"'
    if settings.bpf_masquerade:
        yield f"BPF masquerade requires {either}"


_FLAG = re.compile(r"(?:--|\b)([a-z0-9]+(?:-[a-z0-9]+)+)\b")


def fix(exits: str) -> str:
    """How an agent that exits with these words is made to run: as is known here, else by the flags that they name."""
    known = next((fix for part, (fix,) in paragraphs("fixes").items() if part in exits), "")
    flags = list(dict.fromkeys(flag for flag in _FLAG.findall(exits) if flag in agent_keys()))
    return known or (f"tell it otherwise: {', '.join(flags)}" if flags else "")
