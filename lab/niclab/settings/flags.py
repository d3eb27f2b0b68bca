"""The table of flags: every key that some Cilium reads, how people spell it, what its values may be, and whether the
model acts on it; with the table between flags and Helm values.

The facts are in data/: flags.txt, helm-flags.txt and helm-paths.txt; their heads say what the columns mean.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from niclab.errors import closest
from niclab.settings.values import parse_bool, parse_cidr, split_list

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    return MappingProxyType({flag.key: flag for flag in map(_flag, data_lines("flags.txt"))})


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


def data_lines(name: str) -> list[str]:
    """A data file's lines, without comments and empty ones."""
    text = resources.files("niclab.settings").joinpath("data", name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


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
    lines = (line.split() for line in data_lines("helm-flags.txt"))
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
    return frozenset(data_lines("helm-paths.txt")) | dotted


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
