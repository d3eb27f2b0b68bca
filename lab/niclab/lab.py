"""The object a test holds: a lab that is built, sends flows, is changed while it runs, and is taken down again."""

from __future__ import annotations

import contextlib
import logging
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

from niclab.builtin import Builtin
from niclab.check import check_flow
from niclab.cilium.bgp import speaks
from niclab.cilium.decisions import Decisions
from niclab.cilium.reported import NodeReport
from niclab.errors import InputError, LabError, Problem, lab_error
from niclab.flow.ordering import Ordering
from niclab.flow.predict import World
from niclab.flow.trace import Context
from niclab.flow.verdict import FlowResult
from niclab.host import ledgers, netns, process, readiness, userns
from niclab.host.datapath import Datapath
from niclab.host.ledgers import Ledger
from niclab.host.substrate import Command, Substrate
from niclab.kernel import edit
from niclab.kernel.difference import difference
from niclab.kernel.plan import Plan
from niclab.net.route import Address
from niclab.request import DatapathName, Request, resolve
from niclab.settings import Settings
from niclab.topology.model import Flow, Topology, asked
from niclab.wire.decode import Decoder
from niclab.wire.measure import Measurer, Observed
from niclab.wire.sighting import without_resets
from niclab.wire.tap import Capture, Taps

if TYPE_CHECKING:
    from niclab.agents.controlplane import Kind
    from niclab.agents.frr.speakers import Speaker, Speakers

_STEPS = logging.getLogger("niclab.steps")
"""What takes how long, for `scripts/bench` and `--log-level=DEBUG`."""
_VXLAN_PORTS = (8472, 4789)
_VETH_ONLY = (
    "this kernel has no macvlan, so the lab's NICs are veth: real agents with `devices` unset treat those otherwise "
    "than physical ones (see --nics)"
)

Undo = contextlib.AbstractContextManager[object]
"""A change that was made. At the end of a `with` block it is undone: all is then as it was before the change."""


class Probes(TypedDict, total=False):
    """How a flow is sent: `count` probes (5), each `size` bytes long with its IP header (the smallest).

    With `vary_ports` each probe of a flow has a source port of its own, with `vary_addresses` each goes to the next of
    the destination's addresses: then a hash may send them by different NICs (`FlowResult.shares`).
    """

    count: int
    size: int | None
    vary_ports: bool
    vary_addresses: bool


def datapath_class(name: DatapathName) -> type[Datapath]:
    """The class of a datapath. Real agents bring much along, so they are imported when they are wanted."""
    if name == "builtin":
        return Builtin
    from niclab.agents.datapath import Cilium

    return Cilium


class Lab:
    """Nodes that stand, a datapath between them, and taps on every cable. A context manager; `deploy` makes one.

    What changes it while it runs (`link_down`, `plug`, `add_route` …) returns when the agents have reacted: real ones
    by themselves, the model by the same rules. Each change can be undone: `with lab.link_down("node1.eth1"): …`. NICs
    are named `HOST.NIC`, routes and rules are in iproute2's words. All raise InputError for what is not there, and
    LabError for what the kernel refuses.
    """

    def __init__(self, request: Request, substrate: Substrate, ledger: Ledger) -> None:
        """What stands when `of` has built it, or `attach` has taken it over."""
        choice = request.choice
        veth = request.nics != "veth" and not netns.makes("macvlan")
        self.request = replace(request, warnings=(*request.warnings, _VETH_ONLY)) if veth else request
        self.id = ledger.id
        self.version = request.version
        self.datapath = request.datapath
        self.control_plane = choice.control_plane
        """What real agents talk to, `kubernetes` or `kvstore`; None for the built-in datapath."""
        self.topology = request.topology
        """As it is now."""
        self.decisions = Decisions(request.topology, request.settings, request.version)
        """What each node's agent decides: the built-in datapath carries it out, of real agents it is expected."""
        self.reported: Mapping[str, NodeReport] = {}
        """Node → what its agent says."""
        self.flows: list[FlowResult] = []
        """Every flow measured so far."""
        self.commands: list[Command] = []
        """Every command run on a host so far, with its output."""
        self.captures: list[Capture] = []
        """The frames of the flows measured since this was last cleared."""
        self.changed_after: int | None = None
        """How many flows were measured before the first change, undone or not; None: nothing was changed. Agents
        remember, so a lab that was changed is of no use to the next test."""
        self._plan = Plan(request.topology, veth=veth)
        self._substrate = substrate
        self._ledger = ledger
        self._datapath: Datapath = Builtin(substrate)
        if choice.bundle is not None and choice.control_plane is not None:
            from niclab.agents.datapath import Cilium

            self._datapath = Cilium(substrate, ledger, choice.bundle, choice.kubernetes, choice.control_plane)
        self._speakers: Speakers | None = None
        """What speaks BGP beside the nodes' agents, if the topology has any."""
        if self.topology.bgp is not None:
            from niclab.agents.frr.speakers import Speakers

            self._speakers = Speakers(ledger, substrate, self.decisions)
        self._closed = False
        self._model: World | None = None
        self._flow_names: dict[int, str] = {}

    def _watch(self) -> None:
        """Put taps on what now stands, and ask the agents what they selected."""
        self.reported = self._datapath.reported()
        views = [node.settings for node in self.decisions.nodes.values()]
        geneve = {view.tunnel_port for view in views if view.tunnel_protocol == "geneve"}
        vxlan = {*_VXLAN_PORTS, *(view.tunnel_port for view in views)}
        self.taps = Taps(self._substrate, self._plan)
        self._decoder = Decoder(
            secrets.randbits(32),
            vxlan_ports=tuple(sorted(vxlan if self.request.datapath == "builtin" else vxlan - geneve)),
            geneve_ports=tuple(sorted(geneve)),
        )
        self._measurer = Measurer(self._substrate, self.taps, self._decoder)

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
        request = resolve(
            topology, settings, datapath=datapath, cilium_version=cilium_version, control_plane=control_plane
        )
        return cls.of(request, lab_id)

    @classmethod
    def of(cls, request: Request, lab_id: str | None = None) -> Self:
        """Build the lab that is asked for. Raises LabError; then nothing is left."""
        _STEPS.debug("request")
        ledgers.sweep()
        with contextlib.ExitStack() as undo:
            ledger = Ledger.open_new(lab_id)
            undo.callback(ledger.release)
            substrate = netns.NetnsSubstrate(ledger)
            undo.callback(substrate.close)
            lab = cls(request, substrate, ledger)
            substrate.apply(lab._plan.operations)
            if lab._speakers is not None:
                undo.callback(lab._speakers.close)
                readiness.wait(substrate)
                lab._speakers.start(lab._datapath.without_bgp(lab.decisions))
            _STEPS.debug("topology")
            undo.callback(lab._datapath.close)
            lab.decisions = lab._datapath.deploy(lab.decisions)
            readiness.wait(substrate)
            lab._speak()
            lab._watch()
            undo.pop_all()
        return lab

    @classmethod
    def attach(cls, lab_id: str) -> Self:
        """Take over a lab that was kept, with its real agents if it has them. Raises LabError."""
        owned = next((owned for owned in ledgers.labs() if owned.id == lab_id), None)
        if owned is None:
            raise LabError(f"there is no lab {lab_id!r}", fix="niclab ls shows the labs of this machine")
        if not owned.about:
            raise LabError(f"lab {lab_id!r} was never finished", fix=f"niclab down {lab_id}")
        with contextlib.ExitStack() as undo:
            ledger = Ledger.open_existing(lab_id)
            undo.callback(ledger.release)
            substrate = netns.NetnsSubstrate.attached(ledger, owned.namespaces())
            undo.callback(substrate.close)
            lab = cls(Request.from_json(owned.about), substrate, ledger)
            lab.decisions = lab._datapath.attach(lab.decisions, owned.about["agents"])
            if lab._speakers is not None:
                lab._speakers.agents = lab._datapath.bgp
            lab._watch()
            undo.pop_all()
        return lab

    def _speak(self) -> None:
        """Return when those routers and nodes that should speak BGP with each other do. Raises LabError."""
        if self._speakers is not None:
            self._speakers.agents = self._datapath.bgp
            self._speakers.wait([name for name in self._datapath.running if speaks(self.decisions.nodes[name])])

    def __repr__(self) -> str:
        return f"<Lab {self.id}: {self.title}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the lab down, unless it is kept."""
        if self._closed:
            return
        self._closed = True
        with contextlib.ExitStack() as undo:
            undo.callback(self._ledger.release)
            undo.callback(self._substrate.close)
            if not self._ledger.kept:
                if self._speakers is not None:
                    undo.callback(self._speakers.close)
                undo.callback(self._datapath.close)
            undo.callback(self.taps.close)
            undo.callback(self._measurer.close)

    def keep(self) -> None:
        """Let the lab stand after this process: `niclab ls`, `exec`, `inspect` and `down` find it by its id."""
        bundle = self.request.choice.bundle
        self._ledger.describe(
            {
                **replace(self.request, topology=self.topology).to_json(),
                "description": self.request.choice.description,
                "nodes": {name: asdict(reported) for name, reported in self.reported.items()},
                "dbg": str(bundle.required("cilium-dbg")) if bundle else "",
                "agents": dict(self._datapath.kept()),
            }
        )
        self._ledger.keep()

    @property
    def settings(self) -> Settings:
        return self.request.settings

    @property
    def namespaces(self) -> Mapping[str, str]:
        """Role (node, pod, external, router, `fabric`) → the name `ip netns exec` takes."""
        return {namespace.role: namespace.name for namespace in self._substrate}

    def exec_line(self, role: str) -> str:
        """The pasteable line that puts a command in a host's view."""
        return shlex.join([*userns.entrance(), "ip", "netns", "exec", self.namespaces[role]]) + " …"

    def kinds(self) -> frozenset[str]:
        """Every kind of object in Cilium's API group that this lab's API server serves. Raises LabError."""
        return self._datapath.kinds()

    def run(self, host: str, *arguments: str) -> str:
        """A command's output on a host, e.g. `run("node1", "ip", "route")`; kept in the record. Raises LabError.

        On a node with a real agent `cilium-dbg` is its bundle's.
        """
        if host not in self.namespaces:
            raise LabError(f"there is no host {host!r} in this lab", fix=f"there are {', '.join(self.namespaces)}")
        if inside := self._datapath.command(host, arguments):
            output = process.run(inside)
        else:
            with self._substrate[host].entered():
                output = process.run(arguments, namespace=self.namespaces[host])
        self.commands.append(Command(host, shlex.join(arguments), output))
        return output

    @property
    def addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Pod, external or node name → its addresses; a pod of a node whose agent exited has none."""
        unplugged: dict[str, tuple[Address, ...]] = dict.fromkeys(self.topology.pods, ())
        hosts = {name: host.addresses for name, host in self.topology.hosts.items()}
        return {**unplugged, **self._datapath.addresses, **hosts}

    def address(self, name: str) -> str:
        """The first address of a pod, external or node; KeyError for another name, IndexError when it has none."""
        return str(self.addresses[name][0])

    def send(self, source: str, destination: str, **probes: Unpack[Probes]) -> FlowResult:
        """Measure one flow, e.g. `send("pod1", "ext1:udp:53")`. Raises InputError when there is no such end."""
        return self.send_all([f"{source} -> {destination}"], **probes)[0]

    def send_all(self, flows: Sequence[Flow | str], **probes: Unpack[Probes]) -> list[FlowResult]:
        """Measure flows together: all are under way at once."""
        parsed = [flow if isinstance(flow, Flow) else asked(flow) for flow in flows]
        problems = [(flow, problem) for flow in parsed if (problem := check_flow(self.topology, flow))]
        if problems:
            raise InputError([Problem(f"flow {str(flow)!r}", 0, "", *problem) for flow, problem in problems])
        ordering = self._ordering
        orders = [ordering.order(flow, **probes) for flow in parsed]
        batch = self._measurer.measure([order for order in orders if not isinstance(order, str)])
        self.reported = {**self.reported, **self._datapath.deaths()}
        self.captures += batch.captures
        observed = iter(batch.observed)
        seen = [Observed(refusal=order) if isinstance(order, str) else next(observed) for order in orders]
        context, ordering = self.context, self._ordering
        results: list[FlowResult] = []
        for flow, each in zip(parsed, seen, strict=True):
            served, expected = ordering.served(flow), self._world.predict(flow, probes.get("size"))
            sightings = without_resets(each.sightings) if served else each.sightings
            measured = (flow, each.sent, sightings, batch.measurement, context, each.refusal)
            results.append(FlowResult(*measured, served=served, expected=expected))
        sent = (result.name for result, order in zip(results, orders, strict=True) if not isinstance(order, str))
        self._flow_names.update(zip((each.number for each in batch.observed), sent, strict=True))
        self.flows += results
        return results

    def collect(self, directory: Path) -> None:
        """Keep what real agents logged and reported, and what the BGP daemons were told and logged."""
        self._datapath.collect(directory)
        if self._speakers is not None:
            self._speakers.collect(directory / "bgp")

    def bgp(self, name: str) -> Speaker:
        """A router or node that speaks BGP: what it has learned, and what it should have. Raises LabError."""
        if self._speakers is None:
            raise LabError(f"{name!r} does not speak BGP", fix="take a topology with a section `bgp`")
        return self._speakers.speaker(name)

    def can_change_to(self, settings: Settings) -> bool:
        """May the agents be given these settings in place, without traces of the old ones?"""
        changeable = self._datapath.CHANGEABLE
        if not changeable or settings.per_node != self.settings.per_node:
            return False
        settings = self.request.with_settings(settings).settings
        keys = {*settings.values, *self.settings.values} - changeable
        return all(settings.values.get(key) == self.settings.values.get(key) for key in keys)

    def change(self, settings: Settings) -> None:
        """Restart real agents with other settings; pods stay. Raises LabError on the built-in datapath."""
        request = self.request.with_settings(settings)
        self.decisions = self._datapath.change(replace(self.decisions, settings=request.settings))
        self._speak()
        self.reported = self._datapath.reported()
        self.request = request

    def link_down(self, nic: str) -> Undo:
        """Take a NIC down. Its IPv4 routes go with it, its IPv6 routes and addresses too."""
        return self._become(edit.link(self.topology, nic, up=False))

    def link_up(self, nic: str) -> Undo:
        """Bring a NIC up again. Its connected routes come back, no others: the kernel does not remember them."""
        return self._become(edit.link(self.topology, nic, up=True))

    def plug(
        self, nic: str, *, fabric: str, addresses: Sequence[str] | str = (), mtu: int = 1500, up: bool = True
    ) -> Undo:
        """Hot-plug a new NIC into a fabric; it has a tap from the beginning. `mtu` in bytes."""
        given = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        return self._become(edit.plug(self.topology, nic, fabric=fabric, addresses=given, mtu=mtu, up=up))

    def unplug(self, nic: str) -> Undo:
        """Remove a NIC with its cable; the undo plugs a new one of the same name."""
        return self._become(edit.unplug(self.topology, nic))

    def add_address(self, nic: str, address: str) -> Undo:
        return self._become(edit.add_address(self.topology, nic, address))

    def del_address(self, nic: str, address: str) -> Undo:
        return self._become(edit.del_address(self.topology, nic, address))

    def add_route(self, host: str, route: str) -> Undo:
        return self._become(edit.add_route(self.topology, host, route))

    def del_route(self, host: str, route: str) -> Undo:
        """Remove one of the host's own routes; metric, gateway and device may be left out where the rest is clear."""
        return self._become(edit.del_route(self.topology, host, route))

    def add_rule(self, host: str, rule: str) -> Undo:
        return self._become(edit.add_rule(self.topology, host, rule))

    def del_rule(self, host: str, rule: str) -> Undo:
        return self._become(edit.del_rule(self.topology, host, rule))

    def sysctl(self, host: str, key: str, value: str | int) -> Undo:
        """Set a net.* sysctl of a host."""
        target = edit.set_sysctl(self.topology, host, key, str(value))
        with lab_error(f"no sysctl {key} on {host}"), self._substrate[host].entered():
            before = Path("/proc/sys", key.replace(".", "/")).read_text().strip()
        return self._become(target, before=edit.set_sysctl(self.topology, host, key, before))

    def validate_nodes(self) -> None:
        """Return when agents have validated their nodes once more, which they do about once a minute: only then are
        direct node routes that a link took along installed again."""
        before = self.decisions
        after = before.validated()
        self._datapath.validate(before, after)
        self.decisions, self.reported = after, self._datapath.reported()

    def _become(self, target: Topology, *, before: Topology | None = None) -> Undo:
        start = before or self.topology
        if self.changed_after is None:
            self.changed_after = len(self.flows)
        self._change_from(start, target)
        undo = contextlib.ExitStack()
        undo.callback(lambda: self._change_from(self.topology, start))
        return undo

    def _change_from(self, before: Topology, target: Topology) -> None:
        """Change what differs from `before`, and return when agents have settled or a deadline has passed.

        What agents then report is an observation, be it what was predicted or not. Raises LabError.
        """
        start, target = edit.pinned(before), edit.pinned(target)
        plan = Plan(target, self._plan.cables, self._plan.veth)
        old = replace(self.decisions, topology=start)
        new = old.after(target)

        def change() -> None:
            self._substrate.apply(difference(start, target, self._plan.cables, plan.cables))
            self._plan, self.topology = plan, target
            self.taps.plug(plan)

        self._datapath.follow(old, new, change)
        if self._speakers is not None:
            self._speakers.follow(new)
        self.decisions, self.reported = new, self._datapath.reported()

    @property
    def title(self) -> str:
        """Topology, routing and datapath in one line; the model says that it is one."""
        routing = next((reported.routing for reported in self.reported.values() if reported.routing), "no agent runs")
        return f"{self.topology.name} · {routing} · {self.request.choice.description}"

    def comment(self, frame: bytes) -> str:
        """What a captured frame is, for people who open the capture: `probe 3 of pod1→ext1, request`."""
        decoded = self._decoder.decode(frame)
        if decoded is None:
            return ""
        name = self._flow_names.get(decoded.identity.flow, "an earlier flow")
        note = f" ({decoded.note})" if decoded.note else ""
        return f"probe {decoded.identity.number} of {name}, {decoded.kind}{note}"

    def _own(self, name: str, plugged: tuple[Address, ...]) -> tuple[Address, ...]:
        return self.topology.own_addresses(name) if name in self.topology.hosts else plugged

    @property
    def _ordering(self) -> Ordering:
        exits = {name: node.agent_exits for name, node in self.reported.items() if node.agent_exits is not None}
        return Ordering(self.topology, self.addresses, self._datapath.cgroup, exits)

    @property
    def _world(self) -> World:
        """The model of the lab as it now is."""
        if self._model is None or self._model.decisions is not self.decisions:
            self._model = World(self.decisions, encrypts=self.request.datapath != "builtin")
        return self._model

    @property
    def context(self) -> Context:
        """As the model has it, but for what is observed."""
        return replace(
            self._world.context,
            addresses={name: tuple(map(str, self._own(name, plugged))) for name, plugged in self.addresses.items()},
            reported={name: str(reported) for name, reported in self.reported.items()},
            exited=frozenset(name for name, reported in self.reported.items() if reported.agent_exits is not None),
        )
