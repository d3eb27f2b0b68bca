"""A node IP that is not on a NIC: on a Linux bridge (#37427), or on `lo` (#17463, #46830).

Agents never detect a bridge or `lo`. With several devices selected, the one with the node IP must be among them:
otherwise the agent exits with the message below.
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without

from .common import NODE_IPS_ON_ETH1

REFUSAL = "unable to determine direct routing device"


@pytest.mark.issue(37427, "the agent exits when the node IP is on a bridge")
@pytest.mark.topology("bridge")
@pytest.mark.parametrize(
    "devices",
    [
        pytest.param(
            "", marks=[pytest.mark.settings(routing="tunnel", devices=""), pytest.mark.nics("veth")], id="veth"
        ),
        pytest.param("eth+", marks=pytest.mark.settings(routing="tunnel", devices="eth+"), id="eth+"),
    ],
)
@fails_without(nics="veth", at="veth")
@fails_without("a bridge that is not listed", instead={"devices": "br0,eth1"})
def test_agents_refuse_a_node_ip_on_a_bridge_that_is_not_listed(lab: Lab, devices: str) -> None:
    """On a node that is a container nothing is detected: eth1 is a veth without a default route. `eth+` does not help:
    it selects the bridge's port, which has no address."""
    assert REFUSAL in (lab.reported["node1"].agent_exits or "")


@pytest.mark.topology("bridge")
@pytest.mark.settings(routing="tunnel", devices="")
@fails_without("NICs of a machine", instead={"nics": "veth"})
@fails_without(devices="", instead="br0,eth1")
def test_beside_a_bridge_the_only_other_nic_is_the_direct_routing_device(lab: Lab) -> None:
    """Detection leaves the bridge out. One NIC is left, and agents run with it, node IP or not: what leaves by the
    bridge is not masqueraded, and up to 1.18 pods' packets do not even go there."""
    assert lab.reported["node1"].devices == ("eth1",)
    assert lab.reported["node1"].direct_routing_device == "eth1"
    flow = lab.send("pod1", "ext0")
    if lab.version <= (1, 18):
        assert flow.left("node1") == set()
    else:
        assert flow.left("node1") == {"eth0"}
        assert flow.source_seen_by("ext0") == lab.address("pod1")


@pytest.mark.topology("bridge")
@pytest.mark.settings(routing="tunnel", devices="br0,eth1")
@fails_without(devices="br0,eth1", instead="br0")
@fails_without("the node IP on the bridge", instead=NODE_IPS_ON_ETH1)
def test_a_listed_bridge_is_a_device_like_any_other(lab: Lab) -> None:
    """What the bridge sends is seen on its port."""
    assert lab.reported["node1"].direct_routing_device == "br0"
    for end, nic, address in (("ext0", "eth0", "10.0.0.1"), ("ext1", "eth1", "10.0.1.1")):
        flow = lab.send("pod1", end)
        assert flow.left("node1") == flow.came_back_to("node1") == {nic}
        assert flow.source_seen_by(end) == address
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == flow.came_back_to("node1") == {"eth0"}


@pytest.mark.topology("bridge")
@pytest.mark.settings(routing="tunnel", devices="br0,eth1")
@fails_without(call="link_down")
def test_a_bridge_outlives_its_port_and_so_does_its_selection(lab: Lab) -> None:
    """The bridge stays up and keeps its address when its cable is gone, so the agent keeps it selected."""
    with lab.link_down("node1.eth0"):
        assert set(lab.reported["node1"].devices) == {"br0", "eth1"}
        assert lab.send("pod1", "pod2").left("node1") == set()
        assert lab.send("pod1", "ext1").left("node1") == {"eth1"}
    assert lab.send("pod1", "pod2").left("node1") == {"eth0"}


@pytest.mark.topology("loopback")
@pytest.mark.settings(routing="tunnel", devices="eth0,eth1")
@fails_without(devices="eth0,eth1", instead="eth0,eth1,lo")
def test_agents_refuse_a_node_ip_on_lo_that_is_not_listed(lab: Lab) -> None:
    """Neither selected device has the node IP, so there is no direct routing device."""
    assert REFUSAL in (lab.reported["node1"].agent_exits or "")


@pytest.mark.issue(17463, "a node IP on lo")
@pytest.mark.topology("loopback")
@pytest.mark.settings(routing="tunnel", devices="eth0,eth1", direct_routing_device="eth0")
@fails_without(
    "the route by either NIC",
    topology="src 10.255.0.1 nexthop via 10.0.0.2 dev eth0 nexthop via 10.0.1.2 dev eth1",
    instead="via 10.0.0.2 dev eth0 src 10.255.0.1",
)
def test_with_a_direct_routing_device_a_node_ip_on_lo_survives_the_loss_of_a_fabric(lab: Lab) -> None:
    """The tunnel's ends are the addresses on `lo`, and either NIC leads there."""
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") <= {"eth0", "eth1"}
    assert flow.outer_on(f"node1.{min(flow.left('node1'))}") == {("10.255.0.1", "10.255.0.2")}
    with lab.link_down("node1.eth0"), lab.link_down("node2.eth0"):
        flow = lab.send("pod1", "pod2")
        assert flow.left("node1") == flow.came_back_to("node1") == {"eth1"}
        assert flow.verdict == "carried"


@pytest.mark.topology("loopback")
@pytest.mark.settings(routing="tunnel", devices="eth0,eth1,lo")
@fails_without("the node IP on `lo`", instead=NODE_IPS_ON_ETH1)
@fails_without(devices="eth0,eth1,lo", instead="eth0,eth1")
def test_a_listed_lo_is_the_direct_routing_device(lab: Lab) -> None:
    """`lo` may be listed. It has the node IP; NICs still masquerade to their own addresses."""
    assert set(lab.reported["node1"].devices) == {"lo", "eth0", "eth1"}
    assert lab.reported["node1"].direct_routing_device == "lo"
    assert lab.send("pod1", "ext1").source_seen_by("ext1") == "10.0.1.1"
