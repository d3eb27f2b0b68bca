"""Whose address the world sees, beyond `devices`: exceptions from masquerading, and other ways to do it.

Both NICs are selected. ext0 is on eth0's own network, ext1 on eth1's; both know the way back to the pods.
"""

from __future__ import annotations

import pytest
from niclab import Lab, Settings, fails_without

from .common import BOTH, ETH0, EXT1_BY_ETH0, NATIVE, NODE1_ETH0, NODE1_ETH1, VXLAN

IPTABLES = Settings.of(enable_bpf_masquerade=False)
AGENT = Settings.of(enable_ip_masq_agent=True)

pytestmark = [pytest.mark.topology("two-nic"), pytest.mark.settings(VXLAN, BOTH)]


def seen(lab: Lab) -> dict[str, str | None]:
    """The source that ext0 and ext1 see of pod1: `pod`, or an address."""
    sources = {}
    for flow in lab.send_all(["pod1 -> ext0", "pod1 -> ext1"]):
        source = flow.source_seen_by(flow.flow.destination)
        sources[flow.flow.destination] = "pod" if source == lab.address("pod1") else source
        flow.must_receive()
    return sources


@pytest.mark.settings(AGENT)
@fails_without(enable_ip_masq_agent=True, instead=False)
def test_the_ip_masq_agents_defaults(lab: Lab) -> None:
    """Without a list of its own, the agent excludes all private networks: nothing in this lab is masqueraded."""
    assert seen(lab) == {"ext0": "pod", "ext1": "pod"}


@pytest.mark.settings(AGENT, ip_masq_agent_config_path="{nonMasqueradeCIDRs: [10.0.1.0/24]}")
@fails_without(
    ip_masq_agent_config_path="{nonMasqueradeCIDRs: [10.0.1.0/24]}", instead="{nonMasqueradeCIDRs: [10.0.0.0/24]}"
)
def test_the_ip_masq_agents_list(lab: Lab) -> None:
    """The list holds for all devices. Destinations that are not on it are masqueraded."""
    assert seen(lab) == {"ext0": NODE1_ETH0, "ext1": "pod"}


@pytest.mark.settings(AGENT, routing="native", auto_direct_node_routes=True)
@pytest.mark.settings(ip_masq_agent_config_path="{nonMasqueradeCIDRs: [10.244.0.0/16]}")
@fails_without(
    ip_masq_agent_config_path="{nonMasqueradeCIDRs: [10.244.0.0/16]}", instead="{nonMasqueradeCIDRs: [192.168.0.0/16]}"
)
def test_the_ip_masq_agent_in_native_routing(lab: Lab) -> None:
    """Its list replaces the native routing CIDR, which need not be set."""
    assert seen(lab) == {"ext0": NODE1_ETH0, "ext1": NODE1_ETH1}
    assert lab.send("pod1", "pod2").source_seen_by("pod2") == lab.address("pod1")


@pytest.mark.settings(derive_masq_ip_addr_from_device="eth1")
@fails_without(derive_masq_ip_addr_from_device="eth1", instead="eth0")
def test_one_devices_address_for_all(lab: Lab) -> None:
    """A hidden flag. The answer to eth1's address comes back by eth1, which is selected too."""
    flow = lab.send("pod1", "ext0")
    assert flow.left("node1") == {"eth0"}
    assert flow.source_seen_by("ext0") == NODE1_ETH1


@pytest.mark.settings(IPTABLES, egress_masquerade_interfaces="eth1")
@fails_without(egress_masquerade_interfaces="eth1", instead="eth0")
def test_iptables_on_listed_interfaces(lab: Lab) -> None:
    """`devices` does not matter to iptables. On an interface that is not listed the pod's own address is seen."""
    assert seen(lab) == {"ext0": "pod", "ext1": NODE1_ETH1}


@pytest.mark.topology(routes=["node1: 10.0.1.100/32 dev eth1 src 10.0.0.1"])
@pytest.mark.settings(IPTABLES, enable_masquerade_to_route_source=True)
@fails_without(enable_masquerade_to_route_source=True, instead=False)
def test_iptables_to_the_source_of_routes(lab: Lab) -> None:
    """The routes of the NICs' networks have a source. A route to one host with another source wins from 1.20 on;
    before, the rules are in the order of the kernel's routes, where the network comes first."""
    by_network, by_route = lab.send_all(["pod1 -> ext0", "pod1 -> ext1"])
    assert by_network.source_seen_by("ext0") == NODE1_ETH0
    assert by_route.left("node1") == {"eth1"}
    assert by_route.source_seen_by("ext1") == (NODE1_ETH1 if lab.version < (1, 20) else NODE1_ETH0)


@pytest.mark.settings(IPTABLES, ETH0, enable_masquerade_to_route_source=True)
@fails_without(devices="eth0", instead="eth0,eth1")
@fails_without(enable_masquerade_to_route_source=True, instead=False)
def test_iptables_to_the_source_of_a_selected_devices_routes(lab: Lab) -> None:
    """Here `devices` matters to iptables: routes of other NICs get no rule."""
    assert seen(lab) == {"ext0": NODE1_ETH0, "ext1": "pod"}


@pytest.mark.cilium("1.20")
@pytest.mark.settings(NATIVE, enable_remote_node_masquerade=True)
@fails_without(enable_remote_node_masquerade=True, instead=False)
def test_node_ips_are_no_exception_any_more(lab: Lab) -> None:
    """`enable-remote-node-masquerade`, new in 1.19: with native routing too, remote nodes see the node's address."""
    assert lab.send("pod1", "node2.eth0").source_seen_by("node2") == NODE1_ETH0


@pytest.mark.settings(enable_host_firewall=True)
@fails_without(enable_host_firewall=True, instead=False)
def test_the_host_firewall_tunnels_to_node_ips(lab: Lab) -> None:
    """With the host firewall, traffic to a remote node IP goes through the tunnel both ways, with the pod's own
    address."""
    flow = lab.send("pod1", "node2.eth0")
    assert flow.source_seen_by("node2") == lab.address("pod1")
    assert flow.outer_on("node1.eth0") == {("10.0.0.1", "10.0.0.2")}
    assert flow.outer_on("node2.eth0") == {("10.0.0.2", "10.0.0.1")}
    flow.must_receive()
    assert lab.send("pod1", "node2.eth1").source_seen_by("node2") == NODE1_ETH1


@pytest.mark.settings(ETH0, enable_endpoint_routes=True)
@fails_without(enable_endpoint_routes=True, instead=False, version="1.18")
@fails_without("the route by eth1", instead=EXT1_BY_ETH0)
def test_endpoint_routes_bring_back_the_fib(lab: Lab) -> None:
    """With a route per pod, even 1.18 does not send everything to its only device."""
    flow = lab.send("pod1", "ext1")
    assert flow.left("node1") == {"eth1"}
    assert flow.source_seen_by("ext1") == lab.address("pod1")
    flow.must_receive()
