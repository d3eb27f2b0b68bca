"""L2 announcements: who may answer for a service's address, on which NICs; objects for agents; packets do so."""

from __future__ import annotations

import pytest
from niclab import LAB_BASELINE, Lab, Settings, Version, World
from niclab.agents import kube
from niclab.check import loads
from niclab.cilium import l2
from niclab.cilium.decisions import Decisions
from niclab.cilium.l2 import Candidate
from niclab.net.route import ip_address
from niclab.topology.model import Flow, Topology

from tests.support.agreement import disagreements
from tests.support.kernel import privileged

TEXT = """
name: announced
fabrics: {f0: {subnets: 10.0.0.0/24}, f1: {subnets: [10.0.1.0/24, "fd00:1::/64"]}}
nodes:
  node[1-2]:
    nics:
      eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}
      eth1: {fabric: f1, addresses: ["10.0.1.{n}/24", "fd00:1::{n}/64"]}
    routes: default via 10.0.0.254 dev eth0
    node_ip: 10.0.0.{n}
    pod_cidrs: ["10.244.{n}.0/24", "fd00:244:{n}::/64"]
    pods: ["pod{n}"]
    labels: {rack: "r{n}"}
routers: {gw: {nics: {p0: {fabric: f0, addresses: 10.0.0.254/24}}}}
externals:
  client: {nics: {eth0: {fabric: f1, addresses: [10.0.1.100/24, "fd00:1::100/64"]}}}
  other: {nics: {eth0: {fabric: f0, addresses: 10.0.0.100/24}}, routes: 10.0.1.0/24 dev eth0}
services:
  web: {type: LoadBalancer, port: 8080, load_balancer_ip: [10.0.1.50, "fd00:1::50"], pods: [pod1]}
  shop: {port: 80, external_ips: 10.0.1.60, pods: [pod2]}
l2_announcement_policies:
  vips: {POLICY}
flows: [client -> web, other -> web]
"""
ADDRESS, EXTERNAL = ip_address("10.0.1.50"), ip_address("10.0.1.60")


def lab(policy: str) -> Topology:
    return loads(TEXT.replace("POLICY", policy), "lab.yaml")


def decisions(policy: str, version: tuple[int, int] = (1, 20), **settings: str) -> Decisions:
    on = Settings.of(enable_l2_announcements=True, enable_ipv6=True, devices="eth0,eth1")
    return Decisions(lab(policy), LAB_BASELINE.merged(on).merged(Settings.of(**settings)), Version(*version))


def both(*nics: str) -> tuple[Candidate, ...]:
    return Candidate("node1", nics), Candidate("node2", nics)


@pytest.mark.parametrize(
    ("policy", "settings", "candidates"),
    [
        ("load_balancer_ips: true", {}, both("eth0", "eth1")),
        ("load_balancer_ips: true, interfaces: '^eth1$'", {}, both("eth1")),
        ("load_balancer_ips: true, interfaces: ['^eth[1-9]$', 'ens[3-9]f[0-1]']", {}, both("eth1")),
        ("load_balancer_ips: true, interfaces: '^eth[[:digit:]]\\z'", {}, both("eth0", "eth1")),
        ("load_balancer_ips: true, interfaces: th", {"devices": "eth0"}, both("eth0")),
        ("load_balancer_ips: true, interfaces: eth1", {"devices": "eth0"}, both()),
        ("load_balancer_ips: true, nodes: node2", {}, (Candidate("node2", ("eth0", "eth1")),)),
        ("load_balancer_ips: true, node_labels: {rack: r1}", {}, (Candidate("node1", ("eth0", "eth1")),)),
        ("load_balancer_ips: true, services: shop", {}, None),
        ("external_ips: true", {}, None),
        ("load_balancer_ips: true", {"enable_l2_announcements": "false"}, None),
    ],
)
def test_who_may_answer(policy: str, settings: dict[str, str], candidates: tuple[Candidate, ...] | None) -> None:
    found = l2.announced(decisions(policy, (1, 20), **settings)).get(ADDRESS)
    assert found == (None if candidates is None else ("web", candidates))


def test_external_ips_are_announced_where_a_policy_says_so() -> None:
    assert list(l2.announced(decisions("external_ips: true"))) == [EXTERNAL]


@pytest.mark.parametrize(("minor", "nics"), [(18, ()), (19, ("eth0", "eth1"))])
def test_ipv6_is_announced_from_1_19_on(minor: int, nics: tuple[str, ...]) -> None:
    found = l2.announced(decisions("load_balancer_ips: true", (1, minor)))
    assert found[ip_address("fd00:1::50")] == ("web", both(*nics))


def test_each_node_that_may_have_the_lease_is_a_way() -> None:
    world = World(decisions("load_balancer_ips: true, interfaces: '^eth1$'"))
    taken = [trace.request.entered[0].tap for trace in world.predict(Flow.parse("client -> web"))]
    assert taken == ["node1.eth1", "node2.eth1"]
    assert all(trace.request.arrived is None for trace in world.predict(Flow.parse("other -> web")))


def test_a_policy_as_an_object() -> None:
    (policy,) = kube.announcement_policies(lab("external_ips: true, services: shop, nodes: node1, interfaces: eth1"))
    assert policy["kind"] == "CiliumL2AnnouncementPolicy"
    assert policy["spec"] == {
        "loadBalancerIPs": False,
        "externalIPs": True,
        "interfaces": ["eth1"],
        "serviceSelector": {
            "matchExpressions": [{"key": "io.kubernetes.service.name", "operator": "In", "values": ["shop"]}]
        },
        "nodeSelector": {
            "matchLabels": {},
            "matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node1"]}],
        },
    }


@privileged
def test_packets_do_what_is_predicted() -> None:
    policy = "load_balancer_ips: true, interfaces: '^eth1$'"
    settings = Settings.of(enable_l2_announcements=True, enable_ipv6=True, devices="eth0,eth1")
    with Lab.deploy(lab(policy), LAB_BASELINE.merged(settings), datapath="builtin", cilium_version="1.20") as running:
        assert disagreements(running, running.send_all(["client -> web", "other -> web"], count=2)) == []
