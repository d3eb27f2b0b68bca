"""How a host's interfaces stand on one another: which NICs carry a link's frames, and whose a frame is. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from niclab.topology.model import Host, Link, Nic, Topology


class Segment(NamedTuple):
    """What a host can send to over an interface: a fabric, or one VLAN of it."""

    fabric: str
    vlan: int | None = None

    def __str__(self) -> str:
        return self.fabric if self.vlan is None else f"{self.fabric}, VLAN {self.vlan}"


def needs(topology: Topology) -> tuple[str, ...]:
    """The kernel features that a topology cannot be built without, as `niclab check` names them."""
    kinds = {link.kind for host in topology.hosts.values() for link in host.links.values()}
    return tuple(sorted(kinds - {"bridge", "loopback"}))


def master_of(host: Host, name: str) -> str | None:
    """The bond, bridge or VRF that an interface is enslaved to."""
    return next((owner for owner, link in host.links.items() if name in link.members), None)


def vrf_of(host: Host, name: str) -> Link | None:
    master = master_of(host, name)
    return host.links[master] if master is not None and host.links[master].kind == "vrf" else None


def is_up(host: Host, name: str) -> bool:
    """Administratively; a VLAN goes up and down with its parent [kernel]."""
    interface = host.interfaces.get(name)
    if interface is None:
        return name == "lo"
    parent = interface.parent if isinstance(interface, Link) else None
    return interface.up and (parent is None or is_up(host, parent))


def mtu_of(host: Host, name: str) -> int:
    """In bytes; of a link that says nothing the lowest of what it stands on."""
    interface = host.interfaces[name]
    if interface.mtu is not None:
        return interface.mtu
    below = () if interface.kind == "vrf" else interface.below
    return min((mtu_of(host, under) for under in below), default=65536 if name == "lo" else 1500)


def carriers(host: Host, name: str) -> tuple[str, ...]:
    """The NICs by one of which a frame of this interface leaves: several where a bond's policy or partner chooses.

    An active-backup bond uses the first that is up: the plan makes its first NIC its `primary`. Of a `broadcast` bond
    every NIC sends each frame.
    """
    interface = host.interfaces.get(name)
    if interface is None:
        return ()
    if isinstance(interface, Nic):
        return (name,)
    if not is_up(host, name) or interface.kind == "vrf":
        return ()
    below = [nic for under in interface.below for nic in carriers(host, under) if is_up(host, under)]
    return tuple(
        below[:1] if interface.kind == "bond" and (interface.mode or "active-backup") == "active-backup" else below
    )


def sends_by_all(host: Host, name: str) -> bool:
    """Does every one of its carriers send each frame? [kernel] a bond in mode broadcast"""
    link = host.links.get(name)
    return link is not None and (link.mode == "broadcast" or any(sends_by_all(host, under) for under in link.below))


def stands_in(topology: Topology) -> Iterator[str]:
    """Where a lab is built otherwise than the topology says."""
    for host, name, interface in topology.interface_pairs():
        if isinstance(interface, Link) and interface.mode == "802.3ad":
            yield f"{host}.{name}: a lab's fabrics speak no LACP: it is built as balance-xor, predicted as 802.3ad"


def segment(host: Host, name: str) -> Segment | None:
    """Where an interface's frames go; None for one that leads nowhere."""
    interface = host.interfaces.get(name)
    if isinstance(interface, Nic):
        return Segment(interface.fabric)
    if interface is None:
        return None
    under = next((place_below for below in interface.below if (place_below := segment(host, below))), None)
    if under is None or interface.kind == "vrf":
        return None
    return Segment(under.fabric, interface.vlan) if interface.vlan is not None else under


def listening(host: Host) -> Iterator[tuple[Segment, str]]:
    """The interfaces that receive what is on a segment, the topmost of each stack."""
    if not host.links:
        yield from ((Segment(nic.fabric), name) for name, nic in host.nics.items() if nic.up)
        return
    for name in host.interfaces:
        master = master_of(host, name)
        enslaved = master is not None and host.links[master].kind != "vrf"
        place = None if enslaved else segment(host, name)
        if place is not None and is_up(host, name) and carriers(host, name):
            yield place, name


def below(host: Host, name: str) -> Iterator[str]:
    """Every NIC that an interface stands on, itself if it is one, whichever of them are up."""
    interface = host.interfaces.get(name)
    if isinstance(interface, Nic):
        yield name
    elif interface is not None and interface.kind != "vrf":
        for under in interface.below:
            yield from below(host, under)


def vlans(topology: Topology) -> dict[tuple[str, int], str]:
    """(Tap `node1.eth0`, tag) → the interface of that host whose frames these are."""
    return {
        (f"{owner}.{nic}", place.vlan): name
        for owner, host in topology.hosts.items()
        if host.links
        for place, name in listening(host)
        if place.vlan is not None
        for nic in below(host, name)
    }
