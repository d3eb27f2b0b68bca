"""Predicted and observed traces are one type: what is said of them does not ask which they are."""

from __future__ import annotations

import os
import re
from importlib import resources

import pytest
from niclab import LAB_BASELINE, Flow, FlowResult, Lab, Settings, World
from niclab.check import load
from niclab.cilium import operations
from niclab.cilium.decisions import Decisions
from niclab.cilium.tables import reason
from niclab.cilium.version import Version
from niclab.flow import picture
from niclab.flow.trace import Trace
from niclab.flow.verdict import compare
from niclab.kernel import edit
from niclab.net.operation import AddLink
from niclab.report import text
from niclab.report.matrix import seen

privileged = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")

FLOWS = {
    "two-nic": ("pod1 -> pod2", "pod1 -> ext1", "ext1 -> pod1", "pod1 -> node2.eth1", "node1.eth0 -> node2.eth1"),
    "services": ("pod1 -> web", "pod1 -> dns", "ext0 -> node1.eth0:tcp:30080"),
}


def shown(trace: Trace, result: FlowResult) -> object:
    """A trace in every form that people see, and the hosts on its cables."""
    flow, context = result.flow, result.context
    end = trace.request.arrived if result.served and trace.request.arrived else flow.destination
    hosts = [[hop.host for hop in path.hops if hop.host not in context.pod_node] for _, path in trace.paths]
    pictures = [*picture.pictures(trace, flow.source, end, context)]
    return str(trace), pictures, seen(flow, [trace], context), hosts


@privileged
@pytest.mark.parametrize("devices", ["eth0", "eth0,eth1"])
@pytest.mark.parametrize("name", FLOWS)
def test_a_predicted_trace_looks_like_the_observed_one(name: str, devices: str) -> None:
    """The picture, the cell and what each NIC sent: the same functions, the same words."""
    settings = LAB_BASELINE.merged(Settings.of(devices=devices, enable_ipv6=True))
    with Lab.deploy(name, settings, cilium_version="1.20") as lab:
        for result in lab.send_all(FLOWS[name], count=1):
            (trace,) = result.traces
            assert trace.carried
            assert shown(trace, result) in [shown(predicted, result) for predicted in result.expected]


@privileged
@pytest.mark.parametrize(
    ("route", "filtering", "first"),
    [
        (
            "node1: 10.0.0.2 via 10.0.1.2 dev eth1 src 10.0.0.1",
            "node2",
            "node1 ═ eth1 ═ f1 ═ eth1 ─ node2 ✗ (predicted: node2 drops 10.0.0.1 that comes in by eth1: rp_filter=1)",
        ),
        (
            "node2: 10.0.0.1 via 10.0.1.1 dev eth1 src 10.0.0.2",
            "node1",
            "node2 ═ eth1 ═ f1 ═ eth1 ─ node1 ✗ (predicted: node1 drops 10.0.0.2 that comes in by eth1: rp_filter=1)",
        ),
        ("node1: 10.0.0.2 via 10.0.1.2 dev eth1 src 10.0.0.1", "node1", ""),
    ],
    ids=["request", "reply", "neither"],
)
def test_a_drop_inside_a_node_ends_the_picture(route: str, filtering: str, first: str) -> None:
    """Taps stand outside: that the packet came in by the NIC does not say that the node took it."""
    host, _, words = route.partition(": ")
    topology = edit.add_route(load("two-nic"), host, words)
    topology = edit.set_sysctl(topology, filtering, "net.ipv4.conf.eth1.rp_filter", "1")
    with Lab.deploy(topology, LAB_BASELINE) as lab:
        lab.send_all(["node1.eth1 -> node2.eth1"], count=1)  # the neighbours on f1 are known from here on
        (result,) = lab.send_all(["node1.eth0 -> node2.eth0"], count=1)
        assert compare(result).state == "agrees"
        lines = " ".join("\n".join(text.trace(lab.title, [result], lab.reported)).split())
        assert first in lines
        assert ("✗" in lines) == bool(first) == ("✗" in result.explanation)


def test_an_operation_that_prediction_does_not_know_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be left out of the prediction without a word."""
    known = operations.node_operations
    monkeypatch.setattr(
        operations,
        "node_operations",
        lambda decisions, node: (*known(decisions, node), AddLink(node, "dummy0", "dummy")),
    )
    world = World(Decisions(load("two-nic"), LAB_BASELINE, Version(1, 20)))
    with pytest.raises(TypeError, match="prediction does not know AddLink"):
        world.predict(Flow.parse("pod1 -> ext1"))


def test_every_reason_is_in_the_table() -> None:
    """A decision is named by its id."""
    package = resources.files("niclab.flow.predict")
    code = "".join(package.joinpath(name).read_text() for name in ("walk.py", "machine.py"))
    ids = re.findall(r'noting\([\w.]+, "([a-z.-]+)"', code)
    assert len(ids) > 10
    assert all(reason(rule).words for rule in ids)
