"""A host's forwarding decision as a pure function: rules, tables, longest prefix, metric, type, output constraint.

Models fib_rules_lookup and fib_table_lookup (net/core/fib_rules.c, net/ipv4/fib_trie.c) closely enough to say which
NIC a packet leaves by; hashing among the hops of a multipath route is left to the caller, who gets all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from lab.route import TABLES, Address, Family, Network, NextHop, Route, Rule, numbered
from lab.topology import Host
from lab.topology.routing import connected, kept

_ANY: dict[Family, Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
_LAST = 32767


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the FIB said: the route that won and its hops that are allowed. No hops: the packet is refused."""

    route: Route
    hops: tuple[NextHop, ...]

    @property
    def devices(self) -> frozenset[str]:
        return frozenset(hop.dev for hop in self.hops if hop.dev)

    @property
    def is_local(self) -> bool:
        return self.route.kind == "local"


@dataclass(frozen=True)
class Fib:
    """Every route and rule of one host."""

    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, host: Host, *, routes: Iterable[Route] = (), rules: Iterable[Rule] = ()) -> Fib:
        """The FIB of a host of a topology, with more routes and (numbered) rules on top."""
        return cls((*connected(host), *kept(host, host.routes), *routes), (*numbered(host.rules), *rules))

    def with_routes(self, routes: Iterable[Route]) -> Fib:
        return Fib((*self.routes, *routes), self.rules)

    def lookup(
        self, destination: Address, *, source: Address | None = None, iif: str | None = None, oif: str | None = None
    ) -> Lookup | None:
        """The route for a packet, or None when there is none. With `oif` only hops through that device count."""
        family: Family = 4 if destination.version == 4 else 6
        for rule in self._ordered(family):
            if not _matches(rule, destination, source, iif, oif):
                continue
            if rule.action != "lookup":
                return Lookup(Route(_ANY[family], kind=rule.action), ())
            found = self._in_table(rule.table or 0, destination, oif)
            if found is None or found.route.kind == "throw":
                continue
            return found
        return None

    def source_for(self, destination: Address, found: Lookup, host: Host) -> Address | None:
        """The address a packet of the host itself gets: the route's `src`, else the device's first in that network."""
        if found.route.source is not None and not found.is_local:
            return found.route.source
        for hop in found.hops:
            nic = host.nics.get(hop.dev or "")
            interfaces = nic.addresses_of(4 if destination.version == 4 else 6) if nic else ()
            target = hop.via or destination
            near = [interface.ip for interface in interfaces if target in interface.network]
            if near or interfaces:
                return near[0] if near else interfaces[0].ip
        return None

    def _ordered(self, family: Family) -> list[Rule]:
        base = [Rule(table=TABLES["local"], priority=0), Rule(table=TABLES["main"], priority=32766)]
        if family == 4:
            base.append(Rule(table=TABLES["default"], priority=_LAST))
        own = [rule for rule in self.rules if rule.family == family]
        return sorted([*base, *own], key=lambda rule: rule.priority or 0)

    def _in_table(self, table: int, destination: Address, oif: str | None) -> Lookup | None:
        candidates = [route for route in self.routes if route.table == table and destination in route.destination]
        candidates.sort(key=lambda route: (-route.destination.prefixlen, route.effective_metric))
        for route in candidates:
            if route.kind not in ("unicast", "local"):
                if oif is not None and route.family == 6:
                    continue  # IPv6 keeps these on `lo`
                return Lookup(route, ())
            hops = tuple(hop for hop in route.nexthops if oif is None or hop.dev == oif)
            # With no hop through oif the trie goes on to the next route, then to shorter prefixes.
            if hops:
                return Lookup(route, hops)
        return None


def _matches(rule: Rule, destination: Address, source: Address | None, iif: str | None, oif: str | None) -> bool:
    hit = (
        (rule.destination is None or destination in rule.destination)
        and (rule.source is None or (source is not None and source in rule.source))
        # What the host itself sends comes in by `lo`.
        and (rule.iif is None or rule.iif == (iif or "lo"))
        and (rule.oif is None or rule.oif == oif)
        and (rule.mark is None or rule.mark[0] & rule.mark[1] == 0)
    )
    return hit != rule.negated


__all__ = ["Fib", "Lookup", "connected"]
