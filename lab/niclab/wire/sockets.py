"""Probes sent through sockets, as a program on the node sends them, so that Cilium's socket load-balancer acts on them.

The load-balancer is attached to a cgroup, and a socket belongs to the cgroup of the process that made it. So the
sockets are made by a short-lived process in the node's cgroup (this file, run as a program) and handed over. Each
probe carries the same payload and, for TCP, the same initial sequence number as the raw packet that it replaces.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from niclab.host.netns import Namespace
    from niclab.wire.probe import Probe

# linux/tcp.h
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ, _TCP_FASTOPEN_NO_COOKIE = 19, 20, 21, 34
_REPAIR_ON, _REPAIR_OFF_SILENTLY, _SEND_QUEUE = 1, -1, 2
_FDS = 200
"""Descriptors in one message; the kernel takes 253 (SCM_MAX_FD)."""
_DEADLINE = 10.0


class SocketSender:
    """Sends one flow's probes, each source port from a socket of its own."""

    def __init__(self, namespace: Namespace, cgroup: Path, probes: Sequence[Probe]) -> None:
        """Raises LabError when the process that makes the sockets fails."""
        kinds = {_header(probe)[0]: probe for probe in probes}
        wanted = [(probe.source.version, probe.protocol) for probe in kinds.values()]
        made = _made_in(namespace, cgroup, wanted)
        self._sockets = dict(zip(kinds, made, strict=True))
        self._bound: set[int] = set()

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()

    def send(self, probe: Probe) -> str | None:
        """Send one probe. None, or why the sender's own kernel, or Cilium at its socket, refused it."""
        source_port, destination_port, sequence, payload = _header(probe)
        sock = self._sockets[source_port]
        target = (str(probe.destination), destination_port)
        try:
            if source_port not in self._bound:
                sock.bind((str(probe.source), source_port))
                self._bound.add(source_port)
                if probe.protocol == "udp":
                    sock.connect(target)
            if probe.protocol == "udp":
                _send_udp(sock, payload)
            else:
                _send_syn(sock, sequence, payload, target)
        except OSError as error:
            return error.strerror or str(error)
        return None


def _header(probe: Probe) -> tuple[int, int, int, bytes]:
    """What of a probe's packet a socket is set up with: source and destination port, sequence number, payload."""
    at = 20 if probe.source.version == 4 else 40
    payload = probe.packet[at + (20 if probe.protocol == "tcp" else 8) :]
    source, destination, sequence = struct.unpack_from(">HHI", probe.packet, at)
    return source, destination, sequence, payload


def _send_udp(sock: socket.socket, payload: bytes) -> None:
    try:
        sock.send(payload)
    except ConnectionRefusedError:  # about the probe before this one
        sock.send(payload)


def _send_syn(sock: socket.socket, sequence: int, payload: bytes, target: tuple[str, int]) -> None:
    """A SYN with the probe's own sequence number and data.

    [kernel] a sequence number set in repair mode is kept by connect() (tcp_v4_connect); data in a SYN without a cookie
    is TCP Fast Open's (RFC 7413), and a server that does not do that just ignores it.
    """
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_ON)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, _SEND_QUEUE)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ, struct.pack("=I", sequence))
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_OFF_SILENTLY)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_NO_COOKIE, 1)
    # Closing it sends a reset and leaves nothing behind.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    try:
        sock.sendto(payload, socket.MSG_FASTOPEN, target)
    except OSError as error:
        if error.errno != errno.EINPROGRESS:
            raise


def _made_in(namespace: Namespace, cgroup: Path, wanted: Sequence[tuple[int, str]]) -> list[socket.socket]:
    """Sockets of these (IP version, protocol), made in a namespace by a process in a cgroup. Raises LabError."""
    from niclab.errors import LabError

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.closing(ours):
        with contextlib.closing(theirs), namespace.entered():
            # A child inherits the calling thread's network namespace.
            maker = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(theirs.fileno()), str(cgroup), json.dumps(wanted)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        ours.settimeout(_DEADLINE)
        made: list[socket.socket] = []
        with contextlib.suppress(OSError):
            while len(made) < len(wanted) and (fds := socket.recv_fds(ours, 1, _FDS)[1]):
                made += [socket.socket(fileno=fd) for fd in fds]
    _, words = maker.communicate(timeout=_DEADLINE)
    if len(made) < len(wanted):
        for sock in made:
            sock.close()
        lines = words.decode(errors="replace").strip().splitlines()
        raise LabError(f"cannot make sockets in the cgroup {cgroup}", why=lines[-1] if lines else "the process ended")
    return made


def _make(wanted: Sequence[tuple[int, str]]) -> Iterator[socket.socket]:
    for version, protocol in wanted:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        yield socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def main(arguments: Sequence[str]) -> None:
    """`FD CGROUP WANTED`: join the cgroup, make the sockets, hand them over through the Unix socket FD."""
    number, cgroup, wanted = arguments
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    sockets = list(_make(json.loads(wanted)))
    with socket.socket(fileno=int(number)) as channel:
        for start in range(0, len(sockets), _FDS):
            handles = array.array("i", [sock.fileno() for sock in sockets[start : start + _FDS]])
            channel.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handles)])


if __name__ == "__main__":
    main(sys.argv[1:])
