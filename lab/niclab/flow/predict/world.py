"""The planned lab as a walk sees it: what every host routes, translates and answers for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from niclab.cilium import operations
from niclab.cilium.bgp import learned_routes
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import pod_interface
from niclab.cilium.numbers import MOVED_LOCAL
from niclab.flow.predict.machine import Machine
from niclab.flow.predict.walk import Walker
from niclab.flow.trace import Context, Trace
from niclab.kernel.fib import Fib
from niclab.kernel.reversepath import ALL, configured, filters
from niclab.net import operation as op
from niclab.net.packetrules import Packet, PacketRule
from niclab.net.route import FAMILIES, TABLES, Address, NextHop, Route, Rule, network_of
from niclab.topology.model import Flow, Topology, answering, as_sent, service_at, service_of, targets
from niclab.topology.stacking import vlans

_SOURCE_PORT = 40000
_ECHO_ID = 7
K = TypeVar("K")
T = TypeVar("T")
Ends = tuple[list[Address], list[Address]]
"""The addresses of a flow's source and destination, all of one family and at least one each."""


class _Lazy(dict[K, T]):
    """Values by name, each made when it is first asked for: a flow meets few hosts, and may be asked about again."""

    def __init__(self, make: Callable[[K], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: K) -> T:
        self[name] = made = self._make(name)
        return made


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

    def add(self, operation: op.Operation) -> None:
        """Take one operation over. Raises TypeError for a kind that this model does not know."""
        match operation:
            case op.AddRoute(route=route):
                self.routes[route.key] = route
            case op.Remove(op.AddRoute(route=route)):
                self.gone.add(route.key)
            case op.AddRule(rule=rule) if rule == Rule(TABLES["local"], priority=MOVED_LOCAL):
                self.local_priority = MOVED_LOCAL
            case op.AddRule(rule=rule):
                self.rules.append(rule)
            case op.AddAddress(dev=dev, interface=interface):
                self.addresses.setdefault(dev, []).append(interface.ip)
            case op.SetSysctl(key=key, value=value):
                self.sysctls[key] = value
            case op.SetPacketRules(rules=rules):
                self.packet_rules += rules
            case op.Remove(op.AddRule(rule=rule)) if rule == Rule(TABLES["local"], priority=0):
                pass  # the kernel's own, which was moved
            case op.AddNamespace() | op.AddCable() | op.AddLink(kind="vxlan") | op.AddNeighbour() | op.SetLink():
                pass  # the walk knows pods, tunnels and neighbours from the topology
            case _:
                raise TypeError(f"prediction does not know {type(operation).__name__}: {operation}")


@dataclass(frozen=True)
class World:
    """The planned lab. `encrypts`: WireGuard does where it is on, which the built-in datapath leaves out."""

    decisions: Decisions
    encrypts: bool = True

    @property
    def topology(self) -> Topology:
        return self.decisions.topology

    @cached_property
    def home(self) -> Mapping[str, str]:
        """Pod → its node."""
        return {pod: node for pod, (node, _) in self.topology.pods.items()}

    @cached_property
    def _plans(self) -> Mapping[str, Mapping[str, _Planned]]:
        """Node → role → what the datapath adds there."""
        return _Lazy(self._planned)

    def _planned(self, node: str) -> Mapping[str, _Planned]:
        planned: dict[str, _Planned] = {}
        for operation in operations.node_operations(self.decisions, node) if node in self.decisions.running else ():
            planned.setdefault(operation.namespace, _Planned()).add(operation)
        return planned

    def _machine(self, name: str) -> Machine:
        """A host as the datapath leaves it."""
        host = self.topology.hosts[name]
        planned = self._plans[name].get(name, _Planned())
        own = Fib.of(host)
        gone = planned.gone | planned.routes.keys()
        kept = [route for route in own.routes if route.key not in gone]
        local = [
            Route(network_of(address), (NextHop(dev=dev),), "local", TABLES["local"], protocol=2, source=address)
            for dev, added in planned.addresses.items()
            for address in added
        ]
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
            extra={dev: tuple(added) for dev, added in planned.addresses.items()},
            filters=filters(sysctls, host.interfaces),
            minds_marks=bool(configured(sysctls, "src_valid_mark").get(ALL)),
        )

    @cached_property
    def _learned(self) -> Mapping[str, tuple[Route, ...]]:
        """Router → the routes that BGP gives it."""
        return learned_routes(self.decisions)

    @cached_property
    def machines(self) -> Mapping[str, Machine]:
        """Every host of the topology."""
        return _Lazy(self._machine)

    @cached_property
    def _walker(self) -> Walker:
        return Walker(self.decisions, self.machines, self.home, self.encrypts)

    @cached_property
    def context(self) -> Context:
        """Who is where, in the terms of traces."""
        topology = self.topology
        return Context(
            topology=topology.name,
            nics={f"{host}.{name}": nic.fabric for host, name, nic in topology.nic_pairs()},
            nodes=topology.nodes,
            pod_node=self.home,
            addresses={
                **{pod: tuple(map(str, addresses)) for pod, addresses in self.decisions.pod_addresses.items()},
                **{name: tuple(map(str, topology.own_addresses(name))) for name in topology.hosts},
            },
            reported={},
            unmasqueraded=self.decisions.native_node_ends,
            exited=frozenset(self._exits),
            vlans=vlans(topology),
        )

    def predict(self, flow: Flow, size: int | None = None) -> tuple[Trace, ...]:
        """Every trace a flow may have; several only where chance decides. Empty when it cannot be sent at all.

        `size`: bytes of its IP packets; None: they fit everywhere.
        """
        return self._predictions[flow, size or 0]

    @cached_property
    def _predictions(self) -> Mapping[tuple[Flow, int], tuple[Trace, ...]]:
        return _Lazy(lambda asked: self._predict(*asked))

    def _predict(self, flow: Flow, size: int) -> tuple[Trace, ...]:
        ends = self._ends(flow)
        if isinstance(ends, str):
            return ()
        start, source, target = flow.source.partition(".")[0], ends[0][0], ends[1][0]
        sent = as_sent(self.topology, flow)
        if sent.protocol == "icmp":
            packet = Packet(source, target, "icmp", _ECHO_ID, _ECHO_ID)
        else:
            packet = Packet(source, target, sent.protocol, _SOURCE_PORT, sent.port or 0)
        answers: frozenset[str] | None = None
        if (service := service_of(self.topology, flow)) is not None:
            answers = frozenset(answering(self.topology, service))
        elif service_at(self.topology, flow):  # a service's address, on another port: nobody's
            answers = frozenset()
        traces: dict[object, Trace] = {}
        for trace in self._walker.exchange(start, packet, answers, size=size):
            traces.setdefault(trace.key, trace)
        return tuple(traces.values())

    def why_not(self, flow: Flow) -> str:
        """Why nothing is predicted for a flow; empty when something is."""
        ends = self._ends(flow)
        return ends if isinstance(ends, str) else ""

    def _ends(self, flow: Flow) -> Ends | str:
        return between(self.topology, flow, self._addresses, self._exits)

    @cached_property
    def _exits(self) -> Mapping[str, str]:
        """Node → its agent's last words."""
        nodes = self.decisions.nodes.items()
        return {name: node.agent_exits for name, node in nodes if node.agent_exits is not None}

    def _addresses(self, end: str) -> tuple[Address, ...]:
        """The addresses of a host, or those of a pod that are plugged."""
        if end not in self.home:
            return self.topology.hosts[end].addresses
        planned = self._plans[self.home[end]].get(end, _Planned())
        plugged = {address for addresses in planned.addresses.values() for address in addresses}
        return tuple(address for address in self.decisions.pod_addresses[end] if address in plugged)


def between(
    topology: Topology, flow: Flow, addresses: Callable[[str], Sequence[Address]], exits: Mapping[str, str]
) -> Ends | str:
    """The addresses of a flow's ends, or why it cannot be sent.

    `addresses`: those of a pod or host, none for a pod that is not plugged. `exits`: node → its agent's last words.
    """
    pods = topology.pods
    for end in (flow.source, flow.destination):
        node = pods[end][0] if end in pods else ""
        if node in exits:
            return f"{end} is not plugged: the agent on {node} exits: {exits[node]}"

    def of(end: str) -> Sequence[Address]:
        host, _, nic = end.partition(".")
        if nic:
            return [interface.ip for interface in topology.hosts[host].interfaces[nic].addresses]
        return targets(topology, flow) if end in topology.services else addresses(end)

    source, destination = of(flow.source), (flow.address,) if flow.address is not None else of(flow.destination)
    for family in (flow.family,) if flow.family else FAMILIES:
        pair = [[address for address in end if address.version == family] for end in (source, destination)]
        if all(pair):
            return pair[0], pair[1]
    return f"{flow.source} and {flow.destination} share no address family"
