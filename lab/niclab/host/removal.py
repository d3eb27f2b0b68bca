"""Rtnetlink messages that take things away: those that made them, under the type that undoes it. Pure."""

from __future__ import annotations

import struct

from niclab.host import netlink
from niclab.host.message import NLM_F_REQUEST, link, message
from niclab.host.netlink import Index
from niclab.net.operation import (
    AddAddress,
    AddNeighbour,
    AddRoute,
    AddRule,
    DelAddress,
    DelNeighbour,
    DelRoute,
    DelRule,
)

RTM_DELLINK = 17
_NO_MAC = "00:00:00:00:00:00"


def _opposite(made: bytes) -> bytes:
    """RTM_DEL… follows RTM_NEW…; what is not to be made has no flags for making it."""
    packet = bytearray(made)
    struct.pack_into("=HH", packet, 4, struct.unpack_from("=H", packet, 4)[0] + 1, NLM_F_REQUEST)
    return bytes(packet)


def del_link(index: int) -> bytes:
    return message(RTM_DELLINK, 0, link(index, 0))


def del_address(operation: DelAddress, index: int) -> bytes:
    return _opposite(netlink.add_address(AddAddress(operation.namespace, operation.dev, operation.interface), index))


def del_route(operation: DelRoute, index: Index) -> bytes:
    return _opposite(netlink.add_route(AddRoute(operation.namespace, operation.route), index))


def del_rule(operation: DelRule) -> bytes:
    return _opposite(netlink.add_rule(AddRule(operation.namespace, operation.rule)))


def del_neighbour(operation: DelNeighbour, index: int) -> bytes:
    made = AddNeighbour(operation.namespace, operation.dev, operation.address, _NO_MAC)
    return _opposite(netlink.add_neighbour(made, index))
