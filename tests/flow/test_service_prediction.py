"""Flows to services: what the model predicts is what real agents did, and what the built-in datapath does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from niclab import LAB_BASELINE, Lab, Settings, World
from niclab.check import load
from niclab.check.amend import with_kind
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import ROUTER_DEVICE
from niclab.cilium.version import Version
from niclab.flow.trace import Trace, transmitted
from niclab.net.route import parse_route, parse_rule
from niclab.topology.model import Flow, Topology
from scenarios.common import NATIVE, VXLAN

from tests.support.agreement import disagreements
from tests.support.kernel import privileged

DATA = Path(__file__).parents[1] / "data" / "services"
OBSERVED = json.loads((DATA / "observed.json").read_text())
RULED = json.loads((DATA / "observed-rules.json").read_text())


def settings_of(case: Mapping[str, Any]) -> Settings:
    return LAB_BASELINE.merged(Settings.of(**{key.replace("-", "_"): value for key, value in case["settings"].items()}))


def title(case: Mapping[str, Any]) -> str:
    told = (f"{key}={value}" for key, value in case["settings"].items() if key not in ("routing", "tunnel"))
    return " ".join([case["version"], *told])


def names(topology: Topology) -> dict[str, str]:
    """Address → the name it has in the observations."""
    found = {str(addresses[0]): pod for pod, addresses in topology.pod_addresses().items()}
    for node in topology.nodes:
        found[str(topology.router_address(node, 4))] = f"{node}.{ROUTER_DEVICE}"
    return found


def nics(topology: Topology) -> list[str]:
    return [f"{host}.{name}" for host, name, _ in topology.nic_pairs() if host in topology.nodes]


def outcome(way: Trace, topology: Topology) -> dict[str, Any]:
    """A prediction in the shape of an observation."""
    known = names(topology)
    end = way.request.arrived
    sees = end is not None and (end in topology.pods or end in topology.externals)
    return {
        "carried": way.carried,
        "seen": {end: [known.get(str(way.request.source), str(way.request.source))]} if sees else {},
        "transmitted_by": {
            tap: {
                "requests": one.requests > 0,
                "replies": one.replies > 0,
                "inner_src": sorted(known.get(source, source) for source in one.inner_src),
                "outer": sorted([list(pair) for pair in one.outer]),
            }
            for tap, one in sorted(transmitted([way], nics(topology)).items())
        },
    }


@pytest.mark.parametrize("case", OBSERVED["cases"], ids=title)
def test_the_prediction_is_what_real_agents_did(case: Mapping[str, Any]) -> None:
    assert not wrong(case, OBSERVED, with_kind(load("services"), "veth"))


@pytest.mark.parametrize("case", RULED["cases"], ids=title)
def test_the_prediction_is_what_real_agents_did_with_routing_rules(case: Mapping[str, Any]) -> None:
    """With one device (≤1.18) the kernel asks such rules even so, for routes through that device: not modelled. What is
    lost either way is lost on the other NIC.
    """
    found = wrong(case, RULED, ruled())
    alone = case["version"] == "1.18" and case["settings"]["devices"] == "eth1"
    assert all("node1.eth1" in words and "'carried': False" in words for words in found) if alone else not found


def wrong(case: Mapping[str, Any], recorded: Mapping[str, Any], topology: Topology) -> list[str]:
    """The flows of a case that were predicted otherwise, in words."""
    decisions = Decisions(topology, settings_of(case), Version.parse(case["version"]))
    assert {node.agent_exits for node in decisions.nodes.values()} == {case.get("agent_exits")}
    if "agent_exits" in case:
        return []
    world = World(decisions)
    words = []
    for text, number in zip(recorded["flows"], case["observed"], strict=True):
        found = [outcome(way, topology) for way in world.predict(Flow.parse(text))]
        seen = recorded["outcomes"][number]
        if not any(agree(one, seen) for one in found):
            words.append(f"{text}\n  predicted {found}\n  observed  {seen}")
    return words


def agree(predicted: Mapping[str, Any], observed: Mapping[str, Any]) -> bool:
    """Whom an end saw is recorded of external ends, and of pods behind services."""
    sees = observed["seen"] or not set(predicted["seen"]) <= {"pod1", "pod2"}
    keys = ("carried", "transmitted_by", *(["seen"] if sees else []))
    return all(predicted[key] == observed[key] for key in keys)


def test_an_observation_of_other_settings_does_not_fit() -> None:
    """The comparison can fail."""
    one, other = OBSERVED["cases"][0], next(case for case in OBSERVED["cases"] if "dsr" in title(case))
    world = World(Decisions(load("services"), settings_of(one), Version.parse(one["version"])))
    number = other["observed"][0]
    ways = world.predict(Flow.parse(OBSERVED["flows"][0]))
    assert not any(agree(outcome(way, load("services")), OBSERVED["outcomes"][number]) for way in ways)


@pytest.mark.parametrize("flow", ["pod1 -> web", "pod1 -> node2.eth0:tcp:30080"])
def test_why_a_flow_to_a_service_is_not_sent(flow: str) -> None:
    def world(devices: str) -> World:
        settings = LAB_BASELINE.merged(Settings.of(devices=devices))
        return World(Decisions(load("services"), settings, Version(1, 20)))

    refused, sound = world("eth9"), world("eth0")
    assert refused.predict(Flow.parse(flow)) == ()
    assert refused.why_not(Flow.parse(flow)).startswith("pod1 is not plugged: the agent on node1 exits: ")
    assert sound.predict(Flow.parse(flow))
    assert sound.why_not(Flow.parse(flow)) == ""


NICS = ("eth0", "eth1")
DEVICES = {"both": "eth0,eth1", "eth0": "eth0", "eth1": "eth1"}
MODES: Mapping[str, Settings] = {
    "native": NATIVE,
    "vxlan": VXLAN,
    "dsr": NATIVE.merged(Settings.of(bpf_lb_mode="dsr")),
    "iptables": VXLAN.merged(Settings.of(enable_bpf_masquerade=False)),
    "by-packet": NATIVE.merged(Settings.of(bpf_lb_sock_hostns_only=True)),
}
SENT = (
    *(
        f"{client} -> {node}.{nic}:tcp:30080"
        for client in ("ext0", "ext1")
        for node in ("node1", "node2")
        for nic in NICS
    ),
    *(f"pod1 -> {node}.{nic}:udp:30053" for node in ("node1", "node2") for nic in NICS),
    *(f"{client} -> {service}" for client in ("pod1", "node1.eth1") for service in ("web", "dns", "shop", "mail")),
    *("ext0 -> mail", "ext1 -> mail", "ext1 -> shop", "ext0 -> node1.eth0:tcp:30081", "ext1 -> node2.eth1:tcp:30081"),
    *("pod1 -> node1.eth0", "pod1 -> node1.eth1", "ext1 -> node1.eth0"),
)


def ruled() -> Topology:
    """The same nodes with a table for what has the other NIC's address."""
    topology = load("services")
    nodes = {
        name: node.model_copy(
            update={
                "routes": (*node.routes, parse_route("default via 10.0.1.254 dev eth1 table 100")),
                "rules": (parse_rule(f"from 10.0.1.{number} lookup 100"),),
            }
        )
        for number, (name, node) in enumerate(topology.nodes.items(), 1)
    }
    return topology.model_copy(update={"nodes": nodes})


@privileged
@pytest.mark.parametrize("version", ["1.16", "1.17", "1.18", "1.20"])
@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("mode", MODES)
def test_every_flow_to_a_service_does_what_is_predicted(mode: str, devices: str, version: str) -> None:
    settings = LAB_BASELINE.merged(MODES[mode]).merged(Settings.of(devices=DEVICES[devices]))
    with Lab.deploy("services", settings, cilium_version=version) as lab:
        assert disagreements(lab, lab.send_all(SENT, count=2)) == []


@privileged
@pytest.mark.parametrize("version", ["1.16", "1.18", "1.20"])
@pytest.mark.parametrize("mode", ["native", "vxlan", "dsr"])
@pytest.mark.parametrize("devices", ["both", "eth1"])
def test_the_fib_is_asked_as_cilium_asks_it(mode: str, devices: str, version: str) -> None:
    """Rules that look at the source see the one that the packet will have."""
    settings = LAB_BASELINE.merged(MODES[mode]).merged(Settings.of(devices=DEVICES[devices]))
    with Lab.deploy(ruled(), settings, cilium_version=version) as lab:
        assert disagreements(lab, lab.send_all(SENT, count=2)) == []
