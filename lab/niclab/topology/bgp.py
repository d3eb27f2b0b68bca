"""BGP in a topology: who speaks it, and what the nodes advertise. The model; peers follow from the fabrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from niclab.topology.fields import HostName, IpNetwork, Model, one_or_many, or_empty

Advertised = Literal["pod-cidrs", "services"]

Asn = Annotated[int, Field(strict=True, ge=1, le=4294967295)]
_Seconds = Annotated[int, Field(strict=True, ge=1, le=65535)]


class BgpSpeaker(Model):
    """Someone's part in BGP: the number of its autonomous system."""

    asn: Asn


class BgpRouter(BgpSpeaker):
    """A router's part; `networks` are prefixes it advertises itself, beside what it passes on."""

    networks: Annotated[tuple[IpNetwork, ...], BeforeValidator(one_or_many)] = ()


class BgpTimers(Model):
    """Seconds; the smallest that FRR and Cilium take are the defaults, so that a lab need not wait."""

    connect: _Seconds = 1
    keepalive: _Seconds = 1
    hold: Annotated[int, Field(strict=True, ge=3, le=65535)] = 3


class Bgp(Model):
    """Routers and nodes that speak BGP. Two of them that share a fabric are peers, unless both are nodes.

    `nodes` speak as Cilium does: they advertise, and install nothing of what they learn.
    """

    nodes: BgpSpeaker
    routers: Annotated[dict[HostName, BgpRouter], Field(min_length=1)]
    advertise: Annotated[
        tuple[Advertised, ...],
        BeforeValidator(one_or_many),
        Field(min_length=1, description="what nodes advertise; of services the addresses for clients outside"),
    ] = ("pod-cidrs", "services")
    timers: Annotated[BgpTimers, BeforeValidator(or_empty)] = BgpTimers()
