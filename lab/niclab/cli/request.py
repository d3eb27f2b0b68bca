"""From command-line options to a request, and to flows and expectations that fit its topology. Raises InputError."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace

from niclab import settings
from niclab.check import check_flow, load
from niclab.check.amend import Amendments, amend, with_kind
from niclab.cilium.decisions import Decisions
from niclab.cilium.reported import NodeReport
from niclab.errors import InputError, Problem, Problems, nearest
from niclab.flow.passage import DIRECTIONS, Direction, Expectation
from niclab.request import Request, resolve
from niclab.settings import formats
from niclab.topology.model import Flow, NicKind, Topology
from niclab.topology.stacking import below, segment


def requested(options: argparse.Namespace) -> Request:
    """What the command line asks for; predictions have no options of a datapath. Raises LabError."""
    topology = amend(
        load(options.topology),
        Amendments(
            routes=tuple(options.route),
            rules=tuple(options.rule),
            sysctls=tuple(options.sysctl),
            node_ips=tuple(options.node_ip),
            default_routes=not options.no_default_routes,
            nics=options.nics,
        ),
    )
    version = options.cilium_version or ""
    parts = [formats.load(path, version=version) for path in options.settings]
    parts += [
        formats.parse_assignments(options.set, version=version),
        formats.parse_node_assignments(options.node_set),
    ]
    return resolve(
        topology,
        settings.effective(parts),
        datapath=getattr(options, "datapath", "builtin"),
        cilium_version=options.cilium_version,
        control_plane=getattr(options, "control_plane", None),
    )


def warn(request: Request, reported: Mapping[str, NodeReport] | None = None) -> None:
    """Print what was noticed about the request, and what agents warn of, each thing once."""
    agents = [f"{node}: {words}" for node, report in (reported or {}).items() for words in report.warnings]
    for line in dict.fromkeys((*request.warnings, *agents)):
        print(f"warning: {line}", file=sys.stderr)
    if request.unmodelled:
        by = "" if reported is None else " by the built-in datapath"
        print(f"not modelled{by}: {', '.join(request.unmodelled)}", file=sys.stderr)


def asked_flows(options: argparse.Namespace, topology: Topology) -> tuple[list[Flow], list[Expectation]]:
    """The flows asked for, else the topology's own, those of expectations last; and what must hold of them."""
    expects: list[str] = getattr(options, "expect", [])
    if not options.flow and not expects and not topology.flows:
        raise InputError([Problem(topology.name, 0, "flows", "the topology has no flows", "give --flow 'FROM -> TO'")])
    problems = Problems()
    flows = [_flow(text, text, topology, problems, option="--flow") for text in options.flow]
    problems.finish()
    expected = [_expectation(text, topology, problems) for text in expects]
    problems.finish()
    met = [expectation for expectation in expected if expectation is not None]
    asked = [flow for flow in flows if flow is not None] or topology.flows
    return list(dict.fromkeys((*asked, *(expectation.flow for expectation in met)))), met


_EXAMPLES = {"--flow": "e.g. 'pod1 -> ext1:udp:53'", "--expect": "e.g. 'pod1 -> ext1=eth1'"}


def _flow(whole: str, text: str, topology: Topology, problems: Problems, *, option: str) -> Flow | None:
    try:
        flow = Flow.parse(text)
    except ValueError as error:
        problems.append(Problem(option, 0, whole, str(error), _EXAMPLES[option]))
        return None
    if problem := check_flow(topology, flow):
        problems.append(Problem(option, 0, whole, *problem))
        return None
    return flow


def _expectation(text: str, topology: Topology, problems: Problems) -> Expectation | None:
    """`[in:|out:|reply:][NODE.]NIC` behind the flow; by default `out` of a flow that begins on a node, else `in`."""
    words, _, wanted = (part.strip() for part in text.rpartition("="))
    if not words or not wanted:
        problems.append(Problem("--expect", 0, text, "it is not FLOW=NIC", _EXAMPLES["--expect"]))
        return None
    flow = _flow(text, words, topology, problems, option="--expect")
    if flow is None:
        return None
    sender = flow.source.partition(".")[0]
    begins = sender in topology.pods or sender in topology.nodes
    head, colon, interface = wanted.rpartition(":")
    if colon and head not in DIRECTIONS:
        why, fix = f"{head!r} is neither in, out nor reply", "write e.g. in:eth0, out:node1.eth0 or reply:eth1"
        problems.append(Problem("--expect", 0, text, why, fix))
        return None
    direction: Direction = DIRECTIONS[head] if colon else "out" if begins else "in"
    node, name = "", interface
    if interface.partition(".")[0] in topology.hosts:
        node, _, name = interface.partition(".")
    elif begins and direction == "out":
        node = topology.pods[sender][0] if sender in topology.pods else sender
    if node and node not in topology.nodes:
        why, fix = f"{node} is no node: what passes its NICs says nothing of one", "name a node's NIC, e.g. in:eth0"
        problems.append(Problem("--expect", 0, text, why, fix))
        return None
    hosts = [node] if node else [*topology.nodes]
    having = {host: topology.nodes[host] for host in hosts if name in topology.nodes[host].interfaces}
    if not having:
        every = dict.fromkeys(each for host in hosts for each in topology.nodes[host].interfaces)
        problems.append(
            Problem(
                "--expect",
                0,
                text,
                f"{node or 'no node'} has {'no' if node else 'a'} NIC {name!r}",
                nearest(name, every),
            )
        )
        return None
    vlan = any(place and place.vlan is not None for place in (segment(host, name) for host in having.values()))
    taps = () if vlan else (f"{host}.{nic}" for host, each in having.items() for nic in below(each, name))
    return Expectation(flow, direction, node, name, frozenset(taps))


_FEW = 4
"""Nodes that are named one by one."""


def other_kind(decisions: Decisions) -> Iterator[str]:
    """What agents would select on NICs of the other kind, where that differs: a line for all nodes that are alike."""
    kinds = decisions.topology.nic_kinds
    if len(kinds) > 1:
        return
    other: NicKind = "veth" if kinds == {"physical"} else "physical"
    own = decisions.nodes
    if all(node.settings.devices and not node.settings.force_device_detection for node in own.values()):
        return
    there = replace(decisions, topology=with_kind(decisions.topology, other)).nodes
    moved: dict[tuple[str, str], list[str]] = {}
    for name, node in own.items():
        if node.selected != there[name].selected:
            here, instead = (" ".join(each.selected) or "nothing" for each in (node, there[name]))
            moved.setdefault((here, instead), []).append(name)
    whose = "nodes that are containers, as in kind" if other == "veth" else "machines"
    for (here, instead), names in moved.items():
        which = " and ".join(names) if len(names) <= _FEW else f"{len(names)} nodes"
        yield f"on {other} NICs ({whose}) {which} would select {instead}, not {here}: --nics {other}"
