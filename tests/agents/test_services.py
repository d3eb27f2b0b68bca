"""Services without an agent: the model, where flows go, what the control plane is told, what the datapath refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from niclab import LAB_BASELINE, InputError, Lab, LabError, Settings, Trace, World
from niclab.agents.agent import cgroup_hierarchy
from niclab.agents.kube import Deployed, deployed, lacking_services
from niclab.agents.reported import json_rows
from niclab.check import check_flow, load, loads
from niclab.flow.ordering import Ordering
from niclab.flow.verdict import FlowResult, Served
from niclab.net.route import Address, Family, ip_address
from niclab.topology.model import Flow, Service, Topology, as_sent, service_of
from niclab.wire.measure import Answer, Order
from niclab.wire.sighting import Sighting, without_resets

from tests.support.flows import CONTEXT, HOLDS, numbered, seen

privileged = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")
DATA = Path(__file__).parents[1] / "data" / "agent"
IPV4: tuple[Family, ...] = (4,)
POD2 = {"1.18": "10.244.2.122", "1.20": "10.244.2.48"}


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load("services")


def pods(topology: Topology, **changed: str) -> dict[str, tuple[Address, ...]]:
    found = dict(topology.pod_addresses())
    return found | {pod: (ip_address(address),) for pod, address in changed.items()}


def ordering(topology: Topology, *, agents: bool = True) -> Ordering:
    hosts = {
        name: tuple(i.ip for nic in host.nics.values() for i in nic.addresses) for name, host in topology.hosts.items()
    }
    return Ordering(topology, {**hosts, **pods(topology)}, (lambda node: Path("/cg", node)) if agents else None)


def order(topology: Topology, flow: str, *, agents: bool = True) -> Order:
    made = ordering(topology, agents=agents).order(Flow.parse(flow), count=5)
    assert isinstance(made, Order), made
    return made


def test_what_is_left_open_is_the_same_in_every_lab() -> None:
    text = """\
name: open
fabrics: {f0: {}}
nodes:
  node1:
    nics: {eth0: {fabric: f0, addresses: 10.0.0.1/24}}
    pod_cidrs: [10.244.1.0/24, 'fd00:244::/64']
    pods: [pod1]
services:
  a: {port: 80, type: NodePort, pods: pod1}
  b: {port: 80, cluster_ip: 10.96.0.10}
  c: {port: 80, target_port: 8080, type: LoadBalancer}
  d: {port: 80, type: NodePort, node_port: 30000}
"""
    found = loads(text, "open.yaml")
    addresses = {name: " ".join(map(str, given)) for name, given in found.service_addresses().items()}
    assert addresses == {
        "a": "10.96.0.11 fd00:10:96::a",
        "b": "10.96.0.10",
        "c": "10.96.0.12 fd00:10:96::b",
        "d": "10.96.0.13 fd00:10:96::c",
    }
    assert found.service_node_ports() == {"a": 30001, "c": 30002, "d": 30000}
    assert (found.services["a"].backend_port, found.services["c"].backend_port) == (80, 8080)


@pytest.mark.parametrize(
    ("flow", "service"),
    [
        ("pod1 -> web", "web"),
        ("ext1 -> shop:tcp:443", "shop"),
        ("ext0 -> node1.eth0:tcp:30080", "web"),
        ("ext0 -> node2.eth1:udp:30053", "dns"),
        ("pod1 -> node2.eth1:tcp:30000", "shop"),  # a load balancer's, the next free one
        ("ext0 -> node1.eth0:udp:30080", None),
        ("ext0 -> node1.eth0:tcp:80", None),
        ("ext0 -> node1.eth0", None),
        ("pod1 -> gw.p0:tcp:30080", None),
        ("pod1 -> pod2:tcp:30080", None),
    ],
)
def test_which_service_a_flow_goes_to(topology: Topology, flow: str, service: str | None) -> None:
    assert check_flow(topology, Flow.parse(flow)) is None
    assert service_of(topology, Flow.parse(flow)) == service


def test_a_named_service_gives_protocol_and_port(topology: Topology) -> None:
    assert str(as_sent(topology, Flow.parse("pod1 -> dns"))) == "pod1 -> dns:udp:53"
    flow = Flow.parse("ext0 -> node1.eth0:tcp:30080")
    assert as_sent(topology, flow) is flow


@pytest.mark.parametrize(
    ("flow", "destination", "port"),
    [
        ("pod1 -> shop", "10.96.0.13", 443),
        ("node1.eth1 -> shop", "10.96.0.13", 443),
        ("ext1 -> shop", "10.0.1.200", 443),
        ("gw.p0 -> shop", "10.0.1.200", 443),
        ("ext0 -> mail", "192.0.2.25", 25),
        ("ext0 -> node1.eth1:tcp:30080", "10.0.1.1", 30080),
    ],
)
def test_the_address_that_is_asked(topology: Topology, flow: str, destination: str, port: int) -> None:
    made = order(topology, flow)
    assert (str(made.destination), made.flow.port, made.flow.protocol) == (destination, port, "tcp")


def test_backends_answer_and_nobody_else(topology: Topology) -> None:
    """A server on the node would answer on a NIC where no agent serves the node port."""
    assert order(topology, "ext0 -> node1.eth1:tcp:30080").answering == (Answer("pod2", 8080),)
    assert order(topology, "pod1 -> dns").answering == (Answer("pod2", 53),)
    assert order(topology, "ext0 -> node1.eth1:tcp:80").answering == (Answer("node1", 80),)


def test_only_what_is_sent_inside_goes_through_sockets(topology: Topology) -> None:
    assert order(topology, "pod1 -> web").cgroup == Path("/cg/node1")
    assert order(topology, "node1.eth1 -> web").cgroup == Path("/cg/node1")
    for flow in ("ext0 -> mail", "ext0 -> node1.eth0:tcp:30080", "gw.p0 -> shop", "pod1 -> ext0"):
        assert order(topology, flow).cgroup is None
    assert order(topology, "pod1 -> web", agents=False).cgroup is None


@pytest.mark.parametrize("flow", ["pod2 -> web", "node2.eth0 -> dns", "pod2 -> node1.eth0:tcp:30080"])
def test_what_may_pass_no_tap_is_not_measured(topology: Topology, flow: str) -> None:
    refused = ordering(topology).order(Flow.parse(flow), count=5)
    assert isinstance(refused, str)
    assert "pass" in refused and "no tap" in refused


def test_a_service_without_backends_is_answered_by_nobody(topology: Topology) -> None:
    empty = topology.model_copy(update={"services": {"web": topology.services["web"].model_copy(update={"pods": ()})}})
    assert order(empty, "pod1 -> web").answering == ()


def test_the_control_plane_is_told_everything(topology: Topology) -> None:
    made = {one.name: one for one in deployed(topology, pods(topology), IPV4)}
    local = made["web-local"]
    assert local.objects()[0]["spec"]["externalTrafficPolicy"] == "Local"
    (port,) = local.objects()[0]["spec"]["ports"]
    assert (port["nodePort"], port["targetPort"]) == (30081, 8080)
    assert local.backends == ((ip_address("10.244.2.10"), "node2", "pod2"),)
    assert list(map(str, made["shop"].ingress)) == ["10.0.1.200"]
    assert list(map(str, made["mail"].external_ips)) == ["192.0.2.25"]
    assert (made["dns"].protocol, made["dns"].families) == ("UDP", IPV4)
    assert [one["kind"] for one in made["web"].objects()] == ["Service", "EndpointSlice"]


def test_a_pod_that_is_not_plugged_is_no_backend(topology: Topology) -> None:
    made = deployed(topology, {"pod1": (ip_address("10.244.1.10"),)}, IPV4)
    assert all(one.backends == () for one in made)


@pytest.mark.parametrize("version", POD2)
def test_an_agent_that_serves_everything_lacks_nothing(topology: Topology, version: str) -> None:
    rows = json_rows((DATA / f"frontends-{version}.json").read_text())
    wanted = deployed(topology, pods(topology, pod2=POD2[version]), IPV4)
    assert lacking_services(rows, wanted, node="node1", node_ports=True) == []


@pytest.mark.parametrize("version", POD2)
def test_what_an_agent_lacks_is_named(topology: Topology, version: str) -> None:
    rows = json_rows((DATA / f"frontends-{version}.json").read_text())
    wanted = deployed(topology, pods(topology, pod2=POD2[version]), IPV4)
    without = [row for row in rows if row["Address"] != "0.0.0.0:30080/TCP"]
    pending = [{**row, "Status": {"kind": "Pending"}} if row["Type"] == "LoadBalancer" else row for row in rows]
    bare = [{**row, "Backends": None} if row["Address"].startswith("10.96.0.12:") else row for row in rows]
    assert lacking_services(without, wanted, node="node1", node_ports=True) == [
        "node1 does not serve web at 0.0.0.0:30080/TCP yet"
    ]
    assert lacking_services(without, wanted, node="node1", node_ports=False) == []
    assert lacking_services(pending, wanted, node="node1", node_ports=True) == [
        "node1 does not serve shop at 10.0.1.200:443/TCP yet"
    ]
    assert lacking_services(bare, wanted, node="node1", node_ports=True) == [
        "node1 does not have the IPv4 backends of dns yet"
    ]
    assert len(lacking_services([], wanted, node="node1", node_ports=True)) == 11


def test_local_backends_only_where_the_policy_says_so(topology: Topology) -> None:
    rows = json_rows((DATA / "frontends-1.20.json").read_text())
    wanted = [
        replace(one, spec=one.spec.model_copy(update={"internal_traffic_policy": "Local"}))
        for one in deployed(topology, pods(topology, pod2=POD2["1.20"]), IPV4)
    ]
    assert lacking_services(rows, wanted, node="node2", node_ports=True) == []
    assert "node1 does not have the IPv4 backends of web yet" in lacking_services(
        rows, wanted, node="node1", node_ports=True
    )


def test_each_family_has_its_own_backends() -> None:
    """An agent's IPv4 frontend has IPv4 backends only; one without the other's is not ready."""
    both = (ip_address("10.96.0.10"), ip_address("fd00:10:96::a"))
    backends = tuple((ip_address(one), "node2", "pod2") for one in ("10.244.2.10", "fd00:244::a"))
    one = Deployed("web", Service(port=80, target_port=8080), both, backends=backends)
    ready: list[dict[str, object]] = [
        {"Address": address, "Status": {"kind": "Done"}, "Backends": [{"Address": backend}]}
        for address, backend in (
            ("10.96.0.10:80/TCP", "10.244.2.10:8080/TCP"),
            ("[fd00:10:96::a]:80/TCP", "[fd00:244::a]:8080/TCP"),
        )
    ]
    assert lacking_services(ready, [one], node="node1", node_ports=True) == []
    late = [ready[0], {**ready[1], "Backends": None}]
    assert lacking_services(late, [one], node="node1", node_ports=True) == [
        "node1 does not have the IPv6 backends of web yet"
    ]


def forwarded(note: str = "syn-ack") -> list[Sighting]:
    """ext1 asks node1 by eth1; node1 forwards to pod2 by eth0, and answers by eth1."""
    return [
        seen("ext1.eth0", "out", "10.0.1.100"),
        seen("node1.eth1", "in", "10.0.1.100"),
        seen("node1.eth0", "out", "10.0.0.1"),
        seen("node2.eth0", "in", "10.0.0.1"),
        seen("pod2", "in", "10.0.0.1"),
        seen("pod2", "out", "10.244.2.7", "reply", note=note),
        seen("node2.eth0", "out", "10.244.2.7", "reply", note=note),
        seen("node1.eth0", "in", "10.244.2.7", "reply", note=note),
        seen("node1.eth1", "out", "10.0.1.1", "reply", note=note),
        seen("ext1.eth0", "in", "10.0.1.1", "reply", note=note),
    ]


def served(way: list[Sighting]) -> FlowResult:
    flow = Flow.parse("ext1 -> node1.eth1:tcp:30080")
    sightings = without_resets(tuple(numbered([way])))
    return FlowResult(flow, 1, sightings, HOLDS, CONTEXT, served=Served("web", "tcp", 30080, ("pod2",)))


def test_a_request_is_followed_to_its_backend_and_back() -> None:
    flow = served(forwarded())
    assert flow.verdict == "carried"
    assert flow.entered("node1") == flow.answered_by("node1") == {"eth1"}
    assert flow.left("node1") == flow.came_back_to("node1") == {"eth0"}
    assert flow.source_seen_by("pod2") == "10.0.0.1"
    assert flow.end == "pod2"
    flow.must_receive()
    assert "ext1 ═ eth0 ═ f1 ═ eth1 ─ node1 ═ eth0 ═ f0 ═ eth0 ─ node2 ─ lxc ─ pod2" in flow.explanation


def test_a_reset_is_no_answer_of_a_service() -> None:
    """The node's own kernel refuses a port that it does not serve: that is no backend's answer."""
    way = [one for one in forwarded("rst") if one.tap in ("ext1.eth0", "node1.eth1")]
    flow = served(way)
    assert flow.verdict == "lost"
    assert flow.entered("node1") == {"eth1"}
    assert flow.answered_by("node1") == set()
    assert flow.end == "node1.eth1"
    assert "noticed: rst from 10.0.1.1" in flow.explanation
    flow.must_not_receive()


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    with Lab.deploy("services", LAB_BASELINE.merged(Settings.of(devices="eth0,eth1"))) as lab:
        yield lab


@privileged
def test_other_flows_of_a_topology_with_services_are_as_ever(standing: Lab) -> None:
    for flow in standing.send_all(["pod1 -> ext1", "ext0 -> node1.eth0:tcp:80", "ext1 -> pod2:udp:53"]):
        assert flow.verdict == "carried", flow.explanation
        assert isinstance(World(standing.decisions).predict(flow.flow)[0], Trace)
    with pytest.raises(InputError, match="only node ports"):
        standing.send("ext0", "web")


@privileged
def test_the_backend_is_the_only_one_to_answer(standing: Lab) -> None:
    """On the target port: a request to the backend's own is answered, one to a node port that nobody has is reset."""
    made = Ordering(standing.topology, standing.addresses)
    served = made.order(Flow.parse("ext0 -> node2.eth0:tcp:30080"), count=3)
    assert isinstance(served, Order)
    to_node = replace(served, flow=Flow.parse("ext0 -> node2.eth0:tcp:30099"))
    to_pod = replace(to_node, flow=Flow.parse("ext0 -> pod2:tcp:8080"), destination=standing.addresses["pod2"][0])
    refused, answered = standing._measurer.measure([to_node, to_pod]).observed
    assert {one.note for one in refused.sightings if one.kind == "reply"} == {"rst"}
    assert {one.note for one in answered.sightings if one.kind == "reply"} == {"syn-ack"}
    assert {one.source for one in answered.sightings if one.tap == "pod2" and one.arrives} == {"10.0.0.100"}


@privileged
@pytest.mark.parametrize("words", ["pod1 -> pod2:tcp:8080", "pod1 -> pod2:udp:53", "node1.eth1 -> ext1:udp:53"])
@pytest.mark.parametrize("size", [None, 600])
def test_probes_through_sockets_are_known_again(standing: Lab, tmp_path: Path, words: str, size: int | None) -> None:
    """A socket's packets carry the identities of the probes they stand for. Any directory passes for a cgroup."""
    plain = Ordering(standing.topology, standing.addresses).order(Flow.parse(words), count=4, size=size)
    assert isinstance(plain, Order)
    batch = standing._measurer.measure([replace(plain, cgroup=tmp_path)])
    assert batch.measurement.holds
    (seen_of,) = batch.observed
    assert (seen_of.sent, seen_of.refusal) == (4, "")
    for kind in ("request", "reply"):
        assert {one.number for one in seen_of.sightings if one.kind == kind} == {0, 1, 2, 3}
    assert (tmp_path / "cgroup.procs").read_text().isdecimal()


@privileged
def test_sockets_that_cannot_be_made_are_an_error(standing: Lab, tmp_path: Path) -> None:
    plain = Ordering(standing.topology, standing.addresses).order(Flow.parse("pod1 -> pod2:udp:53"), count=1)
    assert isinstance(plain, Order)
    with pytest.raises(LabError, match="cannot make sockets in the cgroup"):
        standing._measurer.measure([replace(plain, cgroup=tmp_path / "nowhere")])


@privileged
def test_a_socket_belongs_to_the_cgroup_it_was_made_in(standing: Lab) -> None:
    """What Cilium's programs go by; its socket load-balancer is the only judge, so here only that it is possible."""
    try:
        cgroup = cgroup_hierarchy() / f"niclab-test-{os.getpid()}"
        cgroup.mkdir()
    except (LabError, OSError) as error:
        pytest.skip(f"no cgroup v2 to write to: {error}")
    try:
        plain = Ordering(standing.topology, standing.addresses).order(Flow.parse("pod1 -> pod2:udp:53"), count=2)
        assert isinstance(plain, Order)
        assert standing._measurer.measure([replace(plain, cgroup=cgroup)]).observed[0].sent == 2
        assert (cgroup / "cgroup.procs").read_text() == ""
    finally:
        cgroup.rmdir()
