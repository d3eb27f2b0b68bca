"""Rtnetlink messages by pyroute2's classes: kernel operations encoded, dumps asked for and decoded.

Importing this imports those classes, which takes a tenth of a second: only what talks to the kernel does.
"""

from __future__ import annotations

import functools
import importlib.machinery
import socket
import struct
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from niclab.net import operation as op
from niclab.net.operation import Entry, Operation
from niclab.net.route import SCOPES, Encap, NextHop, Route, Rule


@contextmanager
def _empty_package(name: str) -> Iterator[None]:
    """Let a package's modules be imported without its `__init__`: pyroute2's imports everything pyroute2 has, which
    takes three times as long as the message classes, and they need none of it."""
    if name in sys.modules:
        yield
        return
    spec = importlib.machinery.PathFinder.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[name] = package
    try:
        yield
    finally:
        del sys.modules[name]


with _empty_package("pyroute2"):
    from pyroute2.netlink import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, nla, rtnl
    from pyroute2.netlink.rtnl.fibmsg import FR_ACT_NAMES, fibmsg
    from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT, ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

Attributes = list[tuple[str, Any]]
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_MAKE = NLM_F_CREATE | NLM_F_EXCL
_BOND_MODES = {
    mode: number
    for number, mode in enumerate(
        ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
    )
}
_RTNH_F_ONLINK, _FIB_RULE_INVERT = 4, 2
_IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_INFO_DATA = 18, 1, 2
_IFLA_MACVLAN_MODE, _IFLA_MACVLAN_BC_CUTOFF = 1, 9
_MACVLAN_MODES = {"private": 1, "passthru": 8}
_BC_CUTOFF = -1
"""No multicast goes through the work queue. With 0 all does, as on every kernel before 6.4: for tests of those."""
_IFF_NOARP, _ADDR_GEN_MODE_NONE = 0x80, 1
_LWTUNNEL_IP, _LWTUNNEL_IP6 = 2, 4
_TUNNEL_NOCACHE = 0x2000
"""[kernel] A route's tunnel remembers the way to its other end, so that all flows would share one hop of a multipath
route. Cilium's packets ask anew each time (bpf_skb_set_tunnel_key), and so shall these."""
_RTEXT_FILTER_SKIP_STATS = 1 << 3
_NLA_TYPE_MASK = 0x3FFF


# pyroute2 has no types: what derives from its messages derives from Any.
class _Tunnel(nla):  # type: ignore[misc]
    """The encapsulation of a lightweight tunnel's route (linux/lwtunnel.h, enum lwtunnel_ip_t)."""

    nla_map = (
        ("LWTUNNEL_IP_UNSPEC", "none"),
        ("LWTUNNEL_IP_ID", "be64"),
        ("LWTUNNEL_IP_DST", "ipaddr"),
        ("LWTUNNEL_IP_SRC", "ipaddr"),
        ("LWTUNNEL_IP_TTL", "uint8"),
        ("LWTUNNEL_IP_TOS", "uint8"),
        ("LWTUNNEL_IP_FLAGS", "be16"),
    )


class _RouteMessage(rtmsg):  # type: ignore[misc]
    encaps: ClassVar = {**rtmsg.encaps, _LWTUNNEL_IP: _Tunnel, _LWTUNNEL_IP6: _Tunnel}


class Interfaces(Protocol):
    """The interfaces of a namespace, by name; `fd` is its handle, `new_index` for what is about to be made."""

    @property
    def fd(self) -> int: ...
    def index(self, name: str) -> int: ...
    def new_index(self, name: str) -> int: ...


def operation_message(operation: Operation, own: Interfaces, peer: Interfaces | None = None) -> bytes:
    """The message that carries out an operation; `peer` has the other end of a cable."""
    match operation:
        case op.AddCable(master=master):
            assert peer is not None
            index = peer.new_index(operation.peer_name)
            ends = (
                _End(own.new_index(operation.name), operation.name, operation.mac),
                _End(index, operation.peer_name, operation.peer_mac, operation.bare),
            )
            return _cable(*ends, operation.mtu, own.index(master) if master else None, peer.fd)
        case op.AddLink(name=name, kind="macvlan", mac=None | str(), parent=str(parent), options=((_, str(mode)),)):
            return _macvlan(own.new_index(name), name, operation.mac, own.index(parent), mode)
        case op.AddLink(name=name, kind=kind):
            link = _link(own.new_index(name), name, operation.mac, operation.mtu, up=operation.up)
            if operation.parent is not None:
                link["attrs"].append(("IFLA_LINK", own.index(operation.parent)))
            data = [attribute for word, value in operation.options for attribute in _option(kind, word, value, own)]
            return _new_link(link, kind, data)
        case op.SetLink(name=name, up=up):
            return link_message(own.index(name), up=up)
        case op.NoAddresses(name=name):
            return _no_addresses(own.index(name))
        case op.SetMaster(name=name, master=master):
            fields = {"index": own.index(name), "attrs": [("IFLA_MASTER", own.index(master))]}
            return _encoded(ifinfmsg, rtnl.RTM_NEWLINK, 0, fields)
        case op.DelLink(name=name):
            return _encoded(ifinfmsg, rtnl.RTM_DELLINK, 0, {"index": own.index(name)})
        case op.Remove(entry):
            return _made_or_removed(operation, *_indices(entry, own))
        case op.AddRoute() | op.AddRule() | op.AddAddress() | op.AddNeighbour():
            return _made_or_removed(operation, *_indices(operation, own))
        case _:
            raise AssertionError(operation)


def _indices(entry: Entry, own: Interfaces) -> tuple[int, ...]:
    """What is remembered with an entry's message: its interfaces, or its family."""
    match entry:
        case op.AddRoute(route=route):
            return tuple(own.index(hop.dev) if hop.dev else 0 for hop in route.nexthops)
        case op.AddRule(rule=rule):
            return (rule.family,)  # rules of both families are equal where they name no network
        case _:
            return (own.index(entry.dev),)


@functools.lru_cache(4096)
def _made_or_removed(operation: Entry | op.Remove, *key: int) -> bytes:
    """The same fields make and remove something; RTM_DEL… follows RTM_NEW… Labs of one topology have the same ones."""
    kind: Any
    match entry := operation.entry if isinstance(operation, op.Remove) else operation:
        case op.AddRoute(route=route):
            kind, number, fields = _RouteMessage, rtnl.RTM_NEWROUTE, _route(route, key)
        case op.AddRule(rule=rule):
            kind, number, fields = fibmsg, rtnl.RTM_NEWRULE, _rule(rule)
        case op.AddAddress():
            kind, number, fields = ifaddrmsg, rtnl.RTM_NEWADDR, _address(entry, *key)
        case _:
            kind, number, fields = ndmsg, rtnl.RTM_NEWNEIGH, _neighbour(entry, *key)
    match operation:
        case op.AddRoute(replace=True) | op.AddNeighbour():
            return _encoded(kind, number, NLM_F_CREATE | NLM_F_REPLACE, fields)
        case op.AddAddress() | op.AddRoute() | op.AddRule():
            return _encoded(kind, number, _MAKE, fields)
        case _:
            return _encoded(kind, number + 1, 0, fields)


def _encoded(kind: Any, number: int, flags: int, fields: dict[str, Any]) -> bytes:
    message = kind()
    message.update(fields)
    message["header"]["type"], message["header"]["flags"] = number, NLM_F_REQUEST | flags
    message.encode()
    return bytes(message.data)


_OPTIONS = {
    ("bond", "miimon"): "IFLA_BOND_MIIMON",
    ("bridge", "stp_state"): "IFLA_BR_STP_STATE",
    ("bridge", "mcast_snooping"): "IFLA_BR_MCAST_SNOOPING",
    ("vlan", "id"): "IFLA_VLAN_ID",
    ("vrf", "table"): "IFLA_VRF_TABLE",
    ("vxlan", "dstport"): "IFLA_VXLAN_PORT",
}


def _option(kind: str, word: str, value: str | int, own: Interfaces) -> Attributes:
    """An option of iproute2's `ip link add … type KIND`."""
    match kind, word, value:
        case "bond", "mode", str():
            return [("IFLA_BOND_MODE", _BOND_MODES[value])]
        case "bond", "primary", str():
            return [("IFLA_BOND_PRIMARY", own.index(value))]
        case "vxlan", "external", _:
            return [("IFLA_VXLAN_COLLECT_METADATA", 1), ("IFLA_VXLAN_LEARNING", 0)]
        case "vxlan", "udp6zerocsumrx", _:
            return [("IFLA_VXLAN_UDP_ZERO_CSUM6_RX", 1)]
        case _:
            return [(_OPTIONS[kind, word], value)]


def _given(**values: Any) -> Attributes:
    """Attributes of what is not None."""
    return [(name, value) for name, value in values.items() if value is not None]


def _link(index: int, name: str, mac: str | None, mtu: int | None = None, *, up: bool = False) -> dict[str, Any]:
    # One queue: the kernel's default of one per CPU doubles what a veth costs and serves no one here.
    queues = {"IFLA_NUM_TX_QUEUES": 1, "IFLA_NUM_RX_QUEUES": 1}
    attributes = _given(IFLA_IFNAME=name, **queues, IFLA_ADDRESS=mac, IFLA_MTU=mtu)
    return {"index": index, "flags": IFF_UP if up else 0, "change": IFF_UP if up else 0, "attrs": attributes}


def _new_link(link: dict[str, Any], kind: str, data: Attributes) -> bytes:
    info = _given(IFLA_INFO_KIND=kind, IFLA_INFO_DATA={"attrs": data} if data else None)
    link["attrs"].append(("IFLA_LINKINFO", {"attrs": info}))
    return _encoded(ifinfmsg, rtnl.RTM_NEWLINK, _MAKE, link)


def incomplete_link(kind: str) -> bytes:
    """A new link that lacks what it stands on."""
    return _new_link(_link(0, "probe", None), kind, [])


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a cable."""

    index: int
    name: str
    mac: str
    bare: bool = False

    def encoded(self) -> tuple[bytes, bytes, bytes]:
        return struct.pack("=i", self.index), self.name.encode(), bytes.fromhex(self.mac.replace(":", ""))


def _cable(end: _End, peer: _End, mtu: int, master: int | None, peer_fd: int) -> bytes:
    """A message for a cable, by far the commonest: of those of one shape pyroute2 encodes the first, which takes it
    0.15 ms, and the others differ from it in values of the same length only."""
    names = "y" * len(end.name), "x" * len(peer.name)
    ends = _End(0x7A7A7A01, names[0], "7a:7a:7a:7a:7a:02"), _End(0x7A7A7A03, names[1], "7a:7a:7a:7a:7a:04", peer.bare)
    numbers = {0x7A7A7A05: peer_fd} | ({0x7A7A7A06: master} if master is not None else {})
    message = _encoded_cable(*ends, mtu, 0x7A7A7A06 if master is not None else None, 0x7A7A7A05)
    values = [*zip(ends[0].encoded() + ends[1].encoded(), end.encoded() + peer.encoded(), strict=True)]
    values += [(struct.pack("=i", stand_in), struct.pack("=i", number)) for stand_in, number in numbers.items()]
    return _filled(message, values) or _encoded_cable(end, peer, mtu, master, peer_fd)


def _filled(message: bytes, values: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """A message with values in the place of stand-ins of the same length; None where one of those is not there once:
    a name may be so short that it might be anything."""
    filled = bytearray(message)
    for stand_in, value in values:
        if message.count(stand_in) != 1:
            return None
        at = message.index(stand_in)
        filled[at : at + len(value)] = value
    return bytes(filled)


@functools.lru_cache
def _encoded_cable(end: _End, peer: _End, mtu: int, master: int | None, peer_fd: int) -> bytes:
    link = _link(end.index, end.name, end.mac, mtu, up=True)
    link["attrs"] += [("IFLA_MASTER", master)] if master is not None else []
    # Not up: veth_open finds no peer yet (ENOTCONN).
    other = _link(peer.index, peer.name, peer.mac, mtu)
    if peer.bare:
        other |= {"flags": _IFF_NOARP, "change": _IFF_NOARP}
    other["attrs"].append(("IFLA_NET_NS_FD", peer_fd))
    return _new_link(link, "veth", [("VETH_INFO_PEER", other)])


def _macvlan(index: int, name: str, mac: str | None, parent: int, mode: str) -> bytes:
    """A message for a macvlan, one for each physical NIC: those of one place in many namespaces differ in MACs only."""
    if mac is None:
        return _encoded_macvlan(index, name, None, parent, mode)
    message = _encoded_macvlan(index, name, _STAND_IN, parent, mode)
    stand_in, own = (bytes.fromhex(one.replace(":", "")) for one in (_STAND_IN, mac))
    return _filled(message, [(stand_in, own)]) or _encoded_macvlan(index, name, mac, parent, mode)


_STAND_IN = "7a:7a:7a:7a:7a:07"


@functools.lru_cache(4096)
def _encoded_macvlan(index: int, name: str, mac: str | None, parent: int, mode: str) -> bytes:
    link = _link(index, name, mac)
    link["attrs"].append(("IFLA_LINK", parent))
    message = bytearray(_encoded(ifinfmsg, rtnl.RTM_NEWLINK, _MAKE, link))
    # By hand, for pyroute2 does not know IFLA_MACVLAN_BC_CUTOFF. [kernel] Without it what is broadcast is received
    # later, and by another CPU, than what follows it, which no NIC does; before Linux 6.4 that is always so.
    cutoff = (8, _IFLA_MACVLAN_BC_CUTOFF, _BC_CUTOFF)
    options = struct.pack("=HHIHHi", 8, _IFLA_MACVLAN_MODE, _MACVLAN_MODES[mode], *cutoff)
    info = struct.pack("=HH8sHH", 12, _IFLA_INFO_KIND, b"macvlan", 4 + len(options), _IFLA_INFO_DATA) + options
    message += struct.pack("=HH", 4 + len(info), _IFLA_LINKINFO) + info
    struct.pack_into("=I", message, 0, len(message))
    return bytes(message)


@functools.lru_cache(4096)
def _no_addresses(index: int) -> bytes:
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]}
    attributes = [("IFLA_AF_SPEC", {"attrs": [("AF_INET6", mode)]})]
    return _encoded(ifinfmsg, rtnl.RTM_NEWLINK, 0, {"index": index, "attrs": attributes})


@functools.lru_cache(4096)
def link_message(index: int, *, up: bool) -> bytes:
    """Bring a link up or down."""
    return _encoded(ifinfmsg, rtnl.RTM_NEWLINK, 0, {"index": index, "flags": IFF_UP if up else 0, "change": IFF_UP})


def _address(operation: op.AddAddress, index: int) -> dict[str, Any]:
    interface = operation.interface
    address, flags = str(interface.ip), IFA_F_NODAD if interface.version == 6 else None
    attributes = _given(IFA_LOCAL=address, IFA_ADDRESS=address, IFA_FLAGS=flags)
    return {
        "family": _FAMILY[interface.version],
        "prefixlen": interface.network.prefixlen,
        "index": index,
        "attrs": attributes,
    }


def _route(route: Route, indices: tuple[int, ...]) -> dict[str, Any]:
    hops = [_next_hop(hop, route, index) for hop, index in zip(route.nexthops, indices, strict=True)]
    single = hops[0] if len(hops) == 1 else None
    attributes = _given(
        RTA_TABLE=route.table,
        RTA_DST=str(route.destination.network_address) if route.destination.prefixlen else None,
        RTA_PRIORITY=route.metric,
        RTA_PREFSRC=str(route.source) if route.source is not None else None,
        RTA_METRICS={"attrs": [("RTAX_MTU", route.mtu)]} if route.mtu is not None else None,
        RTA_OIF=(single["oif"] or None) if single else None,
        RTA_MULTIPATH=hops if len(hops) > 1 else None,
    )
    attributes += single["attrs"] if single else []
    attributes += _encap(route.encap) if route.encap is not None else []
    return {
        "family": _FAMILY[route.family],
        "dst_len": route.destination.prefixlen,
        "table": route.table if route.table < 256 else 0,
        "proto": route.protocol,
        "scope": SCOPES[route.effective_scope] if route.family == 4 else 0,
        "type": rtnl.rt_type[route.kind],
        "flags": single["flags"] if single else 0,
        "attrs": attributes,
    }


def _next_hop(hop: NextHop, route: Route, index: int) -> dict[str, Any]:
    attributes: Attributes = []
    if hop.via is not None and hop.via.version == route.family:
        attributes = [("RTA_GATEWAY", str(hop.via))]
    elif hop.via is not None:
        attributes = [("RTA_VIA", {"family": _FAMILY[hop.via.version], "addr": str(hop.via)})]
    return {
        "flags": _RTNH_F_ONLINK if hop.onlink else 0,
        "hops": hop.weight - 1,
        "oif": index,
        "family": _FAMILY[route.family],
        "attrs": attributes,
    }


def _encap(encap: Encap) -> Attributes:
    remote = str(encap.remote)
    tunnel = _given(LWTUNNEL_IP_ID=encap.vni, LWTUNNEL_IP_DST=remote, LWTUNNEL_IP_FLAGS=_TUNNEL_NOCACHE)
    kind = _LWTUNNEL_IP if encap.remote.version == 4 else _LWTUNNEL_IP6
    return [("RTA_ENCAP_TYPE", kind), ("RTA_ENCAP", {"attrs": tunnel})]


def _rule(rule: Rule) -> dict[str, Any]:
    mark, mask = rule.mark or (None, None)
    attributes = _given(
        FRA_TABLE=rule.table or 0,
        FRA_DST=str(rule.destination.network_address) if rule.destination else None,
        FRA_SRC=str(rule.source.network_address) if rule.source else None,
        FRA_IIFNAME=rule.iif or None,
        FRA_OIFNAME=rule.oif or None,
        FRA_FWMARK=mark,
        FRA_FWMASK=mask,
        FRA_PRIORITY=rule.priority,
    )
    return {
        "family": _FAMILY[rule.family],
        "dst_len": rule.destination.prefixlen if rule.destination else 0,
        "src_len": rule.source.prefixlen if rule.source else 0,
        "table": rule.table if rule.table and rule.table < 256 else 0,
        "action": FR_ACT_NAMES["FR_ACT_TO_TBL" if rule.action == "lookup" else f"FR_ACT_{rule.action.upper()}"],
        "flags": _FIB_RULE_INVERT if rule.negated else 0,
        "attrs": attributes,
    }


def _neighbour(operation: op.AddNeighbour, index: int) -> dict[str, Any]:
    return {
        "family": _FAMILY[operation.address.version],
        "ifindex": index,
        "state": NUD_PERMANENT,
        "attrs": [("NDA_DST", str(operation.address)), ("NDA_LLADDR", operation.mac)],
    }


@dataclass(frozen=True)
class Dump:
    """What can be listed: the request, and its answers decoded by pyroute2's class."""

    kind: Any
    request: bytes
    wanted: frozenset[int] = frozenset()
    """The attributes that are decoded; empty: all. A link has forty, which takes pyroute2 half a millisecond."""

    def decoded(self, answer: bytes) -> Any:
        message = self.kind(data=self._shortened(answer) if self.wanted else answer)
        message.decode()
        return message

    def _shortened(self, answer: bytes) -> bytes:
        at = 16 + struct.calcsize("=" + "".join(format_ for _, format_ in self.kind.fields))
        kept = bytearray(answer[:at])
        while at + 4 <= len(answer):
            length, number = struct.unpack_from("=HH", answer, at)
            end = at + ((max(length, 4) + 3) & ~3)
            if number & _NLA_TYPE_MASK in self.wanted:
                kept += answer[at:end]
            at = end
        struct.pack_into("=I", kept, 0, len(kept))
        return bytes(kept)


def _dump(kind: Any, number: int, fields: dict[str, Any], *wanted: str) -> Dump:
    numbers = frozenset(number for number, (name, *_) in enumerate(kind.nla_map) if name in wanted)
    return Dump(kind, _encoded(kind, number, NLM_F_DUMP, fields), numbers)


_IPV6 = {"family": socket.AF_INET6}
LINKS = _dump(
    ifinfmsg,
    rtnl.RTM_GETLINK,
    {"attrs": [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]},
    *("IFLA_IFNAME", "IFLA_OPERSTATE", "IFLA_CARRIER", "IFLA_LINKINFO"),
)
"""Without their counters, so that two answers are the same bytes unless something changed."""
IPV6_ADDRESSES = _dump(ifaddrmsg, rtnl.RTM_GETADDR, _IPV6)
IPV6_GROUPS = _dump(ifaddrmsg, rtnl.RTM_GETMULTICAST, _IPV6)
"""The multicast groups that are joined."""
NEIGHBOURS = _dump(ndmsg, rtnl.RTM_GETNEIGH, {})


def forget_neighbour(entry: Any) -> bytes:
    """Remove a neighbour entry, as it was listed."""
    fields = {"family": entry["family"], "ifindex": entry["ifindex"], "attrs": [("NDA_DST", entry.get_attr("NDA_DST"))]}
    return _encoded(ndmsg, rtnl.RTM_DELNEIGH, 0, fields)
