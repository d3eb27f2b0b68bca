"""Which nodes are interchangeable: what holds for flows of one holds for flows of each, with its own addresses. Pure.

Two nodes are interchangeable if swapping them leaves the lab unchanged: they differ in nothing but their own addresses
and names, everything else in the lab refers to both in the same way, and every network that is named anywhere holds an
address of the one just where it holds that of the other. A hundred nodes then have as many kinds of flows as two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from niclab.cilium.decisions import Decisions
from niclab.net.address import ip_network
from niclab.net.route import Address, Network, Route, Rule
from niclab.topology import Host, Node

_COMPARED = frozenset({"name", "description", "fabrics", "nodes", "externals", "routers", "flows"})
_OF_HOSTS = frozenset({"nics", "routes", "rules", "sysctls", "node_ip", "pod_cidrs", "pods", "labels"})

Token = str
"""What stands for one of a node's own addresses, the same in every node that is interchangeable with it."""


@dataclass(frozen=True)
class Own:
    """A node's own addresses and pod CIDRs, and what stands for each."""

    tokens: Mapping[Address | Network, Token]

    @classmethod
    def of(cls, decisions: Decisions, name: str) -> Own:
        node = decisions.topology.nodes[name]
        tokens: dict[Address | Network, Token] = {}
        for nic_name, nic in node.nics.items():
            for index, interface in enumerate(nic.addresses):
                tokens[interface.ip] = f"{nic_name}/{index}"
        for index, cidr in enumerate(node.pod_cidrs):
            tokens[cidr] = f"pods/{index}"
        for number, pod in enumerate(node.pods):
            for index, address in enumerate(decisions.pod_addresses[pod]):
                tokens[address] = f"pod{number}/{index}"
        return cls(tokens)

    def token(self, value: Address | Network | None) -> object:
        """A value with the node's own addresses replaced; what is not the node's own stands for itself."""
        if value is None:
            return None
        token = self.tokens.get(value)
        if token is None and isinstance(value, IPv4Network | IPv6Network) and _is_alone(value):
            token = self.tokens.get(value.network_address)
        return token or value


def _is_alone(network: Network) -> bool:
    return network.prefixlen == network.max_prefixlen


def classes(decisions: Decisions) -> tuple[tuple[str, ...], ...]:
    """The nodes in groups that are interchangeable, each in the topology's order."""
    facts = _Facts(decisions)
    groups: dict[object, list[str]] = {}
    for name in decisions.topology.nodes:
        groups.setdefault(facts.of(name), []).append(name)
    return tuple(map(tuple, groups.values()))


@dataclass(frozen=True)
class _Facts:
    decisions: Decisions

    def of(self, name: str) -> object:
        """All that can tell a node from another; its name where the lab has more than is compared here."""
        if self._has_more:
            return name
        own = Own.of(self.decisions, name)
        node = self.decisions.topology.nodes[name]
        return (
            tuple(self._nics(node, own)),
            tuple(repr(_route(route, own)) for route in node.routes),
            tuple(repr(_rule(rule, own)) for rule in node.rules),
            tuple(sorted(node.sysctls.items())),
            tuple(str(own.token(address)) for address in node.node_ip),
            tuple(str(own.token(cidr)) for cidr in node.pod_cidrs),
            tuple(self._pods(node, own)),
            tuple(sorted((key, self._setting(value, own)) for key, value in self._values(name))),
            tuple(sorted(self._elsewhere(name, own))),
            tuple(sorted(self._inside(own))),
        )

    @cached_property
    def _has_more(self) -> bool:
        """Has the lab something that is not compared here?"""
        topology = self.decisions.topology
        every = [i.ip for _, _, nic in topology.nic_pairs() for i in nic.addresses]
        more = [name for name, value in topology if name not in _COMPARED and value]
        more += [name for host in topology.hosts.values() for name, value in host if name not in _OF_HOSTS and value]
        return bool(more) or len(set(every)) < len(every)

    def _nics(self, node: Node, own: Own) -> Iterator[object]:
        for name, nic in node.nics.items():
            others = nic.model_dump(exclude={"addresses", "mac"})
            addresses = tuple(
                (own.token(i.ip), str(i.network), i.ip.is_private, i.ip.is_link_local) for i in nic.addresses
            )
            order = tuple(sorted(range(len(addresses)), key=lambda index: nic.addresses[index].ip.packed))
            yield name, repr(others), addresses, order

    def _pods(self, node: Node, own: Own) -> Iterator[object]:
        for number, (pod, spec) in enumerate(node.pods.items()):
            addresses = self.decisions.pod_addresses[pod]
            yield number, repr(spec.model_dump(exclude={"addresses"})), tuple(map(own.token, addresses))

    def _values(self, name: str) -> Iterator[tuple[str, str]]:
        yield from self.decisions.nodes[name].settings.values.items()

    def _setting(self, value: str, own: Own) -> str:
        """A setting's value; one that is an address of the node's own reads as what stands for it."""
        for address, token in own.tokens.items():
            if value == str(address):
                return f"<{token}>"
        return value

    def _elsewhere(self, name: str, own: Own) -> Iterator[tuple[str, str, str]]:
        """The routes and rules of other hosts that name this node's addresses."""
        for address, token in own.tokens.items():
            for host, entry in self._entries.get(address, ()):
                if host != name:
                    yield token, host, repr(_route(entry, own) if isinstance(entry, Route) else _rule(entry, own))

    @cached_property
    def _entries(self) -> Mapping[Address | Network, list[tuple[str, Route | Rule]]]:
        """Address or network → the routes and rules that name it, and whose they are."""
        entries: dict[Address | Network, list[tuple[str, Route | Rule]]] = {}
        for name, host in self._hosts:
            every: list[Route | Rule] = [*host.routes, *host.rules]
            for entry in every:
                for address in _named(entry):
                    entries.setdefault(address, []).append((name, entry))
        return entries

    @property
    def _hosts(self) -> list[tuple[str, Host]]:
        return list(self.decisions.topology.hosts.items())

    @cached_property
    def _networks(self) -> tuple[tuple[Network, int, int, int], ...]:
        """Every network that is named anywhere, pod CIDRs too, with its family, first and last address."""
        named: set[Network] = set()
        for _, host in self._hosts:
            for route in host.routes:
                named.add(route.destination)
            for rule in host.rules:
                named.update(network for network in (rule.source, rule.destination) if network)
            for nic in host.nics.values():
                named.update(interface.network for interface in nic.addresses)
        for node in self.decisions.topology.nodes.values():
            named.update(node.pod_cidrs)
        for decision in self.decisions.nodes.values():
            for value in decision.settings.values.values():
                for word in value.replace(",", " ").split():
                    if "/" in word:
                        try:
                            named.add(ip_network(word))
                        except ValueError:
                            continue
        return tuple((network, network.version, *_span(network)) for network in named)

    def _inside(self, own: Own) -> Iterator[tuple[str, str]]:
        """Which networks of others hold which of the node's own addresses."""
        mine = [(address.version, *_span(address), token) for address, token in own.tokens.items()]
        for network, version, low, high in self._networks:
            if network in own.tokens or (low == high and network.network_address in own.tokens):
                continue
            for family, first, last, token in mine:
                if family == version and first <= high and low <= last:
                    yield str(network), token


def _span(place: Address | Network) -> tuple[int, int]:
    """The first and the last address, as numbers."""
    if isinstance(place, IPv4Address | IPv6Address):
        return int(place), int(place)
    return int(place.network_address), int(place.broadcast_address)


def _named(entry: Route | Rule) -> Iterator[Address | Network]:
    for network in (entry.destination, entry.source):
        if isinstance(network, IPv4Network | IPv6Network):
            yield network
            if _is_alone(network):
                yield network.network_address
        elif network is not None:
            yield network
    if isinstance(entry, Route):
        yield from (hop.via for hop in entry.nexthops if hop.via)


def _route(route: Route, own: Own) -> object:
    hops = tuple((own.token(hop.via), hop.dev, hop.weight, hop.onlink) for hop in route.nexthops)
    plain = replace(route, destination=_NOWHERE, nexthops=(), source=None)
    return own.token(route.destination), hops, own.token(route.source), plain


def _rule(rule: Rule, own: Own) -> object:
    return own.token(rule.source), own.token(rule.destination), replace(rule, source=None, destination=None)


_NOWHERE = ip_network("0.0.0.0/0")
