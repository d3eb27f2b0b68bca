"""Where a pod's address comes from, and what that has to do with NICs: nothing with pools, everything with ENIs.

In `multi-pool` every node has a second pod CIDR and a routing rule for it: packets with such an address leave by
eth1. In `eni` a pod's address belongs to a NIC of its node, and the agents make rules and tables of their own.
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without

from .common import BOTH, ETH0, NATIVE, NATIVE_OF_POOLS, NODE_IPS_ON_ETH1, UNMASQUERADED, VXLAN

pools = pytest.mark.topology("multi-pool")
enis = pytest.mark.topology("eni")


@pools
@pytest.mark.settings(VXLAN, BOTH)
@fails_without("the tunnel", instead=NATIVE)
def test_every_pool_of_a_node_is_tunnelled(lab: Lab) -> None:
    """Peers know every pod CIDR of a node, and reach them all through its node IP."""
    for flow in lab.send_all(["pod1 -> pod2", "pod1 -> disk2", "disk1 -> pod2", "disk1 -> disk2"]):
        assert flow.left("node1") == {"eth0"}
        assert flow.outer_on("node1.eth0") == {("10.0.0.1", "10.0.0.2")}
        flow.must_receive()


@pools
@pytest.mark.settings(NATIVE_OF_POOLS, BOTH)
@fails_without("the node IPs on eth0", instead=NODE_IPS_ON_ETH1)
@fails_without(auto_direct_node_routes=True, instead=False)
def test_every_pool_of_a_node_has_a_direct_route(lab: Lab) -> None:
    """Every pod CIDR has a route by the NIC of the route to the node IP. The node's own rule for the second CIDR
    comes first."""
    routes = lab.run("node1", "ip", "route", "show")
    assert all(f"{cidr} via 10.0.0.2 dev eth0" in routes for cidr in ("10.244.2.0/24", "10.245.2.0/24"))
    plain, rule = lab.send_all(["pod1 -> disk2", "disk1 -> pod2"])
    assert plain.left("node1") == {"eth0"}
    assert plain.source_seen_by("disk2") == lab.address("pod1")
    assert rule.left("node1") == {"eth1"}
    assert rule.source_seen_by("pod2") == lab.address("disk1")
    plain.must_receive()


@pools
@pytest.mark.settings(NATIVE_OF_POOLS, BOTH)
@fails_without("the rule", topology="    rules: from 10.245.{n}.0/24 lookup 100\n")
def test_a_rule_for_a_pool_keeps_it_on_its_network(lab: Lab) -> None:
    """Pods of the second pool reach the world by eth1, masqueraded to its address."""
    plain, rule = lab.send_all(["pod1 -> far", "disk1 -> far"])
    assert plain.left("node1") == {"eth0"}
    assert plain.source_seen_by("far") == "10.0.0.1"
    assert rule.left("node1") == {"eth1"}
    assert rule.source_seen_by("far") == "10.0.1.1"


@pools
@pytest.mark.settings(NATIVE_OF_POOLS, ETH0)
@fails_without("the rule", topology="    rules: from 10.245.{n}.0/24 lookup 100\n")
@fails_without(devices="eth0", instead="eth0,eth1", version="1.18")
def test_one_device_and_a_rule_for_a_pool(lab: Lab) -> None:
    """Up to 1.18 the rule is not used: everything goes to the only device. Later the packet leaves by eth1, which
    does not masquerade."""
    flow = lab.send("disk1", "far")
    if lab.version <= (1, 18):
        assert flow.left("node1") == {"eth0"}
        assert flow.source_seen_by("far") == "10.0.0.1"
    else:
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("far") == lab.address("disk1")


@enis
@pytest.mark.parametrize(
    "devices",
    [
        pytest.param("eth0,eth1", marks=pytest.mark.settings(BOTH)),
        pytest.param("eth0", marks=pytest.mark.settings(ETH0)),
    ],
)
@fails_without(topology="pod{n}-eth1: {nic: eth1}", instead="pod{n}-eth1: {nic: eth0}")
def test_pods_of_one_node_leave_by_different_nics(lab: Lab, devices: str) -> None:
    """Inside the cloud's network every pod uses the NIC that its address belongs to, whatever `devices` lists."""
    for nic in ("eth0", "eth1"):
        for flow in lab.send_all([f"pod1-{nic} -> pod2-eth0", f"pod1-{nic} -> pod2-eth1", f"pod1-{nic} -> ext0"]):
            assert flow.left("node1") == {nic}
            assert flow.source_seen_by(flow.flow.destination) == lab.address(f"pod1-{nic}")
            flow.must_receive()


@enis
@pytest.mark.settings(BOTH)
@fails_without("masquerading", instead=UNMASQUERADED)
def test_the_world_is_left_to_the_default_route(lab: Lab) -> None:
    """Up to 1.20, masqueraded packets leave by eth0 with its address: the agents' rules cover the cloud's network
    only."""
    for flow in lab.send_all(["pod1-eth0 -> world", "pod1-eth1 -> world"]):
        assert flow.left("node1") == {"eth0"}
        assert flow.source_seen_by("world") == "10.0.0.11"
        flow.must_receive()


@enis
@pytest.mark.settings(BOTH, UNMASQUERADED)
@fails_without(enable_bpf_masquerade=False, enable_ipv4_masquerade=False)
def test_without_masquerading_the_world_is_reached_by_the_pods_nic(lab: Lab) -> None:
    """The pod's address is kept, and its rule sends it to the world by its own NIC."""
    flow = lab.send("pod1-eth1", "world")
    assert flow.left("node1") == {"eth1"}
    assert flow.source_seen_by("world") == lab.address("pod1-eth1")
    flow.must_receive()
