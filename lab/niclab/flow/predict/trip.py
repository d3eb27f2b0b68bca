"""A packet under way, and what every host remembers of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from niclab.flow.predict.conntrack import Connections
from niclab.flow.trace import Decided, Entered, Header, Hop, Left, Path, Step
from niclab.net.packetrules import Direction, Packet
from niclab.net.route import Why

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
class Ended:
    """Where a packet's walk ended: its path, the packet as it was there, the interface it came in by, and what the
    hosts remember."""

    path: Path
    packet: Packet
    iif: str | None
    tracked: Tracked


@dataclass(frozen=True, slots=True)
class Trip:
    """`inner`: what the packet carries, while it is a tunnel's; `tunnel`: that tunnel's protocol.

    `left`: how many more hops it may take. `been`: where it has been, and as what. `dropped`: why a packet rule ended
    it. `iif`: the interface it came in by. `prefer`: the device that a host's own packet would rather leave by.
    """

    packet: Packet
    tracked: Tracked
    inner: Packet | None = None
    tunnel: str = ""
    tracking: Tracking | None = None
    hops: tuple[Hop, ...] = ()
    left: int = HOPS
    been: frozenset[object] = frozenset()
    dropped: str = ""
    iif: str | None = None
    prefer: str | None = None

    @property
    def seen(self) -> Packet:
        """The packet inside any tunnel."""
        return self.inner or self.packet

    @property
    def header(self) -> Header:
        """The packet as a tap would see it now."""
        source, destination = str(self.packet.source), str(self.packet.destination)
        if self.inner is None:
            return Header(source, destination)
        return Header(str(self.inner.source), str(self.inner.destination), ((source, destination),), (self.tunnel,))

    def on(self, packet: Packet, inner: Packet | None) -> Trip:
        """At the next host, or once more at this one, as another packet."""
        return replace(self, packet=packet, inner=inner, tracking=None, left=self.left - 1)

    def noting(self, where: str, why: Why, **inputs: object) -> Trip:
        """With one more decision at a host."""
        return self._with(where, Decided(why, tuple(inputs.items())))

    def crossing(self, tap: str, into: str, peer: str) -> Trip:
        """On a cable: out of one host's NIC and into another's."""
        header = self.header
        out = self._with(tap.partition(".")[0], Left(tap, header))
        return replace(out, hops=(*out.hops, Hop(peer, (Entered(into, header),))))

    def plugged_into(self, pod: str) -> Trip:
        """In the pod."""
        return replace(self, hops=(*self.hops, Hop(pod, (Entered(pod, self.header),))))

    def _with(self, host: str, step: Step) -> Trip:
        *before, last = self.hops or (Hop(host),)
        if last.host != host:
            return replace(self, hops=(*self.hops, Hop(host, (step,))))
        return replace(self, hops=(*before, Hop(host, (*last.steps, step))))

    def ended(self, where: str | None, why: str = "") -> Ended:
        return Ended(Path(self.hops, where, str(self.seen.source), why), self.seen, self.iif, self.tracked)
