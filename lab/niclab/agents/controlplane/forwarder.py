"""Forwards TCP connections from the nodes to the control plane; run as a file, by its own interpreter.

`forwarder.py '[[DESCRIPTOR, PORT], …]'`: each descriptor is a socket that listens inside a node's namespace; what it
accepts is connected to 127.0.0.1:PORT of the namespace this process runs in. Only the standard library: it starts with
`-I -S`, in the time an agent needs to read its flags.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import socket
import sys
from collections.abc import Sequence

_CHUNK = 1 << 16
# A peer that has vanished (its `lo` taken down, its namespace gone) says nothing: ask after 15 s, give up after 30 s.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
_USER_TIMEOUT_MS = 30_000


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until the source ends, then end the sink's half only: the other direction may still have much to say."""
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    sink.write_eof()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    writers = [writer]
    try:
        try:
            answer, backend = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # the control plane is not up yet, or being restarted: the client asks again
            return
        writers.append(backend)
        for one in writers:
            _watch(one.get_extra_info("socket"))
        pumps = (asyncio.ensure_future(_pump(reader, backend)), asyncio.ensure_future(_pump(answer, writer)))
        # One end's reset ends the other direction as well.
        await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        for pump in pumps:
            pump.cancel()
        if all(not isinstance(end, BaseException) for end in await asyncio.gather(*pumps, return_exceptions=True)):
            for one in writers:
                one.close()
            writers.clear()
    finally:
        # A reset rather than an end of stream: nobody takes half an answer for a whole one.
        for one in writers:
            _reset(one)


def _watch(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, AttributeError):
        # l_onoff 1, l_linger 0: close(2) sends RST.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def _run(listeners: Sequence[tuple[int, int]]) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    for handle, port in listeners:
        listening = socket.socket(fileno=handle)
        listening.setblocking(False)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port) -> None:
            await _serve(reader, writer, port)

        await asyncio.start_server(serve, sock=listening)
    await ended.wait()


def main(arguments: Sequence[str]) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_run([(handle, port) for handle, port in json.loads(arguments[0])]))


if __name__ == "__main__":
    main(sys.argv[1:])
