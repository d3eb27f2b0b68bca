"""Two NICs of a host on one subnet: either answers ARP for any address of the host, and both ways are shown."""

from __future__ import annotations

import pytest
from niclab import LAB_BASELINE, Lab, Settings, Version, World
from niclab.check import loads
from niclab.cilium.decisions import Decisions
from niclab.topology.model import Flow, Topology

from tests.support.agreement import disagreements
from tests.support.kernel import privileged

TEXT = """
name: one-subnet
fabrics: {f0: {subnets: 10.0.0.0/24}}
nodes:
  node[1-2]:
    nics:
      eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}
      eth1: {fabric: f0, addresses: "10.0.0.1{n}/24"}
    node_ip: 10.0.0.{n}
    pod_cidrs: 10.244.{n}.0/24
    pods: ["pod{n}"]
    sysctls: {SYSCTLS}
externals: {gw: {nics: {eth0: {fabric: f0, addresses: 10.0.0.254/24}}}}
flows: [pod1 -> pod2, gw -> node1.eth1, pod1 -> gw]
"""
# As iptables masquerading and no services leave it: no rule of the nodes minds by which NIC a packet comes in.
SETTINGS = LAB_BASELINE.merged(
    Settings.of(devices="eth0,eth1", kube_proxy_replacement="false", enable_bpf_masquerade="false")
)


def lab(sysctls: str = "") -> Topology:
    return loads(TEXT.replace("SYSCTLS", sysctls), "lab.yaml")


@pytest.mark.parametrize(
    ("sysctls", "flow", "ways"),
    [
        ("", "gw -> node1.eth1", ["node1.eth0", "node1.eth1"]),
        ("net.ipv4.conf.all.arp_ignore: 1", "gw -> node1.eth1", ["node1.eth1"]),
        ("net.ipv4.conf.eth0.arp_ignore: 2", "gw -> node1.eth1", ["node1.eth1"]),
        # Who asked is known by its question: the answer comes back to that NIC.
        ("", "pod1 -> pod2", ["node2.eth0", "node2.eth1"]),
        ("", "pod1 -> gw", ["gw.eth0"]),
    ],
)
def test_every_nic_that_answers_is_a_way(sysctls: str, flow: str, ways: list[str]) -> None:
    traces = World(Decisions(lab(sysctls), SETTINGS, Version(1, 20))).predict(Flow.parse(flow))
    assert sorted(trace.request.entered[0].tap for trace in traces) == ways
    assert all(trace.carried for trace in traces)


@privileged
@pytest.mark.parametrize("sysctls", ["", "net.ipv4.conf.all.arp_ignore: 1"])
def test_packets_do_what_is_predicted(sysctls: str) -> None:
    with Lab.deploy(lab(sysctls), SETTINGS, datapath="builtin", cilium_version="1.20") as running:
        flows = [str(flow) for flow in running.topology.flows]
        assert disagreements(running, running.send_all(flows, count=2)) == []
