"""The settings one node's agent runs with, each with Cilium's own default where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from niclab.settings.values import Values, parse_bool, parse_cidr, split_list

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "auto-direct-node-routes": "false",
        "bpf-lb-dsr-dispatch": "opt",
        "bpf-lb-external-clusterip": "false",
        "bpf-lb-mode": "snat",
        "bpf-lb-sock": "false",
        "bpf-lb-sock-hostns-only": "false",
        "derive-masq-ip-addr-from-device": "",
        "devices": "",
        "direct-routing-device": "",
        "direct-routing-skip-unreachable": "false",
        "egress-masquerade-interfaces": "",
        "egress-multi-home-ip-rule-compat": "false",
        "enable-bpf-masquerade": "false",
        "enable-egress-gateway": "false",
        "enable-dynamic-source-lookup-nodeport": "false",
        "enable-endpoint-routes": "false",
        "enable-host-firewall": "false",
        "enable-host-legacy-routing": "false",
        "enable-internal-traffic-policy": "true",
        "enable-ip-masq-agent": "false",
        "enable-ipsec": "false",
        "enable-ipv4": "true",
        "enable-ipv4-egress-gateway": "false",
        "enable-ipv4-masquerade": "true",
        "enable-ipv6": "true",
        "enable-ipv6-masquerade": "true",
        "enable-l2-announcements": "false",
        "enable-masquerade-to-route-source": "false",
        "enable-remote-node-masquerade": "false",
        "enable-wireguard": "false",
        "force-device-detection": "false",
        "ip-masq-agent-config-path": "/etc/config/ip-masq-agent",
        "ipam": "cluster-pool",
        "ipv4-native-routing-cidr": "",
        "ipv4-node": "auto",
        "ipv6-native-routing-cidr": "",
        "ipv6-node": "auto",
        "kube-proxy-replacement": "false",
        "mtu": "0",
        "nodeport-addresses": "",
        "routing-mode": "tunnel",
        "service-no-backend-response": "reject",
        "tunnel-port": "0",
        "tunnel-protocol": "vxlan",
    }
)
"""The agent's defaults (pkg/defaults/defaults.go, daemon/cmd/daemon_main.go) of every flag that has a property here."""

TUNNEL_PORTS: Mapping[str, int] = MappingProxyType({"vxlan": 8472, "geneve": 6081})
"""pkg/defaults/defaults.go: TunnelPortVXLAN, TunnelPortGeneve."""


@dataclass(frozen=True)
class NodeView:
    """What one node's agent is told: by the ConfigMap, the CiliumNodeConfigs that select it, and its own overrides."""

    node: str
    values: Values

    def get(self, key: str) -> str:
        """The flag's value as text, or its default ("" where this package knows none)."""
        return self.values.get(key, DEFAULTS.get(key, ""))

    def _bool(self, key: str) -> bool:
        return parse_bool(self.get(key)) is True

    @property
    def devices(self) -> tuple[str, ...]:
        """The names and `prefix+` patterns of `--devices`; empty means auto-detection."""
        return split_list(self.get("devices"))

    @property
    def force_device_detection(self) -> bool:
        return self._bool("force-device-detection")

    @property
    def direct_routing_device(self) -> str:
        return self.get("direct-routing-device")

    @property
    def routing_mode(self) -> Literal["tunnel", "native"]:
        return "native" if self.get("routing-mode") == "native" else "tunnel"

    @property
    def tunnel_protocol(self) -> Literal["vxlan", "geneve"]:
        return "geneve" if self.get("tunnel-protocol") == "geneve" else "vxlan"

    @property
    def tunnel_port(self) -> int:
        return int(self.get("tunnel-port")) or TUNNEL_PORTS[self.tunnel_protocol]

    @property
    def auto_direct_node_routes(self) -> bool:
        return self._bool("auto-direct-node-routes")

    @property
    def direct_routing_skip_unreachable(self) -> bool:
        return self._bool("direct-routing-skip-unreachable")

    @property
    def enable_ipv4(self) -> bool:
        return self._bool("enable-ipv4")

    @property
    def enable_ipv6(self) -> bool:
        return self._bool("enable-ipv6")

    @property
    def ipv4_masquerade(self) -> bool:
        return self._bool("enable-ipv4-masquerade")

    @property
    def ipv6_masquerade(self) -> bool:
        return self._bool("enable-ipv6-masquerade")

    @property
    def bpf_masquerade(self) -> bool:
        return self._bool("enable-bpf-masquerade")

    @property
    def kube_proxy_replacement(self) -> bool:
        value = self.get("kube-proxy-replacement")
        return value == "strict" or parse_bool(value) is True

    @property
    def host_legacy_routing(self) -> bool:
        """As set; an agent may fall back to legacy routing by itself (kube_proxy_replacement.go:289-305)."""
        return self._bool("enable-host-legacy-routing")

    @property
    def endpoint_routes(self) -> bool:
        return self._bool("enable-endpoint-routes")

    @property
    def ipv4_native_routing_cidr(self) -> IPv4Network | None:
        network = parse_cidr(self.get("ipv4-native-routing-cidr"))
        return network if isinstance(network, IPv4Network) else None

    @property
    def ipv6_native_routing_cidr(self) -> IPv6Network | None:
        network = parse_cidr(self.get("ipv6-native-routing-cidr"))
        return network if isinstance(network, IPv6Network) else None

    @property
    def ipv4_node(self) -> str | None:
        value = self.get("ipv4-node")
        return None if value in ("", "auto") else value

    @property
    def ipv6_node(self) -> str | None:
        value = self.get("ipv6-node")
        return None if value in ("", "auto") else value

    @property
    def ipam(self) -> str:
        return self.get("ipam")

    @property
    def mtu(self) -> int:
        """0 means that the agent takes it from its devices."""
        return int(self.get("mtu"))

    @property
    def egress_masquerade_interfaces(self) -> tuple[str, ...]:
        return split_list(self.get("egress-masquerade-interfaces"))

    @property
    def masquerade_to_route_source(self) -> bool:
        return self._bool("enable-masquerade-to-route-source")

    @property
    def ip_masq_agent(self) -> bool:
        return self._bool("enable-ip-masq-agent")

    @property
    def egress_rule_compatible(self) -> bool:
        """Rules of ENIs' pods as they were before 1.8; the flag is gone with 1.19."""
        return self._bool("egress-multi-home-ip-rule-compat")

    @property
    def ip_masq_agent_config(self) -> str:
        """As it was said: `niclab.settings.ipmasq` reads it."""
        return self.get("ip-masq-agent-config-path")

    @property
    def derive_masquerade_from(self) -> str:
        """The device whose address all masqueraded packets get; the flag is hidden."""
        return self.get("derive-masq-ip-addr-from-device")

    @property
    def remote_node_masquerade(self) -> bool:
        """`enable-remote-node-masquerade` (1.18 and later), of eBPF masquerading alone."""
        return self._bool("enable-remote-node-masquerade")

    @property
    def egress_gateway(self) -> bool:
        """`enable-ipv4-egress-gateway` up to 1.18, where releases have both names; `enable-egress-gateway` later."""
        return self._bool("enable-egress-gateway") or self._bool("enable-ipv4-egress-gateway")

    @property
    def host_firewall(self) -> bool:
        return self._bool("enable-host-firewall")

    @property
    def wireguard(self) -> bool:
        return self._bool("enable-wireguard")

    @property
    def ipsec(self) -> bool:
        return self._bool("enable-ipsec")

    @property
    def l2_announcements(self) -> bool:
        return self._bool("enable-l2-announcements")

    @property
    def nodeport_addresses(self) -> tuple[str, ...]:
        return split_list(self.get("nodeport-addresses"))

    @property
    def load_balancer_mode(self) -> Literal["snat", "dsr", "hybrid"]:
        """`bpf-lb-mode`: hybrid is DSR for TCP and SNAT for everything else (loadbalancer.go ToSVCForwardingMode)."""
        value = self.get("bpf-lb-mode")
        return "dsr" if value == "dsr" else "hybrid" if value == "hybrid" else "snat"

    @property
    def socket_load_balancing(self) -> bool:
        """Services are translated at the sockets of programs: always so with kube-proxy replacement."""
        return self.kube_proxy_replacement or self._bool("bpf-lb-sock")

    @property
    def socket_load_balancing_of_nodes_only(self) -> bool:
        """Pods' packets are translated one by one, at the pod."""
        return self._bool("bpf-lb-sock-hostns-only")

    @property
    def external_cluster_ip(self) -> bool:
        """Cluster IPs are served to clients outside the cluster too."""
        return self._bool("bpf-lb-external-clusterip")

    @property
    def dynamic_node_port_source(self) -> bool:
        """≥1.20: what is forwarded to a backend of another node has the source that the routes say."""
        return self._bool("enable-dynamic-source-lookup-nodeport")

    @property
    def internal_traffic_policy(self) -> bool:
        return self._bool("enable-internal-traffic-policy")

    @property
    def refuses_without_backend(self) -> bool:
        """`service-no-backend-response`: reject tells the client, drop does not."""
        return self.get("service-no-backend-response") != "drop"
