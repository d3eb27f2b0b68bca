"""Asking an FRR daemon: the words of vtysh, over the daemon's own Unix socket (lib/vty.c, vtysh/vtysh.c).

A command ends in a NUL; its answer ends in three, and a status byte. Starting vtysh instead costs 40 ms of CPU a time.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from niclab.errors import NoAnswer
from niclab.net.route import FAMILIES, Address, Network, ip_address, ip_network

TIMEOUT = 5.0
"""Seconds; a daemon answers in milliseconds."""
_END = b"\0\0\0"
Table = dict[Network, frozenset[Address]]
"""Prefix → next hops."""


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
