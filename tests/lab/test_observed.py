"""The built-in datapath against recordings of real agents, packet by packet: every case, on veth and physical NICs.

The recordings (tests/data) are of agents on the two-nic lab; POD1 and POD2 stand for the pods' addresses. Each case is
run through the command line, for that is the contract others compare with.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from niclab.cli import FAIL, PASS, main

from tests.support.recorded import DATA, cases, command, differences, predicted

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")


@needs_root
@pytest.mark.parametrize(("version", "case"), cases())
def test_case_agrees_with_the_recording(version: str, case: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    # Where agents exit, pods have no address and nothing is measured: that is no pass.
    assert main(command(version, case)) == (FAIL if case.get("agent_exits") else PASS)
    trace = json.loads(capsys.readouterr().out)
    assert trace["measurement"] == {"canaries": "ok", "drops": 0, "without_carrier": []}
    assert differences(case, trace, either="ecmp" in case["case"]) == []


@pytest.mark.parametrize(("version", "case"), cases())
def test_case_agrees_with_the_prediction(version: str, case: dict[str, Any]) -> None:
    assert predicted(version, case) == []


def test_a_wrong_prediction_is_named() -> None:
    """What 1.20 did is not what is predicted of 1.18: every difference is named."""
    case = next(one for one in json.loads((DATA / "cilium-1.20-dev.json").read_text()) if one["case"] == "vxlan-auto")
    found = predicted("1.18", case)
    assert [line.partition(":")[0] for line in found] == ["pod-ext1", "pod-remote-node-eth1"]
    assert found[0].startswith("pod-ext1: recorded {'sent': {'node1.eth1'")


@pytest.mark.parametrize("change", ["nic", "count", "source", "device"])
def test_a_disagreement_is_found(change: str) -> None:
    """The comparison itself can fail: a recording that is altered no longer agrees with what it was made from."""
    case = json.loads((DATA / "cilium-1.20-dev.json").read_text())[0]
    flow = {
        "from": "pod1",
        "to": "ext0",
        "sent": 5,
        "received": 5,
        "transmitted_by": {"node1.eth0": {"requests": 5, "replies": 0, "inner_src": ["10.0.0.1"], "outer": []}},
        "server_saw_source": {"ext0": ["10.0.0.1"]},
    }
    reported = {"devices": ["eth0"], "direct_routing_device": "eth0", "masquerading": "BPF", "agent_exits": None}
    trace: dict[str, Any] = {"nodes": {"node1": reported}, "addresses": {}, "flows": [flow]}
    case = {**case, "flows": {"pod-ext0": case["flows"]["pod-ext0"]}}
    assert differences(case, trace, either=False) == []
    recorded = case["flows"]["pod-ext0"]
    if change == "nic":
        recorded["transmitted_by"]["node1.eth1"] = recorded["transmitted_by"].pop("node1.eth0")
    elif change == "count":
        recorded["received"] = 4
    elif change == "source":
        recorded["server_saw_source"]["ext0"] = ["POD1"]
    else:
        case["said"]["devices"] = ["eth0", "eth1"]
    assert len(differences(case, trace, either=False)) == 1
