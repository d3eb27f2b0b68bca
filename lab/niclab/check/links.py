"""What must hold of links: that they stand on what is there, once, without going round in a circle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile

from niclab.errors import Finding, nearest
from niclab.kernel.plan import END
from niclab.topology.model import Host, Link
from niclab.topology.stacking import mtu_of, segment
from niclab.topology.yamlfile import Field

RESERVED = re.compile(rf"cilium_|lxc|{END}[0-9]+$")
"""Of names that the lab or Cilium gives to interfaces of its own (pkg/defaults/node.go ExcludedDevicePrefixes)."""
_RESERVED_NAMES = frozenset({"all", "default"})


def check(section: str, name: str, host: Host) -> Iterator[Finding]:
    """Everything wrong with a host's links. What stands on something that is wrong is not looked at."""
    owners: dict[str, str] = {}
    for link_name, link in host.links.items():
        path: Field = (section, name, "links", link_name)
        yield from _name(host, link_name, link, path)
        problems = list(_below(host, link_name, link, path, owners))
        yield from problems
        if problems or not all(lower in host.interfaces for lower in _everything_below(host, link_name)):
            continue
        if _circle(host, link_name):
            yield Finding(path, f"{link_name} stands on itself", "a link stands on NICs, or on links that do")
        elif link.kind in ("bond", "bridge", "vlan"):
            yield from _stands(host, link, path)


def _name(host: Host, name: str, link: Link, path: Field) -> Iterator[Finding]:
    if name in host.nics:
        yield Finding(path, f"{name!r} is already the name of a NIC", "give every interface its own name")
    if name in _RESERVED_NAMES or RESERVED.match(name):
        yield Finding(path, f"the kernel, Cilium or the lab uses the name {name!r}", "name it bond0, br0, eth0.100, …")
    if (name == "lo") != (link.kind == "loopback"):
        why = "`lo` is the loopback interface" if name == "lo" else "nothing says what kind of link it is"
        yield Finding(path, why, "say one of bond, bridge, vlan, vrf and dummy; of `lo` only addresses")


def _below(host: Host, name: str, link: Link, path: Field, owners: dict[str, str]) -> Iterator[Finding]:
    if link.bond is not None and not link.bond:
        yield Finding((*path, "bond"), "a bond without a NIC", "bond: [eth0, eth1]")
    for lower in link.below:
        where: Field = (*path, "parent" if link.vlan is not None else link.kind)
        if lower not in host.interfaces or lower == "lo":
            yield Finding(where, f"there is no NIC {lower!r} here", nearest(lower, host.interfaces))
            continue
        if link.vlan is None and lower in owners:
            yield Finding(where, f"{lower} belongs to {owners[lower]} already", "an interface has one master")
        if link.kind in ("bond", "bridge"):
            if host.interfaces[lower].addresses:
                yield Finding(where, f"{lower} has addresses, which are dead there", f"give them to {name}")
            if any(other.parent == lower for other in host.links.values()):
                yield Finding(where, f"a VLAN stands on {lower}, which is no port of its own", f"put it on {name}")
            owners[lower] = name
        if link.kind == "bond" and lower not in host.nics:
            yield Finding(where, f"{lower} is no NIC", "a bond holds NICs")
    earlier = takewhile(lambda other: other != name, host.links)
    tag = (link.vlan, link.parent)
    same = next((other for other in earlier if (host.links[other].vlan, host.links[other].parent) == tag), None)
    if same is not None and link.vlan is not None:
        yield Finding((*path, "vlan"), f"{same} is VLAN {link.vlan} of {link.parent} already", "use another tag")


def _everything_below(host: Host, name: str) -> set[str]:
    """All that a link stands on, by whatever is between, be it there or not."""
    under: set[str] = set()
    above = [name]
    while above:
        link = host.links.get(above.pop())
        fresh = {*(link.below if link is not None else ())} - under
        under |= fresh
        above += fresh
    return under


def _circle(host: Host, name: str, seen: tuple[str, ...] = ()) -> bool:
    """Does the link stand on itself, by whatever is between?"""
    link = host.links.get(name)
    return link is not None and any(
        lower in (*seen, name) or _circle(host, lower, (*seen, name)) for lower in link.below
    )


def _stands(host: Host, link: Link, path: Field) -> Iterator[Finding]:
    places = {segment(host, lower) for lower in link.below} - {None}
    if link.kind == "bond" and len(places) > 1:
        shown = ", ".join(sorted(map(str, places)))
        yield Finding((*path, "bond"), f"its NICs are on different fabrics: {shown}", "bond NICs of one fabric")
    if link.kind == "bridge" and len(link.members) > 1:
        why = "it would join its ports' fabrics, or make a loop in one"
        yield Finding((*path, "bridge"), why, "give it one port, or none")
    lowest = min((mtu_of(host, lower) for lower in link.below), default=65535)
    if link.mtu is not None and link.kind != "bond" and link.mtu > lowest:
        yield Finding(
            (*path, "mtu"), f"{link.mtu} is more than the {lowest} bytes below it", "lower it, or raise those"
        )
