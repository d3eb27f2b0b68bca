"""One host of the planned lab: what it routes, translates and answers for, and which addresses its kernel chooses.

Its hooks are netfilter's: a packet's connection first, then the host's packet rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain

from niclab.flow.predict.trip import Connection, Tracking, Trip, known, translated
from niclab.kernel.fib import Fib, Lookup
from niclab.kernel.reversepath import ALL, OFF, believed, configured
from niclab.kernel.routing import address_on, addresses_elsewhere
from niclab.net import packetrules as nf
from niclab.net.route import FAMILIES, Address, Family, family_of
from niclab.topology.model import Host

_FILTERED: frozenset[nf.Hook] = frozenset({"forward", "leaving"})
_DESTINATION: frozenset[nf.Hook] = frozenset({"prerouting", "output"})


@dataclass(frozen=True, slots=True)
class Between:
    """The interfaces a packet is between, and the neighbour on `oif` whom it is handed to."""

    iif: str | None = None
    oif: str | None = None
    neighbour: Address | None = None


@dataclass(frozen=True)
class Machine:
    """One host. `pods`: the node's end of a pod's veth pair → the pod. `extra`: addresses the datapath adds. `filters`:
    the reverse path filters of interfaces that have one.
    """

    name: str
    host: Host
    fib: Fib
    packet_rules: tuple[nf.PacketRule, ...]
    pods: Mapping[str, str]
    forwards: bool
    extra: Mapping[str, tuple[Address, ...]]
    filters: Mapping[str, int]
    minds_marks: bool
    """Is the way back looked up with the packet's mark? [kernel] src_valid_mark"""

    @cached_property
    def _rules(self) -> Mapping[tuple[nf.Hook, Family, bool], list[nf.PacketRule]]:
        """The rules at a hook for a family, in order: those that translate, and those that filter."""
        rules: dict[tuple[nf.Hook, Family, bool], list[nf.PacketRule]] = {
            (hook, family, translates): [] for hook in nf.HOOKS for family in FAMILIES for translates in (False, True)
        }
        for rule in self.packet_rules:
            for family in FAMILIES:
                if rule.applies_to(family):
                    rules[rule.hook, family, rule.translates].append(rule)
        return rules

    @cached_property
    def asks_routes(self) -> frozenset[nf.Hook]:
        """The hooks at which a rule looks at where the FIB would send a packet."""
        return frozenset(rule.hook for rule in self.packet_rules if rule.match.route)

    def route_of(self, packet: nf.Packet) -> str | None:
        """Where the FIB would send a packet, as a rule asks it; of several hops the first."""
        lookup = self.fib.lookup(packet.destination, source=packet.source)
        return lookup.hops[0].dev if lookup and lookup.hops else None

    @cached_property
    def own(self) -> frozenset[Address]:
        """The addresses that ARP is answered for. [kernel] those of a link that is down are the host's too."""
        linked = {interface.ip for link in self.host.interfaces.values() for interface in link.addresses}
        return frozenset(linked.union(*self.extra.values()))

    @cached_property
    def minds_the_interface(self) -> bool:
        """Can it matter by which of its interfaces on one fabric a packet comes in?"""
        routing = any(rule.iif in self.host.interfaces for rule in self.fib.rules)
        return routing or bool(self.filters) or any(rule.match.iif is not None for rule in self.packet_rules)

    def ignores(self, interface: str, address: Address) -> bool:
        """Does an interface leave ARP for an address unanswered? [kernel] arp_ignore, the greater of `all` and its own:
        from 1 on it answers for its own addresses alone.
        """
        modes = configured(self.host.sysctls, "arp_ignore")
        mode = max(modes.get(ALL, 0), modes.get(interface, 0))
        return mode > 0 and address not in {own.ip for own in self.host.interfaces[interface].addresses}

    def way_back(self, packet: nf.Packet, oif: str | None) -> Lookup | None:
        """The route to a packet's source, as the filter asks; `oif`: where the packet is to leave, None: nowhere."""
        mark = packet.mark if self.minds_marks else 0
        return self.fib.lookup(packet.source, source=packet.destination, iif=oif, mark=mark)

    def believes(self, packet: nf.Packet, iif: str, oif: str | None) -> bool:
        """Does a packet that came in by one interface, to leave by another, pass its reverse path filter?"""
        mode = self.filters.get(iif, OFF)
        if mode == OFF or packet.family == 6:
            return True
        addressed = bool(self.host.interfaces[iif].addresses_of(4))
        return believed(mode, iif, self.way_back(packet, oif), addressed=addressed)

    def asks_as(self, device: str, source: Address, neighbour: Address) -> Address | None:
        """The address in an ARP request for a neighbour; None for IPv6. [kernel] arp_solicit, arp_announce=0: the
        packet's own source where that is the host's, else one of the device.
        """
        if neighbour.version == 6:
            return None
        return source if source in self.own else self.masquerade_address(device, neighbour)

    def masquerade_address(self, device: str, neighbour: Address) -> Address | None:
        """What the kernel's `masquerade` writes on packets that leave by a device for a neighbour there: as for the
        host's own packets; without an address of the device, the first of another one.
        """
        family = family_of(neighbour)
        if address := address_on(self.host, device, family, neighbour):
            return address
        added = self.extra.values() if device not in self.extra else (self.extra[device],)
        elsewhere = addresses_elsewhere(self.host, family) if device not in self.extra else ()
        return next(
            chain(elsewhere, (address for addresses in added for address in addresses if address.version == family)),
            None,
        )

    def tracked(self, trip: Trip) -> Trip:
        """The packet with its connection on this host: one it belongs to, or a new one."""
        if not self.packet_rules:
            return trip
        connections = trip.tracked.get(self.name, ())
        if (match := known(connections, trip.packet)) is not None:
            connection, direction = match
            return replace(trip, tracking=Tracking(connections.index(connection), direction))
        if trip.packet.answer:
            return trip
        table = {**trip.tracked, self.name: (*connections, Connection.of(trip.packet))}
        return replace(trip, tracked=table, tracking=Tracking(len(connections), "original"))

    def through(self, hook: nf.Hook, trip: Trip, between: Between) -> Iterator[Trip]:
        """The packet after a hook; several where a hash chooses a backend, `dropped` where a rule ends it."""
        if not self.packet_rules:
            yield trip
            return
        after = self._filtered(hook, trip, between)
        if after.dropped or after.tracking is None or hook in _FILTERED:
            yield after
            return
        yield from self._translated(hook, after, between)

    def _passing(self, hook: nf.Hook, trip: Trip, between: Between) -> nf.Passing:
        connection = self._connection(trip)
        return nf.Passing(
            trip.packet,
            between.iif,
            between.oif,
            local=trip.packet.destination in self.own,
            connection_mark=connection.mark if connection else 0,
            translated=connection.translated if connection else False,
            direction=trip.tracking.direction if trip.tracking else "original",
            route=self.route_of(trip.packet) if hook in self.asks_routes else None,
        )

    def _connection(self, trip: Trip) -> Connection | None:
        return trip.tracked[self.name][trip.tracking.index] if trip.tracking else None

    def _with_connection(self, trip: Trip, connection: Connection) -> Trip:
        assert trip.tracking is not None
        connections = list(trip.tracked[self.name])
        connections[trip.tracking.index] = connection
        return replace(trip, tracked={**trip.tracked, self.name: tuple(connections)})

    def _filtered(self, hook: nf.Hook, trip: Trip, between: Between) -> Trip:
        passing = None
        for rule in self._rules[hook, trip.packet.family, False]:
            if passing is None:
                passing = self._passing(hook, trip, between)
            if not nf.matches(rule.match, passing):
                continue
            passing = None
            packet, connection = trip.packet, self._connection(trip)
            if rule.why.words:
                trip = self._noting(trip, rule, between)
            match rule.action:
                case nf.Drop(reason) | nf.Reject(reason):
                    return replace(trip, dropped=reason)
                case nf.Accept():
                    return trip
                case nf.SetMark(value, mask):
                    trip = replace(trip, packet=replace(packet, mark=packet.mark & ~mask & nf.EVERY_BIT | value))
                case nf.SetConnectionMark(value) if connection is not None:
                    trip = self._with_connection(trip, replace(connection, mark=value))
                case nf.Rewrite() as action:
                    given = {each.name: getattr(action, each.name) for each in fields(action)}
                    changes = {name: value for name, value in given.items() if value is not None}
                    trip = replace(trip, packet=replace(packet, **changes))
        return trip

    def _noting(self, trip: Trip, rule: nf.PacketRule, between: Between) -> Trip:
        packet = trip.packet
        inputs = {"iif": between.iif, "oif": between.oif, "source": packet.source, "destination": packet.destination}
        return trip.noting(self.name, rule.why, **inputs)

    def _translated(self, hook: nf.Hook, trip: Trip, between: Between) -> Iterator[Trip]:
        connection, tracking = self._connection(trip), trip.tracking
        assert connection is not None and tracking is not None
        oif = between.oif
        of_destination = hook in _DESTINATION
        decided = connection.destination_decided if of_destination else connection.source_decided
        if tracking.direction == "reply" or decided:
            yield self._as_connection_says(hook, trip, oif)
            return
        rules = self._rules[hook, trip.packet.family, True]
        rule = nf.translation(rules, hook, self._passing(hook, trip, between))
        action = rule.action if rule is not None else None
        # That nothing is translated is a step only where it matters: out of a NIC.
        leaving = oif in self.host.interfaces and trip.inner is None
        if rule is not None and (leaving or not isinstance(action, nf.Exempt)):
            trip = self._noting(trip, rule, between)
        elif hook == "postrouting" and leaving:
            trip = trip.noting(self.name, "nat.none", source=trip.packet.source, oif=oif)
        if isinstance(action, nf.Dnat):
            for backend in action.backends:
                made = self._with_connection(trip, connection.to(backend.address, backend.port))
                yield self._as_connection_says(hook, made, oif)
            return
        if isinstance(action, nf.Snat):
            connection = connection.from_(action.address)
        elif isinstance(action, nf.Masquerade):
            address = self.masquerade_address(oif or "", between.neighbour or trip.packet.destination)
            if address is None:
                trip = trip.noting(self.name, "nat.no-address", oif=oif)
                yield replace(trip, dropped=f"{oif} of {self.name} has no address to masquerade with")
                return
            connection = connection.from_(address)
        elif of_destination:
            connection = replace(connection, destination_decided=True)
        else:
            connection = replace(connection, source_decided=True)
        yield self._as_connection_says(hook, self._with_connection(trip, connection), oif)

    def _as_connection_says(self, hook: nf.Hook, trip: Trip, oif: str | None) -> Trip:
        connection, tracking = self._connection(trip), trip.tracking
        assert connection is not None and tracking is not None
        before = trip.packet
        after = translated(before, connection, tracking.direction, destination=hook in _DESTINATION)
        if tracking.direction == "reply":
            if after != before:
                end = "destination" if before.destination != after.destination else "source"
                trip = trip.noting(self.name, "nat.reverse", before=getattr(before, end), after=getattr(after, end))
            elif hook == "postrouting" and oif in self.host.interfaces and trip.inner is None:
                trip = trip.noting(self.name, "nat.answer")
        return replace(trip, packet=after)
