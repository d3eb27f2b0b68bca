"""The reverse path filters of a node's NICs (rp_filter), and the packets that Cilium takes before the filter. Pure.

Agents set `conf.all.rp_filter` and that of their own devices to 0. They leave the NICs' as they are, but for ENIs and
egress gateways' NICs (pkg/datapath/loader/base.go, netlink.go, pkg/datapath/connector). What `cil_from_netdev`
redirects never comes to the kernel's routing, which is where the filter is: requests to services with backends on other
nodes, the answers to them, and with BPF host routing all packets to pods. Packets to the node itself do, and with
legacy host routing those to its pods (bpf/bpf_host.c handle_ipv4_cont).

In the built-in datapath the kernel routes all of them. What Cilium would redirect gets a mark, and the filter looks for
the way back to its source with that mark (`src_valid_mark`): in a table whose routes lead there by every selected NIC.
The packet itself is routed by the same rule. So the table for packets to pods (`TO_POD`) has routes to everything but
those pods, and the table for packets from backends (`FROM_BACKEND`) has routes to the backends only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from niclab.cilium import egress, eni, numbers
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import ROUTER_DEVICE, NodeDecision, pod_interface
from niclab.cilium.services import QUIET, NodeServices
from niclab.kernel import reversepath
from niclab.net.operation import AddRoute, AddRule, Operation, SetSysctl
from niclab.net.packetrules import Devices, Mark, Match, PacketRule, SetMark
from niclab.net.route import NextHop, Route, Rule, network_of

_TABLES = {numbers.TO_POD: numbers.WAY_BACK_OF_PODS, numbers.FROM_BACKEND: numbers.WAY_BACK_OF_BACKENDS}
"""Mark → table."""


def operations(decisions: Decisions, node: NodeDecision) -> Iterator[Operation]:
    """What agents do to the filters, and the way back of what their programs take."""
    host = decisions.topology.nodes[node.node]
    modes = reversepath.configured(host.sysctls)
    if modes.get(reversepath.ALL):
        yield SetSysctl(node.node, reversepath.key(reversepath.ALL), "0")
    if modes.get(reversepath.DEFAULT):
        tunnel = (
            (node.tunnel_device,) if node.tunnels or node.returns_by_geneve or egress.in_use(decisions, node) else ()
        )
        for device in (ROUTER_DEVICE, "cilium_net", *tunnel, *map(pod_interface, host.pods)):
            yield SetSysctl(node.node, reversepath.key(device), "0")
    for nic, mode in _agents_own(decisions, node).items():
        yield SetSysctl(node.node, reversepath.key(nic), str(mode))
    nics = _filtered(decisions, node)
    if nics:
        yield SetSysctl(node.node, reversepath.key(reversepath.ALL, "src_valid_mark"), "1")
        for route in _ways_back(NodeServices(decisions, node), tuple(NextHop(dev=nic) for nic in nics)):
            yield AddRoute(node.node, route, replace=True)
        for mark, table in _TABLES.items():
            yield AddRule(
                node.node, Rule(table=table, priority=numbers.WAY_BACK_PRIORITY, mark=(mark, mark), explicit_family=4)
            )


def _ways_back(services: NodeServices, hops: tuple[NextHop, ...]) -> Iterator[Route]:
    """Routes by every NIC, but not to where the marked packets themselves go."""
    backends = {backend.address for frontend in services.frontends for backend in frontend.outside}
    by_here = {pod.address for pod in egress.policed(services.decisions) if pod.by(services.node.node)}
    for address in sorted({*backends, *services.pods, *by_here}, key=int):
        if address.version == 4:
            yield Route(network_of(address), kind="throw", table=_TABLES[numbers.TO_POD])
    yield Route(ipaddress.ip_network("0.0.0.0/0"), hops, table=_TABLES[numbers.TO_POD])
    for address in sorted(backends - services.pods.keys(), key=int):
        if address.version == 4:
            yield Route(network_of(address), hops, table=_TABLES[numbers.FROM_BACKEND])


def packet_rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """The marks, once services have theirs."""
    nics = _filtered(decisions, node)
    for match, mark in _taken(NodeServices(decisions, node), Devices(nics)) if nics else ():
        yield PacketRule("prerouting", match, SetMark(mark, mark), QUIET, 4)
    for mark in _TABLES if nics else ():
        # The tunnel's own packets take their own route.
        match = Match(oif=Devices((node.tunnel_device,)), mark=Mark(mark, mark))
        yield PacketRule("postrouting", match, SetMark(0, mark), QUIET, 4)


def _taken(services: NodeServices, nics: Devices) -> Iterator[tuple[Match, int]]:
    """With legacy host routing a service with a backend on this node goes to the kernel, whichever is chosen."""
    served = Mark(numbers.SERVED, numbers.SERVED)
    yield Match(iif=nics, direction="reply", connection_mark=served), numbers.FROM_BACKEND
    if services.node.host_routing == "BPF":
        pods = tuple(network_of(address) for address in services.pods if address.version == 4)
        if pods:
            yield Match(iif=nics, destinations=pods), numbers.TO_POD
        # Answers to what was masqueraded; what a socket of the node translated is the node's own.
        own = Mark(0, numbers.AT_SOCKET | numbers.SERVED)
        yield Match(iif=nics, direction="reply", translated=True, connection_mark=own), numbers.TO_POD
        yield Match(iif=nics, direction="original", connection_mark=served), numbers.TO_POD
        return
    for frontend in services.frontends:
        if frontend.outside and not any(backend.address in services.pods for backend in frontend.outside):
            yield Match(iif=nics, direction="original", connection_mark=services.taken_in(frontend)), numbers.TO_POD


def _filtered(decisions: Decisions, node: NodeDecision) -> tuple[str, ...]:
    """The selected NICs that are up and have a filter while the agent runs."""
    modes = {**reversepath.configured(decisions.topology.nodes[node.node].sysctls), **_agents_own(decisions, node)}
    up = {link.name for link in node.links if link.up and not link.loopback}
    return tuple(nic for nic in node.selected if modes.get(nic) and nic in up)


def _agents_own(decisions: Decisions, node: NodeDecision) -> Mapping[str, int]:
    """The NICs whose filter the agent sets."""
    gateways = dict.fromkeys(egress.gateway_nics(decisions, node), reversepath.LOOSE)
    return {**eni.filters(decisions, node), **gateways}
