"""Values of flags: Cilium's own reading of booleans, lists and CIDRs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network

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
