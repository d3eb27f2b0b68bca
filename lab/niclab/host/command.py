"""A command that a test runs on a host of the lab, kept with what it printed: evidence."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from niclab.host import process
from niclab.host.substrate import Substrate


@dataclass(frozen=True, slots=True)
class Command:
    """`line` as a person would type it on the host, and its standard output."""

    host: str
    line: str
    output: str

    def folded(self) -> dict[str, Any]:
        return asdict(self)


def run(substrate: Substrate, host: str, arguments: Sequence[str], *, inside: Sequence[str] | None = None) -> Command:
    """Run a command in a host's network namespace. Raises LabError, KeyError.

    `inside` is another command line for the same, e.g. one that also enters the mounts of the node's agent.
    """
    if inside is not None:
        output = process.run(inside)
    else:
        namespace = substrate[host]
        with namespace.entered():
            output = process.run(arguments, namespace=namespace.name)
    return Command(host, shlex.join(arguments), output)
