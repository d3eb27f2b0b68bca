"""FRR's daemons: where they are, how bgpd is configured, and how they are asked.

Every session has timers of seconds and no pause before what is to be told: a lab waits for convergence. A daemon is
asked in the words of vtysh, over its own Unix socket (lib/vty.c, vtysh/vtysh.c): a command ends in a NUL; its answer
ends in three, and a status byte. Starting vtysh instead costs 40 ms of CPU a time.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from niclab.cilium.bgp import Session, originated, sessions, speakers
from niclab.cilium.decisions import Decisions
from niclab.errors import LabError, NoAnswer
from niclab.net.route import FAMILIES, Address, Network, ip_address, ip_network

HOME = Path("/usr/lib/frr")
"""Where Debian, Ubuntu and FRR's own packages have the daemons; they are not on PATH."""
PROGRAMS = ("zebra", "bgpd")
_NOTHING = "nothing"
TIMEOUT = 5.0
"""Seconds; a daemon answers in milliseconds."""
_END = b"\0\0\0"
Table = dict[Network, frozenset[Address]]
"""Prefix → next hops."""


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


def ask(path: Path, command: str) -> dict[str, Any]:
    """The object a daemon prints for a command; {} when it prints nothing. Raises NoAnswer, also for what is no object:
    silence is not an empty table."""
    data, why = bytearray(), "it closed the connection"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        try:
            sock.settimeout(TIMEOUT)
            sock.connect(str(path))
            sock.sendall(f"{command} json\0".encode())
            while data[-4:-1] != _END and (part := sock.recv(1 << 16)):
                data += part
        except OSError as error:
            why = error.strerror or str(error)
    if data[-4:-1] == _END:
        text = data[:-4].decode(errors="replace").strip()
        with contextlib.suppress(ValueError):
            if isinstance(printed := json.loads(text or "{}"), dict):
                return printed
        why = f"this is not JSON: {text[:200]}"
    raise NoAnswer(f"{path.stem} of {path.parent.name} does not answer {command!r}", why=why)


def rib(path: Path) -> Table:
    """What bgpd uses: prefix → next hops."""
    found: Table = {}
    for family in FAMILIES:
        found |= used(ask(path, f"show bgp ipv{family} unicast"))
    return found


def heard(path: Path, peers: Iterable[Address]) -> Table:
    """What peers have told bgpd, used or not: prefix → the next hops they gave.

    Without zebra bgpd refuses IPv6 routes with a link-local next hop beside the global one, which FRR's routers send.
    """
    found: Table = {}
    for peer in peers:
        received = ask(path, f"show bgp ipv{peer.version} unicast neighbors {peer} received-routes")
        for prefix, route in (received.get("receivedRoutes") or {}).items():
            if hop := route.get("nextHop") or route.get("nextHopGlobal"):
                network = ip_network(prefix)
                found[network] = found.get(network, frozenset()) | {ip_address(hop)}
    return found


def installed(path: Path) -> Table:
    """BGP's routes that zebra has brought to the kernel, which takes a moment longer: prefix → gateways."""
    found: Table = {}
    for words in ("ip", "ipv6"):
        for prefix, routes in ask(path, f"show {words} route bgp").items():
            hops = [hop for route in routes if route.get("installed") for hop in route.get("nexthops") or ()]
            if hops:
                found[ip_network(prefix)] = frozenset(ip_address(hop["ip"]) for hop in hops if hop.get("fib"))
    return found


def used(table: Mapping[str, Any]) -> Table:
    """The paths in use that were learned, from `show bgp … unicast json`. Of IPv6's two next hops the global one."""
    found: Table = {}
    for prefix, paths in (table.get("routes") or {}).items():
        hops = [
            ip_address(hop["ip"])
            for path in paths
            if path.get("valid") and (path.get("bestpath") or path.get("multipath"))
            for hop in path.get("nexthops") or ()
            if hop.get("scope") != "link-local" and not ip_address(hop["ip"]).is_unspecified
        ]
        if hops:
            found[ip_network(prefix)] = frozenset(hops)
    return found


def states(path: Path) -> dict[Address, str]:
    """Peer → the state of its session, as bgpd names it: `Established`, `Active` …"""
    found: dict[Address, str] = {}
    for family in FAMILIES:
        summary = ask(path, f"show bgp ipv{family} unicast summary")
        found |= {ip_address(peer): str(about.get("state")) for peer, about in (summary.get("peers") or {}).items()}
    return found
