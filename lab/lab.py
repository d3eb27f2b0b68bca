"""The object a test holds: a lab that is built, sends flows, and is taken down again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.datapath.decision import Decisions
from lab.datapath.said import NodeSaid
from lab.deployment import Deployment, attach_builtin, deploy_builtin
from lab.errors import InputError, LabError, Problem
from lab.route import Address, Family
from lab.selection import Version
from lab.settings import LAB_BASELINE, Settings, unmodelled
from lab.substrate import ownership
from lab.topology import Flow, Topology, load
from lab.topology.rules import check_flow
from lab.traffic.capture import Capture
from lab.traffic.decode import Decoder
from lab.traffic.measure import Batch, Measurer, Order
from lab.traffic.tap import Taps
from lab.verdict import Context, FlowResult

DEFAULT_VERSION = "1.20"


class Lab:
    """Nodes that stand, a datapath between them, and taps on every cable. A context manager; `deploy` makes one."""

    def __init__(self, deployment: Deployment, settings: Settings) -> None:
        self._deployment = deployment
        self.settings = settings
        self.topology = deployment.plan.topology
        self.version = deployment.decisions.version
        self.datapath = "builtin"
        self.flows: list[FlowResult] = []
        """Every flow measured so far."""
        self.captures: list[Capture] = []
        """The frames of the flows measured since `forget_captures`."""
        self._taps = Taps(deployment.substrate, deployment.plan.cables)
        number = secrets.randbits(32)
        self._decoder = Decoder(number, vxlan_ports=deployment.vxlan_ports)
        self._flow_names: dict[int, str] = {}
        self._measurer = Measurer(deployment.substrate, self._taps, number=number, vxlan_ports=deployment.vxlan_ports)

    @classmethod
    def deploy(
        cls,
        topology: Topology | str | Path,
        settings: Settings | None = None,
        *,
        datapath: str = "builtin",
        cilium_version: str = DEFAULT_VERSION,
        lab_id: str | None = None,
    ) -> Self:
        """Build a lab; what earlier labs left when they were killed is swept first. Raises LabError, InputError."""
        found = topology if isinstance(topology, Topology) else load(topology)
        version = _version(cilium_version)
        if datapath != "builtin":
            raise LabError(f"there is no datapath {datapath!r}", mend="use builtin")
        ownership.sweep()
        chosen = settings if settings is not None else LAB_BASELINE
        return cls._standing(deploy_builtin(found, chosen, version, lab_id), chosen)

    @classmethod
    def _standing(cls, deployment: Deployment, settings: Settings) -> Self:
        try:
            return cls(deployment, settings)
        except BaseException:
            deployment.close()
            raise

    @classmethod
    def attach(cls, lab_id: str) -> Self:
        """Take over a lab that was kept. Raises LabError."""
        about = next((owned.about for owned in ownership.labs() if owned.id == lab_id), None)
        if about is None:
            raise LabError(f"there is no lab {lab_id!r}", mend="niclab ls shows the labs of this machine")
        if not about:
            raise LabError(f"lab {lab_id!r} was never finished", mend=f"niclab down {lab_id}")
        from lab.settings import Values, parse_node_assignments

        topology = Topology.model_validate(about["topology"])
        settings = Settings(Values(about["settings"])).merged(parse_node_assignments(about["node_settings"]))
        return cls._standing(attach_builtin(topology, settings, _version(about["cilium_version"]), lab_id), settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the lab down, unless it is kept."""
        self._measurer.close()
        self._taps.close()
        self._deployment.close()

    def keep(self) -> None:
        """Let the lab stand after this process: `niclab ls`, `exec`, `inspect` and `down` find it by its id."""
        node_settings = [
            f"{node.name}:{key}={value}"
            for node in self.settings.per_node
            if node.selector is None
            for key, value in node.values.items()
        ]
        self._deployment.ledger.describe(
            {
                "topology": self.topology.model_dump(mode="json"),
                "datapath": self.datapath,
                "cilium_version": str(self.version),
                "settings": dict(self.settings.values),
                "node_settings": node_settings,
                "nodes": {name: str(said) for name, said in self.said.items()},
            }
        )
        self._deployment.ledger.keep()

    @property
    def id(self) -> str:
        return self._deployment.ledger.id

    @property
    def said(self) -> Mapping[str, NodeSaid]:
        """Node → what its agent said."""
        return self._deployment.said

    @property
    def decisions(self) -> Decisions:
        """What each node's agent decides, from which everything the built-in datapath does follows."""
        return self._deployment.decisions

    @property
    def taps(self) -> Taps:
        return self._taps

    @property
    def namespaces(self) -> Mapping[str, str]:
        """Role (node, pod, external, router, `fabric`) → the name `ip netns exec` takes."""
        return {one.role: one.name for one in self._deployment.substrate}

    def exec_line(self, role: str) -> str:
        """The pasteable line that puts a command in a host's view."""
        return f"ip netns exec {self.namespaces[role]} …"

    @cached_property
    def unmodelled(self) -> tuple[str, ...]:
        """Settings that are real, and that the built-in datapath does not model."""
        return unmodelled(self.settings)

    @cached_property
    def addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Pod, external or node name → its addresses; a pod of a node whose agent exited has none."""
        found: dict[str, tuple[Address, ...]] = {}
        nodes = self._deployment.decisions.nodes
        for pod, addresses in self.topology.pod_addresses().items():
            node = nodes[self.topology.pods[pod][0]]
            up = node.agent_exits is None
            found[pod] = tuple(a for a in addresses if up and a.version in node.families)
        for name, host in self.topology.hosts.items():
            found[name] = tuple(i.ip for nic in host.nics.values() for i in nic.addresses)
        return found

    def send(self, source: str, destination: str, *, count: int = 5, size: int | None = None) -> FlowResult:
        """Measure one flow, e.g. `send("pod1", "ext1:udp:53")`. Raises InputError when there is no such end."""
        return self.send_all([f"{source} -> {destination}"], count=count, size=size)[0]

    def send_all(
        self, flows: Sequence[Flow | str], *, count: int = 5, size: int | None = None, vary_ports: bool = False
    ) -> list[FlowResult]:
        """Measure flows together: all are under way at once. `size` is a probe's length in bytes with IP header."""
        parsed = [flow if isinstance(flow, Flow) else _flow(flow) for flow in flows]
        problems = [(flow, problem) for flow in parsed if (problem := check_flow(self.topology, flow))]
        if problems:
            raise InputError([Problem(f"flow {str(flow)!r}", 0, "", *problem) for flow, problem in problems])
        orders: list[Order] = []
        refusals: dict[int, str] = {}
        for index, flow in enumerate(parsed):
            order = self._order(flow, count, size, vary_ports)
            if isinstance(order, str):
                refusals[index] = order
            else:
                orders.append(order)
        batch = self._measurer.measure(orders)
        self.captures += batch.captures
        results = self._results(parsed, refusals, batch)
        sent = (result.name for index, result in enumerate(results) if index not in refusals)
        self._flow_names.update(zip(batch.numbers, sent, strict=True))
        self.flows += results
        return results

    def forget_captures(self) -> None:
        self.captures.clear()

    @property
    def title(self) -> str:
        """Topology, routing and datapath in one line; the model says that it is one."""
        routing = next((said.routing for said in self.said.values()), "")
        return f"{self.topology.name} · {routing} · built-in model of Cilium {self.version}"

    def comment(self, frame: bytes) -> str:
        """What a captured frame is, for people who open the capture: `probe 3 of pod1→ext1, request`."""
        decoded = self._decoder.decode(frame)
        if decoded is None:
            return ""
        name = self._flow_names.get(decoded.identity.flow, "an earlier flow")
        note = f" ({decoded.note})" if decoded.note else ""
        return f"probe {decoded.identity.number} of {name}, {decoded.kind}{note}"

    def _order(self, flow: Flow, count: int, size: int | None, vary_ports: bool) -> Order | str:
        """What to send for a flow, or why nothing can be."""
        for end in (flow.source, flow.destination):
            if end in self.topology.pods:
                node = self.topology.pods[end][0]
                if (words := self.said[node].agent_exits) is not None:
                    return f"{end} is not plugged: the agent on {node} exits: {words}"
        source, destination = self._end(flow.source), self._end(flow.destination)
        family = flow.family
        if family is None:
            family = next((f for f in (4, 6) if _of(source, f) and _of(destination, f)), None)
        if family is None or not _of(source, family) or not _of(destination, family):
            return f"{flow.source} and {flow.destination} share no address family"
        return Order(
            flow=flow,
            source=_of(source, family)[0],
            destination=_of(destination, family)[0],
            source_host=flow.source.partition(".")[0],
            destination_host=flow.destination.partition(".")[0],
            count=count,
            size=size,
            vary_ports=vary_ports,
        )

    def _end(self, end: str) -> tuple[Address, ...]:
        host, _, nic = end.partition(".")
        if nic:
            return tuple(interface.ip for interface in self.topology.hosts[host].nics[nic].addresses)
        return self.addresses[end]

    def _results(self, flows: Sequence[Flow], refusals: Mapping[int, str], batch: Batch) -> list[FlowResult]:
        observed = iter(batch.observed)
        context = self.context
        results = []
        for index, flow in enumerate(flows):
            if index in refusals:
                results.append(FlowResult(flow, 0, (), batch.measurement, context, refusals[index]))
                continue
            one = next(observed)
            results.append(FlowResult(flow, one.sent, one.sightings, batch.measurement, context, one.refusal))
        return results

    @cached_property
    def context(self) -> Context:
        return Context(
            topology=self.topology.name,
            nics={cable.tap: cable.nic.fabric for cable in self._deployment.plan.cables},
            nodes=tuple(self.topology.nodes),
            pod_node={pod: node for pod, (node, _) in self.topology.pods.items()},
            addresses={name: tuple(map(str, found)) for name, found in self.addresses.items()},
            said={name: str(said) for name, said in self.said.items()},
            unmasqueraded=frozenset(self._native_node_ends()),
        )

    def _native_node_ends(self) -> Iterator[str]:
        for name, node in self.decisions.nodes.items():
            for nic_name, nic in self.topology.nodes[name].nics.items():
                if not node.tunnels and any(i.ip in node.node_ips.values() for i in nic.addresses):
                    yield f"{name}.{nic_name}"


def _of(addresses: tuple[Address, ...], family: Family) -> list[Address]:
    return [address for address in addresses if address.version == family]


def _flow(text: str) -> Flow:
    try:
        return Flow.parse(text)
    except ValueError as error:
        raise InputError([Problem(f"flow {text!r}", 0, "", str(error), "e.g. pod1 -> ext1:udp:53")]) from None


def _version(text: str) -> Version:
    try:
        version = Version.parse(text)
    except ValueError as error:
        raise InputError([Problem("--cilium-version", 0, "", str(error), "e.g. 1.18 or 1.20")]) from None
    if not (1, 16) <= version <= (1, 21):
        raise InputError(
            [Problem("--cilium-version", 0, "", f"the model knows Cilium 1.16 to 1.21, not {version}", "e.g. 1.20")]
        )
    return version
