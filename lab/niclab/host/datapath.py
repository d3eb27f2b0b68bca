"""Who forwards pod packets. A lab needs no more of its datapath than this.

`niclab.builtin` has the model of Cilium made of kernel parts, `niclab.agents` has real Cilium agents. Both are made for
one lab's substrate. `deploy` puts them on nodes that stand and have their links, routes and rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from niclab.cilium.bgp import Rib
from niclab.cilium.decisions import Decisions
from niclab.cilium.reported import NodeReport
from niclab.net.route import Address


class AgentBgp(Protocol):
    """The BGP of one node's agent."""

    def rib(self) -> Rib: ...

    def heard(self) -> Rib: ...

    def states(self) -> Mapping[Address, str]: ...


class Datapath(Protocol):
    """The agents of one lab's nodes, and what they do to packets.

    `Decisions` are the model's: the built-in datapath carries them out, of real agents they are what is expected.
    """

    LABS_AT_ONCE: ClassVar[int]
    """How many labs with this datapath a small machine has room for."""
    CHANGEABLE: ClassVar[frozenset[str]]
    """The settings that running agents can be given anew without leaving traces of the old ones."""
    KEEPS_LOGS: ClassVar[bool]
    """Do agents leave logs that a record should have?"""

    def deploy(self, decisions: Decisions) -> Decisions:
        """Start the agents, plug the pods, and return when traffic can flow. Raises LabError.

        The decisions that come back have the addresses that pods really got.
        """

    def attach(self, decisions: Decisions, kept: Mapping[str, Any]) -> Decisions:
        """Take over what runs in a kept lab. Raises LabError when it no longer runs."""

    def kept(self) -> Mapping[str, Any]:
        """What `attach` must know, as JSON."""

    @property
    def running(self) -> Sequence[str]:
        """The nodes whose agents run."""

    @property
    def addresses(self) -> Mapping[str, tuple[Address, ...]]:
        """Pod → its addresses; none for a pod of a node whose agent exited."""

    def reported(self) -> Mapping[str, NodeReport]:
        """Node → what its agent says now."""

    def deaths(self) -> Mapping[str, NodeReport]:
        """The same for agents that died since they were ready, each once."""

    def change(self, decisions: Decisions) -> Decisions:
        """Restart the agents with the settings of these decisions; pods stay. Raises LabError."""

    def follow(self, before: Decisions, after: Decisions, change: Callable[[], None]) -> None:
        """Make a change to the nodes, and return when the agents have dealt with it or a deadline has passed."""

    def validate(self, before: Decisions, after: Decisions) -> None:
        """Return when every agent has validated its nodes once more, so that missing direct routes are back."""

    def without_bgp(self, decisions: Decisions) -> Sequence[str]:
        """The nodes for which the lab must speak BGP, because their agents do not."""

    @property
    def bgp(self) -> Mapping[str, AgentBgp]:
        """Node → the BGP of its agent, where agents speak it."""

    def cgroup(self, node: str) -> Path | None:
        """The cgroup whose sockets a node's agent sees, its own programs' and its pods'; None for no agent."""

    def command(self, host: str, arguments: Sequence[str]) -> Sequence[str] | None:
        """The command line that runs a program on a node as its agent sees the node; None where namespaces will do."""

    def kinds(self) -> frozenset[str]:
        """Every kind of object in Cilium's API group that the lab's API server serves. Raises LabError."""

    def collect(self, directory: Path) -> None:
        """Keep what agents logged and reported."""

    def close(self) -> None:
        """End the agents."""
