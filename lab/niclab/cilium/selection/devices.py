"""Which devices an agent selects, and why (pkg/datapath/linux/devices_controller.go isSelectedDevice). Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from niclab.cilium.selection.links import (
    IFF_LOOPBACK,
    IFF_SLAVE,
    IFF_UP,
    Link,
    LinkAddress,
    RouteRow,
    has_default_route,
    has_global_route,
    rows_of,
)
from niclab.cilium.version import Version
from niclab.errors import closest
from niclab.net.route import Route
from niclab.settings import NodeView

SOURCE = "pkg/datapath/linux/devices_controller.go isSelectedDevice"


class Rule(StrEnum):
    """What decides about a device; the value is a stable name for reports."""

    LINK_NOT_SEEN = "link-not-seen"
    NO_ADDRESSES = "no-addresses"
    NOT_UP = "not-up"
    LISTED = "listed"
    EXCLUDED_BY_LIST = "excluded-by-list"
    NOT_LISTED = "not-listed"
    EXCLUDED_FLAG = "excluded-flag"
    PARENT_NOT_FOUND = "parent-not-found"
    BRIDGED_OR_BONDED = "bridged-or-bonded"
    EXCLUDED_PREFIX = "excluded-prefix"
    VETH_WITHOUT_DEFAULT_ROUTE = "veth-without-default-route"
    BRIDGE_LIKE = "bridge-like"
    IPOIB = "ipoib"
    NO_GLOBAL_ROUTE = "no-global-route"
    DETECTED = "detected"

    def number(self, version: Version) -> int:
        """Its place in the version's order, from 1. Rules that come out of one test share a number."""
        return next(place for place, rules in enumerate(order(version), 1) if self in rules)

    @property
    def source(self) -> str:
        """The Cilium file and function that has it."""
        return SOURCE + _SOURCES.get(self, "")


_SOURCES = {
    **dict.fromkeys(
        (Rule.LISTED, Rule.EXCLUDED_BY_LIST, Rule.NOT_LISTED), "; pkg/datapath/tables/device.go DeviceFilter.Match"
    ),
    Rule.EXCLUDED_PREFIX: "; pkg/defaults/node.go ExcludedDevicePrefixes",
    Rule.VETH_WITHOUT_DEFAULT_ROUTE: "; pkg/datapath/tables/route.go HasDefaultRoute",
    Rule.NO_GLOBAL_ROUTE: ", hasGlobalRoute",
}
_USABLE = ((Rule.NO_ADDRESSES,), (Rule.NOT_UP,))
_LIST = ((Rule.LISTED, Rule.EXCLUDED_BY_LIST, Rule.NOT_LISTED),)
_DETECTION = (
    (Rule.EXCLUDED_FLAG,),
    (Rule.BRIDGED_OR_BONDED, Rule.PARENT_NOT_FOUND),
    (Rule.EXCLUDED_PREFIX,),
    (Rule.VETH_WITHOUT_DEFAULT_ROUTE,),
    (Rule.BRIDGE_LIKE, Rule.IPOIB),
    (Rule.NO_GLOBAL_ROUTE,),
    (Rule.DETECTED,),
)


def order(version: Version) -> tuple[tuple[Rule, ...], ...]:
    """The tests of one version in their order; the first that applies decides.

    From 1.19 on the user's list comes before the address and UP tests (6d5900a0d7, PR #41837). Up to 1.17 there is one
    more, before the prefixes, that no kernel from 5.8 on can fail ("L3 device, kernel too old"): it is left out.
    """
    first = (*_LIST, *_USABLE) if version.has("list-before-state") else (*_USABLE, *_LIST)
    return ((Rule.LINK_NOT_SEEN,), *first, *_DETECTION)


def matches(entry: str, name: str) -> bool:
    """Does one entry of `devices` name this interface? `eth+` is a prefix, else the whole name.

    All `+` at the end go (strings.TrimRight): `eth++` is `eth+`. iptables takes the last one only (`packetrules`).
    """
    return name.startswith(entry.rstrip("+")) if entry.endswith("+") else name == entry


@dataclass(frozen=True, slots=True)
class Match:
    """An entry of the list, and what it says of the interface: `excluded` for `!entry`."""

    entry: str
    excluded: bool = False


def first_match(entries: Sequence[str], names: Iterable[str], version: Version) -> Match | None:
    """The entry that decides about an interface with these names; the first one in the order of the list wins.

    `!entry` excludes from 1.19 on (31748fcda0, PR #40152); before, it names an interface that nobody has. Alternative
    names count from 1.20 on, each one only when no earlier name is in the list (a0fa9ffaf9).
    """
    own, *alternatives = names
    for name in (own, *(alternatives if version.has("alternative-names") else ())):
        for entry in entries:
            excluded = entry.startswith("!") and version.has("list-excludes")
            if matches(entry[1:] if excluded else entry, name):
                return Match(entry, excluded)
    return None


_WILDCARD = re.compile(r"[][*?^$|\\\\(){}]|\.[*+]")
"""What is of a glob or a regular expression, in no name of a NIC, and means nothing in `devices`."""


def unmatched(nodes: Mapping[str, tuple[NodeView, Collection[str]]], version: Version) -> Iterator[str]:
    """Entries of `devices` that name no NIC of any node, with what would, and nodes none of whose NICs is named.

    `nodes`: each one's settings and the names of its NICs and links. Cilium's own devices count as there.
    """
    lists = {node: view.devices for node, (view, _) in nodes.items() if view.devices}
    for entry in dict.fromkeys(entry for entries in lists.values() for entry in entries):
        those = [node for node, entries in lists.items() if entry in entries]
        names = {name: None for node in those for name in nodes[node][1]}
        plain = entry.removeprefix("!") if version.has("list-excludes") else entry
        if not plain.startswith("cilium_") and not any(matches(plain, name) for name in names):
            where = those[0] if len(those) == 1 else f"any of {len(those)} nodes"
            hint = _meant(entry, [*names])
            shown = entry if entry.isascii() and entry.isprintable() and entry.strip() == entry else ascii(entry)
            yield f"devices: {shown} matches no NIC of {where} ({', '.join(names)})" + (f": {hint}" if hint else "")
            lists = {node: tuple(each for each in entries if each != entry) for node, entries in lists.items()}
    for node, entries in lists.items():
        named = [name for name in nodes[node][1] if first_match(entries, (name,), version)]
        if entries and not named:
            yield f"devices: none of {', '.join(entries)} is a NIC of {node} ({', '.join(nodes[node][1])})"


def _meant(entry: str, names: Sequence[str]) -> str:
    """What may be meant by an entry of `devices` that names no NIC."""
    if entry.startswith("!"):
        return "`!` excludes from 1.19 on" if any(matches(entry[1:], name) for name in names) else ""
    hidden = [char for char in entry if not char.isprintable() or not char.isascii()]
    if hidden:
        return f"there is a hidden U+{ord(hidden[0]):04X} in it: write it anew"
    if len(several := entry.split()) > 1:
        return f"a list has commas or blanks, not both: write {','.join(several)}"
    if (bare := entry.strip("{}[]\"' ")) in names:
        return f"write {bare}"
    if _WILDCARD.search(entry):
        head = re.sub(r"\\.[*+]$", "", _WILDCARD.split(entry.lstrip("^("))[0])
        begins = [name for name in names if head and name.startswith(head)]
        return f"it is neither glob nor regular expression: write {head}+" if begins else "write a prefix, as eth+"
    folded = {name.lower(): name for name in names}
    same = folded.get(entry.lower()) or folded.get(entry.lower().rstrip("+"))
    # Of eth9 nobody knows which one is meant: the names are said already.
    others = [name for name in names if name.rstrip("0123456789") != entry.rstrip("0123456789+")]
    near = same or closest(entry.rstrip("+"), others)
    return f"did you mean {near}?" if near else ""


EXCLUDED_PREFIXES = ("cilium_", "lo", "lxc", "cni", "docker")
"""pkg/defaults/node.go ExcludedDevicePrefixes. `lowan0` is excluded too: a prefix, not a name."""

_EXCLUDED_FLAGS = IFF_SLAVE | IFF_LOOPBACK


@dataclass(frozen=True, slots=True)
class Device:
    """What Cilium decided about one interface, and the rule that decided.

    `reason` is the agent's NotSelectedReason word by word where it has one: it has none for a selected device,
    nor for one that a `!` excludes.
    """

    name: str
    selected: bool
    reason: str
    rule: Rule
    number: int
    """The rule's place in the version's order."""

    @property
    def source(self) -> str:
        """Where Cilium has the rule: file and function."""
        return self.rule.source

    @property
    def not_selected_reason(self) -> str:
        """The column NotSelectedReason of the agent's table `devices`."""
        return "" if self.selected or self.rule is Rule.EXCLUDED_BY_LIST else self.reason


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user wants: `devices` and `force-device-detection`, read by one version."""

    entries: tuple[str, ...]
    forced: bool
    version: Version

    @classmethod
    def of(cls, settings: NodeView, version: Version) -> Choice:
        return cls(settings.devices, settings.force_device_detection, version)

    def __str__(self) -> str:
        return f"[{' '.join(self.entries)}]"


def select(links: Iterable[Link], routes: Sequence[Route], settings: NodeView, version: Version) -> tuple[Device, ...]:
    """Every interface with Cilium's decision about it, in the order of their indices."""
    seen = [
        replace(link, addresses=usable(link.addresses, version)) for link in sorted(links, key=lambda link: link.index)
    ]
    by_index = {link.index: link for link in seen}
    rows = rows_of(routes, seen)
    choice = Choice.of(settings, version)
    return tuple(decide(link, rows, by_index, choice) for link in seen)


def usable(addresses: Iterable[LinkAddress], version: Version) -> tuple[LinkAddress, ...]:
    """Those that enter the table: from 1.20 on none that is tentative or failed its DAD (48f843a8c2)."""
    every = tuple(addresses)
    if not version.has("usable-addresses"):
        return every
    return tuple(address for address in every if not (address.tentative or address.dadfailed))


def decide(link: Link, rows: Collection[RouteRow], known: Mapping[int, Link], choice: Choice) -> Device:
    """The first test that applies decides (see `order`). `known`: index → interface, for the parent's kind."""
    rule, reason = _first(link, rows, known, choice)
    selected = rule in (Rule.LISTED, Rule.DETECTED)
    return Device(link.name, selected, reason, rule, rule.number(choice.version))


_Verdict = tuple[Rule, str]


def _first(link: Link, rows: Collection[RouteRow], known: Mapping[int, Link], choice: Choice) -> _Verdict:
    if not link.name:
        return Rule.LINK_NOT_SEEN, "link not seen yet"
    tests = (_unusable(link), _chosen(link, choice))
    for decided in reversed(tests) if choice.version.has("list-before-state") else tests:
        if decided is not None:
            return decided
    flags = link.raw_flags
    if flags & _EXCLUDED_FLAGS:
        return Rule.EXCLUDED_FLAG, f"excluded flag set (mask={_EXCLUDED_FLAGS:#x}, flags={flags:#x})"
    if (decided := _enslaved(link, known, choice.version)) is not None:
        return decided
    for prefix in EXCLUDED_PREFIXES:
        if link.name.startswith(prefix):
            return Rule.EXCLUDED_PREFIX, f'excluded prefix "{prefix}"'
    match link.kind:
        case "veth" if not choice.entries and not has_default_route(link.index, rows):
            return Rule.VETH_WITHOUT_DEFAULT_ROUTE, "veth without default route"
        case "bridge" | "openvswitch":
            return Rule.BRIDGE_LIKE, "bridge-like device, use --devices to override"
        case "ipoib":
            return Rule.IPOIB, "IPoIB device, use --devices to override"
    if not has_global_route(link.index, rows):
        return Rule.NO_GLOBAL_ROUTE, "no global unicast routes"
    return Rule.DETECTED, "auto-detected: up, with an address and a global unicast route"


def _unusable(link: Link) -> _Verdict | None:
    if not link.addresses:
        return Rule.NO_ADDRESSES, "device has no addresses"
    if not link.raw_flags & IFF_UP:
        return Rule.NOT_UP, f"missing required flag (mask={IFF_UP:#x}, flags={link.raw_flags:#x})"
    return None


def _chosen(link: Link, choice: Choice) -> _Verdict | None:
    match = first_match(choice.entries, (link.name, *link.altnames), choice.version)
    if match is None:
        # Only force-device-detection adds auto-detection to a list; there is no falling back to it.
        unlisted = choice.entries and not choice.forced
        return (Rule.NOT_LISTED, f"not matching user filter {choice}") if unlisted else None
    if match.excluded:
        return Rule.EXCLUDED_BY_LIST, f"excluded by {match.entry} of devices {choice}"
    return Rule.LISTED, f"matches devices {choice}"


def _enslaved(link: Link, known: Mapping[int, Link], version: Version) -> _Verdict | None:
    """A device with a parent is out; from 1.20 on one in a VRF is not (bac08dfb5c)."""
    parent = known.get(link.master)
    if link.master and version.has("vrf-ports"):
        if parent is None:
            return Rule.PARENT_NOT_FOUND, f"device has parent but parent device could not be found: {link.master}"
        if parent.kind == "vrf":
            return None
    return (Rule.BRIDGED_OR_BONDED, f"bridged or bonded to ifindex {link.master}") if link.master else None
