"""A probe's identity, and the two places it is written: the payload, and a TCP SYN's initial sequence number.

The payload form survives NAT and encapsulation, which rewrite everything else::

    0     magic "nIcL"                          4 bytes
    4     kind: 1 request, 2 reply, 3 canary    1
    5     detail: a canary's direction, else 0  1
    6     lab                                   4
    10    flow                                  2
    12    number                                2
    14    CRC-32 of bytes 0-13                  4   (all big-endian)

Magic, kind and CRC together make it one chance in about 2**70 that other bytes decode.

The answer to a SYN has no payload, so a SYN also carries its identity as its initial sequence number (ISN)::

    flow (12 bits) | number (8 bits) | token of the lab (12 bits)

A SYN-ACK acknowledges ISN + 1; a RST acknowledges ISN + 1 + the SYN's payload length (RFC 9293 section 3.10.7.1).
With the token in the low bits that length, up to 4095, is what is left after subtracting it, so flow and number are
read back exactly either way; the price is at most 4096 flows of 256 TCP probes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final, NamedTuple

MAGIC: Final = b"nIcL"
LENGTH: Final = 18  # bytes of an encoded identity; even, so that checksums stay aligned behind it

REQUEST: Final = 1
REPLY: Final = 2
CANARY: Final = 3

# What a TCP probe's ISN has room for.
TCP_FLOWS: Final = 1 << 12
TCP_NUMBERS: Final = 1 << 8
TCP_PAYLOAD: Final = (1 << 12) - 1

_BODY: Final = struct.Struct(">4sBBIHH")
_WHOLE: Final = struct.Struct(">4sBBIHHI")


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Which probe: `lab` is 32 bits, `flow` and `number` (a flow's probes count from 0) are 16 bits each."""

    lab: int
    flow: int
    number: int


class Mark(NamedTuple):
    """What an encoded identity says."""

    identity: Identity
    kind: int
    detail: int


def encode(identity: Identity, kind: int = REQUEST, detail: int = 0) -> bytes:
    """The `LENGTH` bytes of the payload form. Raises struct.error when a number does not fit its field."""
    body = _BODY.pack(MAGIC, kind, detail, identity.lab, identity.flow, identity.number)
    return body + zlib.crc32(body).to_bytes(4, "big")


def decode(data: bytes, offset: int = 0, end: int | None = None) -> Mark | None:
    """The identity written at `offset`, with `end` as the end of the payload; None when there is none."""
    if (len(data) if end is None else end) - offset < LENGTH or data[offset : offset + 4] != MAGIC:
        return None
    _, kind, detail, lab, flow, number, crc = _WHOLE.unpack_from(data, offset)
    if not REQUEST <= kind <= CANARY or zlib.crc32(data[offset : offset + LENGTH - 4]) != crc:
        return None
    return Mark(Identity(lab, flow, number), kind, detail)


def echo_payload(payload: bytes) -> bytes | None:
    """What a UDP responder answers to `payload`: the same bytes marked as a reply.

    None when the payload is not a request of some lab; so two responders never answer each other for ever.
    """
    mark = decode(payload)
    if mark is None or mark.kind != REQUEST:
        return None
    return encode(mark.identity, REPLY, mark.detail) + payload[LENGTH:]


def token(lab: int) -> int:
    """12 bits of the lab's id, mixed so that neighbouring ids differ by more than a payload's length would."""
    return zlib.crc32(b"isn" + lab.to_bytes(4, "big")) >> 20


def isn(identity: Identity) -> int:
    """The initial sequence number of a TCP probe: it has room for `TCP_FLOWS` of `TCP_NUMBERS` each."""
    return identity.flow << 20 | identity.number << 12 | token(identity.lab)


def from_isn(sequence: int, lab: int, payloads: tuple[int, ...] = ()) -> Identity | None:
    """The identity behind a sequence number (acknowledgement - 1 for a reply); None when it is not this lab's.

    `payloads` are the lengths in bytes that may have been added to the ISN, beside none at all.
    One in 4096 sequence numbers of other traffic passes for each length allowed, so ask only of a segment
    that looks like an answer to a SYN.
    """
    rest = (sequence - token(lab)) & 0xFFFFFFFF
    added = rest & 0xFFF
    if added and added not in payloads:
        return None
    return Identity(lab, rest >> 20, rest >> 12 & 0xFF)
