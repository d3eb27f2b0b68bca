"""A host's forwarding decision as a pure function: rules, tables, longest prefix, metric, type, output constraint.

Models fib_rules_lookup and fib_table_lookup (net/core/fib_rules.c, net/ipv4/fib_trie.c) closely enough to say which
NIC a packet leaves by; hashing among the hops of a multipath route is left to the caller, who gets all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from niclab.kernel.routing import address_on, addresses_elsewhere, alive, connected, kept
from niclab.net.route import EVERYTHING, TABLES, Address, Family, NextHop, Route, Rule, family_of, numbered
from niclab.topology.model import Host

_LAST = 32767


@dataclass(frozen=True, slots=True)
class Lookup:
    """The FIB's answer: the route that won, its hops that are allowed, and the rule that led there.

    No hops: the packet is refused.
    """

    route: Route
    hops: tuple[NextHop, ...]
    rule: Rule

    @property
    def devices(self) -> frozenset[str]:
        return frozenset(hop.dev for hop in self.hops if hop.dev)

    @property
    def is_local(self) -> bool:
        return self.route.kind == "local"


_Table = list[tuple[int, dict[int, list[Route]]]]
"""(network mask, network → its routes, the best first), longest prefixes first."""


@dataclass(frozen=True)
class Fib:
    """Every route and rule of one host."""

    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    local_priority: int = 0
    """Where table `local` is asked; the kernel's own rule may be moved."""

    @classmethod
    def of(cls, host: Host, *, routes: Iterable[Route] = (), rules: Iterable[Rule] = ()) -> Fib:
        """The FIB of a host of a topology, with more routes and (numbered) rules on top."""
        return cls((*connected(host), *alive(host, kept(host, host.routes)), *routes), (*numbered(host.rules), *rules))

    def with_routes(self, routes: Iterable[Route]) -> Fib:
        return replace(self, routes=(*self.routes, *routes))

    def lookup(
        self,
        destination: Address,
        *,
        source: Address | None = None,
        iif: str | None = None,
        oif: str | None = None,
        mark: int = 0,
        prefer: str | None = None,
    ) -> Lookup | None:
        """The route for a packet, or None when there is none. With `oif` only hops through that device count.

        `prefer`: a device that wins among IPv6 routes that are equal otherwise ([kernel] rt6_score_route).
        """
        family = family_of(destination)
        for rule in self._ordered[family]:
            if not _matches(rule, destination, source, (iif, oif), mark):
                continue
            if rule.action != "lookup":
                return Lookup(Route(EVERYTHING[family], kind=rule.action), (), rule)
            lookup = self._in_table(rule, destination, oif, prefer)
            if lookup is None or lookup.route.kind == "throw":
                continue
            return lookup
        return None

    def source_for(self, destination: Address, lookup: Lookup, host: Host) -> Address | None:
        """The address a packet of the host itself gets: the route's `src`, else one of the device that it leaves by,
        else any other device's.
        """
        if lookup.route.source is not None and not lookup.is_local:
            return lookup.route.source
        family = family_of(destination)
        for hop in lookup.hops:
            neighbour = hop.via or (destination if family == 6 else None)
            if address := address_on(host, hop.dev or "", family, neighbour):
                return address
        return next(addresses_elsewhere(host, family), None) if lookup.hops else None

    @cached_property
    def _ordered(self) -> Mapping[Family, Sequence[Rule]]:
        """Both families' rules as they are asked; the kernel's own come before others of the same priority."""
        local = Rule(table=TABLES["local"], priority=self.local_priority)
        main = Rule(table=TABLES["main"], priority=32766)
        last = Rule(table=TABLES["default"], priority=_LAST)
        bases: dict[Family, tuple[Rule, ...]] = {4: (local, main, last), 6: (local, main)}
        return {
            family: sorted(
                [*base, *(rule for rule in self.rules if rule.family == family)], key=lambda rule: rule.priority or 0
            )
            for family, base in bases.items()
        }

    @cached_property
    def _tables(self) -> Mapping[tuple[int, Family], _Table]:
        tables: dict[tuple[int, Family], dict[int, dict[int, list[Route]]]] = {}
        for route in self.routes:
            network = route.destination
            table = tables.setdefault((route.table, route.family), {})
            same = table.setdefault(int(network.netmask), {})
            same.setdefault(int(network.network_address), []).append(route)
        for table in tables.values():
            for same in table.values():
                for routes in same.values():
                    routes.sort(key=lambda route: route.effective_metric)
        return {key: sorted(table.items(), reverse=True) for key, table in tables.items()}

    def _in_table(self, rule: Rule, destination: Address, oif: str | None, prefer: str | None) -> Lookup | None:
        number = int(destination)
        table = self._tables.get((rule.table or 0, family_of(destination)), ())
        for mask, networks in table:
            routes = networks.get(number & mask, ())
            if prefer is not None and len(routes) > 1 and destination.version == 6:
                routes = sorted(routes, key=lambda route: (route.effective_metric, prefer not in route.devices))
            for route in routes:
                if route.kind not in ("unicast", "local"):
                    if oif is not None and route.family == 6:
                        continue  # IPv6 keeps these on `lo`
                    return Lookup(route, (), rule)
                hops = route.nexthops if oif is None else tuple(hop for hop in route.nexthops if hop.dev == oif)
                # With no hop through oif the trie goes on to the next route, then to shorter prefixes.
                if hops:
                    return Lookup(route, hops, rule)
        return None


def _matches(
    rule: Rule, destination: Address, source: Address | None, between: tuple[str | None, str | None], mark: int
) -> bool:
    iif, oif = between
    hit = (
        (rule.destination is None or destination in rule.destination)
        and (rule.source is None or (source is not None and source in rule.source))
        # What the host itself sends comes in by `lo`.
        and (rule.iif is None or rule.iif == (iif or "lo"))
        and (rule.oif is None or rule.oif == oif)
        and (rule.mark is None or (rule.mark[0] ^ mark) & rule.mark[1] == 0)
    )
    return hit != rule.negated
