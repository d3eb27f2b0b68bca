"""Management and data split: the default route on eth0, pods' east-west traffic on eth1.

`devices=eth1` is what people try first, and it does not work. What works is the way to the peers: in tunnel mode the
node IP or the route to the peers' node IPs, in native mode the route to the peers' pod CIDRs.
"""

from __future__ import annotations

import pytest
from niclab import FlowResult, Lab, Settings, fails_without

from .common import BOTH, ETH0, NATIVE, NODE_IPS_ON_ETH1, PEERS_BY_ETH1, VXLAN

WITHOUT_ROUTES = NATIVE.merged(Settings.of(auto_direct_node_routes=False))
PODS_BY_DATA = ["node1: 10.244.2.0/24 via 10.0.1.2 dev eth1", "node2: 10.244.1.0/24 via 10.0.1.1 dev eth1"]

pytestmark = pytest.mark.topology("two-nic")


def is_on(flow: FlowResult, nic: str) -> bool:
    """Whether the flow between the pods used this NIC of both nodes, and no other, in both directions."""
    flow.must_receive()
    ways = (flow.left("node1"), flow.entered("node2"), flow.answered_by("node2"), flow.came_back_to("node1"))
    return all(way == {nic} for way in ways)


@pytest.mark.settings(VXLAN)
@pytest.mark.parametrize(
    "devices",
    [pytest.param(names, marks=pytest.mark.settings(devices=names)) for names in ("eth0", "eth1", "eth0,eth1")],
)
@fails_without("the node IPs on eth0", instead=NODE_IPS_ON_ETH1)
def test_devices_alone_does_not_move_the_tunnel(lab: Lab, devices: str) -> None:
    """The node IPs are on eth0, and so is the tunnel."""
    assert is_on(lab.send("pod1", "pod2"), "eth0")


@pytest.mark.settings(NATIVE, BOTH)
@fails_without("the node IPs on eth0", instead=NODE_IPS_ON_ETH1)
def test_devices_alone_does_not_move_native_traffic(lab: Lab) -> None:
    """The direct routes follow the node IPs, which are on eth0."""
    assert is_on(lab.send("pod1", "pod2"), "eth0")


@pytest.mark.topology(**NODE_IPS_ON_ETH1)
@pytest.mark.settings(VXLAN, BOTH)
@fails_without(node_ips=...)
def test_tunnel_by_the_node_ip(lab: Lab) -> None:
    """kubelet's --node-ip is on the data network; the rest of the world is still reached by eth0."""
    assert is_on(lab.send("pod1", "pod2"), "eth1")
    assert lab.send("pod1", "ext0").left("node1") == {"eth0"}


@pytest.mark.topology(**PEERS_BY_ETH1)
@pytest.mark.settings(VXLAN, BOTH)
@fails_without(routes=...)
def test_tunnel_by_a_route_to_the_peers_node_ips(lab: Lab) -> None:
    """The node IPs stay on the management network. A host route per peer moves the tunnel; `devices` does not."""
    flow = lab.send("pod1", "pod2")
    assert is_on(flow, "eth1")
    assert flow.outer_on("node1.eth1") == {("10.0.1.1", "10.0.0.2")}  # [kernel] the outer source goes with the NIC


@pytest.mark.topology(**NODE_IPS_ON_ETH1)
@pytest.mark.settings(NATIVE, BOTH)
@fails_without(node_ips=...)
def test_native_by_the_node_ip(lab: Lab) -> None:
    """A direct node route uses the NIC of the route to the peer's node IP."""
    assert is_on(lab.send("pod1", "pod2"), "eth1")
    assert lab.send("pod1", "ext0").left("node1") == {"eth0"}


@pytest.mark.topology(routes=PODS_BY_DATA)
@pytest.mark.settings(WITHOUT_ROUTES, BOTH)
@fails_without(routes=...)
def test_native_by_routes_to_the_pod_cidrs(lab: Lab) -> None:
    """Routes that others install (static, a routing daemon, a cloud) work as well."""
    assert is_on(lab.send("pod1", "pod2"), "eth1")


@pytest.mark.topology(routes=PODS_BY_DATA)
@pytest.mark.settings(WITHOUT_ROUTES, ETH0)
@fails_without(devices="eth0", instead="eth0,eth1", version="1.18")
@fails_without(routes=...)
def test_native_routes_are_not_asked_with_one_device_up_to_1_18(lab: Lab) -> None:
    """The trap: `devices` has the management NIC alone, and the routes by the data network are not used."""
    flow = lab.send("pod1", "pod2")
    if lab.version <= (1, 18):
        flow.must_not_leave("node1", by="eth1")
        flow.must_not_receive()
    else:
        assert is_on(flow, "eth1")
