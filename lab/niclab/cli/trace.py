"""`niclab trace`: build, send, say which NIC carried what, take down."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from niclab.cli import FAIL, PASS
from niclab.cli.request import asked_flows, requested, warn
from niclab.errors import LabError
from niclab.flow.passage import Expectation, nics
from niclab.flow.verdict import FlowResult
from niclab.lab import Lab
from niclab.report import pcapng, text
from niclab.report.record import Record


def run(options: argparse.Namespace) -> int:
    """Exit 0: every flow was measured, whatever the verdicts; 1: one was not, or an --expect was not met."""
    request = requested(options)
    flows, expected = asked_flows(options, request.topology)
    pcap = _new_place(options.pcap, "the capture")
    artifacts = _new_place(options.artifacts, "the artifacts")
    with Lab.of(request) as lab:
        results = lab.send_all(flows, count=options.count, size=options.size)
        unmet = _judge(results, expected)
        if pcap:
            pcapng.write(lab, pcap)
        if artifacts:
            lab.collect(artifacts)
        if options.output == "json":
            sys.stdout.write(Record.of(lab, results).to_json())
        else:
            print(*text.trace(lab.title, results, lab.reported), sep="\n")
    warn(lab.request, lab.reported)
    for line in (*unmet, *(unmeasured := _unmeasured(results))):
        print(line, file=sys.stderr)
    return FAIL if unmet or unmeasured else PASS


def _unmeasured(results: Sequence[FlowResult]) -> list[str]:
    """The flows that were not measured, a line for each reason: an answer that is missing is never a pass."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.verdict == "unmeasured":
            reasons.setdefault(result.why, []).append(result.name)
    blind = [result for result in results if not result.measurement.holds]
    if blind:
        return [f"not measured: {blind[0].measurement}"]
    return [f"not measured: {', '.join(names)}: {why}" for why, names in reasons.items()]


def _new_place(name: str | None, what: str) -> Path | None:
    """Where something shall be written. Raises LabError, before anything is built, where it cannot be."""
    path = Path(name) if name is not None else None
    if path and path.exists():
        raise LabError(f"cannot write {what} {path}", why="it exists", fix="remove it or name another")
    if path and not path.parent.is_dir():
        raise LabError(f"cannot write {what} {path}", why=f"there is no directory {path.parent}", fix="make it")
    return path


def _judge(results: list[FlowResult], expected: Sequence[Expectation]) -> list[str]:
    """The expectations that were not met, in words; a flow that left by another NIC has leaked."""
    unmet = []
    indices = {result.flow: index for index, result in enumerate(results)}
    for must in expected:
        index = indices[must.flow]
        result = results[index]
        if result.verdict == "unmeasured":
            unmet.append(f"{result.name} {must.must()}, and was not measured: {result.why}")
            continue
        passed = [must.legs(trace, result.context) for trace in result.traces]
        seen = [leg for legs in passed for leg in legs]
        if must.meets(seen):
            continue
        words = f"{result.name} {must.must(seen)}, {must.measured} {nics(seen, must.node)}"
        unmet.append(f"{words} ({sum(map(bool, passed))} of {result.sent})\n{result.explanation}")
        if leaks := sorted({leg.tap for leg in seen if not must.meets([leg])}):
            results[index] = replace(result, leaks=tuple(leaks))
    return unmet
