"""One host of the planned lab: what it routes, translates and answers for, and which addresses its kernel chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from niclab.kernel.fib import Fib, Lookup
from niclab.kernel.reversepath import OFF, believed
from niclab.kernel.routing import address_on, addresses_elsewhere
from niclab.net.packetrules import HOOKS, Hook, Packet, PacketRule
from niclab.net.route import FAMILIES, Address, Family, family_of
from niclab.topology import Host


@dataclass(frozen=True, slots=True)
class HookRules:
    """One hook's rules for one family, in order."""

    filters: tuple[PacketRule, ...]
    translations: tuple[PacketRule, ...]


@dataclass(frozen=True)
class Machine:
    """One host. `pods`: the node's end of a pod's veth pair → the pod. `extra`: addresses the datapath adds. `filters`:
    the reverse path filters of interfaces that have one.
    """

    name: str
    host: Host
    fib: Fib
    packet_rules: tuple[PacketRule, ...]
    pods: Mapping[str, str]
    forwards: bool
    extra: Mapping[str, tuple[Address, ...]]
    filters: Mapping[str, int]
    minds_marks: bool
    """Is the way back looked up with the packet's mark? [kernel] src_valid_mark"""

    @cached_property
    def _hooks(self) -> Mapping[tuple[Hook, Family], HookRules]:
        def rules(hook: Hook, family: Family, *, translate: bool) -> tuple[PacketRule, ...]:
            return tuple(
                rule
                for rule in self.packet_rules
                if rule.hook == hook and rule.applies_to(family) and rule.translates == translate
            )

        return {
            (hook, family): HookRules(rules(hook, family, translate=False), rules(hook, family, translate=True))
            for hook in HOOKS
            for family in FAMILIES
        }

    def rules_at(self, hook: Hook, family: Family) -> HookRules:
        return self._hooks[hook, family]

    @cached_property
    def asks_routes(self) -> frozenset[Hook]:
        """The hooks at which a rule looks at where the FIB would send a packet."""
        return frozenset(rule.hook for rule in self.packet_rules if rule.match.route)

    def route_of(self, packet: Packet) -> str | None:
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

    def way_back(self, packet: Packet, oif: str | None) -> Lookup | None:
        """The route to a packet's source, as the filter asks; `oif`: where the packet is to leave, None: nowhere."""
        mark = packet.mark if self.minds_marks else 0
        return self.fib.lookup(packet.source, source=packet.destination, iif=oif, mark=mark)

    def believes(self, packet: Packet, iif: str, oif: str | None) -> bool:
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
