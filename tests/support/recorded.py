"""Recordings of real agents (tests/data), the command that repeats one, and what differs.

They are of 1.18.0-dev and 1.20.0-dev agents on the two-nic lab; POD1 and POD2 stand for the pods' addresses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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


def cases() -> list[Any]:
    return [
        pytest.param(version, case, id=f"{version}-{case['case']}")
        for version in ("1.18", "1.20")
        for case in json.loads((DATA / f"cilium-{version}-dev.json").read_text())
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
    return words


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
