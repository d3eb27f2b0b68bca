"""From a topology to the kernel operations that build it, in order. Pure: the same topology gives the same plan."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from niclab.errors import LabError
from niclab.net import operation as op
from niclab.net.operation import AddCable, AddLink, AddNeighbour, Operation
from niclab.net.route import numbered
from niclab.topology.model import Host, Nic, Node, Topology
from niclab.topology.stacking import master_of, mtu_of

FABRIC = "fabric"
"""The namespace that holds every fabric, and so the outer end of every cable."""

_IFNAMSIZ = 15

# A namespace starts with the host's own values of these (net.core.devconf_inherit_init_net); the lab must not.
BASE_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.default.accept_dad": "0",
}
_FORWARDING = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}


Mode = Literal["", "private", "passthru"]
"""How a NIC stands on its cable: "" for a veth, which is its end; else that of a macvlan on it.

[kernel] Agents know no macvlan, so they treat it as they treat a machine's NIC. In passthru mode it takes whatever
arrives for its own (macvlan_handle_frame: PACKET_HOST), also what a fabric floods for others, and a node would forward
that; a NIC does so only for a bridge that it is a port of. In private mode it has a NIC's filter of MACs.
"""


@dataclass(frozen=True)
class Cable:
    """One NIC's cable: `port` is its outer end, an interface of the fabric namespace, where its tap listens."""

    host: str
    nic_name: str
    nic: Nic
    number: int
    host_number: int
    mode: Mode = ""

    @property
    def tap(self) -> str:
        return f"{self.host}.{self.nic_name}"

    @property
    def port(self) -> str:
        return self.tap if len(self.tap) <= _IFNAMSIZ else f"p.{self.number}"

    @property
    def mac(self) -> str:
        return self.nic.mac or mac(NIC, self.host_number, self.number)

    @property
    def port_mac(self) -> str:
        return mac(PORT, self.host_number, self.number)

    @property
    def end(self) -> str:
        """Its inner end: the NIC itself, or what the NIC stands on, which has no address of any family."""
        return f"{END}{self.number}" if self.mode else self.nic_name

    def plugged(self, bridges: Mapping[str, str]) -> AddCable:
        """What plugs it; `bridges`: fabric → its bridge."""
        end_mac = mac(END_MAC, self.host_number, self.number) if self.mode == "private" else self.mac
        inner = (self.host, self.end, end_mac, self.nic.mtu)
        master = bridges[self.nic.fabric]
        return AddCable(FABRIC, self.port, self.port_mac, *inner, master=master, bare=bool(self.mode))

    def stands(self) -> Iterator[Operation]:
        """What puts the NIC on it, when it is plugged: nothing for a veth."""
        if self.mode:
            yield op.NoAddresses(self.host, self.end)
            yield op.SetLink(self.host, self.end)
            own = self.mac if self.mode == "private" else None
            yield AddLink.macvlan(self.host, self.nic_name, own, self.end, self.mode)


END = "cable"
"""What the names of cables' inner ends begin with, where a NIC stands on them. A number follows, and no pattern of
`devices` that people write matches it."""
NIC, PORT, BRIDGE, POD, POD_PORT, TUNNEL, ROUTER, LINK, END_MAC = range(9)
"""Kinds of what has a MAC of the lab's: a NIC, its port at the fabric, a fabric's bridge, a pod, the node's end of a
pod's cable, the tunnel's device, `cilium_net` and `cilium_host`, a link on top of NICs, a cable's end below a NIC."""
_MOST = 0xFFFF


def mac(kind: int, host: int, number: int) -> str:
    """A locally administered MAC that says whose it is. Raises LabError where its 16 bits for a number are too few."""
    if max(host, number) > _MOST:
        what = f"host number {host}" if host > _MOST else f"number {number} of its kind"
        raise LabError(f"no MAC is left for {what}", why=f"a lab has MACs for {_MOST}", fix="use a smaller topology")
    return f"02:{kind:02x}:{number >> 8:02x}:{host >> 8:02x}:{host & 0xFF:02x}:{number & 0xFF:02x}"


def cables(topology: Topology, standing: Sequence[Cable] = (), *, veth: bool = False) -> tuple[Cable, ...]:
    """Every NIC's cable, nodes first. Those that stand keep their numbers, and so their names and MACs.

    Hosts that are no nodes have veths, for nobody selects their NICs; `veth`: nodes have them, too.
    """
    numbers = {name: number for number, name in enumerate(topology.hosts, 1)}
    known = {cable.tap: cable.number for cable in standing}
    fresh = itertools.count(max(known.values(), default=-1) + 1)
    return tuple(
        Cable(
            host,
            nic_name,
            nic,
            known[tap] if (tap := f"{host}.{nic_name}") in known else next(fresh),
            numbers[host],
            "" if veth or host not in topology.nodes else _mode(topology.nodes[host], nic_name),
        )
        for host, nic_name, nic in topology.nic_pairs()
    )


def _mode(node: Node, nic: str) -> Mode:
    if node.nics[nic].kind == "veth":
        return ""
    master = master_of(node, nic)
    return "passthru" if master is not None and node.links[master].kind == "bridge" else "private"


@dataclass(frozen=True)
class Plan:
    """The operations of a topology, and the names they used. `standing`: cables that are there already.

    `veth`: every NIC is one, whatever its kind.
    """

    topology: Topology
    standing: tuple[Cable, ...] = ()
    veth: bool = False

    @cached_property
    def cables(self) -> tuple[Cable, ...]:
        return cables(self.topology, self.standing, veth=self.veth)

    @cached_property
    def macs(self) -> Mapping[str, frozenset[str]]:
        """Tap → the MACs that its host's frames have there: the NIC's, and those of the links on top of it."""
        macs: dict[str, frozenset[str]] = {cable.tap: frozenset({cable.mac}) for cable in self.cables}
        for name, host in self.topology.hosts.items():
            for link, made in link_macs(host, self._cables_of(name), self._numbers[name]).items():
                for nic in _nics_below(host, link):
                    macs[f"{name}.{nic}"] |= {made}
        return macs

    def mac_of(self, host: str, name: str) -> str:
        """The MAC of what one of a host's interfaces sends."""
        cables = self._cables_of(host)
        if name in cables:
            return cables[name].mac
        return link_macs(self.topology.hosts[host], cables, self._numbers[host])[name]

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        return tuple(self._made())

    def _made(self) -> Iterator[Operation]:
        topology = self.topology
        yield op.AddNamespace(FABRIC)
        for name in topology.hosts:
            # Its own keys come after its links.
            forwards = name not in topology.externals
            yield op.AddNamespace(name, {**BASE_SYSCTLS, **(_FORWARDING if forwards else {})})
        names = bridges(topology)
        for number, name in enumerate(names.values()):
            yield AddLink.bridge(FABRIC, name, mac(BRIDGE, 0, number))
        for cable in self.cables:
            yield cable.plugged(names)
        for name, host in topology.hosts.items():
            yield from _host(name, host, self._cables_of(name), self._numbers[name])
        yield from _cloud_neighbours(topology, self.cables)

    def _cables_of(self, host: str) -> Mapping[str, Cable]:
        return {cable.nic_name: cable for cable in self.cables if cable.host == host}

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.topology.hosts, 1)}


def _cloud_neighbours(topology: Topology, cables: Sequence[Cable]) -> Iterator[AddNeighbour]:
    """A cloud brings what is for a pod's address to the NIC that it belongs to: nobody asks by ARP, nobody answers.

    Here every other host of the subnet has a neighbour entry for it.
    """
    owners = {cable.tap: cable for cable in cables}
    addresses = topology.pod_addresses()
    for pod, (node, spec) in topology.pods.items():
        name = topology.nodes[node].nic_of(spec)
        if name is None:
            continue
        owner = owners[f"{node}.{name}"]
        for cable in cables:
            if cable.nic.fabric == owner.nic.fabric and cable.host != node and cable.nic.up:
                for address in addresses[pod]:
                    yield AddNeighbour(cable.host, cable.nic_name, address, owner.mac)


def bridges(topology: Topology) -> Mapping[str, str]:
    """Fabric → the name of its bridge."""
    return {name: name if len(name) <= _IFNAMSIZ else f"fabric{n}" for n, name in enumerate(topology.fabrics)}


def _host(name: str, host: Host, cables: Mapping[str, Cable], number: int) -> Iterator[Operation]:
    for cable in cables.values():
        yield from cable.stands()
    macs = link_macs(host, cables, number)
    for link_name in _from_below(host):
        yield from _link(name, host, link_name, macs)
    for dev, interface in host.interfaces.items():
        for address in interface.addresses:
            yield op.AddAddress(name, dev, address)
        # A VLAN goes up with its parent.
        if interface.up and dev != "lo":
            yield op.SetLink(name, dev)
        elif dev in host.links and host.links[dev].kind == "bridge":
            yield op.SetLink(name, dev, up=False)
    for key, value in host.sysctls.items():
        yield op.SetSysctl(name, key.replace("/", ".") if "." not in key else key, value)
    for route in host.routes:
        yield op.AddRoute(name, route)
    for rule in numbered(host.rules):
        yield op.AddRule(name, rule)


def _nics_below(host: Host, name: str) -> Iterator[str]:
    if name in host.nics:
        yield name
    for under in host.links[name].below if name in host.links else ():
        yield from _nics_below(host, under)


def _from_below(host: Host) -> list[str]:
    """The links in an order in which each stands on what is there."""
    order: dict[str, None] = {}

    def add(name: str) -> None:
        if name in host.links and name not in order and name != "lo":
            for under in host.links[name].below:
                add(under)
            order[name] = None

    for name in host.links:
        add(name)
    return list(order)


def _link(host_name: str, host: Host, name: str, macs: Mapping[str, str]) -> Iterator[Operation]:
    link = host.links[name]
    mtu = mtu_of(host, name)
    match link.kind:
        case "bond":
            mode = link.mode or "active-backup"
            primary = link.members[0] if mode == "active-backup" else None
            # A fabric speaks no LACP: a hash over the same slaves stands in for it (`stands_in`).
            built = "balance-xor" if mode == "802.3ad" else mode
            yield AddLink.bond(host_name, name, macs[name], mtu, mode=built, primary=primary)
        case "bridge":
            yield AddLink.bridge(host_name, name, macs[name])
        case "vlan":
            assert link.parent is not None and link.vlan is not None
            yield AddLink(host_name, name, "vlan", (("id", link.vlan),), mtu=mtu, parent=link.parent)
        case "vrf":
            assert link.table is not None
            yield AddLink(host_name, name, "vrf", (("table", link.table),), macs[name])
        case "dummy":
            yield AddLink(host_name, name, "dummy", (), macs[name], mtu)
        case _:
            pass
    for member in link.members:
        yield op.SetMaster(host_name, member, name)


def link_macs(host: Host, cables: Mapping[str, Cable], number: int) -> Mapping[str, str]:
    """Link → the MAC of what it sends: its own, else of bonds, bridges and VLANs that of the first NIC below it."""
    macs: dict[str, str] = {}
    for place, name in enumerate(_from_below(host)):
        link = host.links[name]
        below = next((cables[under].mac if under in cables else macs.get(under) for under in link.below), None)
        macs[name] = link.mac or (below if link.kind != "vrf" else None) or mac(LINK, number, place)
    return macs
