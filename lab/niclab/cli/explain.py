"""`niclab explain`: why each flow goes where it goes; nothing is built and no kernel is touched."""

from __future__ import annotations

import argparse
import sys

from niclab.cilium.decisions import Decisions
from niclab.cli import FAIL, PASS
from niclab.cli.request import Expectation, expectations, requested, warn
from niclab.cli.request import flows as flows_of
from niclab.flow.predict import World
from niclab.report import text
from niclab.report.explained import Explanation


def run(options: argparse.Namespace) -> int:
    """Exit 0: explained; 1: an --expect is not what is predicted."""
    asked = requested(options)
    flows = flows_of(options, asked.topology)
    expected = expectations(options, asked.topology)
    flows += [one.flow for one in expected if one.flow not in flows]
    world = World(Decisions(asked.topology, asked.settings, asked.version))
    explanation = Explanation.of(world, flows, asked.settings)
    if options.output == "json":
        sys.stdout.write(explanation.to_json())
    else:
        print(*text.explanation(explanation), sep="\n")
    warn(asked)
    unmet = [line for one in expected for line in _unmet(world, one)]
    for line in unmet:
        print(line, file=sys.stderr)
    return FAIL if unmet else PASS


def _unmet(world: World, expected: Expectation) -> list[str]:
    """Why an expectation is not what is predicted; where a hash decides, every trace must be as expected."""
    must = f"{expected.flow} must leave {expected.node} by {expected.nic}"
    traces = world.predict(expected.flow)
    if not traces:
        return [f"{must}, and is not sent: {world.why_not(expected.flow)}"]
    wanted = {f"{expected.node}.{expected.nic}"}
    left = [{f"{expected.node}.{nic}" for nic in trace.request.nics_left(expected.node)} for trace in traces]
    if all(nics == wanted for nics in left):
        return []
    names = " or ".join(dict.fromkeys(" and ".join(sorted(nics)) or "no NIC" for nics in left))
    return [f"{must}, it is predicted to leave by {names}"]
