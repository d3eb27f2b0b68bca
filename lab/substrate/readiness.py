"""When links are ready to carry: a link that is up drops every packet until the kernel has activated its queue.

Bringing a link up returns at once; linkwatch (net/core/link_watch.c) activates it a moment later from a work queue.
Until then its transmit queue is a `noop`, which drops everything: a new lab's first packets would be lost silently.
The queueing discipline's name does not tell: a link brought up before its peer shows `noqueue` from the beginning. Its
operational state does, which linkwatch changes together with the queue.
"""

from __future__ import annotations

import struct

import tenacity

from lab.errors import LabError
from lab.substrate.message import IFF_UP, IFLA, attributes
from lab.substrate.netns import Substrate

_IFLA_OPERSTATE, _IFLA_CARRIER = 16, 33
_IFLA_INFO_KIND = 1
_IF_OPER_UNKNOWN, _IF_OPER_UP = 0, 6
_LATE = ("veth", "bridge")
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
    ready = (_IF_OPER_UP,) if kind in _LATE else (_IF_OPER_UP, _IF_OPER_UNKNOWN)
    return name, bool(up and carrier and found[_IFLA_OPERSTATE][0] not in ready)


def wait(substrate: Substrate) -> None:
    """Return when every link of the lab carries. Raises LabError after DEADLINE seconds."""

    def late() -> list[str]:
        return [f"{one.name}: {name}" for one in substrate for name in waiting_links(one.channel.dump_links())]

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
            mend="is the machine overloaded? try again",
        )
