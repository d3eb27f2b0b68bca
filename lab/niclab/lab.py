"""The object a test holds: a lab that is built, sends flows, and is taken down again."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from niclab.check import check_flow, load
from niclab.cilium.decisions import Decisions
from niclab.cilium.reported import NodeReport
from niclab.cilium.version import DEFAULT_VERSION, modelled_version
from niclab.deployment import Deployment, attach, deploy_builtin, deploy_cilium, speaking
from niclab.errors import InputError, LabError, Problem
from niclab.flow.ordering import Ordering
from niclab.flow.trace import Context
from niclab.flow.verdict import FlowResult
from niclab.host import command, ledgers, userns
from niclab.host.command import Command
from niclab.live import Live
from niclab.net.route import Address
from niclab.settings import LAB_BASELINE, Settings, stored, unmodelled
from niclab.settings.fit import fit
from niclab.topology import Flow, Topology
from niclab.topology.flow import asked
from niclab.wire.capture import Capture
from niclab.wire.decode import Decoder
from niclab.wire.measure import Batch, Measurer, Observed, Order
from niclab.wire.sighting import without_resets
from niclab.wire.tap import Taps

if TYPE_CHECKING:
    from niclab.agents.controlplane import Kind
    from niclab.agents.frr.speaker import Speaker

DEVICE_KEYS = frozenset({"devices", "direct-routing-device", "force-device-detection"})
"""The settings that real agents can be told in place."""


class Lab(Live):
    """Nodes that stand, a datapath between them, and taps on every cable. A context manager; `deploy` makes one."""

    def __init__(self, deployment: Deployment, settings: Settings) -> None:
        super().__init__(deployment)
        self.settings = settings
        self.version = deployment.decisions.version
        self.datapath = deployment.datapath
        self.commands: list[Command] = []
        """Every command run on a host so far, with its output."""
        self.captures: list[Capture] = []
        """The frames of the flows measured since `forget_captures`."""
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
        cilium_version: str | None = None,
        lab_id: str | None = None,
        control_plane: Kind | None = None,
    ) -> Self:
        """Build a lab; what earlier labs left when they were killed is swept first. Raises LabError, InputError.

        `datapath` is `builtin` or `cilium`. `cilium_version` is the version modelled (default: 1.20), or the name,
        version or minor version of a bundle (default: the newest). `control_plane` is `kubernetes` or `kvstore`
        (default: by what there is a bundle for); the built-in datapath has none.
        """
        found = topology if isinstance(topology, Topology) else load(topology)
        chosen = fit(settings if settings is not None else LAB_BASELINE, found)
        if datapath not in ("builtin", "cilium"):
            raise LabError(f"there is no datapath {datapath!r}", fix="use builtin or cilium")
        if datapath == "cilium":
            ledgers.sweep()
            made = deploy_cilium(found, chosen, cilium_version, lab_id, control_plane=control_plane)
            return cls._standing(made, chosen)
        version = modelled_version(cilium_version or DEFAULT_VERSION)
        ledgers.sweep()
        return cls._standing(deploy_builtin(found, chosen, version, lab_id), chosen)

    def change(self, settings: Settings) -> None:
        """Tell real agents other settings: they are restarted, pods stay. Raises LabError on the built-in datapath."""
        cilium = self._deployment.cilium
        if cilium is None:
            raise LabError("the built-in datapath is not changed in place", fix="deploy another lab: it takes 0.1 s")
        settings = fit(settings, self.topology)
        decisions = replace(self._deployment.decisions, settings=settings)
        cilium.start(decisions)
        self._deployment.decisions = replace(decisions, plugged=dict(cilium.pod_addresses))
        if self._deployment.speakers is not None:
            self._deployment.speakers.wait(speaking(decisions, cilium))
        self._deployment.reported = cilium.reported()
        self.settings = settings

    @classmethod
    def _standing(cls, deployment: Deployment, settings: Settings) -> Self:
        try:
            return cls(deployment, settings)
        except BaseException:
            deployment.close()
            raise

    @classmethod
    def attach(cls, lab_id: str) -> Self:
        """Take over a lab that was kept, with its real agents if it has them. Raises LabError."""
        about = next((owned.about for owned in ledgers.labs() if owned.id == lab_id), None)
        if about is None:
            raise LabError(f"there is no lab {lab_id!r}", fix="niclab ls shows the labs of this machine")
        if not about:
            raise LabError(f"lab {lab_id!r} was never finished", fix=f"niclab down {lab_id}")
        topology = Topology.model_validate(about["topology"])
        settings = stored.from_json(about["settings"])
        version = modelled_version(about["cilium_version"])
        return cls._standing(attach(topology, settings, version, lab_id, about["cilium"]), settings)

    def __repr__(self) -> str:
        return f"<Lab {self.id}: {self.title}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the lab down, unless it is kept."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._deployment.close)
            undo.callback(self._taps.close)
            undo.callback(self._measurer.close)

    def keep(self) -> None:
        """Let the lab stand after this process: `niclab ls`, `exec`, `inspect` and `down` find it by its id."""
        from niclab.agents.attach import Kept

        cilium = self._deployment.cilium
        self._deployment.ledger.describe(
            {
                "topology": self.topology.model_dump(mode="json"),
                "datapath": self.datapath,
                "cilium_version": str(self.version),
                "settings": stored.to_json(self.settings),
                "nodes": {name: asdict(reported) for name, reported in self.reported.items()},
                "dbg": str(cilium.bundle.dbg) if cilium else "",
                "cilium": Kept.of(cilium).to_json() if cilium else None,
            }
        )
        self._deployment.ledger.keep()

    @property
    def id(self) -> str:
        return self._deployment.ledger.id

    @property
    def reported(self) -> Mapping[str, NodeReport]:
        """Node → what its agent said."""
        return self._deployment.reported

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
        return shlex.join([*userns.entrance(), "ip", "netns", "exec", self.namespaces[role]]) + " …"

    @property
    def control_plane(self) -> str | None:
        """What real agents talk to, `kubernetes` or `kvstore`; None for the built-in datapath."""
        cilium = self._deployment.cilium
        return cilium.control_plane.kind if cilium is not None else None

    def kinds(self) -> frozenset[str]:
        """Every kind of object in Cilium's API group that this lab's API server serves. Raises LabError."""
        from niclab.agents.controlplane.kubernetes import Kubernetes

        plane = self._deployment.cilium.control_plane if self._deployment.cilium is not None else None
        if not isinstance(plane, Kubernetes):
            raise LabError("this lab has no API server", fix="use --datapath cilium --control-plane kubernetes")
        return plane.kinds()

    def run(self, host: str, *arguments: str) -> str:
        """A command's output on a host, e.g. `run("node1", "ip", "route")`; kept in the record. Raises LabError.

        On a node with a real agent `cilium-dbg` is its bundle's.
        """
        if host not in self.namespaces:
            raise LabError(f"there is no host {host!r} in this lab", fix=f"there are {', '.join(self.namespaces)}")
        ran = command.run(self._deployment.substrate, self._deployment.cilium, host, arguments)
        self.commands.append(ran)
        return ran.output

    @property
    def unmodelled(self) -> tuple[str, ...]:
        """Settings that are real, and that the built-in datapath does not model."""
        return unmodelled(self.settings) if self.datapath == "builtin" else ()

    @property
    def addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Pod, external or node name → its addresses; a pod of a node whose agent exited has none."""
        found: dict[str, tuple[Address, ...]] = dict.fromkeys(self.topology.pods, ())
        found.update(self._deployment.pod_addresses)
        for name, host in self.topology.hosts.items():
            found[name] = tuple(i.ip for one in host.interfaces.values() for i in one.addresses)
        return found

    def address(self, name: str) -> str:
        """The first address of a pod, external or node; KeyError for another name, IndexError when it has none."""
        return str(self.addresses[name][0])

    def send(
        self,
        source: str,
        destination: str,
        *,
        count: int = 5,
        size: int | None = None,
        vary_ports: bool = False,
        vary_addresses: bool = False,
    ) -> FlowResult:
        """Measure one flow, e.g. `send("pod1", "ext1:udp:53")`. Raises InputError when there is no such end."""
        return self.send_all(
            [f"{source} -> {destination}"],
            count=count,
            size=size,
            vary_ports=vary_ports,
            vary_addresses=vary_addresses,
        )[0]

    def send_all(
        self,
        flows: Sequence[Flow | str],
        *,
        count: int = 5,
        size: int | None = None,
        vary_ports: bool = False,
        vary_addresses: bool = False,
    ) -> list[FlowResult]:
        """Measure flows together: all are under way at once. `size` is a probe's length in bytes with IP header.

        With `vary_ports` each probe of a flow has a source port of its own, with `vary_addresses` each goes to the next
        of the destination's addresses: then a hash may send them by different NICs (`FlowResult.shares`).
        """
        parsed = [flow if isinstance(flow, Flow) else asked(flow) for flow in flows]
        problems = [(flow, problem) for flow in parsed if (problem := check_flow(self.topology, flow))]
        if problems:
            raise InputError([Problem(f"flow {str(flow)!r}", 0, "", *problem) for flow, problem in problems])
        orders: list[Order] = []
        refusals: dict[int, str] = {}
        for index, flow in enumerate(parsed):
            order = self._order(flow, count, size, vary_ports=vary_ports, vary_addresses=vary_addresses)
            if isinstance(order, str):
                refusals[index] = order
            else:
                orders.append(order)
        batch = self._measurer.measure(orders)
        if self._deployment.cilium is not None and (dead := self._deployment.cilium.deaths()):
            self._deployment.reported = {**self._deployment.reported, **dead}
        self.captures += batch.captures
        results = self._results(parsed, refusals, batch)
        sent = (result.name for index, result in enumerate(results) if index not in refusals)
        self._flow_names.update(zip(batch.numbers, sent, strict=True))
        self.flows += results
        return results

    def collect(self, directory: Path) -> None:
        """Keep what real agents logged and said, and the nodes' addresses, routes and rules; nothing for the model."""
        if self._deployment.cilium is not None:
            self._deployment.cilium.collect(directory)
        if self._deployment.speakers is not None:
            self._deployment.speakers.collect(directory / "bgp")

    def bgp(self, name: str) -> Speaker:
        """A router or node that speaks BGP: what it has learned, and what it should have. Raises LabError."""
        from niclab.agents.frr.speaker import find

        return find(self._deployment.speakers, name)

    def can_change_to(self, settings: Settings) -> bool:
        """May real agents be told these settings in place? Only the choice of devices: more leaves traces behind."""
        if self._deployment.cilium is None or settings.per_node != self.settings.per_node:
            return False
        settings = fit(settings, self.topology)
        keys = {*settings.values, *self.settings.values} - DEVICE_KEYS
        return all(settings.values.get(key) == self.settings.values.get(key) for key in keys)

    def forget_captures(self) -> None:
        self.captures.clear()

    @property
    def title(self) -> str:
        """Topology, routing and datapath in one line; the model says that it is one."""
        routing = next((reported.routing for reported in self.reported.values() if reported.routing), "no agent runs")
        return f"{self.topology.name} · {routing} · {self._deployment.description}"

    def comment(self, frame: bytes) -> str:
        """What a captured frame is, for people who open the capture: `probe 3 of pod1→ext1, request`."""
        decoded = self._decoder.decode(frame)
        if decoded is None:
            return ""
        name = self._flow_names.get(decoded.identity.flow, "an earlier flow")
        note = f" ({decoded.note})" if decoded.note else ""
        return f"probe {decoded.identity.number} of {name}, {decoded.kind}{note}"

    @property
    def _ordering(self) -> Ordering:
        cilium = self._deployment.cilium
        exits = {name: node.agent_exits for name, node in self.reported.items() if node.agent_exits is not None}
        return Ordering(self.topology, self.addresses, cilium.cgroup if cilium else None, exits)

    def _order(
        self, flow: Flow, count: int, size: int | None, *, vary_ports: bool, vary_addresses: bool
    ) -> Order | str:
        """What to send for a flow, or why nothing can be."""
        return self._ordering.order(flow, count=count, size=size, vary_ports=vary_ports, vary_addresses=vary_addresses)

    def _results(self, flows: Sequence[Flow], refusals: Mapping[int, str], batch: Batch) -> list[FlowResult]:
        observed = iter(batch.observed)
        context, ordering = self.context, self._ordering
        results = []
        for index, flow in enumerate(flows):
            one = Observed(refusal=refusals[index]) if index in refusals else next(observed)
            served = ordering.served(flow)
            sightings = without_resets(one.sightings) if served else one.sightings
            results.append(
                FlowResult(
                    flow,
                    one.sent,
                    sightings,
                    batch.measurement,
                    context,
                    one.refusal,
                    served=served,
                    state=self._state,
                )
            )
        return results

    @property
    def context(self) -> Context:
        return Context(
            topology=self.topology.name,
            nics={cable.tap: cable.nic.fabric for cable in self._deployment.plan.cables},
            nodes=tuple(self.topology.nodes),
            pod_node={pod: node for pod, (node, _) in self.topology.pods.items()},
            addresses={name: tuple(map(str, found)) for name, found in self.addresses.items()},
            reported={name: str(reported) for name, reported in self.reported.items()},
            unmasqueraded=self.decisions.native_node_ends,
            exited=frozenset(name for name, reported in self.reported.items() if reported.agent_exits is not None),
        )
