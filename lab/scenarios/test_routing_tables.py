"""Other routing tables and rules (#24252): BPF host routing uses the kernel's FIB, rules included, and a change counts
at once, because nothing is cached.

Up to 1.18, with one selected device, the FIB is not used at all. Do not use table 200: it is Cilium's own, for IPsec,
and agents without IPsec empty it (pkg/datapath/linux/ipsec.go removeEncryptRules; seen on 1.18.10).
"""

from __future__ import annotations

import pytest
from niclab import Lab, fails_without

TABLES = pytest.mark.topology(
    routes=["node1: default via 10.0.1.254 dev eth1 table 100"], rules=["node1: from 10.244.1.0/24 lookup 100"]
)
NATIVE = pytest.mark.settings(routing="native", ipv4_native_routing_cidr="10.244.0.0/16", auto_direct_node_routes=True)


@TABLES
@NATIVE
@pytest.mark.settings(devices="eth0,eth1")
@fails_without(rules=...)
def test_a_rule_for_the_pods_sends_them_by_another_table(lab: Lab) -> None:
    """The rule matches the pods' addresses: pods leave by eth1, masqueraded to its address, and the node itself by
    eth0."""
    flow = lab.send("pod1", "ext0")
    assert flow.left("node1") == {"eth1"}
    assert flow.source_seen_by("gw") == "10.0.1.1"
    assert lab.send("node1.eth0", "ext0").left("node1") == {"eth0"}


@TABLES
@NATIVE
@pytest.mark.settings(devices="eth0")
@fails_without(devices="eth0", instead="eth0,eth1", version="1.18")
@fails_without(rules=...)
def test_with_one_selected_device_the_rule_counts_from_1_19_on(lab: Lab) -> None:
    """Up to 1.18 the only device gets the packet, whatever the rule says."""
    flow = lab.send("pod1", "ext0")
    assert flow.left("node1") == ({"eth0"} if lab.version <= (1, 18) else {"eth1"})


@NATIVE
@pytest.mark.settings(devices="eth0,eth1")
@fails_without(call="add_rule")
@fails_without(call="add_route")
@fails_without(devices="eth0,eth1", instead="eth0", version="1.18")
def test_rules_and_routes_that_come_and_go_are_followed_at_once(lab: Lab) -> None:
    """Each change of routes and rules decides the very next packet."""
    assert lab.send("pod1", "ext0").left("node1") == {"eth0"}
    lab.add_route("node1", "default via 10.0.1.254 dev eth1 table 100")
    assert lab.send("pod1", "ext0").left("node1") == {"eth0"}
    with lab.add_rule("node1", "from 10.244.1.0/24 to 10.0.0.100 lookup 100"):
        assert lab.send("pod1", "ext0").left("node1") == {"eth1"}
    assert lab.send("pod1", "ext0").left("node1") == {"eth0"}
    with lab.add_route("node1", "10.0.0.100/32 via 10.0.1.254 dev eth1"):
        assert lab.send("pod1", "ext0").left("node1") == {"eth1"}
    with lab.add_rule("node1", "from 10.244.1.0/24 to 10.0.0.100 unreachable"):
        assert lab.send("pod1", "ext0").left("node1") == set()


@TABLES
@pytest.mark.settings(routing="tunnel", devices="eth0,eth1")
@fails_without(call="add_rule")
def test_the_tunnel_is_the_nodes_own_traffic_and_not_the_pods(lab: Lab) -> None:
    """A rule for pods' addresses does not move the tunnel; a rule for the peer's node IP does."""
    assert lab.send("pod1", "pod2").left("node1") == {"eth0"}
    lab.add_route("node1", "10.0.0.2/32 via 10.0.1.2 dev eth1 table 300")
    with lab.add_rule("node1", "to 10.0.0.2 lookup 300"):
        assert lab.send("pod1", "pod2").left("node1") == {"eth1"}
