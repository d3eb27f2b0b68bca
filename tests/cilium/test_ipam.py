"""Where pods have their addresses: pod CIDRs, pools, NICs; and the settings and objects that follow."""

from __future__ import annotations

from typing import Any

import pytest
from niclab import LAB_BASELINE, InputError, Lab, Settings, Version, load
from niclab.agents import kube
from niclab.check import loads
from niclab.cilium import eni
from niclab.cilium.decisions import Decisions
from niclab.kernel.plan import Plan
from niclab.net.operation import AddNeighbour, AddRoute, AddRule
from niclab.settings import fit
from niclab.topology.model import Flow, Topology
from scenarios.common import NATIVE_OF_POOLS, VXLAN

from tests.support.agreement import disagreements
from tests.support.kernel import privileged
from tests.support.topologies import CLOUD, GATED, POOLED


def topology(text: str) -> Topology:
    return loads(text, "lab.yaml")


def decisions(found: Topology) -> Decisions:
    return Decisions(found, fit(LAB_BASELINE, found), Version(1, 20))


def test_settings_follow_the_topologys_addresses() -> None:
    assert fit(LAB_BASELINE, load("two-nic")) == LAB_BASELINE
    assert fit(LAB_BASELINE, topology(POOLED)).values["ipam"] == "multi-pool"
    eni = fit(LAB_BASELINE, topology(CLOUD)).values
    assert (eni["ipam"], eni["routing-mode"], eni["enable-endpoint-routes"]) == ("eni", "native", "true")


@pytest.mark.parametrize(
    ("text", "reported"), [(POOLED, "kubernetes"), (POOLED, "eni"), (CLOUD, "cluster-pool"), (GATED, "eni")]
)
def test_an_ipam_mode_without_addresses_is_an_error(text: str, reported: str) -> None:
    with pytest.raises(InputError, match=f"ipam={reported}"):
        fit(LAB_BASELINE.merged(Settings.of(ipam=reported)), topology(text))


def test_what_is_said_and_fits_is_left_alone() -> None:
    for text, reported in ((POOLED, "multi-pool"), (CLOUD, "eni"), (GATED, "cluster-pool"), (GATED, "multi-pool")):
        settings = LAB_BASELINE.merged(Settings.of(ipam=reported))
        assert fit(settings, topology(text)) == settings


def test_pods_of_a_pool_have_its_addresses() -> None:
    found = topology(POOLED).pod_addresses()
    assert {pod: str(one) for pod, (one,) in found.items()} == {"pod1": "10.245.1.10", "pod2": "10.245.2.10"}


def test_pools_as_objects() -> None:
    first, disks, *nodes = kube.allocations(decisions(topology(POOLED)), "multi-pool")
    assert (first["metadata"]["name"], first["spec"]["ipv4"]["cidrs"]) == (
        "default",
        ["10.244.1.0/24", "10.244.2.0/24"],
    )
    assert disks["spec"]["ipv4"] == {"cidrs": ["10.245.1.0/24", "10.245.2.0/24"], "maskSize": 24}
    allocated = nodes[0]["spec"]["ipam"]["pools"]["allocated"]
    assert [(one["pool"], one["cidrs"]) for one in allocated] == [
        ("default", ["10.244.1.0/24"]),
        ("disks", ["10.245.1.0/24"]),
    ]
    assert kube.pod_annotations(topology(POOLED), "pod1") == {"ipam.cilium.io/ip-pool": "disks"}


def test_enis_as_objects() -> None:
    (node,) = kube.allocations(decisions(topology(CLOUD)), "eni")
    (eni,) = node["status"]["eni"]["enis"].values()
    assert {entry["type"]: entry["ip"] for entry in node["spec"]["addresses"]}["CiliumInternalIP"] == "10.0.0.17"
    assert eni["vpc"]["id"] == "vpc-niclab"
    assert (eni["number"], eni["ip"], eni["subnet"]["cidr"]) == (0, "10.0.0.11", "10.0.0.0/24")
    assert eni["addresses"] == [f"10.0.0.{n}" for n in range(17, 31)]
    assert set(node["spec"]["ipam"]["pool"]) == set(eni["addresses"])


def test_the_cloud_brings_a_pods_packets_to_its_nic() -> None:
    """Every other host of the subnet knows who has the pod's address, as nobody answers ARP for it."""
    found = [one for one in Plan(topology(CLOUD)).operations if isinstance(one, AddNeighbour)]
    mac = next(cable.mac for cable in Plan(topology(CLOUD)).cables if cable.tap == "node1.eth0")
    assert found == [AddNeighbour("gw", "p0", topology(CLOUD).pod_addresses()["pod1"][0], mac)]


def test_egress_policies_select_pods_by_a_label_of_their_name() -> None:
    found = topology(GATED)
    (policy,) = kube.policies(found)
    assert policy["spec"]["selectors"] == [
        {"podSelector": {"matchExpressions": [{"key": kube.POD_LABEL, "operator": "In", "values": ["pod1"]}]}}
    ]
    assert kube.pod_labels(found, "pod1") == {kube.POD_LABEL: "pod1"}
    assert kube.pod_labels(found, "pod2") == {}


def test_an_agent_lacks_a_policy_until_its_map_has_every_network() -> None:
    found = topology(GATED)
    pods = found.pod_addresses()
    assert kube.lacking_policies([], found, pods, node="node1", ipv6=False) == [
        "node1 does not know egress policy out of pod1"
    ]
    row = {"SourceIP": "10.244.1.10", "DestCIDR": "10.0.1.0/24", "EgressIP": "0.0.0.0", "GatewayIP": "10.0.0.2"}
    assert kube.lacking_policies([row], found, pods, node="node1", ipv6=False) == []


@privileged
@pytest.mark.parametrize("version", ["1.18", "1.20", "1.21"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"devices": "eth0"}, {"enable_bpf_masquerade": False, "enable_ipv4_masquerade": False}],
    ids=["unset", "eth0", "unmasqueraded"],
)
@pytest.mark.parametrize(
    ("name", "routing"),
    [("eni", None), ("multi-pool", VXLAN), ("multi-pool", NATIVE_OF_POOLS)],
    ids=["eni", "pools-vxlan", "pools-native"],
)
def test_packets_do_what_is_predicted(
    name: str, routing: Settings | None, settings: dict[str, Any], version: str
) -> None:
    told = Settings.of(**{"devices": "eth0,eth1", **settings})
    with Lab.deploy(name, LAB_BASELINE.merged(routing or Settings()).merged(told), cilium_version=version) as lab:
        flows: list[Flow | str] = [
            *lab.topology.flows,
            *(f"{pod} -> {other}" for pod in lab.topology.pods for other in ("node1.eth1", "node2.eth1")),
        ]
        assert disagreements(lab, lab.send_all(flows, count=2)) == []


def enis(version: tuple[int, int], **told: str) -> list[str]:
    """The rules and routes of node1 of the topology `eni`."""
    topology = load("eni")
    found = Decisions(topology, fit(LAB_BASELINE.merged(Settings.of(**told)), topology), Version(*version))
    operations = eni.operations(found, found.nodes["node1"])
    kept = [
        one.rule if isinstance(one, AddRule) else one.route for one in operations if isinstance(one, AddRule | AddRoute)
    ]
    return [str(one) for one in kept]


def test_rules_and_tables_of_enis() -> None:
    """As `ip rule` and `ip route` show them of agents of 1.18.10 and 1.20-dev."""
    assert (
        enis((1, 20))[:-3]
        == enis((1, 18))[:-3]
        == [
            "from all fwmark 0x80/0x80 lookup 254 priority 109",
            "10.0.0.1/32 dev eth0 table 10 proto kernel scope link",
            "default via 10.0.0.1 dev eth0 table 10 proto kernel",
            "10.1.0.1/32 dev eth1 table 11 proto kernel scope link",
            "default via 10.1.0.1 dev eth1 table 11 proto kernel",
            "from 10.0.11.1/32 to 10.0.0.0/15 lookup 10 priority 111",
            "10.0.11.10/32 dev lxcpod1-eth0 proto kernel scope link",
            "from all to 10.0.11.10/32 lookup 254 priority 20",
            "from 10.0.11.10/32 to 10.0.0.0/15 lookup 10 priority 111",
            "10.1.11.10/32 dev lxcpod1-eth1 proto kernel scope link",
            "from all to 10.1.11.10/32 lookup 254 priority 20",
            "from 10.1.11.10/32 to 10.0.0.0/15 lookup 11 priority 111",
        ]
    )


def test_rules_of_enis_by_version_and_masquerading() -> None:
    latest = enis((1, 21))
    assert [rule for rule in latest if "from 10.1.11.10/32" in rule] == ["from 10.1.11.10/32 lookup 11 priority 111"]
    unmasqueraded = enis((1, 20), enable_ipv4_masquerade="false", enable_bpf_masquerade="false")
    assert [rule for rule in unmasqueraded if "10.1.11.10" in rule and "lookup 11" in rule] == [
        "from 10.1.11.10/32 lookup 11 priority 111"
    ]
    old = enis((1, 18), egress_multi_home_ip_rule_compat="true")
    assert "from 10.1.11.10/32 to 10.0.0.0/15 lookup 3 priority 110" in old
    assert enis((1, 20), egress_multi_home_ip_rule_compat="true") == enis((1, 20))


NATIVE_CIDR = {"ipv4_native_routing_cidr": "10.0.0.0/8"}
MASQ_AGENT = {
    "enable_ip_masq_agent": "true",
    "ip_masq_agent_config_path": "{nonMasqueradeCIDRs: [10.112.0.0/16, 10.2.0.0/15], masqLinkLocal: true}",
}


@pytest.mark.parametrize(
    ("version", "settings", "networks"),
    [
        ((1, 16), NATIVE_CIDR, ["10.0.0.0/8"]),
        ((1, 20), NATIVE_CIDR, ["10.0.0.0/8"]),
        ((1, 18), MASQ_AGENT, ["10.0.0.0/15"]),
        ((1, 19), MASQ_AGENT, ["10.0.0.0/14", "10.112.0.0/16"]),
        ((1, 20), {"ipv4_native_routing_cidr": "0.0.0.0/0"}, [""]),
    ],
)
def test_where_to_pods_send_by_their_own_nics(
    version: tuple[int, int], settings: dict[str, str], networks: list[str]
) -> None:
    to = [f" to {network}" if network else "" for network in networks]
    rules = [rule for rule in enis(version, **settings) if "from 10.1.11.10/32" in rule]
    assert rules == [f"from 10.1.11.10/32{each} lookup 11 priority 111" for each in to]


@pytest.mark.parametrize(
    ("minor", "native", "fits"),
    [
        *(
            (18, native, fits)
            for native, fits in (("10.0.0.0/8", True), ("10.1.0.0/16", True), ("10.112.0.0/16", False))
        ),
        # From 1.20 on it must overlap the VPC's CIDR; that both make one network is not enough.
        *((20, native, fits) for native, fits in (("10.0.0.0/8", True), ("10.0.1.0/24", True), ("10.1.0.0/16", False))),
    ],
)
def test_a_native_cidr_that_agents_exit_with_is_said(minor: int, native: str, fits: bool) -> None:
    lab = topology(CLOUD)
    settings = LAB_BASELINE.merged(Settings.of(ipv4_native_routing_cidr=native))
    (warnings, *_) = [Decisions(lab, fit(settings, lab), Version(1, minor)).warnings(node) for node in lab.nodes]
    assert [native in warning for warning in warnings] == [] if fits else [True]


def test_the_mtu_is_the_primary_enis() -> None:
    text = CLOUD.replace("addresses: 10.0.0.12/24}", "addresses: 10.0.0.12/24, mtu: 1400}")
    found = Decisions(
        topology(text), fit(LAB_BASELINE.merged(Settings.of(devices="eth0,eth1")), topology(text)), Version(1, 20)
    )
    assert found.nodes["node1"].mtu == 1500
