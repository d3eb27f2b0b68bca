"""Services on nodes with two NICs: which NIC takes a request, which NIC sends the reply, and whom the backend sees.

The backend of every service is pod2 on node2: a request to node1 is forwarded, with
node1's own address in place of the client's (SNAT); a request to node2 is answered where it came in.

A few rules explain almost everything:

* a NIC that is not selected serves nothing: the node answers there as if no service existed;
* the reply leaves by the route to the client, not by the NIC that took the request;
* where a backend is on the node itself, its answer is translated back on selected NICs only;
* a request that begins inside the cluster is translated where it begins: to the wire it is traffic from pod to pod.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from niclab import Lab, Settings, fails_without

from .common import (
    BACKEND_ON_NODE1,
    BOTH,
    CLIENT0,
    CLIENT1,
    DNS,
    ETH0,
    EXT0_BY_ETH1,
    NATIVE,
    NODE1_ETH0,
    NODE1_ETH1,
    NODE_IPS_ON_ETH1,
    VXLAN,
    WEB,
    WEB_LOCAL,
    forwarded,
    refused,
)

DRD_ETH1 = Settings.of(direct_routing_device="eth1")

pytestmark = pytest.mark.topology("services")


@pytest.mark.settings(NATIVE, BOTH)
@pytest.mark.parametrize("port", [WEB, DNS])
@fails_without(devices="eth0,eth1", instead="eth0")
@fails_without("the backend on node2", instead=BACKEND_ON_NODE1)
def test_node_port_with_a_remote_backend(lab: Lab, port: str) -> None:
    """Both NICs take requests. The backend sees node1, so that its reply comes back this way."""
    by_eth0, by_eth1 = lab.send_all([f"ext0 -> node1.eth0:{port}", f"ext1 -> node1.eth1:{port}"])
    forwarded(by_eth0, taken_in="eth0", answered_by="eth0")
    forwarded(by_eth1, taken_in="eth1", answered_by="eth1")
    for flow in (by_eth0, by_eth1):
        assert flow.source_seen_by("pod2") == NODE1_ETH0
        assert flow.answered_by("node2") == {"eth0"}
        assert flow.came_back_to("node1") == {"eth0"}


@pytest.mark.issue(40521, "replies to clients of a service leave another NIC than requests come in by")
@pytest.mark.settings(NATIVE, BOTH)
@fails_without("the client's route by eth0", instead=EXT0_BY_ETH1)
def test_the_reply_leaves_by_the_route_to_the_client(lab: Lab) -> None:
    """A client of the other fabric is answered by the other NIC: the connection uses two NICs."""
    flow = lab.send("ext0", f"node1.eth1:{WEB}")
    forwarded(flow, taken_in="eth1", answered_by="eth0")
    flow = lab.send("ext1", f"node1.eth0:{WEB}")
    forwarded(flow, taken_in="eth0", answered_by="eth1")


@pytest.mark.settings(NATIVE, BOTH)
@fails_without("the backend on node2", instead=BACKEND_ON_NODE1)
def test_node_port_with_a_local_backend(lab: Lab) -> None:
    """Nothing is forwarded, so nothing is masqueraded: the backend sees the client. The reply follows its own route."""
    straight, across = lab.send_all([f"ext1 -> node2.eth1:{WEB}", f"ext0 -> node2.eth1:{WEB}"])
    assert straight.source_seen_by("pod2") == CLIENT1
    assert across.source_seen_by("pod2") == CLIENT0
    assert straight.entered("node2") == across.entered("node2") == {"eth1"}
    assert straight.answered_by("node2") == {"eth1"}
    assert across.answered_by("node2") == {"eth0"}
    for flow in (straight, across):
        flow.must_not_leave("node1", by="eth0")
        flow.must_receive()


@pytest.mark.settings(NATIVE, ETH0)
@pytest.mark.parametrize("node", ["node1", "node2"])
@fails_without(devices="eth0", instead="eth0,eth1")
def test_node_port_on_a_nic_that_is_not_selected(lab: Lab, node: str) -> None:
    """Not even the backend's own node serves there: TCP is reset and UDP is unreachable, by the node's own kernel."""
    for flow in lab.send_all([f"ext1 -> {node}.eth1:{WEB}", f"ext1 -> {node}.eth1:{DNS}"]):
        refused(flow, node=node, nic="eth1")
    lab.send("ext0", f"{node}.eth0:{WEB}").must_receive()


@pytest.mark.settings(NATIVE, ETH0)
@fails_without(devices="eth0", instead="eth0,eth1", version="1.18")
@fails_without("the client's route by eth1", instead={"routes": ["node2: 10.0.1.100/32 via 10.0.0.254 dev eth0"]})
def test_reply_of_a_local_backend_with_one_device(lab: Lab) -> None:
    """Up to 1.18 everything a pod sends goes to the only device, replies to services too. Later its routes decide."""
    flow = lab.send("ext1", f"node2.eth0:{WEB}")
    assert flow.source_seen_by("pod2") == CLIENT1
    assert flow.entered("node2") == {"eth0"}
    assert flow.answered_by("node2") == ({"eth0"} if lab.version <= (1, 18) else {"eth1"})
    flow.must_receive()


@pytest.mark.cilium("1.20")
@pytest.mark.settings(NATIVE, ETH0)
@fails_without(devices="eth0", instead="eth0,eth1")
def test_the_answer_of_a_local_backend_on_a_nic_that_is_not_selected(lab: Lab) -> None:
    """No program translates it there: it has the pod's own address, and a real client would ignore it."""
    flow = lab.send("ext1", f"node2.eth0:{WEB}")
    assert flow.transmitted_by["node2.eth1"].inner_src == (lab.address("pod2"),)
    across = lab.send("ext0", f"node2.eth0:{WEB}")
    assert across.transmitted_by["node2.eth0"].inner_src == ("10.0.0.2",)


@pytest.mark.cilium("1.20")
@pytest.mark.settings(NATIVE, ETH0)
@fails_without("the backend on node2", instead=BACKEND_ON_NODE1)
def test_the_answer_of_a_remote_backend_on_a_nic_that_is_not_selected(lab: Lab) -> None:
    """It is translated where it comes in, on eth0. So it may leave by any NIC, with the address that the client
    used."""
    flow = lab.send("ext1", f"node1.eth0:{WEB}")
    forwarded(flow, taken_in="eth0", answered_by="eth1")
    assert flow.transmitted_by["node1.eth1"].inner_src == (NODE1_ETH0,)


@pytest.mark.settings(NATIVE, BOTH, DRD_ETH1)
@fails_without(direct_routing_device="eth1", instead="eth0")
def test_the_remote_backend_sees_the_direct_routing_device(lab: Lab) -> None:
    """SNAT uses the direct routing device's address, whichever NIC the packet leaves by. Here the answer comes back
    on the other NIC. 1.20 does so too, by default."""
    flow = lab.send("ext0", f"node1.eth0:{WEB}")
    forwarded(flow, taken_in="eth0", answered_by="eth0")
    assert flow.source_seen_by("pod2") == NODE1_ETH1
    assert flow.answered_by("node2") == {"eth1"}
    assert flow.came_back_to("node1") == {"eth1"}


@pytest.mark.cilium("1.20")
@pytest.mark.settings(NATIVE, BOTH, DRD_ETH1, enable_dynamic_source_lookup_nodeport=True)
@fails_without(enable_dynamic_source_lookup_nodeport=True, instead=False)
def test_the_remote_backend_sees_the_source_that_the_routes_say(lab: Lab) -> None:
    """`enable-dynamic-source-lookup-nodeport`, new in 1.20: SNAT uses the address of the NIC that the packet leaves
    by."""
    flow = lab.send("ext1", f"node1.eth1:{WEB}")
    forwarded(flow, taken_in="eth1", answered_by="eth1")
    assert flow.source_seen_by("pod2") == NODE1_ETH0
    assert flow.answered_by("node2") == {"eth0"}
    assert flow.came_back_to("node1") == {"eth0"}


@pytest.mark.settings(VXLAN, BOTH)
@fails_without("the tunnel", instead=NATIVE)
def test_in_a_tunnel_the_remote_backend_sees_the_router_ip(lab: Lab) -> None:
    """SNAT uses the address of `cilium_host` and no NIC's. The tunnel follows the route to the node IP."""
    flow = lab.send("ext1", f"node1.eth1:{WEB}")
    forwarded(flow, taken_in="eth1", answered_by="eth1")
    seen = flow.source_seen_by("pod2")
    assert seen is not None and seen != lab.address("pod1")
    assert ip_address(seen) in ip_network("10.244.1.0/24")
    assert flow.outer_on("node1.eth0") == {("10.0.0.1", "10.0.0.2")}


@pytest.mark.settings(NATIVE, BOTH)
@pytest.mark.parametrize("nic", ["eth0", "eth1"])
@fails_without(topology="external_traffic_policy: Local")
def test_external_traffic_policy_local(lab: Lab, nic: str) -> None:
    """A node without a backend refuses on every NIC. The node with the backend serves on every NIC, and the backend
    sees the client."""
    client = {"eth0": "ext0", "eth1": "ext1"}[nic]
    without, with_backend = lab.send_all([f"{client} -> {node}.{nic}:{WEB_LOCAL}" for node in ("node1", "node2")])
    refused(without, node="node1", nic=nic)
    assert with_backend.entered("node2") == with_backend.answered_by("node2") == {nic}
    assert with_backend.source_seen_by("pod2") == lab.address(client)
    with_backend.must_receive()


@pytest.mark.settings(VXLAN, BOTH, nodeport_addresses="10.0.1.0/24")
@fails_without(nodeport_addresses="10.0.1.0/24", instead="")
def test_nodeport_addresses_choose_among_selected_nics(lab: Lab) -> None:
    """Both NICs are selected; only a NIC with an address in the list serves node ports."""
    refused(lab.send("ext0", f"node1.eth0:{WEB}"), node="node1", nic="eth0")
    forwarded(lab.send("ext1", f"node1.eth1:{WEB}"), taken_in="eth1", answered_by="eth1")


@pytest.mark.settings(NATIVE, BOTH, bpf_lb_mode="dsr")
@fails_without(bpf_lb_mode="dsr", instead="snat")
def test_direct_server_return(lab: Lab) -> None:
    """The backend's node answers the client itself, by its own route, with the address that the client used."""
    flow = lab.send("ext1", f"node1.eth1:{WEB}")
    assert flow.entered("node1") == {"eth1"}
    assert flow.left("node1") == {"eth0"}
    assert flow.source_seen_by("pod2") == CLIENT1
    assert flow.answered_by("node2") == {"eth1"}
    assert flow.came_back_to("node1") == set()
    flow.must_receive()


@pytest.mark.cilium("1.20")
@pytest.mark.settings(NATIVE, ETH0, bpf_lb_mode="dsr")
@fails_without(devices="eth0", instead="eth0,eth1")
def test_direct_server_return_by_a_nic_that_is_not_selected(lab: Lab) -> None:
    """The backend's node translates on selected NICs only: this client is answered from the pod's own address."""
    here, across = lab.send_all([f"ext0 -> node1.eth0:{WEB}", f"ext1 -> node1.eth0:{WEB}"])
    assert here.transmitted_by["node2.eth0"].inner_src == (NODE1_ETH0,)
    assert across.transmitted_by["node2.eth1"].inner_src == (lab.address("pod2"),)


@pytest.mark.settings(NATIVE, BOTH, bpf_lb_mode="hybrid")
@fails_without(bpf_lb_mode="hybrid", instead="dsr")
@fails_without(bpf_lb_mode="hybrid", instead="snat")
def test_hybrid_mode(lab: Lab) -> None:
    """DSR for TCP, SNAT for UDP."""
    tcp, udp = lab.send_all([f"ext1 -> node1.eth1:{WEB}", f"ext1 -> node1.eth1:{DNS}"])
    assert tcp.source_seen_by("pod2") == CLIENT1
    assert tcp.answered_by("node2") == {"eth1"}
    assert udp.source_seen_by("pod2") == NODE1_ETH0
    forwarded(udp, taken_in="eth1", answered_by="eth1")


@pytest.mark.settings(NATIVE, BOTH, kube_proxy_replacement=False, enable_bpf_masquerade=False)
@fails_without(enable_bpf_masquerade=False, kube_proxy_replacement=False)
def test_without_kube_proxy_replacement(lab: Lab) -> None:
    """No agent serves node ports, and there is no kube-proxy either. Pods still reach cluster IPs, nodes do not."""
    for nic, client in (("eth0", "ext0"), ("eth1", "ext1")):
        refused(lab.send(client, f"node1.{nic}:{WEB}"), node="node1", nic=nic)
    flow = lab.send("pod1", "web")
    assert flow.source_seen_by("pod2") == lab.address("pod1")
    flow.must_receive()
    by_node = lab.send("node1.eth0", "web")
    assert by_node.left("node1") == {"eth0"}
    assert by_node.source_seen_by("pod2") is None
    by_node.must_not_receive()


@pytest.mark.issue(34050, "a pod and the address of its own node on a NIC that is not selected")
@pytest.mark.settings(NATIVE, ETH0)
@fails_without(devices="eth0", instead="eth0,eth1", version="1.18")
def test_a_pod_and_its_own_nodes_other_nic(lab: Lab) -> None:
    """The agent does not know an address on a NIC that is not selected. Up to 1.18 the packet leaves by the only
    device and comes back to a node that rejects its source; later the kernel delivers it."""
    flow = lab.send("pod1", "node1.eth1")
    if lab.version <= (1, 18):
        flow.must_leave("node1", by="eth0")
        flow.must_not_receive()
    else:
        assert flow.left("node1") == set()
        flow.must_receive()


@pytest.mark.settings(NATIVE, BOTH)
@pytest.mark.parametrize("service", ["web", "dns", "shop", "mail"])
@fails_without("the backend's route by eth0", instead=NODE_IPS_ON_ETH1)
def test_a_service_from_a_pod(lab: Lab, service: str) -> None:
    """Whatever the service's type, the cluster IP is translated at the pod: on the wire it is traffic from pod to
    pod."""
    flow = lab.send("pod1", service)
    assert flow.left("node1") == flow.came_back_to("node1") == {"eth0"}
    assert flow.source_seen_by("pod2") == lab.address("pod1")
    flow.must_receive()


@pytest.mark.settings(NATIVE, BOTH)
@fails_without("the backend's route by eth0", instead=NODE_IPS_ON_ETH1)
def test_a_service_from_a_node(lab: Lab) -> None:
    """A program bound to eth1's address still sends to the pod by eth0; the answer goes to eth1's address."""
    flow = lab.send("node1.eth1", "dns")
    assert flow.left("node1") == {"eth0"}
    assert flow.source_seen_by("pod2") == NODE1_ETH1
    assert flow.answered_by("node2") == {"eth1"}
    assert flow.came_back_to("node1") == {"eth1"}
    flow.must_receive()


@pytest.mark.settings(NATIVE, BOTH)
@fails_without("the node IPs on eth0", instead=NODE_IPS_ON_ETH1)
@fails_without(devices="eth0,eth1", instead="eth0")
def test_the_peers_node_port_from_a_pod(lab: Lab) -> None:
    """With the node IP the request is translated at the pod. Another NIC's address is the outside world: the request
    is masqueraded and goes there."""
    by_node_ip, by_other_nic = lab.send_all([f"pod1 -> node2.eth0:{WEB}", f"pod1 -> node2.eth1:{WEB}"])
    assert by_node_ip.left("node1") == {"eth0"}
    assert by_node_ip.source_seen_by("pod2") == lab.address("pod1")
    assert by_other_nic.left("node1") == by_other_nic.came_back_to("node1") == {"eth1"}
    assert by_other_nic.source_seen_by("pod2") == NODE1_ETH1
    for flow in (by_node_ip, by_other_nic):
        flow.must_receive()


@pytest.mark.settings(NATIVE, BOTH)
@fails_without(devices="eth0,eth1", instead="eth0")
def test_load_balancer_and_external_ip_by_either_nic(lab: Lab) -> None:
    """These addresses are on no NIC: every selected NIC serves them, if the client's route leads there."""
    shop, mail0, mail1 = lab.send_all(["ext1 -> shop", "ext0 -> mail", "ext1 -> mail"])
    forwarded(shop, taken_in="eth1", answered_by="eth1")
    forwarded(mail0, taken_in="eth0", answered_by="eth0")
    forwarded(mail1, taken_in="eth1", answered_by="eth1")
    for flow in (shop, mail0, mail1):
        assert flow.source_seen_by("pod2") == NODE1_ETH0


@pytest.mark.settings(NATIVE, ETH0)
@fails_without(devices="eth0", instead="eth0,eth1")
def test_external_ip_on_a_nic_that_is_not_selected(lab: Lab) -> None:
    """The node does not know the address there, and forwards the request by its default route, out of the other NIC."""
    flow = lab.send("ext1", "mail")
    assert flow.entered("node1") == {"eth1"}
    assert flow.left("node1") == {"eth0"}
    assert flow.source_seen_by("pod2") is None
    flow.must_not_receive()


@pytest.mark.settings(NATIVE, ETH0)
@fails_without(devices="eth0", instead="eth0,eth1")
def test_load_balancer_on_a_nic_that_is_not_selected(lab: Lab) -> None:
    """The address is in the NIC's own network: node1 looks for it among its neighbours, and no host has it."""
    refused(lab.send("ext1", "shop"), node="node1", nic="eth1")
