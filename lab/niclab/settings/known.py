"""Which keys exist and who reads them."""

from __future__ import annotations

import re
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from niclab.errors import Problem
from niclab.settings.helm_table import flag_of
from niclab.settings.tables import lines
from niclab.settings.values import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VERSIONS = ("1.18", "1.20")
"""The versions whose flags are known in full (`cilium-agent --help`)."""

Reader = Literal["operator", "init", "agent", "removed"]


class OtherKey(NamedTuple):
    """A ConfigMap key that `cilium-agent --help` does not list, and the charts that write it."""

    reader: Reader
    first: str
    last: str


@cache
def agent_flags(version: str) -> frozenset[str]:
    """The flags `cilium-agent --help` of this version lists; of another version, those of the nearest known one."""
    # --help lists `-D, --debug` in another form, which the recorded lists leave out.
    return frozenset(lines(f"agent-flags-{_known_version(version)}.txt")) | {"debug"}


@cache
def other_keys() -> Mapping[str, OtherKey]:
    rows = (line.split() for line in lines("other-keys.txt"))
    readers: Mapping[str, Reader] = {"operator": "operator", "init": "init", "agent": "agent", "removed": "removed"}
    return MappingProxyType({key: OtherKey(readers[reader], first, last) for key, reader, first, last in rows})


@cache
def agent_keys() -> frozenset[str]:
    """Every key some agent reads: flags of the known versions, hidden ones and those of older agents."""
    listed = frozenset[str]().union(*(agent_flags(version) for version in VERSIONS))
    return listed | {key for key, other in other_keys().items() if other.reader in ("agent", "removed")}


def spelled(word: str) -> str:
    """A key as people write it, in the ConfigMap's spelling: `--enable_ipv6`, `CILIUM_DEVICES`, `routingMode`."""
    word = word.strip()
    if word in agent_keys():
        return word
    word = re.sub(r"^(--|CILIUM_)", "", word)
    if not word.isupper():
        word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", word)
    return word.replace("_", "-").lower()


def key_problem(key: str, file: str, line: int, known: Iterable[str] = ()) -> Problem | None:
    """What is wrong with a key that no agent has (nor `known`), and the nearest one that exists."""
    candidates = agent_keys() | frozenset(known)
    if key in candidates:
        return None
    other = other_keys().get(key)
    if other is not None:
        who = "the operator" if other.reader == "operator" else "an init container"
        return Problem(file, line, key, f"{who} reads this key, no agent does", "leave it out")
    return Problem(file, line, key, "no Cilium agent has this key", _mend(key, candidates))


def _mend(key: str, candidates: frozenset[str]) -> str:
    if spelled(key) in candidates:
        return f"write {spelled(key)}"
    if flag := flag_of(key):
        return f"write {flag}, the agent's flag for the Helm value {key}"
    near = nearest(spelled(key), candidates)
    return f"did you mean {near}?" if near else "remove it, or see cilium-agent --help for the flags there are"


def release(version: str) -> int:
    """A number to compare versions by: `1.20`, `v1.20.3` and `1.20.0-dev` are the same; what is none is the newest."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return int(match[1]) * 1000 + int(match[2]) if match else 10**6


def _known_version(version: str) -> str:
    return min(VERSIONS, key=lambda known: (abs(release(known) - release(version)), -release(known)))
