"""The planned lab as a walk sees it: what every host routes, translates and answers for. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from niclab.cilium import operations
from niclab.cilium.bgp import learned_routes
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import pod_interface
from niclab.cilium.numbers import MOVED_LOCAL
from niclab.flow.predict.machine import Machine, Made
from niclab.flow.predict.model import Prediction
from niclab.flow.predict.walk import Walker
from niclab.kernel.fib import Fib
from niclab.kernel.reversepath import ALL, filters, told
from niclab.net.operation import AddAddress, AddRoute, AddRule, DelRoute, SetPacketRules, SetSysctl
from niclab.net.packetrules import Packet, PacketRule
from niclab.net.route import FAMILIES, TABLES, Address, Family, NextHop, Route, Rule
from niclab.topology import Flow, Topology
from niclab.topology.service_flows import as_sent, service_of, targets

_SOURCE_PORT = 40000
_ECHO_ID = 7


@dataclass
class _Planned:
    """What the datapath adds to one namespace."""

    routes: dict[object, Route] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    addresses: dict[str, list[Address]] = field(default_factory=dict)
    packet_rules: tuple[PacketRule, ...] = ()
    gone: set[object] = field(default_factory=set)
    sysctls: dict[str, str] = field(default_factory=dict)
    local_priority: int = 0


@dataclass(frozen=True)
class World:
    """The planned lab."""

    decisions: Decisions

    @property
    def topology(self) -> Topology:
        return self.decisions.topology

    @cached_property
    def home(self) -> Mapping[str, str]:
        """Pod → its node."""
        return {pod: node for pod, (node, _) in self.topology.pods.items()}

    @cached_property
    def _plans(self) -> dict[str, dict[str, _Planned]]:
        """Node → role → what the datapath adds there; filled as it is asked for."""
        return {}

    def _planned(self, node: str) -> Mapping[str, _Planned]:
        if node not in self._plans:
            found: dict[str, _Planned] = {}
            for operation in operations.node_operations(self.decisions, node) if node in self.decisions.running else ():
                mine = found.setdefault(operation.namespace, _Planned())
                if isinstance(operation, AddRoute):
                    mine.routes[operation.route.key] = operation.route
                elif isinstance(operation, DelRoute):
                    mine.gone.add(operation.route.key)
                elif isinstance(operation, AddRule) and operation.rule == Rule(TABLES["local"], priority=MOVED_LOCAL):
                    mine.local_priority = MOVED_LOCAL
                elif isinstance(operation, AddRule):
                    mine.rules.append(operation.rule)
                elif isinstance(operation, AddAddress):
                    mine.addresses.setdefault(operation.dev, []).append(operation.interface.ip)
                elif isinstance(operation, SetSysctl):
                    mine.sysctls[operation.key] = operation.value
                elif isinstance(operation, SetPacketRules):
                    mine.packet_rules += operation.rules
            self._plans[node] = found
        return self._plans[node]

    def _machine(self, name: str) -> Machine:
        """A host as the datapath leaves it."""
        host = self.topology.hosts[name]
        planned = self._planned(name).get(name, _Planned())
        own = Fib.of(host)
        kept = [route for route in own.routes if route.key not in planned.gone | planned.routes.keys()]
        local = [_local(dev, address) for dev, found in planned.addresses.items() for address in found]
        learned = self._learned.get(name, ())
        pods = self.topology.nodes[name].pods if name in self.topology.nodes else ()
        sysctls = {**host.sysctls, **planned.sysctls}
        return Machine(
            name=name,
            host=host,
            fib=Fib(
                (*kept, *local, *planned.routes.values(), *learned),
                (*own.rules, *planned.rules),
                planned.local_priority,
            ),
            packet_rules=planned.packet_rules,
            pods={pod_interface(pod): pod for pod in pods},
            forwards=name not in self.topology.externals,
            extra={dev: tuple(found) for dev, found in planned.addresses.items()},
            filters=filters(sysctls, host.interfaces),
            minds_marks=bool(told(sysctls, "src_valid_mark").get(ALL)),
        )

    @cached_property
    def _learned(self) -> Mapping[str, tuple[Route, ...]]:
        """Router → the routes that BGP gives it."""
        return learned_routes(self.decisions)

    @cached_property
    def machines(self) -> Mapping[str, Machine]:
        """Every host of the topology, made when it is first asked for."""
        return Made(self.topology.hosts, self._machine)

    @cached_property
    def _walker(self) -> Walker:
        return Walker(self.decisions, self.machines, self.home)

    def predict(self, flow: Flow) -> tuple[Prediction, ...]:
        """Every way a flow may go; more than one only where a hash decides. Empty when it cannot be sent at all."""
        ends = self._ends(flow)
        if ends is None:
            return ()
        start, source, target = ends
        sent = as_sent(self.topology, flow)
        if sent.protocol == "icmp":
            packet = Packet(source, target, "icmp", _ECHO_ID, _ECHO_ID)
        else:
            packet = Packet(source, target, sent.protocol, _SOURCE_PORT, sent.port or 0)
        service = service_of(self.topology, flow)
        answers = frozenset(self.topology.services[service].pods) if service is not None else None
        return tuple(dict.fromkeys(self._walker.exchange(start, packet, answers)))

    def why_not(self, flow: Flow) -> str:
        """Why nothing is predicted for a flow; empty when something is."""
        for end in (flow.source, flow.destination):
            if end in self.home:
                node = self.home[end]
                if (words := self.decisions.nodes[node].agent_exits) is not None:
                    return f"{end} is not plugged: the agent on {node} exits: {words}"
        if self._ends(flow) is None:
            return f"{flow.source} and {flow.destination} share no address family"
        return ""

    def _ends(self, flow: Flow) -> tuple[str, Address, Address] | None:
        named = flow.destination in self.topology.services
        source = self._addresses(flow.source)
        target = targets(self.topology, flow) if named else self._addresses(flow.destination)
        wanted: tuple[Family, ...] = (flow.family,) if flow.family else FAMILIES
        for family in wanted:
            mine = [address for address in source if address.version == family]
            theirs = [address for address in target if address.version == family]
            if mine and theirs:
                return flow.source.partition(".")[0], mine[0], theirs[0]
        return None

    def _addresses(self, end: str) -> tuple[Address, ...]:
        host, _, nic = end.partition(".")
        if nic:
            return tuple(i.ip for i in self.topology.hosts[host].interfaces[nic].addresses)
        if end in self.home:
            planned = self._planned(self.home[end]).get(end)
            plugged = {address for found in planned.addresses.values() for address in found} if planned else set()
            return tuple(address for address in self.decisions.pod_addresses[end] if address in plugged)
        return tuple(i.ip for one in self.topology.hosts[end].interfaces.values() for i in one.addresses)


def _local(dev: str, address: Address) -> Route:
    alone = ipaddress.ip_network(address)
    return Route(alone, (NextHop(dev=dev),), "local", TABLES["local"], protocol=2, source=address)
