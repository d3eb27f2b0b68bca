"""Every number of the built-in datapath: routing tables, priorities of rules, bits of marks. Pure.

A namespace has one set of tables, one list of rules and one mark on a packet, and another one on its connection: no
two features may use the same number there. MACs are `niclab.kernel.plan.mac`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from niclab.errors import LabError
from niclab.net.route import TABLES
from niclab.topology.model import Host


@dataclass(frozen=True, slots=True)
class Block:
    """Routing tables, one for each of something: the first of them have short numbers, from `first` on.

    `more`: where the tables of the others begin; there is room for a million.
    """

    what: str
    first: int
    short: int = 200
    more: int | None = None

    def table(self, number: int) -> int:
        """The table of the one with this number, counted from 0. Raises LabError."""
        if number < self.short:
            return self.first + number
        if self.more is None or number >= self.size:
            raise LabError(
                f"the built-in datapath has tables for {self.size} {self.what}",
                why=f"this lab needs one for number {number + 1}",
                fix="use a smaller topology",
            )
        return self.more + number - self.short

    @property
    def size(self) -> int:
        return self.short if self.more is None else self.short + 1_000_000

    @property
    def ranges(self) -> tuple[range, ...]:
        short = range(self.first, self.first + self.short)
        return (short,) if self.more is None else (short, range(self.more, self.more + 1_000_000))

    def __contains__(self, table: object) -> bool:
        return any(table in numbers for numbers in self.ranges)


@dataclass(frozen=True, slots=True)
class Field:
    """Bits of a mark, or of a header, that hold a number; 0 stands for none."""

    mask: int
    what: str

    @property
    def largest(self) -> int:
        return self.mask >> self._shift

    @property
    def _shift(self) -> int:
        return (self.mask & -self.mask).bit_length() - 1

    def value(self, number: int) -> int:
        """The bits of a number. Raises LabError."""
        if not 0 <= number <= self.largest:
            raise LabError(
                f"the built-in datapath tells {self.largest} {self.what} apart",
                why=f"this lab has at least {number}",
                fix="use fewer services, or fewer addresses of them",
            )
        return number << self._shift


# Tables.
LOCAL_PODS = 2010
"""Pods of this node."""
REMOTE_PODS = 2011
"""Pods of other nodes, encapsulated (tunnel mode)."""
SINGLE_DEVICE = 2012
"""With one selected device (up to 1.18): everything to that device."""
SOCKETS = 2013
"""Services that the node's own programs ask for, and that the node has no route to."""
WAY_BACK_OF_PODS, WAY_BACK_OF_BACKENDS = 2020, 2021
"""Where reverse path filters find the way back of what a NIC's program takes: to pods, from backends."""
EGRESS_FROM_PODS = Block("pods of egress policies", 2100, more=1_000_000)
EGRESS_FROM_TUNNEL = Block("pods of egress policies", 2300, more=2_000_000)
EGRESS_ANSWERS = Block("pods of egress policies", 2500, more=3_000_000)
"""A table for each address that an egress policy selects: on its node, on its gateway, for answers to it."""
ENI_ANSWERS = Block("pods with a NIC of their own", 2700, more=4_000_000)
"""A table for each pod whose NIC is not that of the default route."""
ENI_NICS = Block("NICs of a node with ipam=eni", 10, short=243)
"""Cilium's own: a table for each NIC, by its number on the instance (linux_defaults.go RouteTableInterfacesOffset)."""

OWN_TABLES = (LOCAL_PODS, REMOTE_PODS, SINGLE_DEVICE, SOCKETS, WAY_BACK_OF_PODS, WAY_BACK_OF_BACKENDS)
OWN_BLOCKS = (EGRESS_FROM_PODS, EGRESS_FROM_TUNNEL, EGRESS_ANSWERS, ENI_ANSWERS)

# Priorities of rules, in the order in which they are asked.
BEFORE_LOCAL, MOVED_LOCAL = 0, 1
"""Pods' packets to addresses of their own node that the agent does not know, before table `local`, which is moved."""
WAY_BACK_PRIORITY = 8
"""What NICs' programs take."""
POLICY_PRIORITY = 9
"""Egress gateways; with ipam=eni answers that leave by the pod's own NIC."""
PRIORITY = {LOCAL_PODS: 10, REMOTE_PODS: 11, SINGLE_DEVICE: 12}
"""Table → priority: of what comes in, and of what comes from pods (iif) or is forwarded for services (by mark)."""
SOURCE_PRIORITY = 13
"""The node's own rules once more, for what is routed as from a service's address."""
SOCKETS_PRIORITY = 14
"""What is translated before any route is asked for."""
MAIN_PRIORITY = 32766
"""[kernel] Table main's."""
ENI_TO_POD, ENI_NODE_PORT, ENI_FROM_POD_COMPATIBLE, ENI_FROM_POD = 20, 109, 110, 111
"""Cilium's own (linux_defaults.go RulePriorityIngress, …Nodeport, …Egress, …Egressv2)."""

# Bits of a packet's mark.
NODE_PORT_MARK = 0x80
"""Cilium's own: it came in by the primary ENI for a node port."""
ANSWERING = 0x4000
"""It answers a connection that came in: no egress policy is asked (ct_is_reply), and the pod's own ENI is taken."""
SOURCE = Field(0x03FF_0000, "source addresses of services")
"""Which source the FIB is asked with."""
TO_POD = 0x0800_0000
"""A NIC's program takes it, and it goes to a pod."""
FROM_NIC = 0x2000_0000
"""A NIC's program, not a pod's, forwards it."""
IN_GENEVE = 0x1000_0000
"""It is forwarded in a tunnel although routing is native (DSR by Geneve)."""
FROM_BACKEND = 0x4000_0000
"""A NIC's program takes it, and it comes from another node's backend."""
PACKET_BITS = (NODE_PORT_MARK, ANSWERING, SOURCE.mask, TO_POD, FROM_NIC, IN_GENEVE, FROM_BACKEND)

# Bits of a connection's mark.
FRONTEND = Field(0x00FF_FFFF, "frontends of services")
"""Which frontend of the cluster it was taken in for."""
AT_SOCKET = 0x0400_0000
"""It was translated at a socket of the node: its answers need no program to be translated back."""
SERVED = 0x1000_0000
"""A NIC took it in for a frontend."""
DIRECT_RETURN = 0x4000_0000
"""DSR leaves its answer to the backend's node."""
RETURNED = 0x8000_0000
"""Such a connection at the backend's node."""
CONNECTION_BITS = (FRONTEND.mask, AT_SOCKET, SERVED, DIRECT_RETURN, RETURNED)

VNI = 2
"""Of packets in the tunnel. Cilium's is the sender's identity; here everybody has that of `world`."""
NOTE = Field(0xFFFF, "frontends of services with DSR")
"""Of a packet's header: which frontend was asked (DSR)."""


def check_tables(name: str, host: Host) -> None:
    """Raises LabError when a node's own routes or rules use a table of the built-in datapath's."""
    used = {route.table for route in host.routes} | {rule.table for rule in host.rules if rule.table is not None}
    taken = sorted(table for table in used if table in OWN_TABLES or any(table in block for block in OWN_BLOCKS))
    if taken:
        raise LabError(
            f"{name} uses routing table {taken[0]}",
            why="the built-in datapath has rules and routes of its own in that table",
            fix=f"take another number, e.g. one between 1 and {TABLES['default'] - 1}",
        )
