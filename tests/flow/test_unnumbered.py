"""IPv4 routes by IPv6 gateways (RFC 5549, BGP unnumbered): NICs have link-local addresses, lo the node IP."""

from __future__ import annotations

import os

import pytest
from niclab import LAB_BASELINE, Flow, Lab, Settings, World
from niclab.check import loads
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import Version
from niclab.errors import InputError
from niclab.flow.verdict import compare
from niclab.net.route import parse_route
from niclab.report import predicted

TEXT = """
name: unnumbered
fabrics: {a1: , a2: , b1: , b2: , world: {subnets: 198.51.100.0/24}}
routers:
  tor1:
    nics:
      n1: {fabric: a1, addresses: "fe80::1/64"}
      n2: {fabric: a2, addresses: "fe80::1/64"}
      up: {fabric: world, addresses: 198.51.100.1/24}
    routes: ["10.1.0.1/32 via inet6 fe80::11 dev n1", "10.1.0.2/32 via inet6 fe80::12 dev n2"]
  tor2:
    nics:
      n1: {fabric: b1, addresses: "fe80::2/64"}
      n2: {fabric: b2, addresses: "fe80::2/64"}
      up: {fabric: world, addresses: 198.51.100.2/24}
    routes: ["10.1.0.1/32 via inet6 fe80::11 dev n1", "10.1.0.2/32 via inet6 fe80::12 dev n2"]
nodes:
  node[1-2]:
    nics:
      eth0: {fabric: "a{n}", addresses: "fe80::1{n}/64"}
      eth1: {fabric: "b{n}", addresses: "fe80::1{n}/64"}
    links: {lo: {addresses: "10.1.0.{n}/32"}}
    routes: default nexthop via inet6 fe80::1 dev eth0 nexthop via inet6 fe80::2 dev eth1
    node_ip: 10.1.0.{n}
    pod_cidrs: 10.244.{n}.0/24
    pods: ["pod{n}"]
externals:
  client: {nics: {eth0: {fabric: world, addresses: 198.51.100.7/24}}, routes: default via 198.51.100.1}
"""
SETTINGS = LAB_BASELINE.merged(Settings.of(devices="eth0,eth1", direct_routing_device="eth0"))
FLOWS = ("pod1 -> pod2", "pod1 -> client", "client -> 10.1.0.2:udp:53", "client -> 10.1.0.1")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("10.0.0.0/8 via inet6 fe80::1 dev eth0 proto static", 4),
        ("default via inet6 fe80::1 dev eth0 proto static", 4),
        (
            "default proto static nexthop via inet6 fe80::1 dev a weight 1 nexthop via inet6 fe80::2 dev b weight 1",
            4,
        ),
        ("default proto static nexthop via inet6 fe80::1 dev eth0 weight 1 nexthop via 10.0.1.1 dev eth1 weight 1", 4),
        ("default via fe80::1 dev eth0 proto static", 6),
        ("fd00::/8 via fe80::1 dev eth0 proto static", 6),
    ],
)
def test_a_route_is_read_and_written(text: str, family: int) -> None:
    route = parse_route(text)
    assert (str(route), route.family) == (text, family)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.0/8 via fe80::1 dev eth0", "different families"),
        ("fd00::/8 via inet 10.0.0.1 dev eth0", "different families"),
        ("10.0.0.0/8 via inet6 10.0.0.1 dev eth0", "is no inet6 address"),
        ("10.0.0.0/8 via inet6 fe80::1", "needs a device"),
    ],
)
def test_what_the_kernel_refuses(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_route(text)


def test_a_gateway_that_is_not_on_the_nics_network_is_refused() -> None:
    with pytest.raises(InputError, match="gateway fd00::9 is on no network of eth0"):
        loads(TEXT.replace("nexthop via inet6 fe80::1 dev eth0", "nexthop via inet6 fd00::9 dev eth0"), "x.yaml")


def test_every_way_of_the_hash_is_predicted() -> None:
    world = World(Decisions(loads(TEXT, "x.yaml"), SETTINGS, Version(1, 20)))
    cells = {flow: predicted.cell(world, Flow.parse(flow), world.predict(Flow.parse(flow))).text for flow in FLOWS}
    assert cells["pod1 -> client"] == "eth0 snat or eth1 snat back eth0"
    assert cells["pod1 -> pod2"].startswith("eth0 vxlan or eth0 vxlan back eth1 or eth1 vxlan")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")
def test_the_kernel_does_what_is_predicted() -> None:
    with Lab.deploy(loads(TEXT, "x.yaml"), SETTINGS, cilium_version="1.20") as lab:
        for result in lab.send_all(FLOWS, count=3):
            assert (result.verdict, compare(result).state) == ("carried", "agrees"), result
