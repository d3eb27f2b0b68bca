"""Recordings of real agents (tests/data), the command that repeats one, and what differs.

They are of 1.18.0-dev and 1.20.0-dev agents on the two-nic lab with veth NICs, and of 1.18.10 and 1.21.0-dev agents
with NICs that are no veth (`physical-*.json`); POD1 and POD2 stand for the pods' addresses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from niclab.cilium.decisions import Decisions
from niclab.cilium.reported import NodeReport
from niclab.cli import arguments
from niclab.cli.request import requested
from niclab.flow.predict import World
from niclab.flow.trace import Trace, transmitted
from niclab.topology.model import Flow

DATA = Path(__file__).parents[1] / "data"
COMMON = [
    "enable-ipv6=false",
    "kube-proxy-replacement=true",
    "enable-ipv4-masquerade=true",
    "enable-bpf-masquerade=true",
    "enable-policy=never",
    "enable-l7-proxy=false",
    "enable-hubble=false",
    "enable-health-checking=false",
    "enable-endpoint-health-checking=false",
]
FLOWS = {
    "pod-pod": "pod1 -> pod2",
    "pod-ext0": "pod1 -> ext0",
    "pod-ext1": "pod1 -> ext1",
    "pod-remote-node-eth0": "pod1 -> node2.eth0",
    "pod-remote-node-eth1": "pod1 -> node2.eth1",
}


FILES = ("cilium-1.18-dev", "cilium-1.20-dev", "physical-1.18.10", "physical-1.21-dev")


def cases() -> list[Any]:
    """(version, recorded case) of every recording."""
    return [
        pytest.param(version, case, id=f"{version}-{case['case']}")
        for file in FILES
        for version in [".".join(file.split("-")[1].split(".")[:2])]
        for case in json.loads((DATA / f"{file}.json").read_text())
    ]


def command(version: str, case: dict[str, Any]) -> list[str]:
    """The `niclab trace` that repeats a recorded case."""
    words = ["trace", "two-nic", "--cilium-version", version, "-o", "json"]
    for setting in [*COMMON, *(f"{key}={value}" for key, value in case["settings"].items())]:
        words += ["--set", setting]
    fabric = case.get("node_ip_fabric", 0)
    for node in (1, 2):
        words += ["--node-set", f"node{node}:ipv4-node=10.0.{fabric}.{node}"]
    if "routes" in case:
        words.append("--no-default-routes")
        for node, peer in ((1, 2), (2, 1)):
            for route in case["routes"]:
                words += ["--route", f"node{node}: {route.replace('{peer}', str(peer))}"]
    for flow in FLOWS.values():
        words += ["--flow", flow]
    return [*words, "--nics", case.get("nics", "veth")]


def differences(case: dict[str, Any], trace: dict[str, Any], *, either: bool) -> list[str]:
    """Every disagreement in words. `either`: a hash chose the NIC of the pod pair, and may choose the other here."""
    differing: list[str] = []
    reported = case.get("said") or {}
    for node, now in trace["nodes"].items():
        if now["agent_exits"] != case.get("agent_exits"):
            differing.append(f"{node} agent_exits: recorded {case.get('agent_exits')!r}, now {now['agent_exits']!r}")
        for key in reported:
            recorded = reported[key]
            if now[key] != recorded:
                differing.append(f"{node} {key}: recorded {recorded!r}, now {now[key]!r}")
    names = {"POD1": trace["addresses"].get("pod1"), "POD2": trace["addresses"].get("pod2")}
    now_flows = {f"{flow['from']} -> {flow['to']}": flow for flow in trace["flows"]}
    for name, recorded in case.get("flows", {}).items():
        now = now_flows[FLOWS[name]]
        expected = json.loads(json.dumps(recorded))
        text = json.dumps(expected)
        for placeholder, address in names.items():
            text = text.replace(placeholder, str(address))
        expected = json.loads(text)
        transmitted = now["transmitted_by"]
        if either and name == "pod-pod":
            expected["transmitted_by"] = {tap[:-1]: count for tap, count in expected["transmitted_by"].items()}
            transmitted = {tap[:-1]: count for tap, count in transmitted.items()}
        for key in ("sent", "received", "server_saw_source"):
            if now[key] != expected[key]:
                differing.append(f"{name} {key}: recorded {expected[key]!r}, now {now[key]!r}")
        if transmitted != expected["transmitted_by"]:
            differing.append(f"{name} transmitted_by: recorded {expected['transmitted_by']!r}, now {transmitted!r}")
    return differing


def predicted(version: str, case: dict[str, Any]) -> list[str]:
    """Every disagreement of the recording with `niclab predict` and `explain`: no packet, no kernel."""
    words = command(version, case)
    options = arguments.parser().parse_args(["explain", *words[1:]])
    asked = requested(options)
    world = World(Decisions(asked.topology, asked.settings, asked.version))
    found: list[str] = []
    reported = case.get("said") or {}
    for name, node in world.decisions.nodes.items():
        now = NodeReport.of(node)
        if now.agent_exits != case.get("agent_exits"):
            found.append(f"{name} agent_exits: recorded {case.get('agent_exits')!r}, predicted {now.agent_exits!r}")
        for key in reported:
            value = getattr(now, key)
            value = list(value) if isinstance(value, tuple) else value
            if value != reported[key]:
                found.append(f"{name} {key}: recorded {reported[key]!r}, predicted {value!r}")
    names = {"POD1": "10.244.1.10", "POD2": "10.244.2.10"}
    for name, recorded in case.get("flows", {}).items():
        text = json.dumps(recorded)
        for placeholder, address in names.items():
            text = text.replace(placeholder, address)
        wanted = in_shape(json.loads(text))
        ways = [shape(world, FLOWS[name], way) for way in world.predict(Flow.parse(FLOWS[name]))]
        if wanted not in ways:
            found.append(f"{name}: recorded {wanted}, predicted {ways}")
    return found


def in_shape(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded flow as one probe's: by whom it is sent, whether it is answered, whom the server sees."""
    sent = {
        tap: (
            count["requests"] > 0,
            count["replies"] > 0,
            sorted(count["inner_src"]),
            sorted(map(tuple, count["outer"])),
        )
        for tap, count in recorded["transmitted_by"].items()
    }
    assert recorded["received"] in (0, recorded["sent"])
    return {"sent": sent, "answered": recorded["received"] > 0, "seen": recorded["server_saw_source"]}


def shape(world: World, flow: str, way: Trace) -> dict[str, Any]:
    sent = {
        tap: (one.requests > 0, one.replies > 0, sorted(one.inner_src), sorted(one.outer))
        for tap, one in transmitted([way], world.context.node_taps).items()
    }
    server = way.request.arrived if way.request.arrived in world.topology.externals else None
    return {"sent": sent, "answered": way.carried, "seen": {server: [str(way.request.source)]} if server else {}}
