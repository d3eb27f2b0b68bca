"""The screen at the end of a run, and all of a run: `niclab matrix`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from niclab.cli import COULD_NOT_RUN, PASS, main
from niclab.report import diff, summary


def measured(
    devices: str,
    *,
    topology: str = "two-nic",
    version: str = "1.20",
    cell: str = "eth0 snat",
    verdict: str = "carried",
    compared: str = "agrees",
    settings: dict[str, str] | None = None,
) -> dict[str, Any]:
    """One test of one flow, as it is in run.json."""
    flow = {
        "from": "pod1",
        "to": "ext1",
        "protocol": "icmp",
        "sent": 5,
        "received": 5,
        "verdict": verdict,
        "transmitted_by": {},
        "server_saw_source": {},
        "compared": compared,
        "unpredicted": "probe 0: node1.eth1" if compared == "differs" else None,
    }
    return {
        "test": f"test_x.py::test_it[{devices}]",
        "topology": topology,
        "datapath": "builtin",
        "cilium_version": version,
        "settings": {},
        "unmodelled": [],
        "warnings": [],
        "nodes": {},
        "addresses": {},
        "flows": [flow],
        "measurement": {"canaries": "ok", "drops": 0},
        "matrix": {
            "table": f"{topology} · {version}",
            "label": devices,
            "settings": {"devices": devices, **(settings or {})},
            "cells": [{"flow": "pod1→ext1", "text": cell, "loud": "!" in cell}],
        },
    }


def screen(*tests: dict[str, Any]) -> list[str]:
    return list(summary.screen(tests, width=100))


def test_the_headline_is_one_matrix_of_devices() -> None:
    rows = [measured(devices, version=version) for version in ("1.18", "1.20") for devices in ("eth0", "eth1")]
    lines = screen(*rows, measured("eth0", settings={"mtu": "9000"}, cell="another test"))
    assert [line for line in lines if line.startswith("two-nic")] == ["two-nic · 1.18", "two-nic · 1.20"]
    assert "another test" not in "\n".join(lines)


def test_another_topology_is_one_line_with_its_surprises() -> None:
    lines = screen(
        measured("eth0"),
        measured("eth0", topology="vlan", cell="eth1 pod address!"),
        measured("eth1", topology="vlan", verdict="lost"),
    )
    assert "vlan  2 flows: 1 with a pod's address outside, 1 without an answer" in lines


def test_what_was_compared_is_counted_apart_from_what_was_not() -> None:
    lines = screen(measured("eth0"), measured("eth1", compared="differs"), measured("eth2", compared="not compared"))
    assert "predictions: 1 of 3 flows agree, 1 differ, 1 were not compared" in lines
    assert "  test_x.py::test_it[eth1]: pod1 → ext1: probe 0: node1.eth1" in lines


def test_many_surprises_stay_on_the_screen() -> None:
    tests = [measured(f"eth{number}", compared="differs") for number in range(200)]
    lines = screen(*tests, *(measured("eth0", topology=f"t{number}") for number in range(18)))
    assert len(lines) < 45
    assert any("and 195 more" in line for line in lines)


def test_all_of_a_run_is_one_command_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"tests": [measured("eth0"), measured("eth0", topology="vlan", compared="differs")]}))
    assert main(["matrix", str(path)]) == PASS
    text = capsys.readouterr().out
    assert "two-nic · 1.20\n" in text
    assert "vlan · 1.20\n" in text
    assert "not as predicted (1):" in text


NO_RECORDS = ["", "[]", "{}", "7", '{"tests": 1}', '{"tests": [1]}', '{"tests": [{"flows": []}]}', '{"flows": [{}]}']


def test_a_hashs_choice_is_no_change() -> None:
    """Two ways were predicted, each record has one of them; with one way predicted the same is a change."""

    def by(nic: str, *expected: str) -> list[dict[str, Any]]:
        test = measured("eth0,eth1")
        count = {"requests": 5, "replies": 0, "inner_src": ["10.0.0.1"], "outer": []}
        return [{**test, "flows": [{**test["flows"][0], "transmitted_by": {nic: count}, "expected": list(expected)}]}]

    both = ("node1.eth0, 10.0.0.1 seen at ext1", "node1.eth1, 10.0.0.1 seen at ext1")
    assert not diff.compare(by("node1.eth0", *both), by("node1.eth1", *both)).changes
    assert not diff.compare(by("node1.eth0", *both), by("node1.eth1", *reversed(both))).changes
    (change,) = diff.compare(by("node1.eth0", both[0]), by("node1.eth1", *both)).changes
    assert str(change) == "pod1 → ext1  requests by: node1.eth0 → node1.eth1"


@pytest.mark.parametrize("verb", ["matrix", "diff", "claims --record"])
@pytest.mark.parametrize("content", [*NO_RECORDS, None])
def test_a_file_that_is_no_record_is_one_error(
    content: str | None, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    assert main([*verb.split(), str(path)]) == COULD_NOT_RUN
    assert capsys.readouterr().err.startswith("niclab: ")
