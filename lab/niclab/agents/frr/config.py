"""FRR's configuration and programs. Pure, but for finding the programs.

Every session has timers of seconds and no pause before what is to be told: a lab waits for convergence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from niclab.cilium.bgp import Session
from niclab.errors import LabError
from niclab.net.route import FAMILIES, Family, Network
from niclab.topology.model import BgpTimers

HOME = Path("/usr/lib/frr")
"""Where Debian, Ubuntu and FRR's own packages have the daemons; they are not on PATH."""
PROGRAMS = ("zebra", "bgpd")
_NOTHING = "nothing"


def find() -> Path:
    """The directory of FRR's daemons. Raises LabError where it is not installed."""
    missing = [name for name in PROGRAMS if not (HOME / name).is_file()]
    if missing:
        raise LabError(
            f"FRR is not installed: there is no {HOME / missing[0]}",
            why="the routers of this topology speak BGP (its section `bgp`)",
            fix="apt-get install frr (its service is not needed), or use a topology without `bgp`",
        )
    return HOME


def configuration(
    name: str,
    mine: Sequence[Session],
    *,
    asn: int,
    router_id: str,
    timers: BgpTimers,
    advertised: Iterable[Network] = (),
    imports: bool = True,
) -> str:
    """bgpd.conf of one speaker. `mine` are its sessions, `advertised` the prefixes it originates.

    Without `imports` it rejects all it hears and only remembers it, as Cilium does (pkg/bgpv1/gobgp/server.go).
    """
    lines = [f"hostname {name}"]
    if not imports:
        lines += [f"{words} prefix-list {_NOTHING} seq 5 deny any" for words in ("ip", "ipv6")]
    lines += [
        f"router bgp {asn}",
        f" bgp router-id {router_id}",
        " no bgp default ipv4-unicast",
        # RFC 8212 would have a filter on every external session.
        " no bgp ebgp-requires-policy",
        # What a node advertises is in no routing table of its own.
        " no bgp network import-check",
        " bgp bestpath as-path multipath-relax",
        " coalesce-time 0",
        f" timers bgp {timers.keepalive} {timers.hold}",
    ]
    for session in mine:
        peer = f" neighbor {session.peer.address}"
        lines += [
            f"{peer} remote-as {session.peer.asn}",
            f"{peer} description {session.peer.tap}",
            f"{peer} timers connect {timers.connect}",
            f"{peer} advertisement-interval 0",
        ]
        if session.passive:
            lines.append(f"{peer} passive")
    for family in FAMILIES:
        lines += _family(family, [one for one in mine if one.family == family], advertised, imports=imports)
    return "\n".join(lines) + "\n"


def _family(family: Family, mine: Sequence[Session], advertised: Iterable[Network], *, imports: bool) -> list[str]:
    if not mine:
        return []
    lines = [f" address-family ipv{family} unicast"]
    lines += [f"  network {prefix}" for prefix in advertised if prefix.version == family]
    for session in mine:
        peer = f"  neighbor {session.peer.address}"
        lines += [f"{peer} activate", f"{peer} next-hop-self"]
        if not imports:
            lines += [f"{peer} soft-reconfiguration inbound", f"{peer} prefix-list {_NOTHING} in"]
    return [*lines, " exit-address-family"]


def router_id(number: int, mine: Sequence[Session]) -> str:
    """A speaker's first IPv4 address of a session; where it has none, its place among the speakers."""
    own = (str(session.own.address) for session in mine if session.family == 4)
    return next(own, f"0.0.{number >> 8 & 0xFF}.{number & 0xFF}")
