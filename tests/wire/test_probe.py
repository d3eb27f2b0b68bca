"""Identities and probes: what is written can be read back, and nothing else can."""

from __future__ import annotations

import struct
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab.errors import LabError
from niclab.wire import identity as ids
from niclab.wire.identity import Identity, echo_payload
from niclab.wire.probe import Probe, Protocol, build, canary, checksum

from tests.support.busy import processor_time

V4 = (IPv4Address("10.0.0.1"), IPv4Address("10.0.1.20"))
V6 = (IPv6Address("fd00::1"), IPv6Address("fd00:1::20"))
PROTOCOLS: tuple[Protocol, ...] = ("icmp", "udp", "tcp")

u16 = st.integers(0, 0xFFFF)
identities = st.builds(Identity, st.integers(0, 0xFFFFFFFF), u16, u16)
tcp_identities = st.builds(Identity, st.integers(0, 0xFFFFFFFF), st.integers(0, 4095), st.integers(0, 255))


def probes(protocol: Protocol, ends: tuple[Any, Any] = V4, **options: Any) -> tuple[Probe, ...]:
    """Three probes of flow 5 of lab 0xabcdef01, to port 8080 where there are ports."""
    defaults: dict[str, Any] = {"lab": 0xABCDEF01, "flow": 5, "count": 3, "port": None if protocol == "icmp" else 8080}
    return build(protocol=protocol, source=ends[0], destination=ends[1], **(defaults | options))


def parse(probe: Probe) -> Any:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    return (IP if probe.source.version == 4 else IPv6)(probe.packet)


# --- identity -------------------------------------------------------------------------------------------------------


@given(identities, st.sampled_from([ids.REQUEST, ids.REPLY, ids.CANARY]), st.integers(0, 255), st.binary(max_size=30))
def test_an_identity_is_read_back_wherever_it_is(identity: Identity, kind: int, detail: int, around: bytes) -> None:
    data = around + ids.encode(identity, kind, detail) + around
    assert ids.decode(data, len(around)) == (identity, kind, detail)


@given(st.binary(max_size=100))
def test_random_bytes_are_no_identity(data: bytes) -> None:
    assert ids.decode(data) is None
    assert ids.decode(ids.MAGIC + data) is None


@given(identities, st.integers(0, ids.LENGTH * 8 - 1))
def test_one_flipped_bit_is_no_identity(identity: Identity, bit: int) -> None:
    data = bytearray(ids.encode(identity))
    data[bit // 8] ^= 1 << bit % 8
    assert ids.decode(bytes(data)) is None


def test_an_identity_cut_short_is_none() -> None:
    whole = ids.encode(Identity(1, 2, 3))
    assert all(ids.decode(whole[:length]) is None for length in range(ids.LENGTH))
    assert ids.decode(whole, end=ids.LENGTH - 1) is None
    assert ids.decode(whole, end=ids.LENGTH) is not None


def test_a_kind_that_does_not_exist_is_no_identity() -> None:
    assert ids.decode(ids.encode(Identity(1, 2, 3), kind=0)) is None
    assert ids.decode(ids.encode(Identity(1, 2, 3), kind=4)) is None


@given(identities, st.binary(max_size=50))
def test_a_responder_answers_a_request_with_its_own_bytes_as_a_reply(identity: Identity, padding: bytes) -> None:
    answer = echo_payload(ids.encode(identity) + padding)
    assert answer is not None
    assert ids.decode(answer) == (identity, ids.REPLY, 0)
    assert answer[ids.LENGTH :] == padding


@given(identities, st.binary(max_size=50))
def test_a_responder_never_answers_an_answer_or_a_stranger(identity: Identity, noise: bytes) -> None:
    assert echo_payload(ids.encode(identity, ids.REPLY)) is None
    assert echo_payload(ids.encode(identity, ids.CANARY)) is None
    assert echo_payload(noise) is None


# --- initial sequence numbers ---------------------------------------------------------------------------------------


@given(tcp_identities)
def test_a_syn_ack_leads_back_to_its_probe(identity: Identity) -> None:
    assert ids.from_isn(ids.isn(identity), identity.lab) == identity


@given(tcp_identities, st.integers(0, ids.TCP_PAYLOAD))
def test_a_reset_leads_back_to_its_probe_for_every_payload(identity: Identity, length: int) -> None:
    assert ids.from_isn(ids.isn(identity) + length & 0xFFFFFFFF, identity.lab, (length,)) == identity


def test_sequence_numbers_are_one_to_one() -> None:
    seen = {ids.isn(Identity(9, flow, number)) for flow in range(0, 4096, 16) for number in range(256)}
    assert len(seen) == 256 * 256


def test_another_labs_sequence_number_is_none_but_for_token_collisions() -> None:
    sequence = ids.isn(Identity(0, 7, 8))
    mistaken = sum(ids.from_isn(sequence, lab, (ids.LENGTH,)) is not None for lab in range(1, 40001))
    assert mistaken < 40  # two lengths of 4096 each: 20 expected


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_any_sequence_number_is_read_without_raising(sequence: int, lab: int) -> None:
    found = ids.from_isn(sequence, lab)
    assert found is None or ids.isn(found) == sequence


# --- probes ---------------------------------------------------------------------------------------------------------


def remade(probe: Probe) -> bytes:
    """The probe's packet with every checksum and length as scapy computes them."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

    again = parse(probe)
    for layer, fields in (
        (IP, ("chksum", "len", "ihl")),
        (IPv6, ("plen",)),
        (UDP, ("chksum", "len")),
        (TCP, ("chksum", "dataofs")),
        (ICMP, ("chksum",)),
        (ICMPv6EchoRequest, ("cksum",)),
    ):
        for field in fields:
            if again.haslayer(layer):
                again[layer].delfieldval(field)
    return bytes(again)


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("size", [None, 100, 101, 1400, 1401])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scapy_agrees_with_every_checksum_and_length(
    protocol: Protocol, size: int | None, ends: tuple[Any, Any]
) -> None:
    for probe in probes(protocol, ends, size=size):
        assert remade(probe) == probe.packet
        assert size is None or len(probe.packet) == size


@given(
    st.sampled_from(PROTOCOLS),
    st.one_of(
        st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
    ),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 4095),
    st.integers(78, 3000),
)
def test_a_receiver_accepts_every_checksum(
    protocol: Protocol, ends: tuple[Any, Any], lab: int, flow: int, size: int
) -> None:
    """RFC 1071: the sum over everything, the checksum included, is 0xffff, so its complement is 0."""
    for probe in probes(protocol, ends, lab=lab, flow=flow, size=size):
        packet = probe.packet
        start = 20 if probe.source.version == 4 else 40
        number = {"icmp": 1 if start == 20 else 58, "udp": 17, "tcp": 6}[protocol]
        pseudo = b""
        if number != 1:
            pseudo = probe.source.packed + probe.destination.packed + struct.pack(">II", len(packet) - start, number)
        assert checksum(pseudo + packet[start:]) == 0
        assert start == 40 or checksum(packet[:20]) == 0


@given(st.binary(min_size=1, max_size=99).filter(any))
def test_checksum_is_the_textbook_one(data: bytes) -> None:
    total = sum(word[0] << 8 | word[1] for word in zip(*[iter(data + b"\0" * (len(data) & 1))] * 2, strict=True))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(data) == total ^ 0xFFFF


def test_a_udp_checksum_of_zero_is_sent_as_ffff() -> None:
    """RFC 768: 0 says that there is none (and IPv6 drops such a packet)."""
    (probe,) = probes("udp", V6, count=1)
    missing = parse(probe)["UDP"].chksum  # what the sum lacks to 0xffff: put it into the port
    (probe,) = probes("udp", V6, count=1, port=(8080 + missing) % 0xFFFF)
    assert parse(probe)["UDP"].chksum == 0xFFFF


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_probe_has_its_own_identity(protocol: Protocol, ends: tuple[Any, Any]) -> None:
    for number, probe in enumerate(probes(protocol, ends)):
        assert probe.identity == Identity(0xABCDEF01, 5, number)
        assert (probe.protocol, probe.source, probe.destination) == (protocol, *ends)
        packet = parse(probe)
        assert (packet.src, packet.dst) == (str(ends[0]), str(ends[1]))
        assert (packet.ttl if ends is V4 else packet.hlim) == 64
        assert ids.decode(probe.packet, probe.packet.index(ids.MAGIC)) == (probe.identity, ids.REQUEST, 0)


def test_icmp_probes_are_echo_requests_of_one_id_in_sequence() -> None:
    packets = [parse(probe)["ICMP"] for probe in probes("icmp")]
    assert [(packet.type, packet.code, packet.id, packet.seq) for packet in packets] == [
        (8, 0, 0x8005, number) for number in range(3)
    ]
    assert parse(probes("icmp", V6)[2])["ICMPv6 Echo Request"].seq == 2


def test_tcp_probes_are_syns_numbered_by_identity_each_from_its_own_port() -> None:
    packets = [parse(probe)["TCP"] for probe in probes("tcp")]
    assert {str(packet.flags) for packet in packets} == {"S"}
    assert [packet.seq for packet in packets] == [ids.isn(Identity(0xABCDEF01, 5, number)) for number in range(3)]
    assert len({packet.sport for packet in packets}) == 3
    assert {packet.dport for packet in packets} == {8080}


@pytest.mark.parametrize(
    ("protocol", "options", "expected"),
    [
        ("udp", {}, [33423, 33423, 33423]),
        ("udp", {"vary_ports": True}, [33423, 33424, 33425]),
        ("udp", {"vary_ports": True, "flow": 12757}, [65535, 32768, 32769]),
        ("tcp", {}, [33423, 33424, 33425]),
        ("tcp", {"vary_ports": False}, [33423, 33423, 33423]),
    ],
)
def test_source_ports(protocol: Protocol, options: dict[str, Any], expected: list[int]) -> None:
    assert [parse(probe).sport for probe in probes(protocol, **options)] == expected


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_probes_go_to_each_destination_in_turn(protocol: Protocol, ends: tuple[Any, Any]) -> None:
    other = type(ends[1])(int(ends[1]) + 1)
    made = probes(protocol, ends, destinations=(ends[1], other))
    assert [probe.destination for probe in made] == [ends[1], other, ends[1]]
    for probe in made:
        assert parse(probe).dst == str(probe.destination)
        assert remade(probe) == probe.packet


def test_dont_fragment_is_set() -> None:
    assert str(parse(probes("icmp")[0]).flags) == "DF"


def test_ipv4_ids_are_never_left_to_the_kernel() -> None:
    assert all(parse(probe).id for flow in (0, 255, 256, 4095) for probe in probes("icmp", flow=flow))


def test_a_zone_index_is_not_part_of_a_packet() -> None:
    ends = (IPv6Address("fe80::1%eth0"), IPv6Address("fe80::2"))
    assert parse(probes("icmp", ends)[0]).src == "fe80::1"


def test_flows_of_one_shape_do_not_share_their_bytes() -> None:
    before = probes("udp")[0].packet
    probes("udp", (V4[1], V4[0]), port=9, flow=6)
    assert probes("udp")[0].packet == before


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"protocol": "tcp", "port": 80, "count": 257}, "room for 256"),
        ({"count": 65537}, "room for 65536"),
        ({"count": -1}, "room for"),
        ({"size": 45}, "46 bytes"),
        ({"size": 65536}, "at most 65535"),
        ({"protocol": "tcp", "port": 80, "size": 4136}, "traced back"),
    ],
)
def test_what_no_packet_can_express_is_refused_with_its_reason(options: dict[str, Any], why: str) -> None:
    valid: dict[str, Any] = {"lab": 1, "flow": 1, "count": 1, "protocol": "icmp", "source": V4[0], "destination": V4[1]}
    build(**valid)
    with pytest.raises(LabError) as caught:
        build(**(valid | options))
    assert why in str(caught.value)
    assert caught.value.fix


def test_the_largest_and_the_smallest_packets() -> None:
    assert len(probes("icmp", size=65535)[0].packet) == 65535
    assert len(probes("udp")[0].packet) == 20 + 8 + ids.LENGTH
    assert len(probes("tcp", V6)[0].packet) == 40 + 20 + ids.LENGTH
    assert len(probes("tcp", size=4135)[0].packet) == 4135
    assert probes("icmp", count=0) == ()


def test_a_hundred_flows_are_built_in_a_moment() -> None:
    probes("icmp")  # scapy's import is not the flows' cost
    best = 1.0
    for _ in range(3):
        best = min(best, processor_time(lambda: [probes("icmp", flow=flow, count=5) for flow in range(100)]))
    assert best < 0.08


def test_scapy_is_imported_when_a_probe_is_built_and_not_before() -> None:
    modules = "niclab.wire.probe, niclab.wire.decode, niclab.report.pcapng"
    code = f"import sys, {modules}; sys.exit(any(name.startswith('scapy') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


# --- canaries -------------------------------------------------------------------------------------------------------


def test_a_canary_is_a_link_local_frame_of_an_experimental_type() -> None:
    frame = canary(lab=1, tap=2, number=3, direction="in", source_mac="02:00:00:00:00:09")
    assert len(frame) == 60
    assert frame[:14].hex() == "0180c200000e" + "020000000009" + "88b5"
    assert ids.decode(frame, 14) == (Identity(1, 2, 3), ids.CANARY, 2)
