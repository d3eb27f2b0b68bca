"""The netlink packer, read back by pyroute2's own message classes and by the kernel."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from niclab.host import netlink
from niclab.net.operation import AddAddress, AddBridge, AddCable, AddNeighbour, AddRoute, AddRule, AddVxlan, SetLink
from niclab.net.route import Encap, NextHop, Route, parse_route, parse_rule
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from tests.support.netlink import CREATE, MAC, decoded

REPLACE = 0x1 | 0x100 | 0x400
PEER_MAC = "02:00:00:00:00:02"
INDICES = {"eth0": 2, "eth1": 3, "vx": 4}


def link(index: int, name: str, mac: str, *, up: bool = True) -> dict[str, Any]:
    return {
        "family": 0,
        "ifi_type": 0,
        "index": index,
        "flags": int(up),
        "change": int(up),
        "IFLA_IFNAME": name,
        "IFLA_ADDRESS": mac,
        "IFLA_NUM_TX_QUEUES": 1,
        "IFLA_NUM_RX_QUEUES": 1,
    }


NEW_LINK = {"type": 16, "request": CREATE, "state": "up"}


def test_bridge() -> None:
    data = {"IFLA_BR_STP_STATE": 0, "IFLA_BR_MCAST_SNOOPING": 0}
    info = {"IFLA_INFO_KIND": "bridge", "IFLA_INFO_DATA": data}
    found = decoded(ifinfmsg, netlink.add_bridge(AddBridge("fabric", "f0", MAC), 7))
    assert found == link(7, "f0", MAC) | NEW_LINK | {"IFLA_LINKINFO": info}


@pytest.mark.parametrize("master", [None, 3])
def test_cable(master: int | None) -> None:
    operation = AddCable("fabric", "port", MAC, "node1", "eth0", PEER_MAC, 1400, "f0" if master else None)
    found = decoded(ifinfmsg, netlink.add_cable(operation, 7, 8, 55, master))
    peer = link(8, "eth0", PEER_MAC, up=False) | {"IFLA_MTU": 1400, "IFLA_NET_NS_FD": 55}
    info = {"IFLA_INFO_KIND": "veth", "IFLA_INFO_DATA": {"VETH_INFO_PEER": peer}}
    enslaved = {"IFLA_MASTER": master} if master else {}
    assert found == link(7, "port", MAC) | NEW_LINK | enslaved | {"IFLA_MTU": 1400, "IFLA_LINKINFO": info}


def test_vxlan() -> None:
    found = decoded(ifinfmsg, netlink.add_vxlan(AddVxlan("node1", "vx", MAC, 8472, 1450), 7))
    data = {"IFLA_VXLAN_COLLECT_METADATA": 1, "IFLA_VXLAN_LEARNING": 0, "IFLA_VXLAN_PORT": 8472}
    info = {"IFLA_INFO_KIND": "vxlan", "IFLA_INFO_DATA": data}
    assert found == link(7, "vx", MAC) | NEW_LINK | {"IFLA_MTU": 1450, "IFLA_LINKINFO": info}


@pytest.mark.parametrize("up", [True, False])
def test_link(up: bool) -> None:
    found = decoded(ifinfmsg, netlink.set_link(SetLink("node1", "eth0", up), 7))
    assert found == {
        "family": 0,
        "ifi_type": 0,
        "index": 7,
        "flags": int(up),
        "change": 1,
        "state": "up" if up else "down",
        "type": 16,
        "request": 0x1,
    }


@pytest.mark.parametrize(("interface", "family"), [("10.0.0.1/24", 2), ("fd00::1/64", 10), ("10.0.0.1/32", 2)])
def test_address(interface: str, family: int) -> None:
    wanted = ipaddress.ip_interface(interface)
    found = decoded(ifaddrmsg, netlink.add_address(AddAddress("node1", "eth0", wanted), 7))
    no_duplicate_detection = {"IFA_FLAGS": 0x02} if family == 10 else {}
    assert found == no_duplicate_detection | {
        "family": family,
        "prefixlen": wanted.network.prefixlen,
        "flags": 0,
        "scope": 0,
        "index": 7,
        "IFA_LOCAL": str(wanted.ip),
        "IFA_ADDRESS": str(wanted.ip),
        "type": 20,
        "request": CREATE,
    }


def route(**changed: Any) -> dict[str, Any]:
    fields = {
        "family": 2,
        "dst_len": 0,
        "src_len": 0,
        "tos": 0,
        "table": 254,
        "proto": 3,
        "scope": 0,
        "type": 24,
        "flags": 0,
        "RTA_TABLE": 254,
        "request": CREATE,
    }
    return fields | changed


ROUTES = {
    "default via 10.0.0.254 dev eth0": route(RTA_GATEWAY="10.0.0.254", RTA_OIF=2),
    "10.0.0.0/8 dev eth0": route(dst_len=8, RTA_DST="10.0.0.0", RTA_OIF=2, scope=253),
    "10.0.0.0/8 via 10.9.0.1 dev eth1 onlink": route(
        dst_len=8, RTA_DST="10.0.0.0", RTA_GATEWAY="10.9.0.1", RTA_OIF=3, flags=4
    ),
    "10.0.0.0/8 via 10.9.0.1 dev eth0 metric 70 src 10.0.0.3 mtu 1400": route(
        dst_len=8,
        RTA_DST="10.0.0.0",
        RTA_GATEWAY="10.9.0.1",
        RTA_OIF=2,
        RTA_PRIORITY=70,
        RTA_PREFSRC="10.0.0.3",
        RTA_METRICS={"RTAX_MTU": 1400},
    ),
    "10.0.0.0/8 via 10.9.0.1 dev eth0 table 2010": route(
        dst_len=8, RTA_DST="10.0.0.0", RTA_GATEWAY="10.9.0.1", RTA_OIF=2, table=0, RTA_TABLE=2010
    ),
    "10.0.0.0/8 via 10.9.0.1 dev eth0 table 100 proto static": route(
        dst_len=8, RTA_DST="10.0.0.0", RTA_GATEWAY="10.9.0.1", RTA_OIF=2, table=100, RTA_TABLE=100, proto=4
    ),
    "default nexthop via 10.0.0.1 dev eth0 weight 3 nexthop via 10.1.0.1 dev eth1 onlink weight 1": route(
        RTA_MULTIPATH=[
            {"flags": 0, "hops": 2, "oif": 2, "RTA_GATEWAY": "10.0.0.1"},
            {"flags": 4, "hops": 0, "oif": 3, "RTA_GATEWAY": "10.1.0.1"},
        ]
    ),
    "fd00:1::/64 via fd00::1 dev eth0 metric 5": route(
        family=10, dst_len=64, RTA_DST="fd00:1::", RTA_GATEWAY="fd00::1", RTA_OIF=2, RTA_PRIORITY=5
    ),
}


@pytest.mark.parametrize("text", ROUTES)
@pytest.mark.parametrize("replace", [False, True])
def test_route(text: str, replace: bool) -> None:
    found = decoded(rtmsg, netlink.add_route(AddRoute("node1", parse_route(text), replace), INDICES.__getitem__))
    # The message's own `type` (a unicast route is 1) is hidden by the header's.
    assert found == ROUTES[text] | {"request": REPLACE if replace else CREATE}


def test_route_through_a_gateway_of_the_other_family() -> None:
    operation = AddRoute(
        "node1", Route(ipaddress.ip_network("0.0.0.0/0"), (NextHop(via=ipaddress.ip_address("fe80::1"), dev="eth0"),))
    )
    found = decoded(rtmsg, netlink.add_route(operation, INDICES.__getitem__))
    assert found == route(RTA_VIA={"family": 10, "addr": "fe80::1"}, RTA_OIF=2)


@pytest.mark.parametrize(
    ("kind", "number"), [("blackhole", 6), ("unreachable", 7), ("prohibit", 8), ("throw", 9), ("local", 2)]
)
def test_route_types(kind: str, number: int) -> None:
    text = f"{kind} 10.0.0.0/8" + (" dev eth0" if kind == "local" else "")
    message = rtmsg(data=netlink.add_route(AddRoute("node1", parse_route(text)), INDICES.__getitem__))
    message.decode()
    assert (message["type"], message["dst_len"]) == (number, 8)
    assert message["scope"] == (254 if kind == "local" else 0)


@pytest.mark.parametrize(("remote", "kind"), [("10.0.0.2", 2), ("fd00::2", 4)])
def test_lightweight_tunnel(remote: str, kind: int) -> None:
    peer = ipaddress.ip_address(remote)
    operation = AddRoute(
        "node1", Route(ipaddress.ip_network("10.244.2.0/24"), (NextHop(dev="vx"),), encap=Encap(7, peer))
    )
    found = decoded(rtmsg, netlink.add_route(operation, INDICES.__getitem__))
    assert found["RTA_ENCAP_TYPE"] == kind
    assert found["RTA_OIF"] == 4
    # lwtunnel_ip_t: LWTUNNEL_IP_ID (1) is big endian, LWTUNNEL_IP_DST (2) an address; pyroute2 shows them as bytes.
    octets = bytes.fromhex(found["RTA_ENCAP"].replace(":", ""))
    assert octets[:12] == b"\x0c\0\1\0" + bytes(7) + b"\7"
    flags = b"\6\0\6\0\x20\0\0\0"  # LWTUNNEL_IP_FLAGS (6): TUNNEL_NOCACHE, big endian, padded
    assert octets[12:] == bytes([4 + len(peer.packed), 0, 2, 0]) + peer.packed + flags


def test_rule() -> None:
    rule = parse_rule("not from 10.0.0.0/8 to 10.1.0.0/16 iif eth0 oif eth1 fwmark 0x1/0xff lookup 2010 priority 10")
    assert decoded(fibmsg, netlink.add_rule(AddRule("node1", rule))) == {
        "family": 2,
        "dst_len": 16,
        "src_len": 8,
        "tos": 0,
        "table": 0,
        "res1": 0,
        "res2": 0,
        "action": 1,
        "flags": 2,
        "type": 32,
        "request": CREATE,
        "FRA_DST": "10.1.0.0",
        "FRA_SRC": "10.0.0.0",
        "FRA_IIFNAME": "eth0",
        "FRA_OIFNAME": "eth1",
        "FRA_FWMARK": 1,
        "FRA_FWMASK": 0xFF,
        "FRA_PRIORITY": 10,
        "FRA_TABLE": 2010,
    }


def test_ipv6_rule_of_an_old_table() -> None:
    found = decoded(fibmsg, netlink.add_rule(AddRule("node1", parse_rule("from fd00::/8 lookup 100"))))
    assert (found["family"], found["src_len"], found["table"], found["FRA_TABLE"]) == (10, 8, 100, 100)


@pytest.mark.parametrize(("address", "family"), [("10.0.0.2", 2), ("fd00::2", 10)])
def test_neighbour(address: str, family: int) -> None:
    operation = AddNeighbour("node1", "eth0", ipaddress.ip_address(address), MAC)
    assert decoded(ndmsg, netlink.add_neighbour(operation, 7)) == {
        "family": family,
        "ifindex": 7,
        "state": 0x80,
        "flags": 0,
        "ndm_type": 0,
        "type": 28,
        "request": REPLACE,
        "NDA_DST": address,
        "NDA_LLADDR": MAC,
    }


def test_extended_words_of_a_capped_and_a_whole_answer() -> None:
    words = b"\x0a\0\1\0hello\0\0\0"
    header = bytes(16)
    request = (20).to_bytes(4, "little") + bytes(12)
    offset = b"\x08\0\2\0\4\0\0\0"
    assert netlink._extended_words(header + bytes(4) + request + offset + words, 0x300) == "hello"
    assert netlink._extended_words(header + bytes(4) + request + bytes(4) + words, 0x200) == "hello"
    assert netlink._extended_words(header + bytes(4) + request, 0x100) == ""
