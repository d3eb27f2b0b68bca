"""Building a lab on the netns substrate: plan, datapath, and what its agents say; undone in reverse."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from niclab import steps
from niclab.cilium import operations
from niclab.cilium.bgp import speaks
from niclab.cilium.decisions import Decisions
from niclab.cilium.reported import NodeReport
from niclab.cilium.selection import Version
from niclab.host import ledgers, readiness
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.host.substrate import Substrate
from niclab.kernel.plan import Plan
from niclab.net.route import Address
from niclab.settings import Settings
from niclab.topology import Topology

if TYPE_CHECKING:
    from niclab.agents.controlplane import Kind
    from niclab.agents.deploy import CiliumDatapath
    from niclab.agents.frr.speakers import Speakers


@dataclass
class Deployment:
    """A lab that stands: its namespaces, its datapath, and what its agents said.

    `decisions` are the model's: what the built-in datapath carries out, and what is expected of real agents.
    """

    plan: Plan
    decisions: Decisions
    substrate: Substrate
    ledger: Ledger
    reported: Mapping[str, NodeReport]
    pod_addresses: Mapping[str, tuple[Address, ...]]
    description: str
    cilium: CiliumDatapath | None = None
    speakers: Speakers | None = None
    """Where the topology has BGP."""
    _closed: bool = field(default=False, repr=False)

    @property
    def datapath(self) -> str:
        return "builtin" if self.cilium is None else "cilium"

    @property
    def vxlan_ports(self) -> tuple[int, ...]:
        ports = {node.settings.tunnel_port for node in self.decisions.nodes.values()}
        return tuple(sorted({8472, 4789, *ports}))

    def close(self) -> None:
        """Let go; everything is removed unless the ledger says that the lab is kept."""
        if self._closed:
            return
        self._closed = True
        with contextlib.ExitStack() as undo:
            undo.callback(self.ledger.release)
            undo.callback(self.substrate.close)
            if self.speakers is not None and not self.ledger.kept:
                undo.callback(self.speakers.close)
            if self.cilium is not None and not self.ledger.kept:
                undo.callback(self.cilium.close)


def deploy_builtin(topology: Topology, settings: Settings, version: Version, lab_id: str | None) -> Deployment:
    """Build the topology and the built-in datapath on it. Raises LabError; then nothing is left."""
    decisions = Decisions(topology, settings, version)
    plan = Plan(topology)
    with contextlib.ExitStack() as undo:
        ledger = Ledger.open_new(lab_id)
        undo.callback(ledger.release)
        substrate = NetnsSubstrate(ledger)
        undo.callback(substrate.close)
        substrate.apply(plan.operations)
        substrate.apply(operations.operations(decisions))
        readiness.wait(substrate)
        speakers = _speakers(decisions, substrate, ledger)
        if speakers is not None:
            undo.callback(speakers.close)
            nodes = [name for name in decisions.running if speaks(decisions.nodes[name])]
            speakers.start(nodes)
            speakers.wait(nodes)
        made = _built_in(plan, decisions, substrate, ledger)
        made.speakers = speakers
        undo.pop_all()
    return made


def _speakers(decisions: Decisions, substrate: Substrate, ledger: Ledger) -> Speakers | None:
    """What speaks BGP in this topology, if it has any; not started. Raises LabError where FRR is not installed."""
    if decisions.topology.bgp is None:
        return None
    from niclab.agents.frr.speakers import Speakers

    return Speakers(ledger, substrate, decisions)


def attach(
    topology: Topology, settings: Settings, version: Version, lab_id: str, cilium: Mapping[str, Any] | None
) -> Deployment:
    """Take over a kept lab; `cilium` is what it has left of its real agents. Raises LabError when that cannot be."""
    decisions = Decisions(topology, settings, version)
    with contextlib.ExitStack() as undo:
        ledger = Ledger.open_existing(lab_id)
        undo.callback(ledger.release)
        names = next(owned.namespaces() for owned in ledgers.labs() if owned.id == lab_id)
        substrate = NetnsSubstrate.attached(ledger, names)
        undo.callback(substrate.close)
        if cilium is None:
            made = _built_in(Plan(topology), decisions, substrate, ledger)
        else:
            from niclab.agents import attach as real

            kept = real.Kept.from_json(cilium)
            made = _real(decisions, real.attach(topology, substrate=substrate, ledger=ledger, kept=kept))
        made.speakers = _speakers(decisions, substrate, ledger)
        if made.speakers is not None and made.cilium is not None:
            made.speakers.agents = made.cilium.bgp
        undo.pop_all()
    return made


def _built_in(plan: Plan, decisions: Decisions, substrate: Substrate, ledger: Ledger) -> Deployment:
    return Deployment(
        plan,
        decisions,
        substrate,
        ledger,
        reported=reported_by(decisions),
        pod_addresses=planned_addresses(decisions),
        description=f"built-in model of Cilium {decisions.version}",
    )


def deploy_cilium(
    topology: Topology, settings: Settings, wanted: str | None, lab_id: str | None, *, control_plane: Kind | None
) -> Deployment:
    """Build the topology and start real Cilium on it: the bundle `wanted` by name or version. Raises LabError."""
    from niclab.agents import bundle as bundles
    from niclab.agents.deploy import deploy

    # Probes are made by scapy, which takes its time to load: while agents start there is some to spare.
    threading.Thread(target=importlib.import_module, args=("scapy.layers.inet6",), daemon=True).start()
    bundle = bundles.find_cilium(wanted)
    kind = control_plane_kind(control_plane)
    kubernetes = bundles.find_kubernetes() if kind == "kubernetes" else None
    steps.done("bundles")
    decisions = Decisions(topology, settings, Version.parse(bundle.minor))
    plan = Plan(topology)
    with contextlib.ExitStack() as undo:
        ledger = Ledger.open_new(lab_id)
        undo.callback(ledger.release)
        substrate = NetnsSubstrate(ledger)
        undo.callback(substrate.close)
        substrate.apply(plan.operations)
        readiness.wait(substrate)
        speakers = _speakers(decisions, substrate, ledger)
        if speakers is not None:
            undo.callback(speakers.close)
            speakers.start()
        steps.done("topology")
        with contextlib.ExitStack() as holding:
            bundles_in_use = [holding.enter_context(bundles.held(one)) for one in (bundle, kubernetes) if one]
            cilium = deploy(
                decisions,
                substrate=substrate,
                ledger=ledger,
                bundle=bundle,
                kubernetes=kubernetes,
                kind=kind,
                holds=[handle for handles in bundles_in_use for handle in handles],
            )
        undo.callback(cilium.close)
        readiness.wait(substrate)
        if speakers is not None:
            speakers.agents = cilium.bgp
            speakers.wait(speaking(decisions, cilium))
        made = _real(decisions, cilium)
        made.speakers = speakers
        undo.pop_all()
    return made


def _real(decisions: Decisions, cilium: CiliumDatapath) -> Deployment:
    return Deployment(
        Plan(decisions.topology),
        replace(decisions, plugged=dict(cilium.pod_addresses)),
        cilium.substrate,
        cilium.ledger,
        reported=cilium.reported(),
        pod_addresses=cilium.pod_addresses,
        description=cilium.description,
        cilium=cilium,
    )


def speaking(decisions: Decisions, cilium: CiliumDatapath) -> list[str]:
    """The nodes whose agents should speak BGP: those that run, unless they are told not to."""
    return [agent.node for agent in cilium.running if speaks(decisions.nodes[agent.node])]


def control_plane_kind(asked: Kind | None) -> Kind:
    """The control plane that real agents get: the one that was asked for, else Kubernetes where a bundle is at hand."""
    from niclab.agents import bundle as bundles

    return asked or ("kubernetes" if bundles.all_kubernetes() else "kvstore")


def told_by_kubernetes(topology: Topology, settings: Settings) -> str:
    """What of a lab agents read in Kubernetes objects alone, in words; empty when a kvstore will do."""
    from niclab.agents import ipam

    if topology.bgp is not None:
        return "BGP"
    if topology.ipam in ipam.ALLOCATED:
        return f"addresses (ipam={topology.ipam})"
    if topology.egress_policies and any(
        settings.for_node(name, node.labels).egress_gateway for name, node in topology.nodes.items()
    ):
        return "egress policies"
    return ""


def planned_addresses(decisions: Decisions) -> Mapping[str, tuple[Address, ...]]:
    """Pod → the addresses the model gives it; a pod of a node whose agent exits has none."""
    found: dict[str, tuple[Address, ...]] = {}
    for pod, addresses in decisions.topology.pod_addresses().items():
        node = decisions.nodes[decisions.topology.pods[pod][0]]
        up = node.agent_exits is None
        found[pod] = tuple(a for a in addresses if up and a.version in node.families)
    return found


def reported_by(decisions: Decisions) -> Mapping[str, NodeReport]:
    return {
        name: NodeReport.of(node, decisions.warnings(name), decisions.frontend_rows(name))
        if node.agent_exits is None
        else NodeReport.of(node)
        for name, node in decisions.nodes.items()
    }
