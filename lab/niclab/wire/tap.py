"""Taps: observers on every NIC's cable, outside the node, in the fabric's namespace; and one inside every pod in use.

A tap is an AF_PACKET socket (packet(7)) with a kernel filter. All cables end in the fabric namespace, so one socket
sees every NIC, in one order: a frame coming in at a port was transmitted by the node, one going out was sent to it.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from niclab.host import syscalls
from niclab.host.netns import Namespace
from niclab.host.substrate import Substrate
from niclab.kernel.plan import FABRIC, Cable, Plan
from niclab.wire.probe import CANARY_ETHERTYPE

ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_QDISC_BYPASS = 263, 6, 20
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 0x1
_PACKET_OUTGOING = 4
_SNAPLEN = 65535 + 64
_PACKET_AUXDATA, _TP_STATUS_VLAN_VALID, _VLAN = 8, 1 << 4, 0x8100
_AUXILIARY = struct.Struct("=IIIHHHH")
_BUFFER = 32 * 1024 * 1024


# The kernel filter: a classic BPF program, so that a neighbour's chatter never fills the tap's buffer.
# linux/bpf_common.h: loads of a halfword or byte at a fixed offset, a byte relative to X, and so on.
_LDH, _LDB, _LDB_X, _LSH, _TAX, _JEQ, _JGT, _JGE, _RET = 0x28, 0x30, 0x50, 0x64, 0x07, 0x15, 0x25, 0x35, 0x06
FILTER = (
    (_LDH, 0, 0, 12),  # EtherType
    (_JEQ, 18, 0, 0x0800),
    (_JEQ, 17, 0, CANARY_ETHERTYPE),
    (_JEQ, 16, 0, 0x8100),
    (_JEQ, 15, 0, 0x88A8),
    (_JEQ, 0, 15, 0x86DD),
    (_LDB, 0, 0, 20),  # 6: IPv6 next header
    (_JEQ, 8, 0, 58),
    (_JEQ, 0, 11, 0),
    (_LDB, 0, 0, 54),  # 9: next header of the hop-by-hop header
    (_JEQ, 0, 9, 58),
    (_LDB, 0, 0, 55),  # 11: its length, in 8 bytes beyond the first 8
    (_LSH, 0, 0, 3),
    (_TAX, 0, 0, 0),
    (_LDB_X, 0, 0, 54 + 8),  # 14: ICMPv6 type behind it
    (_JEQ, 5, 2, 143),
    (_LDB, 0, 0, 54),  # 16: ICMPv6 type
    (_JEQ, 3, 0, 143),
    (_JGE, 0, 1, 130),
    (_JGT, 0, 1, 137),
    (_RET, 0, 0, 0x40000),  # 20: keep, of the frame's bytes more than any frame has
    (_RET, 0, 0, 0),  # 21: drop
)
"""(code, jumps if true and if false, operand) of each `struct sock_filter`, for an AF_PACKET SOCK_RAW socket.

Keeps canaries, IPv4, IPv6 and frames whose VLAN tag is still in the frame; drops everything else, and of IPv6 neighbour
discovery and multicast listener reports (ICMPv6 types 130-137 and 143, also behind a hop-by-hop header, where RFC 3810
puts the latter). A frame too short for a load is dropped: that is classic BPF's rule. A tag the kernel has taken out of
the frame is not seen here: such a frame is judged by the EtherType behind the tag, which is put back afterwards.
"""


@dataclass(frozen=True, slots=True)
class Capture:
    """One frame as a tap saw it; `outbound` is seen from the tapped host: it sent the frame."""

    tap: str
    timestamp_ns: int
    outbound: bool
    data: bytes


def _packet_socket() -> socket.socket:
    """A capturing socket of the calling thread's namespace: filtered before it is bound, so nothing else is queued."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        syscalls.attach_filter(sock, FILTER)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:  # in a user namespace the limit net.core.rmem_max holds
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _with_tag(frame: bytes, auxiliary: bytes) -> bytes:
    """The frame with the VLAN tag that the kernel keeps beside it. [kernel] struct tpacket_auxdata"""
    if len(auxiliary) < _AUXILIARY.size:
        return frame
    status, _, _, _, _, tag, protocol = _AUXILIARY.unpack_from(auxiliary)
    if not status & _TP_STATUS_VLAN_VALID:
        return frame
    return frame[:12] + struct.pack(">HH", protocol or _VLAN, tag) + frame[12:]


class Tap:
    """One capturing socket. `names` says which of its namespace's interfaces are tapped, and under which name.

    `outside`: the interfaces are the far ends of the tapped hosts' cables, so what comes in was sent by the host.
    """

    def __init__(self, namespace: Namespace, names: dict[str, str], *, outside: bool) -> None:
        self._names = names
        self._outside = outside
        self._drops = 0
        with namespace.entered():
            self.socket = _packet_socket()
            interface = 0 if outside else socket.if_nametoindex(next(iter(names)))
        syscalls.bind_packet(self.socket, ETH_P_ALL, interface)

    def rename(self, names: dict[str, str]) -> None:
        """Tap these interfaces from now on; the socket of an outside tap receives from all interfaces anyway."""
        self._names = names

    @property
    def capacity(self) -> int:
        """Bytes of frames, with the kernel's overhead for each, that wait here without loss."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) if self.is_open else 0

    @property
    def is_open(self) -> bool:
        return self.socket.fileno() >= 0

    def drain(self) -> Iterator[Capture]:
        """Every frame that is waiting. A tap that cannot be read yields nothing: its canaries are missing then."""
        while True:
            try:
                data, ancillary, _, address = self.socket.recvmsg(_SNAPLEN, 128)
            except OSError:  # nothing waits, or the socket is closed, or its interface is down
                return
            tap = self._names.get(address[0])
            if tap is None:  # the bridges themselves
                continue
            about = {(level, kind): value for level, kind, value in ancillary}
            stamp = about.get((socket.SOL_SOCKET, _SO_TIMESTAMPNS))
            seconds, nanoseconds = struct.unpack("=qq", stamp[:16]) if stamp else (0, 0)
            data = _with_tag(data, about.get((_SOL_PACKET, _PACKET_AUXDATA), b""))
            outgoing = address[2] == _PACKET_OUTGOING
            yield Capture(tap, seconds * 1_000_000_000 + nanoseconds, outgoing != self._outside, data)

    @property
    def drops(self) -> int:
        """Frames the kernel could not queue since the tap was opened (PACKET_STATISTICS, which resets on reading)."""
        if not self.is_open:
            return self._drops
        self._drops += int(struct.unpack("=II", self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1])
        return self._drops


class Taps:
    """The lab's taps: one for all cables, and one for each pod, opened when it is first asked for."""

    def __init__(self, substrate: Substrate, plan: Plan) -> None:
        self._substrate = substrate
        self.cables = plan.cables
        self.macs = plan.macs
        self.fabric = Tap(substrate[FABRIC], {cable.port: cable.tap for cable in self.cables}, outside=True)
        self._pods: dict[str, Tap] = {}
        self._senders: dict[str, socket.socket] = {}
        with substrate[FABRIC].entered():
            self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def plug(self, plan: Plan) -> None:
        """Its cables are those that are there now."""
        self.cables, self.macs = plan.cables, plan.macs
        self.fabric.rename({cable.port: cable.tap for cable in self.cables})

    def add_pod(self, pod: str) -> None:
        if pod not in self._pods:
            self._pods[pod] = Tap(self._substrate[pod], {"eth0": pod}, outside=False)

    @property
    def pods(self) -> tuple[str, ...]:
        """The pods that have a tap, in the order in which they got it."""
        return tuple(self._pods)

    def __iter__(self) -> Iterator[Tap]:
        # Pods first: a reply seen there was seen on every cable before, so draining cables last misses nothing.
        yield from self._pods.values()
        yield self.fabric

    @property
    def capacity(self) -> int:
        return min(tap.capacity for tap in self)

    @property
    def drops(self) -> int:
        return sum(tap.drops for tap in self)

    def drain(self) -> list[Capture]:
        return [capture for tap in self for capture in tap.drain()]

    def has_carrier(self, cable: Cable) -> bool:
        """Are the NIC and both ends of its cable up? Asked of drivers: IFF_RUNNING follows only when linkwatch has run.

        [kernel] A NIC that stands on the cable's inner end may be down while the cable is not, and hears of its cable's
        carrier from a work queue.
        """
        try:
            on_cable = syscalls.has_carrier(self._control, cable.port)
            return on_cable and (not cable.mode or syscalls.has_carrier(self._sender(cable.host), cable.nic_name))
        except OSError:  # somebody removed the port
            return False

    def is_watched(self, cable: Cable) -> bool:
        """Whether the cable's outer end is there and up. If not, what the node's NIC sends is not seen."""
        try:
            flags = fcntl.ioctl(
                self._control, _SIOCGIFFLAGS, struct.pack("16sH", cable.port.encode(), 0).ljust(40, b"\0")
            )
        except OSError:  # somebody removed it
            return False
        return bool(struct.unpack_from("=H", flags, 16)[0] & _IFF_UP)

    def inject(self, role: str, interface: str, frame: bytes) -> None:
        """Put a frame on a cable: from a host's NIC, from its port in the fabric, or from a pod. Raises OSError."""
        self._sender(role).sendto(frame, (interface, CANARY_ETHERTYPE))

    def _sender(self, role: str) -> socket.socket:
        if role not in self._senders:
            with self._substrate[role].entered():
                sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            if any(cable.host == role for cable in self.cables):
                # Past the NIC's own qdisc and eBPF programs, which must not decide whether a canary is seen.
                sender.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            self._senders[role] = sender
        return self._senders[role]

    def close(self) -> None:
        """All at once: the kernel lets every packet socket wait until no CPU reads from it any more, about 5 ms each
        (net/packet/af_packet.c packet_release), and lets those that are closed together wait together."""
        sockets = [*(tap.socket for tap in self), *self._senders.values(), self._control]
        with ThreadPoolExecutor(len(sockets)) as threads:
            list(threads.map(socket.socket.close, sockets))
