"""The user's list of devices: which entry names an interface (pkg/datapath/tables/device.go DeviceFilter). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from niclab.cilium.version import Version


def matches(entry: str, name: str) -> bool:
    """Does one entry of `devices` name this interface? `eth+` is a prefix (`eth++` the same one), else exact."""
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
    for name in (own, *(alternatives if version >= (1, 20) else ())):
        for entry in entries:
            excluded = entry.startswith("!") and version >= (1, 19)
            if matches(entry[1:] if excluded else entry, name):
                return Match(entry, excluded)
    return None
