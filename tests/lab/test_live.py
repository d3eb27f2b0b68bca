"""A lab that is changed while it stands, on a real kernel: what is predicted is seen, and undoing brings all back."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from niclab import Lab
from niclab.check import load, loads
from niclab.errors import InputError, LabError
from niclab.host.waiting import wait_until
from niclab.lab import Undo
from niclab.settings import LAB_BASELINE, Settings

from tests.support.agreement import disagreements

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")

FLOWS = ("pod1 -> pod2", "pod1 -> ext0", "pod1 -> ext1", "pod1 -> node2.eth1", "ext1 -> pod1")
TOPOLOGIES = Path(__file__).parents[2] / "topologies"


def state(lab: Lab) -> list[str]:
    """Everything that a change could leave behind on node1 and in the fabric, once all IPv6 addresses are valid.

    Not the ends of cables below NICs: they have new names.
    """
    wait_until(lambda: shown(lab), 10, done=lambda lines: not any("tentative" in line for line in lines), every=0.05)
    return shown(lab)


def shown(lab: Lab) -> list[str]:
    lines: list[str] = []
    asked = (["-4", "route", "show", "table", "all"], ["-6", "route", "show", "table", "all"], ["-o", "addr"], ["rule"])
    for role in ("node1", "fabric", "pod1"):
        for words in asked:
            command = ["ip", "-n", lab.namespaces[role], *words]
            lines += subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    tables = ["ip", "netns", "exec", lab.namespaces["node1"], "nft", "list", "ruleset"]
    lines += subprocess.run(tables, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = [line for line in lines if " dev cable" not in line]
    return sorted(" ".join(line.split()[1:]) if line[:1].isdigit() and ": " in line else line for line in lines)


@pytest.fixture(params=["1.18", "1.20"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    settings = LAB_BASELINE.merged(Settings.of(devices="eth+"))
    with Lab.deploy("two-nic", settings, cilium_version=request.param) as made:
        yield made


def test_every_change_does_what_is_predicted_and_is_undone(lab: Lab) -> None:
    before = state(lab)
    reported = lab.reported
    changes: tuple[Callable[[], Undo], ...] = (
        lambda: lab.link_down("node1.eth1"),
        lambda: lab.link_down("node1.eth0"),
        lambda: lab.plug("node1.eth2", fabric="f1", addresses=["10.0.1.51/24"]),
        lambda: lab.unplug("node1.eth1"),
        lambda: lab.del_address("node1.eth1", "10.0.1.1/24"),
        lambda: lab.add_address("node1.eth1", "10.0.1.77/24"),
        lambda: lab.del_route("node1", "default via 10.0.0.254"),
        lambda: lab.add_route("node1", "10.0.1.100/32 via 10.0.0.254"),
        lambda: lab.add_rule("node1", "to 10.0.1.100 blackhole"),
    )
    for change in changes:
        with change():
            results = lab.send_all(FLOWS, count=2)
            assert all(result.measurement.holds for result in results)
            assert not disagreements(lab, results)
        assert lab.reported == reported
        assert [line for line in state(lab) if "fe80" not in line] == [line for line in before if "fe80" not in line]


def test_a_link_that_comes_back_has_no_default_route(lab: Lab) -> None:
    def default_routes() -> str:
        command = ["ip", "-n", lab.namespaces["node1"], "route", "show", "default"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert default_routes() == "default via 10.0.0.254 dev eth0"
    lab.link_down("node1.eth0")
    lab.link_up("node1.eth0")
    assert not default_routes()
    assert not any(route.is_default for route in lab.topology.nodes["node1"].routes)
    lab.add_route("node1", "default via 10.0.0.254")
    assert default_routes() == "default via 10.0.0.254 dev eth0"


def test_a_new_nic_has_a_tap_a_canary_and_a_place_in_the_record(lab: Lab) -> None:
    taps = lab.send("pod1", "ext1").measurement.taps
    with lab.plug("node1.eth2", fabric="f1", addresses="10.0.1.51/24"):
        lab.unplug("node1.eth1")
        flow = lab.send("pod1", "ext1")
        assert flow.left("node1") == {"eth2"}
        assert flow.measurement.taps == taps
        assert "node1.eth1" not in flow.context.nics
    assert lab.send("pod1", "ext1").left("node1") == {"eth1"}


def test_what_was_measured_before_keeps_its_expectation(lab: Lab) -> None:
    first = lab.send("pod1", "ext1")
    lab.link_down("node1.eth1")
    second = lab.send("pod1", "ext1")
    assert not disagreements(lab, [first, second])
    assert [str(one) for one in first.expected] != [str(one) for one in second.expected]
    assert second.measurement.without_carrier == ("node1.eth1",)


def test_a_direct_route_that_its_link_took_along_waits_for_the_agents_validation() -> None:
    text = (TOPOLOGIES / "two-nic.yaml").read_text().replace("node_ip: 10.0.0.{n}", "node_ip: 10.0.1.{n}")
    native = {"auto_direct_node_routes": "true", "ipv4_native_routing_cidr": "10.244.0.0/16"}
    settings = LAB_BASELINE.merged(Settings.of(routing="native", devices="eth0,eth1", **native))
    with Lab.deploy(loads(text, "two-nic.yaml"), settings) as lab:
        assert lab.send("pod1", "pod2").left("node1") == {"eth1"}
        lab.link_down("node1.eth1")
        lab.link_up("node1.eth1")
        flow = lab.send("pod1", "pod2")
        assert flow.verdict == "lost"
        assert flow.left("node1") == {"eth0"}
        assert not disagreements(lab, [flow])
        lab.validate_nodes()
        assert lab.send("pod1", "pod2").left("node1") == {"eth1"}


def test_an_external_that_is_down_answers_nobody(lab: Lab) -> None:
    with lab.link_down("ext1.eth0"):
        flow = lab.send("pod1", "ext1")
        assert flow.verdict == "lost"
        assert flow.measurement.without_carrier == ("ext1.eth0",)
    assert lab.send("pod1", "ext1").verdict == "carried"


def test_sysctls_are_set_and_set_back(lab: Lab) -> None:
    key = "net.ipv4.conf.eth1.rp_filter"
    path = ["ip", "netns", "exec", lab.namespaces["node1"], "sysctl", "-n", key]
    with lab.sysctl("node1", key, 1):
        assert subprocess.run(path, capture_output=True, text=True, check=True).stdout == "1\n"
    assert subprocess.run(path, capture_output=True, text=True, check=True).stdout == "0\n"


def test_what_is_not_there_is_refused_and_nothing_changes(lab: Lab) -> None:
    before = state(lab)
    refusals: tuple[tuple[Callable[[], Undo], str], ...] = (
        (lambda: lab.link_down("node1.eth7"), "node1 has no NIC 'eth7'"),
        (lambda: lab.link_down("node7.eth0"), "there is no host 'node7'"),
        (lambda: lab.link_down("node1"), "'node1' is not a host's NIC"),
        (lambda: lab.plug("node1.eth1", fabric="f1"), "it is plugged already"),
        (lambda: lab.plug("node1.eth2", fabric="f9"), "there is no fabric 'f9'"),
        (lambda: lab.plug("node1.eth2", fabric="f1", addresses="10.0.1.2/24"), "10.0.1.2 is node2.eth1's"),
        (lambda: lab.del_address("node1.eth1", "10.9.9.9/24"), "the NIC has no such address"),
        (lambda: lab.add_route("node1", "default via 10.9.9.9 dev eth1 metric 5"), "gateway 10.9.9.9 is on no network"),
        (lambda: lab.del_route("node1", "10.9.0.0/16 dev eth0"), "the host has no such route of its own"),
        (lambda: lab.del_rule("node1", "from 10.9.0.0/16 lookup 9"), "the host has no such rule"),
        (lambda: lab.sysctl("node1", "kernel.panic", 1), "it does not belong to the host"),
        (lambda: lab.sysctl("node1", "net.flux", 1), "no network namespace has the sysctl net.flux"),
    )
    for refused, words in refusals:
        with pytest.raises(InputError, match=re.escape(words)):
            refused()
    with pytest.raises(LabError, match=r"no sysctl net\.ipv4\.tcp_tw_recycle"):
        lab.sysctl("node1", "net.ipv4.tcp_tw_recycle", 1)  # gone since Linux 4.12
    assert state(lab) == before
    assert lab.changed_after is None


def test_ipv6_addresses_go_with_the_link(lab: Lab) -> None:
    settings = LAB_BASELINE.merged(Settings.of(devices="eth0,eth1", enable_ipv6="true"))
    with Lab.deploy(load("dual-stack"), settings) as dual:
        nic = dual.topology.nodes["node1"].nics["eth1"]
        assert nic.addresses_of(6)
        with dual.link_down("node1.eth1"):
            assert not dual.topology.nodes["node1"].nics["eth1"].addresses_of(6)
            dual.link_up("node1.eth1")
            assert not disagreements(dual, dual.send_all(dual.topology.flows))
        assert dual.topology.nodes["node1"].nics["eth1"] == nic
