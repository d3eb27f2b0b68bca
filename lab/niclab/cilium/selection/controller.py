"""What an agent's devices controller makes of changes while it runs: a reducer over netlink's messages. Pure.

pkg/datapath/linux/devices_controller.go processBatch. The controller knows netlink's messages, not what the kernel
does: a link that goes down loses its IPv4 routes without a message [kernel], so their rows stay, and count when it
comes up again. Give no `RouteRemoved` for those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from niclab.cilium.selection.devices import Choice, Device, decide, usable
from niclab.cilium.selection.links import Link, LinkAddress, RouteRow
from niclab.cilium.version import Version
from niclab.net.route import network_of
from niclab.settings import NodeView


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """RTM_NEWLINK: a link appeared or changed (name, kind, flags, parent, MTU, alternative names).

    Its addresses come by messages of their own: those of `link` are not looked at.
    """

    link: Link


@dataclass(frozen=True, slots=True)
class LinkRemoved:
    """RTM_DELLINK. The rows of its routes go with it."""

    index: int


@dataclass(frozen=True, slots=True)
class AddressAdded:
    """RTM_NEWADDR; also when duplicate address detection has ended."""

    index: int
    address: LinkAddress


@dataclass(frozen=True, slots=True)
class AddressRemoved:
    """RTM_DELADDR."""

    index: int
    address: LinkAddress


@dataclass(frozen=True, slots=True)
class RouteAdded:
    """RTM_NEWROUTE, of any table. The kernel adds those of an address by itself, with a message."""

    row: RouteRow


@dataclass(frozen=True, slots=True)
class RouteRemoved:
    """RTM_DELROUTE. One of two routes that differ by metric only takes the row of both along."""

    row: RouteRow


@dataclass(frozen=True, slots=True)
class NeighbourChanged:
    """RTM_NEWNEIGH or RTM_DELNEIGH: of no interest, but a device that is not selected is looked at again.

    From 1.18 on, that is; before, the agent did not listen to them (enable-statedb-neighbor-sync).
    """

    index: int


@dataclass(frozen=True, slots=True)
class Resync:
    """Netlink failed, and the controller starts again from what there is: everything it knew is forgotten."""

    links: tuple[Link, ...] = ()
    rows: frozenset[RouteRow] = frozenset()


Event = (
    LinkChanged | LinkRemoved | AddressAdded | AddressRemoved | RouteAdded | RouteRemoved | NeighbourChanged | Resync
)


@dataclass(frozen=True)
class Controller:
    """The controller's tables. `links` carry the addresses that it knows, in the order in which it heard of them."""

    choice: Choice
    links: Mapping[int, Link] = field(default_factory=dict)
    devices: Mapping[int, Device] = field(default_factory=dict)
    rows: frozenset[RouteRow] = frozenset()
    dead: frozenset[int] = frozenset()
    """Indices of links that were removed: late messages about them are dropped."""

    @classmethod
    def of(cls, settings: NodeView, version: Version, links: Iterable[Link], rows: Iterable[RouteRow]) -> Controller:
        """As it is after its start on a node with these links and routes."""
        return cls(Choice.of(settings, version)).after(Resync(tuple(links), frozenset(rows)))

    @property
    def selected(self) -> tuple[str, ...]:
        """The selected devices in the order of their indices."""
        return tuple(device.name for _, device in sorted(self.devices.items()) if device.selected)

    def after(self, *events: Event) -> Controller:
        """The tables after one batch: what came within 100 ms. Only then are devices looked at, each one once.

        A selected device is looked at again when a message about its link or addresses came, one that is not selected
        after any message: selection outlives the route that made it. Agents take a batch's interfaces in random order;
        here it is that of their first messages.
        """
        state = self
        batch: dict[int, list[Event]] = {}
        for event in events:
            if isinstance(event, Resync):
                state = state._resynced(event)
                batch.clear()
            elif not isinstance(event, NeighbourChanged) or self.choice.version.has("neighbour-messages"):
                batch.setdefault(_index(event), []).append(event)
        for index, about in batch.items():
            state = state._processed(index, about)
        return state

    def _resynced(self, event: Resync) -> Controller:
        messages: list[Event] = [LinkChanged(link) for link in event.links]
        messages += [AddressAdded(link.index, address) for link in event.links for address in link.addresses]
        messages += [RouteAdded(row) for row in sorted(event.rows, key=str)]
        return replace(self, links={}, devices={}, rows=frozenset()).after(*messages)

    def _processed(self, index: int, events: Iterable[Event]) -> Controller:
        link = self.links.get(index) or Link("", index, "")
        rows, dead = set(self.rows), set(self.dead)
        updated = removed = False
        for event in events:
            if isinstance(event, LinkChanged):
                dead.discard(index)
                removed, updated = False, True
                link = replace(event.link, addresses=link.addresses)
            elif isinstance(event, LinkRemoved):
                dead.add(index)
                removed = updated = True
            elif index not in dead:
                match event:
                    case AddressAdded(address=address) | AddressRemoved(address=address):
                        changed = self._addresses(link, event, address)
                        updated = updated or changed is not None
                        link = link if changed is None else replace(link, addresses=changed)
                    case RouteAdded(row=row):
                        rows.add(row)
                    case RouteRemoved(row=row):
                        rows.discard(row)
                    case _:
                        pass
        if removed:
            rows = {row for row in rows if row.link != index}
            links = {number: other for number, other in self.links.items() if number != index}
            devices = {number: device for number, device in self.devices.items() if number != index}
            return replace(self, links=links, devices=devices, rows=frozenset(rows), dead=frozenset(dead))
        state = replace(self, links={**self.links, index: link}, rows=frozenset(rows), dead=frozenset(dead))
        before = self.devices.get(index)
        if before is not None and before.selected and not updated:
            return replace(state, links=self.links)
        device = decide(link, state.rows, state.links, self.choice)
        return replace(state, devices={**self.devices, index: device})

    def _addresses(self, link: Link, event: Event, address: LinkAddress) -> tuple[LinkAddress, ...] | None:
        """The link's addresses after the message, None when the agent takes no notice of it."""
        same = _key(address)
        others = tuple(other for other in link.addresses if _key(other) != same)
        if isinstance(event, AddressRemoved):
            return others
        if not usable([address], self.choice.version):
            return None
        return link.addresses if len(others) < len(link.addresses) else (*link.addresses, address)


def _index(event: Event) -> int:
    match event:
        case LinkChanged(link=link):
            return link.index
        case RouteAdded(row=row) | RouteRemoved(row=row):
            return row.link
    return 0 if isinstance(event, Resync) else event.index


def _key(address: LinkAddress) -> tuple[object, ...]:
    """What makes two addresses different for the agent: the prefix length does not."""
    return address.ip, address.secondary, address.scope


def events(
    before: Sequence[Link], after: Sequence[Link], rows_before: frozenset[RouteRow], rows_after: frozenset[RouteRow]
) -> Iterator[Event]:
    """The messages of one change, in one batch: the controller collects for 100 ms, a change takes less."""
    old, new = ({link.index: link for link in links} for links in (before, after))
    for index in old.keys() - new.keys():
        yield LinkRemoved(index)
    for index, link in new.items():
        was = old.get(index)
        if was is None or replace(was, addresses=()) != replace(link, addresses=()):
            yield LinkChanged(link)
        had = was.addresses if was else ()
        yield from (AddressRemoved(index, address) for address in had if address not in link.addresses)
        yield from (AddressAdded(index, address) for address in link.addresses if address not in had)
    for row in sorted(rows_before - rows_after, key=str):
        if row.link not in old or row.link not in new or not _silent(row, old[row.link], new[row.link]):
            yield RouteRemoved(row)
    yield from map(RouteAdded, sorted(rows_after - rows_before, key=str))


def _silent(row: RouteRow, was: Link, link: Link) -> bool:
    """[kernel] IPv4 routes go without a message when their link goes down, or loses its last address; but for those
    that are an address's own (fib_del_ifaddr deletes them one by one)."""
    if row.destination.version != 4:
        return False
    if was.up and not link.up:
        return True
    removed = [address for address in was.addresses if address not in link.addresses and address.version == 4]
    last = bool(removed) and not any(address.version == 4 for address in link.addresses)
    own = {network for address in removed for network in (address.network, network_of(address.ip))}
    return last and row.destination not in own
