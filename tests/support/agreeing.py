"""Everything that is said of one flow: cell, way, drawing, steps and `--expect` must name the same NICs as its path."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from niclab import Flow, World
from niclab.cli.request import asked_flows
from niclab.flow import picture
from niclab.flow.passage import Expectation, Leg, passage
from niclab.flow.trace import Trace, nic_of
from niclab.report import predicted
from niclab.report.matrix import seen


def expectations(world: World, flow: Flow, *words: str) -> list[Expectation]:
    options = argparse.Namespace(flow=[], expect=[f"{flow}={word}" for word in words])
    return asked_flows(options, world.topology)[1]


def check_flow(world: World, flow: Flow, size: int | None = None) -> None:
    """Everything that is said of a flow agrees with its path."""
    context, traces = world.context, world.predict(flow, size)
    row = predicted.row(world, {flow: 1}, size).flows[0]
    assert [way.carried for way in row.ways] == [trace.carried for trace in traces]
    if not traces:
        return
    cells = [seen(flow, [trace], context).text for trace in traces]
    assert row.text == " or ".join(dict.fromkeys(cells))
    for trace, way, cell in zip(traces, row.ways, cells, strict=True):
        taken = passage(trace, flow, context)
        steps = {step.tap for _, path in trace.paths for step in path.left}
        steps |= {step.tap for _, path in trace.paths for step in path.entered}
        named = [leg for legs in (taken.entered, taken.left, taken.returned) for leg in legs]
        assert {leg.tap for leg in named} <= steps
        assert all(leg.tap.partition(".")[0] in context.nodes for leg in named)
        assert cell.startswith(taken.words)
        assert all(nic_of(leg.tap) in cell for leg in (*taken.entered, *taken.left))
        assert set(way.taken_in) == {leg.tap for leg in taken.entered}
        assert set(way.taken_in) <= set(way.entered) and set(way.forwarded) <= set(way.requests_by)
        assert set(way.reply) <= set(way.replies_by)
        if taken.begins and taken.left:
            assert {tap for tap in way.requests_by if tap.startswith(f"{taken.node}.")} == {x.tap for x in taken.left}
        drawn = " ".join(picture.pictures(trace, flow.source, trace.request.arrived or flow.destination, context))
        assert all(nic_of(leg.tap) in drawn for leg in named)
    explained = predicted.ExplainedFlow.of(world, flow, size).ways
    for each, way in zip(explained, row.ways, strict=True):
        on_nodes = [step.nic for step in each.request.left_by if step.nic.partition(".")[0] in context.nodes]
        assert (each.verdict == "carried", tuple(on_nodes)) == (way.carried, way.requests_by)
    _check_expectations(world, flow, traces)


def _check_expectations(world: World, flow: Flow, traces: Sequence[Trace]) -> None:
    """What is expected as it is predicted holds; with any other NIC it does not."""
    nics = {nic for node in world.topology.nodes.values() for nic in node.nics}
    for trace in traces:
        taken = passage(trace, flow, world.context)
        sides: list[tuple[str, tuple[Leg, ...]]] = [("in:", taken.entered), ("out:", taken.left)]
        sides += [("", taken.left)] if taken.begins else [("", taken.entered), ("reply:", taken.returned)]
        for side, legs in sides:
            if len({leg.tap for leg in legs}) != 1:
                continue
            node, _, nic = legs[0].tap.partition(".")
            for wanted in nics & set(world.topology.nodes[node].nics):
                for must in expectations(world, flow, f"{side}{wanted}", f"{side}{node}.{wanted}"):
                    assert must.meets(must.legs(trace, world.context)) == (wanted == nic)
