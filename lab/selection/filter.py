"""The user's list of devices: which entry names an interface (pkg/datapath/tables/device.go DeviceFilter). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lab.selection.version import Version


def matches(entry: str, name: str) -> bool:
    """Does one entry of `devices` name this interface? `eth+` is a prefix, else exact (DeviceFilter.Match)."""
    return name.startswith(entry[:-1]) if entry.endswith("+") else name == entry


def first_match(entries: Sequence[str], name: str, version: Version) -> bool | None:
    """The first matching entry's word: selected, excluded (`!`, ≥1.19, PR #40152), or None when nothing matches."""
    for entry in entries:
        if entry.startswith("!") and version >= (1, 19):
            if matches(entry[1:], name):
                return False
        elif matches(entry, name):
            return True
    return None
