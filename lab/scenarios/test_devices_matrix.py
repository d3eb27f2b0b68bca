"""`devices`, with every value people try, over VXLAN and native routing: which NIC carries what, and with which source.

Every node has eth0 on fabric f0 (10.0.0.0/24), where its default route and its node IP are, and eth1 on fabric f1
(10.0.1.0/24). A router joins the fabrics. ext0 and ext1, one on each, know the way back to the pods and nothing else:
ext1 cannot answer a packet whose source is node1's address on f0.

One test is one column of the matrix, one parameter one row. Two rules explain almost every cell:

* up to 1.18, with exactly one selected device, every packet of a pod that is not tunnelled goes to that device without
  a look at the routing table; from 1.19 on, and with more devices, the kernel's routes decide;
* a packet is masqueraded only where it leaves by a selected device: on another NIC the pod's own address is seen.
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without

from .common import EXT0_BY_ETH1, NODE1_ETH0, NODE1_ETH1, NODE_IPS_ON_ETH1, PEERS_BY_ETH1, UNMASQUERADED, Row, rows


@rows()
@fails_without(
    "eth1 without a default route",
    instead={"routes": ["all: default via 10.0.1.254 dev eth1 metric 200"]},
    at="vxlan-unset",
)
@fails_without(devices="eth0,eth1", instead="eth0", at="native-both")
def test_the_agent_says_which_devices_it_selected(lab: Lab, row: Row) -> None:
    """An empty list means detection; a list is taken as it is; a wildcard is a prefix."""
    for node in ("node1", "node2"):
        assert lab.reported[node].devices == row.selected


@rows("unset", "eth0", "both", "wildcard")
@fails_without("the node IP on eth0", instead=NODE_IPS_ON_ETH1, at="native-both")
def test_the_direct_routing_device_has_the_node_ip(lab: Lab, row: Row) -> None:
    assert lab.reported["node1"].direct_routing_device == "eth0"


@rows("eth1")
@fails_without(devices="eth1", instead="eth0,eth1")
def test_a_single_device_is_the_direct_routing_device_wherever_the_node_ip_is(lab: Lab, row: Row) -> None:
    assert lab.reported["node1"].direct_routing_device == "eth1"


@pytest.mark.settings(devices="eth9")
@fails_without(devices="eth9", instead="eth0")
def test_a_name_that_does_not_exist_selects_nothing_and_the_agent_exits(lab: Lab) -> None:
    """There is no fall-back to detection; kube-proxy replacement cannot do without a device."""
    for node in ("node1", "node2"):
        assert "unable to determine direct routing device" in (lab.reported[node].agent_exits or "runs")
    assert lab.send("pod1", "pod2").verdict == "unmeasured"


@rows(routing="vxlan")
@fails_without("the peer's node IP by eth0", instead=PEERS_BY_ETH1, at="vxlan-eth1")
def test_a_tunnel_follows_the_route_to_the_peers_node_ip(lab: Lab, row: Row) -> None:
    """`devices` does not choose the tunnel's NIC: the kernel's route to the outer destination does."""
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == {"eth0"}
    assert flow.came_back_to("node1") == {"eth0"}
    assert flow.outer_on("node1.eth0") == {("10.0.0.1", "10.0.0.2")}
    assert flow.source_seen_by("pod2") == lab.address("pod1")
    flow.must_receive()


@rows(routing="native")
@fails_without("direct routes by eth0", instead=NODE_IPS_ON_ETH1, at="native-both")
@fails_without(devices="eth1", instead="eth0,eth1", at="native-eth1", version="1.18")
def test_native_pod_traffic_follows_the_direct_node_route(lab: Lab, row: Row) -> None:
    """One route per pod CIDR, by the NIC of the route to the peer's node IP, whatever `devices` lists."""
    flow = lab.send("pod1", "pod2")
    if row.only_device(lab) == "eth1":
        # Nobody on f1 has the pod's address: the packet waits there for an ARP answer and never leaves.
        assert flow.left("node1") == set()
        flow.must_not_receive()
    else:
        assert flow.left("node1") == {"eth0"}
        assert flow.came_back_to("node1") == {"eth0"}
        assert flow.source_seen_by("pod2") == lab.address("pod1")
        flow.must_receive()


@rows()
@fails_without(devices="eth0", instead="eth1", at="vxlan-eth0")
@fails_without("the route by eth0", instead=EXT0_BY_ETH1, at="native-both")
def test_pod_to_external_on_f0(lab: Lab, row: Row) -> None:
    """Masqueraded on a selected eth0; seen with the pod's own address where eth0 is not selected."""
    flow = lab.send("pod1", "ext0")
    if row.only_device(lab) == "eth1":
        assert flow.left("node1") == set()
        flow.must_not_receive()
    else:
        assert flow.left("node1") == {"eth0"}
        assert flow.source_seen_by("ext0") == (NODE1_ETH0 if "eth0" in row.selected else lab.address("pod1"))
        flow.must_receive()


@rows()
@fails_without(devices="eth1", instead="eth0", at="vxlan-eth1")
@fails_without(devices="eth0", instead="eth0,eth1", at="vxlan-eth0", version="1.18")
def test_pod_to_external_on_f1(lab: Lab, row: Row) -> None:
    """The destination is on eth1's own network, and yet ≤1.18 with only eth0 selected sends it to the router on f0."""
    flow = lab.send("pod1", "ext1")
    if row.only_device(lab) == "eth0":
        assert flow.left("node1") == {"eth0"}
        flow.must_not_leave("node1", by="eth1")
        assert flow.source_seen_by("ext1") == NODE1_ETH0
        flow.must_not_receive()
    else:
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("ext1") == (NODE1_ETH1 if "eth1" in row.selected else lab.address("pod1"))
        flow.must_receive()


@rows(routing="vxlan")
@fails_without("masquerading", instead=UNMASQUERADED, at="vxlan-both")
def test_pod_to_the_peers_node_ip_in_tunnel_mode(lab: Lab, row: Row) -> None:
    """A node IP is no tunnel destination: it is reached directly, but the answer to a pod's address is tunnelled."""
    flow = lab.send("pod1", "node2.eth0")
    if row.only_device(lab) == "eth1":
        # [kernel] node2 answers ARP for any of its addresses on any NIC, so even eth1 finds the way.
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("node2") == NODE1_ETH1
        assert flow.answered_by("node2") == {"eth1"}
    else:
        masqueraded = "eth0" in row.selected
        assert flow.left("node1") == {"eth0"}
        assert flow.source_seen_by("node2") == (NODE1_ETH0 if masqueraded else lab.address("pod1"))
        assert flow.outer_on("node2.eth0") == (set() if masqueraded else {("10.0.0.2", "10.0.0.1")})
    flow.must_receive()


@rows(routing="native")
@fails_without("the node IPs on eth0", instead=NODE_IPS_ON_ETH1, at="native-both")
def test_pod_to_the_peers_node_ip_in_native_mode(lab: Lab, row: Row) -> None:
    """Native routing keeps the pod's address on its way to a remote node's node IP, which is known as a node."""
    flow = lab.send("pod1", "node2.eth0")
    out = row.only_device(lab) or "eth0"
    assert flow.left("node1") == {out}
    assert flow.source_seen_by("node2") == lab.address("pod1")
    assert flow.answered_by("node2") == {"eth0"}
    flow.must_receive()


@rows()
@fails_without(devices="eth0,eth1", instead="eth0", at="vxlan-both")
@fails_without(devices="eth0", instead="eth0,eth1", at="native-eth0", version="1.18")
def test_pod_to_the_peers_other_nic(lab: Lab, row: Row) -> None:
    """An address that is not the node IP is the world to Cilium: masqueraded where it leaves by a selected device."""
    flow = lab.send("pod1", "node2.eth1")
    if row.only_device(lab) == "eth0":
        assert flow.left("node1") == {"eth0"}
        assert flow.source_seen_by("node2") == NODE1_ETH0
        assert flow.entered("node2") == {"eth1"}
        assert flow.answered_by("node2") == {"eth0"}
    elif "eth1" in row.selected:
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("node2") == NODE1_ETH1
        assert flow.answered_by("node2") == {"eth1"}
    else:
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("node2") == lab.address("pod1")
        # The answer goes to a pod's address: by the tunnel or the direct route, so out of another NIC than it came in.
        assert flow.answered_by("node2") == {"eth0"}
        assert bool(flow.outer_on("node2.eth0")) == (row.routing == "vxlan")
    flow.must_receive()
