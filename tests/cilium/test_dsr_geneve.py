"""DSR by Geneve: requests for backends of other nodes go in Geneve, in native routing too, and answers go straight."""

from __future__ import annotations

import pytest
from niclab import LAB_BASELINE, Lab, Settings, Version, World
from niclab.check import loads
from niclab.cilium.decisions import Decisions
from niclab.topology.model import Flow
from scenarios.common import NATIVE

from tests.support.agreement import disagreements
from tests.support.kernel import privileged

TEXT = """
name: fronted
fabrics: {f0: {subnets: 10.0.0.0/24}, f1: {subnets: 10.0.1.0/24}}
routers: {gw: {nics: {p0: {fabric: f0, addresses: 10.0.0.254/24}, p1: {fabric: f1, addresses: 10.0.1.254/24}}}}
nodes:
  node[1-2]:
    nics: {eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}, eth1: {fabric: f1, addresses: "10.0.1.{n}/24"}}
    routes: default via 10.0.0.254 dev eth0
    node_ip: 10.0.0.{n}
    pod_cidrs: 10.244.{n}.0/24
    pods: ["pod{n}"]
externals:
  ext1: {nics: {eth0: {fabric: f1, addresses: 10.0.1.100/24}}, routes: default via 10.0.1.254}
services:
  web: {type: NodePort, port: 80, target_port: 8080, node_port: 30080, pods: [pod2]}
flows: [ext1 -> node1.eth1:tcp:30080, ext1 -> node2.eth1:tcp:30080, pod1 -> pod2, pod1 -> node2.eth0]
"""
DSR = Settings.of(devices="eth0,eth1", bpf_lb_mode="dsr", bpf_lb_dsr_dispatch="geneve", tunnel_protocol="geneve")
BOTH = pytest.mark.parametrize("routing", [Settings(), NATIVE], ids=["tunnel", "native"])


@BOTH
@pytest.mark.parametrize("minor", range(16, 22))
def test_the_request_goes_in_geneve_and_the_answer_straight(minor: int, routing: Settings) -> None:
    world = World(Decisions(loads(TEXT, "lab.yaml"), LAB_BASELINE.merged(routing).merged(DSR), Version(1, minor)))
    (trace,) = world.predict(Flow.parse("ext1 -> node1.eth1:tcp:30080"))
    assert trace.carried
    forwarded = next(step for step in trace.request.left if step.tap == "node1.eth0")
    assert (forwarded.header.source, forwarded.header.encapsulation) == ("10.0.1.100", ("geneve",))
    assert forwarded.header.outer == (("10.0.0.1", "10.0.0.2"),)
    assert trace.reply is not None
    assert [step.tap for step in trace.reply.left] == ["node2.eth1"]
    (pods,) = world.predict(Flow.parse("pod1 -> pod2"))
    assert pods.request.left[0].header.encapsulation == (() if routing == NATIVE else ("geneve",))


@privileged
@BOTH
def test_packets_do_what_is_predicted(routing: Settings) -> None:
    settings = LAB_BASELINE.merged(routing).merged(DSR)
    with Lab.deploy(loads(TEXT, "lab.yaml"), settings, datapath="builtin", cilium_version="1.20") as running:
        flows = [str(flow) for flow in running.topology.flows]
        assert disagreements(running, running.send_all(flows, count=2)) == []
