"""Physical NICs on a real kernel: what a machine's NIC does and does not do, and what is hidden of the lab's own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from niclab import Lab
from niclab.check import load
from niclab.check.amend import with_kind
from niclab.host import netns
from niclab.request import resolve

from tests.support.command import here
from tests.support.kernel import privileged

pytestmark = privileged


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.deploy("two-nic") as built:
        yield built


def test_this_kernel_has_macvlans_and_what_it_lacks_is_known() -> None:
    assert netns.makes("macvlan")
    assert not netns.makes("nosuchkind")


def test_agents_see_no_veth_and_what_nics_stand_on_has_no_address(lab: Lab) -> None:
    links = {link["ifname"]: link for link in json.loads(lab.run("node1", "ip", "-j", "-d", "addr"))}
    assert [links[name]["linkinfo"]["info_kind"] for name in ("eth0", "eth1")] == ["macvlan", "macvlan"]
    for name in ("eth0", "eth1"):
        end = links[links[name]["link"]]
        assert (end["addr_info"], "NOARP" in end["flags"]) == ([], True)
        assert end["ifindex"] > 10_000 > links[name]["ifindex"]
    assert lab.reported["node1"].devices == ("eth0", "eth1")


def test_a_frame_for_another_mac_is_not_the_nodes(lab: Lab) -> None:
    """A fabric floods what it does not know: a NIC drops it, and the node does not forward it."""

    def received() -> str:
        lines = [line for line in lab.run("node2", "cat", "/proc/net/snmp").splitlines() if line.startswith("Ip: ")]
        counters: dict[str, str] = dict(zip(*(line.split() for line in lines), strict=True))
        return counters["InReceives"]

    lab.run("ext0", "ip", "neigh", "replace", "10.0.0.66", "lladdr", "02:99:99:99:99:99", "dev", "eth0")
    before = received()
    send = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.0.0.66', 9))"
    lab.run("ext0", "python3", "-c", send)
    assert received() == before
    lab.send("ext0", "node2.eth0").must_receive()
    assert received() != before


def test_a_nic_that_is_down_carries_nothing_though_its_cable_does(lab: Lab) -> None:
    """Nobody answers ARP for it, and its tap needs no canary."""
    with lab.link_down("node2.eth1"):
        flow = lab.send("ext1", "node2.eth1")
        assert flow.verdict == "lost"
        assert flow.measurement.holds
        assert flow.measurement.without_carrier == ("node2.eth1",)
        assert "lladdr" not in lab.run("ext1", "ip", "neigh", "show", "10.0.1.2")
    lab.send("ext1", "node2.eth1").must_receive()


def test_without_macvlan_nics_are_veth_and_the_answer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "makes", lambda kind: kind != "macvlan")
    with Lab.of(resolve("two-nic", datapath="builtin")) as lab:
        assert "macvlan" not in lab.run("node1", "ip", "-d", "link")
        assert any("has no macvlan" in line for line in lab.request.warnings)
        lab.send("pod1", "ext1").must_receive()
    with Lab.of(resolve(with_kind(load("two-nic"), "veth"), datapath="builtin")) as lab:
        assert not lab.request.warnings


def test_inspect_shows_nics_as_a_machine_has_them() -> None:
    assert here("up", "two-nic", "--datapath", "builtin", "--id", "nicskind").status == 0
    try:
        shown = here("inspect", "node1", "--id", "nicskind").out
    finally:
        here("down", "nicskind")
    assert "\neth0 " in shown
    assert "cable" not in shown
