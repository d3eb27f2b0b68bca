"""WireGuard in the model: what is encrypted for whom, by which NIC, and what stays in the clear."""

from __future__ import annotations

import pytest
from niclab import LAB_BASELINE, Settings, Version, World
from niclab.check import loads
from niclab.cilium.decisions import Decisions
from niclab.topology.model import Flow
from scenarios.common import NATIVE

TEXT = """
name: encrypted
fabrics: {f0: {subnets: 10.0.0.0/24}, f1: {subnets: 10.0.1.0/24}}
nodes:
  node[1-2]:
    nics: {eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}, eth1: {fabric: f1, addresses: "10.0.1.{n}/24"}}
    routes: default via 10.0.0.254 dev eth0
    node_ip: 10.0.1.{n}
    pod_cidrs: 10.244.{n}.0/24
    pods: ["pod{n}"]
    labels: LABELS
externals: {gw: {nics: {eth0: {fabric: f0, addresses: 10.0.0.254/24}}}}
flows: [pod1 -> pod2]
"""
ON = LAB_BASELINE.merged(Settings.of(enable_wireguard=True, devices="eth0,eth1"))
NODES = Settings.of(encrypt_node=True)


def sent(flow: str, settings: Settings, minor: int = 20, labels: str = "{}") -> tuple[str, tuple[str, ...], str]:
    """The NIC that node1 sends a flow by, the tunnels it is in, and whether it is carried."""
    topology = loads(TEXT.replace("LABELS", labels), "lab.yaml")
    (trace,) = World(Decisions(topology, settings, Version(1, minor))).predict(Flow.parse(flow))
    first = trace.request.left[0]
    return first.tap, first.header.encapsulation, "carried" if trace.carried else "lost"


@pytest.mark.parametrize("minor", range(16, 22))
@pytest.mark.parametrize("routing", [Settings(), NATIVE], ids=["tunnel", "native"])
def test_pods_packets_go_encrypted_to_the_peers_node_ip(minor: int, routing: Settings) -> None:
    assert sent("pod1 -> pod2", ON.merged(routing), minor) == ("node1.eth1", ("wireguard",), "carried")


@pytest.mark.parametrize(
    ("flow", "settings", "labels", "expected"),
    [
        ("node1.eth1 -> node2.eth1", Settings(), "{}", ("node1.eth1", ())),
        ("node1.eth1 -> node2.eth1", NODES, "{}", ("node1.eth1", ("wireguard",))),
        ("node1.eth1 -> node2.eth1", NODES, '{node-role.kubernetes.io/control-plane: ""}', ("node1.eth1", ())),
        # No node IP: the world's.
        ("node1.eth0 -> node2.eth0", NODES, "{}", ("node1.eth0", ())),
        ("pod1 -> node2.eth0", NODES, "{}", ("node1.eth0", ())),
        ("pod1 -> node2.eth1", NODES.merged(NATIVE), "{}", ("node1.eth1", ("wireguard",))),
        ("pod1 -> node2.eth1", NODES, "{}", ("node1.eth1", ("wireguard",))),
        ("pod1 -> gw", NODES, "{}", ("node1.eth0", ())),
    ],
)
def test_what_of_nodes_is_encrypted(
    flow: str, settings: Settings, labels: str, expected: tuple[str, tuple[str, ...]]
) -> None:
    assert sent(flow, ON.merged(settings), labels=labels)[:2] == expected


@pytest.mark.parametrize("words", ["", "kubernetes.io/os!=windows"])
def test_a_selector_that_fits_every_node_leaves_all_of_them_out(words: str) -> None:
    settings = ON.merged(NODES).merged(Settings.of(node_encryption_opt_out_labels=words))
    assert sent("node1.eth1 -> node2.eth1", settings)[1] == ()


def test_what_leaves_by_a_nic_that_is_not_selected_is_in_the_clear() -> None:
    settings = ON.merged(Settings.of(devices="eth0", direct_routing_device="eth0"))
    assert sent("pod1 -> pod2", settings) == ("node1.eth1", ("vxlan",), "carried")


def test_the_lab_of_the_built_in_datapath_expects_what_it_sends() -> None:
    topology = loads(TEXT.replace("LABELS", "{}"), "lab.yaml")
    (trace,) = World(Decisions(topology, ON, Version(1, 20)), encrypts=False).predict(Flow.parse("pod1 -> pod2"))
    assert trace.request.left[0].header.encapsulation == ("vxlan",)
