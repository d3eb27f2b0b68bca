"""Connection tracking of one host, as far as it decides addresses. Pure.

[kernel] net/netfilter/nf_nat_core.c: a connection's translation is decided when its first packet passes prerouting or
output (destination) and postrouting or input (source); every packet after it, and every answer, is translated by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from niclab.net.packetrules import Direction, Packet, Protocol
from niclab.net.route import Address


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


Connections = tuple[Connection, ...]


def known(connections: Connections, packet: Packet) -> tuple[Connection, Direction] | None:
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
