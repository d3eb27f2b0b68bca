"""Building a lab on the netns substrate: plan, datapath, and what its agents say; undone in reverse."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from lab.datapath import builtin
from lab.datapath.decision import Decisions
from lab.datapath.said import NodeSaid
from lab.plan import Plan
from lab.selection import Version
from lab.settings import Settings
from lab.substrate import readiness
from lab.substrate.netns import Substrate
from lab.substrate.ownership import Ledger
from lab.topology import Topology


@dataclass(frozen=True)
class Deployment:
    """A lab that stands: its namespaces, and what its agents said."""

    plan: Plan
    decisions: Decisions
    substrate: Substrate
    ledger: Ledger
    said: Mapping[str, NodeSaid]
    vxlan_ports: tuple[int, ...]

    def close(self) -> None:
        """Let go; namespaces are removed unless the ledger says that the lab is kept."""
        try:
            self.substrate.close()
        finally:
            self.ledger.release()


def decide(topology: Topology, settings: Settings, version: Version) -> Decisions:
    return Decisions(topology, settings, version)


def deploy_builtin(topology: Topology, settings: Settings, version: Version, lab_id: str | None) -> Deployment:
    """Build the topology and the built-in datapath on it. Raises LabError; then nothing is left."""
    decisions = Decisions(topology, settings, version)
    plan = Plan(topology)
    with contextlib.ExitStack() as undo:
        ledger = Ledger.open_new(lab_id)
        undo.callback(ledger.release)
        substrate = Substrate(ledger)
        undo.callback(substrate.close)
        substrate.apply(plan.operations)
        substrate.apply(builtin.operations(decisions))
        readiness.wait(substrate)
        undo.pop_all()
    return Deployment(plan, decisions, substrate, ledger, said_by(decisions), vxlan_ports(decisions))


def attach_builtin(topology: Topology, settings: Settings, version: Version, lab_id: str) -> Deployment:
    """Take over a kept lab. Raises LabError when there is none or it is in use."""
    from lab.substrate import ownership

    decisions = Decisions(topology, settings, version)
    with contextlib.ExitStack() as undo:
        ledger = Ledger.open_existing(lab_id)
        undo.callback(ledger.release)
        names = next(owned.namespaces() for owned in ownership.labs() if owned.id == lab_id)
        substrate = Substrate.attached(ledger, names)
        undo.pop_all()
    return Deployment(Plan(topology), decisions, substrate, ledger, said_by(decisions), vxlan_ports(decisions))


def said_by(decisions: Decisions) -> Mapping[str, NodeSaid]:
    return {
        name: NodeSaid.of(node, decisions.direct_routes(name)[1] if node.agent_exits is None else ())
        for name, node in decisions.nodes.items()
    }


def vxlan_ports(decisions: Decisions) -> tuple[int, ...]:
    return tuple(sorted({8472, 4789, *(node.settings.tunnel_port for node in decisions.nodes.values())}))
