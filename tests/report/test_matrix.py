"""The NIC matrix, cell by cell and as text."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from niclab import LAB_BASELINE, Flow, Settings, World
from niclab.check import loads
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import Version
from niclab.flow.verdict import FlowResult
from niclab.report import predicted
from niclab.report.matrix import Cell, Row, cell, render, row, unfolded
from niclab.wire.sighting import Measurement

from tests.support.flows import CONTEXT, result, seen, to_ext1, tunnelled

TO_NODE = [seen("node1.eth0", "out", "10.244.1.7"), seen("node2.eth0", "in", "10.244.1.7")]
FROM_EXT = [
    seen("node1.eth1", "in", "10.0.1.100"),
    seen("node1.eth1", "out", "10.244.1.7", "reply"),
    seen("ext1.eth0", "in", "10.244.1.7", "reply"),
]


@pytest.mark.parametrize(
    ("flow", "text", "loud"),
    [
        (result("pod1 -> ext1", to_ext1()), "eth1 pod address!", True),
        (result("pod1 -> ext1", to_ext1(source="10.0.1.1")), "eth1 snat", False),
        (result("pod1 -> ext1", to_ext1()[:2]), "eth1 pod address! no answer", True),
        (result("pod1 -> ext1", to_ext1(), to_ext1()[:2]), "eth1 pod address! 1/2 answered", True),
        (result("pod1 -> ext1", to_ext1()[:1]), "left no NIC no answer", True),
        (
            result("pod1 -> ext1", to_ext1(), to_ext1("eth0")),
            "1 of 2 by eth1 pod address!, 1 by eth0 pod address!",
            True,
        ),
        (result("pod1 -> ext1", to_ext1(), leaks=("node1.eth1",)), "eth1 pod address! leaked", True),
        (result("pod1 -> pod2", tunnelled()), "eth0 vxlan", False),
        (result("pod1 -> node2.eth0", TO_NODE), "eth0 pod address no answer", True),
        (result("pod1 -> pod1b", [seen("pod1", "in", "10.244.1.8", "reply")]), "on the node", False),
        (result("ext1 -> pod1", FROM_EXT), "eth1", False),
        (
            result("ext1 -> pod1", [FROM_EXT[0], seen("node1.eth0", "out", "10.244.1.7", "reply"), FROM_EXT[2]]),
            "eth1 reply eth0",
            True,
        ),
        (result("ext1 -> pod1", sent=1), "never arrived no answer", True),
        (result("pod1 -> ext1", to_ext1(), measurement=Measurement(drops=1, taps=1)), "unmeasured", True),
        (replace(result("pod1 -> ext1"), context=replace(CONTEXT, exited=frozenset({"node1"}))), "agent exits", True),
        (replace(result("ext1 -> pod2"), context=replace(CONTEXT, exited=frozenset({"node2"}))), "agent exits", True),
        (replace(result("ext1 -> pod2"), context=replace(CONTEXT, exited=frozenset({"node1"}))), "unmeasured", True),
        (result("pod1 -> ext1", refusal="agent-pod and ext1 share no address family"), "unmeasured", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cell(flow: FlowResult, text: str, loud: bool) -> None:
    assert cell(flow) == Cell(text, loud)


def test_only_an_agent_that_exits_makes_a_cell_say_so() -> None:
    """A pod may be named after an agent, and still have no address of the family that is asked for."""
    topology = loads(
        """
        name: named
        fabrics: {f0: {}}
        nodes:
          node1:
            nics: {eth0: {fabric: f0, addresses: [10.0.0.1/24]}}
            pod_cidrs: [10.244.1.0/24]
            pods: {agent-pod: {}}
        externals:
          ext6: {nics: {eth0: {fabric: f0, addresses: ["fd00::100/64"]}}}
        """,
        "named",
    )
    world = World(Decisions(topology, LAB_BASELINE.merged(Settings.of(devices="eth0")), Version(1, 20)))
    flow = Flow.parse("agent-pod -> ext6")
    assert predicted.cell(world, flow, world.predict(flow)) == Cell("not sent", loud=True)


def test_render() -> None:
    rows = [
        row("lab a", "(unset)", [result("pod1 -> ext1", to_ext1()), result("pod1 -> pod2", tunnelled())]),
        row("lab a", "eth0,eth1", [result("pod1 -> ext1", to_ext1(source="10.0.1.1"))]),
        row("lab b", "eth0", [result("pod1 -> pod2", tunnelled())]),
    ]
    assert render(rows).splitlines() == [
        "lab a",
        "devices    pod1→ext1          pod1→pod2",
        "(unset)    eth1 pod address!  eth0 vxlan",
        "eth0,eth1  eth1 snat          ·",
        "",
        "lab b",
        "devices  pod1→pod2",
        "eth0     eth0 vxlan",
    ]


def test_columns_that_do_not_fit_continue_below() -> None:
    cells = tuple((f"pod1→ext{number}", Cell("eth0 snat")) for number in range(5))
    lines = render([Row("lab", "eth0", cells)], width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert sum(line.startswith("devices") for line in lines) == 2
    assert sum(line.count("eth0 snat") for line in lines) == 5


def test_a_column_wider_than_the_terminal_is_shown_all_the_same() -> None:
    assert "eth0 snat" in render([Row("lab", "eth0", (("a flow", Cell("eth0 snat")),))], width=5)


def test_labs_of_one_label_are_told_apart_by_what_they_were_told() -> None:
    cells = (("flow", Cell("x")),)
    same = Row("lab", "eth0", cells, (("devices", "eth0"), ("enable-bpf-masquerade", "true")))
    other = Row("lab", "eth0", cells, (("devices", "eth0"), ("enable-bpf-masquerade", "false"), ("mtu", "9000")))
    assert render([same, same]).splitlines()[2:] == ["eth0     x"]
    assert [line.rstrip(" x") for line in render([same, other]).splitlines()[2:]] == [
        "eth0 enable-bpf-masquerade=true",
        "eth0 enable-bpf-masquerade=false mtu=9000",
    ]


def test_the_last_measurement_counts() -> None:
    rows = [Row("lab", "eth0", (("flow", Cell(text)),)) for text in ("old", "new")]
    assert "old" not in render(rows)


def test_a_row_survives_json() -> None:
    one = row("lab", "eth0", [result("pod1 -> ext1", to_ext1())], {"devices": "eth0"})
    assert unfolded(json.loads(json.dumps(one.folded()))) == one


def test_nothing_measured_is_nothing_shown() -> None:
    assert render([]) == ""


def test_a_label_too_long_for_a_column_is_a_note_and_rows_without_a_cell_are_left_out() -> None:
    long = {"routes": "node1: 10.0.0.2/32 via 10.0.1.2 dev eth1; node2: 10.0.0.1/32 via 10.0.1.1 dev eth1"}
    rows = [
        Row("lab", "eth0", (("a", Cell("x")),), ()),
        Row("lab", "eth0", (("b", Cell("y")),), tuple(long.items())),
    ]
    assert render(rows, width=12).splitlines() == [
        "lab",
        "devices              a",
        "eth0 (nothing else)  x",
        "devices              b",
        "eth0 [1]             y",
        f"[1] routes={long['routes']}",
    ]
