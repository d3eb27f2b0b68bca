"""When links are ready to carry: what the kernel finishes only after it has acknowledged a message.

Bringing a link up returns at once; linkwatch (net/core/link_watch.c) activates it a moment later from a work queue.
Until then its transmit queue is a `noop`, which drops everything: a new lab's first packets would be lost silently.
The queueing discipline's name does not tell: a link brought up before its peer shows `noqueue` from the beginning. Its
operational state does, which linkwatch changes together with the queue.

IPv6 is later still: an address joins its solicited-node multicast group (RFC 4291 §2.7.1), and a link-local one stops
being tentative, in a work queue (net/ipv6/addrconf.c, addrconf_dad_work) that waits for the lock of all namespaces.
Until then nobody can resolve the neighbour, and the next solicitation comes only a second later.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

import tenacity

from niclab.errors import LabError
from niclab.host.message import IFF_UP, IFLA, attributes
from niclab.host.netns import Namespace
from niclab.host.substrate import Substrate

# include/uapi/linux/rtnetlink.h, if_addr.h
_RTM_NEWADDR, _RTM_GETADDR, _RTM_GETMULTICAST = 20, 22, 58
_IFA_ADDRESS, _IFA_LOCAL, _IFA_MULTICAST, _IFA_FLAGS = 1, 2, 7, 8
_IFA_F_TENTATIVE, _IFA_F_DADFAILED = 0x40, 0x08
_IFF_LOOPBACK, _IFF_NOARP = 0x8, 0x80
_IFLA_OPERSTATE, _IFLA_CARRIER = 16, 33
_IFLA_INFO_KIND = 1
_IF_OPER_UNKNOWN, _IF_OPER_UP = 0, 6
_IN6 = struct.pack("=BBBBI", socket.AF_INET6, 0, 0, 0, 0)
_GLOBAL = 0
_ACTIVATED = ("veth", "bridge")
"""Kinds that linkwatch activates, and whose state is unknown before it has. Others (lo, vxlan) have a carrier from the
beginning, are activated at once, and stay unknown."""
DEADLINE = 5.0
"""Seconds; the kernel needs milliseconds."""


def waiting_links(links: list[bytes]) -> list[str]:
    """The names of the links that are up, have a carrier, and are not activated yet."""
    return [name for name, waits in map(_link, links) if waits]


def _link(body: bytes) -> tuple[str, bool]:
    """Its name, and whether it still has to be activated."""
    found = dict(attributes(body[16:]))
    name = found[IFLA["IFNAME"]].rstrip(b"\0").decode()
    kind = dict(attributes(found.get(IFLA["LINKINFO"], b""))).get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    up = struct.unpack_from("=I", body, 8)[0] & IFF_UP
    carrier = found.get(_IFLA_CARRIER, b"\0") != b"\0"
    ready = (_IF_OPER_UP,) if kind in _ACTIVATED else (_IF_OPER_UP, _IF_OPER_UNKNOWN)
    return name, bool(up and carrier and found[_IFLA_OPERSTATE][0] not in ready)


def waiting_addresses(links: Iterable[bytes], addresses: Iterable[bytes], groups: Iterable[bytes]) -> list[str]:
    """The IPv6 addresses, on links that carry and resolve neighbours, that cannot be used or resolved yet.

    `addresses` and `groups` are the answers to RTM_GETADDR and RTM_GETMULTICAST.
    """
    resolving = {struct.unpack_from("=i", body, 4)[0] for body in links if _resolves(body)}
    joined = {_index_and(_IFA_MULTICAST, body) for body in groups}
    late = []
    for body in addresses:
        found = dict(attributes(body[8:]))
        index = struct.unpack_from("=I", body, 4)[0]
        address = found.get(_IFA_LOCAL, found[_IFA_ADDRESS])
        flags = struct.unpack("=I", found[_IFA_FLAGS])[0] if _IFA_FLAGS in found else body[2]
        group = bytes.fromhex("ff0200000000000000000001ff") + address[-3:]
        unresolved = flags & _IFA_F_TENTATIVE or (index, group) not in joined
        if index in resolving and unresolved and not flags & _IFA_F_DADFAILED:
            late.append(socket.inet_ntop(socket.AF_INET6, address))
    return late


def _resolves(link: bytes) -> bool:
    flags = struct.unpack_from("=I", link, 8)[0]
    carrier = dict(attributes(link[16:])).get(_IFLA_CARRIER, b"\0") != b"\0"
    return bool(flags & IFF_UP and carrier and not flags & (_IFF_LOOPBACK | _IFF_NOARP))


def _index_and(kind: int, body: bytes) -> tuple[int, bytes]:
    return struct.unpack_from("=I", body, 4)[0], dict(attributes(body[8:])).get(kind, b"")


def _late(one: Namespace) -> list[str]:
    """What of a namespace is not ready: its links, and where it has IPv6 addresses of its own, those."""
    links = one.channel.dump_links()
    late = waiting_links(links)
    addresses = one.channel.dump(_RTM_GETADDR, _RTM_NEWADDR, _IN6)
    if any(body[3] == _GLOBAL for body in addresses):
        late += waiting_addresses(links, addresses, one.channel.dump(_RTM_GETMULTICAST, _RTM_GETMULTICAST, _IN6))
    return [f"{one.name}: {name}" for name in late]


def wait(substrate: Substrate) -> None:
    """Return when every link of the lab carries and every IPv6 address is resolved. Raises LabError after DEADLINE."""
    waiting = list(substrate)

    def late() -> list[str]:
        found = {one.role: _late(one) for one in waiting}
        waiting[:] = [one for one in waiting if found[one.role]]
        return [name for names in found.values() for name in names]

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(bool),
        wait=tenacity.wait_fixed(0.001),
        stop=tenacity.stop_after_delay(DEADLINE),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else [],
    )
    found = retrying(late)
    if found:
        raise LabError(
            f"links were not ready after {DEADLINE:g} s: {', '.join(found)}",
            fix="is the machine overloaded? try again",
        )
