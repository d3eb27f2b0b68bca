"""The table of flags: every key that some Cilium reads, what its values may be, and whether the model acts on it.

The facts are in data/flags.txt, one key a line; its head says what the columns mean.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSIONS = ("1.18", "1.20")
"""The versions whose flags are known in full (`cilium-agent --help`)."""

Reader = Literal["agent", "removed", "operator", "init"]
_READERS: Mapping[str, Reader] = MappingProxyType(
    {"hidden": "agent", "removed": "removed", "operator": "operator", "init": "init"}
)


class Flag(NamedTuple):
    """One key of the cilium-config ConfigMap. `listed`: the versions whose --help has it; `charts`: first and last."""

    key: str
    type: str
    default: str
    bearing: str
    reader: Reader
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
    default = "" if default == "-" else default
    reader, colon, charts = where.partition(":")
    if not colon:
        return Flag(key, kind, default, bearing, "agent", tuple(where.split("+")), ("", ""))
    first, _, last = charts.partition("-")
    return Flag(key, kind, default, bearing, _READERS[reader], (), (first, last))


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
