"""What a host does to the packets that pass it: marks, drops and address translation, as frozen data. Pure.

The built-in datapath renders these rules as nftables (`ruleset`), and prediction walks packets through the
very same ones: there is no second account of what is masqueraded. They mean what netfilter means by them [kernel]:

* at each hook the filter rules come first, in order; marks and rewriting go on to the next rule, `Accept` and `Drop`
  end the hook's filter rules;
* then the translation rules, in order, the first match wins: only the first packet of a connection meets them, whether
  a rule matches or not; every later packet is translated as the first was, replies the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from niclab.net.route import FAMILIES, Address, Family, Network, Why, family_of

Hook = Literal["prerouting", "input", "forward", "output", "postrouting", "leaving"]
Protocol = Literal["icmp", "tcp", "udp"]
Direction = Literal["original", "reply"]

HOOKS: tuple[Hook, ...] = ("prerouting", "input", "forward", "output", "postrouting", "leaving")
"""`leaving` is postrouting once more, after translation: filter rules that see the packet as it will be."""
EVERY_BIT = 0xFFFFFFFF


def prefix_of(entry: str) -> str | None:
    """`eth+` stands for every interface whose name begins with `eth`; None for an entry that is one name.

    This is iptables' rule: only the last `+` is taken off, so `eth++` stands for names that begin with `eth+`. The list
    `devices` is read by Cilium itself, which takes off all of them: see `niclab.cilium.selection.devices.matches`.
    """
    return entry[:-1] if entry.endswith("+") else None


@dataclass(frozen=True, slots=True)
class Devices:
    """Interfaces by name, or by the beginning of their names (`eth+`). `negated`: every other one."""

    names: tuple[str, ...]
    negated: bool = False

    def include(self, name: str | None) -> bool:
        named = name is not None and any(
            name == entry if (prefix := prefix_of(entry)) is None else name.startswith(prefix) for entry in self.names
        )
        return named != self.negated


@dataclass(frozen=True, slots=True)
class Mark:
    """What a packet's or a connection's mark must be under a mask. `negated`: anything else."""

    value: int
    mask: int = EVERY_BIT
    negated: bool = False

    def fits(self, mark: int) -> bool:
        return (mark & self.mask == self.value) != self.negated


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as rules see it. `answer`: an echo reply or a SYN-ACK, with which no connection begins [kernel].

    The ports of ICMP are its id, twice, so that a reply is the request with its ends exchanged. `note`: what one node
    wrote into its header for the next, as Cilium does with an IP option; 0 for nothing.
    """

    source: Address
    destination: Address
    protocol: Protocol = "icmp"
    source_port: int = 0
    port: int = 0
    answer: bool = False
    mark: int = 0
    note: int = 0

    @property
    def family(self) -> Family:
        return family_of(self.destination)


@dataclass(frozen=True, slots=True)
class Match:
    """Which packets a rule is for: every field that is set must hold, the others do not matter.

    `port` is the destination's, and needs a protocol. `local`: the destination is, or is not, an address of the host.
    `translated`: an address of the packet's connection has been, or has not been, replaced already. `route`: where the
    FIB would send the packet as it is, asked before routing, and as if the host itself had made it [kernel] nft_fib.
    """

    iif: Devices | None = None
    oif: Devices | None = None
    sources: tuple[Network, ...] = ()
    not_sources: tuple[Network, ...] = ()
    destinations: tuple[Network, ...] = ()
    not_destinations: tuple[Network, ...] = ()
    protocol: Protocol | None = None
    port: int | None = None
    local: bool | None = None
    mark: Mark | None = None
    connection_mark: Mark | None = None
    translated: bool | None = None
    direction: Direction | None = None
    note: int | None = None
    route: Devices | None = None


@dataclass(frozen=True, slots=True)
class Snat:
    """Replace the source's address; answers get it back."""

    address: Address


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Replace the source with an address of the interface that the packet leaves by, as the kernel chooses it."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a packet is sent instead; without a port the packet keeps its own."""

    address: Address
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Dnat:
    """Replace the destination; among several backends a hash of the client's address and port chooses, or of the
    address alone: then each client has one.
    """

    backends: tuple[Backend, ...]
    by_client: bool = False


@dataclass(frozen=True, slots=True)
class Exempt:
    """Leave the connection's addresses alone at this hook: no later translation rule is asked."""


@dataclass(frozen=True, slots=True)
class SetMark:
    """Write the bits of the packet's mark that the mask names."""

    value: int
    mask: int = EVERY_BIT


@dataclass(frozen=True, slots=True)
class SetConnectionMark:
    """Write the mark that stays with the connection."""

    value: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Replace the source or destination of this packet alone, whatever its connection is; or the note in its header.

    A port needs a match for its protocol. A note has 16 bits, and 0 takes one away.
    """

    source: Address | None = None
    destination: Address | None = None
    source_port: int | None = None
    note: int | None = None


@dataclass(frozen=True, slots=True)
class Accept:
    """Ask no later filter rule of this hook."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The packet ends here. `reason`: words for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """The packet ends here, and its sender gets an ICMP port unreachable. `reason`: words for people."""

    reason: str


Translation = Snat | Masquerade | Dnat | Exempt
Filter = SetMark | SetConnectionMark | Rewrite | Accept | Drop | Reject
Action = Translation | Filter
TRANSLATIONS = (Snat, Masquerade, Dnat, Exempt)


@dataclass(frozen=True, slots=True)
class PacketRule:
    """At a hook, what happens to packets that match, and why. `family` None stands for both."""

    hook: Hook
    match: Match
    action: Action
    why: Why = field(compare=False)
    family: Family | None = None

    @property
    def translates(self) -> bool:
        return isinstance(self.action, TRANSLATIONS)

    def applies_to(self, family: Family) -> bool:
        return self.family in (None, family)


@dataclass(frozen=True, slots=True)
class Passing:
    """A packet at a hook: between which interfaces it is, and what its connection says."""

    packet: Packet
    iif: str | None = None
    oif: str | None = None
    local: bool = False
    connection_mark: int = 0
    translated: bool = False
    direction: Direction = "original"
    route: str | None = None


def matches(match: Match, passing: Passing) -> bool:
    packet = passing.packet
    return (
        (match.oif is None or match.oif.include(passing.oif))
        and (match.iif is None or match.iif.include(passing.iif))
        and (not match.sources or _inside(packet.source, match.sources))
        and (not match.destinations or _inside(packet.destination, match.destinations))
        and not _inside(packet.source, match.not_sources)
        and not _inside(packet.destination, match.not_destinations)
        and match.protocol in (None, packet.protocol)
        and match.port in (None, packet.port)
        and match.local in (None, passing.local)
        and (match.mark is None or match.mark.fits(packet.mark))
        and (match.connection_mark is None or match.connection_mark.fits(passing.connection_mark))
        and match.translated in (None, passing.translated)
        and match.direction in (None, passing.direction)
        and match.note in (None, packet.note)
        and (match.route is None or match.route.include(passing.route))
    )


def _inside(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def translation(rules: Sequence[PacketRule], hook: Hook, passing: Passing) -> PacketRule | None:
    """The translation rule that decides for a new connection at a hook, or None."""
    family = passing.packet.family
    for rule in rules:
        if rule.hook == hook and rule.translates and rule.applies_to(family) and matches(rule.match, passing):
            return rule
    return None


_CHAINS: Mapping[Hook, tuple[str, str, str | None]] = {
    "prerouting": ("filter", "prerouting priority mangle", "prerouting priority dstnat"),
    "input": ("filter", "input priority mangle", "input priority srcnat"),
    "forward": ("filter", "forward priority mangle", None),
    # Marks set by `route` chains send locally made packets to the routing table again.
    "output": ("route", "output priority mangle", "output priority -100"),
    "postrouting": ("filter", "postrouting priority mangle", "postrouting priority srcnat"),
    "leaving": ("filter", "postrouting priority srcnat + 10", None),
}
"""Hook → the type of the chain of its filter rules, where that is, and where its translation rules are, if any."""
_IP: Mapping[Family, str] = {4: "ip", 6: "ip6"}
_NOTE: Mapping[Family, str] = {4: "ip id", 6: "ip6 flowlabel"}
"""Where a note is written: fields that no other packet of the lab has a use for."""
_NOTED = 0x3F
"""The DSCP of packets with a note; it leaves the two bits of ECN alone."""


@dataclass(frozen=True, slots=True)
class FrameFilter:
    """On an interface, frames with a VLAN tag are dropped as they come in unless their tag is listed; `out`: as they
    leave, too."""

    device: str
    tags: tuple[int, ...]
    out: bool

    @property
    def chains(self) -> Iterator[str]:
        tags = _set(["0", *map(str, self.tags)])
        for hook in ("ingress", *(("egress",) if self.out else ())):
            head = f'type filter hook {hook} device "{self.device}" priority filter; policy accept;'
            yield f"  chain {hook}_{self.device} {{\n    {head}\n    vlan id != {tags} drop\n  }}"


CLEAR_FRAMES = "table netdev niclab\ndelete table netdev niclab\n"
CLEAR = "".join(f"table {family} niclab\ndelete table {family} niclab\n" for family in ("ip", "ip6"))
"""Takes both tables away, whether they are there or not."""


def ruleset(rules: Sequence[PacketRule]) -> str:
    """What `nft -f` takes; empty without rules. Raises ValueError for a translation where there is none (`forward`)."""
    return "\n".join(table for family in FAMILIES if (table := _table(rules, family)))


def frame_rules(filters: Iterable[FrameFilter]) -> str:
    """What `nft -f` takes. [kernel] `vlan id` is a tag that a NIC took off, too; the egress hook is of 5.16."""
    chains = [chain for each in filters for chain in each.chains]
    return "\n".join(["table netdev niclab {", *chains, "}", ""]) if chains else ""


def _table(rules: Sequence[PacketRule], family: Family) -> str:
    chains = []
    for hook in HOOKS:
        for translates in (False, True):
            mine = [r for r in rules if r.hook == hook and r.translates == translates and r.applies_to(family)]
            if mine:
                chains.append(_chain(hook, translates, mine, family))
    if not chains:
        return ""
    return "\n".join([f"table {_IP[family]} niclab {{", *chains, "}", ""])


def _chain(hook: Hook, translates: bool, rules: Sequence[PacketRule], family: Family) -> str:
    kind, filtering, translating = _CHAINS[hook]
    if translates and translating is None:
        raise ValueError(f"nothing is translated at {hook}")
    lines = "\n".join(f"    {' '.join((*_match(rule.match, family), _action(rule, family)))}" for rule in rules)
    name, head = ("nat", f"nat hook {translating}") if translates else ("filter", f"{kind} hook {filtering}")
    return f"  chain {hook}_{name} {{\n    type {head}; policy accept;\n{lines}\n  }}"


def _match(match: Match, family: Family) -> Iterator[str]:
    ip = _IP[family]
    if match.iif:
        yield f"iifname {_devices(match.iif)}"
    if match.oif:
        yield f"oifname {_devices(match.oif)}"
    for side, networks, sign in (
        ("saddr", match.sources, ""),
        ("saddr", match.not_sources, "!= "),
        ("daddr", match.destinations, ""),
        ("daddr", match.not_destinations, "!= "),
    ):
        if networks:
            yield f"{ip} {side} {sign}{_networks(networks)}"
    if match.local is not None:
        yield f"fib daddr type {'' if match.local else '!= '}local"
    if match.port is not None:
        yield f"{match.protocol} dport {match.port}"
    elif match.protocol is not None:
        protocol = {"icmp": "icmp" if family == 4 else "ipv6-icmp"}.get(match.protocol, match.protocol)
        yield f"meta l4proto {protocol}"
    if match.mark:
        yield _mark("meta mark", match.mark)
    if match.connection_mark:
        yield _mark("ct mark", match.connection_mark)
    if match.translated is not None:
        yield f"ct status & (snat | dnat) {'!=' if match.translated else '=='} 0"
    if match.direction:
        yield f"ct direction {match.direction}"
    if match.route:
        yield f"fib daddr oifname {_devices(match.route)}"
    if match.note is not None:
        yield f"{ip} dscp {_NOTED if match.note else 0:#x}"
        if match.note:
            yield f"{_NOTE[family]} {match.note}"


def _devices(devices: Devices) -> str:
    names = [f'"{entry}"' if (prefix := prefix_of(entry)) is None else f'"{prefix}*"' for entry in devices.names]
    return ("!= " if devices.negated else "") + _set(names)


def _networks(networks: Sequence[Network]) -> str:
    return _set([str(network).removesuffix(f"/{network.max_prefixlen}") for network in networks])


def _set(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{{ {', '.join(words)} }}"


def _mark(what: str, mark: Mark) -> str:
    masked = what if mark.mask == EVERY_BIT else f"{what} & {mark.mask:#x}"
    return f"{masked} {'!=' if mark.negated else '=='} {mark.value:#x}"


def _action(rule: PacketRule, family: Family) -> str:
    match rule.action:
        case Snat(address):
            return f"snat to {address}"
        case Dnat():
            return _dnat(rule.action, rule.match, family)
        case SetMark(value, mask):
            kept = "" if mask == EVERY_BIT else f"meta mark & {~mask & EVERY_BIT:#x} | "
            return f"meta mark set {kept}{value:#x}"
        case SetConnectionMark(value):
            return f"ct mark set {value:#x}"
        case Reject():
            return f"reject with {'icmp' if family == 4 else 'icmpv6'} port-unreachable"
        case Rewrite():
            return " ".join(_rewrite(rule.action, rule.match.protocol, family))
        case Masquerade() | Exempt() | Accept() | Drop():
            return {Masquerade: "masquerade", Drop: "drop"}.get(type(rule.action), "accept")


def _rewrite(action: Rewrite, protocol: Protocol | None, family: Family) -> Iterator[str]:
    ip = _IP[family]
    if action.source:
        yield f"{ip} saddr set {action.source}"
    if action.destination:
        yield f"{ip} daddr set {action.destination}"
    if action.source_port is not None:
        yield f"{protocol} sport set {action.source_port}"
    if action.note is not None:
        if action.note:
            yield f"{_NOTE[family]} set {action.note}"
        yield f"{ip} dscp set {_NOTED if action.note else 0:#x}"


def _dnat(action: Dnat, match: Match, family: Family) -> str:
    """One backend, or a map from a hash of the client's address and port; ports all or none, as nft has it."""
    if len(action.backends) == 1:
        (only,) = action.backends
        address = f"[{only.address}]" if only.port is not None and only.address.version == 6 else only.address
        return f"dnat to {address}" + ("" if only.port is None else f":{only.port}")
    ip = _IP[family]
    alone = action.by_client or match.protocol in (None, "icmp")
    client = f"{ip} saddr" if alone else f"{ip} saddr . {match.protocol} sport"
    ported = all(backend.port is not None for backend in action.backends)
    entries = ", ".join(
        f"{number} : {backend.address}" + (f" . {backend.port}" if ported else "")
        for number, backend in enumerate(action.backends)
    )
    hashed = f"jhash {client} mod {len(action.backends)} seed 0x1 map {{ {entries} }}"
    return f"dnat {ip} to {hashed}" if ported else f"dnat to {hashed}"
