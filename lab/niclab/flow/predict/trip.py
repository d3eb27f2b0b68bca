"""A packet under way, and what every host remembers of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from niclab.flow.predict.conntrack import Connections
from niclab.flow.predict.model import Sent, Step, Walk
from niclab.net.packetrules import Direction, Packet
from niclab.net.reason import Why

HOPS = 32
Tracked = Mapping[str, Connections]
"""Host → the connections it knows; of hosts without packet rules nothing depends on them."""

NOTHING: Tracked = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Tracking:
    """The packet's connection on the host it is at: which of the host's, and the packet's direction in it."""

    index: int
    direction: Direction


@dataclass(frozen=True, slots=True)
class Trip:
    """`inner`: what the packet carries, while it is a tunnel's.

    `left`: how many more hops it may take. `been`: where it has been, and as what. `dropped`: why a packet rule ended
    it. `iif`: the interface it came in by. `prefer`: the device that a host's own packet would rather leave by.
    """

    packet: Packet
    tracked: Tracked
    inner: Packet | None = None
    tracking: Tracking | None = None
    sent: tuple[Sent, ...] = ()
    steps: tuple[Step, ...] = ()
    left: int = HOPS
    been: frozenset[object] = frozenset()
    dropped: str = ""
    iif: str | None = None
    prefer: str | None = None

    @property
    def seen(self) -> Packet:
        """The packet inside any tunnel."""
        return self.inner or self.packet

    def on(self, packet: Packet, inner: Packet | None) -> Trip:
        """At the next host, or once more at this one, as another packet."""
        return replace(self, packet=packet, inner=inner, tracking=None, left=self.left - 1)

    def noting(self, where: str, why: Why, **inputs: object) -> Trip:
        return replace(self, steps=(*self.steps, Step(where, why, tuple(inputs.items()))))

    def ended(self, where: str | None, why: str = "") -> tuple[Walk, Tracked]:
        return Walk(self.sent, where, self.seen.source, self.seen, why, self.steps, self.iif), self.tracked
