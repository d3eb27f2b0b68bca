"""Measured flows against predicted traces: what agrees, what differs, what cannot be compared, and what a run says."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from niclab import LAB_BASELINE, Flow, FlowResult, Settings, World, load
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import Version
from niclab.flow.trace import Trace
from niclab.flow.verdict import AGREES, Comparison, compare, count
from niclab.wire.sighting import Measurement, Sighting

from tests.support.flows import result, seen, to_ext1, tunnelled


def ways(flow: str, devices: str = "eth0", version: str = "1.20") -> Sequence[Trace]:
    settings = LAB_BASELINE.merged(Settings.of(devices=devices))
    world = World(Decisions(load("two-nic"), settings, Version.parse(version)))
    return world.predict(Flow.parse(flow))


def against(flow: FlowResult, expected: Sequence[Trace]) -> Comparison:
    return compare(replace(flow, expected=tuple(expected)))


POD = "10.244.1.10"


def test_a_flow_that_does_what_is_predicted() -> None:
    assert against(result("pod1 -> ext1", to_ext1(source=POD), to_ext1(source=POD)), ways("pod1 -> ext1")) == AGREES
    assert against(result("pod1 -> ext1", to_ext1(source="10.0.1.1")), ways("pod1 -> ext1", "eth+")) == AGREES
    assert against(result("pod1 -> pod2", tunnelled(pod=POD, peer="10.244.2.10")), ways("pod1 -> pod2")) == AGREES


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (
            to_ext1(nic="eth0", source=POD),
            "probe 0: node1.eth0, 10.244.1.10 seen at ext1; back by ext1.eth0",
        ),
        (to_ext1(source="10.0.1.1"), "probe 0: node1.eth1, 10.0.1.1 seen at ext1"),
        (to_ext1(source=POD)[:-1], "not answered; predicted: node1.eth1"),
        (to_ext1(source=POD)[:2], "never seen at ext1; back by no NIC, not answered"),
        ([], "probe 0: no NIC, never seen at ext1"),
    ],
    ids=["another NIC", "another source", "no answer", "not arrived", "nothing"],
)
def test_a_flow_that_does_something_else(way: list[Sighting], words: str) -> None:
    comparison = against(result("pod1 -> ext1", way), ways("pod1 -> ext1"))
    assert comparison.state == "differs"
    assert words in comparison.unpredicted


def test_every_probe_counts() -> None:
    """The second one left by another NIC: together they are no way, and neither is the second alone."""
    one = result("pod1 -> ext1", to_ext1(source=POD), to_ext1(nic="eth0", source=POD))
    assert against(one, ways("pod1 -> ext1")).unpredicted.startswith("probe 1: node1.eth0")


def test_an_outer_address_counts() -> None:
    outer = ("10.0.1.1", "10.0.0.2")
    way = [replace(s, outer=(outer,)) if s.outer else s for s in tunnelled(pod=POD, peer="10.244.2.10")]
    assert "predicted: node1.eth0 in a tunnel" in against(result("pod1 -> pod2", way), ways("pod1 -> pod2")).unpredicted


def test_what_cannot_be_compared_has_not_agreed() -> None:
    """Each kind says why: no answer is no agreement."""
    several = to_ext1(source=POD), [replace(s, destination="10.0.1.101") for s in to_ext1(nic="eth0")]
    flows = {
        "unmeasured: no": result("pod1 -> ext1", refusal="no", sent=0),
        "unmeasured: canaries ok · drops 3": result("pod1 -> ext1", to_ext1(), measurement=Measurement((), 3, 8)),
        "probes went to several addresses, and one of them was predicted": result("pod1 -> ext1", *several),
    }
    for why, flow in flows.items():
        for expected in (ways("pod1 -> ext1"), ()):
            comparison = against(flow, expected)
            assert comparison == Comparison("not compared", why)
            assert (comparison.unpredicted, str(comparison)) == ("", f"not compared: {why}")


def test_a_run_counts_all_three() -> None:
    assert count(["agrees", "differs", "agrees"]) == {"agrees": 2, "differs": 1, "not compared": 0}


def test_nothing_was_predicted() -> None:
    sent = against(result("pod1 -> ext1", to_ext1()), ())
    assert sent.unpredicted == "nothing was predicted, and node1.eth1 sent some"
    assert against(result("pod1 -> ext1", [seen("pod1", "out", POD)]), ()) == AGREES


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")
def test_a_run_tells_of_a_wrong_prediction_and_a_scenario_fails(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from niclab import Flow, World
        from scenarios.conftest import as_predicted
        predict = World.predict
        World.predict = lambda self, flow, size: predict(self, Flow(source="pod1", destination="ext0"), size)
        """
    )
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.cilium("1.20")
        def test_it(lab):
            lab.send("pod1", "ext1").must_receive()
        """
    )
    done = pytester.runpytest_subprocess("--datapath", "builtin")
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(
        [
            "E*pod1→ext1 did not do what is predicted. probe 0: node1.eth1, 10.0.1.1 seen at ext1*",
            "predictions: 0 of 1 flows agree, 1 differ, 0 were not compared",
            "*test_it*: pod1 → ext1: probe 0: node1.eth1*predicted: node1.eth0*",
        ]
    )
    (record,) = json.loads(Path(pytester.path, "artifacts/run-1/run.json").read_text())["tests"]
    assert record["flows"][0]["unpredicted"].startswith("probe 0: node1.eth1")
    assert record["flows"][0]["compared"] == "differs"
