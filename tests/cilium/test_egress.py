"""Egress gateways of the model: entries, ways out, tables and SNAT by version; packets do what is predicted."""

from __future__ import annotations

import os
from ipaddress import ip_interface

import pytest
from niclab import LAB_BASELINE, Lab, Settings, Version, World, load
from niclab.check import loads, sections
from niclab.cilium import egress
from niclab.cilium.decisions import Decisions
from niclab.cilium.egress import WayOut
from niclab.net.operation import AddRoute, AddRule
from niclab.net.packetrules import Drop, Snat
from niclab.net.route import ip_address
from niclab.topology.model import Flow, Topology
from scenarios.common import NATIVE, VXLAN

from tests.support.agreement import disagreements
from tests.support.topologies import GATED

privileged = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")


def decisions(version: tuple[int, int] = (1, 20), topology: Topology | None = None, **settings: str) -> Decisions:
    told = Settings.of(enable_egress_gateway=True, devices="eth0,eth1").merged(Settings.of(**settings))
    return Decisions(topology or load("egress-gateway"), LAB_BASELINE.merged(told), Version(*version))


def way(found: Decisions, pod: str) -> WayOut | None:
    return egress.entries(found, pod, 4)[-1].way_out


def routes(found: Decisions, node: str, table: int) -> dict[str, str]:
    """Destination → the route, in one table of a node."""
    return {
        str(one.route.destination): str(one.route)
        for one in egress.operations(found, found.nodes[node])
        if isinstance(one, AddRoute) and one.route.table == table
    }


@pytest.mark.parametrize(("version", "fixed"), [((1, 18), False), ((1, 19), False), ((1, 20), True)])
def test_the_policy_fixes_the_nic_from_1_20_on(version: tuple[int, int], fixed: bool) -> None:
    found = decisions(version)
    assert way(found, "by-nic") == WayOut("node2", "eth1", ip_address("10.0.1.2"), fixed)
    assert way(found, "by-address") == WayOut("node2", "eth1", ip_address("10.0.1.202"), False)
    assert way(found, "by-default") == WayOut("node2", "eth0", ip_address("10.0.0.2"), fixed)


LINKED = """
name: linked
fabrics: {f0: {subnets: 10.0.0.0/24}, trunk: {subnets: [10.0.9.0/24, 10.0.17.0/24]}}
routers: {gw: {nics: {p0: {fabric: f0, addresses: 10.0.0.254/24}}}}
nodes:
  node[1-2]:
    nics:
      eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}
      eth1: {fabric: trunk}
      eth2: {fabric: trunk}
    links:
      bond0: {bond: [eth1, eth2], addresses: "10.0.9.{n}/24"}
      bond0.17: {vlan: 17, parent: bond0, addresses: "10.0.17.{n}/24"}
      dum0: {dummy: true, addresses: "192.0.2.{n}/32"}
      bare: {dummy: true}
    routes: default via 10.0.0.254 dev eth0
    node_ip: 10.0.0.{n}
    pod_cidrs: 10.244.{n}.0/24
    pods: ["pod{n}"]
externals: {far: {nics: {eth0: {fabric: f0, addresses: 10.0.0.100/24}}}}
egress_policies: {out: {pods: [pod1, pod2], destinations: 0.0.0.0/0, gateways: node2}}
flows: [pod1 -> far, pod2 -> far]
"""


def linked(version: tuple[int, int], policy: str, **settings: str) -> Decisions:
    topology = loads(LINKED.replace("gateways: node2", f"gateways: node2, {policy}"), "lab.yaml")
    return decisions(version, topology, **{"devices": "eth0,bond0,bond0.17", **settings})


@pytest.mark.parametrize("minor", range(16, 22))
@pytest.mark.parametrize(
    ("policy", "nic", "address"),
    [
        ("interface: bond0", "bond0", "10.0.9.2"),
        ("interface: bond0.17", "bond0.17", "10.0.17.2"),
        ("interface: dum0", "dum0", "192.0.2.2"),
        ("egress_ip: 10.0.17.2", "bond0.17", "10.0.17.2"),
        ("egress_ip: 192.0.2.2", "dum0", "192.0.2.2"),
        ("interface: bare", None, None),
    ],
)
def test_a_gateways_interface_may_be_any_link(minor: int, policy: str, nic: str | None, address: str | None) -> None:
    found = linked((1, minor), policy)
    out = way(found, "pod1")
    assert out is not None
    assert (out.nic, str(out.address)) == (nic, str(address))
    for flow in found.topology.flows:
        assert World(found).predict(flow)


def test_an_egress_ip_that_no_interface_has_is_kept_up_to_1_17() -> None:
    assert way(linked((1, 17), "egress_ip: 203.0.113.9"), "pod1") == WayOut(
        "node2", None, ip_address("203.0.113.9"), False
    )
    found = linked((1, 18), "egress_ip: 203.0.113.9")
    assert way(found, "pod1") == WayOut("node2", None, None, False)
    for flow in found.topology.flows:
        (trace,) = World(found).predict(flow)
        assert "egress.no-address" in [step.why.rule for _, step in trace.request.decided]


@pytest.mark.parametrize(("version", "address"), [((1, 20), "10.0.17.2"), ((1, 21), "None")])
def test_from_1_21_on_an_interface_that_is_not_selected_has_no_egress_ip(
    version: tuple[int, int], address: str
) -> None:
    out = way(linked(version, "interface: bond0.17", devices="eth0,bond0"), "pod1")
    assert out is not None
    assert str(out.address) == address


def test_a_gateway_without_the_interface_is_said() -> None:
    text = LINKED.replace("gateways: node2", "gateways: [node1, node2], interface: dum0")
    text = text.replace("externals:", "  node3: {nics: {eth0: {fabric: f0, addresses: 10.0.0.3/24}}}\nexternals:")
    both = loads(text.replace("[node1, node2]", "[node2, node3]"), "lab.yaml")
    assert list(sections.egress_notes(loads(text, "lab.yaml"))) == []
    assert list(sections.egress_notes(both)) == ["node3 has no interface dum0: as a gateway it drops what comes to it"]


def test_a_gateway_that_does_not_run_drops() -> None:
    """Its agent exits: no gateway is left, and the pod's node drops what is for it."""
    topology = load("egress-gateway")
    settings = LAB_BASELINE.merged(Settings.of(enable_egress_gateway=True, devices="eth0,eth1"))
    from niclab.settings.formats import parse_node_assignments

    found = Decisions(topology, settings.merged(parse_node_assignments(["node2:devices=eth9"])), Version(1, 20))
    assert way(found, "by-nic") is None
    assert routes(found, "node1", 2100)["0.0.0.0/0"].startswith("blackhole")


def test_without_the_feature_policies_are_of_no_effect() -> None:
    found = decisions(enable_egress_gateway="false")
    assert list(egress.operations(found, found.nodes["node1"])) == []
    assert list(egress.packet_rules(found, found.nodes["node2"])) == []


def test_the_longest_prefix_wins() -> None:
    text = GATED.replace(
        "egress_policies:\n",
        "egress_policies:\n  wide: {pods: pod1, destinations: 0.0.0.0/0, excluded: 10.0.1.64/26, gateways: node1}\n",
    )
    entries = egress.entries(decisions(topology=loads(text, "lab.yaml")), "pod1", 4)
    assert [(one.policy, str(one.network), one.excluded) for one in entries] == [
        ("wide", "10.0.1.64/26", True),
        ("out", "10.0.1.0/24", False),
        ("wide", "0.0.0.0/0", False),
    ]


def test_a_table_has_a_way_for_every_part_of_the_networks() -> None:
    """The pod's own: what would leave by an unselected NIC, what is excluded, and the cluster's are passed by."""
    both = routes(decisions(), "node1", 2100)
    assert both["0.0.0.0/0"] == (
        "default encap ip id 2 dst 10.0.0.2 via 10.244.2.0 dev cilium_vxlan onlink table 2100 mtu 1450"
    )
    assert "dst 10.0.0.2" in both["10.0.1.0/24"]
    assert both["10.0.0.2/32"] == "throw 10.0.0.2/32 table 2100"
    only = routes(decisions(devices="eth0"), "node1", 2100)
    assert only["10.0.1.0/24"] == "throw 10.0.1.0/24 table 2100"
    partly = routes(decisions(), "node1", 2104)
    assert partly["10.0.1.0/24"] == "throw 10.0.1.0/24 table 2104"


def test_on_the_gateway_the_next_hop_stays_that_of_the_routes() -> None:
    assert routes(decisions(), "node2", 2300)["0.0.0.0/0"] == ("default via 10.0.0.254 dev eth1 onlink table 2300")
    assert routes(decisions((1, 18)), "node2", 2300)["0.0.0.0/0"] == ("default via 10.0.0.254 dev eth0 table 2300")


def test_the_local_gateway_looks_on_the_nic_itself() -> None:
    found = routes(decisions(), "node1", 2103)
    assert found["0.0.0.0/0"] == "default dev eth1 table 2103"
    assert routes(decisions((1, 18)), "node1", 2103)["0.0.0.0/0"] == ("default via 10.0.0.254 dev eth0 table 2103")


def test_native_routing_tunnels_answers_too() -> None:
    found = Decisions(
        load("egress-gateway"),
        LAB_BASELINE.merged(NATIVE).merged(Settings.of(enable_egress_gateway=True, devices="eth0,eth1")),
        Version(1, 20),
    )
    rules = [one.rule for one in egress.operations(found, found.nodes["node2"]) if isinstance(one, AddRule)]
    assert [str(rule) for rule in rules if rule.table == 2500] == [
        f"from all to 10.244.1.10 iif {nic} lookup 2500 priority 9".replace("10.244.1.10", "10.244.1.10/32")
        for nic in ("eth0", "eth1")
    ]
    assert found.nodes["node1"].route_mtu == 1450


def test_answers_are_not_tunnelled_to_a_node_without_an_ipv4_node_ip() -> None:
    """bpf/lib/egress_gateway.h egress_gw_reply_needs_redirect: its pods have no tunnel endpoint."""
    topology = load("egress-gateway")
    host = topology.nodes["node1"]
    address = ip_interface("fd00::1/64")
    nics = {
        name: nic.model_copy(update={"addresses": (address,) if name == "eth0" else ()})
        for name, nic in host.nics.items()
    }
    update = {"nics": nics, "node_ip": (address.ip,), "routes": ()}
    without = topology.with_hosts({"node1": host.model_copy(update=update)})
    settings = Settings.of(enable_egress_gateway=True, devices="eth0,eth1", enable_ipv6=True)
    found = Decisions(without, LAB_BASELINE.merged(NATIVE).merged(settings), Version(1, 20))
    assert [*found.nodes["node1"].node_ips] == [6]
    made = egress.operations(found, found.nodes["node2"])
    assert not [one for one in made if isinstance(one, AddRule) and one.rule.table == 2500]


def test_snat_is_on_selected_nics_and_knows_what_stays() -> None:
    found = decisions(devices="eth0")
    rules = list(egress.packet_rules(found, found.nodes["node2"]))
    (snat,) = [one for one in rules if one.action == Snat(ip_address("10.0.1.202"))]
    assert snat.match.oif is not None and snat.match.oif.names == ("eth0",)
    assert "10.0.0.1/32" in map(str, snat.match.not_destinations)
    assert any(isinstance(one.action, Drop) for one in rules)


@pytest.mark.parametrize("gateways", ["[node1, node2]", "[node2, node1]"])
def test_several_gateways_share_the_pods(gateways: str) -> None:
    """By a hash of the pod's name, which is even of pod1 and odd of web1, over the gateways by node IP."""
    text = GATED.replace("      - pod{n}\n", "      - pod{n}\n      - web{n}\n")
    text = text.replace("pods: pod1, ", "pods: [pod1, web1], ").replace("gateways: node2", f"gateways: {gateways}")
    found = decisions(topology=loads(text, "lab.yaml"))
    assert way(found, "pod1") == WayOut("node1", "eth1", ip_address("10.0.1.1"), True)
    assert way(found, "web1") == WayOut("node2", "eth1", ip_address("10.0.1.2"), True)


def test_explain_names_the_policys_rules() -> None:
    (found,) = World(decisions()).predict(Flow.parse("by-nic -> ext1"))
    rules = [step.why.rule for _, step in found.request.decided]
    assert [rule for rule in rules if rule.startswith("egress")] == ["egress.gateway", "egress.way-out", "egress.snat"]


FLOWS = [
    *(
        f"{pod} -> {end}"
        for pod in ("by-nic", "by-address", "by-default", "at-home", "partly")
        for end in ("ext0", "ext1", "far")
    ),
    *(f"by-nic -> {end}" for end in ("pod2", "node2.eth0", "node2.eth1", "node1.eth1")),
    *(f"{end} -> by-nic" for end in ("ext0", "ext1", "pod2", "node2.eth1")),
    "by-nic -> ext1:tcp:80",
    "by-address -> far:udp:53",
]


@privileged
@pytest.mark.parametrize("version", ["1.18", "1.20"])
@pytest.mark.parametrize("routing", [VXLAN, NATIVE], ids=["vxlan", "native"])
@pytest.mark.parametrize("devices", ["eth0,eth1", "eth0", "eth1"])
def test_packets_do_what_is_predicted(devices: str, routing: Settings, version: str) -> None:
    settings = LAB_BASELINE.merged(routing).merged(Settings.of(devices=devices, enable_egress_gateway=True))
    with Lab.deploy("egress-gateway", settings, cilium_version=version) as lab:
        assert disagreements(lab, lab.send_all(FLOWS, count=2)) == []
