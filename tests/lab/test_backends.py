"""Which of a service's backends is asked, on a real kernel: one for each client, where the service says so."""

from __future__ import annotations

import pytest
from niclab import Lab
from niclab.check import loads
from niclab.settings import LAB_BASELINE, Settings
from niclab.topology.file import find

from tests.support.agreement import disagreements
from tests.support.kernel import privileged

THREE = """\
name: three
fabrics: {f0: {subnets: 10.0.0.0/24}}
nodes:
  node[1-3]:
    nics: {eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}}
    pod_cidrs: 10.244.{n}.0/24
    pods: ["pod{n}"]
externals: {ext: {nics: {eth0: {fabric: f0, addresses: 10.0.0.100/24}}}}
services:
  sticky: {type: NodePort, port: 80, node_port: 30080, session_affinity: ClientIP, pods: [pod2, pod3]}
  loose: {type: NodePort, port: 81, node_port: 30081, pods: [pod2, pod3]}
"""


@privileged
@pytest.mark.parametrize("client", ["ext", "pod1"])
def test_session_affinity(client: str) -> None:
    """Real agents of 1.18.10 did the same: 12 of 12 probes to one backend, without affinity 8 and 4."""
    with Lab.deploy(loads(THREE, "three"), LAB_BASELINE.merged(Settings.of(devices="eth0"))) as lab:
        where = {"ext": ("node1.eth0:tcp:30080", "node1.eth0:tcp:30081"), "pod1": ("sticky", "loose")}[client]
        sticky, loose = (lab.send(client, target, count=16) for target in where)
        answered = [{node for node in ("node2", "node3") if flow.answered_by(node)} for flow in (sticky, loose)]
        assert [len(nodes) for nodes in answered] == [1, 2]


SERVICES = """\
services:
  web: {type: NodePort, port: 80, target_port: 8080, node_port: 30080, pods: [pod2]}
  local: {type: NodePort, port: 81, target_port: 8080, node_port: 30081, external_traffic_policy: Local, pods: [pod2]}
  shop: {type: LoadBalancer, port: 443, load_balancer_ip: [10.0.0.200, "fd00:10::200"], pods: [pod2]}
"""
FLOWS = (
    *("pod1 -> web", "pod1 -> [fd00:10:96::a]:tcp:80", "ext0 -> [fd00:10::1]:tcp:30080"),
    *("ext1 -> [fd00:10:0:1::1]:tcp:30080", "ext1 -> [fd00:10:0:1::2]:tcp:30081", "ext0 -> [fd00:10::200]:tcp:443"),
)
ROUTE = "      - fd00:10::200 via fd00:10::1\n"
NATIVE = Settings.of(
    routing="native",
    auto_direct_node_routes=True,
    ipv4_native_routing_cidr="10.244.0.0/16",
    ipv6_native_routing_cidr="fd00:10:244::/48",
)


@privileged
@pytest.mark.parametrize("mode", [Settings(), NATIVE], ids=["tunnel", "native"])
def test_services_of_both_families(mode: Settings) -> None:
    """Real agents of 1.18.10 carried each of these the same way, in both modes."""
    text = find("dual-stack").read_text(encoding="utf-8").partition("flows:")[0]
    route = "      - fd00:10:244:[1-2]::/64 via fd00:10:0:0::[1-2]\n"
    assert route in text
    topology = loads(text.replace(route, route + ROUTE) + SERVICES, "dual-stack")
    both = Settings.of(devices="eth0,eth1", enable_ipv6=True, enable_ipv6_masquerade=True)
    with Lab.deploy(topology, LAB_BASELINE.merged(both).merged(mode)) as lab:
        results = lab.send_all([*FLOWS])
        assert [str(result.verdict) for result in results] == ["carried"] * len(FLOWS)
        assert disagreements(lab, results) == []
        assert {nic for result in results[1:3] for nic in result.left("node1")} == {"eth0"}
