"""A line of words read from the left, as iproute2 does; a word that is missing or wrong is a ValueError saying so."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

U32 = 2**32 - 1


class Words:
    """The words of one line, taken from the left; what is asked for and not there is a ValueError."""

    def __init__(self, text: str) -> None:
        self._words = text.split()
        self._next = 0

    def peek(self) -> str | None:
        return self._words[self._next] if self._next < len(self._words) else None

    def take(self, what: str) -> str:
        word = self.peek()
        if word is None:
            raise ValueError(f"the line ends where {what} should stand")
        self._next += 1
        return word

    def taken(self, *choices: str) -> str | None:
        """The next word, taken, if it is one of these."""
        word = self.peek()
        return self.take(word) if word is not None and word in choices else None

    def family(self) -> Literal[4, 6] | None:
        """`-4` or `-6`, where iproute2 has it: in front."""
        word = self.taken("-4", "-6")
        return None if word is None else 6 if word == "-6" else 4

    def number(self, what: str, low: int, high: int) -> int:
        word = self.take(what)
        try:
            number = int(word, 0)
        except ValueError:
            raise ValueError(f"{what} {word!r} is not a number") from None
        if not low <= number <= high:
            raise ValueError(f"{what} {number} is out of range {low}..{high}")
        return number

    def address(self, what: str) -> Address:
        word = self.take(what)
        try:
            return ip_address(word)
        except ValueError:
            raise ValueError(f"{what} {word!r} is not an IP address") from None

    def numbered(self, what: str, known: Mapping[str, int], high: int) -> int:
        """A name of a table such as iproute2's rt_tables, or a number."""
        word = self.take(f"a {what}")
        if word in known:
            return known[word]
        if not (word.isascii() and word.isdecimal()) or len(word) > 10 or int(word) > high:
            raise ValueError(f"{what} {word!r} is neither a number nor one of {', '.join(known)}")
        return int(word)

    def mark(self) -> tuple[int, int]:
        word = self.take("a mark")
        value, _, mask = word.partition("/")
        try:
            mark = int(value, 0), int(mask, 0) if mask else U32
        except ValueError:
            mark = (-1, 0)
        if not all(0 <= part <= U32 for part in mark):
            raise ValueError(f"fwmark {word!r} is not VALUE[/MASK], each of 32 bits")
        return mark


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
