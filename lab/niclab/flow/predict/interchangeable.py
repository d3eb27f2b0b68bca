"""Which nodes are interchangeable: what holds for flows of one holds for flows of each, with its own addresses. Pure.

Two nodes are interchangeable if swapping them leaves the lab unchanged: they differ in nothing but their own addresses
and names, everything else in the lab refers to both in the same way, and every network that is named anywhere holds an
address of the one just where it holds that of the other. A hundred nodes then have as many kinds of flows as two.

Nodes are compared as text, in which their own addresses are replaced by where they come from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_interface

from niclab.cilium.decisions import Decisions
from niclab.net.route import Address, Network

_COMPARED = frozenset({"name", "description", "fabrics", "nodes", "externals", "routers", "flows"})
_OF_HOSTS = frozenset({"nics", "routes", "rules", "sysctls", "node_ip", "pod_cidrs", "pods", "labels"})
_WORD = re.compile(r"[0-9A-Fa-f:.]*[:.][0-9A-Fa-f:.]*(?:/\d+)?")
"""What may be an address or a network."""


def classes(decisions: Decisions) -> tuple[tuple[str, ...], ...]:
    """The nodes in groups that are interchangeable, each in the topology's order."""
    facts = _Facts(decisions)
    groups: dict[object, list[str]] = {}
    for name in decisions.topology.nodes:
        groups.setdefault(facts.of(name), []).append(name)
    return tuple(map(tuple, groups.values()))


@dataclass(frozen=True)
class _Own:
    """A node's own addresses and pod CIDRs, and what stands for each in the text of every node like it."""

    tokens: Mapping[Address | Network, str]

    @classmethod
    def of(cls, decisions: Decisions, name: str) -> _Own:
        node = decisions.topology.nodes[name]
        tokens: dict[Address | Network, str] = {}
        for nic_name, nic in node.nics.items():
            tokens |= {interface.ip: f"{nic_name}/{index}" for index, interface in enumerate(nic.addresses)}
        tokens |= {cidr: f"pods/{index}" for index, cidr in enumerate(node.pod_cidrs)}
        for number, pod in enumerate(node.pods):
            addresses = decisions.pod_addresses[pod]
            tokens |= {address: f"pod{number}/{index}" for index, address in enumerate(addresses)}
        return cls(tokens)

    @cached_property
    def _words(self) -> Mapping[str, str]:
        return {str(value): f"<{token}>" for value, token in self.tokens.items()}

    def hide(self, text: str) -> str:
        """The text with the node's own addresses replaced."""
        return _WORD.sub(lambda match: self._hidden(match[0]), text)

    def _hidden(self, word: str) -> str:
        if word in self._words:
            return self._words[word]
        address, slash, length = word.partition("/")
        return f"{self._words[address]}{slash}{length}" if address in self._words else word

    def named_by(self, words: Mapping[str, list[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
        """The entries that name one of them, with their hosts; `words`: address or network → entries."""
        for value in self._words:
            for spelling in (value, f"{value}/32", f"{value}/128"):
                yield from words.get(spelling, ())


@dataclass(frozen=True)
class _Facts:
    decisions: Decisions

    def of(self, name: str) -> object:
        """All that can tell a node from another; its name where the lab has more than is compared here."""
        if self._has_more:
            return name
        own = _Own.of(self.decisions, name)
        node = self.decisions.topology.nodes[name]
        nics = {nic: node.nics[nic].model_dump(mode="json", exclude={"mac"}) for nic in node.nics}
        pods = [
            (spec.model_dump(mode="json", exclude={"addresses"}), list(map(str, self.decisions.pod_addresses[pod])))
            for pod, spec in node.pods.items()
        ]
        others = node.model_dump(mode="json", exclude={"nics", "pods"})
        settings = sorted(self.decisions.nodes[name].settings.values.items())
        return (
            own.hide(json.dumps([nics, pods, others, settings])),
            tuple(self._kinds(name)),
            tuple(sorted((host, own.hide(entry)) for host, entry in own.named_by(self._entries) if host != name)),
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

    def _kinds(self, name: str) -> Iterator[object]:
        """What kinds of addresses NICs have, and their order as numbers: the kernel and Cilium look at both."""
        for nic in self.decisions.topology.nodes[name].nics.values():
            addresses = [interface.ip for interface in nic.addresses]
            order = sorted(range(len(addresses)), key=lambda index: addresses[index].packed)
            yield tuple((address.is_private, address.is_link_local) for address in addresses), tuple(order)

    @cached_property
    def _entries(self) -> Mapping[str, list[tuple[str, str]]]:
        """Address or network → the routes and rules that name it, with their hosts."""
        entries: dict[str, list[tuple[str, str]]] = {}
        for name, host in self.decisions.topology.hosts.items():
            for entry in (*map(str, host.routes), *map(str, host.rules)):
                for word in set(_WORD.findall(entry)):
                    entries.setdefault(word, []).append((name, entry))
        return entries

    @cached_property
    def _spans(self) -> list[tuple[Network, tuple[int, int, int]]]:
        """Every network that is named anywhere, pod CIDRs too, but for single addresses; and what it spans."""
        words = set(self._entries)
        for host in self.decisions.topology.hosts.values():
            words.update(str(interface) for nic in host.nics.values() for interface in nic.addresses)
        for name, node in self.decisions.topology.nodes.items():
            words.update(map(str, node.pod_cidrs))
            for value in self.decisions.nodes[name].settings.values.values():
                words.update(_WORD.findall(value))
        networks: set[Network] = set()
        for word in words:
            try:
                networks.add(ip_interface(word).network)
            except ValueError:
                continue
        return [(network, _span(network)) for network in networks if network.num_addresses > 1]

    def _inside(self, own: _Own) -> Iterator[tuple[str, str]]:
        """Which networks of others hold which of the node's own addresses."""
        mine = [(_span(value), token) for value, token in own.tokens.items()]
        for network, (version, low, high) in self._spans:
            for (family, first, last), token in mine:
                if family == version and first <= high and low <= last and network not in own.tokens:
                    yield str(network), token


def _span(value: Address | Network) -> tuple[int, int, int]:
    """Family, and first and last address as numbers."""
    if isinstance(value, IPv4Address | IPv6Address):
        return value.version, int(value), int(value)
    return value.version, int(value.network_address), int(value.broadcast_address)
