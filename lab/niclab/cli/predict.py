"""`niclab predict`: the NIC matrix for given settings; nothing is built and no kernel is touched."""

from __future__ import annotations

import argparse
import sys

from niclab import request
from niclab.cilium.decisions import Decisions
from niclab.cilium.selection import Version
from niclab.cli import PASS
from niclab.flow.predict import World
from niclab.report import forecast
from niclab.report.forecast import Column, Forecast
from niclab.report.matrix import render
from niclab.settings import Settings, unmodelled


def run(options: argparse.Namespace) -> int:
    """Exit 0: predicted, whatever becomes of the flows."""
    topology = request.topology(options)
    settings, warnings = request.settings(options, topology)
    version = Version.parse(request.version(options))
    asked = options.devices or [None]
    told = [settings if devices is None else _with_devices(settings, devices) for devices in asked]
    worlds = [World(Decisions(topology, one, version)) for one in told]
    own = options.flow or topology.flows
    flows = tuple(map(Column, request.flows(options, topology))) if own else forecast.columns(worlds[0])
    made = Forecast(
        topology=topology.name,
        cilium_version=str(version),
        nodes=len(topology.nodes),
        rows=tuple(forecast.row(world, flows) for world in worlds),
    )
    if options.output == "json":
        sys.stdout.write(made.to_json())
    else:
        print(render(forecast.rows(made, _title(worlds[0])), width=140).rstrip())
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    if unknown := unmodelled(settings):
        print(f"not modelled: {', '.join(unknown)}", file=sys.stderr)
    return PASS


def _with_devices(settings: Settings, devices: str) -> Settings:
    return settings.with_values({"devices": devices})


def _title(world: World) -> str:
    node = next(iter(world.decisions.nodes.values()))
    routing = f"tunnel ({node.settings.tunnel_protocol})" if node.tunnels else "native"
    return f"{world.topology.name} · {routing} · model of Cilium {world.decisions.version}, no packet sent"
