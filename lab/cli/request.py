"""From command-line words to a topology, settings and flows: shared by `trace` and `up`. Raises InputError."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from lab import settings as formats
from lab.errors import InputError, Problem
from lab.route import parse_route, parse_rule
from lab.settings import Settings, check_keys, effective, parse_assignments, parse_node_assignments
from lab.topology import Flow, Node, Topology, load
from lab.topology.rules import check_route, nearest


def topology(options: argparse.Namespace) -> Topology:
    """The topology with the routes and rules of the command line added."""
    found = load(options.topology)
    nodes = dict(found.nodes)
    if options.no_default_routes:
        nodes = {name: _with(node, routes=[r for r in node.routes if not r.is_default]) for name, node in nodes.items()}
    problems: list[Problem] = []
    for text in options.route:
        for name, words in _targets("--route", text, nodes, problems):
            try:
                route = parse_route(words)
            except ValueError as error:
                problems.append(
                    Problem("--route", 0, text, str(error), "e.g. 'node1: default via 10.0.1.254 dev eth1'")
                )
                continue
            node = nodes[name]
            twin = [r for r in node.routes if (r.destination, r.table) == (route.destination, route.table)]
            twin = [r for r in twin if r.effective_metric == route.effective_metric and r.family == route.family]
            if twin:
                mend = "--no-default-routes drops the topology's own" if route.is_default else "give it another metric"
                problems.append(Problem("--route", 0, text, f"{name} has {str(twin[0])!r} already", mend))
            elif why := check_route(node, route):
                problems.append(Problem("--route", 0, text, f"on {name}: {why}", f"its NICs: {', '.join(node.nics)}"))
            else:
                nodes[name] = _with(node, routes=[*node.routes, route])
    for text in options.rule:
        for name, words in _targets("--rule", text, nodes, problems):
            try:
                rule = parse_rule(words)
            except ValueError as error:
                problems.append(Problem("--rule", 0, text, str(error), "e.g. 'all: from 10.244.1.0/24 lookup 100'"))
                continue
            nodes[name] = _with(nodes[name], rules=[*nodes[name].rules, rule])
    if problems:
        raise InputError(problems)
    return found.model_copy(update={"nodes": nodes})


def _with(node: Node, **changes: Sequence[object]) -> Node:
    return node.model_copy(update={name: tuple(value) for name, value in changes.items()})


def _targets(option: str, text: str, nodes: dict[str, Node], problems: list[Problem]) -> Iterable[tuple[str, str]]:
    """(node, words) for each node that `NODE|all: WORDS` names."""
    name, colon, words = text.partition(":")
    name = name.strip()
    if not colon or " " in name:
        problems.append(Problem(option, 0, text, "it names no node", "write 'NODE: …' or 'all: …'"))
        return []
    if name != "all" and name not in nodes:
        problems.append(Problem(option, 0, text, f"there is no node {name!r}", nearest(name, [*nodes, "all"])))
        return []
    return [(node, words.strip()) for node in (nodes if name == "all" else [name])]


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
    report = check_keys(chosen, version=options.cilium_version)
    if report.errors:
        raise InputError(list(report.errors))
    return chosen, (*chosen.warnings, *report.warnings)


def flows(options: argparse.Namespace, found: Topology) -> list[Flow]:
    """The flows asked for, else the topology's own."""
    if not options.flow and not found.flows:
        raise InputError([Problem(found.name, 0, "flows", "the topology has no flows", "give --flow 'FROM -> TO'")])
    parsed = []
    for text in options.flow:
        try:
            parsed.append(Flow.parse(text))
        except ValueError as error:
            raise InputError([Problem("--flow", 0, text, str(error), "e.g. 'pod1 -> ext1:udp:53'")]) from None
    return parsed or list(found.flows)
