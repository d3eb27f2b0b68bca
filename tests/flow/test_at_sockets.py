"""What a node's own program asks of a service is translated as it connects: the node needs no route to the service.

bpf/bpf_sock.c cil_sock4_connect and cil_sock6_connect are hooks of connect(): the kernel's first lookup is for the
backend. Netfilter's output hook, which stands in for them, comes after a lookup.
"""

from __future__ import annotations

import pytest
from niclab import LAB_BASELINE, Flow, Lab, Settings, World
from niclab.check import loads
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import Version
from niclab.flow.verdict import compare

from tests.support.kernel import privileged

TEXT = """
name: no-default
fabrics: {f0: }
nodes:
  node[1-2]:
    nics: {eth0: {fabric: f0, addresses: ["10.0.0.{n}/24", "fd00::{n}/64"]}}
    routes: ROUTES
    pod_cidrs: ["10.244.{n}.0/24", "fd00:244:{n}::/64"]
    pods: "pod{n}"
services:
  web: {type: NodePort, node_port: 30080, port: 80, pods: [pod2]}
"""
DUAL = LAB_BASELINE.merged(Settings.of(enable_ipv6=True, devices="eth0"))
FLOWS = ["node1.eth0 -> web", "node1.eth0 -> [fd00:10:96::a]:tcp:80", "node1.eth0 -> node2.eth0:tcp:30080"]


@pytest.mark.parametrize("routes", ["[]", '["unreachable default", "unreachable default metric 4000"]'])
@pytest.mark.parametrize(("replacement", "carried"), [("true", [True, True]), ("false", [False, False])])
def test_a_node_without_a_default_route_reaches_services(routes: str, replacement: str, carried: list[bool]) -> None:
    """Without socket load balancing it is the route that decides."""
    settings = DUAL.merged(Settings.of(kube_proxy_replacement=replacement, enable_bpf_masquerade=replacement))
    world = World(Decisions(loads(TEXT.replace("ROUTES", routes), "lab.yaml"), settings, Version(1, 20)))
    found = [world.predict(Flow.parse(text)) for text in FLOWS[:2]]
    assert [all(way.carried for way in ways) for ways in found] == carried
    (other,) = world.predict(Flow.parse("node1.eth0 -> 10.96.0.10:tcp:81"))
    assert not other.carried and not other.request.left


@privileged
def test_packets_do_what_is_predicted() -> None:
    with Lab.deploy(loads(TEXT.replace("ROUTES", "[]"), "lab.yaml"), DUAL, datapath="builtin") as lab:
        for result in lab.send_all([Flow.parse(text) for text in FLOWS], count=3):
            assert compare(result).state == "agrees", compare(result)
            assert result.verdict == "carried"
