"""A topology amended: more routes, rules, sysctls and node IPs for its hosts, as the command line has them.

Each line is `HOST: WORDS`, or `all: WORDS` for every node. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from niclab.check.topology import check_route
from niclab.errors import InputError, Problem, nearest
from niclab.kernel import sysctl
from niclab.kernel.routing import check_rule
from niclab.net.route import parse_route, parse_rule
from niclab.topology.model import Host, Node, Topology

Why = tuple[str, str]
"""What is wrong, and how to fix it."""


@dataclass(frozen=True, slots=True)
class Amendments:
    """What is to be changed; equal ones make equal topologies of equal ones."""

    routes: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()
    """`HOST: net.key=value`."""
    node_ips: tuple[str, ...] = ()
    """`NODE: ADDRESS`, in place of the topology's node IPs of that family."""
    default_routes: bool = True
    """False drops the default routes of the topology's nodes."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Amendments:
        """From names and lists of lines. Raises ValueError naming what does not belong."""
        for key, value in given.items():
            right = isinstance(value, bool) if key == "default_routes" else isinstance(value, list | tuple)
            if key not in cls.__slots__ or not right:
                raise ValueError(f"{key}={value!r}: it takes lists of lines as {', '.join(cls.__slots__)}")
        made: dict[str, Any] = {key: value if isinstance(value, bool) else tuple(value) for key, value in given.items()}
        return cls(**made)

    @property
    def described(self) -> Mapping[str, str]:
        """What is amended, in one line each, for records."""
        lines = {"routes": self.routes, "rules": self.rules, "sysctls": self.sysctls, "node_ips": self.node_ips}
        described = {key: "; ".join(value) for key, value in lines.items() if value}
        return described if self.default_routes else {**described, "default_routes": "none"}

    def __bool__(self) -> bool:
        return self != Amendments()

    def merged(self, over: Amendments) -> Amendments:
        """These, and then `over`."""
        return Amendments(
            self.routes + over.routes,
            self.rules + over.rules,
            self.sysctls + over.sysctls,
            self.node_ips + over.node_ips,
            self.default_routes and over.default_routes,
        )


def amend(topology: Topology, amendments: Amendments) -> Topology:
    """The topology as amended. Raises InputError with every line that cannot be."""
    if not amendments:
        return topology
    nodes = list(topology.nodes)
    hosts: dict[str, Host] = dict(topology.hosts)
    if not amendments.default_routes:
        for name in nodes:
            hosts[name] = _with(hosts[name], routes=tuple(r for r in hosts[name].routes if not r.is_default))
    problems: list[Problem] = []
    steps: tuple[tuple[str, Sequence[str], Callable[[str, Host, str], Host | Why]], ...] = (
        ("--route", amendments.routes, _with_route),
        ("--rule", amendments.rules, _with_rule),
        ("--sysctl", amendments.sysctls, _with_sysctl),
        ("--node-ip", amendments.node_ips, _with_node_ip),
    )
    for option, lines, change in steps:
        for line in lines:
            names, words, problem = _targets(line, hosts, nodes)
            if problem:
                problems.append(Problem(option, 0, line, *problem))
            for name in names:
                changed = change(name, hosts[name], words)
                if isinstance(changed, Host):
                    hosts[name] = changed
                else:
                    problems.append(Problem(option, 0, line, *changed))
                    break
    if problems:
        raise InputError(problems)
    kinds: tuple[tuple[str, Mapping[str, Host]], ...] = (
        ("nodes", topology.nodes),
        ("externals", topology.externals),
        ("routers", topology.routers),
    )
    return topology.model_copy(update={kind: {name: hosts[name] for name in names} for kind, names in kinds})


def _with(host: Host, **changes: Any) -> Host:
    return host.model_copy(update=changes)


def _targets(line: str, hosts: Mapping[str, Host], nodes: Sequence[str]) -> tuple[list[str], str, Why | None]:
    """The hosts that a line names, and its words."""
    name, colon, words = line.partition(":")
    name = name.strip()
    if not colon or " " in name:
        return [], "", ("it names no node", "write 'NODE: …' or 'all: …'")
    if name != "all" and name not in hosts:
        return [], "", (f"there is no node {name!r}", nearest(name, [*hosts, "all"]))
    return list(nodes) if name == "all" else [name], words.strip(), None


def _with_route(name: str, host: Host, words: str) -> Host | Why:
    try:
        route = parse_route(words)
    except ValueError as error:
        return str(error), "e.g. 'node1: default via 10.0.1.254 dev eth1'"
    if twin := next((known for known in host.routes if known.key == route.key), None):
        fix = "--no-default-routes drops the topology's own" if route.is_default else "give it another metric"
        return f"{name} has {str(twin)!r} already", fix
    if why := check_route(host, route):
        return f"on {name}: {why}", f"its NICs: {', '.join(host.interfaces)}"
    return _with(host, routes=(*host.routes, route))


def _with_rule(name: str, host: Host, words: str) -> Host | Why:
    try:
        rule = parse_rule(words)
    except ValueError as error:
        return str(error), "e.g. 'all: from 10.244.1.0/24 lookup 100'"
    if why := check_rule(host, rule):
        return f"on {name}: {why}", "see `niclab graph` for what is there"
    return _with(host, rules=(*host.rules, rule))


def _with_sysctl(name: str, host: Host, words: str) -> Host | Why:
    key, equals, value = (part.strip() for part in words.partition("="))
    if not equals or not key.startswith(("net.", "net/")) or not value:
        return f"{words!r} on {name} is not net.KEY=VALUE", "e.g. 'all: net.ipv4.fib_multipath_hash_policy=1'"
    if problem := sysctl.refusal(key, host.interfaces):
        return f"on {name}: {problem[0]}", problem[1]
    return _with(host, sysctls={**host.sysctls, key: value})


def _with_node_ip(name: str, host: Host, words: str) -> Host | Why:
    if not isinstance(host, Node):
        return f"{name} is no node", "only nodes have a node IP"
    try:
        address = ipaddress.ip_address(words)
    except ValueError:
        return f"{words!r} is no address", "e.g. 'node1: 10.0.1.1'"
    own = {interface.ip for device in host.interfaces.values() for interface in device.addresses}
    if address not in own:
        return f"{name} has no address {address}", f"its addresses: {', '.join(map(str, sorted(own, key=str)))}"
    kept = tuple(other for other in host.node_ip if other.version != address.version)
    return _with(host, node_ip=(*kept, address))
