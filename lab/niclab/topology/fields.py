"""What topology files are written in: the types of their fields, each parsed from words. Raise ValueError."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, WithJsonSchema
from pydantic_core import core_schema

from niclab.net.route import Address, Network, Route, Rule, ip_address, ip_network, parse_route, parse_rule

Interface = IPv4Interface | IPv6Interface
Protocol = Literal["icmp", "udp", "tcp"]

HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
NicName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,14}$")]

_T = TypeVar("_T")


def one_or_many(value: Any) -> Any:
    """A list may be written as its only entry, or left empty."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


Many = Annotated[tuple[_T, ...], BeforeValidator(one_or_many)]
OrEmpty = Annotated[_T, BeforeValidator(lambda value: {} if value is None else value)]
"""A mapping that may be left empty."""


def shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return str(value)


_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}


def go_expression(text: str) -> re.Pattern[str]:
    """A regular expression as Go writes it (RE2), as far as names of NICs need it. Raises ValueError."""
    words = re.sub(r"\[:(\^?)([a-z]+):\]", _posix_class, text)
    try:
        return re.compile(words.replace(r"\z", r"\Z"))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None


def _posix_class(match: re.Match[str]) -> str:
    if match[1] or match[2] not in _CLASSES:
        raise ValueError(f"niclab does not know the class {match[0]} of regular expressions")
    return _CLASSES[match[2]]


def _ip(word: str) -> Address:
    try:
        return ip_address(word)
    except ValueError:
        raise ValueError(f"{word!r} is not an IP address") from None


def _network(word: str) -> Network:
    if "/" not in word:
        raise ValueError(f"{word!r} has no prefix length")
    return ip_network(word)


def parse_interface(word: str) -> Interface:
    address, slash, length = word.partition("/")
    try:
        ip = ip_address(address)
    except ValueError:
        raise ValueError(f"{address!r} is not an IP address") from None
    if not slash:
        raise ValueError(f"{word!r} has no prefix length")
    if not (length.isascii() and length.isdecimal()) or int(length[:9]) > ip.max_prefixlen:
        raise ValueError(f"{length!r} is not a prefix length (0 to {ip.max_prefixlen})")
    return ipaddress.ip_interface(word)


@dataclass(frozen=True)
class Written:
    """How a value stands in a file: as text that is parsed, and that its `str` is."""

    parse: Callable[[str], Any]
    description: str
    example: str
    pattern: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, _: Any) -> core_schema.CoreSchema:
        def validate(value: Any) -> Any:
            if isinstance(value, source):
                return value
            if not isinstance(value, str):
                raise ValueError(f"{shown(value)} is not text")
            return self.parse(value)

        text = core_schema.plain_serializer_function_ser_schema(str)
        return core_schema.no_info_plain_validator_function(validate, serialization=text)

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        pattern = {"pattern": self.pattern} if self.pattern else {}
        return {"type": "string", "description": self.description, "examples": [self.example], **pattern}


RouteWords = Annotated[Route, Written(parse_route, "a route in iproute2's words", "default via 10.0.0.254 dev eth0")]
RuleWords = Annotated[Rule, Written(parse_rule, "a rule in iproute2's words", "from 10.244.1.0/24 lookup 100")]
IpAddress = Annotated[Address, Written(_ip, "an IP address", "10.0.0.1")]
IpNetwork = Annotated[Network, Written(_network, "ADDRESS/LENGTH without host bits", "10.0.0.0/24", "/")]
IpInterface = Annotated[Interface, Written(parse_interface, "ADDRESS/LENGTH", "10.0.0.1/24", "/")]
Mac = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$", to_lower=True),
    WithJsonSchema({"type": "string", "description": "a MAC address", "examples": ["02:00:00:00:00:01"]}),
]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
