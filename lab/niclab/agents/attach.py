"""Taking over the real agents of a lab that was kept: their sandboxes, themselves, and what the lab knew of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from niclab.agents import agent as agents
from niclab.agents import controlplane
from niclab.agents.agent import Agent
from niclab.agents.bundle import CiliumBundle
from niclab.agents.controlplane import ControlPlane, Kind
from niclab.agents.deploy import CiliumDatapath
from niclab.agents.last_words import last_words
from niclab.errors import LabError
from niclab.host import daemons
from niclab.host.ledgers import Ledger
from niclab.host.substrate import Substrate
from niclab.net.route import Address, Family
from niclab.topology import Topology


@dataclass(frozen=True)
class Kept:
    """What a kept lab leaves of its real agents, beside its ledger."""

    bundle: CiliumBundle
    control_plane: Kind
    families: tuple[Family, ...]
    pods: Mapping[str, tuple[Address, ...]]
    exited: Mapping[str, str]
    """Node → last words of its agent, where it does not run."""

    @classmethod
    def of(cls, datapath: CiliumDatapath) -> Kept:
        exited = {name: one.exited for name, one in datapath.agents.items() if one.exited is not None}
        kind = datapath.control_plane.kind
        return cls(datapath.bundle, kind, datapath.families, dict(datapath.pod_addresses), exited)

    def to_json(self) -> dict[str, Any]:
        bundle = self.bundle
        return {
            "bundle": [bundle.name, bundle.version, str(bundle.path), bundle.kind],
            "control_plane": self.control_plane,
            "families": list(self.families),
            "pods": {pod: list(map(str, addresses)) for pod, addresses in self.pods.items()},
            "exited": dict(self.exited),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Kept:
        name, version, path, kind = told["bundle"]
        return cls(
            CiliumBundle(name, version, Path(path), kind),
            told["control_plane"],
            tuple(told["families"]),
            {pod: tuple(map(ip_address, addresses)) for pod, addresses in told["pods"].items()},
            told["exited"],
        )


def attach(topology: Topology, *, substrate: Substrate, ledger: Ledger, kept: Kept) -> CiliumDatapath:
    """The datapath of a kept lab. Raises LabError when a node's sandbox has ended since."""
    control_plane = controlplane.attach(kept.control_plane, substrate=substrate, ledger=ledger)
    found = {name: _agent(name, ledger, kept, control_plane) for name in topology.nodes}
    pods = dict(kept.pods)
    return CiliumDatapath(
        topology, substrate, ledger, kept.bundle, control_plane, found, kept.families, pod_addresses=pods
    )


def _agent(node: str, ledger: Ledger, kept: Kept, control_plane: ControlPlane) -> Agent:
    directory = agents.directory_of(ledger, node)
    holder = daemons.adopt(ledger, f"{daemons.SANDBOX}{node}", log=directory / agents.SANDBOX_LOG)
    if holder is None:
        raise LabError(
            f"lab {ledger.id} cannot be taken over",
            why=f"the sandbox of {node} has ended: somebody killed its process, or the machine was restarted",
            fix=f"niclab down {ledger.id}",
        )
    starts = len(list(directory.glob("agent-*.log")))
    one = Agent(
        node,
        kept.bundle,
        holder,
        directory,
        ledger,
        agents.environment_of(directory, control_plane.agent_environment(node)),
        exited=kept.exited.get(node),
        starts=starts,
    )
    if one.exited is None:
        one.daemon = daemons.adopt(ledger, agents.process_name(node), log=one.log)
        if one.daemon is None:
            one.exited = f"died: {last_words(one.log.read_text(errors='replace')) or 'it reported nothing'}"
    return one
