"""Services by version, without a kernel: frontends, who is served where, whom the backend sees, how answers leave."""

from __future__ import annotations

from pathlib import Path

import pytest
from niclab import LAB_BASELINE, Settings, Trace, World
from niclab.agents.reported import frontend_rows
from niclab.check import load
from niclab.cilium import operations, services
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import VERSIONS, Version
from niclab.net.packetrules import Dnat, Drop, Reject
from niclab.net.route import ip_address, parse_route
from niclab.topology.model import Flow, LocalRedirectPolicy, Topology
from scenarios.common import NATIVE, VXLAN

AGENTS = Path(__file__).parents[1] / "data" / "agent"
BOTH, ETH0, ETH1 = (Settings.of(devices=text) for text in ("eth0,eth1", "eth0", "eth1"))
ALL = [str(version) for version in VERSIONS]


def decided(version: str, *told: Settings, topology: Topology | None = None) -> Decisions:
    settings = LAB_BASELINE
    for one in told:
        settings = settings.merged(one)
    return Decisions(topology or load("services"), settings, Version.parse(version))


def way(decisions: Decisions, flow: str) -> Trace:
    (found,) = World(decisions).predict(Flow.parse(flow))
    return found


def rules(found: Trace) -> list[str]:
    """The rules of the request's and the answer's steps."""
    return [step.why.rule for _, path in found.paths for _, step in path.decided]


def replied_by(found: Trace) -> dict[str, str]:
    """Node's NIC → the source of the answer that left there."""
    return {step.tap: step.header.source for step in found.path("reply").left if step.tap.startswith("node")}


def changed(service: str, **fields: object) -> Topology:
    topology = load("services")
    one = topology.services[service].model_copy(update=fields)
    return topology.model_copy(update={"services": {**topology.services, service: one}})


@pytest.mark.parametrize("version", ["1.18", "1.20"])
def test_frontends_are_in_the_words_of_agents(version: str) -> None:
    """A real agent has the same ones, and the API server's; pods' addresses are its own choice."""
    decisions = decided(version, NATIVE, BOTH)
    real = frontend_rows((AGENTS / f"frontends-{version}.json").read_text())
    reported = decisions.frontend_rows("node1")
    ours = [row.partition(" →")[0] for row in reported]
    assert ours == sorted(row.partition(" →")[0] for row in real if "10.96.0.1:" not in row)


def test_backends_follow_the_policy_for_where_the_client_is() -> None:
    decisions = decided("1.20", NATIVE, BOTH)
    found = {
        node: next(one for one in decisions.frontends[node] if (one.service, one.kind) == ("web-local", "NodePort"))
        for node in ("node1", "node2")
    }
    assert found["node1"].outside == ()
    assert [str(backend.address) for backend in found["node1"].inside] == ["10.244.2.10"]
    assert found["node1"].split
    assert found["node2"].outside == found["node2"].inside


def test_internal_traffic_policy_local() -> None:
    topology = changed("web", internal_traffic_policy="Local")
    decisions = decided("1.20", NATIVE, BOTH, topology=topology)
    found = way(decisions, "pod1 -> web")
    assert not found.carried
    assert found.request.lost == "web has no backend that node1 may use"
    assert way(decisions, "ext0 -> node1.eth0:tcp:30080").carried
    ignored = decided("1.20", NATIVE, BOTH, Settings.of(enable_internal_traffic_policy=False), topology=topology)
    assert way(ignored, "pod1 -> web").carried


def test_several_backends_are_several_ways() -> None:
    decisions = decided("1.20", NATIVE, BOTH, topology=changed("web", pods=("pod1", "pod2")))
    found = World(decisions).predict(Flow.parse("ext0 -> node1.eth0:tcp:30080"))
    assert {one.request.arrived for one in found} == {"pod1", "pod2"}
    assert {one.carried for one in found} == {True}


def test_session_affinity_is_a_hash_of_the_client_alone() -> None:
    topology = changed("web", pods=("pod1", "pod2"), session_affinity="ClientIP")
    decisions = decided("1.20", NATIVE, BOTH, topology=topology)
    found = World(decisions).predict(Flow.parse("ext0 -> node1.eth0:tcp:30080"))
    assert {one.request.arrived for one in found} == {"pod1", "pod2"}, "which one is not known, and it stays the same"
    assert all(
        "one for each client" in step.why.words
        for one in found
        for _, path in one.paths
        for _, step in path.decided
        if step.why.rule == "service.backend"
    )
    dnats = [
        rule.action
        for rule in services.packet_rules(decisions, decisions.nodes["node1"])
        if isinstance(rule.action, Dnat)
    ]
    assert {action.by_client for action in dnats if len(action.backends) > 1} == {True}
    off = Settings.of(kube_proxy_replacement=False, enable_bpf_masquerade=False)
    for version, sticks in (("1.17", False), ("1.18", True), ("1.20", True)):
        frontends = decided(version, NATIVE, BOTH, off, topology=topology).frontends["node1"]
        assert {one.sticks for one in frontends if one.service == "web"} == {sticks}


def redirected(*pods: str, **labels: str) -> Topology:
    policy = LocalRedirectPolicy(service="web", pods=pods, labels=labels)
    return load("services").model_copy(update={"local_redirect_policies": {"near": policy}})


@pytest.mark.parametrize("version", ALL)
def test_a_local_redirect_policy_keeps_a_nodes_clients_at_home(version: str) -> None:
    on = Settings.of(enable_local_redirect_policy=True)
    decisions = decided(version, NATIVE, BOTH, on, topology=redirected("pod1"))
    found = way(decisions, "pod1 -> web")
    assert (found.request.arrived, [step.tap for step in found.path("request").left]) == ("pod1", [])
    assert "by local redirect policy near" in "".join(
        step.why.words for _, path in found.paths for _, step in path.decided
    )
    elsewhere = way(decisions, "node2.eth0 -> web")
    assert elsewhere.request.arrived == "pod2", "node2 has no such pod"
    assert way(decisions, "ext0 -> node1.eth0:tcp:30080").request.arrived == "pod2", "a node port is no cluster IP"
    off = decided(version, NATIVE, BOTH, topology=redirected("pod1"))
    assert way(off, "pod1 -> web").request.arrived == "pod2"


def test_without_replacement_only_cluster_ips_are_known() -> None:
    decisions = decided("1.20", NATIVE, BOTH, Settings.of(kube_proxy_replacement=False, enable_bpf_masquerade=False))
    assert {one.kind for one in decisions.frontends["node1"]} == {"ClusterIP"}
    assert decisions.frontends_outside["node1"] == ()


@pytest.mark.parametrize("version", ALL)
def test_a_nic_that_is_not_selected_serves_nothing(version: str) -> None:
    found = way(decided(version, NATIVE, ETH0), "ext1 -> node1.eth1:tcp:30080")
    assert not found.carried
    assert rules(found)[-1] == "arrived.no-server"


@pytest.mark.parametrize("version", ALL)
def test_the_remote_backend_sees_the_direct_routing_device(version: str) -> None:
    drd = Settings.of(direct_routing_device="eth1")
    assert str(way(decided(version, NATIVE, BOTH, drd), "ext0 -> node1.eth0:tcp:30080").request.source) == "10.0.1.1"


@pytest.mark.parametrize(("version", "source"), [("1.18", "10.0.1.1"), ("1.19", "10.0.1.1"), ("1.20", "10.0.0.1")])
def test_the_source_that_the_routes_say_is_new_in_1_20(version: str, source: str) -> None:
    told = Settings.of(direct_routing_device="eth1", enable_dynamic_source_lookup_nodeport=True)
    found = way(decided(version, NATIVE, BOTH, told), "ext0 -> node1.eth0:tcp:30080")
    assert str(found.request.source) == source


@pytest.mark.parametrize("version", ALL)
def test_in_a_tunnel_the_remote_backend_sees_the_router_ip(version: str) -> None:
    found = way(decided(version, VXLAN, BOTH), "ext1 -> node1.eth1:tcp:30080")
    assert str(found.request.source) == "10.244.1.1"
    assert found.carried


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_answers_of_a_local_backend(version: Version) -> None:
    """≤1.16 the pod's program translates; later only a selected NIC's. ≤1.18 one device is the only way out."""
    answer = replied_by(way(decided(str(version), NATIVE, ETH0), "ext1 -> node2.eth0:tcp:30080"))
    assert answer == ({"node2.eth0": "10.0.0.2"} if version < (1, 19) else {"node2.eth1": "10.244.2.10"})
    legacy = Settings.of(enable_host_legacy_routing=True)
    answer = replied_by(way(decided(str(version), NATIVE, ETH0, legacy), "ext1 -> node2.eth0:tcp:30080"))
    assert answer == {"node2.eth1": "10.0.0.2" if version < (1, 17) else "10.244.2.10"}


@pytest.mark.parametrize(("version", "nic"), [("1.18", "eth0"), ("1.19", "eth1")])
def test_endpoint_routes_free_the_pods_programs_alone(version: str, nic: str) -> None:
    """≤1.18 what a NIC's program forwards still goes to the only device."""
    decisions = decided(version, NATIVE, ETH0, Settings.of(enable_endpoint_routes=True))
    assert set(replied_by(way(decisions, "ext1 -> node2.eth0:tcp:30080"))) == {"node2.eth1"}
    assert f"node1.{nic}" in replied_by(way(decisions, "ext1 -> node1.eth0:tcp:30080"))


@pytest.mark.parametrize("version", ALL)
def test_a_tunnels_program_always_asks_the_fib(version: str) -> None:
    """Not even up to 1.18, with one device, is an answer out of the tunnel sent there without a look."""
    assert "node1.eth1" in replied_by(way(decided(version, VXLAN, ETH0), "ext1 -> node1.eth0:tcp:30080"))


@pytest.mark.parametrize(("told", "taken"), [(ETH0, False), (BOTH, True)])
def test_an_answer_is_translated_back_on_selected_nics(told: Settings, taken: bool) -> None:
    """node2 answers node1's address on eth0 by the other fabric: only a program on node1's eth1 would know it."""
    topology = load("services")
    crossed = topology.nodes["node2"].model_copy(
        update={"routes": (*topology.nodes["node2"].routes, parse_route("10.0.0.1/32 via 10.0.1.1 dev eth1"))}
    )
    nodes = {"node1": topology.nodes["node1"], "node2": crossed}
    legacy = Settings.of(enable_host_legacy_routing=True, enable_bpf_masquerade=False, routing="native")
    decisions = decided("1.20", NATIVE, told, legacy, topology=topology.model_copy(update={"nodes": nodes}))
    found = way(decisions, "ext0 -> node1.eth0:tcp:30080")
    assert found.carried is taken
    assert ("service.answer-not-taken" in rules(found)) is not taken


@pytest.mark.parametrize(("told", "address"), [(ETH0, "10.244.2.10"), (BOTH, "10.0.0.1")])
def test_direct_server_return(told: Settings, address: str) -> None:
    found = way(decided("1.20", NATIVE, told, Settings.of(bpf_lb_mode="dsr")), "ext1 -> node1.eth0:tcp:30080")
    assert str(found.request.source) == "10.0.1.100"
    assert replied_by(found) == {"node2.eth1": address}
    assert "service.dsr-note" in rules(found)


@pytest.mark.parametrize(
    ("version", "told", "end", "rule"),
    [
        ("1.17", BOTH, "node1", "arrived"),
        ("1.17", ETH1, None, "neighbour.none"),
        ("1.17", Settings.of(devices="eth1", enable_host_legacy_routing=True), "node1", "arrived"),
        ("1.17", Settings.of(devices="eth1", enable_endpoint_routes=True), None, "host.unknown-address"),
        ("1.18", ETH1, None, "neighbour.none"),
        ("1.18", Settings.of(devices="eth1", enable_endpoint_routes=True), "node1", "arrived"),
        ("1.20", ETH1, "node1", "arrived"),
    ],
)
def test_a_pod_and_an_address_that_its_agent_does_not_know(
    version: str, told: Settings, end: str | None, rule: str
) -> None:
    found = way(decided(version, NATIVE, told), "pod1 -> node1.eth0").request
    assert (found.arrived, [*found.decided][-1][1].why.rule) == (end, rule)


def test_a_node_knows_the_addresses_on_selected_nics() -> None:
    decisions = decided("1.20", NATIVE, ETH0)
    assert operations.unknown_addresses(decisions.nodes["node1"], 4) == (ip_address("10.0.1.1"),)
    decisions = decided("1.20", NATIVE, BOTH)
    assert operations.unknown_addresses(decisions.nodes["node1"], 4) == ()


@pytest.mark.parametrize(
    ("told", "action"), [(Settings(), Reject), (Settings.of(service_no_backend_response="drop"), Drop)]
)
def test_a_frontend_without_a_backend(told: Settings, action: type) -> None:
    decisions = decided("1.20", NATIVE, BOTH, told)
    found = [one for one in services.packet_rules(decisions, decisions.nodes["node1"]) if one.match.port == 30081]
    outside = [one for one in found if one.match.iif and "eth0" in one.match.iif.names]
    assert outside and all(isinstance(one.action, action) for one in outside)


@pytest.mark.parametrize("served", [True, False])
def test_cluster_ips_are_served_outside_when_told_so(served: bool) -> None:
    decisions = decided("1.20", NATIVE, BOTH, Settings.of(bpf_lb_external_clusterip=served))
    found = [one for one in services.packet_rules(decisions, decisions.nodes["node1"]) if isinstance(one.action, Dnat)]
    entering = {str(one.match.destinations[0]) for one in found if one.match.iif and "eth0" in one.match.iif.names}
    assert ("10.96.0.10/32" in entering) is served


def test_nothing_is_planned_without_services() -> None:
    decisions = decided("1.20", NATIVE, BOTH, topology=load("two-nic"))
    for node in decisions.nodes.values():
        assert list(services.packet_rules(decisions, node)) == []
        assert list(services.routing_rules(decisions, node)) == []


def test_explanations_name_their_sources() -> None:
    found = way(decided("1.18", NATIVE, ETH0), "ext0 -> node1.eth0:tcp:30080")
    told = {step.why.rule: step for _, path in found.paths for _, step in path.decided}
    assert told["service.taken-in"].words.startswith("eth0 is selected and 10.0.0.1:30080/TCP is a frontend of web")
    assert "10.244.2.10:8080" in told["service.backend"].words
    assert "direct routing device eth0" in told["service.snat-drd"].words
    assert all(step.why.source for step in told.values())
