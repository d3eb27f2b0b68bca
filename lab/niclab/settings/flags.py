"""The table of flags: every key that some Cilium reads, how people spell it, what its values may be and how
Cilium reads them, whether the model acts on it, and the Helm value it comes from.

The facts are in data/: flags.txt, helm-flags.txt and helm-paths.txt; their heads say what the columns mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import Literal, NamedTuple

from niclab.errors import closest
from niclab.topology.yamlfile import data_lines

VERSIONS = ("1.18", "1.20")
"""The versions whose flags are known in full (`cilium-agent --help`)."""

_FAMILIES: Mapping[str, Literal[4, 6]] = MappingProxyType({"4": 4, "6": 6})

Wrong = tuple[str, str]
"""Why something is wrong, and how to fix it."""


class Flag(NamedTuple):
    """One key of the cilium-config ConfigMap. `listed`: the versions whose --help has it; `charts`: first and last.

    `reader`: agent, removed (a flag of older agents), operator or init.
    """

    key: str
    type: str
    default: str
    bearing: str
    reader: str
    listed: tuple[str, ...]
    charts: tuple[str, str]

    @property
    def of_agents(self) -> bool:
        return self.reader in ("agent", "removed")

    def models(self, value: str) -> bool:
        """Does the built-in datapath act on the flag, with this value?"""
        word, _, values = self.bearing.partition(":")
        return word == "modelled" and (not values or value in values.split("|"))


@cache
def table() -> Mapping[str, Flag]:
    return MappingProxyType({flag.key: flag for flag in map(_flag, data_lines("niclab.settings", "flags.txt"))})


def _flag(line: str) -> Flag:
    key, kind, default, bearing, where = line.split()
    reader, _, charts = where.partition(":")
    first, _, last = charts.partition("-")
    listed = () if charts else tuple(where.split("+"))
    reader = "agent" if listed or reader == "hidden" else reader
    return Flag(key, kind, "" if default == "-" else default, bearing, reader, listed, (first, last))


def default(key: str) -> str:
    """The agent's default, "" where it is empty or the key is not known."""
    flag = table().get(key)
    return flag.default if flag else ""


@cache
def agent_flags(version: str) -> frozenset[str]:
    """The flags `cilium-agent --help` of this version lists; of another version, those of the nearest known one."""
    known = min(VERSIONS, key=lambda known: (abs(release(known) - release(version)), -release(known)))
    return frozenset(flag.key for flag in table().values() if known in flag.listed)


@cache
def agent_keys() -> frozenset[str]:
    """Every key some agent reads: flags of the known versions, hidden ones and those of older agents."""
    return frozenset(flag.key for flag in table().values() if flag.of_agents)


def release(version: str) -> int:
    """A number to compare versions by: `1.20`, `v1.20.3` and `1.20.0-dev` are the same; what is none is the newest."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return int(match[1]) * 1000 + int(match[2]) if match else 10**6


class HelmValue(NamedTuple):
    """A Helm value, the flag it becomes, the form a list takes there (text, spaces, commas, json; or a switch), and
    whether it is only read. From the chart's own template (install/kubernetes/cilium/templates/cilium-configmap.yaml,
    charts 1.12 to 1.21); what the chart computes from several values is in `niclab.settings.helm`.
    """

    path: tuple[str, ...]
    flag: str
    form: str
    legacy: bool


@cache
def helm_values() -> Mapping[str, HelmValue]:
    """Every Helm value that is a flag, by its dotted path."""
    lines = (line.split() for line in data_lines("niclab.settings", "helm-flags.txt"))
    return MappingProxyType(
        {path: HelmValue(tuple(path.split(".")), flag, form, bool(legacy)) for path, flag, form, *legacy in lines}
    )


@cache
def helm_value_of() -> Mapping[str, HelmValue]:
    """The Helm value to write a flag by."""
    return MappingProxyType({value.flag: value for value in helm_values().values() if not value.legacy})


@cache
def known_paths() -> frozenset[str]:
    """Every Helm value some chart has: all of the first level, and the second where agent flags come from it."""
    dotted = {
        ".".join(value.path[:depth]) for value in helm_values().values() for depth in range(1, len(value.path) + 1)
    }
    return frozenset(data_lines("niclab.settings", "helm-paths.txt")) | dotted


@cache
def branches() -> frozenset[str]:
    """The values of the first level that are mappings with something for the agent in them."""
    return frozenset(path.split(".")[0] for path in known_paths() if "." in path)


def spelled(word: str) -> str:
    """A key as people write it, in the ConfigMap's spelling: `--enable_ipv6`, `CILIUM_DEVICES`, `routingMode`."""
    word = word.strip()
    if word in agent_keys():
        return word
    word = re.sub(r"^(--|CILIUM_)", "", word)
    if not word.isupper():
        word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", word)
    return word.replace("_", "-").lower()


def unknown(key: str) -> Wrong | None:
    """What is wrong with a key that no agent has, and the closest one that exists."""
    if flag := table().get(key):
        who = "the operator" if flag.reader == "operator" else "an init container"
        return None if flag.of_agents else (f"{who} reads this key, no agent does", "leave it out")
    if (word := spelled(key)) in agent_keys():
        fix = f"write {word}"
    elif value := helm_values().get(key):
        fix = f"write {value.flag}, the agent's flag for the Helm value {key}"
    else:
        near = closest(word, agent_keys())
        fix = f"did you mean {near}?" if near else "remove it, or see cilium-agent --help for the flags there are"
    return "no Cilium agent has this key", fix


def wrong(key: str, value: str) -> Wrong | None:
    """What is wrong with a flag: with its key, else with its value."""
    return unknown(key) or complaint(key, value)


def complaint(key: str, value: str) -> Wrong | None:
    """Why `value` is none for `key`, and how to fix it; None when it is fine or the key's values are not known."""
    flag = table().get(key)
    kind = flag.type if flag else "text"
    if kind == "bool":
        return _not_a_boolean(value)
    if kind.startswith("cidr"):
        parts = split_list(value) if kind == "cidrs" else (value,) if value else ()
        version = _FAMILIES.get(kind[-1])
        return next((words for part in parts if (words := _not_a_cidr(part, version))), None)
    if kind.startswith("address"):
        return None if value in ("", "auto") else _not_an_address(value, _FAMILIES[kind[-1]])
    if "|" in kind:
        return _not_a_choice(value, tuple(kind.split("|")))
    if ".." in kind:
        low, high = map(int, kind.split(".."))
        if re.fullmatch(r"[0-9]{1,10}", value) and low <= int(value) <= high:
            return None
        zero = {"mtu": "auto-detection", "tunnel-port": "the protocol's own port"}.get(key, "the default")
        return f"{value!r} is no number from {low} to {high}", f"write a number, 0 for {zero}"
    return None


def _not_a_boolean(value: str) -> Wrong | None:
    if parse_bool(value) is not None:
        return None
    word = value.strip().lower()
    guess = {"yes": "true", "on": "true", "enabled": "true", "no": "false", "off": "false", "disabled": "false"}
    near = guess.get(word) or closest(word, ("true", "false"))
    return f"{value!r} is neither true nor false", f"write {near}" if near else "write true or false"


def _not_a_choice(value: str, choices: tuple[str, ...]) -> Wrong | None:
    if value in choices or (choices[:2] == ("true", "false") and parse_bool(value) is not None):
        return None
    near = closest(value.strip().lower(), choices)
    return f"{value!r} is none of {', '.join(choices)}", f"write {near or choices[0]}"


def _not_a_cidr(value: str, version: Literal[4, 6] | None) -> Wrong | None:
    network = parse_cidr(value)
    if network is None:
        try:
            fix = f"write {ip_network(value, strict=False)}"
        except ValueError:
            fix = "write a CIDR such as " + ("fd00::/104" if version == 6 else "10.244.0.0/16")
        return f"{value!r} is no CIDR", fix
    if version and network.version != version:
        return f"{value!r} is an IPv{network.version} CIDR", f"write an IPv{version} CIDR"
    return None


def _not_an_address(value: str, version: Literal[4, 6]) -> Wrong | None:
    try:
        address = ip_address(value)
    except ValueError:
        return f"{value!r} is no IPv{version} address", "write the node's address, without a mask"
    if address.version != version:
        return f"{value!r} is an IPv{address.version} address", f"write it as ipv{address.version}-node"
    return None


# Go's strconv.ParseBool, which pflag and viper use.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Values(Mapping[str, str]):
    """An immutable, hashable mapping of text to text, sorted by key."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, str] | None = None) -> None:
        self._items: dict[str, str] = dict(sorted((items or {}).items()))

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._items == dict(other)

    def __repr__(self) -> str:
        return f"Values({self._items!r})"

    def over(self, upper: Mapping[str, str]) -> Values:
        """These, with `upper` winning."""
        return Values({**self._items, **upper})


def split_list(text: str) -> tuple[str, ...]:
    """A list as the agent reads it from a flag, its environment or a ConfigMap.

    Commas split; one single element is split again by whitespace. So `eth0 eth1` is two names and
    `eth0 eth1,eth2` is `eth0 eth1` and `eth2` (vendor/github.com/cilium/hive/cell/config.go:104-136,192-210).
    """
    if not text:
        return ()
    parts = text.split(",")
    return tuple(parts[0].split()) if len(parts) == 1 else tuple(parts)


def parse_bool(text: str) -> bool | None:
    """The boolean as Go reads it, None if it is none."""
    return True if text in _TRUE else False if text in _FALSE else None


def parse_cidr(text: str) -> IPv4Network | IPv6Network | None:
    """The network of a CIDR, host bits dropped as Go's net.ParseCIDR does; None if it is none."""
    if not re.search(r"/\d+$", text):  # Go takes neither a bare address nor a dotted mask
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
