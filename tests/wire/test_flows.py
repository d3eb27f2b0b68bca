"""Every protocol and size on a real lab: each probe is seen exactly once on each cable it must pass."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from niclab import LAB_BASELINE, InputError, Lab, LabError, Settings
from niclab.flow.verdict import FlowResult

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")

COUNT = 7
PROTOCOLS = ("", ":udp:53", ":tcp:443")
protocols = pytest.mark.parametrize("protocol", PROTOCOLS, ids=["icmp", "udp", "tcp"])
sizes = pytest.mark.parametrize("size", [None, 1400], ids=["small", "1400"])


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    with Lab.deploy("two-nic", LAB_BASELINE.merged(Settings.of(devices="eth0,eth1"))) as lab:
        yield lab


@pytest.fixture(scope="module")
def dual() -> Iterator[Lab]:
    told = LAB_BASELINE.merged(Settings.of(devices="eth0,eth1", enable_ipv6=True, enable_ipv6_masquerade=True))
    with Lab.deploy("dual-stack", told) as lab:
        yield lab


def counted(flow: FlowResult) -> dict[str, tuple[int, int]]:
    return {tap: (one.requests, one.replies) for tap, one in flow.transmitted_by.items()}


@protocols
@sizes
def test_pod_to_external(standing: Lab, protocol: str, size: int | None) -> None:
    flow = standing.send("pod1", f"ext1{protocol}", count=COUNT, size=size)
    assert (flow.verdict, flow.sent, flow.received) == ("carried", COUNT, COUNT)
    assert counted(flow) == {"node1.eth1": (COUNT, 0)}
    assert flow.source_seen_by("ext1") == "10.0.1.1"
    assert flow.came_back_to("node1") == {"eth1"}


@protocols
@sizes
def test_external_to_pod(standing: Lab, protocol: str, size: int | None) -> None:
    flow = standing.send("ext1", f"pod1{protocol}", count=COUNT, size=size)
    assert (flow.verdict, flow.received) == ("carried", COUNT)
    assert counted(flow) == {"node1.eth1": (0, COUNT)}
    assert flow.source_seen_by("pod1") == "10.0.1.100"


@protocols
@sizes
def test_pod_to_pod_in_a_tunnel(standing: Lab, protocol: str, size: int | None) -> None:
    flow = standing.send("pod1", f"pod2{protocol}", count=COUNT, size=size)
    assert (flow.verdict, flow.received) == ("carried", COUNT)
    assert counted(flow) == {"node1.eth0": (COUNT, 0), "node2.eth0": (0, COUNT)}
    assert flow.outer_on("node1.eth0") == {("10.0.0.1", "10.0.0.2")}
    assert flow.source_seen_by("pod2") == standing.context.addresses["pod1"][0]


@protocols
def test_ipv6(dual: Lab, protocol: str) -> None:
    suffix = protocol.replace(":udp", ":udp6").replace(":tcp", ":tcp6") or ":icmp6"
    to_pod, to_external = dual.send_all([f"pod1 -> pod2{suffix}", f"pod1 -> ext1{suffix}"], count=COUNT, size=1280)
    for flow in (to_pod, to_external):
        assert (flow.verdict, flow.received) == ("carried", COUNT), flow.explanation
        assert ":" in str(flow.source_seen_by(flow.flow.destination))
    assert to_pod.outer_on("node1.eth0")
    assert to_external.left("node1") == {"eth1"}


def test_all_at_once_are_kept_apart(standing: Lab) -> None:
    """Flows of every kind in one measurement, the same pair of hosts among them several times."""
    ends = [("pod1", "pod2"), ("pod2", "pod1"), ("pod1", "ext0"), ("ext0", "pod2"), ("pod1", "node2.eth1")]
    words = [f"{a} -> {b}{protocol}" for a, b in ends for protocol in PROTOCOLS]
    for flow in standing.send_all(words, count=COUNT):
        assert (flow.verdict, flow.received) == ("carried", COUNT), flow.explanation
        assert all(count in ((COUNT, 0), (0, COUNT)) for count in counted(flow).values())


def test_more_than_a_packet_holds_is_an_error(standing: Lab) -> None:
    for size in (10, 70000):
        with pytest.raises(LabError, match=f"size {size}"):
            standing.send("pod1", "ext1", size=size)
    assert standing.send("pod1", "ext1").verdict == "carried"


def test_flows_that_cannot_be_are_named_all(standing: Lab) -> None:
    with pytest.raises(InputError) as raised:
        standing.send_all(["pod1 -> nobody", "pod1 -> pod1", "pod1 -> node1"])
    assert len(raised.value.problems) == 3
    with pytest.raises(InputError, match="is not a flow"):
        standing.send("pod1", "ext1 or so")
