"""Flows made by hand, for tests of what is shown of them: two nodes, two fabrics, an external on each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from niclab.flow.trace import Context
from niclab.flow.verdict import FlowResult
from niclab.topology.model import Flow
from niclab.wire.sighting import Measurement, Sighting

CONTEXT = Context(
    topology="two-nic",
    nics={
        "node1.eth0": "f0",
        "node1.eth1": "f1",
        "node2.eth0": "f0",
        "node2.eth1": "f1",
        "ext0.eth0": "f0",
        "ext1.eth0": "f1",
        "gw.p0": "f0",
        "gw.p1": "f1",
    },
    nodes=("node1", "node2"),
    pod_node={"pod1": "node1", "pod1b": "node1", "pod2": "node2"},
    addresses={
        "pod1": ("10.244.1.7", "fd00::1:7"),
        "pod1b": ("10.244.1.8",),
        "pod2": ("10.244.2.7", "fd00::2:7"),
        "ext1": ("10.0.1.100",),
    },
    reported={
        "node1": "devices [eth0], direct routing device eth0",
        "node2": "devices [eth0], direct routing device eth0",
    },
    unmasqueraded=frozenset({"node2.eth0"}),
)
HOLDS = Measurement(taps=8)

OUTER = (("10.0.0.1", "10.0.0.2"),)
BACK = (("10.0.0.2", "10.0.0.1"),)


def seen(
    tap: str,
    direction: Literal["out", "in", "past"],
    source: str,
    kind: Literal["request", "reply", "error"] = "request",
    *,
    outer: tuple[tuple[str, str], ...] = (),
    note: str = "",
) -> Sighting:
    """One sighting, number and time to come; `past`: flooded to a NIC that the frame is not addressed to."""
    return Sighting(
        tap=tap,
        timestamp_ns=0,
        outbound=direction == "out",
        arrives=direction == "in",
        kind=kind,
        number=0,
        source=source,
        destination="",
        outer=outer,
        encapsulation=("vxlan",) if outer else (),
        note=note,
    )


def result(
    flow: str,
    *ways: Sequence[Sighting],
    sent: int | None = None,
    measurement: Measurement = HOLDS,
    refusal: str = "",
    leaks: tuple[str, ...] = (),
) -> FlowResult:
    """A result whose probe n took the n-th of the ways."""
    return FlowResult(
        Flow.parse(flow),
        len(ways) if sent is None else sent,
        tuple(numbered(ways)),
        measurement,
        CONTEXT,
        refusal,
        leaks,
    )


def numbered(ways: Iterable[Sequence[Sighting]]) -> Iterable[Sighting]:
    for number, way in enumerate(ways):
        for step, sighting in enumerate(way):
            yield replace(sighting, number=number, timestamp_ns=number * 1000 + step)


def to_ext1(nic: str = "eth1", source: str = "10.244.1.7") -> list[Sighting]:
    """pod1 → ext1 by one of node1's NICs, with its answer."""
    return [
        seen("pod1", "out", "10.244.1.7"),
        seen(f"node1.{nic}", "out", source),
        seen("ext1.eth0", "in", source),
        seen("ext1.eth0", "out", "10.0.1.100", "reply"),
        seen(f"node1.{nic}", "in", "10.0.1.100", "reply"),
        seen("pod1", "in", "10.0.1.100", "reply"),
    ]


def tunnelled(nic: str = "eth0", pod: str = "10.244.1.7", peer: str = "10.244.2.7") -> list[Sighting]:
    """pod1 → pod2 in a tunnel by the same NIC on both nodes, with its answer."""
    return [
        seen("pod1", "out", pod),
        seen(f"node1.{nic}", "out", pod, outer=OUTER),
        seen(f"node2.{nic}", "in", pod, outer=OUTER),
        seen("pod2", "in", pod),
        seen("pod2", "out", peer, "reply"),
        seen(f"node2.{nic}", "out", peer, "reply", outer=BACK),
        seen(f"node1.{nic}", "in", peer, "reply", outer=BACK),
        seen("pod1", "in", peer, "reply"),
    ]
