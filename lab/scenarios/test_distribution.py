"""Even distribution: what spreads pods' flows over several NICs. Cilium does not; the kernel's multipath routes do.

A multipath route chooses a flow's NIC by a hash. What goes into the hash decides what can be spread:

* BPF host routing looks up the FIB by addresses alone (`bpf_fib_lookup` gets no ports): a pair of addresses always
  uses the same NIC, whatever `net.ipv4.fib_multipath_hash_policy` says (cilium #39121);
* legacy host routing is the kernel's own forwarding: with policy 1 every connection is hashed by its ports too;
* a tunnel's outer packets are routed by the kernel as well, and their source port is a hash of the inner flow.

Here each probe is a flow of its own. "Even" is a statistical test: a fair hash fails it once in ten thousand runs.
"""

from __future__ import annotations

import pytest
from niclab import Lab, Settings, fails_without

from .common import LEGACY, PEERS_BY_BOTH, PER_FLOW

TWO = "node1: 10.9.0.0/16 nexthop via 10.0.0.254 dev eth0 nexthop via 10.0.1.254 dev eth1"
THREE = f"{TWO} nexthop via 10.0.2.254 dev eth2"
WEIGHTED = "node1: 10.9.0.0/16 nexthop via 10.0.0.254 dev eth0 weight 3 nexthop via 10.0.1.254 dev eth1 weight 1"
BY_TWO, BY_THREE, BY_WEIGHT = {"routes": [TWO]}, {"routes": [THREE]}, {"routes": [WEIGHTED]}
PAIRS, FLOWS = 200, 2000

NATIVE = Settings.of(routing="native", ipv4_native_routing_cidr="10.244.0.0/16", devices="eth+")


@pytest.mark.topology("uplinks")
@pytest.mark.settings(NATIVE)
@fails_without("a route by one NIC", instead=BY_TWO)
def test_without_a_multipath_route_one_nic_carries_all(lab: Lab) -> None:
    """Three selected devices and three working uplinks: nothing is balanced."""
    flow = lab.send("pod1", "world", count=PAIRS, vary_addresses=True)
    assert flow.shares("node1").counts == {"eth0": PAIRS, "eth1": 0, "eth2": 0}
    flow.must_receive()


@pytest.mark.topology("uplinks", **BY_TWO)
@pytest.mark.settings(NATIVE)
@fails_without(routes=...)
def test_address_pairs_are_spread_evenly_over_two_nics(lab: Lab) -> None:
    """Flows to different addresses are spread; each is masqueraded to the address of its NIC."""
    flow = lab.send("pod1", "world", count=PAIRS, vary_addresses=True)
    shares = flow.shares("node1")
    assert shares.fits({"eth0": 1, "eth1": 1}), shares.chart({"eth0": 1, "eth1": 1})
    # Masquerading follows the NIC: the world sees each uplink's own address.
    assert flow.sources_seen_by("world") == {"10.0.0.1", "10.0.1.1"}
    flow.must_receive()


@pytest.mark.topology("uplinks", **BY_THREE)
@pytest.mark.settings(NATIVE)
@fails_without(routes=..., instead=BY_TWO)
def test_address_pairs_are_spread_evenly_over_three_nics(lab: Lab) -> None:
    """A route with three next hops spreads flows over three NICs."""
    shares = lab.send("pod1", "world", count=PAIRS, vary_addresses=True).shares("node1")
    assert shares.fits({"eth0": 1, "eth1": 1, "eth2": 1}), shares.chart({"eth0": 1, "eth1": 1, "eth2": 1})


@pytest.mark.topology("uplinks", **BY_TWO)
@pytest.mark.settings(NATIVE)
@fails_without(call="link_down")
@fails_without(routes=...)
def test_a_nic_that_goes_down_hands_its_flows_over_and_takes_them_again(lab: Lab) -> None:
    """The kernel's multipath route loses that next hop and gets it back with the link. Flows change their NIC in
    between."""
    with lab.link_down("node1.eth1"):
        flow = lab.send("pod1", "world", count=PAIRS, vary_addresses=True)
        assert flow.shares("node1").counts == {"eth0": PAIRS, "eth1": 0, "eth2": 0}
        flow.must_receive()
    flow = lab.send("pod1", "world", count=PAIRS, vary_addresses=True)
    shares = flow.shares("node1")
    assert shares.fits({"eth0": 1, "eth1": 1}), shares.chart({"eth0": 1, "eth1": 1})
    flow.must_receive()


@pytest.mark.topology("uplinks", **BY_WEIGHT)
@pytest.mark.settings(NATIVE)
@fails_without(routes=..., instead=BY_TWO)
def test_weights_are_kept(lab: Lab) -> None:
    """Next hops with weights 3 and 1 share flows 3 to 1."""
    shares = lab.send("pod1", "world", count=PAIRS, vary_addresses=True).shares("node1")
    assert shares.fits({"eth0": 3, "eth1": 1}), shares.chart({"eth0": 3, "eth1": 1})
    assert not shares.fits({"eth0": 1, "eth1": 3})


ISSUE_39121 = pytest.mark.issue(
    39121, "BPF host routing keeps a pod pair on one NIC where legacy host routing uses both"
)


@ISSUE_39121
@pytest.mark.topology("uplinks", **BY_TWO, **PER_FLOW)
@pytest.mark.settings(NATIVE)
@fails_without("BPF host routing", instead=LEGACY)
def test_bpf_host_routing_keeps_every_flow_of_a_pair_on_one_nic(lab: Lab) -> None:
    """A pod that talks to one server gets one NIC's bandwidth: the kernel's per-flow policy has no effect."""
    shares = lab.send("pod1", "world:udp:5000", count=FLOWS, vary_ports=True).shares("node1")
    assert max(shares.counts.values()) == FLOWS, shares.chart()


@ISSUE_39121
@pytest.mark.topology("uplinks", **BY_TWO, **PER_FLOW)
@pytest.mark.settings(NATIVE, LEGACY)
@fails_without(sysctls=...)
@fails_without(enable_host_legacy_routing=True, instead=False)
def test_legacy_host_routing_spreads_the_flows_of_a_pair(lab: Lab) -> None:
    """The kernel forwards, and with policy 1 it hashes ports too."""
    shares = lab.send("pod1", "world:udp:5000", count=FLOWS, vary_ports=True).shares("node1")
    assert shares.fits({"eth0": 1, "eth1": 1}), shares.chart({"eth0": 1, "eth1": 1})


@pytest.mark.topology("uplinks", **BY_TWO)
@pytest.mark.settings(NATIVE, LEGACY)
@fails_without("the kernel's default hash", instead=PER_FLOW)
def test_legacy_host_routing_hashes_address_pairs_by_default(lab: Lab) -> None:
    """The kernel's default policy, 0, looks at addresses alone."""
    shares = lab.send("pod1", "world:udp:5000", count=FLOWS, vary_ports=True).shares("node1")
    assert max(shares.counts.values()) == FLOWS, shares.chart()


@pytest.mark.topology("uplinks", **PEERS_BY_BOTH, **PER_FLOW)
@pytest.mark.settings(routing="tunnel", devices="eth+")
@fails_without(sysctls=...)
def test_a_tunnel_spreads_pod_flows_by_its_outer_source_port(lab: Lab) -> None:
    """The multipath route leads to the peer's node IP. The outer source port is a hash of the inner flow."""
    shares = lab.send("pod1", "pod2:udp:5000", count=FLOWS, vary_ports=True).shares("node1")
    assert shares.counts["eth2"] == 0
    assert min(shares.counts["eth0"], shares.counts["eth1"]) > FLOWS // 4, shares.chart()


@pytest.mark.topology("uplinks", **PEERS_BY_BOTH)
@pytest.mark.settings(routing="tunnel", devices="eth+")
@fails_without("the kernel's default hash", instead=PER_FLOW)
def test_a_tunnel_uses_one_nic_per_pair_of_nodes_by_default(lab: Lab) -> None:
    """The kernel's default policy, 0, hashes the outer addresses alone: two nodes use one NIC."""
    shares = lab.send("pod1", "pod2:udp:5000", count=FLOWS, vary_ports=True).shares("node1")
    assert max(shares.counts.values()) == FLOWS, shares.chart()


@pytest.mark.topology("uplinks", **BY_TWO)
@pytest.mark.settings(NATIVE, devices="eth0")
@fails_without(devices="eth0", instead="eth+", version="1.18")
@fails_without(routes=...)
def test_one_selected_device_undoes_the_spreading_up_to_1_18(lab: Lab) -> None:
    """Up to 1.18 the FIB is not used, so there is no multipath. Later versions spread, and leak pod addresses on
    eth1."""
    flow = lab.send("pod1", "world", count=PAIRS, vary_addresses=True)
    shares = flow.shares("node1")
    if lab.version <= (1, 18):
        assert shares.counts == {"eth0": PAIRS, "eth1": 0, "eth2": 0}
    else:
        assert shares.fits({"eth0": 1, "eth1": 1}), shares.chart({"eth0": 1, "eth1": 1})
        assert flow.sources_seen_by("world") == {"10.0.0.1", lab.address("pod1")}
