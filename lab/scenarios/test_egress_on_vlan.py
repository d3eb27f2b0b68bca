"""Egress gateways on bonds, VLANs and dummies: a policy may name any link; the NICs are those below the link.

node1's pods go out by node2, whose node network is a bond of eth0 and eth1, with VLAN 17 on it. The default route
leaves by the bond, untagged. Skipped on a kernel without these links; `scripts/vm.py` runs them on a kernel that has
them.
"""

from __future__ import annotations

import pytest
from niclab import FlowResult, Lab, fails_without

from .common import VXLAN

pytestmark = [
    pytest.mark.needs("bond", "vlan", "dummy"),
    pytest.mark.topology("egress-vlan"),
    pytest.mark.settings(VXLAN, devices="bond0,bond0.17", enable_egress_gateway=True),
]


def by_gateway(flow: FlowResult, *, link: str, source: str) -> None:
    """The packets went through the tunnel to node2, and left it by this link with this source."""
    steps = [step for trace in flow.traces for step in trace.request.left if step.tap.startswith("node2.")]
    assert flow.outer_on("node1.eth0") == {("10.0.0.1", "10.0.0.2")}
    assert {step.device or "bond0" for step in steps} == {link}
    assert flow.left("node2") == {"eth0"}
    assert flow.source_seen_by(flow.flow.destination) == source
    flow.must_receive()


@fails_without(
    "the policy's interface",
    topology="gateways: node2, interface: bond0.17",
    instead="gateways: node2, interface: bond0",
)
def test_a_policy_names_a_vlan_on_a_bond(lab: Lab) -> None:
    """The source is the VLAN's address. The frames are tagged and leave by the bond's active NIC."""
    by_gateway(lab.send("by-vlan", "tagged"), link="bond0.17", source="10.0.17.2")


@pytest.mark.issue(30159, "egress gateway: the VLAN's address, and yet it leaves by its parent")
@fails_without(
    "the default route by the bond",
    topology="default via 10.0.0.254 dev bond0",
    instead="default via 10.0.17.254 dev bond0.17",
)
def test_the_vlan_of_a_policy_is_the_way_out_from_1_20_on(lab: Lab) -> None:
    """Up to 1.19 the VLAN is only another way to name an address: the packet leaves by the default route, untagged.
    With an egress IP it does so in every version."""
    asked, named = lab.send_all(["by-vlan -> far", "by-address -> far"])
    by_gateway(named, link="bond0", source="10.0.17.2")
    by_gateway(asked, link="bond0.17" if lab.version.has("egress-nic-ipv4") else "bond0", source="10.0.17.2")


@fails_without(
    "the default route by the bond",
    topology="default via 10.0.0.254 dev bond0",
    instead="default via 10.0.17.254 dev bond0.17",
)
def test_a_bond_is_the_gateways_way_out_without_a_choice(lab: Lab) -> None:
    """A policy with neither address nor interface uses the link of the default route: the bond, and its address."""
    by_gateway(lab.send("by-default", "far"), link="bond0", source="10.0.0.2")


@fails_without("the dummy's address", topology="egress_ip: 192.0.2.2", instead="egress_ip: 10.0.0.2")
def test_an_egress_ip_of_a_dummy(lab: Lab) -> None:
    """An address that no NIC has, routed to the gateway: the packet leaves by the default route, and answers find
    back."""
    by_gateway(lab.send("by-dummy", "far"), link="bond0", source="192.0.2.2")


@pytest.mark.settings(devices="bond0")
@fails_without(devices="bond0", instead="bond0,bond0.17")
def test_the_vlan_filter_stops_what_a_gateway_sends_tagged(lab: Lab) -> None:
    """The VLAN is not selected and its parent is: nothing tagged leaves, whatever the policy says."""
    flow = lab.send("by-vlan", "tagged")
    assert flow.left("node2") == set()
    assert flow.source_seen_by("tagged") is None
    flow.must_not_receive()
