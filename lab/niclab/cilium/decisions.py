"""What the agents decide before any packet flows: pure, from topology, settings and version.

The built-in datapath carries the decisions out with kernel parts, and prediction reads them. After a change to a
running lab they depend on what each agent remembers: `Decisions.after`.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from niclab.cilium import vlanfilter
from niclab.cilium.frontends import Frontend, Place, frontends, outside
from niclab.cilium.node import NodeDecision
from niclab.cilium.numbers import REMOTE_PODS, VNI
from niclab.cilium.selection.controller import Controller, events
from niclab.cilium.selection.devices import Device, select
from niclab.cilium.selection.direct_routing import direct_routing
from niclab.cilium.selection.links import Link, links_of, rows_of
from niclab.cilium.tables import reason
from niclab.cilium.version import Version
from niclab.kernel.difference import Flushed
from niclab.kernel.fib import Fib
from niclab.net.route import FAMILIES, PROTOCOLS, TABLES, Address, Encap, Family, Network, NextHop, Route, family_of
from niclab.settings import Settings
from niclab.topology.model import Node, Topology
from niclab.topology.stacking import is_up


@dataclass(frozen=True)
class Memory:
    """What one node's agent remembers from before a change, and what stands from before: decisions depend on it.

    `indices`: interface → the index the kernel gave it, which a NIC that is plugged again has anew.
    """

    controller: Controller
    indices: Mapping[str, int]
    direct_routes: tuple[Route, ...] = ()
    """Direct node routes that stand: an agent adds those that are missing only when it next validates its nodes."""

    @property
    def links(self) -> tuple[Link, ...]:
        """Without what messages of routes without a device leave in the agent's tables: a row without a name."""
        return tuple(link for _, link in sorted(self.controller.links.items()) if link.name)

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(device for _, device in sorted(self.controller.devices.items()) if device.name)


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
    def numbers(self) -> Mapping[str, int]:
        """Node → its number in the topology, from 1."""
        return {name: number for number, name in enumerate(self.topology.nodes, 1)}

    @cached_property
    def pod_addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Pod → its addresses of every family."""
        return {**self.topology.pod_addresses(), **self.plugged}

    @cached_property
    def frontends(self) -> Mapping[str, tuple[Frontend, ...]]:
        """Node → the frontends its agent has; a node port's is the surrogate for all of the node's addresses."""
        plugged = {
            pod: tuple(ip for ip in self.pod_addresses[pod] if family_of(ip) in self.nodes[home].families)
            for pod, (home, _) in self.topology.pods.items()
            if home in self.running
        }
        return {name: frontends(self.topology, self.nodes[name], plugged) for name in self.running}

    @cached_property
    def frontends_outside(self) -> Mapping[str, tuple[Frontend, ...]]:
        """Node → its frontends as clients outside the cluster ask for them."""
        return {name: outside(served, self.nodes[name]) for name, served in self.frontends.items()}

    def frontend_rows(self, name: str) -> tuple[str, ...]:
        """A node's frontends in the words of its agent, sorted."""
        return tuple(sorted(row for frontend in self.frontends[name] for row in frontend.rows))

    @cached_property
    def frontend_numbers(self) -> Mapping[Place, int]:
        """Every place where a service is served → its number, from 1: the same on every node."""
        places = (frontend.place for served in self.frontends_outside.values() for frontend in served)
        return {place: number for number, place in enumerate(dict.fromkeys(places), 1)}

    @cached_property
    def running(self) -> tuple[str, ...]:
        """The nodes whose agent stays up; the others are unknown to them."""
        return tuple(name for name, node in self.nodes.items() if node.agent_exits is None)

    @cached_property
    def native_node_ends(self) -> frozenset[str]:
        """`node.nic`, and the address, of every node IP that pods reach with their own: those of native routing."""
        return frozenset(
            end
            for name, node in self.nodes.items()
            if not node.tunnels
            for nic_name, nic in self.topology.nodes[name].interfaces.items()
            for interface in nic.addresses
            if interface.ip in node.node_ips.values()
            for end in (f"{name}.{nic_name}", str(interface.ip))
        )

    def _decide(self, name: str) -> NodeDecision:
        node = self.topology.nodes[name]
        view = self.settings.for_node(name, {"kubernetes.io/hostname": name, **node.labels})
        node_ips: dict[Family, Address] = {}
        for family, text in ((FAMILIES[0], view.ipv4_node), (FAMILIES[1], view.ipv6_node)):
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

    def router(self, name: str, family: Family) -> Address:
        """A node's router IP, of a family that its pods have."""
        address = self.topology.router_address(name, family)
        assert address is not None
        return address

    def peers(self, name: str) -> tuple[NodeDecision, ...]:
        """The other nodes this node's agent knows of."""
        return tuple(self.nodes[peer] for peer in self.running if peer != name)

    def tunnel_routes(self, name: str, table: int) -> Iterator[Route]:
        """One encapsulating route per peer pod CIDR, to the peer's node IP of the tunnel's underlay (node.go)."""
        node, why = self.nodes[name], reason("tunnel.pod-cidr" if table == REMOTE_PODS else "tunnel.node-route")
        for peer in self.peers(name):
            for cidr in peer.announced:
                family = family_of(cidr)
                if family in node.families and family in peer.families:
                    source = self.topology.router_address(name, family)
                    yield from _into_tunnel(node, peer, cidr, cidr, table=table, source=source, why=why)

    def node_ip_tunnel_routes(self, name: str, table: int) -> Iterator[Route]:
        """With the host firewall or node encryption a remote node IP has a tunnel endpoint too: pods reach it through
        the tunnel.

        pkg/node/manager/manager.go nodeAddressHasTunnelIP.
        """
        node = self.nodes[name]
        needs = node.settings.host_firewall or (node.settings.wireguard and node.settings.encrypt_node)
        for peer in self.peers(name) if node.tunnels and needs else ():
            cidrs = {cidr.version: cidr for cidr in reversed(peer.announced)}
            for family in node.families:
                if family in peer.node_ips and family in cidrs:
                    alone, why = ipaddress.ip_network(peer.node_ips[family]), reason("tunnel.pod-cidr")
                    yield from _into_tunnel(node, peer, alone, cidrs[family], table=table, why=why)

    def warnings(self, name: str) -> tuple[str, ...]:
        """What a node's agent warns of while it runs."""
        node = self.nodes[name]
        if node.agent_exits is not None:
            return ()
        own = (node.drd.warning, node.native_cidr_warning, *node.notes, self._netkit_with_rules(name))
        of_links = vlanfilter.warnings(node, self.topology.nodes[name])
        return (*(warning for warning in own if warning), *of_links, *self.direct_routes(name)[1])

    def _netkit_with_rules(self, name: str) -> str | None:
        if (
            not self.nodes[name].settings.get("datapath-mode").startswith("netkit")
            or not self.topology.nodes[name].rules
        ):
            return None
        return "Cilium #37976 reports that a node with netkit pods and policy rules of its own does not reach them"

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
                way = node.kernel_fib.lookup(target)
                if way is None or not way.hops:
                    warnings.append(f"Unable to install direct node route {cidr}: no route to {target}")
                    continue
                hop, direct = way.hops[0], NextHop(via=target, dev=way.hops[0].dev)
                if hop.via is not None and hop.via != target:
                    warning = (
                        f"Unable to install direct node route: route to destination {target} contains gateway "
                        f"{hop.via}, must be directly reachable. Add `direct-routing-skip-unreachable` to skip "
                        "unreachable routes"
                    )
                    if node.settings.direct_routing_skip_unreachable:
                        warning = "route to destination contains gateway, skipping route as not directly reachable"
                    warnings.append(warning)
                    continue
                why = reason("route.direct-node-route")
                routes.append(Route(cidr, (direct,), protocol=PROTOCOLS["kernel"], why=why))
        return tuple(routes), tuple(warnings)

    def fib(self, name: str) -> Fib:
        """A node's FIB with the direct node routes."""
        return self.nodes[name].kernel_fib.with_routes(self.direct_routes(name)[0])

    def after(self, topology: Topology) -> Decisions:
        """The decisions once the agents that run have heard of everything that differs in `topology`."""
        gone = flushed(self.topology, topology)
        memory = {name: self._memory(name, topology.nodes[name], gone) for name in self.running}
        return replace(self, topology=topology, memory=memory)

    def validated(self) -> Decisions:
        """The decisions once every agent has validated its nodes again: missing direct node routes are added.

        pkg/node/manager/manager.go backgroundSync, about once a minute (backoff.go ClusterSizeDependantInterval).
        """
        fresh = replace(self, memory={})
        routes = {name: fresh.direct_routes(name)[0] for name in self.memory}
        memory = {name: replace(known, direct_routes=routes[name]) for name, known in self.memory.items()}
        return replace(self, memory=memory)

    def _memory(self, name: str, node: Node, gone: Flushed) -> Memory:
        known, before = self.memory.get(name) or self._start(name), self.topology.nodes[name]
        indices = _indices(known.indices, node)
        links_before, links = links_of(before, known.indices), links_of(node, indices)
        rows_before, rows = rows_of(Fib.of(before).routes, links_before), rows_of(Fib.of(node).routes, links)
        controller = known.controller.after(*events(links_before, links, rows_before, rows))
        lost = {device for host, device in gone if host == name}
        direct = tuple(route for route in self.direct_routes(name)[0] if route.devices.isdisjoint(lost))
        return Memory(controller, indices, direct)

    def _start(self, name: str) -> Memory:
        node = self.nodes[name]
        rows = rows_of(node.kernel_fib.routes, node.links)
        controller = Controller.of(node.settings, node.version, node.links, rows)
        return Memory(controller, {link.name: link.index for link in node.links})


def _into_tunnel(
    node: NodeDecision, peer: NodeDecision, destination: Network, cidr: Network, **more: Any
) -> Iterator[Route]:
    """A route to a peer. `cidr`: the pod CIDR whose first address stands for the peer on the tunnel's device."""
    remote = node.tunnel_end(peer)
    if remote is not None:
        hop = NextHop(via=cidr.network_address, dev=node.tunnel_device, onlink=True)
        protocol, encap = PROTOCOLS["kernel"], Encap(VNI, remote)
        yield Route(destination, (hop,), protocol=protocol, mtu=node.route_mtu, encap=encap, **more)


def flushed(before: Topology, after: Topology) -> Flushed:
    """What went down, or away: the routes by it are gone."""
    return frozenset(
        (host, name)
        for host, name, interface in before.interface_pairs()
        if (now := after.hosts[host].interfaces.get(name)) is None
        or (is_up(before.hosts[host], name) and not is_up(after.hosts[host], name))
        or (bool(interface.addresses_of(4)) and not now.addresses_of(4))
    )


def _indices(known: Mapping[str, int], node: Node) -> Mapping[str, int]:
    """The indices of the interfaces that are there; a new one gets the next free number, never an old one."""
    indices = {name: index for name, index in known.items() if name == "lo" or name in node.interfaces}
    fresh = itertools.count(max(known.values()) + 1)
    return {**indices, **{name: next(fresh) for name in node.interfaces if name not in indices}}


def _without_subnets(fib: Fib, node: Node) -> Fib:
    """The FIB without the routes of ENIs' subnets, which agents take out of table main (pkg/ipam/crd_eni.go)."""
    own = {(interface.network, name) for name, nic in node.enis.items() for interface in nic.addresses_of(4)[:1]}
    main, kernel = TABLES["main"], PROTOCOLS["kernel"]
    kept = tuple(
        route
        for route in fib.routes
        if (route.table, route.protocol) != (main, kernel)
        or not route.nexthops
        or (route.destination, route.nexthops[0].dev) not in own
    )
    return Fib(kept, fib.rules) if len(kept) < len(fib.routes) else fib
