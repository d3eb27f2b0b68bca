"""Rtnetlink messages for interfaces that stand on others (include/uapi/linux/if_link.h). Pure."""

from __future__ import annotations

import struct

from niclab.host.message import IFLA, attribute, info, link, message, new_link, text, u32
from niclab.host.netlink import NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK
from niclab.net.operation import MIIMON, AddBond, AddDummy, AddVlan, AddVrf

BOND_MODES = {"balance-rr": 0, "active-backup": 1, "balance-xor": 2}
_MAKE = NLM_F_CREATE | NLM_F_EXCL


def add_bond(operation: AddBond, index: int, primary: int | None) -> bytes:
    bond_mode, bond_miimon, bond_primary = 1, 3, 11
    data = attribute(bond_mode, struct.pack("=B", BOND_MODES[operation.mode])) + u32(bond_miimon, MIIMON)
    data += u32(bond_primary, primary) if primary is not None else b""
    mtu = u32(IFLA["MTU"], operation.mtu)
    made = new_link(index, operation.name, operation.mac, mtu, info("bond", data), up=False)
    return message(RTM_NEWLINK, _MAKE, made)


def add_vlan(operation: AddVlan, index: int, parent: int) -> bytes:
    vlan_id = 1
    made = link(
        index,
        0,
        text(IFLA["IFNAME"], operation.name),
        u32(IFLA["MTU"], operation.mtu),
        u32(IFLA["LINK"], parent),
        info("vlan", attribute(vlan_id, struct.pack("=H", operation.vlan))),
    )
    return message(RTM_NEWLINK, _MAKE, made)


def add_vrf(operation: AddVrf, index: int) -> bytes:
    vrf_table = 1
    data = u32(vrf_table, operation.table)
    return message(RTM_NEWLINK, _MAKE, new_link(index, operation.name, operation.mac, info("vrf", data), up=False))


def add_dummy(operation: AddDummy, index: int) -> bytes:
    mtu = u32(IFLA["MTU"], operation.mtu)
    made = new_link(index, operation.name, operation.mac, mtu, info("dummy", b""), up=False)
    return message(RTM_NEWLINK, _MAKE, made)


def set_master(index: int, master: int) -> bytes:
    return message(RTM_NEWLINK, 0, link(index, 0, u32(IFLA["MASTER"], master)))
