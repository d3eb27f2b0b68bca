"""NICs of a node and what they stand on: a macvlan on the cable's end for a machine's, a veth for a container's."""

from __future__ import annotations

import dataclasses

import pytest
from niclab.check import load, loads
from niclab.check.amend import Amendments, amend, with_kind
from niclab.kernel import edit
from niclab.kernel.difference import difference
from niclab.kernel.plan import Plan
from niclab.net.operation import Operation, lines
from niclab.topology.model import Topology

BRIDGED = """\
name: bridged
fabrics: {f0: , f1: , f2: }
nodes:
  node1:
    nics: {eth0: {fabric: f0}, eth1: {fabric: f1}, eth2: {fabric: f2, kind: veth}}
    links: {br0: {bridge: eth0, addresses: 10.0.0.1/24}}
externals: {ext1: {nics: {eth0: {fabric: f1}}}}
"""


def shown(operations: tuple[Operation, ...], namespace: str = "node1") -> list[str]:
    prefix = f"ip -n {namespace} link "
    every = [line for operation in operations for line in lines(operation)]
    return [line.removeprefix(prefix) for line in every if line.startswith(prefix)]


@pytest.fixture
def bridged() -> Topology:
    return loads(BRIDGED, "bridged.yaml")


def test_a_machines_nic_has_a_filter_of_macs_unless_a_bridge_takes_everything(bridged: Topology) -> None:
    plan = Plan(bridged)
    assert {cable.tap: cable.mode for cable in plan.cables} == {
        "node1.eth0": "passthru",
        "node1.eth1": "private",
        "node1.eth2": "",
        "ext1.eth0": "",
    }
    made = shown(plan.operations)
    for line in (
        "set cable0 addrgenmode none",
        "set cable0 up",
        "add link cable0 name eth0 type macvlan mode passthru",
        "add link cable1 name eth1 address 02:00:00:00:01:01 type macvlan mode private",
    ):
        assert line in made
    assert not any("cable2" in line for line in made)


def test_a_kernel_without_macvlan_gives_every_node_veths(bridged: Topology) -> None:
    plan = Plan(bridged, veth=True)
    assert not any(cable.mode for cable in plan.cables)
    assert not any("macvlan" in line for line in shown(plan.operations))


def test_what_a_nic_stands_on_comes_and_goes_with_it() -> None:
    """The end goes, and the NIC with it; a new NIC stands on an end with a new number."""
    start = edit.pinned(load("two-nic"))
    plan = Plan(start)
    (end,) = [cable.end for cable in plan.cables if cable.tap == "node1.eth1"]
    without = edit.unplug(start, "node1.eth1")
    fewer = Plan(without, plan.cables)
    assert shown(difference(start, without, plan.cables, fewer.cables)) == [f"delete {end}"]
    again = Plan(start, fewer.cables)
    (number,) = [cable.number for cable in again.cables if cable.tap == "node1.eth1"]
    made = shown(difference(without, start, fewer.cables, again.cables))
    assert made[:2] == [f"set cable{number} addrgenmode none", f"set cable{number} up"]
    assert f"cable{number}" != end


def test_a_nic_that_is_plugged_is_of_its_nodes_kind() -> None:
    for kind in ("physical", "veth"):
        changed = edit.plug(
            with_kind(load("two-nic"), kind), "node1.eth9", fabric="f1", addresses=(), mtu=1500, up=True
        )
        assert changed.nodes["node1"].nics["eth9"].kind == kind


def test_one_word_says_the_kind_of_every_nodes_nics() -> None:
    changed = amend(load("two-nic"), Amendments.of({"nics": "veth"}))
    assert {nic.kind for node in changed.nodes.values() for nic in node.nics.values()} == {"veth"}
    assert changed.externals == load("two-nic").externals
    with pytest.raises(ValueError, match="nics='ipvlan'"):
        Amendments.of({"nics": "ipvlan"})
    mine = Amendments(nics="veth")
    assert mine.merged(Amendments()).nics == "veth"
    assert mine.merged(dataclasses.replace(mine, nics="physical")).nics == "physical"
