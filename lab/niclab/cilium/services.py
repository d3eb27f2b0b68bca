"""Services with kernel parts: who is served on which NIC, by which backend, and whom the backend sees. Pure.

What Cilium's programs do, and what stands in for them:

    cil_from_netdev, nodeport_lb4     prerouting: DNAT on selected NICs, a mark on packet and connection
    tail_nodeport_nat_egress_ipv4     postrouting: SNAT of marked connections that go to other nodes
    tail_nodeport_nat_ingress_ipv4    connection tracking, and a drop where no program is attached
    nodeport_rev_dnat_fwd_ipv4        connection tracking, undone where no program is attached
    tail_nodeport_ipv4_dsr            a note in the packet's header instead of an IP option; the backend's node replaces
                                      the source of the answer statelessly
    cil_sock4_connect, bpf_lxc        prerouting from pods, output of the node: DNAT of what begins in the cluster
    fib_redirect                      routing rules by mark
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from niclab.cilium import numbers
from niclab.cilium.decisions import Decisions
from niclab.cilium.frontends import Frontend, node_port_addresses
from niclab.cilium.node import NodeDecision, pod_interface
from niclab.cilium.tables import reason
from niclab.net import packetrules
from niclab.net.packetrules import Devices, Hook, Mark, Match, PacketRule, Rewrite, SetConnectionMark, SetMark
from niclab.net.route import TABLES, Address, Family, Rule, Why, network_of, numbered
from niclab.topology.model import Host, Node

_KIND = numbers.SERVED | numbers.DIRECT_RETURN | numbers.RETURNED
_WHICH = _KIND | numbers.FRONTEND.mask

QUIET = Why("service.mark", "", "bpf/lib/nodeport.h")
"""Of rules that only remember something for others."""


@dataclass(frozen=True)
class NodeServices:
    """What the rules of one node are made of."""

    decisions: Decisions
    node: NodeDecision

    @property
    def active(self) -> bool:
        """Does this node take in what clients outside the cluster ask?"""
        return self.node.serves_node_ports and bool(self.node.selected and self.decisions.topology.services)

    @property
    def host(self) -> Node:
        return self.decisions.topology.nodes[self.node.node]

    @property
    def frontends(self) -> tuple[Frontend, ...]:
        """As clients outside the cluster ask for them, on every address; none where they are not taken in."""
        return self.decisions.frontends_outside[self.node.node] if self.active else ()

    @property
    def selected(self) -> Devices:
        return Devices(self.node.selected)

    @cached_property
    def tunnel(self) -> tuple[str, ...]:
        return (self.node.tunnel_device,) if self.node.tunnels or self.node.returns_by_geneve else ()

    @cached_property
    def pods(self) -> Mapping[Address, str]:
        """Pod address → this node's end of the pod's cable."""
        return {address: pod_interface(pod) for pod in self.host.pods for address in self.decisions.pod_addresses[pod]}

    @cached_property
    def pod_devices(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.pods.values()))

    @property
    def away(self) -> Devices | None:
        """Every interface but those of this node's pods; None for every one."""
        return Devices(self.pod_devices, negated=True) if self.pod_devices else None

    @property
    def translates_at_pods(self) -> bool:
        """Do pods' own programs translate answers back? Up to 1.16 (e964b0ac1e); with IPsec up to 1.18 (6a7570d565)."""
        ipsec = self.node.settings.ipsec and self.node.version.has("pod-translates-answers-ipsec")
        return ipsec or self.node.version.has("pod-translates-answers")

    @property
    def in_geneve(self) -> bool:
        """Is what is forwarded in Geneve told from other packets, which are not?"""
        return self.node.returns_by_geneve and not self.node.tunnels

    def returns_directly(self, frontend: Frontend) -> bool:
        mode = self.node.settings.load_balancer_mode
        return frontend.kind != "ClusterIP" and (mode == "dsr" or (mode == "hybrid" and frontend.protocol == "tcp"))

    def hides(self, frontend: Frontend) -> bool:
        """Is it a cluster IP that clients outside the cluster do not get?"""
        return frontend.kind == "ClusterIP" and not self.node.settings.external_cluster_ip

    def answered_here(self) -> Iterator[Frontend]:
        """Other nodes' frontends whose clients this node's backends answer themselves (DSR)."""
        for peer in self.decisions.peers(self.node.node):
            there = NodeServices(self.decisions, peer)
            for frontend in there.frontends if peer.settings.load_balancer_mode != "snat" else ():
                local = any(backend.address in self.pods for backend in frontend.outside)
                if local and there.returns_directly(frontend):
                    yield frontend

    def number(self, frontend: Frontend) -> int:
        """The same on every node."""
        return self.decisions.frontend_numbers[frontend.place]

    def taken_in(self, frontend: Frontend) -> Mark:
        """The mark of connections that were taken in for a frontend."""
        directly = numbers.DIRECT_RETURN if self.returns_directly(frontend) else 0
        return Mark(numbers.SERVED | directly | numbers.FRONTEND.value(self.number(frontend)), _WHICH)

    @cached_property
    def sources(self) -> Mapping[Address, int]:
        """Sources that the FIB is asked with → the numbers that stand for them; none where no rule looks at sources."""
        # Pods whose addresses belong to NICs are routed by their source too.
        by_source = bool(self.host.enis) or any(rule.source for rule in self.host.rules)
        if not self.active or not by_source:
            return {}
        own = (self.node.direct_routing_address(family) for family in self.node.families)
        asked = (frontend.address for frontend in (*self.frontends, *self.answered_here()))
        sources = dict.fromkeys(address for address in (*own, *asked) if address is not None)
        return {address: number for number, address in enumerate(sources, 1)}

    def as_from(self, frontend: Frontend, address: Address | None, match: Match) -> Iterator[PacketRule]:
        """Packets that match are routed as if they came from an address; nothing where no rule looks at sources."""
        if address is not None and address in self.sources:
            mark = SetMark(numbers.SOURCE.value(self.sources[address]), numbers.SOURCE.mask)
            why = reason("service.fib-source", address=address)
            yield PacketRule("prerouting", match, mark, why, frontend.family)

    def to(self, frontend: Frontend, addresses: Iterable[Address], iif: Devices | None) -> Match:
        """Packets for a frontend at any of these addresses."""
        alone = tuple(network_of(address) for address in addresses)
        return Match(iif=iif, destinations=alone, protocol=frontend.protocol, port=frontend.port)


def _chosen(frontend: Frontend, backends: tuple[packetrules.Backend, ...]) -> str:
    """The backends in words, and what chooses among several."""
    alone = ", one for each client" if frontend.sticks and len(backends) > 1 else ""
    redirect = f", by local redirect policy {frontend.redirect}" if frontend.redirect else ""
    ends = " or ".join(f"{backend.address}:{backend.port}" for backend in backends)
    return f"{ends}{alone}{redirect}"


def packet_rules(decisions: Decisions, node: NodeDecision) -> Iterator[PacketRule]:
    """What a node does to the packets of services, in the order it is asked; before masquerading."""
    services = NodeServices(decisions, node)
    if services.active:
        yield from _backends_answers(services)
        for frontend in services.frontends:
            yield from _answers_routed_as_service(services, frontend)
        for frontend in services.frontends:
            yield from _client_asks(services, frontend)
        yield from _returning_directly(services)
        yield from _forwarded(services)
    yield from _inside(services)


# What comes in by a NIC: clients' requests, and backends' answers to requests that were forwarded.


def _backends_answers(services: NodeServices) -> Iterator[PacketRule]:
    """Answers of other nodes' backends: translated back by the NIC's program, so not where none is attached."""
    mark = Mark(numbers.SERVED, numbers.SERVED)
    known = Devices((*services.node.selected, *services.tunnel, *services.pod_devices), negated=True)
    drop = packetrules.Drop("the node refuses it: it is no connection of its own")
    match = Match(iif=known, connection_mark=mark, direction="reply")
    yield PacketRule("prerouting", match, drop, reason("service.answer-not-taken"))
    # The tunnel's program asks the FIB on every version: no mark there.
    match = Match(iif=services.selected, connection_mark=mark, direction="reply")
    yield PacketRule("prerouting", match, SetMark(numbers.FROM_NIC, numbers.FROM_NIC), reason("service.answer"))


def _answers_routed_as_service(services: NodeServices, frontend: Frontend) -> Iterator[PacketRule]:
    match = Match(connection_mark=services.taken_in(frontend), direction="reply")
    if services.translates_at_pods or services.away is None:
        yield from services.as_from(frontend, frontend.address, match)
        return
    yield from services.as_from(frontend, frontend.address, replace(match, iif=services.away))
    # A pod's program asks as the pod; the NIC's, where the packet is to leave, asks once more as the service.
    leaving = replace(match, iif=Devices(services.pod_devices), route=services.selected)
    yield from services.as_from(frontend, frontend.address, leaving)


def _client_asks(services: NodeServices, frontend: Frontend) -> Iterator[PacketRule]:
    """A client outside the cluster asks at a selected NIC."""
    node, match = services.node, services.to(frontend, (frontend.address,), services.selected)
    names: dict[str, object] = {"frontend": frontend, "service": frontend.service, "kind": frontend.kind}

    def rule(action: packetrules.Action, why: Why) -> PacketRule:
        return PacketRule("prerouting", match, action, why, frontend.family)

    if services.hides(frontend):
        yield rule(packetrules.Drop("a cluster IP is not served from outside"), reason("service.cluster-ip", **names))
    elif not frontend.outside:
        words = f"{frontend.service} has no backend that {node.node} may use"
        refuses = node.settings.refuses_without_backend
        why = reason("service.no-backend", **names, outcome="refused" if refuses else "dropped")
        yield rule(packetrules.Reject(words) if refuses else packetrules.Drop(words), why)
    else:
        in_geneve = services.in_geneve and services.returns_directly(frontend)
        bits = numbers.FROM_NIC | (numbers.IN_GENEVE if in_geneve else 0)
        yield rule(SetMark(bits, bits), reason("service.taken-in", **names))
        yield rule(SetConnectionMark(services.taken_in(frontend).value), QUIET)
        if not services.returns_directly(frontend):
            yield from services.as_from(frontend, node.direct_routing_address(frontend.family), match)
        why = reason("service.backend", **names, backends=_chosen(frontend, frontend.outside))
        yield rule(packetrules.Dnat(frontend.outside, frontend.sticks), why)


# Direct server return (DSR): the client's address stays, and the backend's node answers with the service's.


def _returning_directly(services: NodeServices) -> Iterator[PacketRule]:
    """What is forwarded says which frontend was asked. At the backend's node the note is taken on selected NICs, and
    the answer's source is replaced on them."""
    selected = services.selected
    for frontend in services.frontends:
        if frontend.outside and services.returns_directly(frontend):
            match = Match(oif=services.away, connection_mark=services.taken_in(frontend), direction="original")
            note = Rewrite(note=numbers.NOTE.value(services.number(frontend)))
            rule = "service.dsr-geneve" if services.node.returns_by_geneve else "service.dsr"
            yield PacketRule("postrouting", match, note, reason(rule, frontend=frontend), frontend.family)
    for frontend in services.answered_here():
        number, family, protocol = services.number(frontend), frontend.family, frontend.protocol
        connection = Mark(numbers.RETURNED | numbers.FRONTEND.value(number), _WHICH)
        by = Devices(services.tunnel) if services.node.returns_by_geneve else selected
        noted, why = Match(iif=by, note=numbers.NOTE.value(number)), reason("service.dsr-note", frontend=frontend)
        yield PacketRule("prerouting", noted, SetConnectionMark(connection.value), why, family)
        yield PacketRule("prerouting", noted, Rewrite(note=0), QUIET, family)
        answers = Match(connection_mark=connection, direction="reply", route=selected)
        yield from services.as_from(frontend, frontend.address, answers)
        source = Rewrite(source=frontend.address, source_port=frontend.port)
        match = Match(oif=selected, protocol=protocol, connection_mark=connection, direction="reply")
        yield PacketRule("postrouting", match, source, reason("service.dsr-answer", frontend=frontend), family)


# What leaves for a client of a service or for its backend: whose address it has.

_TRANSLATED = Mark(numbers.SERVED, _KIND)
_DIRECT = Mark(numbers.SERVED | numbers.DIRECT_RETURN, _KIND)


def _forwarded(services: NodeServices) -> Iterator[PacketRule]:
    for device in services.tunnel:
        # The tunnel's own packets take their own route.
        match = Match(oif=Devices((device,)), mark=Mark(numbers.FROM_NIC, numbers.FROM_NIC))
        yield PacketRule("postrouting", match, SetMark(0, numbers.FROM_NIC | numbers.IN_GENEVE), QUIET)
    for family in services.node.families:
        for match, address, why in _sources(services, family):
            yield PacketRule("postrouting", match, packetrules.Snat(address), why, family)
    for mark in (_TRANSLATED, _DIRECT):
        match, why = Match(connection_mark=mark), reason("service.client-seen")
        yield PacketRule("postrouting", match, packetrules.Exempt(), why)
    if not services.translates_at_pods:
        yield from _own_answers(services)


def _sources(services: NodeServices, family: Family) -> Iterator[tuple[Match, Address, Why]]:
    """The address that backends of other nodes see."""
    node = services.node
    match = Match(oif=services.away, connection_mark=_TRANSLATED)
    if node.tunnels:
        router = services.decisions.topology.router_address(node.node, family)
        if router is not None:
            yield match, router, reason("service.snat-tunnel", address=router)
        return
    if node.settings.dynamic_node_port_source and node.version.has("node-port-source-by-route"):
        yield from _route_sources(services, family, match)
    address = node.direct_routing_address(family)
    if address is not None:
        yield match, address, reason("service.snat-drd", address=address, device=node.drd.device)


def _route_sources(services: NodeServices, family: Family, match: Match) -> Iterator[tuple[Match, Address, Why]]:
    """`enable-dynamic-source-lookup-nodeport`: what a lookup without a source says for each peer's pods."""
    fib = services.decisions.fib(services.node.node)
    for peer in services.decisions.peers(services.node.node):
        cidr = peer.pod_cidrs.get(family)
        way = fib.lookup(cidr.network_address) if cidr is not None else None
        address = fib.source_for(cidr.network_address, way, services.host) if cidr is not None and way else None
        if cidr is not None and address is not None:
            why = reason("service.snat-route", address=address, cidr=cidr)
            yield replace(match, destinations=(cidr,)), address, why


def _own_answers(services: NodeServices) -> Iterator[PacketRule]:
    """Answers of this node's own backends are translated back where they leave by a selected NIC, and nowhere else."""
    elsewhere = Devices((*services.node.selected, *services.tunnel), negated=True)
    for frontend in services.frontends:
        for backend in frontend.outside if not services.hides(frontend) else ():
            if backend.address not in services.pods:
                continue
            match = Match(
                iif=Devices((services.pods[backend.address],)),
                oif=elsewhere,
                protocol=frontend.protocol,
                connection_mark=services.taken_in(frontend),
                direction="reply",
            )
            source = Rewrite(source=backend.address, source_port=backend.port)
            why = reason("service.answer-not-translated", backend=backend.address, frontend=frontend)
            yield PacketRule("leaving", match, source, why, frontend.family)


# What begins in the cluster is translated where it begins: at a pod, or at a socket of the node.

_SOCKET = "bpf/bpf_sock.c __sock4_xlate_fwd"
_PACKET = "bpf/bpf_lxc.c __per_packet_lb_svc_xlate_4"


def at_sockets(decisions: Decisions, node: NodeDecision) -> tuple[Address, ...]:
    """What programs of the node reach without a route: at the socket it is a backend's address before any is asked
    (cil_sock4_connect is a hook of connect and sendmsg); netfilter's output hook comes after the first lookup.
    """
    services = NodeServices(decisions, node)
    addresses: dict[Address, None] = {}
    for frontend in decisions.frontends[node.node] if node.settings.socket_load_balancing else ():
        if frontend.kind == "NodePort":
            addresses |= dict.fromkeys(nodes_addresses(services, frontend.family))
        elif frontend.kind != "ExternalIPs":
            addresses[frontend.address] = None
    ways = {address: node.kernel_fib.lookup(address) for address in addresses}
    return tuple(address for address, way in ways.items() if way is None or not way.hops)


def _inside(services: NodeServices) -> Iterator[PacketRule]:
    """A socket looks for node ports at every node's address; it leaves external IPs alone, which anybody could claim
    (sock4_skip_xlate, CVE-2020-8554). A pod's program knows this node's own frontends, each at its own address.
    """
    settings = services.node.settings
    pods = Devices(services.pod_devices) if services.pod_devices else None
    by_socket = settings.socket_load_balancing
    for frontend in services.decisions.frontends[services.node.node]:
        at_nodes: tuple[Address, ...] = (frontend.address,)
        at_own = at_nodes
        if frontend.kind == "NodePort":
            at_nodes = nodes_addresses(services, frontend.family)
            at_own = node_port_addresses(services.node, frontend.family)
        sockets = by_socket and frontend.kind != "ExternalIPs"
        pods_have_sockets = by_socket and not settings.socket_load_balancing_of_nodes_only
        if pods is not None and sockets and pods_have_sockets:
            yield from _translated(services, "prerouting", frontend, services.to(frontend, at_nodes, pods), _SOCKET)
        elif pods is not None and at_own and not pods_have_sockets:
            yield from _translated(services, "prerouting", frontend, services.to(frontend, at_own, pods), _PACKET)
        if sockets:
            yield from _translated(services, "output", frontend, services.to(frontend, at_nodes, None), _SOCKET)
    if by_socket and services.decisions.topology.services:
        match = Match(connection_mark=Mark(numbers.AT_SOCKET, numbers.AT_SOCKET), direction="reply")
        yield PacketRule("prerouting", match, packetrules.Accept(), QUIET)


def _translated(
    services: NodeServices, hook: Hook, frontend: Frontend, match: Match, source: str
) -> Iterator[PacketRule]:
    if hook == "output":
        yield PacketRule(hook, match, SetConnectionMark(numbers.AT_SOCKET), QUIET, frontend.family)
    action: packetrules.Action = packetrules.Dnat(frontend.inside, frontend.sticks)
    if frontend.inside:
        ends = {"port": frontend.port, "backends": _chosen(frontend, frontend.inside)}
        why = reason("service.inside", service=frontend.service, kind=frontend.kind, source=source, **ends)
    else:
        words = f"{frontend.service} has no backend that {services.node.node} may use"
        action, why = packetrules.Reject(words), Why("service.no-backend", words, source)
    yield PacketRule(hook, match, action, why, frontend.family)


def nodes_addresses(services: NodeServices, family: Family) -> tuple[Address, ...]:
    """What has the identity of this host or of a remote node.

    The node's own addresses in `node-addresses`, and every node's node IP; another node's other NICs are the world.
    """
    node = services.node
    own = [row.address for row in node.node_addresses]
    nodes = (node, *services.decisions.peers(node.node))
    every = [*own, *(known.node_ips[family] for known in nodes if family in known.node_ips)]
    return tuple(ip for ip in dict.fromkeys(every) if ip.version == family and not ip.is_link_local)


# Routing rules: the FIB is asked as NICs' programs ask it. fib_redirect asks with the source that the packet will have:
# the direct routing device's for a backend of another node, the service's own for an answer. The kernel routes before
# it translates: where a rule looks at the source, such packets carry a number that stands for it.


def routing_rules(decisions: Decisions, node: NodeDecision) -> Iterator[Rule]:
    """Where a node sends what NICs' programs forward for services."""
    services = NodeServices(decisions, node)
    if not services.active:
        return
    for family in node.families if services.in_geneve else ():
        mark, priority = (numbers.IN_GENEVE, numbers.IN_GENEVE), numbers.PRIORITY[numbers.REMOTE_PODS]
        yield Rule(table=numbers.REMOTE_PODS, priority=priority, mark=mark, explicit_family=family)
    tables = [numbers.REMOTE_PODS] * node.tunnels + [numbers.SINGLE_DEVICE] * (node.host_single_device is not None)
    mark = (numbers.FROM_NIC, numbers.FROM_NIC)
    for family in node.families:
        for table in tables:
            yield Rule(table=table, priority=numbers.PRIORITY[table], mark=mark, explicit_family=family)
        for address, number in services.sources.items():
            if address.version == family:
                yield from _rules_as_from(services.host, address, number, family)


def _rules_as_from(host: Host, address: Address, number: int, family: Family) -> Iterator[Rule]:
    """The node's own rules as a packet from `address` meets them."""
    mark = (numbers.SOURCE.value(number), numbers.SOURCE.mask)
    base = [Rule(table=TABLES["main"], priority=numbers.MAIN_PRIORITY, explicit_family=family)]
    own = [rule for rule in numbered(host.rules) if rule.family == family]
    for rule in sorted([*own, *base], key=lambda rule: rule.priority or 0):
        if (rest := _met(rule, address)) is not None:
            yield replace(rest, mark=mark, priority=numbers.SOURCE_PRIORITY, explicit_family=family)
    yield Rule(table=None, action="unreachable", mark=mark, priority=numbers.SOURCE_PRIORITY, explicit_family=family)


def _met(rule: Rule, address: Address) -> Rule | None:
    """What is left of a rule once the source is known and the packet's own mark is 0; None when it cannot match.

    A rule with `not` that looks at more than the source is left out: our mark does not say whether the rest holds.
    """
    inside = (rule.source is None or address in rule.source) and (rule.mark is None or not rule.mark[0] & rule.mark[1])
    if rule.negated:
        return None if inside else Rule(table=rule.table, action=rule.action)
    return replace(rule, source=None, mark=None) if inside else None
