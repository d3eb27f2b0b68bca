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

import errno
import functools
import operator
import socket
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, TypeVar

from niclab.errors import LabError
from niclab.host.netlink import Refusal
from niclab.host.netns import Namespace
from niclab.host.substrate import Substrate
from niclab.host.waiting import wait_until

# linux/if.h, if_addr.h, neighbour.h
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_IFA_F_TENTATIVE, _IFA_F_DADFAILED = 0x40, 0x08
_NUD_NOARP, _NUD_PERMANENT, _NTF_EXT_LEARNED = 0x40, 0x80, 0x10
_SCOPE, _GLOBAL = 16 + 3, 0
"""Where in an answer `ifa_scope` is: most namespaces have link-local addresses only, which need not be decoded."""
_ACTIVATED = ("veth", "bridge", "macvlan")
"""Kinds that linkwatch activates, and whose state is unknown before it has. Others (lo, vxlan) have a carrier from the
beginning, are activated at once, and stay unknown."""
T = TypeVar("T")
DEADLINE = 5.0
"""Seconds; the kernel needs milliseconds."""


@dataclass(frozen=True, slots=True)
class Link:
    """What of a link decides whether it is ready. `waits`: it is up, has a carrier, and is not activated yet."""

    index: int
    name: str
    waits: bool
    resolves: bool
    """Whether neighbours are asked for on it."""

    @classmethod
    def of(cls, message: Any) -> Link:
        """From an `ifinfmsg` of pyroute2."""
        info = message.get_attr("IFLA_LINKINFO")
        kind = info.get_attr("IFLA_INFO_KIND") if info is not None else ""
        flags = message["flags"]
        carries = bool(flags & _IFF_UP and message.get_attr("IFLA_CARRIER"))
        ready = ("UP",) if kind in _ACTIVATED else ("UP", "UNKNOWN")
        waits = carries and message.get_attr("IFLA_OPERSTATE") not in ready
        resolves = carries and not flags & (_IFF_LOOPBACK | _IFF_NOARP)
        return cls(message["index"], message.get_attr("IFLA_IFNAME"), waits, resolves)


def waiting_addresses(links: Iterable[Link], addresses: Iterable[Any], groups: Iterable[Any]) -> list[str]:
    """The IPv6 addresses, on links that carry and resolve neighbours, that cannot be used or resolved yet.

    `addresses` and `groups` are `ifaddrmsg` of pyroute2: the answers to RTM_GETADDR and RTM_GETMULTICAST.
    """
    resolving = {link.index for link in links if link.resolves}
    joined = {(group["index"], IPv6Address(group.get_attr("IFA_MULTICAST"))) for group in groups}
    late = []
    for entry in addresses:
        address = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
        flags = entry.get_attr("IFA_FLAGS", entry["flags"])
        unresolved = flags & _IFA_F_TENTATIVE or (entry["index"], _solicited(IPv6Address(address))) not in joined
        if entry["index"] in resolving and unresolved and not flags & _IFA_F_DADFAILED:
            late.append(address)
    return late


def _solicited(address: IPv6Address) -> IPv6Address:
    """The multicast group in which its neighbours ask for an address."""
    return IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + address.packed[-3:])


def _each(decode: Callable[[bytes], T]) -> Callable[[Iterable[bytes]], list[T]]:
    """Decodes answers, equal ones once: most are the same the next time they are asked for."""
    known = functools.lru_cache(None)(decode)
    # A header has a new sequence number each time.
    return lambda answers: [known(answer[:8] + bytes(8) + answer[16:]) for answer in answers]


def wait(substrate: Substrate) -> None:
    """Return when every link of the lab carries and every IPv6 address is resolved. Raises LabError after DEADLINE."""
    from niclab.host import messages  # pyroute2 takes a while to import

    links = _each(lambda answer: Link.of(messages.LINKS.decoded(answer)))
    addresses = _each(messages.IPV6_ADDRESSES.decoded)
    waiting = list(substrate)

    def late_of(namespace: Namespace) -> Collection[str]:
        """What of a namespace is not ready: its links, and where it has IPv6 addresses of its own, those."""
        own = links(namespace.dump(messages.LINKS.request))
        late = [link.name for link in own if link.waits]
        ipv6 = namespace.dump(messages.IPV6_ADDRESSES.request)
        if any(answer[_SCOPE] == _GLOBAL for answer in ipv6):
            groups = addresses(namespace.dump(messages.IPV6_GROUPS.request))
            late += waiting_addresses(own, addresses(ipv6), groups)
        return [f"{namespace.name}: {name}" for name in late]

    def late() -> list[str]:
        missing = {namespace.role: late_of(namespace) for namespace in waiting}
        waiting[:] = [namespace for namespace in waiting if missing[namespace.role]]
        return [name for names in missing.values() for name in names]

    missing = wait_until(late, DEADLINE, done=operator.not_, every=0.001)
    if missing:
        raise LabError(
            f"links were not ready after {DEADLINE:g} s: {', '.join(missing)}",
            fix="is the machine overloaded? try again",
        )


def forget_neighbours(substrate: Substrate, hosts: Iterable[str]) -> None:
    """Remove what these hosts learnt by themselves: neither permanent entries, nor what agents put there.

    They would forget it within seconds of a change to one of them. [kernel] An entry for a NIC that was down or
    exchanged is used, then probed once a second, three times, and only then asked for anew (net/core/neighbour.c);
    until that is over, packets are lost that nothing else loses. Raises LabError.
    """
    from niclab.host import messages  # pyroute2 takes a while to import

    for name in hosts:
        namespace = substrate[name]
        for entry in map(messages.NEIGHBOURS.decoded, namespace.dump(messages.NEIGHBOURS.request)):
            given = entry["state"] & (_NUD_NOARP | _NUD_PERMANENT) or entry["flags"] & _NTF_EXT_LEARNED
            address = entry.get_attr("NDA_DST")
            if given or address is None or entry["family"] not in (socket.AF_INET, socket.AF_INET6):
                continue
            try:
                namespace.channel.send([messages.forget_neighbour(entry)])
            except Refusal as refusal:
                if refusal.errno != errno.ENOENT:  # it went by itself meanwhile
                    raise LabError(
                        f"{namespace.name} does not forget its neighbour {address}", why=str(refusal)
                    ) from None
