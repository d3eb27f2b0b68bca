"""When links are ready to carry: a link that is up drops every packet until the kernel has given it a queue.

Bringing a link up returns at once; linkwatch (net/core/link_watch.c) activates it a moment later from a work queue. Until
then its queueing discipline is `noop`, which drops everything: the first packets of a new lab would be lost silently.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import tenacity

from lab.errors import LabError
from lab.substrate.netns import Substrate

_IFF_UP = 1
_IFLA_IFNAME, _IFLA_QDISC, _IFLA_CARRIER = 3, 6, 33
DEADLINE = 5.0
"""Seconds; the kernel needs milliseconds."""


def waiting_links(links: list[bytes]) -> list[str]:
    """The names of the links that are up, have a carrier, and no queue yet."""
    return [name for name, up, carrier, queue in map(_link, links) if up and carrier and queue == "noop"]


def _link(body: bytes) -> tuple[str, bool, bool, str]:
    name, queue, carrier = "", "", False
    up = bool(struct.unpack_from("=I", body, 8)[0] & _IFF_UP)
    for kind, value in _attributes(body[16:]):
        if kind == _IFLA_IFNAME:
            name = value.rstrip(b"\0").decode()
        elif kind == _IFLA_QDISC:
            queue = value.rstrip(b"\0").decode()
        elif kind == _IFLA_CARRIER:
            carrier = bool(value[0])
    return name, up, carrier, queue


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


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
            f"links were not ready after {DEADLINE:g} s: {', '.join(found)}", mend="is the machine overloaded? try again"
        )
