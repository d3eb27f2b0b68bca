"""Sending probes from a host's own stack, and answering those that no kernel answers by itself."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from niclab.host.netns import Namespace
from niclab.wire.identity import echo_payload
from niclab.wire.probe import Probe

_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
_REFUSED = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.EACCES, errno.EMSGSIZE, errno.ENETDOWN, errno.EINVAL}
)


class Sender:
    """Raw IP sockets of one host. The packet is complete; the host chooses its route and next hop."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._sockets: dict[int, socket.socket] = {}

    def send(self, probe: Probe) -> str | None:
        """Send one probe. None, or why the sender's own kernel refused it."""
        version = probe.source.version
        if version not in self._sockets:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            with self._namespace.entered():
                # IPPROTO_RAW: the header is ours, and nothing is ever received (raw(7)).
                raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
            self._sockets[version] = raw
        # [kernel] Routing rules do not look at the header's source address but at the socket's, or at this one.
        source = _from(probe.source.packed)
        try:
            self._sockets[version].sendmsg([probe.packet], [source], 0, (str(probe.destination), 0))
        except OSError as error:
            if error.errno in _REFUSED:
                return error.strerror or str(error)
            raise
        return None

    def close(self) -> None:
        for raw in self._sockets.values():
            raw.close()


@dataclass(frozen=True, slots=True)
class Service:
    """Where probes of a flow are answered: `protocol` udp or tcp."""

    protocol: str
    port: int
    version: int


class Responder:
    """Servers in one host's namespace: UDP echoes probes from the address they came to, TCP just listens."""

    def __init__(self, namespace: Namespace, services: Sequence[Service]) -> None:
        self._sockets: list[tuple[Service, socket.socket]] = []
        with namespace.entered(), contextlib.ExitStack() as undo:
            for service in services:
                sock = undo.enter_context(contextlib.closing(_server(service)))
                try:
                    sock.bind(("::" if service.version == 6 else "0.0.0.0", service.port))
                    if service.protocol == "tcp":
                        sock.listen(4096)
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    continue  # a server of somebody else's listens here and answers in its own way
                self._sockets.append((service, sock))
            undo.pop_all()

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets to wait on: UDP only, for the kernel answers SYNs."""
        return [sock for service, sock in self._sockets if service.protocol == "udp"]

    def serve(self) -> None:
        """Answer everything that is waiting."""
        for service, sock in self._sockets:
            if service.protocol == "udp":
                _echo(sock)

    def close(self) -> None:
        for _, sock in self._sockets:
            sock.close()


def _server(service: Service) -> socket.socket:
    udp, v6 = service.protocol == "udp", service.version == 6
    kind = (socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if udp:
        level, option = (socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO) if v6 else (socket.IPPROTO_IP, _IP_PKTINFO)
        sock.setsockopt(level, option, 1)
    return sock


def _from(source: bytes) -> tuple[int, int, bytes]:
    """What goes with a packet to be sent from this address; the NIC is left to the host's routes."""
    if len(source) == 4:
        return socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, source, bytes(4))
    return socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("=16si", source, 0)


def _echo(sock: socket.socket) -> None:
    while True:
        try:
            data, ancillary, _, peer = sock.recvmsg(65535, 128)
        except BlockingIOError:
            return
        answer = echo_payload(data)
        if answer is None:
            continue
        # The reply's source is the address the request came to.
        reply_from = []
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                reply_from = [_from(value[4:8])]
            elif (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
                reply_from = [_from(value[:16])]
        with contextlib.suppress(OSError):  # no route back: the taps see no reply
            sock.sendmsg([answer], reply_from, 0, peer)
