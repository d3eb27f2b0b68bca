"""Egress gateways: which pods' packets to which networks leave the cluster by which node, NIC and address. Pure.

pkg/egressgateway/policy.go: what a policy says becomes one entry per pod and network in an eBPF map on every node,
looked up by longest prefix (`cilium_egress_gw_policy_v4`, `…_v4_v2`, `…_v6`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from niclab.cilium.decisions import Decisions, NodeDecision
from niclab.cilium.selection import Version
from niclab.net.route import TABLES, Address, Family, Network
from niclab.topology import Node
from niclab.topology.egress import EgressPolicy


@dataclass(frozen=True, slots=True)
class WayOut:
    """How a gateway sends a pod's packets out. `nic` and `address` None: the policy fits nothing on the gateway.

    `fixed`: the NIC is the policy's; else it is that of the gateway's route, looked up with `address` as the source.
    """

    node: str
    nic: str | None
    address: Address | None
    fixed: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """What an egress policy makes of one pod's packets to one network. `excluded`: nothing.

    `way_out` None: no gateway runs, and the packets are dropped.
    """

    policy: str
    network: Network
    excluded: bool = False
    way_out: WayOut | None = None


def in_use(decisions: Decisions) -> bool:
    """Are there policies, and is there an agent that follows them?"""
    return bool(decisions.topology.egress_policies) and any(
        decisions.nodes[name].settings.egress_gateway for name in decisions.running
    )


def entries(decisions: Decisions, pod: str, family: Family) -> tuple[Entry, ...]:
    """A pod's entries of one family, the longest prefixes first. Where two policies say something of the same network,
    agents keep either; here it is the first.
    """
    found: dict[Network, Entry] = {}
    spec = decisions.topology.pods[pod][1]
    for name, policy in decisions.topology.egress_policies.items():
        if not policy.selects(pod, spec.labels):
            continue
        out = way_out(decisions, policy, pod, family)
        for networks, excluded in ((policy.destinations, False), (policy.excluded, True)):
            for network in networks:
                if network.version == family:
                    found.setdefault(network, Entry(name, network, excluded, None if excluded else out))
    return tuple(
        sorted(found.values(), key=lambda entry: (-entry.network.prefixlen, int(entry.network.network_address)))
    )


def covering(entries: Iterable[Entry], network: Network) -> Entry | None:
    """The entry of the longest prefix that covers a network; the entries are in that order."""
    return next((one for one in entries if inside(network, one.network)), None)


def inside(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)


def way_out(decisions: Decisions, policy: EgressPolicy, pod: str, family: Family) -> WayOut | None:
    """The gateway of a pod, and how it sends. Several share the pods by a hash: agents take one of the UID of the pod's
    endpoint (computeEndpointHash), here it is one of the pod's name.
    """
    running = [name for name in policy.gateways if name in decisions.running and decisions.nodes[name].node_ips.get(4)]
    if not running:
        return None
    # An order all agents agree on: by node IP.
    ordered = sorted(running, key=lambda name: int(decisions.nodes[name].node_ips[4]))
    chosen = ordered[zlib.crc32(pod.encode()) % len(ordered)]
    node = decisions.nodes[chosen]
    nic, address = _egress(node, decisions.topology.nodes[chosen], policy, family)
    return WayOut(chosen, nic, address, fixed=policy.egress_ip is None and _fixes_nic(node.version, family))


def _fixes_nic(version: Version, family: Family) -> bool:
    """Does the map tell the NIC? For IPv6 from 1.19, for IPv4 from 1.20 on (ba4bf816bd, dde5e7cee2: …_v4_v2)."""
    return version >= ((1, 20) if family == 4 else (1, 19))


def _egress(
    node: NodeDecision, host: Node, policy: EgressPolicy, family: Family
) -> tuple[str, Address] | tuple[None, None]:
    """The gateway's NIC and address (deriveFromPolicyGatewayConfig)."""
    if policy.egress_ip is not None:
        name = next(
            (name for name, nic in host.nics.items() if policy.egress_ip in [one.ip for one in nic.addresses]), None
        )
        if name is not None and policy.egress_ip.version == family:
            return name, policy.egress_ip
        if node.version < (1, 20):  # an address of one family says nothing of the other
            name = None
    elif policy.interface is not None:
        name = policy.interface
    else:
        name = _default_nic(node, family)
    first = next(iter(host.nics[name].addresses_of(family)), None) if name is not None else None
    return (name, first.ip) if name is not None and first is not None else (None, None)


def gateway_nics(decisions: Decisions, node: NodeDecision) -> Iterator[str]:
    """The NICs by which a gateway sends, whose reverse path filter is loosened (manager.go relaxRPFilter)."""
    if not node.settings.egress_gateway or not in_use(decisions):
        return
    host = decisions.topology.nodes[node.node]
    for policy in decisions.topology.egress_policies.values():
        nic = _egress(node, host, policy, 4)[0] if node.node in policy.gateways else None
        if nic is not None:
            yield nic


def _default_nic(node: NodeDecision, family: Family) -> str | None:
    """The NIC of the default route in table main; one with several hops has none (route.NodeDeviceWithDefaultRoute)."""
    defaults = [
        route
        for route in node.kernel_fib.routes
        if route.is_default and route.table == TABLES["main"] and route.family == family and route.kind == "unicast"
    ]
    best = min(defaults, key=lambda route: route.effective_metric, default=None)
    return best.nexthops[0].dev if best is not None and len(best.nexthops) == 1 else None


def cluster(decisions: Decisions, family: Family) -> Iterator[Address]:
    """Addresses of pods and nodes: what goes to them stays in the cluster (identity_is_cluster), policy or not."""
    for name in decisions.running:
        node = decisions.nodes[name]
        if family in node.node_ips:
            yield node.node_ips[family]
        router = decisions.topology.router_address(name, family)
        if router is not None:
            yield router
        for pod in decisions.topology.nodes[name].pods:
            yield from (address for address in decisions.pod_addresses[pod] if address.version == family)
