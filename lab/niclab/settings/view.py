"""The settings one node's agent runs with, each with Cilium's own default where nothing is set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, TypeVar

from niclab.settings.flags import default
from niclab.settings.values import Values, parse_bool, parse_cidr, split_list

TUNNEL_PORTS: Mapping[str, int] = MappingProxyType({"vxlan": 8472, "geneve": 6081})
"""pkg/defaults/defaults.go: TunnelPortVXLAN, TunnelPortGeneve."""

_T = TypeVar("_T")


class _Flag(Generic[_T]):
    """A flag's value, read from its text; the key is the attribute's name, with dashes, unless it is given."""

    def __init__(self, read: Callable[[str], _T], key: str = "") -> None:
        self._read = read
        self._key = key

    def __set_name__(self, owner: type[object], name: str) -> None:
        self._key = self._key or name.replace("_", "-")

    def __get__(self, view: NodeView, owner: type[object]) -> _T:
        return self._read(view.get(self._key))


def _on(text: str) -> bool:
    return parse_bool(text) is True


def _enforced(text: str) -> bool:
    return text == "strict" or _on(text)


def _choice(default: _T, *others: _T) -> Callable[[str], _T]:
    return lambda text: next((other for other in others if other == text), default)


def _network(kind: type[_T]) -> Callable[[str], _T | None]:
    return lambda text: network if isinstance(network := parse_cidr(text), kind) else None


def _address(text: str) -> str | None:
    return None if text in ("", "auto") else text


@dataclass(frozen=True)
class NodeView:
    """What one node's agent is given: by the ConfigMap, the CiliumNodeConfigs that select it, and its own overrides."""

    node: str
    values: Values

    def get(self, key: str) -> str:
        """The flag's value as text, or its default ("" where this package knows none)."""
        return self.values.get(key, default(key))

    devices = _Flag(split_list)
    """Names and `prefix+` patterns; empty means auto-detection."""
    force_device_detection = _Flag(_on)
    direct_routing_device = _Flag(str)
    routing_mode: ClassVar[_Flag[Literal["tunnel", "native"]]] = _Flag(_choice("tunnel", "native"))
    tunnel_protocol: ClassVar[_Flag[Literal["vxlan", "geneve"]]] = _Flag(_choice("vxlan", "geneve"))
    auto_direct_node_routes = _Flag(_on)
    direct_routing_skip_unreachable = _Flag(_on)
    enable_ipv4 = _Flag(_on)
    enable_ipv6 = _Flag(_on)
    ipv4_masquerade = _Flag(_on, "enable-ipv4-masquerade")
    ipv6_masquerade = _Flag(_on, "enable-ipv6-masquerade")
    bpf_masquerade = _Flag(_on, "enable-bpf-masquerade")
    kube_proxy_replacement = _Flag(_enforced)
    host_legacy_routing = _Flag(_on, "enable-host-legacy-routing")
    """As set; an agent may fall back to legacy routing by itself (kube_proxy_replacement.go:289-305)."""
    endpoint_routes = _Flag(_on, "enable-endpoint-routes")
    ipv4_native_routing_cidr = _Flag(_network(IPv4Network))
    ipv6_native_routing_cidr = _Flag(_network(IPv6Network))
    ipv4_node = _Flag(_address)
    ipv6_node = _Flag(_address)
    ipam = _Flag(str)
    mtu = _Flag(int)
    """0 means that the agent takes it from its devices."""
    egress_masquerade_interfaces = _Flag(split_list)
    masquerade_to_route_source = _Flag(_on, "enable-masquerade-to-route-source")
    ip_masq_agent = _Flag(_on, "enable-ip-masq-agent")
    ip_masq_agent_config = _Flag(str, "ip-masq-agent-config-path")
    """As it is set: `niclab.settings.ipmasq` reads it."""
    egress_rule_compatible = _Flag(_on, "egress-multi-home-ip-rule-compat")
    """Rules of ENIs' pods as they were before 1.8; the flag is gone with 1.19."""
    derive_masquerade_from = _Flag(str, "derive-masq-ip-addr-from-device")
    """The device whose address all masqueraded packets get; the flag is hidden."""
    remote_node_masquerade = _Flag(_on, "enable-remote-node-masquerade")
    """1.18 and later, of eBPF masquerading alone."""
    host_firewall = _Flag(_on, "enable-host-firewall")
    wireguard = _Flag(_on, "enable-wireguard")
    ipsec = _Flag(_on, "enable-ipsec")
    l2_announcements = _Flag(_on, "enable-l2-announcements")
    nodeport_addresses = _Flag(split_list)
    load_balancer_mode: ClassVar[_Flag[Literal["snat", "dsr", "hybrid"]]] = _Flag(
        _choice("snat", "dsr", "hybrid"), "bpf-lb-mode"
    )
    """hybrid is DSR for TCP and SNAT for everything else (loadbalancer.go ToSVCForwardingMode)."""
    socket_load_balancing_of_nodes_only = _Flag(_on, "bpf-lb-sock-hostns-only")
    """Pods' packets are translated one by one, at the pod."""
    external_cluster_ip = _Flag(_on, "bpf-lb-external-clusterip")
    """Cluster IPs are served to clients outside the cluster too."""
    dynamic_node_port_source = _Flag(_on, "enable-dynamic-source-lookup-nodeport")
    """1.20 and later: what is forwarded to a backend of another node has the source that the routes choose."""
    internal_traffic_policy = _Flag(_on, "enable-internal-traffic-policy")

    @property
    def tunnel_port(self) -> int:
        return int(self.get("tunnel-port")) or TUNNEL_PORTS[self.tunnel_protocol]

    @property
    def egress_gateway(self) -> bool:
        """`enable-ipv4-egress-gateway` up to 1.18, where releases have both names; `enable-egress-gateway` later."""
        return _on(self.get("enable-egress-gateway")) or _on(self.get("enable-ipv4-egress-gateway"))

    @property
    def socket_load_balancing(self) -> bool:
        """Services are translated at the sockets of programs: always so with kube-proxy replacement."""
        return self.kube_proxy_replacement or _on(self.get("bpf-lb-sock"))

    @property
    def refuses_without_backend(self) -> bool:
        """`service-no-backend-response`: reject tells the client, drop does not."""
        return self.get("service-no-backend-response") != "drop"
