"""`niclab predict`: the NIC matrix for given settings; nothing is built and no kernel is touched."""

from __future__ import annotations

import argparse
import sys

from niclab.cilium.decisions import Decisions
from niclab.cli import PASS
from niclab.cli.request import flows, requested, warn
from niclab.flow.predict import World
from niclab.report import forecast
from niclab.report.forecast import Column, Forecast
from niclab.report.matrix import render
from niclab.request import Request


def run(options: argparse.Namespace) -> int:
    """Exit 0: predicted, whatever becomes of the flows."""
    asked = requested(options)
    rows = [asked if devices is None else _with_devices(asked, devices) for devices in options.devices or [None]]
    worlds = [World(Decisions(row.topology, row.settings, row.version)) for row in rows]
    own = options.flow or asked.topology.flows
    columns = tuple(map(Column, flows(options, asked.topology))) if own else forecast.columns(worlds[0])
    made = Forecast(
        topology=asked.topology.name,
        cilium_version=str(asked.version),
        nodes=len(asked.topology.nodes),
        rows=tuple(forecast.row(world, columns) for world in worlds),
    )
    if options.output == "json":
        sys.stdout.write(made.to_json())
    else:
        print(render(forecast.rows(made, _title(worlds[0])), width=140).rstrip())
    warn(asked)
    return PASS


def _with_devices(request: Request, devices: str) -> Request:
    return request.with_settings(request.settings.with_values({"devices": devices}))


def _title(world: World) -> str:
    node = next(iter(world.decisions.nodes.values()))
    routing = f"tunnel ({node.settings.tunnel_protocol})" if node.tunnels else "native"
    return f"{world.topology.name} · {routing} · model of Cilium {world.decisions.version}, no packet sent"
