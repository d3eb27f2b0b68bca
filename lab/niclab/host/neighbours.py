"""Hosts that forget what they learnt of their neighbours, as they would within seconds of a change to one of them.

[kernel] An entry for a NIC that was down or exchanged is used, then probed once a second, three times, and only then
asked for anew (net/core/neighbour.c); until that is over, packets are lost that nothing else loses.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from niclab.host import netlink
from niclab.host.message import attribute, attributes, message
from niclab.host.substrate import Substrate

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
_NDA_DST = 1
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_EXT_LEARNED = 0x10
_ENOENT = 2


def forget(substrate: Substrate, hosts: Iterable[str]) -> None:
    """Remove what these hosts learnt by themselves: not what was told to stay, nor what agents put there."""
    for name in hosts:
        channel = substrate[name].channel
        head = struct.pack("=BxHiHBB", socket.AF_UNSPEC, 0, 0, 0, 0, 0)
        for body in channel.dump(RTM_GETNEIGH, RTM_NEWNEIGH, head):
            if (removal := _removal(body)) is not None:
                try:
                    channel.send([removal])
                except netlink.Refusal as refusal:
                    if refusal.errno != _ENOENT:  # it went by itself meanwhile
                        raise


def _removal(body: bytes) -> bytes | None:
    """The message that removes a learnt entry; None for any other."""
    family, _, index, state, flags, _ = struct.unpack_from("=BxHiHBB", body)
    address = dict(attributes(body[12:])).get(_NDA_DST)
    told = state & (_NUD_NOARP | _NUD_PERMANENT) or flags & _NTF_EXT_LEARNED
    if told or address is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    gone = struct.pack("=BxHiHBB", family, 0, index, 0, 0, 0) + attribute(_NDA_DST, address)
    return message(RTM_DELNEIGH, 0, gone)
