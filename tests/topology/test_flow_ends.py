"""What a flow may go to: names, addresses of both families, a NIC's address, a service on another port."""

from __future__ import annotations

import pytest
from niclab import LAB_BASELINE, Flow, Settings, World
from niclab.check import check_flow, load
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import Version
from niclab.flow.ordering import Ordering
from niclab.topology.model import as_sent, service_of
from niclab.wire.measure import Order


@pytest.mark.parametrize(
    ("text", "destination", "sent", "address"),
    [
        ("pod1 -> 10.0.0.11", "10.0.0.11", ("icmp", None), "10.0.0.11"),
        ("pod1 -> 10.0.0.11:tcp:80", "10.0.0.11", ("tcp", 80), "10.0.0.11"),
        ("pod1 -> node1.eth0/10.0.0.11:udp:53", "node1.eth0/10.0.0.11", ("udp", 53), "10.0.0.11"),
        ("pod1 -> fd00::1", "[fd00::1]", ("icmp", None), "fd00::1"),
        ("pod1 -> fd00:0::1:icmp6", "[fd00::1]", ("icmp", None), "fd00::1"),
        ("pod1 -> [fd00::1]:tcp:80", "[fd00::1]", ("tcp", 80), "fd00::1"),
        ("pod1 -> node1.eth0/fd00::1:tcp6:80", "node1.eth0/[fd00::1]", ("tcp", 80), "fd00::1"),
        ("pod1 -> ext1:udp:53", "ext1", ("udp", 53), "None"),
        ("pod1 -> node1.eth0", "node1.eth0", ("icmp", None), "None"),
        ("pod1 -> 10.0.0.300", "10.0.0.300", ("icmp", None), "None"),
    ],
)
def test_a_flow_is_read_and_written(text: str, destination: str, sent: tuple[str, int | None], address: str) -> None:
    flow = Flow.parse(text)
    assert (flow.destination, (flow.protocol, flow.port), str(flow.address)) == (destination, sent, address)
    assert Flow.parse(str(flow)) == flow


@pytest.mark.parametrize(
    "text", ["pod1 -> fd00::1::2", "pod1 -> [10.0.0.1]:tcp:80", "pod1 -> dead:beef:5", "pod1 -> [x]"]
)
def test_what_is_in_brackets_is_an_ipv6_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv6 address"):
        Flow.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pod1 -> 224.0.0.1", "224.0.0.1 is not an address that one host has"),
        ("pod1 -> 10.0.0.300", "'10.0.0.300' is neither a pod, an external, a service nor a NIC"),
        ("pod1 -> node1.eth7/10.0.0.1", "'node1.eth7' is no NIC"),
        ("pod1 -> node1.eth0/10.0.0.2", "node1.eth0 has no address 10.0.0.2"),
        ("pod1 -> node1.eth0/10.0.0.1", None),
        ("pod1 -> 192.0.2.7:tcp:80", None),
        ("pod1 -> web:tcp:32000", None),
    ],
)
def test_an_address_need_be_nobodys_but_a_nics_is_the_nics(text: str, why: str | None) -> None:
    problem = check_flow(load("services"), Flow.parse(text))
    assert (problem[0] if problem else None) == why


def test_a_service_is_behind_its_addresses_and_port_and_behind_every_address_of_a_node() -> None:
    """And its address on another port is nobody's: nothing answers there."""
    topology = load("services")
    virtual = topology.service_addresses()["web"][0]
    web = topology.services["web"]
    port = topology.service_node_ports()["web"]
    for text, service in (
        ("web", "web"),
        (f"{virtual}:{web.protocol}:{web.port}", "web"),
        (f"{virtual}:{web.protocol}:{web.port + 1}", None),
        (f"web:{web.protocol}:{web.port + 1}", None),
        (f"10.0.0.1:{web.protocol}:{port}", "web"),
        (f"10.0.1.2:{web.protocol}:{port}", "web"),
        (f"192.0.2.7:{web.protocol}:{port}", None),
    ):
        flow = Flow.parse(f"pod1 -> {text}")
        assert service_of(topology, flow) == service, text
        assert as_sent(topology, flow).port == (web.port if text == "web" else flow.port)


def test_what_nobody_has_is_sent_and_lost_and_nobody_answers() -> None:
    topology = load("services")
    decisions = Decisions(topology, LAB_BASELINE.merged(Settings.of(devices="eth0,eth1")), Version(1, 20))
    world = World(decisions)
    addresses = {**decisions.pod_addresses, **{name: host.addresses for name, host in topology.hosts.items()}}
    for text in ("pod1 -> 192.0.2.7:tcp:80", "pod1 -> web:tcp:32000"):
        flow = Flow.parse(text)
        assert not any(trace.carried for trace in world.predict(flow))
        order = Ordering(topology, addresses).order(flow)
        assert not isinstance(order, str) and order.answering == ()
    flow = Flow.parse("ext0 -> 10.244.1.99")
    (trace,) = world.predict(flow)
    assert [step.why.rule for _, step in trace.request.decided][-2:] == ["pod.none", "device.nowhere"]
    flow = Flow.parse(f"ext0 -> {addresses['pod1'][0]}:tcp:80")
    assert [trace.request.arrived for trace in world.predict(flow)] == ["pod1"]
    order = Ordering(topology, addresses).order(flow)
    assert not isinstance(order, str) and [answer.host for answer in order.answering] == ["pod1"]


def test_a_nodes_router_ip_is_the_nodes() -> None:
    """It is on `cilium_host`, on no NIC; the node answers there as on its NICs."""
    topology = load("two-nic")
    decisions = Decisions(topology, LAB_BASELINE, Version(1, 20))
    (trace,) = World(decisions).predict(Flow.parse("pod1 -> 10.244.2.1:udp:53"))
    assert trace.carried and trace.request.arrived == "node2"
    order = Ordering(topology, decisions.pod_addresses).order(Flow.parse("pod1 -> 10.244.2.1:udp:53"))
    assert isinstance(order, Order) and [answer.host for answer in order.answering] == ["node2"]


@pytest.mark.parametrize("end", ["node1.eth1", "10.0.0.1", "10.0.1.1", "10.244.1.1"])
def test_what_a_host_sends_to_itself_passes_no_tap(end: str) -> None:
    """It would be called lost. Where a host has a VRF it may leave the host, and taps tell."""
    flow = Flow.parse(f"node1.eth0 -> {end}")
    for name, sent in (("two-nic", False), ("vrf", True)):
        topology = load(name)
        addresses = {host: each.addresses for host, each in topology.hosts.items()}
        order = Ordering(topology, addresses).order(flow)
        assert isinstance(order, Order) if sent else order == "what node1 sends to itself passes no tap"


def test_what_a_pod_sends_to_its_own_address_passes_no_tap() -> None:
    topology = load("two-nic")
    pods = Decisions(topology, LAB_BASELINE, Version(1, 20)).pod_addresses
    flow = Flow.parse(f"pod1 -> {pods['pod1'][0]}")
    assert Ordering(topology, pods).order(flow) == "what pod1 sends to itself passes no tap"
    other = Flow.parse(f"pod1 -> {pods['pod2'][0]}")
    assert isinstance(Ordering(topology, pods).order(other), Order)
