"""`niclab trace`: build, send, say which NIC carried what, take down."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lab.cli import FAIL, PASS, request
from lab.errors import InputError, Problem
from lab.lab import Lab
from lab.record.matrix import render, row
from lab.topology import Flow
from lab.verdict import FlowResult


def run(options: argparse.Namespace) -> int:
    """Exit 0: measured, whatever the verdicts; 1: an --expect was not met, or the taps were blind."""
    topology = request.topology(options)
    settings, warnings = request.settings(options, topology)
    flows = request.flows(options, topology)
    expected = [_expectation(text) for text in options.expect]
    flows += [flow for flow, _ in expected if str(flow) not in {str(known) for known in flows}]
    with Lab.deploy(topology, settings, datapath=options.datapath, cilium_version=options.cilium_version) as lab:
        results = lab.send_all(flows, count=options.count, size=options.size)
        unmet = _judge(results, expected)
        if options.pcap:
            from lab.record.capture import write

            write(lab, Path(options.pcap))
        if options.output == "json":
            from lab.record.model import Trace

            sys.stdout.write(Trace.of(lab, results).to_json())
        else:
            _print(lab, results)
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    if lab.unmodelled:
        print(f"not modelled by the built-in datapath: {', '.join(lab.unmodelled)}", file=sys.stderr)
    for line in unmet:
        print(line, file=sys.stderr)
    blind = [result for result in results if result.sent and not result.measurement.holds]
    if blind:
        print(f"not measured: {blind[0].measurement}", file=sys.stderr)
    return FAIL if unmet or blind else PASS


def _expectation(text: str) -> tuple[Flow, str]:
    words, equals, nic = text.rpartition("=")
    try:
        if not equals or not nic.strip():
            raise ValueError("it names no NIC")
        return Flow.parse(words), nic.strip()
    except ValueError as error:
        raise InputError([Problem("--expect", 0, text, str(error), "e.g. 'pod1 -> ext1=eth1'")]) from None


def _judge(results: list[FlowResult], expected: Sequence[tuple[Flow, str]]) -> list[str]:
    """The expectations that were not met, in words; a flow that left by another NIC has leaked."""
    unmet = []
    for flow, nic in expected:
        index = next(i for i, result in enumerate(results) if str(result.flow) == str(flow))
        result = results[index]
        source = flow.source.partition(".")[0]
        node = result.context.pod_node.get(source, source)
        wanted = nic if "." in nic else f"{node}.{nic}"
        if wanted not in result.context.nics:
            problem = Problem(
                "--expect", 0, f"{flow}={nic}", f"there is no NIC {wanted}", ", ".join(result.context.nics)
            )
            raise InputError([problem])
        if result.verdict == "unmeasured":
            unmet.append(f"{result.name} was not measured: {result.refusal or result.measurement}")
            continue
        left = {f"{node}.{name}" for name in result.left(node)}
        if left != {wanted}:
            results[index] = replace(result, leaks=tuple(sorted(left - {wanted})))
            said = " and ".join(sorted(left)) or "no NIC"
            unmet.append(f"{result.name} must leave by {wanted}, left by {said}\n{result.explanation}")
    return unmet


def _print(lab: Lab, results: Sequence[FlowResult]) -> None:
    label = ",".join(lab.settings.for_node(next(iter(lab.topology.nodes))).devices) or "(unset)"
    print(render([row(lab.title, label, results)]))
    print()
    for node, said in lab.said.items():
        print(f"{node}: {said}")
        for name, reason in said.reasons.items():
            if name in lab.topology.nodes[node].nics:
                print(f"  {name}: {reason}")
        for warning in said.warnings:
            print(f"  warning: {warning}")
    for result in results:
        print(f"\n{result.name}: {result.verdict}, {result.received} of {result.sent} answered\n{result.explanation}")
