"""From command-line words to a topology, settings and flows, shared by the commands. Raises InputError."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from niclab import choice
from niclab import settings as formats
from niclab.check import check_flow, load
from niclab.check.amend import Amendments, amend
from niclab.cilium.version import DEFAULT_VERSION, modelled_version
from niclab.errors import InputError, Problem
from niclab.settings import Settings, check_keys, effective, parse_assignments, parse_node_assignments
from niclab.topology import Flow, Topology
from niclab.topology.finding import nearest

if TYPE_CHECKING:
    from niclab.lab import Lab


def topology(options: argparse.Namespace) -> Topology:
    """The topology with what the command line says of its hosts."""
    return amend(
        load(options.topology),
        Amendments(
            routes=tuple(options.route),
            rules=tuple(options.rule),
            sysctls=tuple(options.sysctl),
            node_ips=tuple(options.node_ip),
            default_routes=not options.no_default_routes,
        ),
    )


def version(options: argparse.Namespace) -> str:
    """The Cilium version, X.Y, that is asked for or comes by default. Raises InputError, LabError."""
    if choice.datapath(options.datapath, options.cilium_version) == "cilium":
        from niclab.agents import bundle

        return bundle.find_cilium(options.cilium_version).minor
    return str(modelled_version(options.cilium_version or DEFAULT_VERSION))


def deploy(options: argparse.Namespace, found: Topology, chosen: Settings, lab_id: str | None = None) -> Lab:
    """The lab that the command line asks for. Raises LabError."""
    from niclab.lab import Lab

    return Lab.deploy(
        found,
        chosen,
        datapath=choice.datapath(options.datapath, options.cilium_version),
        cilium_version=options.cilium_version,
        control_plane=options.control_plane,
        lab_id=lab_id,
    )


def settings(options: argparse.Namespace, found: Topology) -> tuple[Settings, tuple[str, ...]]:
    """The effective settings, and what to warn of."""
    parts = [formats.load(path) for path in options.settings]
    parts.append(parse_assignments(options.set))
    parts.append(parse_node_assignments(options.node_set))
    chosen = effective(parts)
    strangers = [n.name for n in chosen.per_node if n.selector is None and n.name not in found.nodes]
    if strangers:
        raise InputError(
            [
                Problem("--node-set", 0, name, f"there is no node {name!r}", nearest(name, found.nodes))
                for name in strangers
            ]
        )
    report = check_keys(chosen, version=version(options))
    if report.errors:
        raise InputError(list(report.errors))
    return chosen, (*chosen.warnings, *report.warnings, *_without_effect(chosen, found))


def _without_effect(chosen: Settings, found: Topology) -> Iterator[str]:
    """What the topology has and the settings turn off."""
    off = [name for name, node in found.nodes.items() if not chosen.for_node(name, node.labels).egress_gateway]
    if found.egress_policies and off:
        policies = ", ".join(found.egress_policies)
        where = f" on {', '.join(off)}" if len(off) < len(found.nodes) else ""
        yield f"egress policies ({policies}) are of no effect{where}: enable-egress-gateway is off"


def flows(options: argparse.Namespace, found: Topology) -> list[Flow]:
    """The flows asked for, else the topology's own."""
    if not options.flow and not options.expect and not found.flows:
        raise InputError([Problem(found.name, 0, "flows", "the topology has no flows", "give --flow 'FROM -> TO'")])
    problems: list[Problem] = []
    parsed = [_flow(text, text, found, problems, option="--flow") for text in options.flow]
    if problems:
        raise InputError(problems)
    asked = [flow for flow in parsed if flow is not None]
    return list(dict.fromkeys(asked or found.flows))


_EXAMPLES = {"--flow": "e.g. 'pod1 -> ext1:udp:53'", "--expect": "e.g. 'pod1 -> ext1=eth1'"}


def _flow(whole: str, text: str, found: Topology, problems: list[Problem], *, option: str) -> Flow | None:
    try:
        flow = Flow.parse(text)
    except ValueError as error:
        problems.append(Problem(option, 0, whole, str(error), _EXAMPLES[option]))
        return None
    if problem := check_flow(found, flow):
        problems.append(Problem(option, 0, whole, *problem))
        return None
    return flow


@dataclass(frozen=True, slots=True)
class Expectation:
    """`--expect FLOW=NIC`: the flow's requests leave this node by this NIC and no other."""

    flow: Flow
    node: str
    nic: str


def expectations(options: argparse.Namespace, found: Topology) -> list[Expectation]:
    """What must hold; NIC is the name of one of the sender's node's, or NODE.NIC."""
    problems: list[Problem] = []
    made: list[Expectation] = []
    for text in options.expect:
        words, _, nic = (part.strip() for part in text.rpartition("="))
        if not words or not nic:
            problems.append(Problem("--expect", 0, text, "it is not FLOW=NIC", _EXAMPLES["--expect"]))
            continue
        flow = _flow(text, words, found, problems, option="--expect")
        if flow is None:
            continue
        sender = flow.source.partition(".")[0]
        home = found.pods[sender][0] if sender in found.pods else sender
        node, name = nic.split(".", 1) if nic.partition(".")[0] in found.hosts else (home, nic)
        if name not in found.hosts[node].nics:
            fix = nearest(name, found.hosts[node].nics)
            problems.append(Problem("--expect", 0, text, f"{node} has no NIC {name!r}", fix))
            continue
        made.append(Expectation(flow, node, name))
    if problems:
        raise InputError(problems)
    return made
