"""The contract of `niclab trace -o json`: the committed schema is fresh, and what is really printed obeys it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from niclab.cli import FAIL, PASS, main
from niclab.report.record import Record

COMMITTED = Path(__file__).parents[2] / "lab" / "niclab" / "schemas" / "trace.schema.json"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")


def test_the_committed_schema_is_fresh() -> None:
    hint = "run: niclab validate --schema trace > lab/niclab/schemas/trace.schema.json"
    assert COMMITTED.read_text() == Record.contract("niclab trace"), hint
    jsonschema.Draft202012Validator.check_schema(json.loads(Record.contract("niclab trace")))


@needs_root
@pytest.mark.parametrize(
    "words",
    [
        ["two-nic"],
        ["two-nic", "--set", "devices=eth9"],
        ["two-nic", "--flow", "pod1->ext1:udp:53", "--flow", "node1.eth1->pod2:tcp:80", "--count", "2"],
        ["dual-stack", "--set", "enable-ipv6=true", "--flow", "pod1->pod2:icmp6", "--flow", "pod1->pod2:udp6:5000"],
        ["two-nic", "--set", "enable-wireguard=true", "--set", "mtu=1400"],
    ],
    ids=["plain", "agent exits", "udp and tcp", "IPv6", "unmodelled"],
)
def test_what_is_printed_obeys_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    # Where no agent runs nothing is measured, which is no pass.
    assert main(["trace", *words, "-o", "json"]) == (FAIL if "devices=eth9" in words else PASS)
    jsonschema.validate(json.loads(capsys.readouterr().out), json.loads(COMMITTED.read_text()))


@needs_root
def test_the_shape_is_the_contracts(capsys: pytest.CaptureFixture[str]) -> None:
    """Literally the example of the contract: these keys with these values, whatever else is there."""
    words = ["--set", "devices=eth0", "--cilium-version", "1.18", "--flow", "pod1 -> ext1"]
    assert main(["trace", "two-nic", *words, "-o", "json"]) == PASS
    trace = json.loads(capsys.readouterr().out)
    wanted = {
        "topology": "two-nic",
        "datapath": "builtin",
        "cilium_version": "1.18",
        "settings": {"devices": "eth0"},
        "nodes": {"node1": {"devices": ["eth0"], "direct_routing_device": "eth0", "agent_exits": None}},
        "addresses": {"pod1": "10.244.1.10", "ext1": "10.0.1.100"},
        "flows": [
            {
                "from": "pod1",
                "to": "ext1",
                "protocol": "icmp",
                "sent": 5,
                "received": 0,
                "verdict": "lost",
                "transmitted_by": {"node1.eth0": {"requests": 5, "replies": 0, "inner_src": ["10.0.0.1"], "outer": []}},
                "server_saw_source": {"ext1": ["10.0.0.1"]},
            }
        ],
        "measurement": {"canaries": "ok", "drops": 0},
    }
    assert only(trace, wanted) == wanted


def only(found: Any, wanted: Any) -> Any:
    """What `found` has of the keys of `wanted`."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        if set(wanted) <= {"node1.eth0"} and wanted:  # the NICs of a flow are a closed list
            assert set(found) == set(wanted)
        return {key: only(found.get(key), value) for key, value in wanted.items()}
    if isinstance(wanted, list) and isinstance(found, list):
        assert len(found) == len(wanted)
        return [only(one, other) for one, other in zip(found, wanted, strict=True)]
    return found
