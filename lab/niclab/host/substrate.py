"""Where nodes live. A lab needs no more of its substrate than `Substrate`; `netns` has the one made of namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from niclab.host.netns import Namespace
from niclab.net.operation import Operation


class Substrate(Protocol):
    """The network namespaces of one lab by role: nodes, pods, externals, routers, and `fabric` with every cable's
    outer end. Whatever is made is in the lab's ledger before it exists."""

    def __getitem__(self, role: str) -> Namespace: ...

    def __contains__(self, role: str) -> bool: ...

    def __iter__(self) -> Iterator[Namespace]: ...

    def apply(self, operations: Iterable[Operation]) -> None:
        """Carry out the operations in order. Raises LabError."""

    def close(self) -> None:
        """Let go of every handle. The namespaces stay until the ledger is released."""


@dataclass(frozen=True, slots=True)
class Command:
    """One that a test ran on a host, kept as evidence: `line` as a person would type it there, and its output."""

    host: str
    line: str
    output: str

    def folded(self) -> dict[str, Any]:
        return asdict(self)
