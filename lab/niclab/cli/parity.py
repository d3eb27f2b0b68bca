"""`niclab parity`: the same cases on the built-in datapath and on real Cilium, and every difference between them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from niclab.check import load
from niclab.cli import FAIL, PASS
from niclab.cli.parity_cases import cases, flows
from niclab.errors import LabError
from niclab.lab import Lab
from niclab.report import diff
from niclab.report.record import Record
from niclab.request import Request, decide, default_versions, resolve
from niclab.topology import Flow

_BATCH, _PROBES = 40, 3


def run(options: argparse.Namespace) -> int:
    """Exit 0: no difference; 1: there are some; 2: could not run."""
    topology = load(options.topology)
    chosen = [case for case in cases(topology) if not options.case or any(word in case.name for word in options.case)]
    if not chosen:
        raise LabError(f"no case is called like {' or '.join(options.case)}", fix="niclab parity --list")
    if options.list:
        print(*(case.name for case in chosen), sep="\n")
        return PASS
    found: list[dict[str, Any]] = []
    compared = 0
    for version in options.cilium or default_versions(decide("cilium")):
        real = resolve(topology, datapath="cilium", cilium_version=version, control_plane=options.control_plane)
        print(real.choice.description, file=sys.stderr)
        requests = {case.name: real.with_settings(case.settings) for case in chosen if case.fits(real.version)}
        for name, difference in _compare(requests):
            compared += difference.compared
            found += [{"version": version, "case": name, **asdict(change)} for change in difference.changes]
            _tell(name, difference)
    if options.output == "json":
        print(json.dumps({"compared": compared, "differences": found}, indent=2, ensure_ascii=False))
    else:
        print(f"{len(found)} differences in {compared} flows and nodes compared")
    return FAIL if found else PASS


def _compare(requests: Mapping[str, Request]) -> Iterator[tuple[str, diff.Difference]]:
    real: Lab | None = None
    try:
        for name, request in requests.items():
            if real is not None and real.can_change_to(request.settings):
                real.change(request.settings)
            else:
                if real is not None:
                    real.close()
                real = Lab.of(request)
            sent = flows(request.topology)
            modelled = resolve(
                request.topology, request.settings, datapath="builtin", cilium_version=str(request.version)
            )
            with Lab.of(modelled) as model:
                yield name, diff.compare([_measured(model, sent)], [_measured(real, sent)])
    finally:
        if real is not None:
            real.close()


def _measured(lab: Lab, every: Sequence[Flow]) -> dict[str, Any]:
    results = [
        result
        for start in range(0, len(every), _BATCH)
        for result in lab.send_all(every[start : start + _BATCH], count=_PROBES)
    ]
    trace: dict[str, Any] = json.loads(Record.of(lab, results).to_json())
    return trace


def _tell(name: str, difference: diff.Difference) -> None:
    print(f"  {name}: {'agrees' if not difference.changes else ''}", file=sys.stderr)
    for change in difference.changes:
        print(f"    {change.flow}  {change.what}: model {change.before}, Cilium {change.after}", file=sys.stderr)
