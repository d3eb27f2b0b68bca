"""What the kernel makes of the messages, and what the channel makes of the kernel's answers."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from niclab.errors import LabError
from niclab.host import messages, netlink, readiness, syscalls
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.host.process import environment
from niclab.host.userns import is_able
from niclab.net.operation import (
    AddAddress,
    AddCable,
    AddLink,
    AddNamespace,
    AddNeighbour,
    AddRoute,
    AddRule,
    SetLink,
)
from niclab.net.route import Encap, NextHop, Route, parse_route, parse_rule
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from tests.support import kernel

pytestmark = pytest.mark.skipif(not is_able(), reason="needs root: makes network namespaces")

MAC, PEER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


@pytest.fixture
def substrate() -> Iterator[NetnsSubstrate]:
    ledger = Ledger.open_new()
    try:
        made = NetnsSubstrate(ledger)
        try:
            yield made
        finally:
            made.close()
    finally:
        ledger.release()


def shown(substrate: NetnsSubstrate, role: str, *words: str) -> list[dict[str, Any]]:
    command = ["ip", "-n", substrate[role].name, "-json", "-details", *words]
    reported = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
    found: list[dict[str, Any]] = json.loads(reported or "[]")
    return found


def test_the_kernel_shows_what_was_asked_for(substrate: NetnsSubstrate) -> None:
    lines = [
        "10.244.2.0/24 via 10.0.0.2 dev eth0 metric 7 src 10.0.0.1 mtu 1300",
        "10.244.3.0/24 via 10.9.9.9 dev eth0 onlink table 2010",
        "10.244.4.0/24 nexthop via 10.0.0.2 dev eth0 weight 3 nexthop via 10.0.0.3 dev eth0 weight 1",
        "blackhole 10.244.5.0/24",
    ]
    encapsulated = [
        Route(ipaddress.ip_network(to), (NextHop(dev="vx"),), encap=Encap(7, ipaddress.ip_address(remote)))
        for to, remote in (("10.244.6.0/24", "10.0.0.2"), ("10.244.7.0/24", "fd00::2"))
    ]
    substrate.apply(
        [
            AddNamespace("fabric"),
            AddNamespace("node1"),
            AddLink.bridge("fabric", "f0", "02:02:00:00:00:00"),
            AddCable("fabric", "port", MAC, "node1", "eth0", PEER_MAC, 1400, "f0"),
            AddLink.vxlan("node1", "vx", "02:05:00:00:00:00", 8472, 1350),
            AddAddress("node1", "eth0", ipaddress.ip_interface("10.0.0.1/24")),
            AddAddress("node1", "eth0", ipaddress.ip_interface("fd00::1/64")),
            SetLink("node1", "eth0"),
            *(AddRoute("node1", parse_route(line)) for line in lines),
            *(AddRoute("node1", one) for one in encapsulated),
            AddRule("node1", parse_rule("not from 10.0.0.0/8 fwmark 0x1/0xff lookup 2010 priority 10")),
            AddNeighbour("node1", "eth0", ipaddress.ip_address("10.0.0.2"), MAC),
        ]
    )
    links = {one["ifname"]: one for one in shown(substrate, "node1", "link")}
    assert (links["eth0"]["address"], links["eth0"]["mtu"], links["eth0"]["num_tx_queues"]) == (PEER_MAC, 1400, 1)
    assert (
        links["vx"]["linkinfo"]["info_data"] | {"external": True, "port": 8472} == links["vx"]["linkinfo"]["info_data"]
    )
    assert "UP" in links["lo"]["flags"]
    [port] = [one for one in shown(substrate, "fabric", "link") if one["ifname"] == "port"]
    assert (port["master"], port["address"]) == ("f0", MAC)
    assert "UP" in port["flags"]
    [bridge] = [one for one in shown(substrate, "fabric", "link") if one["ifname"] == "f0"]
    data = bridge["linkinfo"]["info_data"]
    assert (data["stp_state"], data["mcast_snooping"]) == (0, 0)
    routes = {one["dst"]: one for one in shown(substrate, "node1", "route", "show", "table", "all", "type", "unicast")}
    first = routes["10.244.2.0/24"]
    assert (first["gateway"], first["metric"], first["prefsrc"]) == ("10.0.0.2", 7, "10.0.0.1")
    assert first["metrics"] == [{"mtu": 1300}]
    assert (routes["10.244.3.0/24"]["table"], routes["10.244.3.0/24"]["flags"]) == ("2010", ["onlink"])
    assert [hop["weight"] for hop in routes["10.244.4.0/24"]["nexthops"]] == [3, 1]
    # ip says `dst` twice, and the tunnel's own comes last.
    assert (routes["10.0.0.2"]["encap"], routes["10.0.0.2"]["id"]) == ("ip", 7)
    assert (routes["fd00::2"]["encap"], routes["fd00::2"]["id"]) == ("ip6", 7)
    assert [one["dst"] for one in shown(substrate, "node1", "route", "show", "type", "blackhole")] == ["10.244.5.0/24"]
    [rule] = [one for one in shown(substrate, "node1", "rule") if one["priority"] == 10]
    assert (rule["src"], rule["srclen"], rule["fwmark"], rule["fwmask"]) == ("10.0.0.0", 8, "0x1", "0xff")
    assert ("not" in rule, rule["table"]) == (True, "2010")
    [neighbour] = shown(substrate, "node1", "neigh", "show", "nud", "permanent")
    assert (neighbour["dst"], neighbour["lladdr"]) == ("10.0.0.2", MAC)
    addresses = {one["local"]: one for one in shown(substrate, "node1", "addr", "show", "dev", "eth0")[0]["addr_info"]}
    assert addresses["fd00::1"]["nodad"] is True
    assert "tentative" not in addresses["fd00::1"]


@pytest.fixture
def channel() -> Iterator[netlink.Channel]:
    """A channel of a namespace of its own, which ends with it."""
    with syscalls.home_restored():
        syscalls.unshare_network()
        found = netlink.Channel()
    yield found
    found.close()


class Loopback:
    """The interfaces of a namespace that has `lo` alone."""

    fd = -1

    def index(self, name: str) -> int:
        return {"lo": 1}[name]

    def new_index(self, name: str) -> int:
        raise AssertionError(name)


def address(number: int) -> bytes:
    text = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"
    return messages.operation_message(AddAddress("", "lo", ipaddress.ip_interface(text)), Loopback())


def refused_route() -> bytes:
    route = AddRoute("", parse_route("10.0.0.0/8 via 192.0.2.1 dev lo"))
    return messages.operation_message(route, Loopback())


def addresses(channel: netlink.Channel) -> int:
    """How many of them lo has. Every one is tried again: those that are there already are refused."""
    refused = 0
    for number in range(400):
        try:
            channel.send([address(number)])
        except netlink.Refusal as refusal:
            assert refusal.errno == errno.EEXIST
            refused += 1
    return refused


def test_many_messages_take_several_sends(channel: netlink.Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_BATCH_BYTES", 1000)
    sizes: list[int] = []
    batch = channel._send_batch

    def noted(several: Sequence[bytes], offset: int) -> None:
        sizes.append(sum(map(len, several)))
        batch(several, offset)

    monkeypatch.setattr(channel, "_send_batch", noted)
    channel.send([address(number) for number in range(400)])
    assert len(sizes) > 10
    assert max(sizes) <= 1000
    assert addresses(channel) == 400


@pytest.mark.parametrize("position", [0, 57, 99, 100, 250, 399])
def test_a_refusal_names_its_message(channel: netlink.Channel, position: int) -> None:
    batch = [address(number) for number in range(400)]
    batch[position] = refused_route()
    channel.send([messages.link_message(1, up=True)])
    with pytest.raises(netlink.Refusal, match="Nexthop has invalid gateway") as caught:
        channel.send(batch)
    assert (caught.value.position, caught.value.errno) == (position, errno.ENETUNREACH)
    # The rest of the batch was tried; later batches were not.
    end = min((position // 100 + 1) * 100, 400)
    assert addresses(channel) == end - 1


def test_the_channel_is_usable_after_a_refusal(channel: netlink.Channel) -> None:
    channel.send([address(1)])
    with pytest.raises(netlink.Refusal) as caught:
        channel.send([address(1), address(2), address(1)])
    assert caught.value == netlink.Refusal(0, errno.EEXIST, caught.value.words)
    channel.send([address(3)])
    with pytest.raises(netlink.Refusal):
        channel.send([address(2)])


def test_everything_may_be_refused(channel: netlink.Channel) -> None:
    """The answers to a batch must fit the socket's buffer, or the kernel drops them (ENOBUFS)."""
    channel.send([messages.link_message(1, up=True)])
    with pytest.raises(netlink.Refusal) as caught:
        channel.send([refused_route()] * 1000)
    assert caught.value.position == 0


def test_words_are_errno_where_the_kernel_has_none(channel: netlink.Channel) -> None:
    with pytest.raises(netlink.Refusal) as caught:
        channel.send([messages.link_message(4711, up=True)])
    assert caught.value.errno == errno.ENODEV
    assert str(caught.value) == (caught.value.words or "No such device")


class Kernel:
    """Stands in for the socket: answers each request with the next of these (type, flags, payload) lists."""

    def __init__(self, *answers: list[tuple[int, int, bytes]]) -> None:
        self._answers = list(answers)
        self._sequence = 0

    def send(self, packet: bytes) -> None:
        self._sequence = struct.unpack_from("=I", packet, 8)[0]

    def close(self) -> None: ...

    def recv(self, _: int) -> bytes:
        return b"".join(
            struct.pack("=IHHII", 16 + len(payload), kind, flags, self._sequence, 0) + payload
            for kind, flags, payload in self._answers.pop(0)
        )


LINK, LINK2, DONE = (16, 2, b"one "), (16, 2, b"two "), (3, 2, bytes(4))
INTERRUPTED = 0x10


def answered(*answers: list[tuple[int, int, bytes]]) -> list[bytes]:
    channel = netlink.Channel()
    channel.close()
    channel._socket = Kernel(*answers)  # type: ignore[assignment]
    return [message[16:] for message in channel.dump(messages.LINKS.request)]


def test_a_dump_is_all_its_answers() -> None:
    assert answered([LINK], [LINK2, DONE]) == [b"one ", b"two "]


@pytest.mark.parametrize("mark", range(3))
def test_a_dump_that_was_interrupted_is_asked_for_again(mark: int) -> None:
    """Whichever of its answers has the mark: what came so far may lack something."""
    first = [LINK, LINK2, DONE]
    kind, flags, payload = first[mark]
    first[mark] = kind, flags | INTERRUPTED, payload
    assert answered(first, [LINK, LINK2, DONE]) == [b"one ", b"two "]


def test_a_dump_that_is_always_interrupted_is_refused() -> None:
    with pytest.raises(netlink.Refusal, match="changed 20 times") as caught:
        answered(*[[LINK, (3, 2 | INTERRUPTED, bytes(4))]] * 20)
    assert caught.value.errno == errno.EINTR


@pytest.mark.parametrize("kind", [2, 3], ids=["error", "done"])
@pytest.mark.parametrize("before", [[], [LINK]], ids=["at once", "half-way"])
def test_a_dump_that_the_kernel_refuses_is_no_empty_one(kind: int, before: list[tuple[int, int, bytes]]) -> None:
    with pytest.raises(netlink.Refusal) as caught:
        answered([*before, (kind, 2, struct.pack("=i", -errno.EPERM) + bytes(16))])
    assert (caught.value.errno, str(caught.value)) == (errno.EPERM, "Operation not permitted")


def test_readiness_is_not_reported_of_what_the_kernel_does_not_list(substrate: NetnsSubstrate) -> None:
    substrate.apply([AddNamespace("a")])
    channel = substrate["a"].channel
    channel._socket.close()
    channel._socket = Kernel([(2, 0, struct.pack("=i", -errno.ENOMEM) + bytes(16))])  # type: ignore[assignment]
    with pytest.raises(LabError, match=r"the kernel does not list what .*-a has") as caught:
        readiness.wait(substrate)
    assert caught.value.why == "Cannot allocate memory"


def test_extended_words_of_a_capped_and_a_whole_answer() -> None:
    words = b"\x0a\0\1\0hello\0\0\0"
    header = bytes(16)
    request = (20).to_bytes(4, "little") + bytes(12)
    offset = b"\x08\0\2\0\4\0\0\0"
    assert netlink._extended_words(header + bytes(4) + request + offset + words, 0x300) == "hello"
    assert netlink._extended_words(header + bytes(4) + request, 0x100) == ""


ENDS = {"fabric": "port", "node1": "eth0"}
FRAME = bytes.fromhex(MAC.replace(":", "") * 2) + b"\x88\xb5" + bytes(46)


def lost(ends: Mapping[str, socket.socket]) -> list[str]:
    """The ends of the cable whose frames do not all arrive at the other end."""
    found = []
    for sender, receiver in (("fabric", "node1"), ("node1", "fabric")):
        for _ in range(5):
            ends[sender].send(FRAME)
        try:
            arrived = 0
            while arrived < 5:
                data, (*_, kind, _, _) = ends[receiver].recvfrom(64)
                arrived += data == FRAME and kind != socket.PACKET_OUTGOING
        except TimeoutError:
            found.append(sender)
    return found


def test_a_link_that_is_ready_carries_its_first_frame() -> None:
    """The port is up before its peer, and shows its final queueing discipline before it has it."""
    for _ in range(30):
        with contextlib.ExitStack() as undo:
            substrate = undo.enter_context(kernel.substrate())
            substrate.apply(
                [
                    AddNamespace("node1"),
                    AddLink.bridge("fabric", "f0", "02:02:00:00:00:00"),
                    AddCable("fabric", "port", MAC, "node1", "eth0", PEER_MAC, 1400, "f0"),
                ]
            )
            ends = {}
            for role in ENDS:
                with substrate[role].entered():
                    ends[role] = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
                ends[role].settimeout(0.5)
            substrate.apply([SetLink("node1", "eth0")])
            for role, name in ENDS.items():
                ends[role].bind((name, 3))  # ETH_P_ALL: a bridge takes the frame before other sockets see it
            readiness.wait(substrate)
            assert lost(ends) == []


@pytest.mark.parametrize(
    ("kind", "up", "carrier", "state", "waits"),
    [
        ("veth", True, True, 0, True),
        ("veth", True, True, 2, True),
        ("veth", True, True, 6, False),
        ("veth", True, False, 3, False),
        ("veth", False, True, 2, False),
        ("bridge", True, True, 0, True),
        ("vxlan", True, True, 0, False),
        ("vxlan", True, True, 2, True),
        ("", True, True, 0, False),
    ],
)
def test_what_is_waited_for(kind: str, up: bool, carrier: bool, state: int, waits: bool) -> None:
    message = ifinfmsg()
    message["flags"] = int(up)
    info = [("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})] if kind else []
    message["attrs"] = [("IFLA_IFNAME", "eth0"), ("IFLA_CARRIER", int(carrier)), *info]
    message.encode()
    octet = bytes([5, 0, 16, 0, state, 0, 0, 0])  # pyroute2 has words for IFLA_OPERSTATE
    answer = (len(message.data) + len(octet)).to_bytes(4, "little") + bytes(message.data[4:]) + octet
    link = readiness.Link.of(messages.LINKS.decoded(answer))
    assert (link.name, link.waits) == ("eth0", waits)


TENTATIVE, DAD_FAILED, LOOPBACK = 0x40, 0x08, 0x8
SOLICITED = "ff02::1:ff00:10"


@pytest.mark.parametrize(
    ("flags", "carrier", "address_flags", "groups", "waits"),
    [
        (1, True, 0, [SOLICITED], False),
        (1, True, 0, ["ff02::1", "ff02::1:ff00:11"], True),
        (1, True, 0, [], True),
        (1, True, TENTATIVE, [SOLICITED], True),
        (1, True, TENTATIVE | DAD_FAILED, [SOLICITED], False),
        (1, False, TENTATIVE, [], False),
        (0, True, TENTATIVE, [], False),
        (1 | LOOPBACK, True, 0, [], False),
    ],
)
def test_an_ipv6_address_is_waited_for_until_its_neighbours_can_resolve_it(
    flags: int, carrier: bool, address_flags: int, groups: list[str], waits: bool
) -> None:
    link = ifinfmsg()
    link["index"], link["flags"] = 7, flags
    link["attrs"] = [("IFLA_IFNAME", "eth0"), ("IFLA_CARRIER", int(carrier))]
    link.encode()
    address = ifaddrmsg()
    address["family"], address["index"] = socket.AF_INET6, 7
    address["attrs"] = [("IFA_ADDRESS", "fd00::10"), ("IFA_FLAGS", address_flags)]
    address.encode()
    joined = []
    for group in groups:
        one = ifaddrmsg()
        one["family"], one["index"] = socket.AF_INET6, 7
        one["attrs"] = [("IFA_MULTICAST", group)]
        one.encode()
        joined.append(messages.IPV6_ADDRESSES.decoded(bytes(one.data)))
    links = [readiness.Link.of(messages.LINKS.decoded(bytes(link.data)))]
    addresses = [messages.IPV6_ADDRESSES.decoded(bytes(address.data))]
    assert readiness.waiting_addresses(links, addresses, joined) == ["fd00::10"] * waits


def test_a_new_ipv6_address_has_joined_its_group() -> None:
    """Its owner hears the first solicitation: the group was joined before set-up returned."""
    ends = {"node1": "fd00::10/64", "node2": "fd00::11/64"}
    for _ in range(30):
        with kernel.substrate() as substrate:
            substrate.apply(
                [
                    AddNamespace("node1", {"net.ipv6.conf.default.accept_dad": "0"}),
                    AddNamespace("node2", {"net.ipv6.conf.default.accept_dad": "0"}),
                    AddLink.bridge("node1", "f0", "02:02:00:00:00:00"),
                    # Ends of different index: linkwatch lets those of the same one wait up to a second.
                    AddCable("node1", "eth0", MAC, "node2", "eth0", PEER_MAC, 1500, None),
                    SetLink("node2", "eth0"),
                    *(AddAddress(role, "eth0", ipaddress.ip_interface(own)) for role, own in ends.items()),
                ]
            )
            readiness.wait(substrate)
            for role, own in ends.items():
                group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + ipaddress.ip_interface(own).packed[-3:]
                joined = substrate[role].dump(messages.IPV6_GROUPS.request)
                assert any(group in answer for answer in joined)
