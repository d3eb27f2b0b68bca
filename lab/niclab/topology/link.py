"""Interfaces without a cable of their own: bonds, VLANs, bridges, VRFs, dummies, and `lo`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from niclab.net.route import Family
from niclab.topology.fields import Interface, IpInterface, Mac, Model, NicName, one_or_many

Kind = Literal["bond", "bridge", "vlan", "vrf", "dummy", "loopback"]

_KINDS: tuple[Kind, ...] = ("bond", "bridge", "vlan", "vrf", "dummy")

Members = Annotated[
    tuple[NicName, ...] | None, BeforeValidator(lambda value: None if value is None else one_or_many(value))
]


class Link(Model):
    """An interface that stands on NICs, or on nothing: it has no tap; what it sends is seen on the NICs below it.

    One of `bond`, `bridge`, `vlan` (with `parent`), `vrf` (with `table`) and `dummy`; none of them for `lo`.
    """

    bond: Annotated[Members, Field(description="the NICs that it bonds, the primary first")] = None
    mode: Annotated[
        Literal["active-backup", "balance-rr", "balance-xor"] | None,
        Field(description="a bond's: active-backup (the default), balance-rr, balance-xor"),
    ] = None
    bridge: Annotated[Members, Field(description="the NIC that is its port, or none ([])")] = None
    vlan: Annotated[int | None, Field(strict=True, ge=1, le=4094, description="the 802.1Q tag of its frames")] = None
    parent: Annotated[NicName | None, Field(description="what a VLAN stands on")] = None
    vrf: Annotated[Members, Field(description="the interfaces that route by its table")] = None
    table: Annotated[int | None, Field(strict=True, ge=1, le=4294967295, description="a VRF's routing table")] = None
    dummy: Annotated[bool, Field(strict=True, description="leads nowhere: for addresses")] = False
    addresses: Annotated[
        tuple[IpInterface, ...], BeforeValidator(one_or_many), Field(description="ADDRESS/LENGTH each")
    ] = ()
    mtu: Annotated[int | None, Field(strict=True, le=65535, description="bytes; default: the lowest below it")] = None
    up: Annotated[bool, Field(strict=True)] = True
    mac: Mac | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = [kind for kind in _KINDS if value.get(kind) not in (None, False)]
        if len(given) > 1:
            raise ValueError(f"it is {given[0]} and {given[1]} at once")
        for part, owner in (("mode", "bond"), ("parent", "vlan"), ("table", "vrf")):
            if value.get(part) is not None and owner not in given:
                raise ValueError(f"{part!r} belongs to a {owner}")
        for owner, part in (("vlan", "parent"), ("vrf", "table")):
            if owner in given and value.get(part) is None:
                raise ValueError(f"a {owner} needs its {part!r}")
        return value

    @property
    def kind(self) -> Kind:
        return next((kind for kind in _KINDS if getattr(self, kind) not in (None, False)), "loopback")

    @property
    def members(self) -> tuple[str, ...]:
        """The interfaces enslaved to it."""
        return self.bond or self.bridge or self.vrf or ()

    @property
    def below(self) -> tuple[str, ...]:
        """The interfaces it cannot be without."""
        return (self.parent,) if self.parent is not None else self.members

    def addresses_of(self, family: Family) -> tuple[Interface, ...]:
        return tuple(address for address in self.addresses if address.version == family)


__all__ = ["Kind", "Link"]
