"""The pieces that rtnetlink messages are packed from (include/uapi/linux/netlink.h, rtnetlink.h, if_link.h). Pure."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

NLM_F_REQUEST = 0x1
IFF_UP = 1
IFLA = {
    "ADDRESS": 1,
    "IFNAME": 3,
    "MTU": 4,
    "LINK": 5,
    "MASTER": 10,
    "LINKINFO": 18,
    "NET_NS_FD": 28,
    "TXQ": 31,
    "RXQ": 32,
}


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, payload) of each attribute."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def mac_bytes(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", len(body) + 16, kind, NLM_F_REQUEST | flags, 0, 0) + body


def link(index: int, flags: int, *attributes: bytes) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags and IFF_UP) + b"".join(attributes)


def new_link(index: int, name: str, mac: str, *attributes: bytes, up: bool = True) -> bytes:
    return link(
        index,
        IFF_UP if up else 0,
        text(IFLA["IFNAME"], name),
        attribute(IFLA["ADDRESS"], mac_bytes(mac)),
        # One queue: the kernel's default of one per CPU doubles what a veth costs and serves no one here.
        u32(IFLA["TXQ"], 1),
        u32(IFLA["RXQ"], 1),
        *attributes,
    )


def info(kind: str, data: bytes) -> bytes:
    return attribute(IFLA["LINKINFO"], text(1, kind) + attribute(2, data))
