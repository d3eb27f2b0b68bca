"""From command-line words to a topology, settings and flows: shared by `trace` and `up`. Raises InputError."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab import bundle, choice
from lab import settings as formats
from lab.errors import InputError, Problem
from lab.lab import DEFAULT_VERSION, Lab, modelled_version
from lab.route import Route, parse_route, parse_rule
from lab.settings import Settings, check_keys, effective, parse_assignments, parse_node_assignments
from lab.topology import Flow, Node, Topology, load
from lab.topology.finding import nearest
from lab.topology.routing import check_rule
from lab.topology.rules import check_flow, check_route


def topology(options: argparse.Namespace) -> Topology:
    """The topology with the routes and rules of the command line added."""
    found = load(options.topology)
    nodes = dict(found.nodes)
    if options.no_default_routes:
        nodes = {name: _with(node, routes=[r for r in node.routes if not r.is_default]) for name, node in nodes.items()}
    problems: list[Problem] = []
    for text in options.route:
        names, words = _targets("--route", text, nodes, problems)
        if not names:
            continue
        try:
            route = parse_route(words)
        except ValueError as error:
            problems.append(Problem("--route", 0, text, str(error), "e.g. 'node1: default via 10.0.1.254 dev eth1'"))
            continue
        for name in names:
            if problem := _route_problem(name, nodes[name], route):
                problems.append(Problem("--route", 0, text, *problem))
            else:
                nodes[name] = _with(nodes[name], routes=[*nodes[name].routes, route])
    for text in options.rule:
        names, words = _targets("--rule", text, nodes, problems)
        if not names:
            continue
        try:
            rule = parse_rule(words)
        except ValueError as error:
            problems.append(Problem("--rule", 0, text, str(error), "e.g. 'all: from 10.244.1.0/24 lookup 100'"))
            continue
        for name in names:
            if why := check_rule(nodes[name], rule):
                problems.append(Problem("--rule", 0, text, f"on {name}: {why}", "see `niclab graph` for what is there"))
            else:
                nodes[name] = _with(nodes[name], rules=[*nodes[name].rules, rule])
    if problems:
        raise InputError(problems)
    return found.model_copy(update={"nodes": nodes})


def _with(node: Node, **changes: Sequence[object]) -> Node:
    return node.model_copy(update={name: tuple(value) for name, value in changes.items()})


def _route_problem(name: str, node: Node, route: Route) -> tuple[str, str] | None:
    """Why a node cannot have one more route, and how to mend it."""
    for one in node.routes:
        place = (one.family, one.destination, one.table, one.effective_metric)
        if place == (route.family, route.destination, route.table, route.effective_metric):
            mend = "--no-default-routes drops the topology's own" if route.is_default else "give it another metric"
            return f"{name} has {str(one)!r} already", mend
    why = check_route(node, route)
    return (f"on {name}: {why}", f"its NICs: {', '.join(node.nics)}") if why else None


def _targets(option: str, text: str, nodes: Mapping[str, Node], problems: list[Problem]) -> tuple[list[str], str]:
    """The nodes that `NODE|all: WORDS` names, and the words."""
    name, colon, words = text.partition(":")
    name = name.strip()
    if not colon or " " in name:
        problems.append(Problem(option, 0, text, "it names no node", "write 'NODE: …' or 'all: …'"))
        return [], ""
    if name != "all" and name not in nodes:
        problems.append(Problem(option, 0, text, f"there is no node {name!r}", nearest(name, [*nodes, "all"])))
        return [], ""
    return list(nodes) if name == "all" else [name], words.strip()


def version(options: argparse.Namespace) -> str:
    """The Cilium version, X.Y, that is asked for or comes by default. Raises InputError, LabError."""
    if choice.datapath(options.datapath, options.cilium_version) == "cilium":
        return bundle.find_cilium(options.cilium_version).minor
    return str(modelled_version(options.cilium_version or DEFAULT_VERSION))


def deploy(options: argparse.Namespace, found: Topology, chosen: Settings, lab_id: str | None = None) -> Lab:
    """The lab that the command line asks for. Raises LabError."""
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
    return chosen, (*chosen.warnings, *report.warnings)


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
            mend = nearest(name, found.hosts[node].nics)
            problems.append(Problem("--expect", 0, text, f"{node} has no NIC {name!r}", mend))
            continue
        made.append(Expectation(flow, node, name))
    if problems:
        raise InputError(problems)
    return made
