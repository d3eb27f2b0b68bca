"""What a flag's value may be: Cilium's own reading of booleans, lists and CIDRs, and what to say to a bad one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import Literal

from niclab.errors import closest
from niclab.settings.flags import table

# Go's strconv.ParseBool, which pflag and viper use.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

_FAMILIES: Mapping[str, Literal[4, 6]] = MappingProxyType({"cidr4": 4, "cidr6": 6, "address4": 4, "address6": 6})


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


def complaint(key: str, value: str) -> tuple[str, str] | None:
    """Why `value` is none for `key`, and how to fix it; None when it is fine or the key's values are not known."""
    flag = table().get(key)
    kind = flag.type if flag else "text"
    if kind == "bool":
        return _not_a_boolean(value)
    if kind.startswith("cidr"):
        parts = split_list(value) if kind == "cidrs" else (value,) if value else ()
        return next((words for part in parts if (words := _not_a_cidr(part, _FAMILIES.get(kind)))), None)
    if kind.startswith("address"):
        return None if value in ("", "auto") else _not_an_address(value, _FAMILIES[kind])
    if "|" in kind:
        return _not_a_choice(value, tuple(kind.split("|")))
    if ".." in kind:
        low, high = map(int, kind.split(".."))
        if re.fullmatch(r"[0-9]{1,10}", value) and low <= int(value) <= high:
            return None
        return f"{value!r} is no number from {low} to {high}", f"write a number, 0 for {_zero(key)}"
    return None


def _zero(key: str) -> str:
    return {"mtu": "auto-detection", "tunnel-port": "the protocol's own port"}.get(key, "the default")


def _not_a_boolean(value: str) -> tuple[str, str] | None:
    if parse_bool(value) is not None:
        return None
    word = value.strip().lower()
    guess = {"yes": "true", "on": "true", "enabled": "true", "no": "false", "off": "false", "disabled": "false"}
    near = guess.get(word) or closest(word, ("true", "false"))
    return f"{value!r} is neither true nor false", f"write {near}" if near else "write true or false"


def _not_a_choice(value: str, choices: tuple[str, ...]) -> tuple[str, str] | None:
    if value in choices or (choices[:2] == ("true", "false") and parse_bool(value) is not None):
        return None
    near = closest(value.strip().lower(), choices)
    return f"{value!r} is none of {', '.join(choices)}", f"write {near or choices[0]}"


def _not_a_cidr(value: str, version: Literal[4, 6] | None) -> tuple[str, str] | None:
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


def _not_an_address(value: str, version: Literal[4, 6]) -> tuple[str, str] | None:
    try:
        address = ip_address(value)
    except ValueError:
        return f"{value!r} is no IPv{version} address", "write the node's address, without a mask"
    if address.version != version:
        return f"{value!r} is an IPv{address.version} address", f"write it as ipv{address.version}-node"
    return None
