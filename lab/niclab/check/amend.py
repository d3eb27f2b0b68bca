"""A topology amended: more routes, rules, sysctls and node IPs for its hosts, another kind of NICs, as the command line
has them.

Each line is `HOST: WORDS`, or `all: WORDS` for every node. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from niclab.errors import InputError, Problem, nearest
from niclab.kernel import sysctl
from niclab.kernel.edit import with_
from niclab.kernel.routing import check_route, check_rule
from niclab.net.route import parse_route, parse_rule
from niclab.topology.model import Host, NicKind, Node, Topology

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
    nics: NicKind | None = None
    """What every NIC of a node is."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Amendments:
        """From names and lists of lines. Raises ValueError naming what does not belong."""
        for key, value in given.items():
            if key == "nics" and value in get_args(NicKind):
                continue
            right = isinstance(value, bool) if key == "default_routes" else isinstance(value, list | tuple)
            if key not in cls.__slots__ or not right:
                raise ValueError(f"{key}={value!r}: it takes lists of lines as {', '.join(cls.__slots__)}")
        made: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list | tuple) else value for key, value in given.items()
        }
        return cls(**made)

    @property
    def described(self) -> Mapping[str, str]:
        """What is amended, in one line each, for records; those say the kind of NICs by themselves."""
        described = {key: "; ".join(getattr(self, key)) for key in _LINES if getattr(self, key)}
        return described if self.default_routes else {**described, "default_routes": "none"}

    def __bool__(self) -> bool:
        return self != Amendments()

    def merged(self, over: Amendments) -> Amendments:
        """These, and then `over`."""
        lines = {key: getattr(self, key) + getattr(over, key) for key in _LINES}
        default_routes = self.default_routes and over.default_routes
        return Amendments(**lines, default_routes=default_routes, nics=over.nics or self.nics)


_LINES = ("routes", "rules", "sysctls", "node_ips")


def amend(topology: Topology, amendments: Amendments) -> Topology:
    """The topology as amended. Raises InputError with every line that cannot be."""
    if not amendments:
        return topology
    if amendments.nics is not None:
        topology = with_kind(topology, amendments.nics)
    hosts: dict[str, Host] = dict(topology.hosts)
    for name, node in topology.nodes.items() if not amendments.default_routes else ():
        hosts[name] = with_(node, routes=tuple(route for route in node.routes if not route.is_default))
    problems: list[Problem] = []
    steps: tuple[tuple[str, Sequence[str], Callable[[str, Host, str], Host | Why]], ...] = (
        ("--route", amendments.routes, _with_route),
        ("--rule", amendments.rules, _with_rule),
        ("--sysctl", amendments.sysctls, _with_sysctl),
        ("--node-ip", amendments.node_ips, _with_node_ip),
    )
    for option, lines, change in steps:
        for line in lines:
            target, colon, words = (part.strip() for part in line.partition(":"))
            names = [*topology.nodes] if target == "all" else [target]
            problem: Why | None = None
            if not colon or " " in target:
                problem = "it names no node", "write 'NODE: …' or 'all: …'"
            elif target != "all" and target not in hosts:
                problem = f"there is no node {target!r}", nearest(target, [*hosts, "all"])
            for name in names if problem is None else ():
                changed = change(name, hosts[name], words)
                if not isinstance(changed, Host):
                    problem = changed
                    break
                hosts[name] = changed
            if problem:
                problems.append(Problem(option, 0, line, *problem))
    if problems:
        raise InputError(problems)
    return topology.with_hosts(hosts)


def with_kind(topology: Topology, kind: NicKind) -> Topology:
    """The topology with NICs of this kind on all its nodes."""
    nodes: dict[str, Host] = {}
    for name, node in topology.nodes.items():
        nics = {nic: spec.model_copy(update={"kind": kind}) for nic, spec in node.nics.items()}
        nodes[name] = node.model_copy(update={"nics": nics})
    return topology.with_hosts(nodes)


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
    return with_(host, routes=(*host.routes, route))


def _with_rule(name: str, host: Host, words: str) -> Host | Why:
    try:
        rule = parse_rule(words)
    except ValueError as error:
        return str(error), "e.g. 'all: from 10.244.1.0/24 lookup 100'"
    if why := check_rule(host, rule):
        return f"on {name}: {why}", "see `niclab graph` for what is there"
    return with_(host, rules=(*host.rules, rule))


def _with_sysctl(name: str, host: Host, words: str) -> Host | Why:
    key, equals, value = (part.strip() for part in words.partition("="))
    if not equals or not key.startswith(("net.", "net/")) or not value:
        return f"{words!r} on {name} is not net.KEY=VALUE", "e.g. 'all: net.ipv4.fib_multipath_hash_policy=1'"
    if problem := sysctl.refusal(key, host.interfaces):
        return f"on {name}: {problem[0]}", problem[1]
    return with_(host, sysctls={**host.sysctls, key: value})


def _with_node_ip(name: str, host: Host, words: str) -> Host | Why:
    if not isinstance(host, Node):
        return f"{name} is no node", "only nodes have a node IP"
    try:
        address = ipaddress.ip_address(words)
    except ValueError:
        return f"{words!r} is no address", "e.g. 'node1: 10.0.1.1'"
    if address not in host.addresses:
        return f"{name} has no address {address}", f"its addresses: {', '.join(sorted({*map(str, host.addresses)}))}"
    kept = tuple(other for other in host.node_ip if other.version != address.version)
    return with_(host, node_ip=(*kept, address))
