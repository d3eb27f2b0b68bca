"""What one node's agent decides before any packet flows: pure, from the node, its settings and the version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from niclab.cilium.refusals import Refusal, refused, without_xdp
from niclab.cilium.selection import direct_routing
from niclab.cilium.selection.addresses import FALLBACK, NodeAddress, node_addresses
from niclab.cilium.selection.devices import Device
from niclab.cilium.selection.direct_routing import DirectRouting, bpf_host_routing, node_port
from niclab.cilium.selection.links import Link
from niclab.cilium.selection.mtu import device_mtu, route_mtu, underlay
from niclab.cilium.version import Version
from niclab.kernel.fib import Fib
from niclab.net.route import TABLES, Address, Family, Network, collapsed
from niclab.settings import NodeView

_LARGEST_VETH = 65535
"""[kernel] No veth takes as much as `lo` has: 65536."""
ROUTER_DEVICE = "cilium_host"


def pod_interface(pod: str) -> str:
    """The node's end of a pod's veth pair: `lxc` and the pod's name, or a hash of it where that is too long."""
    name = f"lxc{pod}"
    return name if len(name) <= 15 else "lxc" + hashlib.sha256(pod.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class NodeDecision:
    """One node's agent: what it selected and why, and the routes and addresses that follow."""

    node: str
    settings: NodeView
    version: Version
    node_ips: Mapping[Family, Address]
    links: tuple[Link, ...]
    devices: tuple[Device, ...]
    drd: DirectRouting
    kernel_fib: Fib
    pod_cidrs: Mapping[Family, Network]
    pod_networks: tuple[Network, ...] = ()
    """All networks that the node's pods have addresses of: other pools' too, or its ENIs'."""
    vpc: tuple[Network, ...] = ()
    """With ENIs: the cloud's networks, the primary one first."""

    @property
    def announced(self) -> tuple[Network, ...]:
        """The networks that peers have routes to; a cloud brings packets to its ENIs' addresses by itself."""
        return () if self.vpc else self.pod_networks

    def pods_of(self, family: Family) -> tuple[Network, ...]:
        return tuple(network for network in self.pod_networks if network.version == family)

    @cached_property
    def selected(self) -> tuple[str, ...]:
        return tuple(device.name for device in self.devices if device.selected)

    @cached_property
    def agent_exits(self) -> str | None:
        """The agent's last words when it refuses to run with these settings, else None."""
        return None if self.refused is None else self.refused.words

    @cached_property
    def refused(self) -> Refusal | None:
        """Why the agent refuses to run, and where Cilium has that; None when it runs."""
        return refused(self.settings, self.version, self.drd, self.selected_links)

    @property
    def selected_links(self) -> tuple[Link, ...]:
        return tuple(link for link in self.links if link.name in self.selected)

    @property
    def notes(self) -> Iterator[str]:
        """What of these settings the model does not know by a measurement, or agents do in silence."""
        if self.settings.get("bpf-lb-acceleration") == "best-effort" and (bare := without_xdp(self.selected_links)):
            taken = [name for name in self.selected if name not in bare]
            yield f"XDP acceleration on {', '.join(taken) or 'no device'}; not on {', '.join(bare)}: its kind has none"
        if self.settings.get("datapath-mode").startswith("netkit"):
            yield "pods have netkit devices: they are modelled as veth pairs, which is not measured"

    @property
    def routing(self) -> str:
        return f"tunnel ({self.settings.tunnel_protocol})" if self.tunnels else "native"

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The families in which pods of this node have addresses."""
        enabled: dict[Family, bool] = {4: self.settings.enable_ipv4, 6: self.settings.enable_ipv6}
        return tuple(family for family in self.pod_cidrs if enabled[family])

    @cached_property
    def tunnels(self) -> bool:
        return self.settings.routing_mode == "tunnel"

    @property
    def returns_by_geneve(self) -> bool:
        """Are requests for backends of other nodes forwarded in Geneve, which says what was asked (DSR)? In native
        routing too: the tunnel is there for them alone (pkg/kpr/initializer)."""
        view = self.settings
        asked = view.load_balancer_mode != "snat" and view.get("bpf-lb-dsr-dispatch") == "geneve"
        return asked and self.serves_node_ports

    @property
    def tunnel_device(self) -> str:
        return f"cilium_{self.settings.tunnel_protocol}"

    @property
    def underlay(self) -> Family:
        """The family of the tunnel's outer packets."""
        return underlay(self.settings, self.version)

    def tunnel_end(self, peer: NodeDecision) -> Address | None:
        """The node IP of a peer that the tunnel goes to: of the underlay's family, else of the other one.

        pkg/node/manager/manager.go GetNodeIP.
        """
        return peer.node_ips.get(self.underlay) or next(iter(peer.node_ips.values()), None)

    @property
    def host_routing(self) -> str:
        return "BPF" if bpf_host_routing(self.settings, self.version) else "Legacy"

    @property
    def masquerading(self) -> str:
        """`BPF`, `iptables` or `disabled`, as `cilium status` words it."""
        if not any(self.masquerades(family) for family in self.families):
            return "disabled"
        return "BPF" if self.settings.bpf_masquerade else "iptables"

    def masquerades(self, family: Family) -> bool:
        return self.settings.ipv4_masquerade if family == 4 else self.settings.ipv6_masquerade

    @cached_property
    def single_device(self) -> str | None:
        """The device every pod packet is sent to without a FIB lookup (≤1.18), or None.

        pkg/datapath/linux/config/config.go writeTemplateConfig (ENABLE_SKIP_FIB).
        """
        return None if self.settings.endpoint_routes else self.host_single_device

    @cached_property
    def host_single_device(self) -> str | None:
        """The device services' packets are sent to by the NICs' own programs without a FIB lookup (≤1.18), or None.

        There `enable-endpoint-routes` makes no difference (pkg/datapath/linux/config/config.go writeTemplateConfig).
        """
        alone = len(self.selected) == 1 and self.host_routing == "BPF"
        return self.drd.device if alone and self.version.has("skips-fib") else None

    @property
    def serves_node_ports(self) -> bool:
        return node_port(self.settings, self.version)

    def direct_routing_address(self, family: Family) -> Address | None:
        """The address of the direct routing device that the datapath knows."""
        link = next((link for link in self.links if link.name == self.drd.device), None)
        return direct_routing.direct_routing_address(link, family, self.version) if link is not None else None

    @cached_property
    def _mtu(self) -> tuple[int, str]:
        node_ip = self.node_ips.get(4) or self.node_ips.get(6)
        routes = self.kernel_fib.routes
        return device_mtu(self.links, self.devices, self.settings, self.version, node_ip, routes=routes)

    @property
    def mtu(self) -> int:
        """Bytes: what pods' devices get (pkg/mtu/manager.go)."""
        return min(self._mtu[0], _LARGEST_VETH)

    @property
    def mtu_reason(self) -> str:
        return self._mtu[1]

    @property
    def mtu_why(self) -> str:
        """How the MTU of pods' routes comes about."""
        less = f", less {self.mtu - self.route_mtu} of the tunnel or encryption" if self.route_mtu < self.mtu else ""
        return f"{self.mtu}: {self.mtu_reason}{less}"

    @property
    def route_mtu(self) -> int:
        """Bytes: what routes to other nodes' pods get (pkg/mtu/mtu.go)."""
        return route_mtu(self.mtu, self.settings, self.version)

    @cached_property
    def node_addresses(self) -> tuple[NodeAddress, ...]:
        """The agent's table of node addresses, but for those of Cilium's own devices."""
        routes = self.kernel_fib.routes
        return node_addresses(self.links, self.devices, self.settings, self.node_ips, self.version, routes=routes)

    def default_nic(self, family: Family) -> str | None:
        """The NIC of table main's default route; one with several hops has none (route.NodeDeviceWithDefaultRoute)."""
        main = [route for route in self.kernel_fib.routes if route.is_default and route.table == TABLES["main"]]
        defaults = [route for route in main if route.family == family and route.kind == "unicast"]
        best = min(defaults, key=lambda route: route.effective_metric, default=None)
        return best.nexthops[0].dev if best is not None and len(best.nexthops) == 1 else None

    def exclusion(self, family: Family) -> Network | None:
        """Destinations that are never masqueraded: the native routing CIDR if set, else the node's own pod CIDR."""
        return self.native_routing_cidr(family) or self.pod_cidrs.get(family)

    def native_routing_cidr(self, family: Family) -> Network | None:
        """As set; with ENIs IPv4's is the VPC's primary CIDR otherwise (pkg/ipam/crd.go)."""
        if family == 6:
            return self.settings.ipv6_native_routing_cidr
        return self.settings.ipv4_native_routing_cidr or next(iter(self.vpc), None)

    @property
    def native_cidr_warning(self) -> str | None:
        """With ENIs: what agents say before they exit, where the native routing CIDR does not fit the VPC."""
        native = self.settings.ipv4_native_routing_cidr
        if native is None or not self.vpc:
            return None
        if self.version.has("eni-native-cidr-of-primary"):
            fits, words = native.overlaps(self.vpc[0]), "Configured native routing CIDR does not overlap VPC CIDR"
        else:
            fits = any(len(collapsed((native, cidr), 4)) == 1 for cidr in self.vpc)
            words = "None of the VPC CIDRs contains the specified native routing CIDR"
        cidrs = ", ".join(map(str, self.vpc))
        return None if fits else f"a real agent exits with {native} and a VPC of {cidrs}: {words}"

    def masquerade_address(self, device: str, family: Family) -> Address | None:
        """What BPF masquerading writes as the source on one selected device: its Primary, else the fallback `*`.

        `derive-masq-ip-addr-from-device` names one device for all (pkg/datapath/loader bpfMasqAddrs).
        """
        primary = {
            row.device: row.address for row in self.node_addresses if row.primary and row.address.version == family
        }
        return primary.get(self.settings.derive_masquerade_from or device) or primary.get(FALLBACK)
