"""A packet under way, and what every host remembers of it: connection tracking as far as it decides addresses.

[kernel] net/netfilter/nf_nat_core.c: a connection's translation is decided when its first packet passes prerouting or
output (destination) and postrouting or input (source); every packet after it, and every answer, is translated by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from niclab.cilium.tables import reason
from niclab.flow.trace import Decided, Entered, Header, Hop, Left, Path, Step
from niclab.net.packetrules import Direction, Packet, Protocol
from niclab.net.route import Address, Why
from niclab.topology.stacking import Segment


@dataclass(frozen=True, slots=True)
class Ends:
    """From where to where packets of one direction go."""

    source: Address
    source_port: int
    destination: Address
    port: int
    protocol: Protocol

    @classmethod
    def of(cls, packet: Packet) -> Ends:
        return cls(packet.source, packet.source_port, packet.destination, packet.port, packet.protocol)

    @property
    def turned(self) -> Ends:
        return Ends(self.destination, self.port, self.source, self.source_port, self.protocol)


@dataclass(frozen=True, slots=True)
class Connection:
    """`original`: packets as they come in; `reply`: answers as they come in, which says how the packets went out."""

    original: Ends
    reply: Ends
    mark: int = 0
    source_decided: bool = False
    destination_decided: bool = False

    @classmethod
    def of(cls, packet: Packet) -> Connection:
        ends = Ends.of(packet)
        return cls(ends, ends.turned)

    @property
    def translated(self) -> bool:
        return self.reply != self.original.turned

    def to(self, address: Address, port: int | None) -> Connection:
        """With its destination translated."""
        reply = replace(self.reply, source=address, source_port=self.reply.source_port if port is None else port)
        return replace(self, reply=reply, destination_decided=True)

    def from_(self, address: Address) -> Connection:
        """With its source translated."""
        return replace(self, reply=replace(self.reply, destination=address), source_decided=True)


def known(connections: tuple[Connection, ...], packet: Packet) -> tuple[Connection, Direction] | None:
    """The connection a packet belongs to and its direction; the latest one first."""
    ends = Ends.of(packet)
    for connection in reversed(connections):
        if connection.original == ends:
            return connection, "original"
        if connection.reply == ends:
            return connection, "reply"
    return None


def translated(packet: Packet, connection: Connection, direction: Direction, *, destination: bool) -> Packet:
    """The packet with the destination, or else the source, that its connection gives it [kernel] nf_nat_packet."""
    if direction == "original":
        came, goes = connection.original, connection.reply.turned
    else:
        came, goes = connection.reply, connection.original.turned
    if destination and (came.destination, came.port) != (goes.destination, goes.port):
        return replace(packet, destination=goes.destination, port=goes.port)
    if not destination and (came.source, came.source_port) != (goes.source, goes.source_port):
        return replace(packet, source=goes.source, source_port=goes.source_port)
    return packet


HOPS = 32
Tracked = Mapping[str, tuple[Connection, ...]]
"""Host → the connections it knows; of hosts without packet rules nothing depends on them."""

NOTHING: Tracked = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Tracking:
    """The packet's connection on the host it is at: which of the host's, and the packet's direction in it."""

    index: int
    direction: Direction


@dataclass(frozen=True, slots=True)
class Ended:
    """Where a packet's walk ended."""

    path: Path
    trip: Trip


@dataclass(frozen=True, slots=True)
class Sealed:
    """What an encrypted packet holds: a packet, and what that carries where it is a tunnel's."""

    packet: Packet
    inner: Packet | None
    tunnel: str


@dataclass(frozen=True, slots=True)
class Trip:
    """`inner`: what the packet carries, while it is a tunnel's; `tunnel`: that tunnel's protocol.

    `left`: how many more hops it may take. `been`: where it has been, and as what. `dropped`: why a packet rule ended
    it. `iif`: the interface it came in by. `prefer`: the device that a host's own packet would rather leave by. `size`:
    its bytes, without a tunnel's, which must not be fragmented; 0: it fits everywhere.
    """

    packet: Packet
    tracked: Tracked
    inner: Packet | None = None
    tunnel: str = ""
    sealed: Sealed | None = None
    tracking: Tracking | None = None
    hops: tuple[Hop, ...] = ()
    left: int = HOPS
    been: frozenset[object] = frozenset()
    dropped: str = ""
    iif: str | None = None
    prefer: str | None = None
    heard: Mapping[tuple[str, Segment, Address], str] = field(default_factory=dict)
    """Host, segment and address → the interface that asked there with that address: who answered knows it."""
    size: int = 0

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

    def noting(self, where: str, rule: str | Why, /, **inputs: object) -> Trip:
        """With one more decision at a host: by its id in the table of reasons, or with a reason of its own."""
        return self._with(where, Decided(reason(rule) if isinstance(rule, str) else rule, tuple(inputs.items())))

    def crossing(self, taps: Iterable[str], into: str, peer: str, devices: tuple[str, str] = ("", "")) -> Trip:
        """On a cable: out of one host's NIC, or out of several at once, and into another's. `devices`: the VLANs on
        both, if they are a VLAN's.
        """
        out, header = self, self.header
        for tap in taps:
            out = out._with(tap.partition(".")[0], Left(tap, header, devices[0]))
        return replace(out, hops=(*out.hops, Hop(peer, (Entered(into, header, devices[1]),))))

    def plugged_into(self, pod: str) -> Trip:
        """In the pod."""
        return replace(self, hops=(*self.hops, Hop(pod, (Entered(pod, self.header),))))

    def _with(self, host: str, step: Step) -> Trip:
        *before, last = self.hops or (Hop(host),)
        if last.host != host:
            return replace(self, hops=(*self.hops, Hop(host, (step,))))
        return replace(self, hops=(*before, Hop(host, (*last.steps, step))))

    def ended(self, where: str | None, why: str = "") -> Ended:
        return Ended(Path(self.hops, where, str(self.seen.source), why), self)
