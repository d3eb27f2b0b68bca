"""Where the headers of a frame end: Ethernet, IPv4, IPv6, VXLAN, Geneve and GRE, read with struct.

Every function takes the whole frame and an offset and returns the next offset, so that nothing is copied. None says
"not for us". A frame shorter than its own headers raises struct.error or IndexError, which the decoder turns
into None once, at its edge.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
TRANSPARENT_ETHERNET: Final = 0x6558

_VLANS: Final = (0x8100, 0x88A8, 0x9100)
_ETHERNET: Final = struct.Struct(">12xH")
_TAG: Final = struct.Struct(">HH")
_IPV4_HEADER: Final = struct.Struct(">BxHxxHBB10x")
_IPV6_HEADER: Final = struct.Struct(">B3xHBB32x")
_EXTENSION: Final = struct.Struct(">BBH")
_TUNNEL: Final = struct.Struct(">BBH")

# RFC 8200: hop-by-hop, routing, destination options; RFC 6275: mobility. All count 8 bytes beyond the first 8.
_IPV6_OPTIONS: Final = frozenset((0, 43, 60, 135))
_IPV6_FRAGMENT: Final = 44
_MAX_TAGS: Final = 4
_MAX_EXTENSIONS: Final = 8


class Network(NamedTuple):
    """An IP header and its extensions: where the addresses are, what follows, and where that starts and ends."""

    source_at: int
    address_length: int
    protocol: int
    ttl: int
    start: int
    end: int


def ethernet(frame: bytes, at: int) -> tuple[int, int, tuple[int, ...]]:
    """(EtherType, offset behind it, VLAN ids outermost first) of the Ethernet header at `at`."""
    (ethertype,) = _ETHERNET.unpack_from(frame, at)
    at += 14
    if ethertype not in _VLANS:
        return ethertype, at, ()
    tags: list[int] = []
    while ethertype in _VLANS and len(tags) < _MAX_TAGS:
        tag, ethertype = _TAG.unpack_from(frame, at)
        tags.append(tag & 0xFFF)
        at += 4
    return ethertype, at, tuple(tags)


def network(frame: bytes, at: int, end: int) -> Network | None:
    """The IP header at `at`, of either version; None for a fragment that is not the first (it has no ports)."""
    if frame[at] >> 4 == 4:
        first, total, fragment, ttl, protocol = _IPV4_HEADER.unpack_from(frame, at)
        start = at + (first & 0xF) * 4
        if start < at + 20 or fragment & 0x1FFF:
            return None
        # The total length cuts off Ethernet padding; a quote in an ICMP error is shorter than it claims.
        return Network(at + 12, 4, protocol, ttl, start, min(end, at + total) if total else end)
    if frame[at] >> 4 != 6:
        return None
    _, length, protocol, ttl = _IPV6_HEADER.unpack_from(frame, at)
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
            return Network(at + 8, 16, protocol, ttl, start, end)
    return None


def vxlan(frame: bytes, at: int) -> tuple[int, int] | None:
    """(TRANSPARENT_ETHERNET, offset) of what a VXLAN header (RFC 7348) carries."""
    return (TRANSPARENT_ETHERNET, at + 8) if frame[at] & 0x08 else None


def geneve(frame: bytes, at: int) -> tuple[int, int] | None:
    """(EtherType, offset) of what a Geneve header (RFC 8926) carries, behind its options."""
    first, _, ethertype = _TUNNEL.unpack_from(frame, at)
    return None if first >> 6 else (ethertype, at + 8 + (first & 0x3F) * 4)


def gre(frame: bytes, at: int) -> tuple[int, int] | None:
    """(EtherType, offset) of what a GRE header (RFC 2784, with RFC 2890's key and sequence number) carries."""
    flags, low, ethertype = _TUNNEL.unpack_from(frame, at)
    if flags & 0x40 or low & 0x07:  # source routing (RFC 1701) or another version (PPTP)
        return None
    return ethertype, at + 4 + 4 * (flags & 0xB0).bit_count()
