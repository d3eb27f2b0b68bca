"""What the kernel makes of the netlink packer's messages, and what the channel makes of the kernel's answers."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from niclab.host import netlink, readiness, syscalls
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.host.process import environment
from niclab.host.userns import is_able
from niclab.net.operation import (
    AddAddress,
    AddBridge,
    AddCable,
    AddNamespace,
    AddNeighbour,
    AddRoute,
    AddRule,
    AddVxlan,
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
            AddBridge("fabric", "f0", "02:02:00:00:00:00"),
            AddCable("fabric", "port", MAC, "node1", "eth0", PEER_MAC, 1400, "f0"),
            AddVxlan("node1", "vx", "02:05:00:00:00:00", 8472, 1350),
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


def address(number: int) -> bytes:
    text = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"
    return netlink.add_address(AddAddress("", "lo", ipaddress.ip_interface(text)), 1)


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

    def noted(messages: Sequence[bytes], offset: int) -> None:
        sizes.append(sum(map(len, messages)))
        batch(messages, offset)

    monkeypatch.setattr(channel, "_send_batch", noted)
    channel.send([address(number) for number in range(400)])
    assert len(sizes) > 10
    assert max(sizes) <= 1000
    assert addresses(channel) == 400


@pytest.mark.parametrize("position", [0, 57, 99, 100, 250, 399])
def test_a_refusal_names_its_message(channel: netlink.Channel, position: int) -> None:
    messages = [address(number) for number in range(400)]
    messages[position] = netlink.add_route(
        AddRoute("", parse_route("10.0.0.0/8 via 192.0.2.1 dev lo")), {"lo": 1}.__getitem__
    )
    channel.send([netlink.set_link(SetLink("", "lo"), 1)])
    with pytest.raises(netlink.Refusal, match="Nexthop has invalid gateway") as caught:
        channel.send(messages)
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
    broken = netlink.add_route(AddRoute("", parse_route("10.0.0.0/8 via 192.0.2.1 dev lo")), {"lo": 1}.__getitem__)
    channel.send([netlink.set_link(SetLink("", "lo"), 1)])
    with pytest.raises(netlink.Refusal) as caught:
        channel.send([broken] * 1000)
    assert caught.value.position == 0


def test_words_are_errno_where_the_kernel_has_none(channel: netlink.Channel) -> None:
    with pytest.raises(netlink.Refusal) as caught:
        channel.send([netlink.set_link(SetLink("", "gone"), 4711)])
    assert caught.value.errno == errno.ENODEV
    assert str(caught.value) == (caught.value.words or "No such device")


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
                    AddBridge("fabric", "f0", "02:02:00:00:00:00"),
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
    assert readiness.waiting_links([bytes(message.data[16:]) + octet]) == ["eth0"] * waits


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
        joined.append(bytes(one.data[16:]))
    links, addresses = [bytes(link.data[16:])], [bytes(address.data[16:])]
    assert readiness.waiting_addresses(links, addresses, joined) == ["fd00::10"] * waits


def test_a_new_ipv6_address_has_joined_its_group() -> None:
    """Its owner hears the first solicitation: the group was joined before set-up returned."""
    dump = 58, 58, bytes([socket.AF_INET6]) + bytes(7)  # RTM_GETMULTICAST
    ends = {"node1": "fd00::10/64", "node2": "fd00::11/64"}
    for _ in range(30):
        with kernel.substrate() as substrate:
            substrate.apply(
                [
                    AddNamespace("node1", {"net.ipv6.conf.default.accept_dad": "0"}),
                    AddNamespace("node2", {"net.ipv6.conf.default.accept_dad": "0"}),
                    AddBridge("node1", "f0", "02:02:00:00:00:00"),
                    # Ends of different index: linkwatch lets those of the same one wait up to a second.
                    AddCable("node1", "eth0", MAC, "node2", "eth0", PEER_MAC, 1500, None),
                    SetLink("node2", "eth0"),
                    *(AddAddress(role, "eth0", ipaddress.ip_interface(own)) for role, own in ends.items()),
                ]
            )
            readiness.wait(substrate)
            for role, own in ends.items():
                group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + ipaddress.ip_interface(own).packed[-3:]
                assert any(group in one for one in substrate[role].channel.dump(*dump))
