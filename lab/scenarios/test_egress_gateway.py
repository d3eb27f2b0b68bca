"""Egress gateways: a policy chooses the source address. Which NIC the packet leaves by is a separate decision.

Every pod is on node1, with a policy for every destination. The gateway is node2; for the pod `at-home` it is node1
itself. Default routes leave by eth0; the policies' addresses are on eth1. Three rules explain almost everything:

* a pod's node looks at its routes first: only what would leave by a selected NIC is tunnelled to the gateway's node IP;
* on the gateway the routes of the egress IP choose the NIC up to 1.19; from 1.20 on a policy without an egress IP
  fixes it;
* SNAT is done where a packet leaves by a selected NIC, and undone where the answer comes in by a selected NIC.
"""

from __future__ import annotations

import pytest
from niclab import FlowResult, Lab, Settings, fails_without

from .common import BOTH, ETH0, ETH1, NATIVE, VXLAN

TO_GATEWAY, BACK = {("10.0.0.1", "10.0.0.2")}, {("10.0.0.2", "10.0.0.1")}

pytestmark = [pytest.mark.topology("egress-gateway"), pytest.mark.settings(VXLAN, BOTH, enable_egress_gateway=True)]


def by_gateway(flow: FlowResult, *, nic: str, source: str) -> None:
    """The packet went through the tunnel to node2, and left it by this NIC with this source."""
    assert flow.left("node1") == {"eth0"}
    assert flow.outer_on("node1.eth0") == TO_GATEWAY
    assert flow.left("node2") == {nic}
    assert flow.source_seen_by(flow.flow.destination) == source
    flow.must_receive()


@pytest.mark.parametrize(
    "routing",
    [pytest.param(mode, marks=pytest.mark.settings(mode), id=mode.values["routing-mode"]) for mode in (VXLAN, NATIVE)],
)
@fails_without(enable_egress_gateway=True, instead=False)
def test_a_policy_tunnels_to_the_gateway(lab: Lab, routing: Settings) -> None:
    """There and back through a tunnel, also with native routing, where nothing else is tunnelled."""
    flow = lab.send("by-nic", "ext1")
    by_gateway(flow, nic="eth1", source="10.0.1.2")
    assert flow.outer_on("node2.eth0") == BACK


@pytest.mark.issue(21452, "egress gateway: the address of eth1, and yet it leaves by eth0")
@fails_without(
    "the main table alone",
    instead={
        "routes": ["node2: default via 10.0.1.254 dev eth1 table 100"],
        "rules": ["node2: from 10.0.1.202 lookup 100"],
    },
)
def test_the_egress_ip_does_not_choose_the_nic(lab: Lab) -> None:
    """The trap: eth1's address leaves by eth0, where the gateway's default route is. Here the router forwards it;
    many networks would drop it."""
    by_gateway(lab.send("by-address", "far"), nic="eth0", source="10.0.1.202")
    by_gateway(lab.send("by-address", "ext1"), nic="eth1", source="10.0.1.202")


@pytest.mark.issue(28498, "egress gateway: the NIC of the policy is not the one that is used")
@fails_without(
    "the policy's interface",
    topology="0.0.0.0/0, gateways: node2, interface: eth1",
    instead="0.0.0.0/0, gateways: node2, egress_ip: 10.0.1.2",
)
@fails_without(
    "the gateway's route by eth0", instead={"routes": ["node2: 10.0.2.0/24 via 10.0.1.254 dev eth1"]}, version="1.18"
)
def test_an_interface_fixes_the_nic_from_1_20_on(lab: Lab) -> None:
    """Up to 1.19 an interface is only another way to name an address."""
    by_gateway(lab.send("by-nic", "far"), nic="eth0" if lab.version < (1, 20) else "eth1", source="10.0.1.2")


@fails_without(
    "a route that has ext0 as a neighbour", instead={"routes": ["node2: 10.0.0.100/32 via 10.0.1.254 dev eth1"]}
)
def test_the_next_hop_stays_that_of_the_routes(lab: Lab) -> None:
    """From 1.20 on the NIC is the policy's, but the next hop is still the one of the route: no host on f1 has ext0's
    address."""
    flow = lab.send("by-nic", "ext0")
    if lab.version < (1, 20):
        by_gateway(flow, nic="eth0", source="10.0.1.2")
    else:
        assert flow.left("node2") == set()
        flow.must_not_receive()


@fails_without(
    "the default route by eth0", topology="default via 10.0.0.254 dev eth0", instead="default via 10.0.1.254 dev eth1"
)
def test_without_a_choice_it_is_the_nic_of_the_default_route(lab: Lab) -> None:
    """A policy with neither address nor interface uses the NIC of the gateway's default route, and its address."""
    by_gateway(lab.send("by-default", "far"), nic="eth0", source="10.0.0.2")


@pytest.mark.topology(
    routes=["node2: default via 10.0.1.254 dev eth1 table 100"], rules=["node2: from 10.0.1.2 lookup 100"]
)
@fails_without(rules=..., routes=..., version="1.18")
def test_a_rule_for_the_egress_ip_is_the_cure(lab: Lab) -> None:
    """A routing rule for the egress IP on the gateway makes it leave by its own NIC, in every version."""
    by_gateway(lab.send("by-nic", "far"), nic="eth1", source="10.0.1.2")


@fails_without(
    "the pod's own node as gateway",
    topology="gateways: node1, interface: eth1",
    instead="gateways: node2, interface: eth1",
)
def test_a_pods_own_node_as_its_gateway(lab: Lab) -> None:
    """There is no tunnel. From 1.20 on, a destination behind eth0's gateway is looked for on eth1 itself, and not
    found there."""
    straight, away = lab.send_all(["at-home -> ext1", "at-home -> far"])
    assert straight.left("node1") == {"eth1"}
    assert straight.source_seen_by("ext1") == "10.0.1.1"
    assert away.left("node1") == ({"eth0"} if lab.version < (1, 20) else set())
    assert away.source_seen_by("far") == ("10.0.1.1" if lab.version < (1, 20) else None)


@fails_without(topology="excluded: 10.0.1.0/24, ")
def test_what_stays_in_the_cluster_and_what_is_excluded(lab: Lab) -> None:
    """Traffic to pods and node IPs never goes to a gateway, nor do answers to outside clients, nor excluded
    networks."""
    pod, node, answer, excluded = lab.send_all(
        ["by-nic -> pod2", "by-nic -> node2.eth0", "ext1 -> by-nic", "partly -> ext1"]
    )
    assert pod.source_seen_by("pod2") == lab.address("by-nic")
    assert node.left("node1") == {"eth0"}
    assert node.source_seen_by("node2") == "10.0.0.1"
    assert answer.answered_by("node1") == {"eth1"}
    assert excluded.left("node1") == {"eth1"}
    assert excluded.source_seen_by("ext1") == "10.0.1.1"
    for flow in (pod, node, answer, excluded):
        flow.must_receive()


@pytest.mark.settings(ETH0)
@fails_without(devices="eth0", instead="eth0,eth1")
def test_an_egress_nic_that_is_not_selected(lab: Lab) -> None:
    """SNAT is done where the packet leaves, but the answer comes in by eth1, where no program undoes it."""
    flow = lab.send("by-address", "far")
    assert flow.left("node2") == {"eth0"}
    assert flow.source_seen_by("far") == "10.0.1.202"
    flow.must_not_receive()


@pytest.mark.settings(ETH1)
@fails_without(devices="eth1", instead="eth0,eth1")
def test_a_pods_node_without_its_nic(lab: Lab) -> None:
    """node1's eth0 is not selected. From 1.19 on, packets that its routes send there ignore the policy and keep the
    pod's address; up to 1.18 they go to eth1, where no host has ext0's address."""
    flow = lab.send("by-nic", "ext0")
    assert flow.outer_on("node1.eth0") == set()
    assert flow.source_seen_by("ext0") == (None if lab.version <= (1, 18) else lab.address("by-nic"))
