"""The other direction: flows that begin outside and end at a pod. The reply is where several NICs surprise people.

A reply is never masqueraded, so the other end sees the pod's own address. Which NIC it leaves by is decided as for any
other packet of the pod.
"""

from __future__ import annotations

from niclab import Lab, fails_without

from .common import EXT0_BY_ETH1, EXT1_BY_ETH0, NATIVE, NODE_IPS_ON_ETH1, Row, rows


@rows()
@fails_without("the route by eth0", instead=EXT0_BY_ETH1, at="vxlan-both")
@fails_without(devices="eth0,eth1", instead="eth1", at="vxlan-both", version="1.18")
def test_pod_from_external_on_f0(lab: Lab, row: Row) -> None:
    """Up to 1.18, with only eth1 selected, the reply goes to eth1, where no host has ext0's address."""
    flow = lab.send("ext0", "pod1")
    assert flow.entered("node1") == {"eth0"}
    assert flow.source_seen_by("pod1") == "10.0.0.100"
    if row.only_device(lab) == "eth1":
        assert flow.answered_by("node1") == set()
        flow.must_not_receive()
    else:
        assert flow.answered_by("node1") == {"eth0"}
        flow.must_receive()


@rows()
@fails_without("the route by eth1", instead=EXT1_BY_ETH0, at="native-both")
def test_pod_from_external_on_f1(lab: Lab, row: Row) -> None:
    """The request comes in by eth1. Where eth0 is the only device, the reply leaves by eth0, through the router."""
    flow = lab.send("ext1", "pod1")
    assert flow.entered("node1") == {"eth1"}
    assert flow.answered_by("node1") == {row.only_device(lab) or "eth1"}
    flow.must_receive()


@rows()
@fails_without("the tunnel", instead=NATIVE, at="vxlan-both")
def test_pod_from_the_peers_node_ip(lab: Lab, row: Row) -> None:
    """A node reaches a remote pod as its own pods do: through the tunnel, or by the direct node route."""
    flow = lab.send("node2.eth0", "pod1")
    assert flow.left("node2") == {"eth0"}
    assert bool(flow.outer_on("node2.eth0")) == (row.routing == "vxlan")
    assert flow.answered_by("node1") == {row.only_device(lab) or "eth0"}
    flow.must_receive()


@rows()
@fails_without(
    "the answer's route by eth1", instead={"routes": ["node1: 10.0.1.2/32 via 10.0.0.2 dev eth0"]}, at="native-both"
)
def test_pod_from_the_peers_other_nic(lab: Lab, row: Row) -> None:
    """The source address is eth1's, and the packet leaves by eth0: the route to the pod decides."""
    flow = lab.send("node2.eth1", "pod1")
    assert flow.left("node2") == {"eth0"}
    assert flow.source_seen_by("pod1") == "10.0.1.2"
    assert flow.answered_by("node1") == {row.only_device(lab) or "eth1"}
    flow.must_receive()


@rows()
@fails_without("direct routes by eth0", instead=NODE_IPS_ON_ETH1, at="native-both")
def test_pod_from_pod_the_other_way_round(lab: Lab, row: Row) -> None:
    """A flow from pod2 to pod1 takes the same path as one from pod1 to pod2, reversed."""
    flow = lab.send("pod2", "pod1")
    if row.routing == "native" and row.only_device(lab) == "eth1":
        assert flow.left("node2") == set()
        flow.must_not_receive()
    else:
        assert flow.left("node2") == {"eth0"}
        assert flow.answered_by("node1") == {"eth0"}
        flow.must_receive()
