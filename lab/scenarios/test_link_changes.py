"""NICs that go down, come back, are plugged and pulled while agents run: what agents select, and where packets go.

Agents follow netlink within seconds. Two changes go unnoticed [measured on 1.18.10 and 1.20.0-dev]: a detected veth
that loses its default route stays selected until something else changes on it, and IPv4 routes that the kernel drops
when a NIC goes down still count when it comes back.
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without

from .common import NODE_IPS_ON_ETH1

BOTH = pytest.mark.settings(routing="tunnel", devices="eth0,eth1")
AUTOMATIC = pytest.mark.settings(routing="tunnel", devices="")
NATIVE = pytest.mark.settings(
    routing="native", devices="eth0,eth1", ipv4_native_routing_cidr="10.244.0.0/16", auto_direct_node_routes=True
)


def selected(lab: Lab) -> set[str]:
    """The devices that node1's agent reports."""
    return set(lab.reported["node1"].devices)


@BOTH
@fails_without(call="link_down")
def test_a_listed_nic_that_is_down_is_left_out_up_to_1_18(lab: Lab) -> None:
    """From 1.19 on the list alone decides. In both cases the traffic takes the default route, with eth0's address."""
    assert lab.send("pod1", "ext1").left("node1") == {"eth1"}
    with lab.link_down("node1.eth1"):
        assert selected(lab) == ({"eth0"} if lab.version <= (1, 18) else {"eth0", "eth1"})
        flow = lab.send("pod1", "ext1")
        assert flow.left("node1") == {"eth0"}
        assert flow.source_seen_by("ext1") == "10.0.0.1"
    flow = lab.send("pod1", "ext1")
    assert flow.left("node1") == flow.came_back_to("node1") == {"eth1"}
    assert flow.source_seen_by("ext1") == "10.0.1.1"


@BOTH
@fails_without(call="link_down")
@fails_without(call="add_route")
def test_a_nic_that_comes_back_has_lost_its_default_route(lab: Lab) -> None:
    """The tunnel works again at once, over the connected route. The world stays out of reach until the default route
    is added again."""
    lab.link_down("node1.eth0")
    assert lab.send("pod1", "pod2").verdict == "lost"
    lab.link_up("node1.eth0")
    assert lab.send("pod1", "pod2").left("node1") == {"eth0"}
    with lab.link_down("node1.eth1"):
        assert lab.send("pod1", "ext1").left("node1") == set()
    lab.add_route("node1", "default via 10.0.0.254 dev eth0")
    with lab.link_down("node1.eth1"):
        assert lab.send("pod1", "ext1").left("node1") == {"eth0"}


@BOTH
@fails_without(call="add_route")
def test_routes_to_the_peers_node_ip_move_the_tunnel_to_the_nic_that_is_left(lab: Lab) -> None:
    """Both nodes need such a route: the peer answers to the node IP, which is on the NIC that is down."""
    with lab.link_down("node1.eth0"):
        assert lab.send("pod1", "pod2").verdict == "lost"
        lab.add_route("node1", "10.0.0.2/32 via 10.0.1.2 dev eth1")
        lab.add_route("node2", "10.0.0.1/32 via 10.0.1.1 dev eth1")
        flow = lab.send("pod1", "pod2")
        assert flow.left("node1") == flow.came_back_to("node1") == {"eth1"}
        assert ("10.0.1.1", "10.0.0.2") in flow.outer_on("node1.eth1")


@pytest.mark.settings(routing="tunnel", devices="eth+")
@fails_without(devices="eth+", instead="eth0,eth1")
@fails_without(call="unplug")
def test_a_hot_plugged_nic_that_devices_names_is_used_and_one_that_is_pulled_is_forgotten(lab: Lab) -> None:
    """A wildcard selects NICs that appear later, and drops NICs that disappear."""
    with lab.plug("node1.eth2", fabric="f1", addresses="10.0.1.51/24"):
        assert selected(lab) == {"eth0", "eth1", "eth2"}
        lab.unplug("node1.eth1")
        assert selected(lab) == {"eth0", "eth2"}
        flow = lab.send("pod1", "ext1")
        assert flow.left("node1") == {"eth2"}
        assert flow.source_seen_by("ext1") == "10.0.1.51"


@AUTOMATIC
@pytest.mark.nics("veth")
@fails_without(nics="veth")
@fails_without(call="add_route")
@fails_without(call="add_address")
@fails_without(devices="", instead="eth0,eth1")
def test_selection_outlives_the_default_route_that_made_it(lab: Lab) -> None:
    """On a node that is a container a default route makes eth1 a detected device. Without the route it stays selected
    until an address on it changes."""
    with lab.add_route("node1", "default via 10.0.1.254 dev eth1 metric 50"):
        assert selected(lab) == {"eth0", "eth1"}
    assert selected(lab) == {"eth0", "eth1"}
    assert lab.send("pod1", "ext1").source_seen_by("ext1") == "10.0.1.1"
    lab.add_address("node1.eth1", "10.0.1.77/24")
    assert selected(lab) == {"eth0"}


@AUTOMATIC
@pytest.mark.nics("veth")
@fails_without(nics="veth")
@fails_without(call="add_route")
def test_a_route_that_a_nic_took_along_still_counts_when_it_comes_back(lab: Lab) -> None:
    """The kernel drops IPv4 routes without a message, so the agent's route table keeps them and disagrees with `ip
    route`. It is seen on a veth, which counts only with a default route."""
    assert selected(lab) == {"eth0"}
    lab.add_route("node1", "default via 10.0.1.254 dev eth1 metric 50")
    lab.link_down("node1.eth1")
    assert selected(lab) == {"eth0"}
    lab.link_up("node1.eth1")
    assert "dev eth1" not in lab.run("node1", "ip", "route", "show", "default")
    assert selected(lab) == {"eth0", "eth1"}


@NATIVE
@pytest.mark.topology(**NODE_IPS_ON_ETH1)
@fails_without(call="validate_nodes")
def test_a_direct_node_route_is_gone_until_the_agent_validates_its_nodes(lab: Lab) -> None:
    """Pods of other nodes are out of reach for up to a minute after the NIC is back: the agent restores the route
    only then."""
    assert lab.send("pod1", "pod2").left("node1") == {"eth1"}
    with lab.link_down("node1.eth1"):
        flow = lab.send("pod1", "pod2")
        assert flow.left("node1") == {"eth0"}
        assert flow.verdict == "lost"
    lab.validate_nodes()
    assert lab.send("pod1", "pod2").left("node1") == {"eth1"}
