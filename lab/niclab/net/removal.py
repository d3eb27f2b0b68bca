"""Kernel operations that take away what those of `niclab.net.operation` made."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from niclab.net.route import Address, Route, Rule


@dataclass(frozen=True, slots=True)
class DelLink:
    """Remove an interface. Of a cable both ends go; addresses and routes on it go with it."""

    namespace: str
    name: str

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} link delete {self.name}"]


@dataclass(frozen=True, slots=True)
class DelAddress:
    """Remove an address, and with it the connected route and those that have it as their source."""

    namespace: str
    dev: str
    interface: IPv4Interface | IPv6Interface

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} addr del {self.interface} dev {self.dev}"]


@dataclass(frozen=True, slots=True)
class DelRoute:
    """Remove a route."""

    namespace: str
    route: Route

    def lines(self) -> list[str]:
        family = "-6 " if self.route.family == 6 else ""
        return [f"ip {family}-n {self.namespace} route del {str(self.route).removeprefix('-6 ')}"]


@dataclass(frozen=True, slots=True)
class DelRule:
    """Remove a policy-routing rule."""

    namespace: str
    rule: Rule

    def lines(self) -> list[str]:
        family = "-6 " if self.rule.family == 6 else ""
        return [f"ip {family}-n {self.namespace} rule del {str(self.rule).removeprefix('-6 ')}"]


@dataclass(frozen=True, slots=True)
class DelNeighbour:
    """Remove a neighbour entry."""

    namespace: str
    dev: str
    address: Address

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} neigh del {self.address} dev {self.dev}"]
