"""Where nodes live. A lab needs no more of its substrate than this; `netns` has the one made of network namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

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
        ...

    def close(self) -> None:
        """Let go of every handle. The namespaces stay until the ledger is released."""
        ...
