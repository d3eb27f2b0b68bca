"""Changes to a lab that runs, as scenarios make them: a topology in, the topology after the change out. Pure.

Every name is checked first. All raise InputError, which says how to fix it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from niclab.errors import InputError, Problem, nearest
from niclab.kernel import sysctl
from niclab.kernel.routing import check_route, check_rule, kept
from niclab.net.route import FAMILIES, Route, Rule, numbered, parse_route, parse_rule
from niclab.topology.fields import Interface, parse_interface
from niclab.topology.model import Host, Link, Nic, Node, Topology
from niclab.topology.stacking import is_up

T = TypeVar("T")
H = TypeVar("H", bound=Host)


def pinned(topology: Topology) -> Topology:
    """The same, with all fixed that its order decided: node IPs, which agents never change, and rules' priorities."""
    hosts: dict[str, Host] = {}
    for name, host in topology.hosts.items():
        hosts[name] = with_(host, rules=numbered(host.rules))
        if isinstance(host, Node):
            ips = tuple(ip for family in FAMILIES if (ip := host.node_ip_of(family)) is not None)
            hosts[name] = with_(hosts[name], node_ip=ips)
    return topology.with_hosts(hosts)


def link(topology: Topology, nic: str, *, up: bool) -> Topology:
    host, name = _interface_of(topology, nic)
    before = topology.hosts[host]
    return topology.with_hosts({host: (link_up if up else link_down)(before, name)})


def plug(topology: Topology, nic: str, *, fabric: str, addresses: Sequence[str], mtu: int, up: bool) -> Topology:
    host, name = _host_of(topology, nic)
    if name in topology.hosts[host].interfaces:
        _refuse(nic, "it is plugged already", "unplug it first, or choose another name")
    if fabric not in topology.fabrics:
        _refuse(nic, f"there is no fabric {fabric!r}", nearest(fabric, topology.fabrics))
    kind = next((other.kind for other in topology.hosts[host].nics.values()), Nic.model_fields["kind"].default)
    given = tuple(_interface(nic, address) for address in addresses)
    made = Nic(fabric=fabric, kind=kind, addresses=given, mtu=mtu, up=up)
    for interface in made.addresses:
        _free(topology, nic, interface)
    return topology.with_hosts({host: plugged(topology.hosts[host], name, made)})


def unplug(topology: Topology, nic: str) -> Topology:
    host, name = _interface_of(topology, nic, nics_only=True)
    standing = [link for link, upper in topology.hosts[host].links.items() if name in upper.below]
    if standing:
        _refuse(nic, f"{', '.join(standing)} stands on it", "take it down instead: lab.link_down")
    return topology.with_hosts({host: unplugged(topology.hosts[host], name)})


def add_address(topology: Topology, nic: str, words: str) -> Topology:
    host, name = _interface_of(topology, nic)
    interface = _interface(nic, words)
    _free(topology, nic, interface)
    return topology.with_hosts({host: address_added(topology.hosts[host], name, interface)})


def del_address(topology: Topology, nic: str, words: str) -> Topology:
    host, name = _interface_of(topology, nic)
    interface = _interface(nic, words)
    mine = topology.hosts[host].interfaces[name].addresses
    if interface not in mine:
        _refuse(f"{nic} {words}", "the NIC has no such address", _one_of(mine))
    return topology.with_hosts({host: address_removed(topology.hosts[host], name, interface)})


def add_route(topology: Topology, host: str, words: str) -> Topology:
    before = _host(topology, host)
    route = _route(host, words)
    if why := check_route(before, route):
        _refuse(f"{host}: {words}", why, f"its NICs: {', '.join(before.interfaces)}")
    return topology.with_hosts({host: with_(before, routes=(*before.routes, route))})


def del_route(topology: Topology, host: str, words: str) -> Topology:
    """The first of the host's own routes that `words` are, or where they leave something out, that fits them."""
    before = _host(topology, host)
    wanted = _route(host, words)
    place = next((i for i, route in enumerate(kept(before, before.routes)) if _fits(wanted, route)), None)
    if place is None:
        _refuse(f"{host}: {words}", "the host has no such route of its own", _one_of(before.routes))
    return topology.with_hosts({host: with_(before, routes=(*before.routes[:place], *before.routes[place + 1 :]))})


def add_rule(topology: Topology, host: str, words: str) -> Topology:
    before = _host(topology, host)
    rule = _rule(host, words)
    if why := check_rule(before, rule):
        _refuse(f"{host}: {words}", why, "no two rules may be alike")
    return topology.with_hosts({host: with_(before, rules=numbered((*before.rules, rule)))})


def del_rule(topology: Topology, host: str, words: str) -> Topology:
    before = _host(topology, host)
    wanted = _rule(host, words)
    rules = numbered(before.rules)
    place = next((i for i, rule in enumerate(rules) if _same_rule(wanted, rule)), None)
    if place is None:
        _refuse(f"{host}: {words}", "the host has no such rule", _one_of(before.rules))
    return topology.with_hosts({host: with_(before, rules=(*rules[:place], *rules[place + 1 :]))})


def set_sysctl(topology: Topology, host: str, key: str, value: str) -> Topology:
    before = _host(topology, host)
    if not key.startswith("net."):
        _refuse(f"{host}: {key}", "it does not belong to the host", "only net.* keys do; others are the machine's")
    if problem := sysctl.refusal(key):  # of any interface: a lab that runs has more of them than the topology
        _refuse(f"{host}: {key}", *problem)
    return topology.with_hosts({host: with_(before, sysctls={**before.sysctls, key: value})})


def _fits(wanted: Route, route: Route) -> bool:
    """Is this what `ip route del` would take for it? What `wanted` leaves out is not compared."""
    same = (wanted.destination, wanted.table, wanted.kind) == (route.destination, route.table, route.kind)
    return (
        same
        and wanted.metric in (None, route.metric)
        and len(wanted.nexthops) == len(route.nexthops)
        and all(
            asked.via in (None, hop.via) and asked.dev in (None, hop.dev)
            for asked, hop in zip(wanted.nexthops, route.nexthops, strict=True)
        )
    )


def _same_rule(wanted: Rule, rule: Rule) -> bool:
    alike = replace(wanted, priority=rule.priority) == rule and wanted.family == rule.family
    return alike and wanted.priority in (None, rule.priority)


def _host(topology: Topology, name: str) -> Host:
    if name not in topology.hosts:
        _refuse(name, f"there is no host {name!r}", nearest(name, topology.hosts))
    return topology.hosts[name]


def _host_of(topology: Topology, nic: str) -> tuple[str, str]:
    host, dot, name = nic.partition(".")
    if not dot or not name:
        _refuse(nic, f"{nic!r} is not a host's NIC", "write HOST.NIC, e.g. node1.eth1")
    _host(topology, host)
    return host, name


def _interface_of(topology: Topology, nic: str, *, nics_only: bool = False) -> tuple[str, str]:
    host, name = _host_of(topology, nic)
    known = topology.hosts[host].nics if nics_only else topology.hosts[host].interfaces
    if name not in known:
        _refuse(nic, f"{host} has no NIC {name!r}", nearest(name, known))
    return host, name


def _free(topology: Topology, where: str, interface: Interface) -> None:
    for host, name, other in topology.interface_pairs():
        if any(own.ip == interface.ip for own in other.addresses):
            _refuse(f"{where} {interface}", f"{interface.ip} is {host}.{name}'s", "an address belongs to one NIC")


def _interface(where: str, words: str) -> Interface:
    return _parsed(parse_interface, words, where, "write ADDRESS/LENGTH, e.g. 10.0.1.9/24")


def _route(host: str, words: str) -> Route:
    return _parsed(parse_route, words, f"{host}: {words}", "e.g. default via 10.0.0.254 dev eth0")


def _rule(host: str, words: str) -> Rule:
    return _parsed(parse_rule, words, f"{host}: {words}", "e.g. from 10.244.1.0/24 lookup 100")


def _parsed(parse: Callable[[str], T], words: str, where: str, example: str) -> T:
    try:
        return parse(words)
    except ValueError as error:
        _refuse(where, str(error), example)


def _one_of(things: Iterable[object]) -> str:
    return f"it has {', '.join(map(str, things)) or 'none'}"


def _refuse(where: str, why: str, fix: str) -> NoReturn:
    raise InputError([Problem(where, 0, "", why, fix)])


# What the kernel makes of a change to one host: which addresses and routes go with a link. Every rule is [kernel].
# A host's state is its part of the topology: the NICs it has now, whether they are up, the addresses and routes left.

_KEEPS = ("net.ipv6.conf.all.keep_addr_on_down", "net.ipv6.conf.{}.keep_addr_on_down")


def with_(host: H, **changes: Any) -> H:
    return host.model_copy(update=changes)


def link_down(host: H, name: str) -> H:
    """IPv4 routes go, silently; a multipath route stays while another hop is alive (fib_sync_down_dev).

    IPv6: routes go, and the addresses too (addrconf_ifdown) unless `keep_addr_on_down` is set. VLANs go down with what
    they stand on.
    """
    gone = {link for link in _with_vlans(host, name) if is_up(host, link)}
    if not gone:
        return host
    down = _changed(host, name, up=False)
    for link in gone:
        if not any(host.sysctls.get(key.format(link), "0") not in ("0", "-1") for key in _KEEPS):
            down = _changed(down, link, addresses=down.interfaces[link].addresses_of(4))

    def dead(route: Route) -> bool:
        devices = {hop.dev for hop in route.nexthops if hop.dev in host.interfaces}
        # Local routes of IPv4 have a scope that the flush passes over.
        local = route.family == 4 and route.kind == "local"
        return not local and not devices.isdisjoint(gone) and not any(is_up(down, dev) for dev in devices if dev)

    return with_(down, routes=_living(host, dead))


def link_up(host: H, name: str) -> H:
    """The connected routes of the addresses that are left come back; nothing else does."""
    return _changed(host, name, up=True)


def _with_vlans(host: Host, name: str) -> Iterator[str]:
    yield name
    for other, link in host.links.items():
        if link.parent == name:
            yield from _with_vlans(host, other)


def plugged(host: H, name: str, nic: Nic) -> H:
    return with_(host, nics={**host.nics, name: nic})


def unplugged(host: H, name: str) -> H:
    """Routes with a hop by this NIC go, of IPv4 also multipath ones (fib_sync_down_dev, NETDEV_UNREGISTER); an IPv6
    route keeps its other hops."""
    nics = {nic: kept_nic for nic, kept_nic in host.nics.items() if nic != name}
    routes: list[Route] = []
    for route, full in zip(host.routes, kept(host, host.routes), strict=True):
        left = tuple(hop for hop in full.nexthops if hop.dev != name)
        if name not in full.devices:
            routes.append(route)
        elif route.family == 6 and left:
            routes.append(replace(full, nexthops=left))
    return with_(host, nics=nics, routes=tuple(routes))


def address_added(host: H, name: str, interface: Interface) -> H:
    return _changed(host, name, addresses=(*host.interfaces[name].addresses, interface))


def address_removed(host: H, name: str, interface: Interface) -> H:
    """IPv4: routes with it as their source go, secondaries go with their primary (unless `promote_secondaries`), and
    with the last address every route by this NIC (fib_del_ifaddr). IPv6: only its own."""
    before = host.interfaces[name].addresses
    kin = [address for address in before if address.version == 4 and address.network == interface.network]
    gone = set(kin) if kin[:1] == [interface] else {interface}
    left = tuple(address for address in before if address not in gone)
    lost = {address.ip for address in gone if address.version == 4}
    last = bool(lost) and not any(address.version == 4 for address in left)

    def dead(route: Route) -> bool:
        devices = {hop.dev for hop in route.nexthops}
        return route.family == 4 and (route.source in lost or (last and devices == {name}))

    return with_(_changed(host, name, addresses=left), routes=_living(host, dead))


def _changed(host: H, name: str, **changes: Any) -> H:
    field = "nics" if name in host.nics else "links"
    known: Mapping[str, Nic | Link] = host.nics if name in host.nics else host.links
    return with_(host, **{field: {**known, name: known[name].model_copy(update=changes)}})


def _living(host: Host, dead: Callable[[Route], bool]) -> tuple[Route, ...]:
    """The host's routes without the dead ones; `dead` is given each route with its devices filled in."""
    return tuple(route for route, full in zip(host.routes, kept(host, host.routes), strict=True) if not dead(full))
