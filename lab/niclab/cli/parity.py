"""`niclab parity`: the same cases on the built-in datapath and on real Cilium, and every difference between them."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from niclab.check import check_flow, load
from niclab.check.amend import Amendments, amend
from niclab.cilium.version import Version
from niclab.cli import FAIL, PASS
from niclab.errors import LabError
from niclab.flow.verdict import FlowResult
from niclab.lab import Lab
from niclab.report import diff
from niclab.report.record import Record
from niclab.request import Request, decide, default_versions, resolve
from niclab.settings import LAB_BASELINE, Settings
from niclab.topology.model import Flow, Topology

_BATCH, _PROBES = 40, 3
_DEVICES = {"unset": "", "eth0": "eth0", "eth1": "eth1", "both": "eth0,eth1", "wildcard": "eth+", "absent": "eth9"}
_SERVED = ("unset", "eth0", "eth1", "both")


@dataclass(frozen=True)
class Case:
    """One lab to build twice."""

    name: str
    settings: Settings
    needs: str = ""

    def fits(self, version: Version) -> bool:
        return not self.needs or version.has(self.needs)


def run(options: argparse.Namespace) -> int:
    """Exit 0: no difference; 1: there are some; 2: could not run."""
    topology = amend(load(options.topology), Amendments(nics=options.nics))
    chosen = [case for case in cases(topology) if not options.case or any(word in case.name for word in options.case)]
    if not chosen:
        raise LabError(f"no case is called like {' or '.join(options.case)}", fix="niclab parity --list")
    if options.list:
        print(*(case.name for case in chosen), sep="\n")
        return PASS
    differences: list[dict[str, Any]] = []
    compared = 0
    for version in options.cilium or default_versions(decide("cilium")):
        real = resolve(topology, datapath="cilium", cilium_version=version, control_plane=options.control_plane)
        print(real.choice.description, file=sys.stderr)
        requests = {case.name: real.with_settings(case.settings) for case in chosen if case.fits(real.version)}
        for name, difference in _compare(requests):
            compared += difference.compared
            differences += [{"version": version, "case": name, **asdict(change)} for change in difference.changes]
            _print(name, difference)
    if options.output == "json":
        print(json.dumps({"compared": compared, "differences": differences}, indent=2, ensure_ascii=False))
    else:
        print(f"{len(differences)} differences in {compared} flows and nodes compared")
    return FAIL if differences else PASS


def _compare(requests: Mapping[str, Request]) -> Iterator[tuple[str, diff.Difference]]:
    real: Lab | None = None
    with contextlib.ExitStack() as undo:
        for name, request in requests.items():
            if real is not None and real.can_change_to(request.settings):
                real.change(request.settings)
            else:
                undo.close()
                real = undo.enter_context(Lab.of(request))
            sent = flows(request.topology)
            version = str(request.version)
            modelled = resolve(request.topology, request.settings, datapath="builtin", cilium_version=version)
            with Lab.of(modelled) as model:
                yield name, diff.compare([_measured(model, sent)], [_measured(real, sent)])


def _measured(lab: Lab, every: Sequence[Flow]) -> dict[str, Any]:
    results: list[FlowResult] = []
    for start in range(0, len(every), _BATCH):
        results += lab.send_all(every[start : start + _BATCH], count=_PROBES)
    trace: dict[str, Any] = json.loads(Record.of(lab, results).to_json())
    return trace


def _print(name: str, difference: diff.Difference) -> None:
    print(f"  {name}: {'agrees' if not difference.changes else ''}", file=sys.stderr)
    for change in difference.changes:
        print(f"    {change.flow}  {change.what}: model {change.before}, Cilium {change.after}", file=sys.stderr)


@cache
def _modes() -> Mapping[str, Mapping[str, Settings]]:
    """Each table of parity.toml: a mode's name → its settings."""
    tables: dict[str, dict[str, Settings]] = {}
    for name, modes in tomllib.loads(Path(__file__).with_name("parity.toml").read_text()).items():
        tables[name] = {}
        for mode, flags in modes.items():
            below = tables["routing"][flags.pop("on")] if "on" in flags else Settings()
            tables[name][mode] = below.merged(Settings.of(**flags))
    return tables


def cases(topology: Topology) -> Iterator[Case]:
    """Every routing and masquerading mode with every value of `devices` that the nodes' NICs suggest."""
    nics = next(iter(topology.nodes.values())).nics
    renamed = dict(zip(("eth0", "eth1"), [*nics, *nics], strict=False))
    values = {name: ",".join(renamed.get(word, word) for word in text.split(",")) for name, text in _DEVICES.items()}
    egress = Settings.of(enable_egress_gateway=True) if topology.egress_policies else Settings()
    everywhere = LAB_BASELINE.merged(egress)

    def case(mode: str, name: str, settings: Settings, needs: str = "") -> Case:
        return Case(f"{mode}-{name}", everywhere.merged(settings).merged(Settings.of(devices=values[name])), needs)

    for mode, settings in _routing(topology).items():
        yield from (case(mode, name, settings) for name in _DEVICES)
    for mode, settings in _variants(topology).items():
        yield from (case(mode, name, settings) for name in ("eth0", "both"))
    if not topology.services:
        return
    for mode, settings in _modes()["services"].items():
        yield from (case(mode, name, settings) for name in _SERVED)
    for mode in ("native", "vxlan"):
        settings = _modes()["routing"][mode]
        other = settings.merged(Settings.of(direct_routing_device=renamed["eth1"]))
        yield case(f"{mode}-direct-routing-{renamed['eth1']}", "both", other)
        by_route = other.merged(Settings.of(enable_dynamic_source_lookup_nodeport=True))
        yield case(f"{mode}-dynamic-source", "both", by_route, "node-port-source-by-route")
        for name, nic in nics.items():
            for address in nic.addresses_of(4)[:1]:
                answering = settings.merged(Settings.of(nodeport_addresses=str(address.network)))
                yield case(f"{mode}-addresses-of-{name}", "both", answering)


def _routing(topology: Topology) -> Mapping[str, Settings]:
    """The routing and masquerading modes that the topology's features run with; other ones agents refuse."""
    if topology.egress_policies:
        return {mode: settings for mode, settings in _modes()["routing"].items() if mode != "iptables"}
    return _modes().get(topology.ipam, _modes()["routing"])


def _variants(topology: Topology) -> Mapping[str, Settings]:
    if topology.ipam != "kubernetes":
        return _modes().get(f"{topology.ipam}-variants", {})
    return {} if topology.egress_policies or topology.services else _modes()["variants"]


def flows(topology: Topology) -> tuple[Flow, ...]:
    """The topology's own, and where it has services every client with every way to ask for one, once each."""
    asked = list(topology.flows)
    if topology.services:
        ends = [f"{name}.{nic}" for name, node in topology.nodes.items() for nic in node.nics]
        ports = [f":{topology.services[name].protocol}:{port}" for name, port in topology.service_node_ports().items()]
        clients = [*topology.externals, *topology.pods, *ends]
        targets = [*topology.services, *(f"{end}{port}" for end in ends for port in ("", *ports))]
        parsed = [Flow.parse(f"{client} -> {target}") for client in clients for target in targets]
        asked += [flow for flow in parsed if check_flow(topology, flow) is None]
    return tuple(dict.fromkeys(asked))
