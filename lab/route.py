"""Routes and routing rules in iproute2's words: parsed to frozen values, rendered back the same way.

The grammar is the part of ip-route(8) and ip-rule(8) that decides which NIC a packet takes.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Family = Literal[4, 6]
Kind = Literal["unicast", "local", "blackhole", "unreachable", "prohibit", "throw"]
Scope = Literal["global", "site", "link", "host"]

TABLES = {"local": 255, "main": 254, "default": 253}
PROTOCOLS = {"kernel": 2, "boot": 3, "static": 4, "ra": 9, "bgp": 186}
SCOPES: dict[Scope, int] = {"global": 0, "site": 200, "link": 253, "host": 254}
_KINDS: dict[str, Kind] = {
    "unicast": "unicast",
    "local": "local",
    "blackhole": "blackhole",
    "unreachable": "unreachable",
    "prohibit": "prohibit",
    "throw": "throw",
}


@dataclass(frozen=True, slots=True)
class NextHop:
    """One way out of a route: a gateway, a device, or both. `weight` counts from 1, as in iproute2."""

    via: Address | None = None
    dev: str | None = None
    weight: int = 1
    onlink: bool = False

    def words(self) -> str:
        via = f"via {self.via}" if self.via else ""
        parts = [via, f"dev {self.dev}" if self.dev else "", "onlink" if self.onlink else ""]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Encap:
    """A lightweight tunnel (RTA_ENCAP, `encap ip id VNI dst PEER`): the kernel's route to `remote` picks the NIC."""

    vni: int
    remote: Address

    def words(self) -> str:
        family = "ip" if self.remote.version == 4 else "ip6"
        return f"encap {family} id {self.vni} dst {self.remote}"


@dataclass(frozen=True, slots=True)
class Route:
    """One FIB entry. `metric` None is the family's default (0 for IPv4, 1024 for IPv6); `mtu` is in bytes."""

    destination: Network
    nexthops: tuple[NextHop, ...] = ()
    kind: Kind = "unicast"
    table: int = 254
    metric: int | None = None
    source: Address | None = None
    scope: Scope | None = None
    protocol: int = 3
    mtu: int | None = None
    encap: Encap | None = None

    @property
    def family(self) -> Family:
        return 4 if self.destination.version == 4 else 6

    @property
    def devices(self) -> frozenset[str]:
        return frozenset(hop.dev for hop in self.nexthops if hop.dev)

    @property
    def is_default(self) -> bool:
        return self.destination.prefixlen == 0

    @property
    def effective_metric(self) -> int:
        return self.metric if self.metric is not None else (0 if self.family == 4 else 1024)

    @property
    def effective_scope(self) -> Scope:
        """Iproute2's own default: host for local routes, link for a bare device, else global (iproute.c)."""
        if self.scope is not None:
            return self.scope
        if self.kind == "local":
            return "host"
        bare = self.kind == "unicast" and len(self.nexthops) == 1 and self.nexthops[0].via is None
        return "link" if bare and self.family == 4 and self.encap is None else "global"

    def __str__(self) -> str:
        words = [] if self.kind == "unicast" else [self.kind]
        words.append("default" if self.is_default else str(self.destination))
        if self.encap:
            words.append(self.encap.words())
        if len(self.nexthops) == 1:
            words.append(self.nexthops[0].words())
        if self.table != TABLES["main"]:
            words.append(f"table {self.table}")
        if self.protocol != PROTOCOLS["boot"]:
            name = next((name for name, number in PROTOCOLS.items() if number == self.protocol), str(self.protocol))
            words.append(f"proto {name}")
        if self.scope is not None:
            words.append(f"scope {self.scope}")
        if self.source is not None:
            words.append(f"src {self.source}")
        if self.metric is not None:
            words.append(f"metric {self.metric}")
        if self.mtu is not None:
            words.append(f"mtu {self.mtu}")
        if len(self.nexthops) > 1:
            words += [f"nexthop {hop.words()} weight {hop.weight}" for hop in self.nexthops]
        if self.family == 6 and self.is_default and not any(hop.via for hop in self.nexthops):
            words.insert(0, "-6")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy-routing rule (fib_rules(7)); `priority` None lets the kernel choose the one before the first."""

    table: int | None = 254
    action: Literal["lookup", "blackhole", "unreachable", "prohibit"] = "lookup"
    priority: int | None = None
    source: Network | None = None
    destination: Network | None = None
    iif: str | None = None
    oif: str | None = None
    mark: tuple[int, int] | None = None
    negated: bool = False
    explicit_family: Family | None = field(default=None, compare=False)

    @property
    def family(self) -> Family:
        network = self.source or self.destination
        if network is not None:
            return 4 if network.version == 4 else 6
        return self.explicit_family or 4

    def numbered(self, priority: int) -> Rule:
        return replace(self, priority=priority)

    def __str__(self) -> str:
        words = ["not"] if self.negated else []
        words += ["from", str(self.source) if self.source else "all"]
        if self.destination:
            words += ["to", str(self.destination)]
        if self.mark:
            words += ["fwmark", f"{self.mark[0]:#x}/{self.mark[1]:#x}"]
        if self.iif:
            words += ["iif", self.iif]
        if self.oif:
            words += ["oif", self.oif]
        words += ["lookup", str(self.table)] if self.action == "lookup" else [self.action]
        if self.priority is not None:
            words += ["priority", str(self.priority)]
        if self.explicit_family == 6 and not (self.source or self.destination):
            words.insert(0, "-6")
        return " ".join(words)


class _Words:
    """The words of one line, taken from the left; what is asked for and not there is a ValueError."""

    def __init__(self, text: str) -> None:
        self._words = text.split()
        self._next = 0

    def peek(self) -> str | None:
        return self._words[self._next] if self._next < len(self._words) else None

    def take(self, what: str) -> str:
        word = self.peek()
        if word is None:
            raise ValueError(f"the line ends where {what} should stand")
        self._next += 1
        return word

    def number(self, what: str) -> int:
        word = self.take(what)
        try:
            return int(word, 0)
        except ValueError:
            raise ValueError(f"{what} {word!r} is not a number") from None

    def address(self, what: str) -> Address:
        word = self.take(what)
        try:
            return ipaddress.ip_address(word)
        except ValueError:
            raise ValueError(f"{what} {word!r} is not an IP address") from None

    def table(self) -> int:
        word = self.take("a table")
        if word in TABLES:
            return TABLES[word]
        if not word.isdecimal() or not 0 < int(word) < 2**32:
            raise ValueError(f"table {word!r} is neither a number nor one of {', '.join(TABLES)}")
        return int(word)


def _network(word: str) -> Network:
    try:
        return ipaddress.ip_network(word)
    except ValueError as error:
        try:
            proper = ipaddress.ip_network(word, strict=False)
        except ValueError:
            raise ValueError(f"{word!r} is not a network (want ADDRESS/LENGTH)") from None
        raise ValueError(f"{word!r} has host bits set: {proper} is the network ({error})") from None


def _nexthop(words: _Words) -> NextHop:
    hop = NextHop()
    while (word := words.peek()) is not None and word in ("via", "dev", "weight", "onlink"):
        words.take(word)
        if word == "via":
            if words.peek() in ("inet", "inet6"):
                words.take("a family")
            hop = replace(hop, via=words.address("the gateway"))
        elif word == "dev":
            hop = replace(hop, dev=words.take("a device"))
        elif word == "weight":
            hop = replace(hop, weight=words.number("weight"))
            if not 1 <= hop.weight <= 256:
                raise ValueError(f"weight {hop.weight} is out of range 1..256")
        else:
            hop = replace(hop, onlink=True)
    return hop


def parse_route(text: str) -> Route:
    """A route from iproute2's words, e.g. `default nexthop via 10.0.0.254 dev eth0 nexthop via 10.0.1.254 dev eth1`.

    Raises ValueError with the word that is wrong.
    """
    words = _Words(text)
    want6 = words.peek() == "-6"
    if words.peek() in ("-4", "-6"):
        words.take("a family")
    kind: Kind = "unicast"
    if (first := words.peek()) in _KINDS:
        kind = _KINDS[words.take("a type")]
    first = words.take("a destination")
    single = NextHop()
    hops: list[NextHop] = []
    options: dict[str, int] = {}
    source: Address | None = None
    scope: Scope | None = None
    protocol = PROTOCOLS["boot"]
    while (word := words.peek()) is not None:
        if word in ("via", "dev", "onlink"):
            part = _nexthop(words)
            single = NextHop(
                via=part.via or single.via, dev=part.dev or single.dev, onlink=part.onlink or single.onlink
            )
            continue
        words.take(word)
        if word == "nexthop":
            hops.append(_nexthop(words))
        elif word == "table":
            options["table"] = words.table()
        elif word in ("metric", "preference", "priority"):
            options["metric"] = words.number("metric")
        elif word == "mtu":
            if words.peek() == "lock":
                words.take("lock")
            options["mtu"] = words.number("mtu")
        elif word == "src":
            source = words.address("the source")
        elif word == "scope":
            name = words.take("a scope")
            scope = next((known for known in SCOPES if known == name), None)
            if scope is None:
                raise ValueError(f"scope {name!r} is not one of {', '.join(SCOPES)}")
        elif word in ("proto", "protocol"):
            name = words.take("a protocol")
            if name not in PROTOCOLS and not name.isdecimal():
                raise ValueError(f"protocol {name!r} is not one of {', '.join(PROTOCOLS)} or a number")
            protocol = PROTOCOLS.get(name) or int(name)
        else:
            raise ValueError(f"{word!r} is not a word of a route")
    if hops and (single.via or single.dev):
        raise ValueError("a route has either `via`/`dev` or `nexthop`s, not both")
    if not hops and (single.via or single.dev):
        hops = [single]
    versions = {hop.via.version for hop in hops if hop.via} | ({source.version} if source else set())
    if first in ("default", "all"):
        version = 6 if want6 or versions == {6} else 4
        destination = ipaddress.ip_network("::/0" if version == 6 else "0.0.0.0/0")
    else:
        destination = _network(first)
    if any(version != destination.version for version in versions):
        raise ValueError(f"{destination} and its gateway or source are of different families")
    if kind in ("unicast", "local") and not hops:
        raise ValueError("the route names neither a gateway (via) nor a device (dev)")
    return Route(
        destination=destination,
        nexthops=tuple(hops),
        kind=kind,
        table=options.get("table", 255 if kind == "local" else 254),
        metric=options.get("metric"),
        source=source,
        scope=scope,
        protocol=protocol,
        mtu=options.get("mtu"),
    )


def parse_rule(text: str) -> Rule:
    """A rule from iproute2's words, e.g. `from 10.244.1.0/24 lookup 100 priority 50`. Raises ValueError."""
    words = _Words(text)
    rule = Rule(table=None)
    while (word := words.peek()) is not None:
        words.take(word)
        if word in ("-4", "-6"):
            rule = replace(rule, explicit_family=6 if word == "-6" else 4)
        elif word == "not":
            rule = replace(rule, negated=True)
        elif word in ("from", "to"):
            prefix = words.take("a prefix")
            network = None if prefix in ("all", "any", "default") else _network(prefix)
            rule = replace(rule, source=network) if word == "from" else replace(rule, destination=network)
        elif word in ("iif", "dev"):
            rule = replace(rule, iif=words.take("a device"))
        elif word == "oif":
            rule = replace(rule, oif=words.take("a device"))
        elif word == "fwmark":
            value, _, mask = words.take("a mark").partition("/")
            try:
                rule = replace(rule, mark=(int(value, 0), int(mask, 0) if mask else 0xFFFFFFFF))
            except ValueError:
                raise ValueError(f"fwmark {value!r} is not VALUE[/MASK]") from None
        elif word in ("priority", "preference", "pref", "order"):
            rule = replace(rule, priority=words.number("priority"))
        elif word in ("lookup", "table"):
            rule = replace(rule, table=words.table(), action="lookup")
        elif word in ("blackhole", "unreachable", "prohibit"):
            action: Literal["blackhole", "unreachable", "prohibit"] = (
                "blackhole" if word == "blackhole" else "unreachable" if word == "unreachable" else "prohibit"
            )
            rule = replace(rule, action=action)
        else:
            raise ValueError(f"{word!r} is not a word of a rule")
    if rule.table is None and rule.action == "lookup":
        raise ValueError("the rule names no table (`lookup TABLE`)")
    if rule.source and rule.destination and rule.source.version != rule.destination.version:
        raise ValueError(f"{rule.source} and {rule.destination} are of different families")
    return rule


def numbered(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules with the priorities the kernel would give them: one before the first that is not `local`'s (fib_rules.c)."""
    found: list[Rule] = []
    for family in (4, 6):
        lowest = 32766
        for rule in rules:
            if rule.family != family:
                continue
            made = rule if rule.priority is not None else rule.numbered(max(lowest - 1, 0))
            assert made.priority is not None
            lowest = min(lowest, made.priority) if made.priority > 0 else lowest
            found.append(made)
    return tuple(found)
