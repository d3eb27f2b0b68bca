"""IPv6 beside IPv4: the same rules, family by family. The tunnel's outer packets are IPv4 for both."""

from __future__ import annotations

import pytest
from niclab import Lab, Settings, fails_without

from .common import NODE_IPS_ON_ETH1, PEERS_BY_ETH1

DUAL = Settings.of(enable_ipv6=True, enable_ipv6_masquerade=True)
TUNNEL = DUAL.merged(Settings.of(routing="tunnel", tunnel="vxlan"))
NATIVE = DUAL.merged(
    Settings.of(
        routing="native",
        auto_direct_node_routes=True,
        ipv4_native_routing_cidr="10.244.0.0/16",
        ipv6_native_routing_cidr="fd00:10:244::/48",
    )
)
FAMILIES = pytest.mark.parametrize("protocol", ["icmp", "icmp6"])
NODE1_ETH1 = {"icmp": "10.0.1.1", "icmp6": "fd00:10:0:1::1"}

pytestmark = pytest.mark.topology("dual-stack")


@FAMILIES
@pytest.mark.settings(TUNNEL, devices="eth1")
@fails_without("the peer's IPv4 node IP by eth0", instead=PEERS_BY_ETH1)
def test_both_families_share_one_tunnel(lab: Lab, protocol: str) -> None:
    """The tunnel's outer packets are IPv4 unless `underlay-protocol` changes that; their NIC follows the route to
    the node IP."""
    flow = lab.send("pod1", f"pod2:{protocol}")
    assert flow.left("node1") == flow.came_back_to("node1") == {"eth0"}
    assert flow.outer_on("node1.eth0") == {("10.0.0.1", "10.0.0.2")}
    flow.must_receive()


@FAMILIES
@pytest.mark.settings(NATIVE, devices="eth0,eth1")
@fails_without(
    "the IPv6 node IPs on eth0", instead={"node_ips": ["node1: fd00:10:0:1::1", "node2: fd00:10:0:1::2"]}, at="icmp6"
)
@fails_without("the IPv4 node IPs on eth0", instead=NODE_IPS_ON_ETH1, at="icmp")
def test_each_family_has_direct_routes_of_its_own(lab: Lab, protocol: str) -> None:
    """Each family's direct routes follow the node IP of that family."""
    flow = lab.send("pod1", f"pod2:{protocol}")
    assert flow.left("node1") == flow.came_back_to("node1") == {"eth0"}
    flow.must_receive()


@FAMILIES
@pytest.mark.settings(TUNNEL, devices="eth0,eth1")
@fails_without(devices="eth0,eth1", instead="eth0")
def test_each_family_is_masqueraded_to_the_nics_own_address(lab: Lab, protocol: str) -> None:
    """Each family is masqueraded to the NIC's address of that family."""
    flow = lab.send("pod1", f"ext1:{protocol}")
    assert flow.left("node1") == {"eth1"}
    assert flow.source_seen_by("ext1") == NODE1_ETH1[protocol]
    flow.must_receive()


@FAMILIES
@pytest.mark.settings(TUNNEL, devices="eth0")
@fails_without(devices="eth0", instead="eth0,eth1", version="1.18")
def test_one_device_skips_the_fib_in_both_families_up_to_1_18(lab: Lab, protocol: str) -> None:
    """Every packet goes to eth0. There IPv4 uses eth0's gateway, but IPv6 looks for eth1's hosts among eth0's
    neighbours and finds none."""
    short_cut = {"icmp": {"eth0"}, "icmp6": set[str]()}[protocol]
    assert lab.send("pod1", f"ext1:{protocol}").left("node1") == (short_cut if lab.version <= (1, 18) else {"eth1"})
    flow = lab.send("pod1", f"ext0:{protocol}")
    assert flow.left("node1") == {"eth0"}
    flow.must_receive()
