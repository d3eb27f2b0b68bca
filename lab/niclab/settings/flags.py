"""The table of flags: every key that some Cilium reads, how people spell it, what its values may be and how
Cilium reads them, whether the model acts on it, and the Helm value it comes from.

The facts are in data/: agent-flags.txt and chart-values.txt (made by scripts/tables.py from Cilium's sources),
flags.txt, helm-flags.txt and old-chart-values.txt; their heads say what the columns mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pydantic_core import core_schema

from niclab.errors import InputError, Problem, closest
from niclab.topology.yamlfile import data_lines

MINORS = range(16, 22)
"""The minor versions whose flags and chart values are known, each of its newest patch."""

_FAMILIES: Mapping[str, Literal[4, 6]] = MappingProxyType({"4": 4, "6": 6})

Wrong = tuple[str, str]
"""Why something is wrong, and how to fix it."""


class Flag(NamedTuple):
    """One key of the cilium-config ConfigMap.

    `reader`: agent, removed (a flag of older agents), operator or init. `minors`: the versions whose agents read it,
    hidden from --help or not. `charts`: the first and last that write what is not in the table of flags.
    """

    key: str
    type: str
    default: str
    bearing: str
    reader: str
    minors: frozenset[int] = frozenset()
    charts: tuple[str, str] = ("", "")
    switch: bool = False

    @property
    def of_agents(self) -> bool:
        return self.reader in ("agent", "removed")

    def models(self, value: str) -> bool:
        """Does the built-in datapath act on the flag, with this value?"""
        word, _, values = self.bearing.partition(":")
        return word == "modelled" and (not values or value in values.split("|"))


@cache
def table() -> Mapping[str, Flag]:
    """Every key. What data/flags.txt has nothing to say of is text without bearing."""
    decided = dict(_decided())
    for line in data_lines("niclab.settings", "agent-flags.txt"):
        key, kind, _, *where = line.split()
        readers = dict(part.split(":") for part in where)
        flag = decided.get(key) or Flag(key, "text", "", "irrelevant", "")
        minors = [minors_of(readers[reader]) for reader in ("agent", "hidden") if reader in readers]
        decided[key] = flag._replace(
            reader="agent" if minors else "operator", minors=frozenset().union(*minors), switch=kind == "bool"
        )
    return MappingProxyType(dict(sorted(decided.items())))


@cache
def _decided() -> Mapping[str, Flag]:
    return {flag.key: flag for flag in map(_flag, data_lines("niclab.settings", "flags.txt"))}


def _flag(line: str) -> Flag:
    key, kind, default, bearing, *where = line.split()
    reader, _, charts = (where or ["agent"])[0].partition(":")
    first, _, last = charts.partition("-")
    return Flag(key, kind, "" if default == "-" else default, bearing, reader, charts=(first, last))


def minors_of(spans: str) -> frozenset[int]:
    """{16, 17, 18, 20} from `16-18,20`."""
    ends = (span.partition("-") for span in spans.split(","))
    return frozenset(minor for first, _, last in ends for minor in range(int(first), int(last or first) + 1))


def default(key: str) -> str:
    """The agent's default, "" where it is empty or the key is not known."""
    flag = _decided().get(key)
    return flag.default if flag else ""


@cache
def agent_keys() -> frozenset[str]:
    """Every key some agent reads: flags of the known versions, hidden ones and those of older agents."""
    return frozenset(flag.key for flag in table().values() if flag.of_agents)


def release(version: str) -> int:
    """A number to compare versions by: `1.20`, `v1.20.3` and `1.20.0-dev` are the same; what is none is the newest."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return int(match[1]) * 1000 + int(match[2]) if match else 10**6


def minor_of(version: str) -> int:
    """The known minor version that is nearest to this one; the newest for what is no version."""
    return min(max(release(version) - 1000, MINORS[0]), MINORS[-1])


def another_version(key: str, version: str) -> str:
    """Words for a key that agents of this version do not read and others do; empty for what has no bearing."""
    flag = table()[key]
    if flag.bearing == "irrelevant":
        return ""
    if flag.minors and minor_of(version) not in flag.minors:
        does = "does not" if minor_of(version) == release(version) - 1000 else "may not"
        return f"{key}: agents of Cilium {versions(flag.minors)} have this flag, {version} {does} read it"
    first, last = flag.charts
    if flag.reader == "removed" and not release(first) <= release(version) <= release(last):
        return f"{key}: a flag of older agents (charts {first} to {last} write it), {version} may not read it"
    return ""


def versions(minors: frozenset[int]) -> str:
    """Minor versions in words: `1.16 to 1.18`, `up to 1.17` and `from 1.19 on` where no end is known."""
    first, last = min(minors), max(minors)
    if first == MINORS[0]:
        return f"up to 1.{last}"
    if last == MINORS[-1]:
        return f"from 1.{first} on"
    return f"1.{first}" if first == last else f"1.{first} to 1.{last}"


class HelmValue(NamedTuple):
    """A Helm value, the flag it becomes, the form a list takes there (text, spaces, commas, json; or a switch), and
    whether it is only read. From the chart's own template (install/kubernetes/cilium/templates/cilium-configmap.yaml,
    charts 1.16 to 1.21); what the chart computes from several values is in `niclab.settings.helm`.
    """

    path: tuple[str, ...]
    flag: str
    form: str
    legacy: bool


@cache
def helm_values(minor: int = MINORS[-1]) -> Mapping[str, HelmValue]:
    """Every Helm value that is a flag, by its dotted path, in the chart of a minor version."""
    rows: dict[str, HelmValue] = {}
    for path, flag, form, *rest in map(str.split, data_lines("niclab.settings", "helm-flags.txt")):
        spans = next((word for word in rest if word != "legacy"), "")
        if not spans or minor in minors_of(spans):  # rows of single versions stand behind the others
            rows[path] = HelmValue(tuple(path.split(".")), flag, form, "legacy" in rest)
    return MappingProxyType(rows)


@cache
def helm_value_of() -> Mapping[str, HelmValue]:
    """The Helm value to write a flag by."""
    return MappingProxyType({value.flag: value for value in helm_values().values() if not value.legacy})


@cache
def chart_values() -> Mapping[str, frozenset[int]]:
    """Every value of a chart, and the minor versions whose charts have it. A path that ends in `.` is a mapping, one
    that ends in `.*` takes any values below it.
    """
    spans: dict[str, frozenset[int]] = {}  # the same few, again and again
    rows = (line.split(" ", 2) for line in data_lines("niclab.settings", "chart-values.txt"))
    return MappingProxyType({path: spans.get(at) or spans.setdefault(at, minors_of(at)) for path, at, *_ in rows})


class OldValue(NamedTuple):
    """A Helm value that no chart has today: the charts that had it, and what to write in its place."""

    charts: str
    now: str


@cache
def old_values() -> Mapping[str, OldValue]:
    values: dict[str, OldValue] = {}
    for path, first, last, *now in map(str.split, data_lines("niclab.settings", "old-chart-values.txt")):
        charts = "before 1.16" if last == "-" else f"up to {last}" if first == "-" else f"{first} to {last}"
        values[path] = OldValue(charts, " ".join(now))
    return MappingProxyType(values)


def chart_words(above: str) -> frozenset[str]:
    """The keys that charts have below a path ("" for those of the first level)."""
    prefix = f"{above}." if above else ""
    return frozenset(path[len(prefix) :].split(".")[0] for path in chart_values() if path.startswith(prefix)) - {
        "",
        "*",
    }


@cache
def branches() -> frozenset[str]:
    """The values of the first level that are mappings with something for the agent in them."""
    return frozenset(path.split(".")[0] for path in helm_values() if "." in path) | {"aksbyocni", "gke"}


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
    flag = _decided().get(key)
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
        if _is_between(value, kind):
            return None
        low, high = kind.split("..")
        zero = {"mtu": "auto-detection", "tunnel-port": "the protocol's own port"}.get(key, "the default")
        return f"{value!r} is no number from {low} to {high}", f"write a number, 0 for {zero}"
    return None


def _is_between(value: str, kind: str) -> bool:
    """Is it a number of the range that a kind is? LOWEST..HIGHEST"""
    low, dots, high = kind.partition("..")
    return bool(dots and re.fullmatch(r"[0-9]{1,10}", value)) and int(low) <= int(value) <= int(high)


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
    if any(_is_between(value, choice) for choice in choices):
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


class Assignment(NamedTuple):
    line: int
    node: str | None
    key: str
    value: str


_NODE_KEY = re.compile(r"(?:(?P<node>[a-z0-9][a-z0-9.-]*):)?(?P<key>[^:=\s]+)=(?P<value>.*)", re.DOTALL)


def assignment(text: str, file: str, line: int, *, with_node: bool | None) -> Assignment:
    """One assignment; `with_node` None allows both forms."""
    match = _NODE_KEY.fullmatch(text.strip())
    shape = "NODE:KEY=VALUE" if with_node else "KEY=VALUE"
    if match is None or (with_node is True) > (match["node"] is not None) or (with_node is False and match["node"]):
        why = f"{text!r} is not {shape}"
        example = "node1:devices=eth1" if with_node else "devices=eth0,eth1"
        raise InputError([Problem(file, line, "", why, f"write it as {example}")])
    return Assignment(line, match["node"], spelled(match["key"]), match["value"])


def command_line(tokens: list[str], file: str, line: int) -> Iterator[Assignment]:
    """The agent's own arguments: `--flag=value`, `--flag value`, `--switch`. Raises InputError."""
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--"):
            raise InputError([Problem(file, line, "", f"{token!r} belongs to no flag", "write --flag=value")])
        if "=" in token:
            yield assignment(token, file, line, with_node=False)
        elif _is_switch(key := spelled(token)):
            yield Assignment(line, None, key, "true")
        elif tokens and not tokens[0].startswith("--"):
            yield Assignment(line, None, key, tokens.pop(0))
        else:
            raise InputError([Problem(file, line, key, "the flag has no value", f"write --{key}=value")])


def _is_switch(key: str) -> bool:
    flag = table().get(key)
    return flag.switch or flag.type == "bool" if flag else key.startswith(("enable-", "disable-"))


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

    def __repr__(self) -> str:
        return f"Values({self._items!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> core_schema.CoreSchema:
        text = core_schema.str_schema()
        items = core_schema.dict_schema(text, text)
        as_dict = core_schema.plain_serializer_function_ser_schema(dict)
        return core_schema.no_info_after_validator_function(cls, items, serialization=as_dict)

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
