"""Addresses, routes and routing rules: iproute2's words parsed to frozen values, rendered back the same way.

The grammar is the part of ip-route(8) and ip-rule(8) that decides which NIC a packet takes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal, TypeVar, get_args

from niclab.errors import closest

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Family = Literal[4, 6]

FAMILIES: tuple[Family, ...] = (4, 6)
EVERYTHING: dict[Family, Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


def family_of(value: Address | Network) -> Family:
    return 4 if value.version == 4 else 6


def ip_address(word: str) -> Address:
    """An address without a zone: links are named by `dev`. Raises ValueError."""
    if "%" in word:
        raise ValueError(f"{word!r} has a zone")
    return ipaddress.ip_address(word)


def network_of(address: Address) -> Network:
    """The network of one address alone; much quicker than `ipaddress.ip_network`, which reads it as text."""
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv4Network((int(address), 32))
    return ipaddress.IPv6Network((int(address), 128))


def ip_network(word: str) -> Network:
    """A network, told apart from an address inside one. Raises ValueError."""
    try:
        return ipaddress.ip_network(word)
    except ValueError:
        try:
            proper = ipaddress.ip_network(word, strict=False)
        except ValueError:
            raise ValueError(f"{word!r} is not a network (want ADDRESS/LENGTH)") from None
        raise ValueError(f"{word!r} has host bits set: the network is {proper}") from None


def collapsed(networks: Iterable[Network], family: Family) -> tuple[Network, ...]:
    """As few networks of a family as cover the same (pkg/ip CoalesceCIDRs)."""
    mine: Any = [network for network in networks if network.version == family]
    return tuple(ipaddress.collapse_addresses(mine))


@dataclass(frozen=True, slots=True)
class Why:
    """A reason: a stable id, words with `{inputs}` to fill in, and who decides so.

    A packet rule without words is no step of its own: it only stores something for another rule.
    `source` is a file of Cilium with its function, an RFC, or `[kernel]`.
    """

    rule: str
    words: str
    source: str


Kind = Literal["unicast", "local", "blackhole", "unreachable", "prohibit", "throw"]
Scope = Literal["global", "site", "link", "host"]
Refusal = Literal["blackhole", "unreachable", "prohibit"]

_U32 = 2**32 - 1

TABLES = {"local": 255, "main": 254, "default": 253}
PROTOCOLS = {"kernel": 2, "boot": 3, "static": 4, "ra": 9, "bgp": 186}
SCOPES: dict[Scope, int] = {"global": 0, "site": 200, "link": 253, "host": 254}
_KINDS: tuple[Kind, ...] = get_args(Kind)
_REFUSALS: tuple[Refusal, ...] = get_args(Refusal)
_ROUTE_WORDS = ("via", "dev", "onlink", "nexthop", "weight", "table", "metric", "mtu", "src", "scope", "proto")
_RULE_WORDS = ("not", "from", "to", "iif", "oif", "fwmark", "priority", "lookup", *_REFUSALS)
_Word = TypeVar("_Word", bound=str)


@dataclass(frozen=True, slots=True)
class NextHop:
    """One way out of a route: a gateway, a device, or both. `weight` counts from 1, as in iproute2."""

    via: Address | None = None
    dev: str | None = None
    weight: int = 1
    onlink: bool = False

    def words(self, family: Family | None = None) -> str:
        """`family`: the route's; a gateway of the other is written with its own (RFC 5549: `via inet6 fe80::1`)."""
        other = self.via is not None and family not in (None, self.via.version)
        via = f"via {'inet6 ' if other else ''}{self.via}" if self.via else ""
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
    why: Why | None = field(default=None, compare=False, repr=False)
    """Why the route is there, where that is more than the topology's or the kernel's own routing."""

    @property
    def family(self) -> Family:
        return family_of(self.destination)

    @property
    def devices(self) -> frozenset[str]:
        return frozenset(hop.dev for hop in self.nexthops if hop.dev)

    @property
    def key(self) -> tuple[Network, int, int]:
        """What no two routes of a host share. IPv6 too: the kernel refuses a second hop unless it is appended."""
        return self.destination, self.table, self.effective_metric

    @property
    def is_default(self) -> bool:
        return self.destination.prefixlen == 0

    @property
    def effective_metric(self) -> int:
        # IPv6 takes 0 for "not given" (net/ipv6/route.c: IP6_RT_PRIO_USER).
        return self.metric or (0 if self.family == 4 else 1024)

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
        words: list[str] = [] if self.kind == "unicast" else [self.kind]
        words.append("default" if self.is_default else str(self.destination))
        if self.encap:
            words.append(self.encap.words())
        if len(self.nexthops) == 1:
            words.append(self.nexthops[0].words(self.family))
        if self.table != _default_table(self.kind):
            words.append(f"table {self.table}")
        if self.protocol != PROTOCOLS["boot"]:
            name = next((name for name, number in PROTOCOLS.items() if number == self.protocol), str(self.protocol))
            words.append(f"proto {name}")
        options = {"scope": self.scope, "src": self.source, "metric": self.metric, "mtu": self.mtu}
        words += [f"{word} {value}" for word, value in options.items() if value is not None]
        if len(self.nexthops) > 1:
            words += [f"nexthop {hop.words(self.family)} weight {hop.weight}" for hop in self.nexthops]
        if self.family == 6 and self.is_default and not any(hop.via for hop in self.nexthops):
            words.insert(0, "-6")  # an IPv4 default route by an IPv6 gateway says `inet6`
        return " ".join(words)


def _default_table(kind: Kind) -> int:
    return TABLES["local"] if kind == "local" else TABLES["main"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy-routing rule (fib_rules(7)); `priority` None lets the kernel choose the one before the first."""

    table: int | None = 254
    action: Literal["lookup"] | Refusal = "lookup"
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
            return family_of(network)
        return self.explicit_family or 4

    def __str__(self) -> str:
        words = ["not"] if self.negated else []
        words += ["from", str(self.source) if self.source else "all"]
        if self.destination:
            words += ["to", str(self.destination)]
        if self.mark:
            words += ["fwmark", f"{self.mark[0]:#x}/{self.mark[1]:#x}"]
        words += [f"{word} {device}" for word, device in (("iif", self.iif), ("oif", self.oif)) if device]
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
        self.other: set[Address] = set()
        """Gateways that are said to be IPv6 ones: the route may be an IPv4 one."""

    def peek(self) -> str | None:
        return self._words[self._next] if self._next < len(self._words) else None

    def take(self, what: str) -> str:
        word = self.peek()
        if word is None:
            raise ValueError(f"the line ends where {what} should stand")
        self._next += 1
        return word

    def taken(self, *choices: _Word) -> _Word | None:
        """The next word, taken, if it is one of these."""
        chosen = next((choice for choice in choices if choice == self.peek()), None)
        self._next += chosen is not None
        return chosen

    def family(self) -> Family | None:
        """`-4` or `-6`, where iproute2 has it: in front."""
        word = self.taken("-4", "-6")
        return None if word is None else 6 if word == "-6" else 4

    def number(self, what: str, low: int, high: int) -> int:
        word = self.take(what)
        try:
            number = int(word, 0)
        except ValueError:
            raise ValueError(f"{what} {word!r} is not a number") from None
        if not low <= number <= high:
            raise ValueError(f"{what} {number} is out of range {low}..{high}")
        return number

    def address(self, what: str) -> Address:
        word = self.take(what)
        try:
            return ip_address(word)
        except ValueError:
            raise ValueError(f"{what} {word!r} is not an IP address") from None

    def numbered(self, what: str, known: Mapping[str, int], high: int) -> int:
        """A name of a table such as iproute2's rt_tables, or a number."""
        word = self.take(f"a {what}")
        if word in known:
            return known[word]
        if not (word.isascii() and word.isdecimal()) or len(word) > 10 or int(word) > high:
            raise ValueError(f"{what} {word!r} is neither a number nor one of {', '.join(known)}")
        return int(word)

    def table(self) -> int:
        number = self.numbered("table", TABLES, _U32)
        if number == 0:
            raise ValueError("table 0 stands for no table")
        return number

    def scope(self) -> Scope:
        scope = self.taken(*SCOPES)
        if scope is None:
            raise ValueError(f"scope {self.take('a scope')!r} is not one of {', '.join(SCOPES)}")
        return scope

    def mtu(self) -> int:
        self.taken("lock")
        return self.number("mtu", 68, 65535)

    def gateway(self) -> Address:
        family = self.taken("inet", "inet6")
        gateway = self.address("the gateway")
        if family == "inet6":
            self.other.add(gateway)
        if family is not None and gateway.version != (6 if family == "inet6" else 4):
            raise ValueError(f"the gateway {gateway} is no {family} address")
        return gateway

    def mark(self) -> tuple[int, int]:
        word = self.take("a mark")
        value, _, mask = word.partition("/")
        try:
            mark = int(value, 0), int(mask, 0) if mask else _U32
        except ValueError:
            mark = (-1, 0)
        if not all(0 <= part <= _U32 for part in mark):
            raise ValueError(f"fwmark {word!r} is not VALUE[/MASK], each of 32 bits")
        return mark


_Fields = dict[str, Any]
_Reader = Callable[[_Words], _Fields]
"""What follows a word, as fields of the value that is read."""

_HOP: Mapping[str, _Reader] = {
    "via": lambda words: {"via": words.gateway()},
    "dev": lambda words: {"dev": words.take("a device")},
    "onlink": lambda _: {"onlink": True},
    "weight": lambda words: {"weight": words.number("weight", 1, 256)},
}
_ROUTE: Mapping[str, _Reader] = {
    "table": lambda words: {"table": words.table()},
    **dict.fromkeys(("metric", "preference", "priority"), lambda words: {"metric": words.number("metric", 0, _U32)}),
    "mtu": lambda words: {"mtu": words.mtu()},
    "src": lambda words: {"source": words.address("the source")},
    "scope": lambda words: {"scope": words.scope()},
    **dict.fromkeys(("proto", "protocol"), lambda words: {"protocol": words.numbered("protocol", PROTOCOLS, 255)}),
}
_RULE: Mapping[str, _Reader] = {
    "not": lambda _: {"negated": True},
    **dict.fromkeys(("iif", "dev"), lambda words: {"iif": words.take("a device")}),
    "oif": lambda words: {"oif": words.take("a device")},
    "fwmark": lambda words: {"mark": words.mark()},
    **dict.fromkeys(
        ("priority", "preference", "pref", "order"), lambda words: {"priority": words.number("priority", 0, _U32)}
    ),
    **dict.fromkeys(("lookup", "table"), lambda words: {"table": words.table(), "action": "lookup"}),
}


def parse_route(text: str) -> Route:
    """A route from iproute2's words, e.g. `default nexthop via 10.0.0.254 dev eth0 nexthop via 10.0.1.254 dev eth1`.

    Raises ValueError with the word that is wrong.
    """
    words = _Words(text)
    family = words.family()
    kind = words.taken(*_KINDS) or "unicast"
    to = words.take("a destination")
    values = {"kind": kind, "table": _default_table(kind), **_route_options(words)}
    given = [*(hop.via for hop in values["nexthops"]), values.get("source")]
    # [kernel] RTA_VIA: an IPv4 route may have an IPv6 gateway; `default via inet6 …` is IPv4's.
    versions = {address.version for address in given if address and address not in words.other}
    if to in ("default", "all", "any"):
        inferred: Family = 6 if versions == {6} else 4
        destination = EVERYTHING[family or inferred]
    else:
        destination = ip_network(to)
    route = Route(destination, **values)
    if versions - {route.family} or (
        route.family == 6 and any(hop.via and hop.via.version == 4 for hop in route.nexthops)
    ):
        raise ValueError(f"{destination} and its gateway or source are of different families")
    if family not in (None, route.family):
        raise ValueError(f"-{family} and {destination} are of different families")
    if why := _contradiction(route):
        raise ValueError(why)
    return route


def _route_options(words: _Words) -> _Fields:
    """What follows a route's destination: its hops, and every other field that is given."""
    values: _Fields = {}
    single: _Fields = {}
    hops: list[NextHop] = []
    seen: set[str] = set()
    while (word := words.peek()) is not None:
        if word in seen and word != "nexthop":
            raise ValueError(f"{word!r} is there twice")
        seen.add(words.take(word))
        if word == "nexthop":
            hops.append(_nexthop(words))
        elif word in _HOP and word != "weight":
            single |= _HOP[word](words)
        elif word in _ROUTE:
            values |= _ROUTE[word](words)
        else:
            raise ValueError(f"{word!r} is not a word of a route{_meant(word, _ROUTE_WORDS)}")
    if hops and single:
        raise ValueError("a route has either `via`/`dev` or `nexthop`s, not both")
    return {**values, "nexthops": (NextHop(**single),) if single else tuple(hops)}


def _nexthop(words: _Words) -> NextHop:
    values: _Fields = {}
    while (word := words.taken(*_HOP)) is not None:
        values |= _HOP[word](words)
    return NextHop(**values)


def _contradiction(route: Route) -> str | None:
    """Why no kernel takes this route, whatever the host."""
    if route.kind not in ("unicast", "local"):
        return f"a {route.kind} route has neither a gateway nor a device" if route.nexthops else None
    if not route.nexthops:
        return "the route names neither a gateway (via) nor a device (dev)"
    for hop in route.nexthops:
        if not hop.via and not hop.dev:
            return "a nexthop names neither a gateway (via) nor a device (dev)"
        if hop.onlink and not (hop.via and hop.dev):
            return "`onlink` needs both a gateway (via) and a device (dev)"
        if hop.via and hop.via.is_link_local and hop.via.version == 6 and not hop.dev:
            return f"the link-local gateway {hop.via} needs a device (dev)"
    if route.family == 6:
        bare = len(route.nexthops) > 1 and any(hop.via is None for hop in route.nexthops)
        return "every nexthop of an IPv6 route has a gateway (via)" if bare else None
    if route.kind == "local" and route.scope not in (None, "host"):
        return f"a local route has scope host, not {route.scope}"
    if route.effective_scope in ("link", "host") and any(hop.via for hop in route.nexthops):
        return f"a route of scope {route.effective_scope} has no gateway"
    if route.effective_scope == "host" and len(route.nexthops) > 1:
        return "a route of scope host has one hop"
    return None


def parse_rule(text: str) -> Rule:
    """A rule from iproute2's words, e.g. `from 10.244.1.0/24 lookup 100 priority 50`. Raises ValueError."""
    words = _Words(text)
    values: _Fields = {"table": None, "explicit_family": words.family()}
    networks: list[Network] = []
    seen: set[str] = set()
    while (word := words.peek()) is not None:
        if words.take(word) in seen:
            raise ValueError(f"{word!r} is there twice")
        seen.add(word)
        if word in ("from", "to"):
            prefix = words.take("a prefix")
            if prefix in ("all", "any", "default"):
                continue
            networks.append(network := ip_network(prefix))
            if network.prefixlen == 0:  # all of one family
                values["explicit_family"] = values["explicit_family"] or family_of(network)
            else:
                values["source" if word == "from" else "destination"] = network
        elif word in _REFUSALS:
            values["action"] = word
        elif word in _RULE:
            values |= _RULE[word](words)
        else:
            raise ValueError(f"{word!r} is not a word of a rule{_meant(word, _RULE_WORDS)}")
    rule = Rule(**values)
    if rule.table is None and rule.action == "lookup":
        raise ValueError("the rule names no table (`lookup TABLE`)")
    if rule.table is not None and rule.action != "lookup":
        raise ValueError(f"a rule that says {rule.action} looks up no table")
    if len({network.version for network in networks}) > 1:
        raise ValueError(f"{networks[0]} and {networks[1]} are of different families")
    if networks and rule.explicit_family not in (None, networks[0].version):
        raise ValueError(f"-{rule.explicit_family} and {networks[0]} are of different families")
    return rule


def _meant(word: str, known: tuple[str, ...]) -> str:
    close = closest(word, known)
    return f" (did you mean {close!r}?)" if close else ""


def numbered(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules with the priorities the kernel would give them: one before the second of its list (fib_rules.c).

    The first is `local`'s, at 0; a rule at 0 comes after it, and is then the second.
    """
    lowest: dict[Family, int] = {4: 32766, 6: 32766}
    with_priorities: list[Rule] = []
    for rule in rules:
        priority = rule.priority if rule.priority is not None else max(lowest[rule.family] - 1, 0)
        lowest[rule.family] = min(lowest[rule.family], priority)
        with_priorities.append(replace(rule, priority=priority))
    return tuple(with_priorities)
