"""Prediction against observation on the built-in datapath: every row of the devices matrix, every shipped topology."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from niclab import LAB_BASELINE, Lab, Settings, World
from niclab.check import load
from niclab.flow.verdict import compare
from niclab.topology.file import names
from niclab.topology.stacking import needs
from scenarios.common import DEVICES, NATIVE, VXLAN

from tests.support.agreement import disagreements

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")

FLOWS = [
    *(f"pod1 -> {end}" for end in ("pod2", "ext0", "ext1", "node2.eth0", "node2.eth1")),
    *(f"{end} -> pod1" for end in ("pod2", "ext0", "ext1", "node2.eth0", "node2.eth1")),
    "ext0 -> node1.eth0",
    "ext1 -> node1.eth0",
    "node1.eth0 -> node2.eth1",
]


@pytest.mark.parametrize("version", ["1.18", "1.20"])
@pytest.mark.parametrize("routing", [VXLAN, NATIVE], ids=["vxlan", "native"])
@pytest.mark.parametrize("devices", DEVICES)
def test_every_flow_of_the_matrix_does_what_is_predicted(devices: str, routing: Settings, version: str) -> None:
    settings = LAB_BASELINE.merged(routing).merged(Settings.of(devices=DEVICES[devices]))
    with Lab.deploy("two-nic", settings, cilium_version=version) as lab:
        assert disagreements(lab, lab.send_all(FLOWS, count=2)) == []


@pytest.mark.parametrize("devices", ["", "eth+"], ids=["unset", "wildcard"])
@pytest.mark.parametrize("masquerading", ["bpf", "iptables"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.needs(*needs(load(n)))) for n in names()])
def test_every_flow_of_a_shipped_topology_does_what_is_predicted(name: str, masquerading: str, devices: str) -> None:
    settings = LAB_BASELINE.merged(
        Settings.of(enable_ipv6=True, enable_bpf_masquerade=masquerading == "bpf", devices=devices)
    )
    with Lab.deploy(name, settings) as lab:
        results = lab.send_all(lab.topology.flows, count=2)
        assert results
        assert disagreements(lab, results) == []


def test_a_wrong_prediction_is_noticed() -> None:
    """The comparison can fail: what was predicted for other settings does not fit."""
    with Lab.deploy("two-nic", LAB_BASELINE.merged(Settings.of(devices="eth0,eth1"))) as lab:
        (result,) = lab.send_all(["pod1 -> ext1"], count=2)
    with Lab.deploy("two-nic", LAB_BASELINE.merged(Settings.of(devices="eth0"))) as other:
        comparison = compare(replace(result, expected=World(other.decisions).predict(result.flow)))
        assert comparison.state == "differs"
        assert comparison.why.startswith("probe 0: node1.eth1, ")
