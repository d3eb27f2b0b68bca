"""`niclab validate`: check topologies and settings files, write settings in another format; build nothing."""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from pathlib import Path

from niclab import check, settings
from niclab.check.topology import same_node_ips
from niclab.cilium.decisions import Decisions
from niclab.cli import COULD_NOT_RUN, PASS
from niclab.cli.request import other_kind
from niclab.errors import LabError
from niclab.report.contract import Document
from niclab.request import resolve
from niclab.settings import formats
from niclab.topology import file, schema


def run(options: argparse.Namespace) -> int:
    """Exit 0 when every file is right, 2 when one is not; without files every topology that can be named."""
    if options.schema:
        sys.stdout.write(_schema(options.schema))
        return PASS
    if options.format:
        return _rewrite(options.file, options.format)
    status = PASS
    for name in options.file or file.names():
        try:
            print(f"{name}: {_describe(name)}")
        except LabError as error:
            print(error, file=sys.stderr)
            status = COULD_NOT_RUN
    return status


def _schema(name: str) -> str:
    if name == "topology":
        return schema.schema()
    module, document = {
        "trace": ("record", "Record"),
        "explain": ("predicted", "Explanation"),
        "predict": ("predicted", "Forecast"),
    }[name]
    answer: type[Document] = getattr(importlib.import_module(f"niclab.report.{module}"), document)
    return answer.contract(f"niclab {name}")


def _rewrite(names: list[str], wanted: str) -> int:
    """Settings that are said one on top of the other, as one text. Raises LabError."""
    if not names:
        raise LabError("there are no settings to write", fix=f"niclab validate values.yaml --as {wanted}")
    if topologies := [name for name in names if Path(name).is_file() and file.is_topology(Path(name))]:
        raise LabError(f"{topologies[0]} is a topology", why="settings are written as others", fix="name settings only")
    parts = [formats.load(name) for name in names]
    chosen = functools.reduce(settings.Settings.merged, parts)
    write = {"configmap": formats.to_configmap, "flags": formats.to_flags, "helm": formats.to_helm}[wanted]
    sys.stdout.write(write(chosen))
    for line in chosen.warnings:
        print(f"warning: {line}", file=sys.stderr)
    return PASS


def _describe(name: str) -> str:
    path = Path(name) if Path(name).is_file() else file.find(name)
    if file.is_topology(path):
        named = check.load(path)
        nics = sum(len(node.nics) for node in named.nodes.values())
        noted = "".join(f"\n  warning: {line}" for line in same_node_ips(named))
        asked = resolve(named, datapath="builtin")
        there = other_kind(Decisions(named, asked.settings, asked.version))
        noted += "".join(f"\n  with `devices` unset, {line}" for line in there)
        return f"a topology of {len(named.nodes)} nodes with {nics} NICs on {len(named.fabrics)} fabrics{noted}"
    chosen = formats.load(path)
    warnings = "".join(f"\n  warning: {line}" for line in chosen.warnings)
    unmodelled = settings.unmodelled(chosen)
    listed = f"\n  not modelled by the built-in datapath: {', '.join(unmodelled)}" if unmodelled else ""
    return f"settings: {', '.join(f'{k}={v}' for k, v in chosen.values.items())}{warnings}{listed}"
