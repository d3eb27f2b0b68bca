"""What people with several NICs asked in public: each case's topology and settings, the commands, and what is right.

A case is a file in `cases/`: where it is from, its `files`, and its `questions`. Each question is a command line that
runs in this process, in a directory with the files, and what its answer must be:

    exit       its exit status (0)
    flows      flow → what `-o json` must have, or a list of it, one for each way: `carried`, `out` and `back` (the
               nodes' NICs that send request and reply, in order), `arrived`, `source` (as it is seen there), `outer`
               (the tunnel's addresses on the first NIC)
    rows       the same for each row of a matrix, by its `devices`
    cells      flow → a regular expression that its cell, or each way's, must match
    devices    node → the devices that its agent selects
    exits      node → words of the agent that refuses to run
    says, never  words that the text has, or has not, blanks and lines apart
    waits      what the product needs before the answer is right: the test must fail until then
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command import Done, here

CASES = Path(__file__).parent / "cases"
BUILDS = ("trace", "up")
AS_JSON = ("flows", "rows", "cells", "devices", "exits")


def questions() -> list[Any]:
    return [question for path in sorted(CASES.glob("*.yaml")) for question in asked(path)]


def asked(path: Path) -> Iterator[Any]:
    """The questions of a case. `waits` fails the test the day the answer becomes right: then the line goes."""
    case = yaml.safe_load(path.read_text(encoding="utf-8"))
    for number, question in enumerate(case["questions"], 1):
        marks: list[pytest.MarkDecorator] = []
        if shlex.split(question["ask"])[0] in BUILDS:
            marks.append(pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces"))
        if question.get("waits"):
            marks.append(pytest.mark.xfail(strict=True, reason=question["waits"]))
        yield pytest.param(case["files"], question, id=f"{path.stem}-{number}", marks=marks)


def test_every_case_is_there_and_says_where_it_is_from() -> None:
    cases = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in CASES.glob("*.yaml")}
    assert len(cases) == 22
    assert all(case["from"] and case["questions"] for case in cases.values())


@pytest.mark.parametrize(("files", "question"), questions())
def test_the_answer_is_right(
    files: Mapping[str, str], question: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    words = shlex.split(question["ask"])
    if any(key in question for key in AS_JSON):
        done = here(*words, "-o", "json")
        assert (done.status, "Traceback" in done.err) == (question.get("exit", 0), False), done.err
        check(json.loads(done.out), question)
    if "says" in question or "never" in question or not any(key in question for key in AS_JSON):
        done = here(*words)
        assert done.status == question.get("exit", 0), done.err
        check_words(done, question)


def check(document: Mapping[str, Any], question: Mapping[str, Any]) -> None:
    """Is what a machine reads right?"""
    rows = {row["devices"]: row for row in document["rows"]} if "rows" in document else {"": document}
    first = next(iter(rows.values()))
    for flow, wanted in question.get("flows", {}).items():
        check_ways(first, flow, wanted)
    for devices, flows in question.get("rows", {}).items():
        for flow, wanted in flows.items():
            check_ways(rows[devices], flow, wanted)
    for flow, pattern in question.get("cells", {}).items():
        assert re.search(pattern, flow_of(first, flow)["text"]), f"{flow}: {flow_of(first, flow)['text']!r}"
    for node, devices in question.get("devices", {}).items():
        selected = [name for name, device in document["nodes"][node]["devices"].items() if device["selected"]]
        assert selected == devices, node
    for node, said in question.get("exits", {}).items():
        exits = first["agent_exits"] if "agent_exits" in first else {node: document["nodes"][node]["agent_exits"]}
        assert said in (exits.get(node) or ""), f"{node}: {exits.get(node)}"


def flow_of(row: Mapping[str, Any], flow: str) -> Mapping[str, Any]:
    source, _, destination = flow.partition(" -> ")
    flows: list[dict[str, Any]] = row["flows"]
    for each in flows:
        ends = {each["to"], f"{each['to']}:{each.get('protocol')}"}
        if each["from"] == source and destination in ends:
            return each
    raise AssertionError(f"{flow} is not among {[(each['from'], each['to']) for each in row['flows']]}")


def check_ways(row: Mapping[str, Any], flow: str, wanted: Any) -> None:
    found = [facts(way) for way in flow_of(row, flow)["ways"]]
    expected = wanted if isinstance(wanted, list) else [wanted] * max(len(found), 1)
    assert len(found) == len(expected), f"{flow}: {found}"
    for each in expected:
        narrowed = [{key: way.get(key) for key in each} for way in found]
        assert each in narrowed, f"{flow}: {each} is not among {narrowed}"


def facts(way: Mapping[str, Any]) -> dict[str, Any]:
    """One way of a flow, whether of `predict` or of `explain`."""
    if "requests_by" in way:
        out, back, request = list(way["requests_by"]), list(way["replies_by"]), way
    else:
        request, reply = way["request"], way["reply"] or {"left_by": []}
        out, back = ([step["nic"] for step in path["left_by"]] for path in (request, reply))
    first = request.get("left_by") or [{}]
    return {
        "carried": way["carried"] if "carried" in way else way["verdict"] == "carried",
        "out": out,
        "back": back,
        "arrived": request["arrived"],
        "source": request["source"],
        "outer": list(first[0].get("outer") or ()),
    }


def check_words(done: Done, question: Mapping[str, Any]) -> None:
    """Is what a person reads right?"""
    text = " ".join(f"{done.out} {done.err}".split())
    for words in question.get("says", ()):
        assert " ".join(words.split()) in text, words
    for words in question.get("never", ()):
        assert " ".join(words.split()) not in text, words
