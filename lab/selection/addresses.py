"""Node addresses: which address of a device stands for it (pkg/datapath/tables/node_address.go). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lab.route import Address, Family
from lab.selection.devices import is_global_unicast
from lab.selection.version import Version
from lab.topology import Interface


def _is_public(address: Address) -> bool:
    return not address.is_private


def primary_address(
    addresses: Sequence[Interface], family: Family, node_ip: Address | None, version: Version
) -> Address | None:
    """The address packets are masqueraded to on one device (node_address.go): its Primary.

    The node IP when it is on the device, else the first public, else the first private address. From 1.20 on the node
    IP wins only within its own class: a public address comes before a private node IP (a598dfd64f).
    """
    own = sorted(
        {interface.ip for interface in addresses if interface.version == family and is_global_unicast(interface.ip)},
        key=lambda address: (not _is_public(address), int(address)),
    )
    first = own[0] if own else None
    if node_ip in own and (version < (1, 20) or first is None or _is_public(first) == _is_public(node_ip)):
        return node_ip
    return first
