"""The bar charts at the end of a run: which flows get one, and what it shows."""

from __future__ import annotations

from typing import Any

import pytest
from niclab.report.summary import MANY, charts, shares

NODES = {"node1": {"devices": ["eth0", "eth1", "cilium_vxlan"]}, "node2": {"devices": ["eth0"]}}


def record(sent: int, **requests: int) -> dict[str, Any]:
    seen = {tap.replace("_", "."): {"requests": many, "replies": 7} for tap, many in requests.items()}
    return {
        "test": "test_x.py::test_it",
        "nodes": NODES,
        "flows": [{"from": "pod1", "to": "world", "sent": sent, "transmitted_by": seen}],
    }


@pytest.mark.parametrize(
    ("sent", "requests", "counts"),
    [
        (MANY, {"node1_eth0": 60, "node1_eth1": 40}, [("node1", {"eth0": 60, "eth1": 40})]),
        (MANY, {"node1_eth0": 100}, [("node1", {"eth0": 100, "eth1": 0})]),
        (MANY, {"node1_eth2": 100}, [("node1", {"eth0": 0, "eth1": 0, "eth2": 100})]),
        # A node that only answers shares nothing out; one that sends requests on does.
        (MANY, {"node1_eth0": 100, "node2_eth0": 0}, [("node1", {"eth0": 100, "eth1": 0})]),
        (MANY, {"node1_eth0": 100, "node2_eth0": 9}, [("node1", {"eth0": 100, "eth1": 0}), ("node2", {"eth0": 9})]),
        (MANY, {}, []),
        (MANY - 1, {"node1_eth0": 99}, []),
    ],
)
def test_shares_of_each_node_that_sends_requests(
    sent: int, requests: dict[str, int], counts: list[tuple[str, dict[str, int]]]
) -> None:
    assert [(one.host, dict(one.counts)) for one in shares(record(sent, **requests))] == counts


def test_a_chart_stands_under_its_tests_name() -> None:
    lines = list(charts([record(5, node1_eth0=5), record(200, node1_eth0=150, node1_eth1=50)]))
    assert lines[:2] == ["  test_x.py::test_it", "    pod1 → world: 200 left node1"]
    assert "150" in lines[2] and "75.0 %" in lines[2] and lines[2].count("█") == 30
    assert lines[3].count("█") == 10
    assert len(lines) == 4
