"""`niclab explain` and `niclab predict`: why each flow goes where it goes, and the NIC matrix.

Nothing is built and no kernel is touched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from niclab.cilium.decisions import Decisions
from niclab.cli import FAIL, PASS
from niclab.cli.request import asked_flows, other_kind, requested, warn
from niclab.flow.passage import Expectation
from niclab.flow.predict import World
from niclab.report import predicted, text
from niclab.report.matrix import render
from niclab.report.predicted import Explanation, Forecast
from niclab.request import Request


def explain(options: argparse.Namespace) -> int:
    """Exit 0: explained; 1: an --expect is not what is predicted."""
    request = requested(options)
    flows, expected = asked_flows(options, request.topology)
    world = _world(request)
    explanation = Explanation.of(world, flows, request.settings, options.size)
    if options.output == "json":
        sys.stdout.write(explanation.to_json())
    else:
        print(*text.explanation(explanation), *_on_others([world]), sep="\n")
    warn(request)
    unmet = [line for expectation in expected for line in _unmet(world, expectation, options.size)]
    for line in unmet:
        print(line, file=sys.stderr)
    return FAIL if unmet else PASS


def predict(options: argparse.Namespace) -> int:
    """Exit 0: predicted, whatever becomes of the flows."""
    request = requested(options)
    values = ({} if devices is None else {"devices": devices} for devices in options.devices or [None])
    rows = [request.with_settings(request.settings.with_values(row)) if row else request for row in values]
    worlds = list(map(_world, rows))
    own = options.flow or request.topology.flows
    flows = dict.fromkeys(asked_flows(options, request.topology)[0], 1) if own else predicted.columns(worlds[0])
    forecast = Forecast(
        topology=request.topology.name,
        cilium_version=str(request.version),
        nodes=len(request.topology.nodes),
        rows=tuple(predicted.row(world, flows, options.size) for world in worlds),
    )
    if options.output == "json":
        sys.stdout.write(forecast.to_json())
    else:
        routing = next(iter(worlds[0].decisions.nodes.values())).routing
        title = f"{request.topology.name} · {routing} · model of Cilium {request.version}, no packet sent"
        print(render(predicted.rows(forecast, title), width=140).rstrip())
        for line in _on_others(worlds):
            print(line)
    warn(request)
    return PASS


def _on_others(worlds: Sequence[World]) -> list[str]:
    """What would be otherwise on NICs of the other kind, below a blank line."""
    found = dict.fromkeys(line for world in worlds for line in other_kind(world.decisions))
    return ["", *found] if found else []


def _world(request: Request) -> World:
    return World(Decisions(request.topology, request.settings, request.version))


def _unmet(world: World, expected: Expectation, size: int | None) -> list[str]:
    """Why an expectation is not what is predicted; where a hash decides, every trace must be as expected."""
    traces = world.predict(expected.flow, size)
    if not traces:
        return [f"{expected.flow} {expected.must()}, and is not sent: {world.why_not(expected.flow)}"]
    passed = [expected.legs(trace, world.context) for trace in traces]
    if all(map(expected.meets, passed)):
        return []
    names = " or ".join(dict.fromkeys(" and ".join(sorted({leg.tap for leg in legs})) or "no NIC" for legs in passed))
    must = expected.must(leg for legs in passed for leg in legs)
    return [f"{expected.flow} {must}, it is predicted to {expected.predicted} {names}"]
