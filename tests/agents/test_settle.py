"""What is told from an agent's own words about a change: pure."""

from __future__ import annotations

import datetime
from dataclasses import replace

from niclab.agents.settle import loaded, reloads
from niclab.check import load
from niclab.cilium.decisions import Decisions, flushed
from niclab.cilium.operations import operations
from niclab.cilium.version import Version
from niclab.kernel import edit
from niclab.kernel.difference import update
from niclab.net.operation import AddRoute, Remove, SetPacketRules
from niclab.settings import LAB_BASELINE, Settings

HEALTH = """\
[stdout]
{"ID": {"Module": ["agent", "controlplane", "auth"], "Component": ["job-gc"]}, "LastOK": "2026-11-23T12:40:00Z"}
{"ID": {"Module": ["agent", "datapath", "orchestrator"], "Component": ["job-reinitialize"]}, "Level": "OK",
 "LastOK": "2026-11-23T12:32:12.894817505Z", "Updated": "2026-11-23T12:32:12.894817505Z", "Count": 1}
"""
DEGRADED = """\
{"ID": {"Module": ["agent", "datapath", "orchestrator"], "Component": ["job-reinitialize"]}, "Level": "Degraded",
 "Message": "Failed to reinitialize datapath",
 "Error": "failed to write node configuration file at node_config.h: IPv4 direct routing device not found",
 "LastOK": "0001-01-01T00:00:00Z", "Updated": "2026-11-23T16:32:36.380395081Z", "Count": 2}
"""


def decisions(version: str, **settings: str) -> Decisions:
    told = LAB_BASELINE.merged(Settings.of(**settings))
    return Decisions(edit.pinned(load("two-nic")), told, Version.parse(version))


def test_when_programs_were_loaded_is_the_orchestrators_word() -> None:
    wanted = datetime.datetime(2026, 11, 23, 12, 32, 12, 894817, tzinfo=datetime.UTC)
    assert loaded(HEALTH) == wanted.timestamp()
    assert loaded("") == 0.0


def test_an_agent_that_cannot_load_is_not_waited_for() -> None:
    assert loaded(DEGRADED) == datetime.datetime(2026, 11, 23, 16, 32, 36, 380395, tzinfo=datetime.UTC).timestamp()


def test_programs_are_loaded_again_when_the_selected_devices_or_their_addresses_change() -> None:
    for version, again in (("1.18", True), ("1.20", False)):
        before = decisions(version, devices="eth0,eth1")
        down = before.after(edit.link(before.topology, "node1.eth1", up=False))
        assert reloads(before.nodes["node1"], down.nodes["node1"]) is again
        routed = before.after(edit.add_route(before.topology, "node1", "10.9.0.0/16 dev eth1"))
        assert not reloads(before.nodes["node1"], routed.nodes["node1"])
        more = before.after(edit.add_address(before.topology, "node1.eth1", "10.0.1.77/24"))
        assert reloads(before.nodes["node1"], more.nodes["node1"])


def test_a_direct_route_comes_back_with_the_validation_only() -> None:
    native = {"auto_direct_node_routes": "true", "ipv4_native_routing_cidr": "10.244.0.0/16"}
    start = decisions("1.20", routing="native", devices="eth0,eth1", **native)
    (route,) = start.direct_routes("node1")[0]
    down = start.after(edit.link(start.topology, "node1.eth0", up=False))
    up = down.after(edit.link(down.topology, "node1.eth0", up=True))
    assert down.direct_routes("node1")[0] == up.direct_routes("node1")[0] == ()
    assert up.validated().direct_routes("node1")[0] == (route,)
    assert up.direct_routes("node2")[0]


def test_only_the_difference_is_done_and_the_kernel_is_not_told_what_it_did_itself() -> None:
    before = decisions("1.18", devices="eth0,eth1")
    after = before.after(edit.link(before.topology, "node1.eth1", up=False))
    gone = flushed(before.topology, after.topology)
    assert ("node1", "eth1") in gone
    done = update(operations(before), operations(after), gone)
    assert done
    assert {one.namespace for one in done} <= {"node1", "pod1"}
    assert not [
        operation
        for operation in done
        if isinstance(operation, Remove)
        and isinstance(operation.entry, AddRoute)
        and "eth1" in operation.entry.route.devices
    ]
    assert all(one.replace for one in done if isinstance(one, AddRoute))
    assert all(one.again for one in done if isinstance(one, SetPacketRules))
    assert update(operations(before), operations(before), frozenset()) == ()


def test_an_agent_that_runs_does_not_exit_for_want_of_a_device() -> None:
    before = decisions("1.18", devices="eth1")
    down = before.after(edit.link(before.topology, "node1.eth1", up=False))
    assert down.nodes["node1"].selected == ()
    assert down.nodes["node1"].agent_exits is None
    assert replace(down, memory={}).nodes["node1"].agent_exits is not None
