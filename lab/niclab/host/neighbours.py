"""Hosts that forget what they learnt of their neighbours, as they would within seconds of a change to one of them.

[kernel] An entry for a NIC that was down or exchanged is used, then probed once a second, three times, and only then
asked for anew (net/core/neighbour.c); until that is over, packets are lost that nothing else loses.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from niclab.errors import LabError
from niclab.host.netlink import Refusal
from niclab.host.substrate import Substrate

_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_EXT_LEARNED = 0x10


def forget(substrate: Substrate, hosts: Iterable[str]) -> None:
    """Remove what these hosts learnt by themselves: neither permanent entries, nor what agents put there.

    Raises LabError.
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
