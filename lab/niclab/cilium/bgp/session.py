"""BGP sessions, as they follow from a topology. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from niclab.net.route import FAMILIES, Address, Family, family_of
from niclab.topology import Host, Interface, Topology

_Place = tuple[str, Address]
"""A NIC's name, and an address it has."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a session: whose, by which NIC, at which address, in which autonomous system."""

    host: str
    nic: str
    address: Address
    asn: int

    @property
    def tap(self) -> str:
        return f"{self.host}.{self.nic}"


@dataclass(frozen=True, slots=True)
class Session:
    """A session as one of its two speakers sees it. It carries the prefixes of its addresses' family.

    `passive`: the other one dials. Cilium dials and does not listen, so routers wait for nodes.
    """

    own: End
    peer: End
    passive: bool

    @property
    def family(self) -> Family:
        return family_of(self.own.address)


def speakers(topology: Topology) -> dict[str, int]:
    """Who speaks BGP, routers first → the number of its autonomous system."""
    bgp = topology.bgp
    if bgp is None:
        return {}
    return {
        **{name: router.asn for name, router in bgp.routers.items()},
        **dict.fromkeys(topology.nodes, bgp.nodes.asn),
    }


def sessions(topology: Topology) -> tuple[Session, ...]:
    """Every session twice, once for each end; in the order of the speakers."""
    numbers = speakers(topology)
    found: list[Session] = []
    for one, other in combinations(numbers, 2):
        if one in topology.nodes and other in topology.nodes:
            continue
        for mine, theirs in _ends(topology, one, other):
            own, peer = End(one, *mine, numbers[one]), End(other, *theirs, numbers[other])
            found += [Session(own, peer, passive=True), Session(peer, own, passive=False)]
    order = list(numbers)
    return tuple(sorted(found, key=lambda session: order.index(session.own.host)))


def _ends(topology: Topology, one: str, other: str) -> Iterator[tuple[_Place, _Place]]:
    """Where two speakers meet: on each fabric they share, once for each family in which they have a common network."""
    for fabric in topology.fabrics:
        for family in FAMILIES:
            places = (
                ((mine, near.ip), (theirs, far.ip))
                for mine, near in _on(topology.hosts[one], fabric, family)
                for theirs, far in _on(topology.hosts[other], fabric, family)
                if near.ip in far.network and far.ip in near.network
            )
            met = next(places, None)
            if met is not None:
                yield met


def _on(host: Host, fabric: str, family: Family) -> Iterator[tuple[str, Interface]]:
    """A host's addresses on one fabric, with the NICs that have them."""
    for name, nic in host.nics.items():
        if nic.fabric == fabric and nic.up:
            for interface in nic.addresses_of(family):
                yield name, interface
