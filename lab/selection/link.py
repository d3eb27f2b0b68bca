"""Network interfaces as Cilium's device table sees them. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from lab.topology import Interface, Node


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as Cilium's device table sees it. `master` is the kind of the device it is enslaved to."""

    name: str
    index: int
    kind: str
    up: bool = True
    addresses: tuple[Interface, ...] = ()
    master: str | None = None
    loopback: bool = False
    slave: bool = False
    mtu: int = 1500


def links_of(node: Node) -> tuple[Link, ...]:
    """A lab node's interfaces before Cilium adds its own: `lo` and veths, with IPv6 link-locals when up."""
    found = [Link("lo", 1, "device", loopback=True, addresses=(ipaddress.ip_interface("127.0.0.1/8"),))]
    local = ipaddress.ip_interface("fe80::1/64")
    for index, (name, nic) in enumerate(node.nics.items(), 2):
        addresses = (*nic.addresses, *((local,) if nic.up else ()))
        found.append(Link(name, index, "veth", up=nic.up, addresses=addresses, mtu=nic.mtu))
    return tuple(found)
