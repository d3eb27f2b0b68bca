"""Packet rules as an nftables ruleset: one table a family, one chain for each hook and kind of rule. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from niclab.net.packetrules import (
    EVERY_BIT,
    HOOKS,
    Accept,
    Devices,
    Dnat,
    Drop,
    Exempt,
    Hook,
    Mark,
    Masquerade,
    Match,
    PacketRule,
    Protocol,
    Reject,
    Rewrite,
    SetConnectionMark,
    SetMark,
    Snat,
    prefix_of,
)
from niclab.net.route import FAMILIES, Address, Family, Network

_KINDS: dict[bool, dict[Hook, str]] = {
    # Marks set by `route` chains send locally made packets to the routing table again.
    False: {
        "prerouting": "filter hook prerouting priority mangle",
        "input": "filter hook input priority mangle",
        "forward": "filter hook forward priority mangle",
        "output": "route hook output priority mangle",
        "postrouting": "filter hook postrouting priority mangle",
        "leaving": "filter hook postrouting priority srcnat + 10",
    },
    True: {
        "prerouting": "nat hook prerouting priority dstnat",
        "input": "nat hook input priority srcnat",
        "output": "nat hook output priority -100",
        "postrouting": "nat hook postrouting priority srcnat",
    },
}

_NOTED = 0x3F
"""The DSCP of packets with a note; it leaves the two bits of ECN alone."""


CLEAR = "".join(f"table {family} niclab\ndelete table {family} niclab\n" for family in ("ip", "ip6"))
"""Takes both tables away, whether they are there or not."""


def ruleset(rules: Sequence[PacketRule]) -> str:
    """What `nft -f` takes; empty without rules. Raises ValueError for a translation where there is none (`forward`)."""
    return "\n".join(table for family in FAMILIES if (table := _table(rules, family)))


def _table(rules: Sequence[PacketRule], family: Family) -> str:
    chains = []
    for hook in HOOKS:
        for translates in (False, True):
            mine = [r for r in rules if r.hook == hook and r.translates == translates and r.applies_to(family)]
            if mine:
                chains.append(_chain(hook, translates, mine, family))
    if not chains:
        return ""
    return "\n".join([f"table {'ip' if family == 4 else 'ip6'} niclab {{", *chains, "}", ""])


def _chain(hook: Hook, translates: bool, rules: Sequence[PacketRule], family: Family) -> str:
    if hook not in _KINDS[translates]:
        raise ValueError(f"nothing is translated at {hook}")
    lines = "\n".join(f"    {' '.join((*_match(rule.match, family), _action(rule, family)))}" for rule in rules)
    name = f"{hook}_{'nat' if translates else 'filter'}"
    return f"  chain {name} {{\n    type {_KINDS[translates][hook]}; policy accept;\n{lines}\n  }}"


def _match(match: Match, family: Family) -> Iterator[str]:
    ip = _ip(family)
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
        yield f"{_ip(family)} dscp {_NOTED if match.note else 0:#x}"
        if match.note:
            yield f"{_note(family)} {match.note}"


def _devices(devices: Devices) -> str:
    names = [f'"{entry}"' if (prefix := prefix_of(entry)) is None else f'"{prefix}*"' for entry in devices.names]
    return ("!= " if devices.negated else "") + (names[0] if len(names) == 1 else f"{{ {', '.join(names)} }}")


def _networks(networks: Sequence[Network]) -> str:
    words = [
        str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
        for network in networks
    ]
    return words[0] if len(words) == 1 else f"{{ {', '.join(words)} }}"


def _mark(what: str, mark: Mark) -> str:
    masked = what if mark.mask == EVERY_BIT else f"{what} & {mark.mask:#x}"
    return f"{masked} {'!=' if mark.negated else '=='} {mark.value:#x}"


def _action(rule: PacketRule, family: Family) -> str:
    match rule.action:
        case Snat(address):
            return f"snat to {address}"
        case Masquerade():
            return "masquerade"
        case Dnat():
            return _dnat(rule.action, rule.match, family)
        case Exempt() | Accept():
            return "accept"
        case Drop():
            return "drop"
        case SetMark(value, mask):
            return f"meta mark set {value:#x}" if mask == EVERY_BIT else _some_bits(value, mask)
        case SetConnectionMark(value):
            return f"ct mark set {value:#x}"
        case Reject():
            return f"reject with {'icmp' if family == 4 else 'icmpv6'} port-unreachable"
        case Rewrite():
            return " ".join(_rewrite(rule.action, rule.match.protocol, family))


def _rewrite(action: Rewrite, protocol: Protocol | None, family: Family) -> Iterator[str]:
    ip = _ip(family)
    if action.source:
        yield f"{ip} saddr set {action.source}"
    if action.destination:
        yield f"{ip} daddr set {action.destination}"
    if action.source_port is not None:
        yield f"{protocol} sport set {action.source_port}"
    if action.note is not None:
        if action.note:
            yield f"{_note(family)} set {action.note}"
        yield f"{ip} dscp set {_NOTED if action.note else 0:#x}"


def _note(family: Family) -> str:
    """Where a note is written: fields that no other packet of the lab has a use for."""
    return "ip id" if family == 4 else "ip6 flowlabel"


def _some_bits(value: int, mask: int) -> str:
    return f"meta mark set meta mark & {~mask & EVERY_BIT:#x} | {value:#x}"


def _dnat(action: Dnat, match: Match, family: Family) -> str:
    """One backend, or a map from a hash of the client's address and port; ports all or none, as nft has it."""
    if len(action.backends) == 1:
        (only,) = action.backends
        return f"dnat to {_end(only.address, only.port)}"
    ip = _ip(family)
    client = f"{ip} saddr" if match.protocol in (None, "icmp") else f"{ip} saddr . {match.protocol} sport"
    ported = all(backend.port is not None for backend in action.backends)
    entries = ", ".join(
        f"{number} : {backend.address}" + (f" . {backend.port}" if ported else "")
        for number, backend in enumerate(action.backends)
    )
    hashed = f"jhash {client} mod {len(action.backends)} seed 0x1 map {{ {entries} }}"
    return f"dnat {ip} to {hashed}" if ported else f"dnat to {hashed}"


def _end(address: Address, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _ip(family: Family) -> str:
    return "ip" if family == 4 else "ip6"
