"""A netlink socket: many messages in one send, one acknowledgement for all; dumps that are whole or refused.

What is in the messages is `niclab.host.messages`' business.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# linux/netlink.h
_NLM_F_ACK, _NLM_F_DUMP_INTR = 0x4, 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_ACK_TLVS = 0x200
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port."""
_BATCH_BYTES = 48 * 1024
_BATCH_MESSAGES = 100
"""Every message of a batch may be refused, and the refusals must fit the socket's receive buffer (208 KiB, 1 each)."""
_DUMP_ATTEMPTS = 20
"""A dump is interrupted by any change of what it lists; a lab that is being set up by others changes for a while."""


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """The kernel refused message `position` of a batch: errno and the words of its extended acknowledgement."""

    position: int
    errno: int
    words: str

    def __str__(self) -> str:
        return self.words or os.strerror(self.errno)


class Channel:
    """A netlink socket of the namespace the calling thread is in when it is made; usable from anywhere afterwards."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def send(self, messages: Sequence[bytes]) -> None:
        """Carry out every message, in order. Raises Refusal for the first one refused; some after it were tried too."""
        start = 0
        while start < len(messages):
            size, end = 0, start
            full = start + _BATCH_MESSAGES
            while end < min(full, len(messages)) and (end == start or size + len(messages[end]) <= _BATCH_BYTES):
                size += len(messages[end])
                end += 1
            self._send_batch(messages[start:end], start)
            start = end

    def dump(self, request: bytes) -> list[bytes]:
        """All answers to a dump request. Raises Refusal when the kernel refuses, or was always interrupted."""
        for _ in range(_DUMP_ATTEMPTS):
            answers = self._dump_once(request)
            if answers is not None:
                return answers
        raise Refusal(0, errno.EINTR, f"what it lists changed {_DUMP_ATTEMPTS} times while it was listed")

    def _dump_once(self, request: bytes) -> list[bytes] | None:
        """None when something changed meanwhile: answers may be missing then, or there twice."""
        self._sequence += 1
        packet = bytearray(request)
        struct.pack_into("=I", packet, 8, self._sequence)
        self._socket.send(packet)
        answers: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, message in _messages(self._socket.recv(1 << 16)):
                if sequence != self._sequence:  # of a dump that was given up
                    continue
                interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    if error := _error(message):
                        raise Refusal(0, error, _extended_words(message, flags) if kind == _NLMSG_ERROR else "")
                    return None if interrupted else answers
                answers.append(message)

    def _send_batch(self, messages: Sequence[bytes], offset: int) -> None:
        first = self._sequence + 1
        packet = bytearray()
        for number, message in enumerate(messages):
            self._sequence += 1
            at = len(packet)
            packet += message
            struct.pack_into("=I", packet, at + 8, self._sequence)
            if number == len(messages) - 1:
                # Errors are always reported; only the last message need say that everything is done.
                flags = struct.unpack_from("=H", packet, at + 6)[0]
                struct.pack_into("=H", packet, at + 6, flags | _NLM_F_ACK)
        self._socket.send(packet)
        refusal: Refusal | None = None
        done = False
        while not done:
            for kind, flags, sequence, message in _messages(self._socket.recv(1 << 16)):
                if kind != _NLMSG_ERROR or sequence < first:
                    continue
                error = _error(message)
                if error and refusal is None:
                    refusal = Refusal(offset + sequence - first, error, _extended_words(message, flags))
                done = done or sequence == self._sequence
        if refusal is not None:
            raise refusal


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, the whole message) of each message received at once."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, sequence, data[at : at + length]
        at += (max(length, _HEADER.size) + 3) & ~3


def _error(message: bytes) -> int:
    """The errno of an acknowledgement or of the end of a dump; 0: no error."""
    return -int(struct.unpack_from("=i", message, 16)[0]) if len(message) >= 20 else 0


def _extended_words(message: bytes, flags: int) -> str:
    """The text the kernel sent along with an error (NLMSGERR_ATTR_MSG), if any."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    at = 16 + 4 + 16  # behind the header of what was asked: NETLINK_CAP_ACK
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == 1:
            return message[at + 4 : at + length].rstrip(b"\0").decode(errors="replace")
        at += (max(length, 4) + 3) & ~3
    return ""
