"""BGP with two top-of-rack routers: it brings traffic to the nodes, by either NIC. It does not choose what nodes use.

Every node has a session with tor0 on eth0's fabric and with tor1 on eth1's fabric, and advertises its pod CIDR and the
addresses of services to both. The routers advertise these to the spine, where the client is, and the spine advertises
the client's network to the routers. Three rules explain everything:

* the next hop of a prefix is the node's address on the router's own fabric, so the router decides which NIC traffic
  comes in by;
* an agent advertises, and installs no route: which NIC a reply leaves by is decided as for any packet of a pod;
* `devices` plays no part: sessions follow the kernel's route to the router's address.
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without

from .common import BACKEND_ON_NODE1, BOTH, VXLAN, Row, rows

POD1, CLIENTS = "10.244.1.0/24", "10.9.0.0/24"
VIA_TOR0, VIA_TOR1 = "10.1.0.1", "10.1.1.1"
ROUTERS, NODES = ("tor0", "tor1", "spine"), ("node1", "node2")
OTHERWISE = {"topology": {"advertise: [pod-cidrs, services]": "advertise: [services]", **BACKEND_ON_NODE1["topology"]}}
"""Two causes are taken away in one lab, because labs with routers are slow to build."""
ROUTES = ("ip", "-4", "route", "show", "table", "all", "type", "unicast")

pytestmark = [pytest.mark.topology("two-tors"), pytest.mark.needs("frr")]


@pytest.mark.settings(VXLAN, BOTH)
@fails_without("pod CIDRs advertised", instead=OTHERWISE)
def test_each_router_learns_the_address_on_its_own_fabric(lab: Lab) -> None:
    """One pod CIDR has two next hops: each router uses the node's NIC on its own fabric."""
    for router in ROUTERS:
        assert lab.bgp(router).learned == lab.bgp(router).expected
    assert lab.bgp("tor0").next_hops(POD1) == {"10.0.0.1"}
    assert lab.bgp("tor1").next_hops(POD1) == {"10.0.1.1"}
    assert lab.bgp("spine").next_hops(POD1) == {VIA_TOR0, VIA_TOR1}


@pytest.mark.settings(VXLAN, BOTH)
@fails_without("the backend on node2", instead=OTHERWISE)
def test_a_service_address_is_advertised_by_the_nodes_that_serve_it(lab: Lab) -> None:
    """With `externalTrafficPolicy: Cluster` every node advertises it, with `Local` only a node with a backend."""
    shop, till = "192.0.2.80/32", "192.0.2.81/32"
    assert lab.bgp("tor0").next_hops(shop) == {"10.0.0.1", "10.0.0.2"}
    assert lab.bgp("tor1").next_hops(shop) == {"10.0.1.1", "10.0.1.2"}
    assert lab.bgp("tor0").next_hops(till) == {"10.0.0.2"}
    assert lab.bgp("tor1").next_hops(till) == {"10.0.1.2"}


@pytest.mark.settings(VXLAN, BOTH)
@fails_without("pod CIDRs advertised", instead=OTHERWISE)
def test_the_router_decides_which_nic_traffic_comes_in_by(lab: Lab) -> None:
    """Traffic through tor0 comes in by eth0, through tor1 by eth1. The spine spreads the client's traffic over both
    routers, so it comes in by both NICs."""
    by_tor0, by_tor1 = lab.send_all(["tor0.up -> pod1", "tor1.up -> pod1"])
    assert by_tor0.entered("node1") == {"eth0"}
    assert by_tor1.entered("node1") == {"eth1"}
    client = lab.send_all(["client -> pod1:udp:5353"], count=40, vary_ports=True)[0]
    assert client.entered("node1") == {"eth0", "eth1"}
    client.must_receive()


@pytest.mark.settings(VXLAN, BOTH)
@fails_without(
    "the default route by eth0", topology="default via 10.0.0.254 dev eth0", instead="default via 10.0.1.254 dev eth1"
)
def test_the_way_back_is_not_bgps(lab: Lab) -> None:
    """The node hears the client's network from both routers, and still answers by its default route."""
    assert lab.bgp("node1").heard[CLIENTS] == {"10.0.0.254", "10.0.1.254"}
    flow = lab.send_all(["client -> pod1:udp:5353"], count=40, vary_ports=True)[0]
    assert flow.entered("node1") == {"eth0", "eth1"}
    assert flow.answered_by("node1") == {"eth0"}


@pytest.mark.claim(
    "Cilium programs BGP so that traffic for pod CIDRs is routed through the chosen interfaces",
    verdict="partly",
    truth="It tells routers of pod CIDRs, with the node's address on their own fabric as next hop: they choose the NIC "
    "that traffic comes in by. The agent rejects all it hears and installs no route.",
)
@pytest.mark.settings(VXLAN, BOTH)
@fails_without(
    "a node without routes of BGP's",
    instead={"run": "node1: ip route add 10.9.0.0/24 via 10.0.1.254 dev eth1 proto bgp"},
)
def test_the_agent_installs_no_route(lab: Lab) -> None:
    """It rejects every prefix it hears. The node's routes are the same with and without sessions."""
    assert lab.bgp("node1").learned == lab.bgp("node2").learned == {}
    with_sessions = {node: lab.run(node, *ROUTES) for node in NODES}
    with lab.bgp("tor0").stopped(), lab.bgp("tor1").stopped():
        assert {node: lab.run(node, *ROUTES) for node in NODES} == with_sessions
        assert "proto bgp" not in lab.run("tor0", "ip", "route")
    assert "proto bgp" in lab.run("tor0", "ip", "route")
    for routes in with_sessions.values():
        assert CLIENTS not in routes
        assert "proto bgp" not in routes


@pytest.mark.claim(
    "`devices` influences which interfaces are considered for BGP",
    verdict="false",
    truth="Sessions follow the kernel's route to the peer's address, over selected and unselected NICs alike; the "
    "next hops are the same whatever `devices` says.",
)
@rows("unset", "eth1", routing="vxlan")
@fails_without("pod CIDRs advertised", instead=OTHERWISE, at="vxlan-eth1")
def test_devices_changes_neither_sessions_nor_next_hops(lab: Lab, row: Row) -> None:
    """A NIC that is not selected has its BGP session too, and its address is a next hop."""
    assert lab.reported["node1"].devices == row.selected
    for node in NODES:
        assert set(lab.bgp(node).sessions.items()) == {("tor0.down", "Established"), ("tor1.down", "Established")}
    assert lab.bgp("tor0").next_hops(POD1) == {"10.0.0.1"}
    assert lab.bgp("tor1").next_hops(POD1) == {"10.0.1.1"}
    by_tor0, by_tor1 = lab.send_all(["tor0.up -> pod1", "tor1.up -> pod1"])
    assert by_tor0.entered("node1") == {"eth0"}
    assert by_tor1.entered("node1") == {"eth1"}


@pytest.mark.settings(VXLAN, BOTH)
@fails_without(call="stopped")
def test_a_router_whose_bgp_ends_is_avoided(lab: Lab) -> None:
    """The connection is reset and the routes are gone at once: everything comes in by eth1. Replies still leave by
    eth0."""
    with lab.bgp("tor0").stopped():
        lab.bgp("spine").must_learn(POD1, {VIA_TOR1})
        flow = lab.send_all(["client -> pod1:udp:5353"], count=20, vary_ports=True)[0]
        assert flow.entered("node1") == {"eth1"}
        assert flow.answered_by("node1") == {"eth0"}
        flow.must_receive()
    assert lab.bgp("spine").next_hops(POD1) == {VIA_TOR0, VIA_TOR1}


@pytest.mark.settings(VXLAN, BOTH)
@fails_without(call="frozen")
def test_a_silent_router_is_avoided_after_the_hold_time(lab: Lab) -> None:
    """The connection stays up, but no keepalive comes: the peers give up after the hold time of 3 s."""
    with lab.bgp("tor1").frozen():
        assert lab.bgp("spine").next_hops(POD1) == {VIA_TOR0, VIA_TOR1}
        lab.bgp("spine").must_learn(POD1, {VIA_TOR0})
        flow = lab.send_all(["client -> pod1:udp:5353"], count=20, vary_ports=True)[0]
        assert flow.entered("node1") == {"eth0"}
        flow.must_receive()
    assert lab.bgp("spine").next_hops(POD1) == {VIA_TOR0, VIA_TOR1}


@pytest.mark.settings(VXLAN, BOTH)
@fails_without("the backend on node2", instead=OTHERWISE)
def test_a_service_address_by_either_nic(lab: Lab) -> None:
    """The address is on no NIC. The node with the backend accepts it on whichever NIC the router uses."""
    by_tor0, by_tor1 = lab.send_all(["tor0.down -> till", "tor1.down -> till"])
    assert by_tor0.entered("node2") == by_tor0.answered_by("node2") == {"eth0"}
    assert by_tor1.entered("node2") == by_tor1.answered_by("node2") == {"eth1"}
    client = lab.send_all(["client -> till"], count=40, vary_ports=True)[0]
    assert client.entered("node2") == {"eth0", "eth1"}
    assert client.answered_by("node2") == {"eth0"}
    for flow in (by_tor0, by_tor1, client):
        flow.must_receive()


@pytest.mark.settings(VXLAN, BOTH)
@fails_without(call="link_down")
def test_a_router_that_loses_its_link_to_the_nodes(lab: Lab) -> None:
    """BGP repairs the way in, by eth1. Nothing repairs the way back: the default route still leads to that router."""
    with lab.link_down("tor0.down"):
        assert lab.bgp("tor0").next_hops(POD1) == {"10.1.0.2"}
        assert lab.bgp("spine").next_hops(POD1) == {VIA_TOR1}
        flow = lab.send_all(["client -> pod1:udp:5353"], count=20, vary_ports=True)[0]
        assert flow.entered("node1") == {"eth1"}
        assert flow.answered_by("node1") == set()
        flow.must_not_receive()
    assert lab.bgp("spine").next_hops(POD1) == {VIA_TOR0, VIA_TOR1}
