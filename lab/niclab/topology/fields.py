"""What topology files are written in: the types of their fields, each parsed from words. Raise ValueError."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema

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


def or_empty(value: Any) -> Any:
    return {} if value is None else value


def parsed(kind: type[_T] | tuple[type[_T], ...], parse: Callable[[str], _T]) -> PlainValidator:
    def validate(value: Any) -> _T:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is not text")
        return parse(value)

    return PlainValidator(validate)


def shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return str(value)


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


def words(description: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, **more})


RouteWords = Annotated[
    Route,
    parsed(Route, parse_route),
    PlainSerializer(str),
    words("a route in iproute2's words", examples=["default via 10.0.0.254 dev eth0"]),
]
RuleWords = Annotated[
    Rule,
    parsed(Rule, parse_rule),
    PlainSerializer(str),
    words("a rule in iproute2's words", examples=["from 10.244.1.0/24 lookup 100"]),
]
IpAddress = Annotated[
    Address,
    parsed((ipaddress.IPv4Address, ipaddress.IPv6Address), _ip),
    PlainSerializer(str),
    words("an IP address", examples=["10.0.0.1"]),
]
IpNetwork = Annotated[
    Network,
    parsed((IPv4Network, IPv6Network), _network),
    PlainSerializer(str),
    words("ADDRESS/LENGTH without host bits", examples=["10.0.0.0/24"], pattern="/"),
]
IpInterface = Annotated[
    Interface,
    parsed((IPv4Interface, IPv6Interface), parse_interface),
    PlainSerializer(str),
    words("ADDRESS/LENGTH", examples=["10.0.0.1/24"], pattern="/"),
]
Mac = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$", to_lower=True),
    words("a MAC address", examples=["02:00:00:00:00:01"]),
]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
