"""Probes: layer 3 packets, each with its own identity, and the canary frames that show a tap can see.

scapy describes the shape of a packet once; a flow's probes are that template with a few fields patched, because
scapy needs about 0.6 ms for a packet (1 ms for ICMP) and a run has hundreds. Packets are complete, checksums
included, for raw sockets with IP_HDRINCL or IPV6_HDRINCL.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from niclab.errors import LabError
from niclab.net.route import Address
from niclab.wire import identity as ids
from niclab.wire.identity import Identity

Protocol = Literal["icmp", "udp", "tcp"]

# IEEE 802 local experimental EtherType 1: no real protocol uses it.
CANARY_ETHERTYPE: Final = 0x88B5
# The nearest-bridge group of IEEE 802.1Q: a bridge delivers it locally and never forwards it, so that
# a canary is seen on the cable it was sent on and nowhere else.
CANARY_GROUP: Final = "01:80:c2:00:00:0e"
CANARY_DIRECTIONS: Final = {"out": 1, "in": 2}

_IPV4_HEADER: Final = 20
_IPV6_HEADER: Final = 40
_HEADER: Final = {"icmp": 8, "udp": 8, "tcp": 20}
_CHECKSUM_AT: Final = {"icmp": 2, "udp": 6, "tcp": 16}
_FIRST_PORT: Final = 32768
_PORTS: Final = 65536 - _FIRST_PORT


@dataclass(frozen=True, slots=True)
class Probe:
    """One packet to send: `packet` starts with its IPv4 or IPv6 header."""

    identity: Identity
    protocol: Protocol
    source: Address
    destination: Address
    packet: bytes

    @property
    def conversation(self) -> tuple[Address, bytes]:
        """What probes of one flow share that are one connection to whoever tracks them: the destination, and the
        source's port. ICMP has the flow's own id."""
        at = _IPV4_HEADER if self.source.version == 4 else _IPV6_HEADER
        return self.destination, b"" if self.protocol == "icmp" else self.packet[at : at + 2]


def checksum(data: bytes | bytearray, pseudo: int = 0) -> int:
    """The Internet checksum (RFC 1071) of `data` plus a pseudo-header's sum; the checksum field itself must be 0.

    Adding 16-bit words with end-around carry is arithmetic modulo 0xffff, and 2**16 is 1 there: the whole
    buffer is reduced as one number, which is many times faster than adding words in Python.
    """
    number = int.from_bytes(data, "big") << (8 * (len(data) & 1))
    total = (number + pseudo) % 0xFFFF
    # Headers are never all zero, so a remainder of 0 stands for a sum of 0xffff, whose complement is 0.
    return 0xFFFF - total if total else 0


def _refuse(what: str, why: str, fix: str) -> LabError:
    return LabError(f"cannot build the probes: {what}", why=why, fix=fix)


def _payload_length(protocol: Protocol, headers: int, size: int | None) -> int:
    """Bytes of payload for a packet of `size` bytes in all, `headers` of them headers."""
    length = ids.LENGTH if size is None else size - headers
    if length < ids.LENGTH:
        least = headers + ids.LENGTH
        raise _refuse(f"size {size}", f"headers and identity alone take {least} bytes", f"use {least} or more")
    if headers + length > 65535:
        raise _refuse(f"size {size}", "an IP packet has at most 65535 bytes", "use 65535 or less")
    if protocol == "tcp" and length > ids.TCP_PAYLOAD:
        most = headers + ids.TCP_PAYLOAD
        raise _refuse(
            f"size {size}",
            f"a reset could not be traced back to a SYN with more than {ids.TCP_PAYLOAD} bytes of data",
            f"use {most} or less, or UDP or ICMP",
        )
    return length


@functools.lru_cache(maxsize=64)
def _shape(protocol: Protocol, version: int, length: int) -> bytes:
    """A probe with `length` bytes of payload as scapy makes it, with addresses, ports, ids and checksums 0.

    Remembered: the shape is the same for every flow, and 100 flows would spend 100 ms in scapy otherwise.
    """
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
    from scapy.packet import Raw

    v4 = version == 4
    # IPv4's DF is set, as Linux itself does.
    network = IP(src="0.0.0.0", dst="0.0.0.0", id=0, flags="DF", chksum=0) if v4 else IPv6(src="::", dst="::")
    transports = {
        "icmp": ICMP(type=8, chksum=0) if v4 else ICMPv6EchoRequest(cksum=0),
        "udp": UDP(sport=0, dport=0, chksum=0),
        "tcp": TCP(sport=0, dport=0, flags="S", window=64240, chksum=0),
    }
    return bytes(network / transports[protocol] / Raw(bytes(length)))


def build(
    *,
    lab: int,
    flow: int,
    count: int,
    protocol: Protocol,
    source: Address,
    destination: Address,
    destinations: Sequence[Address] = (),
    port: int | None = None,
    size: int | None = None,
    vary_ports: bool | None = None,
) -> tuple[Probe, ...]:
    """The `count` probes of one flow, numbered from 0. Raises LabError for what no packet can express.

    ICMP probes are echo requests (id from the flow, sequence the number), TCP probes are SYNs with the identity
    as data and as initial sequence number. `size` is the whole IP packet in bytes; by default just its headers
    and the identity. The first source port is derived from the flow, in 32768-65535; with `vary_ports` each probe has
    the next one, so that per-flow ECMP may spread them. `vary_ports` defaults to True for TCP, where a second SYN on a
    half-open connection gets a challenge ACK (RFC 5961) instead of its own answer. With `destinations`, of the
    destination's family, each probe goes to the next of them, so that a hash of address pairs may spread them too.
    """
    numbers = ids.TCP_NUMBERS if protocol == "tcp" else 1 << 16
    if not 0 <= count <= numbers:
        raise _refuse(f"{count} of them", f"a {protocol} flow has room for {numbers}", "send them as several flows")
    version = source.version
    ip_header = _IPV4_HEADER if version == 4 else _IPV6_HEADER
    header = _HEADER[protocol]
    template = bytearray(_shape(protocol, version, _payload_length(protocol, ip_header + header, size)))
    # A zone index (fe80::1%eth0) is in the address object but not in `packed`, nor in a packet.
    template[ip_header - 2 * len(source.packed) : ip_header] = source.packed + destination.packed
    if port is None:
        # One-to-one for all flows, and for the first 32768 clear of 0 and of the low ids that NAT gives away.
        struct.pack_into(">H", template, ip_header + 4, flow ^ 0x8000)
    else:
        struct.pack_into(">H", template, ip_header + 2, port)

    number = {"icmp": 1 if version == 4 else 58, "udp": 17, "tcp": 6}[protocol]
    checksum_at = ip_header + _CHECKSUM_AT[protocol]
    vary = protocol == "tcp" if vary_ports is None else vary_ports

    probes = []
    for index in range(count):
        identity = Identity(lab, flow, index)
        packet = template.copy()
        target = destinations[index % len(destinations)] if destinations else destination
        packet[ip_header - len(target.packed) : ip_header] = target.packed
        pseudo = 0
        if number != 1:  # RFC 8200 section 8.1; IPv4's has narrower fields and the same sum
            pseudo = int.from_bytes(source.packed + target.packed, "big") + len(packet) - ip_header + number
        packet[ip_header + header : ip_header + header + ids.LENGTH] = ids.encode(identity)
        if protocol == "icmp":
            struct.pack_into(">H", packet, ip_header + 6, index)
        else:
            # Wrapping round to 32768: low ports belong to servers.
            port_of_source = _FIRST_PORT + (flow * 131 + (index if vary else 0)) % _PORTS
            struct.pack_into(">H", packet, ip_header, port_of_source)
            if protocol == "tcp":
                struct.pack_into(">I", packet, ip_header + 4, ids.isn(identity))
        segment_sum = checksum(packet[ip_header:], pseudo)
        if protocol == "udp" and segment_sum == 0:
            segment_sum = 0xFFFF  # 0 would say "no checksum" (RFC 768)
        struct.pack_into(">H", packet, checksum_at, segment_sum)
        if version == 4:
            # Never 0: the kernel would replace it, and the packet on the wire would differ from the one recorded.
            struct.pack_into(">H", packet, 4, (flow << 8 ^ index) % 0xFFFF + 1)
            struct.pack_into(">H", packet, 10, checksum(packet[:_IPV4_HEADER]))
        probes.append(Probe(identity, protocol, source, target, bytes(packet)))
    return tuple(probes)


def canary(*, lab: int, tap: int, number: int, direction: Literal["out", "in"], source_mac: str) -> bytes:
    """An Ethernet frame (60 bytes, the least there is) that shows a tap sees what passes it.

    Its identity has the tap's number (16 bits) as flow. `direction` is as the node sees it: "out" leaves the node's
    NIC, "in" is sent to it. Decoded as kind "canary" with the direction as note.
    """
    mark = ids.encode(Identity(lab, tap, number), ids.CANARY, CANARY_DIRECTIONS[direction])
    mac = bytes.fromhex(source_mac.replace(":", ""))
    group = bytes.fromhex(CANARY_GROUP.replace(":", ""))
    return (group + mac + CANARY_ETHERTYPE.to_bytes(2, "big") + mark).ljust(60, b"\0")
