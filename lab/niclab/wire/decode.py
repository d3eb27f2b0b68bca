"""What a tap saw: from a frame's bytes to the probe in it, however deep the tunnels around it go.

Taps hand over thousands of frames and scapy needs about a millisecond for each, so this reads only the fields that
count, with struct: every function takes the whole frame and an offset, so that nothing is copied. Any bytes may arrive:
what is not a probe, a reply, an ICMP error about one, or a canary of this very lab is None, never an exception. A frame
shorter than its own headers raises struct.error or IndexError, which `Decoder.decode` turns into None.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Final, Literal, NamedTuple

from niclab.wire import identity as ids
from niclab.wire.identity import Identity
from niclab.wire.probe import CANARY_DIRECTIONS, CANARY_ETHERTYPE

Kind = Literal["request", "reply", "error", "canary"]

_MAX_TUNNELS, _MAX_TAGS, _MAX_EXTENSIONS = 4, 4, 8
_KINDS: Final[dict[int, Literal["request", "reply"]]] = {ids.REQUEST: "request", ids.REPLY: "reply"}
_DIRECTIONS: Final = {number: direction for direction, number in CANARY_DIRECTIONS.items()}

_IPV4, _IPV6, _TRANSPARENT_ETHERNET = 0x0800, 0x86DD, 0x6558
_VLANS: Final = (0x8100, 0x88A8, 0x9100)
_ETHERTYPE: Final = struct.Struct(">H")
_IPV4_HEADER: Final = struct.Struct(">BxHxxHxB10x")
_IPV6_HEADER: Final = struct.Struct(">B3xHB33x")
_EXTENSION: Final = struct.Struct(">BBH")
_TUNNEL: Final = struct.Struct(">BBH")
_ICMP: Final = struct.Struct(">BBxxHH")
_TCP: Final = struct.Struct(">IBB6x")
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_FLAGS: Final = 0x17  # FIN, SYN, RST, ACK

# RFC 8200: hop-by-hop, routing, destination options; RFC 6275: mobility. All count 8 bytes beyond the first 8.
_IPV6_OPTIONS: Final = frozenset((0, 43, 60, 135))
_IPV6_FRAGMENT: Final = 44


class Decoded(NamedTuple):
    """A frame of this lab's.

    `source` and `destination` are those of the innermost IP header, of an ICMP error its own: who reports. `outer` has
    the address pairs of the tunnels and `encapsulation` their names, outermost first. `note` has what else a reader
    wants: "syn", "syn-ack", "rst", "port unreachable", "frag needed, mtu 1450", a canary's direction. `about`: what an
    ICMP error is about. A canary has no addresses (""); its `identity.flow` is the tap's number.
    """

    kind: Kind
    identity: Identity
    note: str
    source: str = ""
    destination: str = ""
    outer: tuple[tuple[str, str], ...] = ()
    encapsulation: tuple[str, ...] = ()
    destination_mac: str = ""
    about: Literal["request", "reply", ""] = ""


class _Network(NamedTuple):
    """An IP header and its extensions: where the addresses are, what follows, and where that starts and ends."""

    source_at: int
    address_length: int
    protocol: int
    start: int
    end: int

    def addresses(self, frame: bytes) -> tuple[str, str]:
        start, length = self.source_at, self.address_length
        family = AF_INET if length == 4 else AF_INET6
        middle = start + length
        return inet_ntop(family, frame[start:middle]), inet_ntop(family, frame[middle : middle + length])


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes the frames of one lab. Tunnels are recognised by their UDP destination ports; a port of both has VXLAN's
    frames in the place of Geneve's, as the built-in datapath makes them.

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
            ethertype, at = _ethernet(frame, 0)
            if ethertype == CANARY_ETHERTYPE:
                mark = ids.decode(frame, at)
                if mark is None or mark.kind != ids.CANARY or mark.identity.lab != self.lab:
                    return None
                return Decoded("canary", mark.identity, _DIRECTIONS.get(mark.detail, ""))
            decoded = self._walk(frame, ethertype, at, len(frame), quoted=False)
        except (struct.error, IndexError):
            return None
        return None if decoded is None else decoded._replace(destination_mac=frame[:6].hex(":"))

    def _walk(self, frame: bytes, ethertype: int, at: int, end: int, *, quoted: bool) -> Decoded | None:
        """Down through the tunnels to a packet of this lab, from the header at `at` that `ethertype` announces."""
        outer: list[_Network] = []
        encapsulation: tuple[str, ...] = ()
        while len(outer) <= _MAX_TUNNELS:
            if ethertype == _TRANSPARENT_ETHERNET:
                ethertype, at = _ethernet(frame, at)
            if ethertype not in (_IPV4, _IPV6):
                return None
            layer = _network(frame, at, end)
            if layer is None or (layer.address_length == 4) != (ethertype == _IPV4):
                return None
            tunnel = self._tunnel(frame, layer)
            if tunnel is None:
                decoded = self._transport(frame, layer, quoted=quoted)
                if decoded is None:
                    return None
                kind, identity, note, about = decoded
                pairs = tuple([above.addresses(frame) for above in outer])
                return Decoded(kind, identity, note, *layer.addresses(frame), pairs, encapsulation, about=about)
            outer.append(layer)
            name, ethertype, at = tunnel
            end = layer.end
            encapsulation += (name,)
        return None

    def _tunnel(self, frame: bytes, layer: _Network) -> tuple[str, int, int] | None:
        """(name, EtherType, offset) of what a tunnel carries; None when `layer` carries no tunnel."""
        protocol, at = layer.protocol, layer.start
        over_ipv4 = layer.address_length == 4
        if protocol == 17:
            port = frame[at + 2] << 8 | frame[at + 3]
            # A probe may be sent to a tunnel's port, too.
            if port in self.vxlan_ports and frame[at + 8 : at + 12] != ids.MAGIC:
                # RFC 7348
                name = "geneve" if port in self.geneve_ports else "vxlan"
                return (name, _TRANSPARENT_ETHERNET, at + 16) if frame[at + 8] & 0x08 else None
            if port in self.geneve_ports and frame[at + 8 : at + 12] != ids.MAGIC:
                # RFC 8926: what is carried is behind its options.
                first, _, ethertype = _TUNNEL.unpack_from(frame, at + 8)
                return None if first >> 6 else ("geneve", ethertype, at + 16 + (first & 0x3F) * 4)
        elif protocol == 4:
            return ("ipip" if over_ipv4 else "4in6"), _IPV4, at
        elif protocol == 41:
            return ("6in4" if over_ipv4 else "ip6ip6"), _IPV6, at
        elif protocol == 47:
            # RFC 2784, with RFC 2890's key and sequence number; no source routing (RFC 1701), no version 1 (PPTP)
            flags, low, ethertype = _TUNNEL.unpack_from(frame, at)
            if not (flags & 0x40 or low & 0x07):
                return "gre", ethertype, at + 4 + 4 * (flags & 0xB0).bit_count()
        return None

    def _transport(self, frame: bytes, layer: _Network, *, quoted: bool) -> _Transport | None:
        """The transport header of the innermost packet, when it is this lab's."""
        _, length, protocol, at, end = layer
        if protocol == 17:
            mark = ids.decode(frame, at + 8, end)
            kind = None if mark is None else _KINDS.get(mark.kind)
            if mark is None or kind is None or mark.identity.lab != self.lab:
                return None
            return kind, mark.identity, "", ""
        if protocol == 6:
            return self._tcp(frame, at, end, quoted=quoted)
        if protocol == (1 if length == 4 else 58):
            return self._icmp(frame, at, end, ipv6=protocol == 58, quoted=quoted)
        return None

    def _tcp(self, frame: bytes, at: int, end: int, *, quoted: bool) -> _Transport | None:
        sequence = int.from_bytes(frame[at + 4 : at + 8], "big")
        identity: Identity | None = None
        if quoted and end - at < 20:
            # RFC 792 promises only 8 bytes, which is just enough: the flags are cut off, the ISN is there.
            if end - at >= 8:
                identity = ids.from_isn(sequence, self.lab)
            return None if identity is None else ("request", identity, "syn", "")
        acknowledged, offset, flags = _TCP.unpack_from(frame, at + 8)
        flags &= _FLAGS
        if flags == _SYN:
            mark = ids.decode(frame, at + (offset >> 4) * 4, end)
            if mark is not None:
                ours = mark.kind == ids.REQUEST and mark.identity.lab == self.lab
                identity = mark.identity if ours else None
            elif quoted:
                # Without its data a SYN may be anyone's; but errors may quote less than all of ours.
                identity = ids.from_isn(sequence, self.lab)
            return None if identity is None else ("request", identity, "syn", "")
        # The answer to a SYN has sequence number 0 (RFC 9293 section 3.10.7.1); other resets are not ours.
        if flags == _SYN | _ACK or (flags == _RST | _ACK and sequence == 0):
            identity = ids.from_isn(acknowledged - 1, self.lab, self.tcp_payloads)
        return None if identity is None else ("reply", identity, "rst" if flags & _RST else "syn-ack", "")

    def _icmp(self, frame: bytes, at: int, end: int, *, ipv6: bool, quoted: bool) -> _Transport | None:
        message, code, high, low = _ICMP.unpack_from(frame, at)
        request, reply = (128, 129) if ipv6 else (8, 0)
        if message in (request, reply):
            mark = ids.decode(frame, at + 8, end)
            if mark is None or mark.kind != ids.REQUEST or mark.identity.lab != self.lab:
                return None
            return ("request" if message == request else "reply"), mark.identity, "", ""
        note = _error_note(message, code, high << 16 | low, ipv6=ipv6)
        if note is None or quoted:  # no error is ever sent about an error
            return None
        quote = self._walk(frame, _IPV6 if ipv6 else _IPV4, at + 8, end, quoted=True)
        if quote is None or quote.kind in ("error", "canary"):
            return None
        return "error", quote.identity, note, "reply" if quote.kind == "reply" else "request"


_Transport = tuple[Kind, Identity, str, Literal["request", "reply", ""]]
"""A transport header that is known to be ours: kind, identity, note, and what an error is about."""


def _ethernet(frame: bytes, at: int) -> tuple[int, int]:
    """(EtherType, offset behind it and any VLAN tags) of the Ethernet header at `at`."""
    at += 12
    (ethertype,) = _ETHERTYPE.unpack_from(frame, at)
    for _ in range(_MAX_TAGS):
        if ethertype not in _VLANS:
            break
        at += 4
        (ethertype,) = _ETHERTYPE.unpack_from(frame, at)
    return ethertype, at + 2


def vlan_of(frame: bytes) -> int | None:
    """The outermost VLAN tag of an Ethernet frame."""
    if len(frame) < 16 or _ETHERTYPE.unpack_from(frame, 12)[0] not in _VLANS:
        return None
    (tag,) = _ETHERTYPE.unpack_from(frame, 14)
    return int(tag) & 0xFFF


def _network(frame: bytes, at: int, end: int) -> _Network | None:
    """The IP header at `at`, of either version; None for a fragment that is not the first (it has no ports)."""
    if frame[at] >> 4 == 4:
        first, total, fragment, protocol = _IPV4_HEADER.unpack_from(frame, at)
        start = at + (first & 0xF) * 4
        if start < at + 20 or fragment & 0x1FFF:
            return None
        # The total length cuts off Ethernet padding; a quote in an ICMP error is shorter than it claims.
        return _Network(at + 12, 4, protocol, start, min(end, at + total) if total else end)
    if frame[at] >> 4 != 6:
        return None
    _, length, protocol = _IPV6_HEADER.unpack_from(frame, at)
    start = at + 40
    end = min(end, start + length) if length else end
    for _ in range(_MAX_EXTENSIONS):
        if protocol in _IPV6_OPTIONS:
            protocol, units, _ = _EXTENSION.unpack_from(frame, start)
            start += 8 + units * 8
        elif protocol == _IPV6_FRAGMENT:
            protocol, _, fragment = _EXTENSION.unpack_from(frame, start)
            if fragment & 0xFFF8:
                return None
            start += 8
        else:
            return _Network(at + 8, 16, protocol, start, end)
    return None


@cache
def _errors() -> Mapping[str, str]:
    """IP version, type and code of an ICMP error → its words."""
    text = resources.files("niclab.wire").joinpath("data", "icmp-errors.txt").read_text(encoding="utf-8")
    rows = (line.split(" | ") for line in text.splitlines() if not line.startswith("#"))
    return dict(rows)


def _error_note(message: int, code: int, word: int, *, ipv6: bool) -> str | None:
    """The words for an ICMP error whose second word is `word`; None for a message that is no error."""
    kind = f"{6 if ipv6 else 4} {message}"
    words = _errors().get(f"{kind} {code}") or _errors().get(f"{kind} *")
    return words and words.format(code=code, mtu=word if ipv6 else word & 0xFFFF)
