"""Kernel operations for interfaces that stand on others: bonds, VLANs, VRFs; and what has a master."""

from __future__ import annotations

from dataclasses import dataclass

MIIMON = 10
"""Milliseconds between a bond's looks at its slaves' carriers; 0, the kernel's default, never looks."""


@dataclass(frozen=True, slots=True)
class AddBond:
    """A bond without slaves, down: a slave is given to it by SetMaster while both are down.

    `primary`: the slave that an active-backup bond goes back to whenever it is up.
    """

    namespace: str
    name: str
    mac: str
    mode: str
    mtu: int
    primary: str | None = None

    def lines(self) -> list[str]:
        primary = f" primary {self.primary}" if self.primary else ""
        return [
            (
                f"ip -n {self.namespace} link add {self.name} address {self.mac} mtu {self.mtu} "
                f"type bond mode {self.mode} miimon {MIIMON}{primary}"
            )
        ]


@dataclass(frozen=True, slots=True)
class AddVlan:
    """An 802.1Q sub-interface of `parent`, down."""

    namespace: str
    name: str
    parent: str
    vlan: int
    mtu: int

    def lines(self) -> list[str]:
        return [
            (
                f"ip -n {self.namespace} link add link {self.parent} name {self.name} mtu {self.mtu} "
                f"type vlan id {self.vlan}"
            )
        ]


@dataclass(frozen=True, slots=True)
class AddVrf:
    """A VRF with a routing table of its own, down."""

    namespace: str
    name: str
    mac: str
    table: int

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} link add {self.name} address {self.mac} type vrf table {self.table}"]


@dataclass(frozen=True, slots=True)
class AddDummy:
    """An interface that leads nowhere, down."""

    namespace: str
    name: str
    mac: str
    mtu: int

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} link add {self.name} address {self.mac} mtu {self.mtu} type dummy"]


@dataclass(frozen=True, slots=True)
class SetMaster:
    """Give an interface to a bond, bridge or VRF."""

    namespace: str
    name: str
    master: str

    def lines(self) -> list[str]:
        return [f"ip -n {self.namespace} link set {self.name} master {self.master}"]
