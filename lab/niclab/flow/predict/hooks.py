"""Netfilter's hooks on one host: a packet's connection, then the host's packet rules. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from niclab.flow.predict import reasons
from niclab.flow.predict.conntrack import Connection, known, translated
from niclab.flow.predict.machine import Machine
from niclab.flow.predict.trip import Tracking, Trip
from niclab.net.packetrules import (
    EVERY_BIT,
    Accept,
    Dnat,
    Drop,
    Exempt,
    Hook,
    Masquerade,
    Packet,
    PacketRule,
    Passing,
    Reject,
    Rewrite,
    SetConnectionMark,
    SetMark,
    Snat,
    matches,
    translation,
)
from niclab.net.route import Address

_FILTERED: frozenset[Hook] = frozenset({"forward", "leaving"})
_DESTINATION: frozenset[Hook] = frozenset({"prerouting", "output"})


@dataclass(frozen=True, slots=True)
class Between:
    """The interfaces a packet is between, and the neighbour on `oif` whom it is handed to."""

    iif: str | None = None
    oif: str | None = None
    neighbour: Address | None = None


def tracked(machine: Machine, trip: Trip) -> Trip:
    """The packet with its connection on this host: one it belongs to, or a new one."""
    if not machine.packet_rules:
        return trip
    connections = trip.tracked.get(machine.name, ())
    if (match := known(connections, trip.packet)) is not None:
        connection, direction = match
        return replace(trip, tracking=Tracking(connections.index(connection), direction))
    if trip.packet.answer:
        return trip
    table = {**trip.tracked, machine.name: (*connections, Connection.of(trip.packet))}
    return replace(trip, tracked=table, tracking=Tracking(len(connections), "original"))


def through(machine: Machine, hook: Hook, trip: Trip, between: Between) -> Iterator[Trip]:
    """The packet after a hook; several where a hash chooses a backend, `dropped` where a rule ends it."""
    if not machine.packet_rules:
        yield trip
        return
    after = _filtered(machine, hook, trip, between)
    if after.dropped or after.tracking is None or hook in _FILTERED:
        yield after
        return
    yield from _translated(machine, hook, after, between)


def _passing(machine: Machine, hook: Hook, trip: Trip, between: Between) -> Passing:
    connection = _connection(machine, trip)
    return Passing(
        trip.packet,
        between.iif,
        between.oif,
        local=trip.packet.destination in machine.own,
        connection_mark=connection.mark if connection else 0,
        translated=connection.translated if connection else False,
        direction=trip.tracking.direction if trip.tracking else "original",
        route=machine.route_of(trip.packet) if hook in machine.asks_routes else None,
    )


def _connection(machine: Machine, trip: Trip) -> Connection | None:
    return trip.tracked[machine.name][trip.tracking.index] if trip.tracking else None


def _with_connection(machine: Machine, trip: Trip, connection: Connection) -> Trip:
    assert trip.tracking is not None
    connections = list(trip.tracked[machine.name])
    connections[trip.tracking.index] = connection
    return replace(trip, tracked={**trip.tracked, machine.name: tuple(connections)})


def _filtered(machine: Machine, hook: Hook, trip: Trip, between: Between) -> Trip:
    rules = machine.rules_at(hook, trip.packet.family).filters
    passing = _passing(machine, hook, trip, between) if rules else None
    for rule in rules:
        if passing is None:
            passing = _passing(machine, hook, trip, between)
        if not matches(rule.match, passing):
            continue
        passing = None
        packet, connection = trip.packet, _connection(machine, trip)
        if rule.why.words:
            trip = _noting(machine, trip, rule, between)
        match rule.action:
            case Drop(reason) | Reject(reason):
                return replace(trip, dropped=reason)
            case Accept():
                return trip
            case SetMark(value, mask):
                trip = replace(trip, packet=replace(packet, mark=packet.mark & ~mask & EVERY_BIT | value))
            case SetConnectionMark(value) if connection is not None:
                trip = _with_connection(machine, trip, replace(connection, mark=value))
            case Rewrite():
                trip = replace(trip, packet=_rewritten(packet, rule.action))
    return trip


def _noting(machine: Machine, trip: Trip, rule: PacketRule, between: Between) -> Trip:
    packet = trip.packet
    inputs = {"iif": between.iif, "oif": between.oif, "source": packet.source, "destination": packet.destination}
    return trip.noting(machine.name, rule.why, **inputs)


def _rewritten(packet: Packet, action: Rewrite) -> Packet:
    return replace(
        packet,
        source=action.source or packet.source,
        destination=action.destination or packet.destination,
        source_port=packet.source_port if action.source_port is None else action.source_port,
        note=packet.note if action.note is None else action.note,
    )


def _translated(machine: Machine, hook: Hook, trip: Trip, between: Between) -> Iterator[Trip]:
    connection, tracking = _connection(machine, trip), trip.tracking
    assert connection is not None and tracking is not None
    oif = between.oif
    of_destination = hook in _DESTINATION
    decided = connection.destination_decided if of_destination else connection.source_decided
    if tracking.direction == "reply" or decided:
        yield _as_connection_says(machine, hook, trip, oif)
        return
    rule = translation(
        machine.rules_at(hook, trip.packet.family).translations, hook, _passing(machine, hook, trip, between)
    )
    action = rule.action if rule is not None else None
    # That nothing is translated is a step only where it matters: out of a NIC.
    leaving = oif in machine.host.interfaces and trip.inner is None
    if rule is not None and (leaving or not isinstance(action, Exempt)):
        trip = _noting(machine, trip, rule, between)
    elif hook == "postrouting" and leaving:
        trip = trip.noting(machine.name, reasons.NOT_TRANSLATED, source=trip.packet.source, oif=oif)
    if isinstance(action, Dnat):
        for backend in action.backends:
            made = _with_connection(machine, trip, connection.to(backend.address, backend.port))
            yield _as_connection_says(machine, hook, made, oif)
        return
    if isinstance(action, Snat):
        connection = connection.from_(action.address)
    elif isinstance(action, Masquerade):
        address = machine.masquerade_address(oif or "", between.neighbour or trip.packet.destination)
        if address is None:
            trip = trip.noting(machine.name, reasons.NO_ADDRESS, oif=oif)
            yield replace(trip, dropped=f"{oif} of {machine.name} has no address to masquerade with")
            return
        connection = connection.from_(address)
    elif of_destination:
        connection = replace(connection, destination_decided=True)
    else:
        connection = replace(connection, source_decided=True)
    yield _as_connection_says(machine, hook, _with_connection(machine, trip, connection), oif)


def _as_connection_says(machine: Machine, hook: Hook, trip: Trip, oif: str | None) -> Trip:
    connection, tracking = _connection(machine, trip), trip.tracking
    assert connection is not None and tracking is not None
    before = trip.packet
    after = translated(before, connection, tracking.direction, destination=hook in _DESTINATION)
    if tracking.direction == "reply":
        if after != before:
            trip = trip.noting(machine.name, reasons.TRANSLATED_BACK, **_difference(before, after))
        elif hook == "postrouting" and oif in machine.host.interfaces and trip.inner is None:
            trip = trip.noting(machine.name, reasons.ANSWER)
    return replace(trip, packet=after)


def _difference(before: Packet, after: Packet) -> dict[str, object]:
    if before.destination != after.destination:
        return {"before": before.destination, "after": after.destination}
    return {"before": before.source, "after": after.source}
