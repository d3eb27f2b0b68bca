"""IP addresses and networks: one type each for both families, and how they are read from text."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Family = Literal[4, 6]

FAMILIES: tuple[Family, ...] = (4, 6)


def family_of(value: Address | Network) -> Family:
    return 4 if value.version == 4 else 6


def ip_address(word: str) -> Address:
    """An address without a zone: links are named by `dev`. Raises ValueError."""
    if "%" in word:
        raise ValueError(f"{word!r} has a zone")
    return ipaddress.ip_address(word)


def ip_network(word: str) -> Network:
    """A network, told apart from an address inside one. Raises ValueError."""
    try:
        return ipaddress.ip_network(word)
    except ValueError:
        try:
            proper = ipaddress.ip_network(word, strict=False)
        except ValueError:
            raise ValueError(f"{word!r} is not a network (want ADDRESS/LENGTH)") from None
        raise ValueError(f"{word!r} has host bits set: the network is {proper}") from None
