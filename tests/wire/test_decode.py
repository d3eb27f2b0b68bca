"""The decoder: every tunnel, every answer, a real kernel's own packets, and arbitrary bytes."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from niclab.wire import identity as ids
from niclab.wire.decode import Decoded, Decoder
from niclab.wire.identity import Identity, echo_payload
from niclab.wire.probe import Protocol, build, canary
from niclab.wire.tap import FILTER

from tests.support.busy import loops

LAB, FLOW, NUMBER = 0xABCDEF01, 7, 2
IDENTITY = Identity(LAB, FLOW, NUMBER)
DECODER = Decoder(LAB)
PROTOCOLS: tuple[Protocol, ...] = ("icmp", "udp", "tcp")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
ENDS = {4: ("10.244.1.7", "10.0.1.20"), 6: ("fd00:244:1::7", "fd00:1::20")}
NODES = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}


@cache
def probe(protocol: Protocol, version: int = 4, lab: int = LAB, size: int | None = None) -> bytes:
    source, destination = map(ip_address, ENDS[version])
    port = None if protocol == "icmp" else 8080
    options: dict[str, Any] = {"port": port, "size": size, "vary_ports": False}
    made = build(
        lab=lab, flow=FLOW, count=NUMBER + 1, protocol=protocol, source=source, destination=destination, **options
    )
    return made[NUMBER].packet


def ethernet(packet: bytes, vlan: tuple[int, ...] = ()) -> bytes:
    """`packet` from the first of `MACS` to the second, with the outermost VLAN id first."""
    tags = b"".join(struct.pack(">HH", 0x88A8 if tag is not vlan[-1] else 0x8100, tag | 0x6000) for tag in vlan)
    ethertype = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return b"".join(bytes.fromhex(mac.replace(":", "")) for mac in reversed(MACS)) + tags + ethertype + packet


def ip(version: int, ends: tuple[str, str], **fields: Any) -> Any:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    if version == 4:
        return IP(src=ends[0], dst=ends[1], **fields)
    return IPv6(src=ends[0], dst=ends[1], **({"nh": fields["proto"]} if "proto" in fields else {}))


def tunnel(name: str, packet: bytes, *, outer: int = 4, **options: Any) -> bytes:
    """`packet` in a tunnel from the first node to the second, as an IP packet."""
    from scapy.contrib.geneve import GENEVE
    from scapy.layers.inet import UDP
    from scapy.layers.l2 import GRE
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw

    inner = Raw(ethernet(packet))
    if name == "vxlan":
        layer = ip(outer, NODES[outer]) / UDP(sport=50000, dport=options.get("port", 8472)) / VXLAN(vni=2) / inner
    elif name == "geneve":
        opaque = Raw(options.get("tlv", b"")) / inner
        header = GENEVE(vni=2, proto=0x6558, optionlen=len(options.get("tlv", b"")) // 4)
        layer = ip(outer, NODES[outer]) / UDP(sport=50000, dport=6081) / header / opaque
    elif name == "gre":
        teb = options.pop("teb", False)
        ethertype = 0x6558 if teb else 0x0800 if packet[0] >> 4 == 4 else 0x86DD
        layer = ip(outer, NODES[outer], proto=47) / GRE(proto=ethertype, **options) / (inner if teb else Raw(packet))
    else:
        layer = ip(outer, NODES[outer], proto=4 if packet[0] >> 4 == 4 else 41) / Raw(packet)
    return bytes(layer)


def seen(packet: bytes) -> Decoded:
    found = DECODER.decode(ethernet(packet))
    assert found is not None
    return found


# --- probes, bare and in tunnels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bare_probe(protocol: Protocol, version: int) -> None:
    frame = ethernet(probe(protocol, version)) + bytes(6)  # a short frame arrives padded
    assert DECODER.decode(frame) == Decoded(
        kind="request",
        identity=IDENTITY,
        source=ENDS[version][0],
        destination=ENDS[version][1],
        outer=(),
        encapsulation=(),
        destination_mac=MACS[1],
        note="syn" if protocol == "tcp" else "",
    )


TUNNELS: list[tuple[str, str, int, dict[str, Any]]] = [
    ("vxlan", "vxlan", 4, {}),
    ("vxlan", "vxlan", 4, {"port": 4789}),
    ("vxlan", "vxlan", 6, {}),
    ("geneve", "geneve", 4, {}),
    ("geneve", "geneve", 6, {"tlv": bytes.fromhex("0101000100000000")}),
    ("gre", "gre", 4, {}),
    ("gre", "gre", 6, {}),
    ("gre", "gre", 4, {"key_present": 1, "key": 9}),
    ("gre", "gre", 4, {"key_present": 1, "key": 9, "seqnum_present": 1, "chksum_present": 1}),
    ("gre", "gre", 4, {"teb": True, "key_present": 1, "key": 9}),
]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("made", "name", "outer", "options"), TUNNELS)
def test_a_probe_in_a_tunnel(
    *, made: str, name: str, outer: int, options: dict[str, Any], protocol: Protocol, version: int
) -> None:
    found = seen(tunnel(made, probe(protocol, version), outer=outer, **options))
    assert (found.kind, found.identity) == ("request", IDENTITY)
    assert (found.source, found.destination) == ENDS[version]
    assert found.outer == (NODES[outer],)
    assert found.encapsulation == (name,)
    assert found.destination_mac == MACS[1]


@pytest.mark.parametrize(("name", "outer", "inner"), [("ipip", 4, 4), ("6in4", 4, 6), ("4in6", 6, 4), ("ip6ip6", 6, 6)])
def test_ip_in_ip(name: str, outer: int, inner: int) -> None:
    found = seen(tunnel("ip", probe("udp", inner), outer=outer))
    assert found.encapsulation == (name,)
    assert found.outer == (NODES[outer],)
    assert found.source == ENDS[inner][0]


def test_tunnels_in_tunnels_down_to_a_limit() -> None:
    packet = tunnel("vxlan", tunnel("gre", tunnel("ip", probe("icmp")), outer=6), outer=4)
    assert seen(packet).encapsulation == ("vxlan", "gre", "ipip")
    assert seen(packet).outer == (NODES[4], NODES[6], NODES[4])
    packet = tunnel("ip", packet)
    assert seen(packet).encapsulation == ("ipip", "vxlan", "gre", "ipip")
    assert DECODER.decode(ethernet(tunnel("ip", packet))) is None


@pytest.mark.parametrize("vlan", [(100,), (200, 4094)])
def test_vlan_tags_are_skipped(vlan: tuple[int, ...]) -> None:
    found = DECODER.decode(ethernet(tunnel("vxlan", probe("icmp")), vlan))
    assert found is not None
    assert found.identity == IDENTITY


def test_a_probe_to_a_tunnels_port_is_a_probe() -> None:
    v4 = [IPv4Address(end) for end in ENDS[4]]
    (sent,) = build(lab=LAB, flow=1, count=1, protocol="udp", source=v4[0], destination=v4[1], port=8472)
    assert seen(sent.packet).encapsulation == ()


def test_the_ports_of_tunnels_are_the_decoders() -> None:
    frame = ethernet(tunnel("vxlan", probe("icmp"), port=9999))
    assert DECODER.decode(frame) is None
    assert replace(DECODER, vxlan_ports=(9999,)).decode(frame) is not None


# --- IP headers -----------------------------------------------------------------------------------------------------


def test_ipv4_options_are_skipped() -> None:
    packet = bytearray(probe("udp"))
    packet[0] = 0x46
    packet[2:4] = (len(packet) + 4).to_bytes(2, "big")
    assert seen(bytes(packet[:20]) + b"\x94\x04\0\0" + bytes(packet[20:])).identity == IDENTITY


def test_only_the_first_fragment_is_counted() -> None:
    first, second = bytearray(probe("udp")), bytearray(probe("udp"))
    first[6:8] = b"\x20\x00"
    second[6:8] = b"\x20\x01"
    assert seen(bytes(first)).identity == IDENTITY
    assert DECODER.decode(ethernet(bytes(second))) is None


@pytest.mark.parametrize("names", [("hop",), ("dst",), ("hop", "dst", "route"), ("fragment",), ("hop", "fragment")])
def test_ipv6_extension_headers_are_skipped(names: tuple[str, ...]) -> None:
    from scapy.layers import inet6
    from scapy.layers.inet import UDP
    from scapy.packet import Raw

    headers = {
        "hop": inet6.IPv6ExtHdrHopByHop(),
        "dst": inet6.IPv6ExtHdrDestOpt(options=[inet6.PadN(optdata=bytes(10))]),
        "route": inet6.IPv6ExtHdrRouting(addresses=["fd00::99"]),
        "fragment": inet6.IPv6ExtHdrFragment(m=1),
    }
    packet = ip(6, ENDS[6])
    for name in names:
        packet /= headers[name]
    assert seen(bytes(packet / UDP(dport=8080) / Raw(ids.encode(IDENTITY)))).identity == IDENTITY


def test_a_later_ipv6_fragment_is_none() -> None:
    from scapy.layers.inet import UDP
    from scapy.layers.inet6 import IPv6ExtHdrFragment
    from scapy.packet import Raw

    packet = ip(6, ENDS[6]) / IPv6ExtHdrFragment(offset=1, nh=17) / Raw(bytes(UDP() / Raw(ids.encode(IDENTITY))))
    assert DECODER.decode(ethernet(bytes(packet))) is None


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_reply(version: int) -> None:
    packet = bytearray(probe("icmp", version))
    packet[20 if version == 4 else 40] = 0 if version == 4 else 129
    assert seen(bytes(packet)).kind == "reply"


def test_a_udp_responders_answer() -> None:
    packet = probe("udp")
    answer = echo_payload(packet[28:])
    assert answer is not None
    assert seen(packet[:28] + answer).kind == "reply"


def segment(flags: str, *, seq: int = 0, ack: int = 0, payload: bytes = b"") -> bytes:
    from scapy.layers.inet import TCP
    from scapy.packet import Raw

    return bytes(ip(4, ENDS[4]) / TCP(sport=8080, dport=40000, flags=flags, seq=seq, ack=ack) / Raw(payload))


ISN = ids.isn(IDENTITY)


@pytest.mark.parametrize(
    ("flags", "seq", "ack", "note"),
    [
        ("SA", 12345, ISN + 1, "syn-ack"),
        ("SA", 12345, ISN + 1 + ids.LENGTH, "syn-ack"),
        ("RA", 0, ISN + 1 + ids.LENGTH, "rst"),
        ("RA", 0, ISN + 1, "rst"),
    ],
)
def test_a_tcp_answer_is_traced_by_what_it_acknowledges(flags: str, seq: int, ack: int, note: str) -> None:
    found = seen(segment(flags, seq=seq, ack=ack))
    assert (found.kind, found.identity, found.note) == ("reply", IDENTITY, note)


def test_the_reset_of_a_padded_syn_needs_its_length() -> None:
    size = 1400
    frame = ethernet(segment("RA", ack=ISN + 1 + size - 40))
    assert DECODER.decode(frame) is None
    found = replace(DECODER, tcp_payloads=(ids.LENGTH, size - 40)).decode(frame)
    assert found is not None
    assert found.identity == IDENTITY


@pytest.mark.parametrize(
    ("flags", "seq", "ack"),
    [
        ("R", ISN + 1, 0),  # the client's kernel resets what it never opened
        ("A", ISN + 1, 77),
        ("PA", 1, ISN + 1),
        ("FA", 1, ISN + 1),
        ("RA", 5, ISN + 1),  # aborts a connection that stood
        ("SA", 5, ISN + 2),
        ("RA", 0, ISN + 4),
        ("S", ISN, 0),  # no data: a sequence number alone is no proof
    ],
)
def test_other_segments_are_not_ours(flags: str, seq: int, ack: int) -> None:
    assert DECODER.decode(ethernet(segment(flags, seq=seq, ack=ack))) is None


def test_a_sequence_number_that_wraps_round() -> None:
    identity = Identity(LAB, 4095, 255)
    found = seen(segment("RA", ack=(ids.isn(identity) + 1 + ids.LENGTH) & 0xFFFFFFFF))
    assert found.identity == identity


# --- ICMP errors ----------------------------------------------------------------------------------------------------

V4_ERRORS = [
    (3, 0, 0, "net unreachable"),
    (3, 1, 0, "host unreachable"),
    (3, 3, 0, "port unreachable"),
    (3, 4, 1450, "frag needed, mtu 1450"),
    (3, 13, 0, "administratively prohibited"),
    (3, 99, 0, "unreachable, code 99"),
    (11, 0, 0, "time exceeded"),
    (11, 1, 0, "reassembly time exceeded"),
    (12, 0, 0, "parameter problem, code 0"),
]
V6_ERRORS = [
    (1, 0, 0, "no route"),
    (1, 1, 0, "administratively prohibited"),
    (1, 3, 0, "host unreachable"),
    (1, 4, 0, "port unreachable"),
    (2, 0, 1280, "packet too big, mtu 1280"),
    (3, 0, 0, "time exceeded"),
    (4, 1, 0, "parameter problem, code 1"),
]


def error(version: int, message: int, code: int, word: int, quote: bytes) -> bytes:
    """An ICMP error from a router to the probe's sender."""
    from scapy.packet import Raw

    body = struct.pack(">BBHI", message, code, 0, word) + quote
    ends = (NODES[version][1], ENDS[version][0])
    return bytes(ip(version, ends, proto=1 if version == 4 else 58) / Raw(body))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("version", "message", "code", "word", "note"), [(4, *row) for row in V4_ERRORS] + [(6, *row) for row in V6_ERRORS]
)
def test_an_error_about_a_probe(
    *, version: int, message: int, code: int, word: int, note: str, protocol: Protocol
) -> None:
    found = seen(error(version, message, code, word, probe(protocol, version)))
    assert (found.kind, found.identity, found.note) == ("error", IDENTITY, note)
    assert (found.source, found.destination) == (NODES[version][1], ENDS[version][0])
    assert found.about == "request"


def test_an_error_about_a_tunnels_packet_is_an_error_about_the_probe_in_it() -> None:
    found = seen(error(4, 3, 4, 1450, tunnel("vxlan", probe("icmp", size=1400))))
    assert found.note == "frag needed, mtu 1450"
    assert (found.about, found.encapsulation) == ("request", ())


def test_an_error_inside_a_tunnel() -> None:
    found = seen(tunnel("geneve", error(4, 3, 3, 0, probe("udp"))))
    assert (found.kind, found.encapsulation) == ("error", ("geneve",))


def test_an_error_about_a_reply_says_so() -> None:
    """The sender's kernel knows no socket behind a raw UDP probe and refuses the answer."""
    packet = probe("udp")
    answer = echo_payload(packet[28:])
    assert answer is not None
    found = seen(error(4, 3, 3, 0, packet[:28] + answer))
    assert (found.kind, found.about) == ("error", "reply")


def test_a_quote_of_eight_bytes_has_just_a_syns_sequence_number() -> None:
    for length in (28, 32, 40, 45):
        found = seen(error(4, 3, 1, 0, probe("tcp")[:length]))
        assert (found.identity, found.note) == (IDENTITY, "host unreachable")
    for protocol in ("icmp", "udp"):
        assert DECODER.decode(ethernet(error(4, 3, 1, 0, probe(protocol)[:28]))) is None


def test_a_redirect_is_no_error_and_an_error_quotes_no_error() -> None:
    assert DECODER.decode(ethernet(error(4, 5, 1, 0, probe("icmp")))) is None
    assert DECODER.decode(ethernet(error(4, 3, 1, 0, error(4, 3, 1, 0, probe("icmp"))))) is None


# --- canaries, strangers, arbitrary bytes ---------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_canary(direction: Any) -> None:
    frame = canary(lab=LAB, tap=3, number=9, direction=direction, source_mac=MACS[0])
    found = DECODER.decode(frame)
    assert found is not None
    assert (found.kind, found.identity, found.note) == ("canary", Identity(LAB, 3, 9), direction)
    assert Decoder(LAB + 1).decode(frame) is None


def test_a_canary_is_no_probe_and_a_probe_no_canary() -> None:
    head = ethernet(probe("udp"))[:12] + b"\x88\xb5"
    assert DECODER.decode(head + ids.encode(IDENTITY)) is None
    assert DECODER.decode(ethernet(probe("udp")[:28] + ids.encode(IDENTITY, ids.CANARY))) is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_another_labs_probe_is_none(protocol: Protocol) -> None:
    other = Decoder(LAB ^ 1)
    packet = probe(protocol)
    frames = [packet, tunnel("vxlan", packet), error(4, 3, 3, 0, packet), error(4, 3, 3, 0, packet[:28])]
    assert [other.decode(ethernet(frame)) for frame in frames] == [None] * 4


def test_another_labs_answers_are_none() -> None:
    for flags, ack in (("SA", ISN + 1), ("RA", ISN + 1 + ids.LENGTH)):
        assert Decoder(LAB ^ 1).decode(ethernet(segment(flags, ack=ack))) is None


@pytest.mark.parametrize("ethertype", ["0806", "88cc", "8847", "0000"])
def test_other_ethertypes_are_none(ethertype: str) -> None:
    assert DECODER.decode(bytes(12) + bytes.fromhex(ethertype) + probe("icmp")) is None


@cache
def corpus() -> tuple[bytes, ...]:
    """One frame of every kind."""
    frames = [ethernet(probe(protocol, version)) for protocol in PROTOCOLS for version in (4, 6)]
    frames += [ethernet(tunnel(made, probe("tcp"), outer=outer, **options)) for made, _, outer, options in TUNNELS]
    frames += [ethernet(tunnel("ip", probe("icmp", inner), outer=outer)) for outer in (4, 6) for inner in (4, 6)]
    frames += [ethernet(error(4, 3, 4, 1450, tunnel("vxlan", probe("udp"))))]
    frames += [ethernet(error(6, 2, 0, 1280, tunnel("geneve", probe("tcp", 6), outer=6)))]
    frames += [ethernet(probe("udp"), (1, 2)), ethernet(segment("SA", ack=ISN + 1))]
    return (*frames, canary(lab=LAB, tap=1, number=1, direction="in", source_mac=MACS[0]))


def test_every_frame_of_the_corpus_decodes_whole_and_none_breaks_when_cut() -> None:
    for frame in corpus():
        assert DECODER.decode(frame) is not None
        for length in range(len(frame)):
            DECODER.decode(frame[:length])


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_none(data: bytes) -> None:
    assert DECODER.decode(data) is None
    for start in ("0800", "86dd", "8100", "88b5"):
        assert DECODER.decode(bytes(12) + bytes.fromhex(start) + data) is None


@settings(max_examples=500)
@given(st.data())
def test_damaged_frames_never_raise_and_never_name_another_probe(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(corpus())))
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    found = DECODER.decode(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    if found is not None and "syn" not in found.note and found.note != "rst" and found.kind != "error":
        # A sequence number has 12 bits of proof, a payload 70.
        assert found.identity in (IDENTITY, Identity(LAB, 1, 1))


def test_a_frame_is_decoded_in_microseconds() -> None:
    frame = ethernet(tunnel("vxlan", probe("icmp")))
    assert loops(lambda: DECODER.decode(frame)) < 5  # 1.9: 11 µs on a quiet machine


# --- the kernel filter ----------------------------------------------------------------------------------------------


def accepts(frame: bytes) -> bool:
    """Run `FILTER` over `frame`: the few instructions it uses, as in Linux's net/core/filter.c."""
    pc, a, x = 0, 0, 0
    while True:
        code, jt, jf, k = FILTER[pc]
        pc += 1
        if code in (0x28, 0x30, 0x50):
            at, size = k + (x if code == 0x50 else 0), 2 if code == 0x28 else 1
            if at + size > len(frame):
                return False
            a = int.from_bytes(frame[at : at + size], "big")
        elif code == 0x64:
            a = a << k & 0xFFFFFFFF
        elif code == 0x07:
            x = a
        elif code == 0x06:
            return k > 0
        else:
            pc += jt if {0x15: a == k, 0x25: a > k, 0x35: a >= k}[code] else jf


def icmpv6(message: int, *, hop_by_hop: int | None = None) -> bytes:
    """An ICMPv6 message, behind a hop-by-hop header of so many extra 8 bytes."""
    body, protocol = bytes([message]) + bytes(23), 58
    if hop_by_hop is not None:
        body, protocol = bytes([58, hop_by_hop]) + bytes(6 + 8 * hop_by_hop) + body, 0
    addresses = bytes(15) + b"\x01" + bytes(15) + b"\x01"
    return bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(body), protocol, 255) + addresses + body


NOISE = {130, 131, 132, 133, 134, 135, 136, 137, 143}


@pytest.mark.parametrize("hop_by_hop", [None, 0, 1, 3])
def test_the_filter_drops_neighbour_discovery_and_listener_reports_alone(hop_by_hop: int | None) -> None:
    assert {m for m in range(256) if not accepts(icmpv6(m, hop_by_hop=hop_by_hop))} >= NOISE
    kept = {m for m in range(256) if accepts(icmpv6(m, hop_by_hop=hop_by_hop))}
    assert kept == set(range(256)) - NOISE


def test_the_filter_keeps_what_the_decoder_reads() -> None:
    assert all(accepts(frame) for frame in corpus())


@pytest.mark.parametrize("ethertype", [0x0806, 0x88CC, 0x8847, 0x8809, 0x0000, 0x0026])
def test_the_filter_drops_other_ethertypes(ethertype: int) -> None:
    assert not accepts(bytes(12) + ethertype.to_bytes(2, "big") + bytes(50))


@given(st.binary(max_size=100))
def test_the_filter_ends_on_any_frame(data: bytes) -> None:
    accepts(data)
    accepts(bytes(12) + b"\x86\xdd" + data)


def test_the_filters_jumps_stay_inside() -> None:
    for at, (code, jt, jf, _) in enumerate(FILTER):
        if code & 7 == 5:
            assert all(0 <= jump < 256 and at + 1 + jump < len(FILTER) for jump in (jt, jf))


# --- a real kernel --------------------------------------------------------------------------------------------------


def tap_on_loopback() -> socket.socket:
    """An AF_PACKET socket on `lo` (brought up first) with the filter attached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, loopback, running
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in FILTER)
    buffer = ctypes.create_string_buffer(program, len(program))
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    tap.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", len(program) // 8, ctypes.addressof(buffer)))
    tap.bind(("lo", 3))  # ETH_P_ALL
    return tap


def received(tap: socket.socket) -> list[bytes]:
    """What has arrived (loopback delivers at once); the copies of what was sent are left out."""
    frames = []
    tap.settimeout(0.3)
    try:
        while True:
            frame, address = tap.recvfrom(65536)
            if address[2] != 4:  # PACKET_OUTGOING
                frames.append(frame)
    except TimeoutError:
        return frames


def child() -> None:
    """In a network namespace of its own: probes through the real stack, as JSON for the test."""
    with tap_on_loopback() as tap, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind(("lo", 0))
        tagged = ethernet(probe("udp"), (5,))
        kept = [*corpus()[:6], corpus()[-1], icmpv6(128), icmpv6(58, hop_by_hop=1), tagged]
        dropped = [icmpv6(135), icmpv6(143), icmpv6(143, hop_by_hop=0), icmpv6(131, hop_by_hop=2)]
        dropped += [bytes(12) + b"\x08\x06" + bytes(46), bytes(12) + b"\x88\xcc" + bytes(46)]
        for frame in (*kept, *dropped):
            wire.send(frame)
        frames = received(tap)
        # The kernel takes the tag out of a frame it receives.
        expected = [ethernet(probe("udp")) if frame == tagged else frame for frame in kept]
        filtered = {"missing": sum(f not in frames for f in expected), "extra": sum(f in frames for f in dropped)}

        answers = []
        for family, address, option in ((socket.AF_INET, "127.0.0.1", 3), (socket.AF_INET6, "::1", 36)):
            level = socket.IPPROTO_IP if family == socket.AF_INET else socket.IPPROTO_IPV6
            with (
                socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
                socket.socket(family, socket.SOCK_STREAM) as listener,
            ):
                raw.setsockopt(level, option, 1)  # IP_HDRINCL, IPV6_HDRINCL
                listener.bind((address, 8080))
                listener.listen()
                plan: list[tuple[Protocol, int | None]] = [("icmp", None), ("udp", 9), ("tcp", 9), ("tcp", 8080)]
                for flow, (protocol, port) in enumerate(plan):
                    end = ip_address(address)
                    options: dict[str, Any] = {"source": end, "destination": end, "port": port}
                    for sent in build(lab=LAB, flow=flow, count=2, protocol=protocol, **options):
                        raw.sendto(sent.packet, (address, 0))
                found = [DECODER.decode(frame) for frame in received(tap)]
                answers += [one._asdict() | {"identity": asdict(one.identity)} for one in found if one is not None]
    print(json.dumps({"filtered": filtered, "answers": answers}))


@pytest.fixture(scope="module")
def kernel() -> Any:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed (apt-get install util-linux)")
    arguments = [unshare, "-n" if os.geteuid() == 0 else "-rn"]
    if subprocess.run([*arguments, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel forbids a network namespace here (needs root or user namespaces)")
    command = [*arguments, sys.executable, str(Path(__file__).resolve())]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_real_socket_takes_the_filter(kernel: Any) -> None:
    assert kernel["filtered"] == {"missing": 0, "extra": 0}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_real_kernel_answers_every_probe(kernel: Any, address: str) -> None:
    found = sorted(
        (one["identity"]["flow"], one["identity"]["number"], one["kind"], one["note"])
        for one in kernel["answers"]
        if one["source"] == address
    )
    expected: list[tuple[int, int, str, str]] = []
    for number in (0, 1):
        expected += [(0, number, "request", ""), (0, number, "reply", "")]
        expected += [(1, number, "request", ""), (1, number, "error", "port unreachable")]
        expected += [(2, number, "request", "syn"), (2, number, "reply", "rst")]
        expected += [(3, number, "request", "syn"), (3, number, "reply", "syn-ack")]
    assert found == sorted(expected)


def test_ipv6_addresses_are_written_in_their_canonical_form() -> None:
    assert seen(probe("icmp", 6)).source == str(IPv6Address(ENDS[6][0]))


if __name__ == "__main__":
    child()
