"""What users of Cilium on several NICs ran into, by issue number: `niclab issues`, `pytest lab/ -m issue_27343`.

An issue that other scenarios show as well is marked there too.
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without

from .common import BOTH, ETH0, EXT1_BY_ETH0, NATIVE, NODE_IPS_ON_ETH1, PEERS_BY_ETH1, VXLAN

NO_DEVICE = "unable to determine direct routing device. Use --direct-routing-device to specify it"


@pytest.mark.issue(25478, "the tunnel's NIC cannot be chosen; the direct routing device has no effect on it")
@pytest.mark.topology("two-nic")
@pytest.mark.settings(VXLAN, BOTH, direct_routing_device="eth1")
@fails_without("the peer's node IP by eth0", instead=PEERS_BY_ETH1)
def test_the_direct_routing_device_does_not_move_the_tunnel(lab: Lab) -> None:
    """The direct routing device is eth1; the tunnel still follows the route to the peer's node IP."""
    assert lab.reported["node1"].direct_routing_device == "eth1"
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == flow.came_back_to("node1") == {"eth0"}
    flow.must_receive()


@pytest.mark.issue(33527, "the agent cannot determine its direct routing device although it was told one")
@pytest.mark.topology("three-nic")
@pytest.mark.settings(VXLAN, devices="eth1,eth2", direct_routing_device="eth0")
@fails_without(devices="eth1,eth2", instead="eth0,eth1,eth2")
def test_a_direct_routing_device_is_only_looked_for_among_selected_devices(lab: Lab) -> None:
    """eth0 has the node IP and the option names it, but `devices` leaves it out. Neither of the other two fits."""
    assert lab.reported["node1"].agent_exits == NO_DEVICE


@pytest.mark.issue(37425, "forcing detection beside a list selects many more NICs")
@pytest.mark.topology("three-nic")
@pytest.mark.nics("veth")
@pytest.mark.settings(VXLAN, devices="eth0", force_device_detection=True)
@fails_without(force_device_detection=True, instead=False)
def test_forced_detection_drops_the_rule_for_veths(lab: Lab) -> None:
    """On a node that is a container: a veth without a default route is not detected; beside a list, forced detection
    selects it."""
    assert lab.reported["node1"].devices == ("eth0", "eth1", "eth2")


@pytest.mark.issue(19497, "pods' own addresses leave by a NIC that is not selected")
@pytest.mark.topology("two-nic")
@pytest.mark.settings(VXLAN, devices="eth1", enable_endpoint_routes=True)
@fails_without(devices="eth1", instead="eth0,eth1")
@fails_without(enable_endpoint_routes=True, instead=False, version="1.18")
def test_a_nic_that_is_not_selected_does_not_masquerade(lab: Lab) -> None:
    """Endpoint routes keep the FIB in use on every version, so the packet leaves by eth0 with the pod's address."""
    flow = lab.send("pod1", "ext0")
    assert flow.left("node1") == {"eth0"}
    assert flow.source_seen_by("ext0") == lab.address("pod1")
    assert lab.send("pod1", "ext1").source_seen_by("ext1") == "10.0.1.1"


@pytest.mark.issue(27343, "with one device selected pods' traffic leaves by it, whatever the routes say")
@pytest.mark.topology("two-nic")
@pytest.mark.settings(VXLAN, ETH0)
@fails_without(devices="eth0", instead="eth0,eth1", version="1.18")
@fails_without("the route by eth1", instead=EXT1_BY_ETH0)
def test_one_device_gets_everything_up_to_1_18(lab: Lab) -> None:
    """eth0 is the only device: up to 1.18 it gets the packet for ext1, which is on eth1's network."""
    flow = lab.send("pod1", "ext1")
    assert flow.left("node1") == ({"eth0"} if lab.version <= (1, 18) else {"eth1"})
    assert (flow.received == 0) == (lab.version <= (1, 18))


@pytest.mark.issue(24252, "routes in other tables are ignored by BPF host routing")
@pytest.mark.topology(
    "two-nic",
    routes=["node1: 10.0.0.0/24 via 10.0.1.254 dev eth1 table 100"],
    rules=["node1: from 10.244.1.0/24 lookup 100"],
)
@pytest.mark.settings(NATIVE, BOTH, auto_direct_node_routes=False)
@fails_without(rules=...)
def test_rules_and_tables_are_honoured(lab: Lab) -> None:
    """Since 1.12 the FIB lookup includes rules. ext0 is on eth0's own network, and a rule sends the packet by eth1."""
    flow = lab.send("pod1", "ext0")
    assert flow.left("node1") == {"eth1"}
    assert flow.source_seen_by("ext0") == "10.0.1.1"


@pytest.mark.issue(16424, "direct node routes refuse peers behind a gateway")
@pytest.mark.topology("routed")
@pytest.mark.settings(NATIVE, BOTH)
@fails_without("a gateway before the peer", instead={"routes": ["node1: 10.0.2.2/32 dev eth0"]})
def test_no_direct_route_to_a_peer_behind_a_gateway(lab: Lab) -> None:
    """The agent warns and installs no route. The default route carries the packets to the switch all the same."""
    assert "10.244.2.0/24" not in lab.run("node1", "ip", "route", "show")
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == {"eth0"}
    flow.must_receive()


@pytest.mark.issue(36168, "east-west traffic on the private network, north-south on the public one")
@pytest.mark.topology("two-nic", **NODE_IPS_ON_ETH1)
@pytest.mark.settings(VXLAN, BOTH)
@fails_without(node_ips=...)
def test_the_node_ip_parts_east_west_from_north_south(lab: Lab) -> None:
    """With the node IPs on eth1 the tunnel uses eth1, and traffic to the world stays on eth0."""
    assert lab.send("pod1", "pod2").left("node1") == {"eth1"}
    flow = lab.send("pod1", "ext0")
    assert flow.left("node1") == {"eth0"}
    assert flow.source_seen_by("ext0") == "10.0.0.1"
