"""What an article on Cilium with several NICs claims, sentence by sentence, and what is true: `niclab claims`.

A claim's verdict is proved when its test passes; the flows and the commands' outputs are the evidence in the record.
"""

from __future__ import annotations

import ipaddress

import pytest
from niclab import Lab, fails_without

from .common import BOTH, ETH0, NATIVE, NODE_IPS_ON_ETH1, PEERS_BY_BOTH, PEERS_BY_ETH1, PER_FLOW, VXLAN

pytestmark = pytest.mark.topology("two-nic")


@pytest.mark.claim(
    "Cilium does not distribute pod traffic over a node's NICs by itself",
    verdict="true",
    truth="One route, one NIC. Only the kernel's multipath routes, or a bond below Cilium, spread flows.",
)
@pytest.mark.settings(VXLAN, BOTH)
@fails_without("a route by one NIC", instead={**PEERS_BY_BOTH, **PER_FLOW})
def test_no_balancing(lab: Lab) -> None:
    """200 flows to a pod and 200 to the world all leave by eth0."""
    to_pod = lab.send("pod1", "pod2:udp:5000", count=200, vary_ports=True)
    to_world = lab.send("pod1", "ext0:udp:5000", count=200, vary_ports=True)
    assert to_pod.shares("node1").counts == to_world.shares("node1").counts == {"eth0": 200, "eth1": 0}


@pytest.mark.claim(
    "By default Cilium takes one NIC, eth0",
    verdict="false",
    truth="Detection selects every NIC that is up and has an address; of veths, which nodes have that are containers, "
    "those with a default route of their own.",
)
@pytest.mark.settings(VXLAN)
@fails_without("NICs of a machine", instead={"nics": "veth"})
def test_detection_selects_all_that_qualify(lab: Lab) -> None:
    """eth1 has no default route, and is detected. It masquerades to its own address."""
    assert lab.reported["node1"].devices == ("eth0", "eth1")
    assert lab.send("pod1", "ext1").source_seen_by("ext1") == "10.0.1.1"


@pytest.mark.claim(
    "Unless told to, Cilium does not use eth1 for pods that talk to each other",
    verdict="false",
    truth="The kernel's route to the peer's node IP chooses the tunnel's NIC, whatever `devices` says.",
)
@pytest.mark.topology(**PEERS_BY_ETH1)
@pytest.mark.settings(VXLAN, ETH0)
@fails_without(routes=...)
def test_a_route_is_enough(lab: Lab) -> None:
    """The peers' node IPs are routed by eth1: the tunnel uses it, although only eth0 is selected."""
    assert lab.reported["node1"].devices == ("eth0",)
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == flow.came_back_to("node1") == {"eth1"}
    flow.must_receive()


@pytest.mark.claim(
    "The agent gives a pod an address of a pool, and that address is routed into the cluster",
    verdict="true",
    truth="The pool is the node's pod CIDR (kubernetes, cluster-pool), the same whichever NICs there are.",
)
@pytest.mark.settings(VXLAN)
@fails_without(
    "the node's pod CIDR as the pool",
    topology='pods: ["pod{n}"]',
    instead='pools: {other: "10.245.{n}.0/24"}\n    pods: {"pod{n}": {pool: other}}',
)
def test_pods_have_addresses_of_the_nodes_pool(lab: Lab) -> None:
    """Every pod's address is in its node's pod CIDR, and pods reach each other."""
    for pod, (node, _) in lab.topology.pods.items():
        assert ipaddress.ip_address(lab.address(pod)) in lab.topology.nodes[node].pod_cidrs[0]
    lab.send("pod1", "pod2").must_receive()


@pytest.mark.claim(
    "Listed devices get pods' addresses: IPAM associates its pool with them",
    verdict="false",
    truth="IPAM never looks at `devices`; no listed NIC has an address of the pod CIDR. Only where a cloud's NICs own "
    "the addresses (eni, azure, alibabacloud) do pods belong to NICs, and `devices` does not say which.",
)
@pytest.mark.settings(VXLAN, BOTH)
@fails_without("NICs without addresses of the pool", instead={"run": "node1: ip address add 10.244.1.200/32 dev eth1"})
def test_listed_devices_have_no_pod_addresses(lab: Lab) -> None:
    """Both NICs are listed, and neither has an address of the pod CIDR."""
    pool = lab.topology.nodes["node1"].pod_cidrs[0]
    for nic in ("eth0", "eth1"):
        addresses = lab.run("node1", "ip", "-4", "-o", "address", "show", "dev", nic)
        assert addresses
        assert not any(ipaddress.ip_interface(line.split()[3]).ip in pool for line in addresses.splitlines())
    assert ipaddress.ip_address(lab.address("pod1")) in pool


@pytest.mark.claim(
    "A list in `devices` is the lever that makes Cilium use eth1 for pods",
    verdict="partly",
    truth="A listed NIC gets Cilium's programs: masquerading, NodePort, the host firewall. The path stays the "
    "kernel's. Up to 1.18 a second device also ends the rule that sends everything to the only one.",
)
@pytest.mark.settings(VXLAN)
@pytest.mark.parametrize(
    "devices", [pytest.param(names, marks=pytest.mark.settings(devices=names)) for names in ("eth0", "eth0,eth1")]
)
@fails_without(devices="eth0", instead="eth0,eth1", at="eth0")
@fails_without(devices="eth0,eth1", instead="eth0", at="eth0,eth1")
def test_the_lever(lab: Lab, devices: str) -> None:
    """Listing eth1 turns masquerading on there. Traffic between pods stays on eth0 either way."""
    assert lab.send("pod1", "pod2").left("node1") == {"eth0"}  # not moved by either value
    flow = lab.send("pod1", "ext1")
    if devices == "eth0,eth1":
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("ext1") == "10.0.1.1"
    elif lab.version <= (1, 18):
        assert flow.left("node1") == {"eth0"}
    else:
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("ext1") == lab.address("pod1")


@pytest.mark.claim(
    "With native routing and both NICs listed, a peer's pod CIDR has routes out of both",
    verdict="false",
    truth="One route per pod CIDR, by the NIC of the kernel's route to the peer's node IP; never multipath.",
)
@pytest.mark.settings(NATIVE, BOTH)
@fails_without(auto_direct_node_routes=True, instead=False)
@fails_without("the node IPs on eth0", instead=NODE_IPS_ON_ETH1)
def test_one_route_per_pod_cidr(lab: Lab) -> None:
    """The peer's pod CIDR has one route, by eth0, although both NICs are listed."""
    routes = lab.run("node1", "ip", "route", "show", "10.244.2.0/24").split("\n")
    assert [line.split(" proto")[0].strip() for line in routes if line] == ["10.244.2.0/24 via 10.0.0.2 dev eth0"]
    assert lab.send("pod1", "pod2").left("node1") == {"eth0"}


@pytest.mark.claim(
    "The agent binds to the listed devices for pods' traffic",
    verdict="false",
    truth="No socket is bound to a NIC. The tunnel's is the kernel's, on every address: it works over a NIC that is "
    "not listed.",
)
@pytest.mark.settings(VXLAN, devices="eth1")
@fails_without("the tunnel", instead=NATIVE)
@fails_without("the peer's node IP by eth0", instead=PEERS_BY_ETH1)
def test_nothing_is_bound_to_a_device(lab: Lab) -> None:
    """The VXLAN socket listens on every address, and the tunnel works over eth0, which is not listed."""
    sockets = lab.run("node1", "ss", "-H", "-l", "-n", "-u")
    assert ":8472" in sockets
    assert "%eth" not in sockets
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == flow.entered("node2") == {"eth0"}
    flow.must_receive()


@pytest.mark.claim(
    "A NIC that is up and has routes carries no pods' traffic unless it is listed",
    verdict={"1.16": "partly", "1.17": "partly", "1.18": "partly", "": "false"},
    truth="From 1.19 on pods' packets follow the kernel's routes to any NIC, and leave one that is not listed with the "
    "pod's own address. Up to 1.18 that is so with two selected devices or more; one gets everything.",
)
@pytest.mark.settings(VXLAN, devices="eth0")
@fails_without(devices="eth0", instead="eth0,eth1")
@fails_without(devices="eth0", instead="eth0,eth1", version="1.18")
def test_an_unlisted_nic_carries_pods_traffic(lab: Lab) -> None:
    """From 1.19 on, eth1 carries pod traffic without being listed, with the pod's own address."""
    flow = lab.send("pod1", "ext1")
    if lab.version <= (1, 18):
        flow.must_not_leave("node1", by="eth1")
    else:
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("ext1") == lab.address("pod1")


@pytest.mark.claim(
    "`ip route show` lists routes for the pod CIDRs by eth1 once eth1 is in `devices`, which verifies the set-up",
    verdict="false",
    truth="In tunnel mode the routes lead to Cilium's own device, the same with any `devices`; in native mode there is "
    "one, by the route to the peer's node IP. What a NIC carries is only seen on its cable.",
)
@pytest.mark.settings(VXLAN, BOTH)
@fails_without("the tunnel", instead={"settings": NATIVE, **NODE_IPS_ON_ETH1})
def test_the_commands_to_verify_with(lab: Lab) -> None:
    """`ip route` shows no pod CIDR on eth1, listed or not."""
    routes = lab.run("node1", "ip", "route", "show")
    for_pods = [line for line in routes.splitlines() if line.startswith("10.244.")]
    assert for_pods
    assert not any("eth1" in line for line in for_pods)
    if lab.datapath == "cilium":
        status = lab.run("node1", "cilium-dbg", "status", "--verbose")
        assert "eth1" in status
    assert lab.send("pod1", "pod2").left("node1") == {"eth0"}


@pytest.mark.claim(
    "An object of kind CiliumConfig (apiVersion cilium.io/v2) with spec.devices configures the agents",
    verdict="false",
    truth="No such kind exists in Cilium: the ConfigMap cilium-config does, and CiliumNodeConfig for some nodes. An "
    "operator for OpenShift had a CiliumConfig (v1alpha1) of Helm values.",
)
@pytest.mark.only(datapath="cilium", control_plane="kubernetes")
@pytest.mark.settings(VXLAN)
def test_there_is_no_kind_of_that_name(lab: Lab) -> None:
    """Only an API server knows which kinds exist."""
    kinds = lab.kinds()
    assert "CiliumConfig" not in kinds
    assert "CiliumNodeConfig" in kinds
    lab.send("pod1", "pod2").must_receive()
