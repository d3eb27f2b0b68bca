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
from niclab.net.route import FAMILIES, Address, Family, Network, ip_address, ip_network

TIMEOUT = 5.0
"""Seconds; a daemon answers in milliseconds."""
_END = b"\0\0\0"


def ask(path: Path, command: str) -> str:
    """A daemon's answer to a command, over its socket. Raises NoAnswer: silence is not an empty table."""
    why = "it closed the connection"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        try:
            sock.settimeout(TIMEOUT)
            sock.connect(str(path))
            sock.sendall(command.encode() + b"\0")
            data = bytearray()
            while part := sock.recv(1 << 16):
                data += part
                if data[-4:-1] == _END:
                    return data[:-4].decode(errors="replace")
        except OSError as error:
            why = error.strerror or str(error)
    raise NoAnswer(f"{path.stem} of {path.parent.name} does not answer {command!r}", why=why)


def ask_json(path: Path, command: str) -> dict[str, Any]:
    """The object a daemon prints; {} when it prints nothing. Raises NoAnswer, also for what is no object."""
    answer = ask(path, f"{command} json").strip()
    try:
        printed = json.loads(answer or "{}")
    except ValueError:
        printed = None
    if not isinstance(printed, dict):
        raise NoAnswer(f"{path.stem} of {path.parent.name} does not answer {command!r} in JSON", why=answer[:200])
    return printed


def rib(path: Path, families: tuple[Family, ...] = FAMILIES) -> dict[Network, frozenset[Address]]:
    """What bgpd uses: prefix → next hops."""
    found: dict[Network, frozenset[Address]] = {}
    for family in families:
        found |= used(ask_json(path, f"show bgp ipv{family} unicast"))
    return found


def heard(path: Path, peers: Iterable[Address]) -> dict[Network, frozenset[Address]]:
    """What peers have told bgpd, used or not: prefix → the next hops they gave.

    Without zebra bgpd refuses IPv6 routes with a link-local next hop beside the global one, which FRR's routers send.
    """
    found: dict[Network, frozenset[Address]] = {}
    for peer in peers:
        told = ask_json(path, f"show bgp ipv{peer.version} unicast neighbors {peer} received-routes")
        for prefix, route in (told.get("receivedRoutes") or {}).items():
            hop = route.get("nextHop") or route.get("nextHopGlobal")
            if hop:
                network = ip_network(prefix)
                found[network] = found.get(network, frozenset()) | {ip_address(hop)}
    return found


def installed(path: Path, families: tuple[Family, ...] = FAMILIES) -> dict[Network, frozenset[Address]]:
    """BGP's routes that zebra has brought to the kernel, which takes a moment longer: prefix → gateways."""
    found: dict[Network, frozenset[Address]] = {}
    for family in families:
        for prefix, routes in ask_json(path, f"show {'ip' if family == 4 else 'ipv6'} route bgp").items():
            hops = [hop for route in routes if route.get("installed") for hop in route.get("nexthops") or ()]
            if hops:
                found[ip_network(prefix)] = frozenset(ip_address(hop["ip"]) for hop in hops if hop.get("fib"))
    return found


def used(table: Mapping[str, Any]) -> dict[Network, frozenset[Address]]:
    """The paths in use that were learned, from `show bgp … unicast json`. Of IPv6's two next hops the global one."""
    found: dict[Network, frozenset[Address]] = {}
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


def states(path: Path, families: tuple[Family, ...] = FAMILIES) -> dict[Address, str]:
    """Peer → the state of its session, as bgpd names it: `Established`, `Active` …"""
    found: dict[Address, str] = {}
    for family in families:
        summary = ask_json(path, f"show bgp ipv{family} unicast summary")
        for peer, about in (summary.get("peers") or {}).items():
            found[ip_address(peer)] = str(about.get("state"))
    return found
