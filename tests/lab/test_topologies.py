"""The shipped topologies: each says what it is for, deploys on this kernel, and its flows arrive."""

from __future__ import annotations

import pytest
from niclab.check import load, loads
from niclab.lab import Lab
from niclab.settings import LAB_BASELINE, Settings
from niclab.topology.file import names
from niclab.topology.model import Topology, service_of

from tests.support.kernel import privileged

SHIPPED = [
    "asymmetric",
    "dual-stack",
    "egress-gateway",
    "eight-nodes",
    "routed",
    "services",
    "single-nic",
    "three-nic",
    "two-nic",
]
NATIVE = Settings.of(
    routing="native",
    auto_direct_node_routes=True,
    ipv4_native_routing_cidr="10.244.0.0/16",
    ipv6_native_routing_cidr="fd00:10:244::/48",
)


def test_the_shipped_ones_are_there() -> None:
    assert {*SHIPPED, "two-tors"} <= set(names())


@pytest.mark.parametrize("name", [*SHIPPED, "two-tors"])
def test_each_says_what_it_is_for(name: str) -> None:
    topology = load(name)
    assert topology.name == name
    assert len(topology.description) > 80
    assert topology.flows


@pytest.mark.parametrize("name", [*SHIPPED, "two-tors"])
def test_one_survives_being_kept(name: str) -> None:
    """A kept lab describes its topology as JSON, and another process reads it back."""
    topology = load(name)
    assert Topology.model_validate(topology.model_dump(mode="json")) == topology


@privileged
@pytest.mark.parametrize("settings", [Settings.of(), NATIVE], ids=["tunnel", "native"])
@pytest.mark.parametrize("name", [*SHIPPED, pytest.param("two-tors", marks=pytest.mark.needs("frr"))])
def test_its_flows_arrive(name: str, settings: Settings) -> None:
    chosen = LAB_BASELINE.merged(Settings.of(enable_ipv6=name == "dual-stack"))
    # ENIs have native routing and its CIDR from their cloud.
    chosen = chosen if name == "eni" else chosen.merged(settings)
    with Lab.deploy(name, chosen) as lab:
        flows = [one for one in lab.topology.flows if not service_of(lab.topology, one)]
        results = lab.send_all(flows)
    assert {str(one.flow): str(one.verdict) for one in results} == dict.fromkeys(map(str, flows), "carried")


# Flow → NICs that node1 sends by. VXLAN, `devices` unset, Cilium 1.20: by the kernel's route.
LEFT = {
    "asymmetric": {"pod1 -> pod2": "eth0", "pod1 -> ext1": "eth1", "pod1 -> node2.eth0": "eth0"},
    "dual-stack": {"pod1 -> ext1": "eth1", "pod1 -> ext1:icmp6": "eth1", "pod1 -> pod2:icmp6": "eth0"},
    "routed": {"pod1 -> pod2": "eth0", "pod1 -> ext0": "eth0", "pod1 -> ext1": "eth1", "pod1 -> node2.eth1": "eth1"},
    "three-nic": {"pod1 -> pod2": "eth0", "pod1 -> client": "eth1", "pod1 -> nas:tcp:2049": "eth2"},
}


@privileged
@pytest.mark.parametrize("name", LEFT)
def test_its_flows_show_something(name: str) -> None:
    chosen = LAB_BASELINE.merged(Settings.of(enable_ipv6=name == "dual-stack"))
    with Lab.deploy(name, chosen) as lab:
        results = lab.send_all([*LEFT[name]])
    assert {str(one.flow): "+".join(sorted(one.left("node1"))) for one in results} == LEFT[name]


def test_pods_get_the_next_free_addresses() -> None:
    topology = loads(
        """\
name: pods
fabrics: {f0: {}}
nodes:
  node1:
    nics: {eth0: {fabric: f0, addresses: 10.0.0.1/24}}
    pod_cidrs: [10.244.1.0/24, 'fd00:244::/64']
    pods: {a: , b: {addresses: 10.244.1.10}, c: {addresses: [10.244.1.200, 'fd00:244::a']}, d: }
  node2:
    nics: {eth0: {fabric: f0, addresses: 10.0.0.2/24}}
    pod_cidrs: 10.244.2.0/29
    pods: [e, f, g, h, i]
""",
        "pods.yaml",
    )
    found = {pod: " ".join(map(str, addresses)) for pod, addresses in topology.pod_addresses().items()}
    assert found["a"] == "10.244.1.11 fd00:244::b"
    assert found["b"] == "10.244.1.10 fd00:244::c"
    assert found["c"] == "10.244.1.200 fd00:244::a"
    assert found["d"] == "10.244.1.12 fd00:244::d"
    assert sorted(found[pod] for pod in "efghi") == [f"10.244.2.{n}" for n in range(2, 7)]
    assert str(topology.router_address("node2", 4)) == "10.244.2.1"
