"""One node's services: its frontends, its NICs and pods, and the marks that tell connections apart. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from niclab.cilium.decisions import TUNNEL_DEVICE, Decisions, NodeDecision, pod_interface
from niclab.cilium.services.frontends import Frontend
from niclab.net.packetrules import Action, Devices, Hook, Mark, Match, PacketRule, SetMark
from niclab.net.reason import Why
from niclab.net.route import Address, Family

SERVED, FROM_NIC, DIRECT_RETURN, RETURNED = 0x1000_0000, 0x2000_0000, 0x4000_0000, 0x8000_0000
"""A connection that a NIC took in for a frontend; a packet that a NIC's program, not a pod's, forwards; a connection
whose answer DSR leaves to the backend's node; such a connection at that node."""
AT_SOCKET = 0x0400_0000
"""A connection that was translated at a socket of the node: its answers need no program to be translated back."""
NUMBER_MASK = 0x00FF_FFFF
"""Of a connection's mark: which frontend of the cluster it was taken in for."""
SOURCE_SHIFT, SOURCE_MASK = 16, 0x03FF_0000
"""Of a packet's mark: which source the FIB is asked with. The bits below are other features'."""
KIND_MASK = SERVED | DIRECT_RETURN | RETURNED

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
        serves = self.node.serves_node_ports and bool(self.node.selected)
        return serves and bool(self.decisions.topology.services)

    @property
    def frontends(self) -> tuple[Frontend, ...]:
        """As clients outside the cluster ask for them, on every address."""
        return self.decisions.frontends_outside[self.node.node]

    @property
    def selected(self) -> Devices:
        return Devices(self.node.selected)

    @cached_property
    def tunnel(self) -> tuple[str, ...]:
        return (TUNNEL_DEVICE,) if self.node.tunnels else ()

    @cached_property
    def pods(self) -> Mapping[Address, str]:
        """Pod address → this node's end of the pod's cable."""
        pods = self.decisions.topology.nodes[self.node.node].pods
        return {address: pod_interface(pod) for pod in pods for address in self.decisions.pod_addresses[pod]}

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
        return self.node.version < (1, 17) or (self.node.settings.ipsec and self.node.version < (1, 19))

    def returns_directly(self, one: Frontend) -> bool:
        mode = self.node.settings.load_balancer_mode
        return one.kind != "ClusterIP" and (mode == "dsr" or (mode == "hybrid" and one.protocol == "tcp"))

    def answered_here(self) -> Iterator[Frontend]:
        """Other nodes' frontends whose clients this node's backends answer themselves (DSR)."""
        for peer in self.decisions.peers(self.node.node):
            there = NodeServices(self.decisions, peer)
            if peer.settings.load_balancer_mode == "snat" or not there.active:
                continue
            for one in there.frontends:
                if there.returns_directly(one) and any(backend.address in self.pods for backend in one.outside):
                    yield one

    def number(self, one: Frontend) -> int:
        """The same on every node."""
        return self.decisions.frontend_numbers[one.place]

    def value(self, one: Frontend) -> int:
        """The mark of connections that were taken in for a frontend."""
        return SERVED | (DIRECT_RETURN if self.returns_directly(one) else 0) | self.number(one)

    def taken_in(self, one: Frontend) -> Mark:
        return Mark(self.value(one), KIND_MASK | NUMBER_MASK)

    @cached_property
    def sources(self) -> Mapping[Address, int]:
        """Sources that the FIB is asked with → the numbers that stand for them; none where no rule looks at sources."""
        host = self.decisions.topology.nodes[self.node.node]
        # Pods whose addresses belong to NICs are routed by their source too.
        by_source = bool(host.enis) or any(rule.source for rule in host.rules)
        if not self.active or not by_source:
            return {}
        own = (self.node.direct_routing_address(family) for family in self.node.families)
        found = (*own, *(one.address for one in self.frontends), *(one.address for one in self.answered_here()))
        return {one: number for number, one in enumerate(dict.fromkeys(one for one in found if one is not None), 1)}

    def as_from(self, one: Frontend, address: Address, match: Match) -> Iterator[PacketRule]:
        """Packets that match are routed as if they came from an address; nothing where no rule looks at sources."""
        if address in self.sources:
            why = Why("service.fib-source", f"its route is looked up as from {address}", "bpf/lib/fib.h fib_redirect")
            mark = SetMark(self.sources[address] << SOURCE_SHIFT, SOURCE_MASK)
            yield at("prerouting", match, mark, why, one.family)

    def to(self, one: Frontend, addresses: Iterable[Address], iif: Devices | None) -> Match:
        """Packets for a frontend at any of these addresses."""
        alone = tuple(ipaddress.ip_network(address) for address in addresses)
        return Match(iif=iif, destinations=alone, protocol=one.protocol, port=one.port)


def at(hook: Hook, match: Match, action: Action, why: Why, family: Family) -> PacketRule:
    return PacketRule(hook, match, action, why, family)


def ends(one: Frontend, *, outside: bool) -> str:
    """The backends in words."""
    found = one.outside if outside else one.inside
    return " or ".join(f"{backend.address}:{backend.port}" for backend in found)
