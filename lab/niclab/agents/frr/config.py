"""FRR's configuration and programs. Pure, but for finding the programs.

Every session has timers of seconds and no pause before what is to be told: a lab waits for convergence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from niclab.cilium.bgp import Session, originated, sessions, speakers
from niclab.cilium.decisions import Decisions
from niclab.errors import LabError

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


def configuration(decisions: Decisions, name: str) -> str:
    """bgpd.conf of one speaker.

    A node rejects all it hears and only remembers it, as Cilium does (pkg/bgpv1/gobgp/server.go).
    """
    topology, numbers = decisions.topology, speakers(decisions.topology)
    assert topology.bgp is not None
    timers, imports = topology.bgp.timers, name in topology.bgp.routers
    mine = [session for session in sessions(topology) if session.own.host == name]
    lines = [f"hostname {name}"]
    if not imports:
        lines += [f"{words} prefix-list {_NOTHING} seq 5 deny any" for words in ("ip", "ipv6")]
    lines += [
        f"router bgp {numbers[name]}",
        f" bgp router-id {router_id(1 + list(numbers).index(name), mine)}",
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
            *([f"{peer} passive"] if session.passive else []),
        ]
    for family in sorted({session.family for session in mine}):
        lines.append(f" address-family ipv{family} unicast")
        lines += [f"  network {prefix}" for prefix in originated(decisions)[name] if prefix.version == family]
        for peer in [f"  neighbor {session.peer.address}" for session in mine if session.family == family]:
            lines += [f"{peer} activate", f"{peer} next-hop-self"]
            if not imports:
                lines += [f"{peer} soft-reconfiguration inbound", f"{peer} prefix-list {_NOTHING} in"]
        lines.append(" exit-address-family")
    return "\n".join(lines) + "\n"


def router_id(number: int, mine: Sequence[Session]) -> str:
    """A speaker's first IPv4 address of a session; where it has none, its place among the speakers."""
    own = (str(session.own.address) for session in mine if session.family == 4)
    return next(own, f"0.0.{number >> 8 & 0xFF}.{number & 0xFF}")
