"""A model of Cilium made of routes, rules, VXLAN and nftables. What its agents decide is known before they start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from niclab.cilium import operations
from niclab.cilium.bgp import speaks
from niclab.cilium.decisions import Decisions, flushed
from niclab.cilium.reported import NodeReport
from niclab.errors import LabError
from niclab.host import readiness
from niclab.host.datapath import AgentBgp
from niclab.host.substrate import Substrate
from niclab.kernel.difference import Flushed, update
from niclab.net.route import Address


class Builtin:
    """The built-in datapath of one lab."""

    LABS_AT_ONCE: ClassVar[int] = 4
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset()
    KEEPS_LOGS: ClassVar[bool] = False

    def __init__(self, substrate: Substrate) -> None:
        self._substrate = substrate
        self._decisions: Decisions

    def deploy(self, decisions: Decisions) -> Decisions:
        self._substrate.apply(operations.operations(decisions))
        return self.attach(decisions, {})

    def attach(self, decisions: Decisions, kept: Mapping[str, Any]) -> Decisions:  # noqa: ARG002
        self._decisions = decisions
        return decisions

    def kept(self) -> Mapping[str, Any]:
        return {}

    @property
    def running(self) -> Sequence[str]:
        return self._decisions.running

    @property
    def addresses(self) -> Mapping[str, tuple[Address, ...]]:
        plugged: dict[str, tuple[Address, ...]] = {}
        for pod, addresses in self._decisions.topology.pod_addresses().items():
            node = self._decisions.nodes[self._decisions.topology.pods[pod][0]]
            up = node.agent_exits is None
            plugged[pod] = tuple(address for address in addresses if up and address.version in node.families)
        return plugged

    def reported(self) -> Mapping[str, NodeReport]:
        decisions = self._decisions
        return {
            name: NodeReport.of(node, decisions.warnings(name), decisions.frontend_rows(name))
            if node.agent_exits is None
            else NodeReport.of(node)
            for name, node in decisions.nodes.items()
        }

    def deaths(self) -> Mapping[str, NodeReport]:
        return {}

    def change(self, decisions: Decisions) -> NoReturn:  # noqa: ARG002
        raise LabError("the built-in datapath is not changed in place", fix="deploy another lab: it takes 0.1 s")

    def follow(self, before: Decisions, after: Decisions, change: Callable[[], None]) -> None:
        change()
        self._update(before, after, flushed(before.topology, after.topology))
        readiness.wait(self._substrate)
        readiness.forget_neighbours(self._substrate, after.topology.hosts)

    def validate(self, before: Decisions, after: Decisions) -> None:
        self._update(before, after, frozenset())

    def _update(self, before: Decisions, after: Decisions, gone: Flushed) -> None:
        self._substrate.apply(update(operations.operations(before), operations.operations(after), gone))
        self._decisions = after

    def without_bgp(self, decisions: Decisions) -> Sequence[str]:
        return [name for name in decisions.running if speaks(decisions.nodes[name])]

    @property
    def bgp(self) -> Mapping[str, AgentBgp]:
        return {}

    def cgroup(self, node: str) -> Path | None:  # noqa: ARG002
        return None

    def command(self, host: str, arguments: Sequence[str]) -> Sequence[str] | None:  # noqa: ARG002
        return None

    def kinds(self) -> NoReturn:
        raise LabError("this lab has no API server", fix="use --datapath cilium --control-plane kubernetes")

    def collect(self, directory: Path) -> None:
        """There is nothing: the record has all that it reported."""

    def close(self) -> None:
        """There is nothing to end: what was made goes with the lab's namespaces."""
