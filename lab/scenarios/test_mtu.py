"""NICs of different MTUs: 1500 bytes on eth0, 1400 on eth1. Pods get the smallest MTU of the selected
devices, so `devices` decides how large pods' packets may be, also where it does not decide which NIC they leave by.

Sizes are IPv4 packets with DF set, in bytes; VXLAN adds 50.
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without

pytestmark = pytest.mark.topology("mtu")


@pytest.mark.settings(routing="tunnel", devices="eth0,eth1")
@fails_without(devices="eth0,eth1", instead="eth0")
def test_the_smallest_selected_nic_sets_the_mtu_of_every_pod(lab: Lab) -> None:
    """1400 less the tunnel's 50, also on the way to eth0. Larger packets are refused inside the pod and never sent."""
    for end, nic in (("pod2", "eth0"), ("ext0", "eth0"), ("ext1", "eth1")):
        flow = lab.send("pod1", end, size=1350)
        assert flow.left("node1") == {nic}
        assert flow.verdict == "carried"
        assert lab.send("pod1", end, size=1351).refusal == "Message too long"


@pytest.mark.settings(routing="tunnel", devices="eth0")
@fails_without(devices="eth0", instead="eth0,eth1")
@fails_without(topology="mtu: 1400", instead="mtu: 1500")
def test_a_smaller_nic_that_is_not_selected_loses_what_is_too_big_for_it(lab: Lab) -> None:
    """From 1.19 on pods may send 1450 bytes by eth1, which takes 1400. Real agents' BPF host routing drops the
    packet without an ICMP error: a black hole [measured on 1.20.0-dev]. The built-in datapath's kernel sends the
    error."""
    assert lab.send("pod1", "pod2", size=1450).verdict == "carried"
    assert lab.send("pod1", "pod2", size=1451).refusal == "Message too long"
    if lab.version > (1, 18):
        flow = lab.send("pod1", "ext1", size=1450)
        assert flow.verdict == "lost"
        errors = {sighting.note for sighting in flow.sightings if sighting.kind == "error"}
        assert errors == ({"frag needed, mtu 1400"} if lab.datapath == "builtin" else set())
        assert lab.send("pod1", "ext1", size=1400).verdict == "carried"


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(1350, marks=pytest.mark.settings(routing="tunnel", devices="eth0,eth1"), id="both"),
        pytest.param(1450, marks=pytest.mark.settings(routing="tunnel", devices="eth0"), id="eth0"),
    ],
)
@fails_without(call="add_route")
def test_the_tunnel_over_the_smaller_nic_is_no_black_hole(lab: Lab, size: int) -> None:
    """The tunnel's outer packets have no DF bit: those too large for the NIC are fragmented, and arrive."""
    lab.add_route("node1", "10.0.0.2/32 via 10.0.1.2 dev eth1")
    lab.add_route("node2", "10.0.0.1/32 via 10.0.1.1 dev eth1")
    flow = lab.send("pod1", "pod2", size=size)
    assert flow.left("node1") == {"eth1"}
    assert flow.verdict == "carried"
