"""The reverse path filter: is a packet believed that came in by this interface? Pure.

[kernel] fib_validate_source (net/ipv4/fib_frontend.c), asked when a packet from outside is routed, and for IPv4 alone.
The way back is looked up as for an answer that comes in where the packet is to leave, or is the host's own where the
packet is for the host. `1`, strict: it must lead out of the interface that the packet came in by, by any of the route's
hops; `2`, loose: there must be one.
What counts is the larger of `conf.all` and the interface's own (Documentation/networking/ip-sysctl.rst).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from niclab.kernel.fib import Lookup

OFF, STRICT, LOOSE = 0, 1, 2
ALL, DEFAULT = "all", "default"
_KEY = re.compile(r"net[./]ipv4[./]conf[./](.+)[./](rp_filter|src_valid_mark|arp_ignore)")


def key(interface: str, name: str = "rp_filter") -> str:
    """The sysctl of an interface; a dot in its name is no separator."""
    return f"net/ipv4/conf/{interface}/{name}"


def configured(sysctls: Mapping[str, str], name: str = "rp_filter") -> dict[str, int]:
    """Interface, `all` or `default` → the value that a host's sysctls give it."""
    matches = ((match, value) for sysctl, value in sysctls.items() if (match := _KEY.fullmatch(sysctl)))
    return {match[1]: int(value) for match, value in matches if match[2] == name and value.strip().isdecimal()}


def filters(sysctls: Mapping[str, str], interfaces: Iterable[str]) -> dict[str, int]:
    """Interface → its filter, of those that have one. `default` is for interfaces that are made later."""
    modes = configured(sysctls)
    modes = {name: max(modes.get(ALL, OFF), modes.get(name, OFF)) for name in interfaces}
    return {name: mode for name, mode in modes.items() if mode}


def believed(mode: int, iif: str, back: Lookup | None, *, addressed: bool = True) -> bool:
    """Does a packet pass, whose way back is `back`? An interface without an address is strict in either mode."""
    if mode == OFF:
        return True
    if back is None or back.route.kind != "unicast":
        return False
    return (mode == LOOSE and addressed) or iif in back.devices
