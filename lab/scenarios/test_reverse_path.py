"""The reverse path filter (`rp_filter`): on a node with two NICs, the way back to a client may be by the other NIC.

Strict (1) drops a packet whose way back is by another NIC; loose (2) drops a packet that has no way back at all. The
kernel applies it when it routes an incoming packet. Four rules explain everything:

* eBPF comes first: a packet that a selected NIC's program redirects is never filtered. With BPF host routing these are
  all packets for pods and services; with legacy host routing only those for backends on other nodes;
* packets for the node itself are filtered, on selected NICs too;
* agents turn `conf.all.rp_filter` off, and leave the NICs' as they are: the larger of the two counts;
* it looks at the source of a packet that comes in. It does not decide which NIC a reply leaves by.

ext0 is on f0, ext1 on f1. The router forwards what either sends to a node's NIC on the other fabric: such a request
comes in by one NIC, and the way back to the client is by the other.
"""

from __future__ import annotations

import pytest
from niclab import FlowResult, Lab, fails_without

from .common import BACKEND_ON_NODE1, BOTH, CLIENT0, DNS, ETH0, EXT0_BY_ETH1, LEGACY, NATIVE, WEB, forwarded, refused

MODES = {"off": 0, "strict": 1, "loose": 2}


def sysctls(mode: str) -> pytest.MarkDecorator:
    """The filter of both NICs of every node. With `off` the filter for all interfaces is on, and agents turn it off."""
    filters = {"eth0": MODES[mode], "eth1": MODES[mode], **({"all": 1} if mode == "off" else {})}
    return pytest.mark.topology(
        sysctls=[f"all: net.ipv4.conf.{name}.rp_filter={value}" for name, value in filters.items()]
    )


def modes(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("mode", [pytest.param(name, marks=sysctls(name)) for name in names])


UNFILTERED = {"sysctls": ["all: net.ipv4.conf.eth0.rp_filter=0", "all: net.ipv4.conf.eth1.rp_filter=0"]}

pytestmark = [pytest.mark.topology("services"), pytest.mark.settings(NATIVE, BOTH)]


def lost(flow: FlowResult, *, node: str, nic: str) -> None:
    """The packet came in by this NIC, and was neither forwarded nor answered nor refused."""
    assert flow.entered(node) == {nic}
    assert flow.left(node) == flow.answered_by(node) == set()
    assert not [sighting for sighting in flow.sightings if sighting.kind == "error"]
    flow.must_not_receive()


@modes("off", "strict", "loose")
@fails_without(devices="eth0,eth1", instead="eth0", at="strict")
def test_node_ports_of_a_remote_backend_are_taken_before_the_filter(lab: Lab, mode: str) -> None:
    """On each NIC, for clients on its own fabric and on the other one: a strict filter makes no difference."""
    for taken_in in ("eth0", "eth1"):
        for client, answered_by in (("ext0", "eth0"), ("ext1", "eth1")):
            flow = lab.send(client, f"node1.{taken_in}:{WEB}")
            forwarded(flow, taken_in=taken_in, answered_by=answered_by)
    forwarded(lab.send("ext1", "shop"), taken_in="eth1", answered_by="eth1")


@modes("strict", "loose")
@pytest.mark.settings(LEGACY)
@fails_without("the backend on node2", instead=BACKEND_ON_NODE1, at="strict")
def test_legacy_host_routing_takes_them_before_the_filter_too(lab: Lab, mode: str) -> None:
    """A request for a backend on another node is redirected by eBPF, with legacy host routing too."""
    forwarded(lab.send("ext0", f"node1.eth1:{WEB}"), taken_in="eth1", answered_by="eth0")


@modes("off", "strict", "loose")
@fails_without("BPF host routing", instead=LEGACY, at="strict")
def test_node_ports_of_a_local_backend_are_delivered_before_the_filter(lab: Lab, mode: str) -> None:
    """BPF host routing hands the packet to the pod; the reply leaves by the other NIC."""
    flow = lab.send("ext0", f"node2.eth1:{WEB}")
    assert flow.entered("node2") == {"eth1"}
    assert flow.answered_by("node2") == {"eth0"}
    flow.must_receive()


@modes("strict", "loose")
@pytest.mark.settings(LEGACY)
@fails_without(enable_host_legacy_routing=True, instead=False, at="strict")
@fails_without("the filter", instead=UNFILTERED, at="strict")
@fails_without("loose, not strict", instead={"sysctls": ["all: net.ipv4.conf.eth1.rp_filter=1"]}, at="loose")
def test_with_legacy_host_routing_strict_loses_requests_to_a_local_backend(lab: Lab, mode: str) -> None:
    """The kernel delivers the packet, so the filter applies: only a client on the NIC's own fabric gets through."""
    straight, across = lab.send_all([f"ext1 -> node2.eth1:{WEB}", f"ext0 -> node2.eth1:{WEB}"])
    assert straight.answered_by("node2") == {"eth1"}
    straight.must_receive()
    if mode == "strict":
        lost(across, node="node2", nic="eth1")
    else:
        assert across.answered_by("node2") == {"eth0"}
        across.must_receive()


@modes("off", "loose")
@pytest.mark.topology(routes=["node2: unreachable 10.0.0.100/32"])
@pytest.mark.settings(LEGACY)
@fails_without("the filter", instead=UNFILTERED, at="loose")
@fails_without(routes=..., at="off")
def test_loose_loses_requests_that_no_route_leads_back_to(lab: Lab, mode: str) -> None:
    """Without a filter the backend receives the request, but its answer has no route and ends on its node."""
    flow = lab.send("ext0", f"node2.eth1:{WEB}")
    assert flow.entered("node2") == {"eth1"}
    assert flow.source_seen_by("pod2") == (None if mode == "loose" else CLIENT0)
    flow.must_not_receive()


@modes("off", "strict", "loose")
@fails_without("the filter", instead=UNFILTERED, at="strict")
@fails_without("the way back by eth0", instead=EXT0_BY_ETH1, at="strict")
def test_strict_loses_what_is_for_the_node_itself(lab: Lab, mode: str) -> None:
    """The NIC is selected, but the kernel handles packets for the node itself."""
    straight, across = lab.send_all(["ext1 -> node1.eth1", "ext0 -> node1.eth1"])
    straight.must_receive()
    if mode == "strict":
        lost(across, node="node1", nic="eth1")
    else:
        assert across.answered_by("node1") == {"eth0"}
        across.must_receive()


@modes("strict", "loose")
@pytest.mark.settings(ETH0)
@fails_without("the filter", instead=UNFILTERED, at="strict")
def test_on_a_nic_that_is_not_selected_strict_silences_the_refusal(lab: Lab, mode: str) -> None:
    """No program runs there, so the node refuses a node port. A client on the other fabric does not even get the
    refusal."""
    straight, across = lab.send_all([f"ext1 -> node1.eth1:{DNS}", f"ext0 -> node1.eth1:{DNS}"])
    refused(straight, node="node1", nic="eth1")
    if mode == "strict":
        lost(across, node="node1", nic="eth1")
    else:
        refused(across, node="node1", nic="eth1")
        errors = [sighting.note for sighting in across.sightings if sighting.kind == "error"]
        assert {note.partition(",")[0] for note in errors} == {"port unreachable"}


@sysctls("strict")
@pytest.mark.settings(bpf_lb_mode="dsr")
@pytest.mark.parametrize("host_routing", ["BPF", pytest.param("legacy", marks=pytest.mark.settings(LEGACY))])
@fails_without("BPF host routing", instead=LEGACY, at="BPF")
@fails_without(enable_host_legacy_routing=True, instead=False, at="legacy")
def test_direct_server_return(lab: Lab, host_routing: str) -> None:
    """The backend's node receives the client's own address by eth0, and its way back is by eth1: agents warn about
    that."""
    flow = lab.send("ext1", f"node1.eth1:{WEB}")
    assert flow.left("node1") == {"eth0"}
    if host_routing == "legacy":
        lost(flow, node="node2", nic="eth0")
    else:
        assert flow.answered_by("node2") == {"eth1"}
        flow.must_receive()


@modes("off")
@fails_without("the NIC's own filter off", instead={"sysctls": ["all: net.ipv4.conf.eth1.rp_filter=1"]})
def test_agents_turn_off_the_filter_of_all_interfaces(lab: Lab, mode: str) -> None:
    """A distribution's strict default for all interfaces does not apply on a node with an agent."""
    assert lab.run("node1", "sysctl", "-n", "net.ipv4.conf.all.rp_filter").strip() == "0"
    flow = lab.send("ext0", "node1.eth1")
    assert flow.entered("node1") == {"eth1"}
    assert flow.answered_by("node1") == {"eth0"}
    flow.must_receive()
