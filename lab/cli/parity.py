"""`niclab parity`: the same cases on the built-in datapath and on real Cilium, and every difference between them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lab import bundle, choice
from lab.cli import FAIL, PASS
from lab.controlplane import Kind
from lab.errors import LabError
from lab.lab import Lab
from lab.record import diff
from lab.record.model import Trace
from lab.settings import LAB_BASELINE, Settings
from lab.topology import Topology, load

_DEVICES = {"unset": "", "eth0": "eth0", "eth1": "eth1", "both": "eth0,eth1", "wildcard": "eth+", "absent": "eth9"}
_EGRESS = Settings.of(enable_egress_gateway=True)
_ROUTING: Mapping[str, Settings] = {
    "vxlan": Settings.of(routing="tunnel", tunnel="vxlan"),
    "native": Settings.of(routing="native", ipv4_native_routing_cidr="10.244.0.0/16", auto_direct_node_routes=True),
    "iptables": Settings.of(routing="tunnel", tunnel="vxlan", enable_bpf_masquerade=False),
    "legacy": Settings.of(routing="tunnel", tunnel="vxlan", enable_host_legacy_routing=True),
}


@dataclass(frozen=True)
class Case:
    """One lab to build twice."""

    name: str
    settings: Settings


def cases(topology: Topology) -> Iterator[Case]:
    """Every routing and masquerading mode with every value of `devices` that the nodes' NICs suggest."""
    nics = list(next(iter(topology.nodes.values())).nics)
    renamed = {"eth0": nics[0], "eth1": nics[min(1, len(nics) - 1)]}
    everywhere = _EGRESS if topology.egress_policies else Settings()
    for mode, settings in _modes(topology).items():
        for name, devices in _DEVICES.items():
            value = ",".join(renamed.get(word, word) for word in devices.split(","))
            yield Case(
                f"{mode}-{name}", LAB_BASELINE.merged(everywhere).merged(settings).merged(Settings.of(devices=value))
            )


def _modes(topology: Topology) -> Mapping[str, Settings]:
    """The routing and masquerading modes that the topology's features run with; other ones agents refuse."""
    if topology.egress_policies:
        return {mode: settings for mode, settings in _ROUTING.items() if mode != "iptables"}
    return _ROUTING


def run(options: argparse.Namespace) -> int:
    """Exit 0: no difference; 1: there are some; 2: could not run."""
    topology = load(options.topology)
    chosen = [case for case in cases(topology) if not options.case or any(word in case.name for word in options.case)]
    if not chosen:
        raise LabError(f"no case is called like {' or '.join(options.case)}", mend="niclab parity --list")
    if options.list:
        print(*(case.name for case in chosen), sep="\n")
        return PASS
    versions = options.cilium or choice.versions("cilium") or [bundle.find_cilium().minor]
    found: list[dict[str, Any]] = []
    compared = 0
    for version in versions:
        print(f"Cilium {bundle.find_cilium(version).version}", file=sys.stderr)
        for name, difference in _compare(topology, chosen, version, options.control_plane):
            compared += difference.compared
            found += [{"version": version, "case": name, **asdict(change)} for change in difference.changes]
            _tell(name, difference)
    if options.output == "json":
        print(json.dumps({"compared": compared, "differences": found}, indent=2, ensure_ascii=False))
    else:
        print(f"{len(found)} differences in {compared} flows and nodes compared")
    return FAIL if found else PASS


def _compare(
    topology: Topology, chosen: list[Case], version: str, control_plane: Kind
) -> Iterator[tuple[str, diff.Difference]]:
    real: Lab | None = None
    try:
        for case in chosen:
            if real is not None and real.can_change_to(case.settings):
                real.change(case.settings)
            else:
                if real is not None:
                    real.close()
                real = Lab.deploy(
                    topology, case.settings, datapath="cilium", cilium_version=version, control_plane=control_plane
                )
            with Lab.deploy(topology, case.settings, datapath="builtin", cilium_version=str(real.version)) as model:
                yield case.name, diff.compare([_measured(model)], [_measured(real)])
    finally:
        if real is not None:
            real.close()


def _measured(lab: Lab) -> dict[str, Any]:
    trace: dict[str, Any] = json.loads(Trace.of(lab, lab.send_all(lab.topology.flows)).to_json())
    return trace


def _tell(name: str, difference: diff.Difference) -> None:
    print(f"  {name}: {'agrees' if not difference.changes else ''}", file=sys.stderr)
    for change in difference.changes:
        print(f"    {change.flow}  {change.what}: model {change.before}, Cilium {change.after}", file=sys.stderr)
