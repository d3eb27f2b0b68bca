"""What must hold of a topology's `bgp` section beyond each field's own type."""

from __future__ import annotations

from collections.abc import Iterator

from niclab.errors import Finding, nearest
from niclab.topology.model import Topology


def check(topology: Topology) -> Iterator[Finding]:
    """What is wrong with who speaks BGP, and with the timers."""
    bgp = topology.bgp
    if bgp is None:
        return
    timers = bgp.timers
    if timers.keepalive > timers.hold:
        why = f"keepalives every {timers.keepalive} s are too late for a hold time of {timers.hold} s"
        yield Finding(("bgp", "timers", "keepalive"), why, "a third of the hold time is usual")
    for name in bgp.routers:
        if name not in topology.routers:
            why = f"{name!r} is no router of this topology"
            yield Finding(("bgp", "routers", name), why, nearest(name, topology.routers))
    networks = {
        name: {(nic.fabric, own.network) for nic in host.nics.values() if nic.up for own in nic.addresses}
        for name, host in topology.hosts.items()
    }
    known = [name for name in bgp.routers if name in topology.routers]
    speakers = {**{name: bgp.routers[name].asn for name in known}, **dict.fromkeys(topology.nodes, bgp.nodes.asn)}
    for name in known:
        peers = [(other, asn) for other, asn in speakers.items() if other != name and networks[name] & networks[other]]
        if not peers:
            why = f"{name} shares no network with a node or another router that speaks BGP"
            yield Finding(("bgp", "routers", name), why, "give it a NIC on a fabric of theirs, or leave it out")
        asn = bgp.routers[name].asn
        same = next((peer for peer, theirs in peers if theirs == asn), None)
        if same is not None:
            why = f"{same} is in AS {asn} too, and the lab knows external sessions only"
            yield Finding(("bgp", "routers", name, "asn"), why, "give every router a number of its own")
