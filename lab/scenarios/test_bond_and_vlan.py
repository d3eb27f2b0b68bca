"""Bonds, VLANs and VRFs: links on top of NICs. Agents select the links; packets are seen on the NICs below them.

Skipped on a kernel without these links; `scripts/vm.py` runs them on a kernel that has them.
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without


def selected(lab: Lab) -> set[str]:
    """The devices that node1's agent reports."""
    return set(lab.reported["node1"].devices)


@pytest.mark.needs("bond")
@pytest.mark.topology("bond")
@pytest.mark.settings(routing="tunnel", devices="")
@fails_without(devices="", instead="eth2")
def test_a_bond_is_detected_and_its_nics_are_not(lab: Lab) -> None:
    """A bond is selected as a NIC is. Its member NICs are not."""
    assert selected(lab) == {"bond0", "eth2"}
    assert lab.reported["node1"].direct_routing_device == "bond0"
    flow = lab.send("pod1", "ext0")
    assert flow.left("node1") == {"eth0"}
    assert flow.source_seen_by("ext0") == "10.0.0.1"


@pytest.mark.needs("bond")
@pytest.mark.topology("bond")
@pytest.mark.settings(routing="tunnel", devices="bond0,eth2")
@fails_without(topology="bond: [eth0, eth1]", instead="bond: [eth0]")
def test_an_active_backup_bond_fails_over_and_no_agent_notices(lab: Lab) -> None:
    """The tunnel and the pods' traffic continue on the other NIC. The bond, its address and the selection do not
    change."""
    assert lab.send("pod1", "pod2").left("node1") == {"eth0"}
    with lab.link_down("node1.eth0"):
        assert selected(lab) == {"bond0", "eth2"}
        flow = lab.send("pod1", "pod2")
        assert flow.left("node1") == flow.came_back_to("node1") == {"eth1"}
        assert lab.send("pod1", "ext0").left("node1") == {"eth1"}
    assert lab.send("pod1", "pod2").left("node1") == {"eth0"}


@pytest.mark.needs("bond")
@pytest.mark.topology("bond")
@pytest.mark.settings(routing="tunnel", devices="bond0,eth2")
@fails_without(call="link_down")
def test_a_bond_without_a_nic_carries_nothing(lab: Lab) -> None:
    """With both member NICs down, the tunnel is lost; a NIC outside the bond still works."""
    lab.link_down("node1.eth0")
    lab.link_down("node1.eth1")
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == set()
    assert flow.verdict == "lost"
    assert lab.send("pod1", "ext1").left("node1") == {"eth2"}


@pytest.mark.needs("vlan")
@pytest.mark.topology("vlan")
@pytest.mark.settings(routing="tunnel", devices="")
@fails_without(devices="", instead="eth0")
def test_a_vlan_is_a_device_of_its_own_on_the_same_cable(lab: Lab) -> None:
    """Both are detected, and each masquerades to its own address. Both are seen on eth0."""
    assert selected(lab) == {"eth0", "eth0.100"}
    for end, address in (("ext0", "10.0.0.1"), ("storage", "10.0.1.1")):
        flow = lab.send("pod1", end)
        assert flow.left("node1") == flow.came_back_to("node1") == {"eth0"}
        assert flow.source_seen_by(end) == address


@pytest.mark.needs("vlan")
@pytest.mark.topology("vlan")
@pytest.mark.settings(routing="tunnel", devices="eth0")
@fails_without(devices="eth0", instead="eth0,eth0.100")
def test_frames_of_a_vlan_that_is_not_selected_are_dropped_on_its_parent(lab: Lab) -> None:
    """The VLAN filter drops them both ways, and ARP with them: neither pods nor the node reach the storage network. Up
    to 1.18 the only selected device takes the pods' packets anyway, untagged."""
    assert lab.send("pod1", "storage").verdict == "lost"
    flow = lab.send("node1.eth0.100", "node2.eth0.100")
    assert flow.left("node1") == set()
    assert flow.verdict == "lost"


@pytest.mark.needs("vlan")
@pytest.mark.topology("vlan")
@pytest.mark.settings(routing="tunnel", devices="eth0", vlan_bpf_bypass="100")
@fails_without(vlan_bpf_bypass="100", instead="200")
def test_a_vlan_that_bypasses_the_filter_shows_the_pods_address(lab: Lab) -> None:
    """The node reaches the storage network by the VLAN. From 1.19 on pods do too, with their own address."""
    assert lab.send("node1.eth0.100", "node2.eth0.100").verdict == "carried"
    if lab.version > (1, 18):
        flow = lab.send("pod1", "storage")
        assert flow.source_seen_by("storage") == lab.address("pod1")
        assert flow.verdict == "carried"


@pytest.mark.needs("vlan")
@pytest.mark.topology("vlan")
@pytest.mark.settings(routing="tunnel", devices="eth0,eth0.100")
@fails_without(call="link_up")
def test_a_vlan_goes_down_and_comes_back_with_its_parent(lab: Lab) -> None:
    """The VLAN's connected route comes back with its parent NIC, and masquerading works as before."""
    assert lab.send("pod1", "storage").verdict == "carried"
    lab.link_down("node1.eth0")
    lab.link_up("node1.eth0")
    flow = lab.send("pod1", "storage")
    assert flow.verdict == "carried"
    assert flow.source_seen_by("storage") == "10.0.1.1"


@pytest.mark.needs("bond", "vlan", "dummy")
@pytest.mark.topology("egress-vlan")
@pytest.mark.settings(routing="tunnel", devices="eth0,bond0,bond0.17")
@fails_without(devices="eth0,bond0,bond0.17", instead="bond0,bond0.17", version="1.20")
def test_a_bonds_nic_that_is_listed_filters_the_bonds_vlans(lab: Lab) -> None:
    """Up to 1.18 a NIC without an address is not selected. From 1.19 on it is when listed: its own program sees the tag
    first, and the VLAN stands on the bond, not on it."""
    untagged, tagged = lab.send_all(["node1.bond0 -> node2.bond0", "node1.bond0.17 -> tagged"])
    assert untagged.verdict == "carried"
    if lab.version.has("list-before-state"):
        assert selected(lab) == {"eth0", "bond0", "bond0.17"}
        assert tagged.left("node1") == set()
        assert tagged.verdict == "lost"
    else:
        assert selected(lab) == {"bond0", "bond0.17"}
        assert tagged.verdict == "carried"


@pytest.mark.needs("vrf")
@pytest.mark.topology("vrf")
@pytest.mark.settings(routing="tunnel", devices="eth0,eth1")
@fails_without("the VRF", topology="    links:\n      blue: {vrf: eth1, table: 100}\n")
def test_pods_do_not_leave_by_a_nic_in_a_vrf(lab: Lab) -> None:
    """The routes to it are in the VRF's own table, and `devices` does not change that."""
    assert selected(lab) == {"eth0", "eth1"}
    assert lab.send("pod1", "ext1").left("node1") == {"eth0"}
    with lab.add_route("node1", "10.0.1.100/32 dev eth1"):
        flow = lab.send("pod1", "ext1")
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("ext1") == "10.0.1.1"
