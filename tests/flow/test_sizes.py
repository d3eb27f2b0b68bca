"""How long a packet may be: by the pod's route, each NIC, and the far end of a cable; on the kernel as predicted."""

from __future__ import annotations

import os

import pytest
from niclab import LAB_BASELINE, Flow, Lab, Settings, World
from niclab.check import load
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import Version
from niclab.flow.verdict import compare

from tests.support.command import here

FLOWS = ("pod1 -> pod2", "pod1 -> ext1", "pod1 -> ext1:udp:5000", "ext0 -> pod1", "node1.eth1 -> node2.eth1")


def world(devices: str, version: int = 20) -> World:
    return World(Decisions(load("mtu"), LAB_BASELINE.merged(Settings.of(devices=devices)), Version(1, version)))


@pytest.mark.parametrize(
    ("devices", "flow", "longest", "why"),
    [
        ("eth0,eth1", "pod1 -> pod2", 1350, "Message too long: 1351 > 1350, the MTU of pod1's route"),
        ("eth0,eth1", "pod1 -> ext0", 1350, "Message too long: 1351 > 1350, the MTU of pod1's route"),
        ("eth0", "pod1 -> pod2", 1450, "Message too long: 1451 > 1450, the MTU of pod1's route"),
        ("eth0", "pod1 -> ext1", 1400, "1401 bytes are too long for node1's eth1 (1400)"),
        ("eth0", "node1.eth1 -> node2.eth1", 1400, "1401 bytes are too long for node1's eth1 (1400)"),
        ("eth0,eth1", "ext0 -> pod1", 1400, "1401 bytes are too long for node1's lxcpod1 (1400)"),
    ],
)
def test_the_shortest_mtu_on_the_way_decides(devices: str, flow: str, longest: int, why: str) -> None:
    predict = world(devices).predict
    assert all(way.carried for way in predict(Flow.parse(flow), longest))
    assert {way.request.lost for way in predict(Flow.parse(flow), longest + 1)} == {why}
    assert all(way.carried for way in predict(Flow.parse(flow)))


def test_a_longer_frame_than_the_other_end_takes_is_not_taken() -> None:
    topology = load("two-nic")
    node = topology.nodes["node1"]
    larger = node.nics["eth0"].model_copy(update={"mtu": 9000})
    topology = topology.with_hosts({"node1": node.model_copy(update={"nics": {**node.nics, "eth0": larger}})})
    flow = Flow.parse("node1.eth0 -> node2.eth0")
    predict = World(Decisions(topology, LAB_BASELINE, Version(1, 20))).predict
    assert [way.request.lost for way in predict(flow, 4000)] == ["4000 bytes are too long for node2's eth0 (1500)"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")
@pytest.mark.parametrize(("devices", "version"), [("eth0,eth1", "1.20"), ("eth0", "1.20"), ("eth0", "1.18")])
def test_the_kernel_does_what_is_predicted(devices: str, version: str) -> None:
    settings = LAB_BASELINE.merged(Settings.of(devices=devices))
    with Lab.deploy("mtu", settings, cilium_version=version) as lab:
        for size in (1350, 1351, 1400, 1401, 1450, 1451, 1500, 1501):
            for result in lab.send_all(FLOWS, count=1, size=size):
                assert compare(result).state == "agrees", (size, result, compare(result))


def test_an_explanation_says_the_mtu_and_the_size() -> None:
    words = ["explain", "mtu", "--set", "devices=eth0,eth1", "--flow", "pod1 -> pod2"]
    assert "pods' MTU 1400 (eth1, the lowest of the devices) · of their routes 1350" in here(*words).out
    text = " ".join(here(*words, "--size", "1351").out.split())
    assert "pod1 → pod2, 1351 bytes: lost request: no NIC, and lost: Message too long: 1351 > 1350" in text
    assert "(1400: eth1, the lowest of the devices, less 50 of the tunnel or encryption)" in text
    table = here("predict", *words[1:], "--size", "1351").out.splitlines()[-1]
    assert table.split(maxsplit=1)[1] == "left no NIC no answer"
