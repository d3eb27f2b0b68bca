"""What an agent on each node decides before any packet flows: pure, from topology, settings and version.

The built-in datapath carries a decision out with kernel parts, and prediction reads it.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from niclab.cilium.memory import Memory
from niclab.cilium.refusals import Refusal, refused
from niclab.cilium.selection import (
    FALLBACK,
    Device,
    DirectRouting,
    Link,
    NodeAddress,
    Version,
    bpf_host_routing,
    device_mtu,
    direct_routing,
    direct_routing_address,
    links_of,
    node_addresses,
    node_port,
    route_mtu,
    select,
    skips_fib,
)
from niclab.cilium.services.frontends import Frontend, Place, frontends, outside
from niclab.kernel.fib import Fib
from niclab.net.route import FAMILIES, TABLES, Address, Encap, Family, Network, NextHop, Route, family_of
from niclab.settings import NodeView, Settings
from niclab.topology import Node, Topology

_MOST = 65535
ROUTER_DEVICE = "cilium_host"
TUNNEL_DEVICE = "cilium_vxlan"


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
        return refused(self.settings, self.version, self.drd)

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The families in which pods of this node have addresses."""
        enabled: dict[Family, bool] = {4: self.settings.enable_ipv4, 6: self.settings.enable_ipv6}
        return tuple(family for family in self.pod_cidrs if enabled[family])

    @cached_property
    def tunnels(self) -> bool:
        return self.settings.routing_mode == "tunnel"

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
        """The device every pod packet is sent to without a FIB lookup (≤1.18), or None."""
        return self.drd.device if skips_fib(self.devices, self.drd, self.settings, self.version) else None

    @cached_property
    def host_single_device(self) -> str | None:
        """The device services' packets are sent to by the NICs' own programs without a FIB lookup (≤1.18), or None.

        There `enable-endpoint-routes` makes no difference (pkg/datapath/linux/config/config.go writeTemplateConfig).
        """
        alone = self.version < (1, 19) and len(self.selected) == 1 and bpf_host_routing(self.settings, self.version)
        return self.drd.device if alone else None

    @property
    def serves_node_ports(self) -> bool:
        return node_port(self.settings, self.version)

    def direct_routing_address(self, family: Family) -> Address | None:
        """The address of the direct routing device that the datapath knows."""
        link = next((link for link in self.links if link.name == self.drd.device), None)
        return direct_routing_address(link, family, self.version) if link is not None else None

    @cached_property
    def mtu(self) -> int:
        """Bytes: what pods' devices get (pkg/mtu/manager.go). [kernel] no veth takes as much as `lo` has: 65536."""
        node_ip = self.node_ips.get(4) or self.node_ips.get(6)
        routes = self.kernel_fib.routes
        return min(device_mtu(self.links, self.devices, self.settings, self.version, node_ip, routes=routes), _MOST)

    @property
    def route_mtu(self) -> int:
        """Bytes: what routes to other nodes' pods get (pkg/mtu/mtu.go)."""
        return route_mtu(self.mtu, self.settings, self.version)

    @cached_property
    def node_addresses(self) -> tuple[NodeAddress, ...]:
        """The agent's table of node addresses, but for those of Cilium's own devices."""
        routes = self.kernel_fib.routes
        return node_addresses(self.links, self.devices, self.settings, self.node_ips, self.version, routes=routes)

    def exclusion(self, family: Family) -> Network | None:
        """Destinations that are never masqueraded: the native routing CIDR if set, else the node's own pod CIDR."""
        return self.native_routing_cidr(family) or self.pod_cidrs.get(family)

    def native_routing_cidr(self, family: Family) -> Network | None:
        """As set; with ENIs IPv4's is the VPC's primary CIDR otherwise (pkg/ipam/crd.go)."""
        if family == 6:
            return self.settings.ipv6_native_routing_cidr
        return self.settings.ipv4_native_routing_cidr or next(iter(self.vpc), None)

    def masquerade_address(self, device: str, family: Family) -> Address | None:
        """What BPF masquerading writes as the source on one selected device: its Primary, else the fallback `*`.

        `derive-masq-ip-addr-from-device` names one device for all (pkg/datapath/loader bpfMasqAddrs).
        """
        primary = {
            row.device: row.address for row in self.node_addresses if row.primary and row.address.version == family
        }
        return primary.get(self.settings.derive_masquerade_from or device) or primary.get(FALLBACK)


@dataclass(frozen=True)
class Decisions:
    """Every node's decision, and what they make of each other."""

    topology: Topology
    settings: Settings
    version: Version
    memory: Mapping[str, Memory] = field(default_factory=dict)
    """Node → what its agent remembers, once something has changed since it started."""
    plugged: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    """Pod → the addresses that a real agent gave it; the others have those that are planned."""

    @cached_property
    def nodes(self) -> Mapping[str, NodeDecision]:
        return {name: self._decide(name) for name in self.topology.nodes}

    @cached_property
    def pod_addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Pod → its addresses of every family."""
        return {**self.topology.pod_addresses(), **self.plugged}

    @cached_property
    def frontends(self) -> Mapping[str, tuple[Frontend, ...]]:
        """Node → the frontends its agent has; a node port's is the surrogate for all of the node's addresses."""
        return {name: frontends(self, node) for name, node in self.nodes.items() if name in self.running}

    @cached_property
    def frontends_outside(self) -> Mapping[str, tuple[Frontend, ...]]:
        """Node → its frontends as clients outside the cluster ask for them."""
        return {name: outside(found, self.nodes[name]) for name, found in self.frontends.items()}

    @cached_property
    def frontend_numbers(self) -> Mapping[Place, int]:
        """Every place where a service is served → its number, from 1: the same on every node."""
        places = (one.place for found in self.frontends_outside.values() for one in found)
        return {place: number for number, place in enumerate(dict.fromkeys(places), 1)}

    @cached_property
    def running(self) -> tuple[str, ...]:
        """The nodes whose agent stays up; the others are unknown to them."""
        return tuple(name for name, node in self.nodes.items() if node.agent_exits is None)

    @cached_property
    def native_node_ends(self) -> frozenset[str]:
        """`node.nic` of every node IP that pods reach with their own address: those of nodes with native routing."""
        return frozenset(
            f"{name}.{nic_name}"
            for name, node in self.nodes.items()
            if not node.tunnels
            for nic_name, nic in self.topology.nodes[name].interfaces.items()
            if any(interface.ip in node.node_ips.values() for interface in nic.addresses)
        )

    def _decide(self, name: str) -> NodeDecision:
        node = self.topology.nodes[name]
        view = self.settings.for_node(name, {"kubernetes.io/hostname": name, **node.labels})
        given = {4: view.ipv4_node, 6: view.ipv6_node}
        node_ips: dict[Family, Address] = {}
        for family in FAMILIES:
            text = given[family]
            address = ipaddress.ip_address(text) if text else node.node_ip_of(family)
            if address is not None:
                node_ips[family] = address
        fib = Fib.of(node)
        memory = self.memory.get(name)
        links = memory.links if memory else links_of(node)
        devices = memory.devices if memory else select(links, fib.routes, view, self.version)
        k8s_ip = node_ips.get(4) or node_ips.get(6)
        drd = direct_routing(devices, links, view, k8s_ip, self.version)
        if memory and drd.exits:  # asked at start only (daemon.go); later there is an error in the log, and a retry
            drd = replace(drd, exits=None)
        return NodeDecision(
            node=name,
            settings=view,
            version=self.version,
            node_ips=node_ips,
            links=links,
            devices=devices,
            drd=drd,
            kernel_fib=_without_subnets(fib, node),
            pod_cidrs={family: cidr for family in FAMILIES if (cidr := node.pod_cidr_of(family)) is not None},
            pod_networks=node.every_pod_cidr,
            vpc=self.topology.vpc_cidrs if node.enis else (),
        )

    def peers(self, name: str) -> tuple[NodeDecision, ...]:
        """The other nodes this node's agent knows of."""
        return tuple(self.nodes[peer] for peer in self.running if peer != name)

    def tunnel_routes(self, name: str, table: int) -> tuple[Route, ...]:
        """One encapsulating route per peer pod CIDR, to the peer's IPv4 node IP: the tunnel's underlay (node.go)."""
        node = self.nodes[name]
        found = []
        for peer in self.peers(name):
            remote = peer.node_ips.get(4) or peer.node_ips.get(6)
            for cidr in peer.announced:
                family = family_of(cidr)
                if remote is None or family not in node.families or family not in peer.families:
                    continue
                hop = NextHop(via=cidr.network_address, dev=TUNNEL_DEVICE, onlink=True)
                source = self.topology.router_address(name, family)
                found.append(
                    Route(
                        cidr,
                        (hop,),
                        table=table,
                        protocol=2,
                        source=source,
                        mtu=node.route_mtu,
                        encap=Encap(vni=2, remote=remote),
                    )
                )
        return tuple(found)

    def node_ip_tunnel_routes(self, name: str, table: int) -> Iterator[Route]:
        """With the host firewall a remote node IP has a tunnel endpoint too: pods reach it through the tunnel.

        pkg/node/manager/manager.go nodeAddressHasTunnelIP.
        """
        node = self.nodes[name]
        if not node.tunnels or not node.settings.host_firewall:
            return
        for peer in self.peers(name):
            remote = peer.node_ips.get(4) or peer.node_ips.get(6)
            via = {cidr.version: cidr.network_address for cidr in reversed(peer.announced)}
            for family in node.families:
                address = peer.node_ips.get(family)
                if address is None or remote is None or family not in via:
                    continue
                hop = NextHop(via=via[family], dev=TUNNEL_DEVICE, onlink=True)
                alone = ipaddress.ip_network(address)
                yield Route(alone, (hop,), table=table, protocol=2, mtu=node.route_mtu, encap=Encap(2, remote))

    def warnings(self, name: str) -> tuple[str, ...]:
        """What a node's agent warns of while it runs."""
        node = self.nodes[name]
        if node.agent_exits is not None:
            return ()
        return (*([node.drd.warning] if node.drd.warning else ()), *self.direct_routes(name)[1])

    def direct_routes(self, name: str) -> tuple[tuple[Route, ...], tuple[str, ...]]:
        """`auto-direct-node-routes`: one route per peer pod CIDR, and the warnings for those that cannot be installed.

        pkg/datapath/linux/node.go createDirectRouteSpec: the NIC is that of the kernel's route to the peer's node IP,
        which must have no other gateway. Never more than one hop.
        """
        node = self.nodes[name]
        routes: list[Route] = []
        warnings: list[str] = []
        if node.tunnels or not node.settings.auto_direct_node_routes:
            return (), ()
        if name in self.memory:
            return self.memory[name].direct_routes, ()
        for peer in self.peers(name):
            for cidr in peer.announced:
                family = family_of(cidr)
                target = peer.node_ips.get(family)
                if target is None or family not in node.families:
                    continue
                found = node.kernel_fib.lookup(target)
                if found is None or not found.hops:
                    warnings.append(f"Unable to install direct node route {cidr}: no route to {target}")
                    continue
                hop = found.hops[0]
                if hop.via is not None and hop.via != target:
                    warnings.append(_gateway_warning(node.settings, target, hop.via))
                    continue
                routes.append(Route(cidr, (NextHop(via=target, dev=hop.dev),), protocol=2))
        return tuple(routes), tuple(warnings)


def _without_subnets(fib: Fib, node: Node) -> Fib:
    """The FIB without the routes of ENIs' subnets, which agents take out of table main (pkg/ipam/crd_eni.go)."""
    own = {(interface.network, name) for name, nic in node.enis.items() for interface in nic.addresses_of(4)[:1]}
    main = TABLES["main"]
    gone = [
        route
        for route in fib.routes
        if route.table == main
        and route.protocol == 2
        and route.nexthops
        and (route.destination, route.nexthops[0].dev) in own
    ]
    return Fib(tuple(route for route in fib.routes if route not in gone), fib.rules) if gone else fib


def _gateway_warning(settings: NodeView, target: Address, gateway: Address) -> str:
    if settings.direct_routing_skip_unreachable:
        return "route to destination contains gateway, skipping route as not directly reachable"
    return (
        f"Unable to install direct node route: route to destination {target} contains gateway {gateway}, "
        "must be directly reachable. Add `direct-routing-skip-unreachable` to skip unreachable routes"
    )
