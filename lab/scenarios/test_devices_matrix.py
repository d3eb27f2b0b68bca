"""`devices`, with every value people try, over VXLAN and native routing: which NIC carries what, and with which source.

Every node has eth0 on fabric f0 (10.0.0.0/24), where its default route and its node IP are, and eth1 on fabric f1
(10.0.1.0/24). A router joins the fabrics. ext0 is on f0, ext1 on f1. They have routes back to the pods and to nothing
else: ext1 cannot answer a packet whose source is node1's address on f0.

The NICs are those of a machine; in the rows `veth` they are those of a node that is a container, as in kind.

Each test is a column of the matrix, each parameter a row. Two rules explain almost every cell:

* up to 1.18, with exactly one selected device, every packet of a pod that is not tunnelled goes to that device, and the
  routing table is not used; from 1.19 on, and with more devices, the kernel's routes decide;
* a packet is masqueraded only where it leaves by a selected device: on another NIC the pod's own address is seen.
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without

from .common import EXT0_BY_ETH1, NODE1_ETH0, NODE1_ETH1, NODE_IPS_ON_ETH1, PEERS_BY_ETH1, UNMASQUERADED, Row, rows


@rows()
@fails_without("NICs of a machine", instead={"nics": "veth"}, at="vxlan-unset")
@fails_without(
    "eth1 without a default route",
    instead={"routes": ["all: default via 10.0.1.254 dev eth1 metric 200"]},
    at="vxlan-veth",
)
@fails_without(devices="eth0,eth1", instead="eth0", at="native-both")
def test_the_agent_reports_which_devices_it_selected(lab: Lab, row: Row) -> None:
    """Without a list every NIC that has an address is detected, but of veths those with a default route alone. A list
    is taken as it is, and a wildcard selects by prefix."""
    for node in ("node1", "node2"):
        assert lab.reported[node].devices == row.selected


@rows("unset", "veth", "eth0", "both", "wildcard")
@fails_without("the node IP on eth0", instead=NODE_IPS_ON_ETH1, at="native-both")
def test_the_direct_routing_device_has_the_node_ip(lab: Lab, row: Row) -> None:
    """Among several selected devices, the one with the node IP is the direct routing device."""
    assert lab.reported["node1"].direct_routing_device == "eth0"


@rows("eth1")
@fails_without(devices="eth1", instead="eth0,eth1")
def test_a_single_device_is_the_direct_routing_device_wherever_the_node_ip_is(lab: Lab, row: Row) -> None:
    """A single selected device is the direct routing device, also without the node IP."""
    assert lab.reported["node1"].direct_routing_device == "eth1"


@pytest.mark.settings(devices="eth9")
@fails_without(devices="eth9", instead="eth0")
def test_a_name_that_does_not_exist_selects_nothing_and_the_agent_exits(lab: Lab) -> None:
    """Detection does not step in, and kube-proxy replacement needs a device."""
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
    """Each pod CIDR has one route, by the NIC of the route to the peer's node IP, whatever `devices` lists."""
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
    """Masqueraded where eth0 is selected; otherwise ext0 sees the pod's own address."""
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
    """eth1 is on the destination's own network. Up to 1.18, with only eth0 selected, the packet still goes to the
    router on f0."""
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
    """A node IP is reached directly, without the tunnel. The answer to a pod's address comes back through the
    tunnel."""
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
    """With native routing a pod's address is kept on the way to a remote node's IP, because Cilium knows that
    address as a node."""
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
    """An address that is not the node IP counts as the outside world: masqueraded where it leaves by a selected
    device."""
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
