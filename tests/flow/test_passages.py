"""One rule for cells, ways and --expect: whatever the lab, they name the same NICs as the path, and no others."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from random import Random

import hypothesis
import pytest
from hypothesis import strategies
from niclab import LAB_BASELINE, Flow, Settings, World
from niclab.check import load, loads
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import Version
from niclab.cli.request import asked_flows
from niclab.errors import InputError
from niclab.flow.passage import ways
from niclab.flow.trace import observed
from niclab.report import predicted
from niclab.report.matrix import seen
from niclab.settings import fit
from niclab.topology.file import names

from tests.support.agreeing import check_flow, expectations
from tests.support.command import here
from tests.support.flows import CONTEXT, result, tunnelled
from tests.support.flows import seen as sighted
from tests.support.randomlab import random_lab

EXAMPLES = int(os.environ.get("NICLAB_TEST_EXAMPLES", "300"))
SERVICES = ("pod1 -> web", "ext0 -> node1.eth0:tcp:30080", "ext1 -> node1.eth1:tcp:30080", "node1.eth0 -> pod2")


@pytest.mark.timeout(600)
@hypothesis.settings(max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(strategies.randoms(use_true_random=False))
def test_path_cell_way_and_expectation_never_contradict_each_other(rng: Random) -> None:
    made = random_lab(rng, flows=4)
    hypothesis.assume(made is not None)
    assert made is not None
    hypothesis.note(str(made))
    world = World(Decisions(made.topology, made.settings, made.version))
    for flow in made.flows:
        hypothesis.note(str(flow))
        check_flow(world, flow)


@pytest.mark.parametrize("name", names())
def test_nor_do_they_on_any_topology_that_is_shipped(name: str) -> None:
    """Bonds, VLANs, VRFs, ENIs and all."""
    topology = load(name)
    every = ",".join(sorted({nic for node in topology.nodes.values() for nic in node.interfaces} - {"lo"}))
    for settings in ({}, {"devices": every}):
        world = World(Decisions(topology, fit(LAB_BASELINE.merged(Settings.of(**settings)), topology), Version(1, 20)))
        for flow in topology.flows:
            check_flow(world, flow)


@pytest.mark.parametrize("mode", ["snat", "dsr"])
@pytest.mark.parametrize("devices", ["eth0", "eth0,eth1"])
def test_nor_do_they_where_flows_go_to_services(devices: str, mode: str) -> None:
    settings = LAB_BASELINE.merged(Settings.of(devices=devices, routing="native", bpf_lb_mode=mode))
    world = World(Decisions(load("services"), settings, Version(1, 20)))
    for flow in SERVICES:
        check_flow(world, Flow.parse(flow))


def test_a_request_from_outside_is_seen_from_the_node_that_takes_it_in() -> None:
    """The tunnel is on the NIC of the forwarding leg, and the reply of another node has that node's name."""
    outer = (("10.0.0.1", "10.0.0.2"),)
    flow = result(
        "ext1 -> node1.eth1:tcp:30080",
        [
            sighted("node1.eth1", "in", "10.0.1.100"),
            sighted("node1.eth0", "out", "10.0.1.100", outer=outer),
            sighted("node2.eth0", "in", "10.0.1.100", outer=outer),
            sighted("pod2", "in", "10.0.1.100"),
            sighted("node2.eth1", "out", "10.0.1.1", "reply"),
            sighted("ext1.eth0", "in", "10.0.1.1", "reply"),
        ],
    )
    cell = seen(flow.flow, flow.traces, CONTEXT)
    assert (cell.text, cell.loud) == ("eth1 → eth0 vxlan reply node2.eth1", False)


def test_an_answer_that_a_bond_sends_by_all_its_nics_is_on_all_of_them() -> None:
    two = "nics: {eth0: {fabric: f0}, eth2: {fabric: f0}, "
    text = BEHIND.replace('nics: {eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}, ', two)
    bond = 'links: {bond0: {bond: [eth0, eth2], mode: broadcast, addresses: "10.0.0.{n}/24"}}'
    text = text.replace(
        "routes: default via 10.0.0.254 dev eth0", f"{bond}\n    routes: default via 10.0.0.254 dev bond0"
    )
    world = World(
        Decisions(loads(text, "behind.yaml"), LAB_BASELINE.merged(Settings.of(devices="bond0,eth1")), Version(1, 20))
    )
    flow = Flow.parse("client -> node1.eth1")
    check_flow(world, flow)
    assert predicted.cell(world, flow, world.predict(flow)).text == "eth1 reply eth0+eth2"


def test_a_vlan_is_named_with_the_nic_below_it() -> None:
    """Predicted by the walk, measured by the tag of the frame."""
    world = World(Decisions(load("vlan"), LAB_BASELINE, Version(1, 20)))
    assert world.context.vlans["node1.eth0", 100] == "eth0.100"
    flow = Flow.parse("node1.eth0.100 -> node2.eth0.100")
    (trace,) = world.predict(flow)
    assert seen(flow, [trace], world.context).text == "eth0.100 (eth0)"
    (must, nic) = expectations(world, flow, "eth0.100", "in:node2.eth0")
    assert must.meets(must.legs(trace, world.context)) and nic.meets(nic.legs(trace, world.context))
    tagged = replace(sighted("node1.eth0", "out", "10.0.1.1"), vlan=100)
    step = observed([tagged], flow, (), world.context).request.left[0]
    assert (step.tap, step.device) == ("node1.eth0", "eth0.100")


def test_probes_that_took_several_ways_are_counted_and_drawn_apart() -> None:
    flow = result("pod1 -> pod2", tunnelled(), tunnelled("eth1"), tunnelled(), tunnelled("eth1")[:2])
    assert seen(flow.flow, flow.traces, CONTEXT).text == "2 of 4 by eth0 vxlan, 2 by eth1 vxlan 3/4 answered"
    (eth0, _), (eth1, lost) = ways(flow.traces, flow.flow, CONTEXT).values()
    assert (eth0.carried, eth1.carried, lost.carried) == (True, True, False)
    lines = flow.pictures
    assert [line for line in lines if line.endswith(":")] == ["2 of 4:", "2 of 4:"]
    assert sum("node1 ═ eth1[vxlan]" in line for line in lines) == 1


BEHIND = """
name: behind
fabrics: {f0: {subnets: 10.0.0.0/24}, f1: {subnets: 10.0.1.0/24}, world: {subnets: 198.51.100.0/24}}
routers:
  edge:
    nics:
      p0: {fabric: f0, addresses: 10.0.0.254/24}
      p1: {fabric: f1, addresses: 10.0.1.254/24}
      up: {fabric: world, addresses: 198.51.100.254/24}
    routes: ["10.0.1.200 via 10.0.1.1", "10.244.[1-2].0/24 via 10.0.0.[1-2]"]
nodes:
  node[1-2]:
    nics: {eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}, eth1: {fabric: f1, addresses: "10.0.1.{n}/24"}}
    routes: default via 10.0.0.254 dev eth0
    node_ip: 10.0.0.{n}
    pod_cidrs: 10.244.{n}.0/24
    pods: "pod{n}"
externals:
  client: {nics: {eth0: {fabric: world, addresses: 198.51.100.7/24}}, routes: default via 198.51.100.254}
services:
  shop: {type: LoadBalancer, port: 443, node_port: 32000, load_balancer_ip: 10.0.1.200, pods: [pod2]}
"""


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        ("client -> shop", "eth1 → eth0 vxlan reply eth0"),
        ("client -> node2.eth0:tcp:32000", "eth0"),
        ("client -> pod1", "eth0"),
        ("client -> node2.eth1", "eth1 reply eth0"),
        ("client -> 198.51.100.254", "by no node"),
        ("client -> 192.0.2.1", "never arrived no answer"),
    ],
)
def test_a_client_may_be_behind_another_fabric(flow: str, text: str) -> None:
    settings = LAB_BASELINE.merged(Settings.of(devices="eth0,eth1"))
    world = World(Decisions(loads(BEHIND, "behind.yaml"), settings, Version(1, 20)))
    check_flow(world, Flow.parse(flow))
    assert predicted.cell(world, Flow.parse(flow), world.predict(Flow.parse(flow))).text == text


NODE_PORT = "ext0 -> node1.eth0:tcp:30080"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("pod1 -> ext1=in:gw.p0", "gw is no node"),
        (f"{NODE_PORT}=ext0.eth0", "ext0 is no node"),
        (f"{NODE_PORT}=by:eth0", "'by' is neither in, out nor reply"),
        (f"{NODE_PORT}=eth7", "no node has a NIC 'eth7'"),
        ("pod1 -> ext1=node2.eth7", "node2 has no NIC 'eth7'"),
    ],
)
def test_an_expectation_is_of_a_nodes_nic(words: str, why: str) -> None:
    """A client's own NIC says nothing of a node."""
    options = argparse.Namespace(flow=[], expect=[words])
    with pytest.raises(InputError) as raised:
        asked_flows(options, load("services"))
    assert why in str(raised.value)


def test_an_expectation_says_what_is_predicted_instead() -> None:
    words = ["explain", "services", "--set", "devices=eth0,eth1", "--expect"]
    for met in (f"{NODE_PORT}=eth0", f"{NODE_PORT}=in:node1.eth0", f"{NODE_PORT}=reply:eth0"):
        assert here(*words, met).status == 0
    done = here(*words, f"{NODE_PORT}=in:eth1")
    assert done.status == 1
    assert (
        done.err.splitlines()[-1]
        == f"{NODE_PORT} must come into node1 by eth1, it is predicted to come in by node1.eth0"
    )
    assert "must have its reply on node1 by eth1" in here(*words, f"{NODE_PORT}=reply:eth1").err


def test_what_a_pod_answers_its_node_is_with_the_node_unless_a_nic_sends_it_on() -> None:
    answered = [sighted("pod1", "in", "10.0.0.1"), sighted("pod1", "out", "10.244.1.7", "reply")]
    flow = result("node1.eth0 -> pod1", answered)
    assert (flow.verdict, seen(flow.flow, flow.traces, CONTEXT).text) == ("carried", "on the node")
    astray = result("node1.eth0 -> pod1", [*answered, sighted("node1.eth0", "out", "10.244.1.7", "reply")])
    assert (astray.verdict, seen(astray.flow, astray.traces, CONTEXT).text) == ("lost", "on the node no answer")
