"""A command that a test runs on a host of the lab, kept with what it printed: evidence."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from niclab.host import process

if TYPE_CHECKING:
    from niclab.agents.deploy import CiliumDatapath
    from niclab.host.substrate import Substrate


@dataclass(frozen=True, slots=True)
class Command:
    """`line` as a person would type it on the host, and its standard output."""

    host: str
    line: str
    output: str

    def folded(self) -> dict[str, Any]:
        return asdict(self)


def run(substrate: Substrate, cilium: CiliumDatapath | None, host: str, arguments: Sequence[str]) -> Command:
    """Run a command on a host, on a node with a real agent as that agent sees the node. Raises LabError, KeyError."""
    agent = cilium.agents.get(host) if cilium is not None else None
    if agent is not None:
        program = [str(agent.bundle.dbg) if arguments[0] == "cilium-dbg" else arguments[0], *arguments[1:]]
        output = process.run(agent.command(program))
    else:
        namespace = substrate[host]
        with namespace.entered():
            output = process.run(arguments, namespace=namespace.name)
    return Command(host, shlex.join(arguments), output)
