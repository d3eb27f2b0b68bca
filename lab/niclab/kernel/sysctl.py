"""The sysctls that a network namespace has: which keys exist, and what is wrong with one that does not. Pure.

sysctl(8) takes either separator, `net.ipv4.conf.eth0.rp_filter` or `net/ipv4/conf/eth0.100/rp_filter`: the first one in
the key counts, so that a NIC with a dot in its name can be written.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache

from niclab.errors import closest, nearest
from niclab.topology.yamlfile import data_lines

# Slashes where the kernel has them, or dots; `..` would leave the host's own part of /proc/sys.
_OF_NAMESPACE = re.compile(r"net(/[\w+-][\w.+-]*)+|net(\.[\w+-]+)+")
_OF_INTERFACE = re.compile(r"net([./])(ipv[46]|mpls)\1(conf|neigh)\1(.+)\1([^./]+)")


def refusal(key: str, interfaces: Collection[str] | None = None) -> tuple[str, str] | None:
    """Why a host with these NICs and links has no such sysctl, and how to fix it; or None.

    Without `interfaces` only the key is looked at, whatever the NIC that it names.
    """
    if not _OF_NAMESPACE.fullmatch(key):
        why = f"{key} does not belong to a network namespace"
        return why, "only net.* keys are a host's own; others would change the machine"
    match = _OF_INTERFACE.fullmatch(key)
    pattern = key.replace(key[3], "/")[4:] if match is None else f"{match[2]}/{match[3]}/*/{match[5]}"
    if pattern not in _patterns():
        return f"no network namespace has the sysctl {key}", _nearest(pattern, key[3], match[4] if match else "NIC")
    every = ("all", "default") if match and match[3] == "conf" and match[2] != "mpls" else ()
    if match and interfaces is not None and match[4] not in ("lo", *interfaces, *every):
        return f"there is no NIC {match[4]!r} here", nearest(match[4], interfaces)
    return None


def _nearest(pattern: str, separator: str, interface: str) -> str:
    close = closest(pattern, _patterns())
    if close is None:
        return "see /proc/sys/net of a network namespace for the keys there are"
    words = ["net", *(interface if word == "*" else word for word in close.split("/"))]
    return f"did you mean {separator.join(words)}?"


@cache
def _patterns() -> tuple[str, ...]:
    return tuple(data_lines("niclab.kernel", "sysctls.txt"))
