"""Bonds, VLANs, VRFs and dummies as messages and as iproute2 lines; a bridge with a port on this kernel."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from niclab.host import stacked
from niclab.net.operation import AddBond, AddCable, AddDummy, AddNamespace, AddVlan, AddVrf, Operation, SetMaster
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from tests.support.kernel import privileged, substrate
from tests.support.netlink import CREATE, MAC, decoded

DOWN = {"type": 16, "request": CREATE, "state": "down"}
HEAD = {"family": 0, "ifi_type": 0, "index": 7, "flags": 0, "change": 0}
ONE_QUEUE = {"IFLA_NUM_TX_QUEUES": 1, "IFLA_NUM_RX_QUEUES": 1}


def made(name: str, kind: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    info: dict[str, Any] = {"IFLA_INFO_KIND": kind}
    info |= {"IFLA_INFO_DATA": data} if data else {}
    return HEAD | DOWN | {"IFLA_IFNAME": name, "IFLA_LINKINFO": info} | more


def test_bond() -> None:
    operation = AddBond("node1", "bond0", MAC, "active-backup", 1400, "eth0")
    data = {"IFLA_BOND_MODE": 1, "IFLA_BOND_MIIMON": 10, "IFLA_BOND_PRIMARY": 2}
    found = decoded(ifinfmsg, stacked.add_bond(operation, 7, 2))
    assert found == made("bond0", "bond", data, IFLA_ADDRESS=MAC, IFLA_MTU=1400, **ONE_QUEUE)
    line = f"ip -n node1 link add bond0 address {MAC} mtu 1400 type bond mode active-backup miimon 10 primary eth0"
    assert operation.lines() == [line]


def test_vlan() -> None:
    operation = AddVlan("node1", "eth0.100", "eth0", 100, 1500)
    found = decoded(ifinfmsg, stacked.add_vlan(operation, 7, 2))
    assert found == made("eth0.100", "vlan", {"IFLA_VLAN_ID": 100}, IFLA_LINK=2, IFLA_MTU=1500)
    assert operation.lines() == ["ip -n node1 link add link eth0 name eth0.100 mtu 1500 type vlan id 100"]


def test_vrf() -> None:
    operation = AddVrf("node1", "blue", MAC, 100)
    found = decoded(ifinfmsg, stacked.add_vrf(operation, 7))
    assert found == made("blue", "vrf", {"IFLA_VRF_TABLE": 100}, IFLA_ADDRESS=MAC, **ONE_QUEUE)
    assert operation.lines() == [f"ip -n node1 link add blue address {MAC} type vrf table 100"]


def test_dummy() -> None:
    operation = AddDummy("node1", "dummy0", MAC, 1500)
    found = decoded(ifinfmsg, stacked.add_dummy(operation, 7))
    found["IFLA_LINKINFO"].pop("IFLA_INFO_DATA", None)
    assert found == made("dummy0", "dummy", {}, IFLA_ADDRESS=MAC, IFLA_MTU=1500, **ONE_QUEUE)
    assert operation.lines() == [f"ip -n node1 link add dummy0 address {MAC} mtu 1500 type dummy"]


def test_master() -> None:
    found = decoded(ifinfmsg, stacked.set_master(2, 7))
    assert found == HEAD | {"index": 2, "type": 16, "request": 1, "state": "down", "IFLA_MASTER": 7}
    assert SetMaster("node1", "eth0", "bond0").lines() == ["ip -n node1 link set eth0 master bond0"]


@privileged
@pytest.mark.parametrize(
    ("feature", "operations"),
    [
        pytest.param("bond", [AddBond("n", "b", MAC, "active-backup", 1500)], marks=pytest.mark.needs("bond")),
        pytest.param("vlan", [AddVlan("n", "v", "e", 100, 1500)], marks=pytest.mark.needs("vlan")),
        pytest.param("vrf", [AddVrf("n", "f", MAC, 100)], marks=pytest.mark.needs("vrf")),
        pytest.param("dummy", [AddDummy("n", "d", MAC, 1500)], marks=pytest.mark.needs("dummy")),
    ],
)
def test_the_kernel_takes_it(feature: str, operations: list[Operation]) -> None:
    with substrate() as real:
        cable = AddCable("fabric", "p0", "02:01:00:00:00:01", "n", "e", "02:00:00:00:00:09")
        real.apply([AddNamespace("n"), cable, *operations])
        shown = subprocess.run(["ip", "-d", "-n", real["n"].name, "link"], capture_output=True, text=True, check=True)
        assert f"    {feature} " in shown.stdout
