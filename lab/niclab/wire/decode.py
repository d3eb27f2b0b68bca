"""What a tap saw: from a frame's bytes to the probe in it, however deep the tunnels around it go.

Taps hand over thousands of frames and scapy needs about a millisecond for each, so this reads only the fields that
count, with struct. Any bytes may arrive: what is not a probe, a reply, an ICMP error about one, or a canary of
this very lab is None, never an exception.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from niclab.wire import headers
from niclab.wire import identity as ids
from niclab.wire.bpf import bpf_filter
from niclab.wire.probe import CANARY_DIRECTIONS, CANARY_ETHERTYPE

if TYPE_CHECKING:
    from niclab.wire.identity import Identity
    from niclab.wire.probe import Protocol

__all__ = ["Decoded", "Decoder", "Kind", "Quote", "bpf_filter"]

Kind = Literal["request", "reply", "error", "canary"]

_MAX_TUNNELS: Final = 4
_KINDS: Final[dict[int, Literal["request", "reply"]]] = {ids.REQUEST: "request", ids.REPLY: "reply"}
_DIRECTIONS: Final = {number: direction for direction, number in CANARY_DIRECTIONS.items()}

_UDP: Final = struct.Struct(">HH4x")
_ICMP: Final = struct.Struct(">BBxxHH")
_TCP_START: Final = struct.Struct(">HHI")
_TCP_REST: Final = struct.Struct(">IBB6x")
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_FLAGS: Final = 0x17  # FIN, SYN, RST, ACK

# RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1
_UNREACHABLE_4: Final = {
    0: "net unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    5: "source route failed",
    6: "net unknown",
    7: "host unknown",
    9: "net prohibited",
    10: "host prohibited",
    13: "administratively prohibited",
}
# RFC 4443 section 3.1
_UNREACHABLE_6: Final = {
    0: "no route",
    1: "administratively prohibited",
    2: "beyond scope of source",
    3: "host unreachable",
    4: "port unreachable",
    5: "source address failed policy",
    6: "route rejected",
}
_TIME: Final = {0: "time exceeded", 1: "reassembly time exceeded"}


@dataclass(frozen=True, slots=True)
class Quote:
    """The packet an ICMP error is about, as far as it was quoted: our request, or the reply to it."""

    kind: Literal["request", "reply"]
    source: str
    destination: str
    encapsulation: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame of this lab's.

    `source`, `destination`, `ttl` (or hop limit) are those of the innermost IP header, of an ICMP error its own: who
    reports. `protocol` and the ports (None for ICMP) are the probe's; for an error they are read from its `quote`.
    `outer` has the address pairs of the tunnels and `encapsulation` their names, outermost first. The MAC addresses
    and `vlan` ids are the frame's own, not those inside a tunnel; `length` is the frame's, in bytes. `note` has what
    else a reader wants: "syn", "syn-ack", "rst", "port unreachable", "frag needed, mtu 1450", a canary's direction.
    A canary has no addresses (""), no ports and `ttl` 0; its `identity.flow` is the tap's number.
    """

    kind: Kind
    identity: Identity
    protocol: Protocol | Literal[""]
    source: str
    destination: str
    source_port: int | None
    destination_port: int | None
    outer: tuple[tuple[str, str], ...]
    encapsulation: tuple[str, ...]
    source_mac: str
    destination_mac: str
    vlan: tuple[int, ...]
    ttl: int
    length: int
    note: str
    quote: Quote | None = None


class _Leaf(NamedTuple):
    """The transport header at the bottom, once it is known to be ours."""

    kind: Literal["request", "reply", "error"]
    identity: Identity
    protocol: Protocol
    source_port: int | None
    destination_port: int | None
    note: str
    quote: Quote | None = None


class _Walk(NamedTuple):
    """A leaf with the IP headers above it, outermost first, and the tunnels between them."""

    leaf: _Leaf
    layers: list[headers.Network]
    encapsulation: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes the frames of one lab. Tunnels are recognised by their UDP destination ports.

    `tcp_payloads` are the payload lengths, in bytes, of the SYNs this lab sends: `LENGTH` by default, more when TCP
    probes are built with a size (size - 40 for IPv4, size - 60 for IPv6). A reset's acknowledgement includes that
    length; accepting any would take every refused connection on the cable for a reply to some probe.
    """

    lab: int
    vxlan_ports: tuple[int, ...] = (8472, 4789)
    geneve_ports: tuple[int, ...] = (6081,)
    tcp_payloads: tuple[int, ...] = (ids.LENGTH,)

    def decode(self, frame: bytes) -> Decoded | None:
        """What `frame` (Ethernet, without FCS) carries of this lab; None when nothing. Never raises."""
        try:
            ethertype, at, vlan = headers.ethernet(frame, 0)
            if ethertype == CANARY_ETHERTYPE:
                return self._canary(frame, at, vlan)
            walk = self._walk(frame, ethertype, at, len(frame), quoted=False)
        except (struct.error, IndexError):  # shorter than its own headers claim
            return None
        if walk is None:
            return None
        leaf, layers, encapsulation = walk
        inner = layers[-1]
        source, destination = _addresses(frame, inner)
        return Decoded(
            kind=leaf.kind,
            identity=leaf.identity,
            protocol=leaf.protocol,
            source=source,
            destination=destination,
            source_port=leaf.source_port,
            destination_port=leaf.destination_port,
            outer=tuple([_addresses(frame, layer) for layer in layers[:-1]]),
            encapsulation=encapsulation,
            source_mac=frame[6:12].hex(":"),
            destination_mac=frame[:6].hex(":"),
            vlan=vlan,
            ttl=inner.ttl,
            length=len(frame),
            note=leaf.note,
            quote=leaf.quote,
        )

    def _canary(self, frame: bytes, at: int, vlan: tuple[int, ...]) -> Decoded | None:
        mark = ids.decode(frame, at)
        if mark is None or mark.kind != ids.CANARY or mark.identity.lab != self.lab:
            return None
        return Decoded(
            kind="canary",
            identity=mark.identity,
            protocol="",
            source="",
            destination="",
            source_port=None,
            destination_port=None,
            outer=(),
            encapsulation=(),
            source_mac=frame[6:12].hex(":"),
            destination_mac=frame[:6].hex(":"),
            vlan=vlan,
            ttl=0,
            length=len(frame),
            note=_DIRECTIONS.get(mark.detail, ""),
        )

    def _walk(self, frame: bytes, ethertype: int, at: int, end: int, *, quoted: bool) -> _Walk | None:
        """Down through the tunnels to a leaf of this lab, from the header at `at` that `ethertype` announces."""
        layers: list[headers.Network] = []
        encapsulation: tuple[str, ...] = ()
        while len(layers) <= _MAX_TUNNELS:
            if ethertype == headers.TRANSPARENT_ETHERNET:
                ethertype, at, _ = headers.ethernet(frame, at)
            if ethertype not in (headers.IPV4, headers.IPV6):
                return None
            layer = headers.network(frame, at, end)
            if layer is None or (layer.address_length == 4) != (ethertype == headers.IPV4):
                return None
            layers.append(layer)
            tunnel = self._tunnel(frame, layer)
            if tunnel is None:
                leaf = self._leaf(frame, layer, quoted=quoted)
                return None if leaf is None else _Walk(leaf, layers, encapsulation)
            name, ethertype, at = tunnel
            end = layer.end
            encapsulation += (name,)
        return None

    def _tunnel(self, frame: bytes, layer: headers.Network) -> tuple[str, int, int] | None:
        """(name, EtherType, offset) of what a tunnel carries; None when `layer` carries no tunnel."""
        protocol, at = layer.protocol, layer.start
        if protocol == 17:
            port = frame[at + 2] << 8 | frame[at + 3]
            if port in self.vxlan_ports:
                name, carried = "vxlan", headers.vxlan
            elif port in self.geneve_ports:
                name, carried = "geneve", headers.geneve
            else:
                return None
            # A probe may be sent to a tunnel's port, too.
            if frame[at + 8 : at + 12] == ids.MAGIC:
                return None
            inner = carried(frame, at + 8)
        elif protocol in (4, 41):
            over_ipv4 = layer.address_length == 4
            if protocol == 4:
                name, inner = ("ipip" if over_ipv4 else "4in6"), (headers.IPV4, at)
            else:
                name, inner = ("6in4" if over_ipv4 else "ip6ip6"), (headers.IPV6, at)
        elif protocol == 47:
            name, inner = "gre", headers.gre(frame, at)
        else:
            return None
        return None if inner is None else (name, *inner)

    def _leaf(self, frame: bytes, layer: headers.Network, *, quoted: bool) -> _Leaf | None:
        """The transport header of the innermost packet, when it is this lab's."""
        protocol, at, end = layer.protocol, layer.start, layer.end
        if protocol == 17:
            source_port, destination_port = _UDP.unpack_from(frame, at)
            mark = ids.decode(frame, at + 8, end)
            kind = None if mark is None else _KINDS.get(mark.kind)
            if mark is None or kind is None or mark.identity.lab != self.lab:
                return None
            return _Leaf(kind, mark.identity, "udp", source_port, destination_port, "")
        if protocol == 6:
            return self._tcp(frame, at, end, quoted=quoted)
        if protocol == (1 if layer.address_length == 4 else 58):
            return self._icmp(frame, at, end, ipv6=protocol == 58, quoted=quoted)
        return None

    def _tcp(self, frame: bytes, at: int, end: int, *, quoted: bool) -> _Leaf | None:
        source_port, destination_port, sequence = _TCP_START.unpack_from(frame, at)
        identity: Identity | None
        if quoted and end - at < 20:
            # RFC 792 promises only 8 bytes, which is just enough: the flags are cut off, the ISN is there.
            identity, kind, note = ids.from_isn(sequence, self.lab), "request", "syn"
        else:
            acknowledged, offset, flags = _TCP_REST.unpack_from(frame, at + 8)
            flags &= _FLAGS
            if flags == _SYN:
                mark = ids.decode(frame, at + (offset >> 4) * 4, end)
                if mark is not None:
                    ours = mark.kind == ids.REQUEST and mark.identity.lab == self.lab
                    identity = mark.identity if ours else None
                else:
                    # Without its data a SYN may be anyone's; but errors may quote less than all of ours.
                    identity = ids.from_isn(sequence, self.lab) if quoted else None
                kind, note = "request", "syn"
            elif flags == _SYN | _ACK:
                identity = ids.from_isn(acknowledged - 1, self.lab, self.tcp_payloads)
                kind, note = "reply", "syn-ack"
            elif flags == _RST | _ACK and sequence == 0:
                # The answer to a SYN has sequence number 0 (RFC 9293 section 3.10.7.1); other resets are not ours.
                identity = ids.from_isn(acknowledged - 1, self.lab, self.tcp_payloads)
                kind, note = "reply", "rst"
            else:
                return None
        if identity is None:
            return None
        return _Leaf("reply" if kind == "reply" else "request", identity, "tcp", source_port, destination_port, note)

    def _icmp(self, frame: bytes, at: int, end: int, *, ipv6: bool, quoted: bool) -> _Leaf | None:
        message, code, high, low = _ICMP.unpack_from(frame, at)
        request, reply = (128, 129) if ipv6 else (8, 0)
        if message in (request, reply):
            mark = ids.decode(frame, at + 8, end)
            if mark is None or mark.kind != ids.REQUEST or mark.identity.lab != self.lab:
                return None
            return _Leaf("request" if message == request else "reply", mark.identity, "icmp", None, None, "")
        note = _error_note(message, code, high << 16 | low, ipv6=ipv6)
        if note is None or quoted:  # no error is ever sent about an error
            return None
        walk = self._walk(frame, headers.IPV6 if ipv6 else headers.IPV4, at + 8, end, quoted=True)
        if walk is None:
            return None
        leaf, layers, encapsulation = walk
        if leaf.kind == "error":
            return None
        quote = Quote(leaf.kind, *_addresses(frame, layers[-1]), encapsulation)
        return _Leaf("error", leaf.identity, leaf.protocol, leaf.source_port, leaf.destination_port, note, quote)


def _addresses(frame: bytes, layer: headers.Network) -> tuple[str, str]:
    start, length = layer.source_at, layer.address_length
    family = AF_INET if length == 4 else AF_INET6
    middle = start + length
    return inet_ntop(family, frame[start:middle]), inet_ntop(family, frame[middle : middle + length])


def _error_note(message: int, code: int, word: int, *, ipv6: bool) -> str | None:
    """The words for an ICMP error whose second word is `word`; None for a message that is no error.

    A redirect (RFC 792 type 5) quotes a packet, too, but that packet has been forwarded.
    """
    if ipv6:  # RFC 4443
        if message == 1:
            return _UNREACHABLE_6.get(code, f"unreachable, code {code}")
        if message == 2:
            return f"packet too big, mtu {word}"
        time, parameter = 3, 4
    else:
        if message == 3:
            if code == 4:  # RFC 1191: the MTU is in the low half
                return f"frag needed, mtu {word & 0xFFFF}"
            return _UNREACHABLE_4.get(code, f"unreachable, code {code}")
        time, parameter = 11, 12
    if message == time:
        return _TIME.get(code, f"time exceeded, code {code}")
    return f"parameter problem, code {code}" if message == parameter else None
