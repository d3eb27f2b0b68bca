"""`niclab trace`: build, send, say which NIC carried what, take down."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from niclab import request
from niclab.cli import FAIL, PASS
from niclab.errors import LabError
from niclab.flow.verdict import FlowResult, NicMismatch
from niclab.report import captures, text
from niclab.report.record import Record
from niclab.request import Expectation


def run(options: argparse.Namespace) -> int:
    """Exit 0: measured, whatever the verdicts; 1: an --expect was not met, or the taps were blind."""
    topology = request.topology(options)
    settings, warnings = request.settings(options, topology)
    flows = request.flows(options, topology)
    expected = request.expectations(options, topology)
    flows += [one.flow for one in expected if one.flow not in flows]
    pcap = _new_file(options.pcap)
    artifacts = _new_file(options.artifacts)
    with request.deploy(options, topology, settings) as lab:
        results = lab.send_all(flows, count=options.count, size=options.size)
        unmet = _judge(results, expected)
        if pcap:
            captures.write(lab, pcap)
        if artifacts:
            lab.collect(artifacts)
        if options.output == "json":
            sys.stdout.write(Record.of(lab, results).to_json())
        else:
            ways = [lab.expected(result) for result in results]
            print(*text.trace(lab.title, results, lab.reported, ways), sep="\n")
    reported = [f"{node}: {words}" for node, one in lab.reported.items() for words in one.warnings]
    for line in dict.fromkeys((*warnings, *reported)):
        print(f"warning: {line}", file=sys.stderr)
    if lab.unmodelled:
        print(f"not modelled by the built-in datapath: {', '.join(lab.unmodelled)}", file=sys.stderr)
    for line in unmet:
        print(line, file=sys.stderr)
    blind = [result for result in results if not result.measurement.holds]
    if blind:
        print(f"not measured: {blind[0].measurement}", file=sys.stderr)
    return FAIL if unmet or blind else PASS


def _new_file(name: str | None) -> Path | None:
    """Where a capture shall go: told before anything is built when it cannot."""
    if name is None:
        return None
    path = Path(name)
    if path.exists():
        raise LabError(f"cannot write the capture {path}", why="it exists", fix="remove it or name another")
    if not path.parent.is_dir():
        raise LabError(f"cannot write the capture {path}", why=f"there is no directory {path.parent}", fix="make it")
    return path


def _judge(results: list[FlowResult], expected: Sequence[Expectation]) -> list[str]:
    """The expectations that were not met, in words; a flow that left by another NIC has leaked."""
    unmet = []
    for one in expected:
        index = next(i for i, result in enumerate(results) if result.flow == one.flow)
        result = results[index]
        if result.verdict == "unmeasured":
            unmet.append(f"{result.name} must leave {one.node} by {one.nic}, and was not measured: {result.why}")
            continue
        left = result.left(one.node)
        if left != {one.nic}:
            results[index] = replace(result, leaks=tuple(f"{one.node}.{name}" for name in sorted(left - {one.nic})))
        try:
            result.must_leave(one.node, by=one.nic)
        except NicMismatch as mismatch:
            unmet.append(str(mismatch))
    return unmet
