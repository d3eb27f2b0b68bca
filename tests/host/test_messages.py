"""Messages that are put together from others: the same bytes that pyroute2 encodes."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab.host import messages
from niclab.net.operation import AddCable, AddLink, AddRule, Operation, Remove
from niclab.net.route import FAMILIES, Rule
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

MAC, PEER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
NAMES = st.one_of(
    st.text("abcxyz.-@0123456789", min_size=1, max_size=15),
    st.integers(1, 15).map("y".__mul__),
    st.integers(1, 15).map("x".__mul__),
)
INDICES = st.one_of(st.integers(1, 2**31 - 1), st.sampled_from([0x7A7A7A01, 0x7A7A7A03, 0x01010101, 0x79797979]))
MACS = st.one_of(
    st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":")),
    st.sampled_from(["7a:7a:7a:7a:7a:02", "7a:7a:7a:7a:7a:04"]),
)
ENDS = st.builds(messages._End, INDICES, NAMES, MACS)


@given(ENDS, ENDS, st.sampled_from([68, 1500, 9000]), st.none() | INDICES, st.integers(0, 2**31 - 1))
def test_a_cable_is_what_pyroute2_encodes(
    end: messages._End, peer: messages._End, mtu: int, master: int | None, peer_fd: int
) -> None:
    assert messages._cable(end, peer, mtu, master, peer_fd) == messages._encoded_cable.__wrapped__(
        end, peer, mtu, master, peer_fd
    )


@given(INDICES, NAMES, st.none() | MACS, INDICES, st.sampled_from(["private", "passthru"]))
def test_a_macvlan_is_what_pyroute2_encodes(index: int, name: str, mac: str | None, parent: int, mode: str) -> None:
    found = decoded(messages._macvlan(index, name, mac, parent, mode))
    info = found.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "macvlan"
    assert info.get_attr("IFLA_INFO_DATA").get_attr("IFLA_MACVLAN_MODE") == mode
    attributes = [found.get_attr(key) for key in ("IFLA_IFNAME", "IFLA_ADDRESS", "IFLA_LINK")]
    assert (found["index"], attributes) == (index, [name, mac, parent])


def decoded(message: bytes) -> Any:
    link = ifinfmsg(data=message)
    link.decode()
    return link


class Interfaces:
    fd = 55

    def index(self, name: str) -> int:
        return {"eth0": 2, "f0": 5}[name]

    def new_index(self, _: str) -> int:
        return 7


DOWN = {"index": 7, "flags": 0, "change": 0}
ALONE = {"IFLA_IFNAME": "new", "IFLA_NUM_TX_QUEUES": 1, "IFLA_NUM_RX_QUEUES": 1}
NAMED = ALONE | {"IFLA_ADDRESS": MAC}


@pytest.mark.parametrize(
    ("operation", "fields", "kind", "data"),
    [
        (
            AddLink.bond("node1", "new", MAC, 1400, mode="active-backup", primary="eth0"),
            NAMED | {"IFLA_MTU": 1400},
            "bond",
            {"IFLA_BOND_MODE": 1, "IFLA_BOND_MIIMON": 10, "IFLA_BOND_PRIMARY": 2},
        ),
        (
            AddLink("node1", "new", "vlan", (("id", 100),), mtu=1500, parent="eth0"),
            ALONE | {"IFLA_MTU": 1500, "IFLA_LINK": 2},
            "vlan",
            {"IFLA_VLAN_ID": 100},
        ),
        (AddLink("node1", "new", "vrf", (("table", 100),), MAC), NAMED, "vrf", {"IFLA_VRF_TABLE": 100}),
        (AddLink("node1", "new", "dummy", (), MAC, 1500), NAMED | {"IFLA_MTU": 1500}, "dummy", {}),
    ],
)
def test_links_that_many_kernels_lack(
    operation: Operation, fields: dict[str, object], kind: str, data: dict[str, object]
) -> None:
    """What the kernel at hand may not try."""
    message = decoded(messages.operation_message(operation, Interfaces()))
    assert {name: message[name] for name in DOWN} == DOWN
    info = message.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == kind
    assert dict(message["attrs"]) == fields | {"IFLA_LINKINFO": info}
    found = info.get_attr("IFLA_INFO_DATA")
    assert (dict(found["attrs"]) if found is not None else {}) == data


def test_the_peer_of_a_cable_is_in_its_own_namespace() -> None:
    cable = AddCable("fabric", "port", MAC, "node1", "eth0", PEER_MAC, 1400, "f0")
    message = decoded(messages.operation_message(cable, Interfaces(), Interfaces()))
    [(_, peer)] = message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")["attrs"]
    assert (message.get_attr("IFLA_MASTER"), message["flags"], peer["flags"]) == (5, 1, 0)
    assert (peer.get_attr("IFLA_IFNAME"), peer.get_attr("IFLA_NET_NS_FD")) == ("eth0", 55)


def test_of_a_listed_link_only_what_is_looked_at_is_decoded() -> None:
    """The rest of its attributes is left out before pyroute2 sees it; what is looked at is the same."""
    bond = AddLink.bond("node1", "new", MAC, 1400, mode="active-backup", primary="eth0")
    whole = messages.operation_message(bond, Interfaces())
    listed = messages.LINKS.decoded(whole)
    assert [name for name, _ in listed["attrs"]] == ["IFLA_IFNAME", "IFLA_LINKINFO"]
    assert listed.get_attr("IFLA_LINKINFO") == decoded(whole).get_attr("IFLA_LINKINFO")
    assert (listed["index"], listed.get_attr("IFLA_IFNAME")) == (7, "new")


def test_pyroute2_is_whole_for_whoever_imports_it_afterwards() -> None:
    code = """
import sys, niclab.host.messages
print("pyroute2" in sys.modules, "pyroute2.ndb" in sys.modules)
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
print(IPRoute.__name__, ifinfmsg is niclab.host.messages.ifinfmsg)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False False\nIPRoute True\n", "")


@pytest.mark.parametrize("removed", [False, True])
def test_equal_rules_of_both_families_are_two_messages(removed: bool) -> None:
    """A rule that names no network is equal to its namesake of the other family; the kernel has one of each."""
    families = []
    for family in FAMILIES:
        rule = Rule(iif="lo", negated=True, table=2010, priority=10, explicit_family=family)
        entry = AddRule("node1", rule)
        message = fibmsg(data=messages.operation_message(Remove(entry) if removed else entry, Interfaces()))
        message.decode()
        families.append(message["family"])
    assert families == [socket.AF_INET, socket.AF_INET6]
