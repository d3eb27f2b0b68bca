"""The compiler of agents in the machine of scripts/vm.py: this machine's. Emulated, each program would take it minutes.

In there this file stands in clang's place: it hands over its arguments and the files that the compiler may read, and
prints what comes back. Out here `serve` unpacks them below a directory, and compiles. Only the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

SENT = Path("/tmp/sent-to-compiler")
PORTS = "vport*p1"
"""The first port of the only virtio console, whichever number it has among devices."""
_REQUEST, _REPLY = struct.Struct(">8sQQ"), struct.Struct(">iQQ")
_SOURCES = (".c", ".h")
_Answer = tuple[int, bytes, bytes]
"""Exit status, standard output, standard error."""


def read_by(arguments: Sequence[str], directory: Path) -> list[Path]:
    """The sources a compiler may read: in the directories it includes from, and in that of what it compiles."""
    if "-c" not in arguments:
        return []
    places = [Path(one.removeprefix("-I")) for one in arguments if one.startswith("-I")]
    places += [Path(one).parent for one in arguments if one.endswith(".c")]
    found = {one for place in places for one in (directory / place).rglob("*") if one.suffix in _SOURCES}
    return sorted(one for one in found if one.is_file())


def ask(arguments: Sequence[str], sent: Path, send: Callable[[bytes], object], receive: Callable[[int], bytes]) -> int:
    """Compile by whoever is at the other end: prints what it printed, and returns its exit status. `sent` lists what is
    there already."""
    identity, directory = os.urandom(8), Path.cwd()
    known = set(sent.read_text().split("\n")) if sent.exists() else set()
    files, contents = [], b""
    for path in read_by(arguments, directory):
        status = path.stat()
        key = f"{path} {status.st_size} {status.st_mtime_ns}"
        content = b"" if key in known else path.read_bytes()
        files.append([str(path), key, None if key in known else len(content)])
        contents += content
    words = json.dumps([str(directory), list(arguments), files]).encode()
    send(_REQUEST.pack(identity, len(words), len(contents)) + words + contents)
    with sent.open("a") as listed:
        listed.write("".join(f"{key}\n" for _, key, length in files if length is not None))
    # Before it may come what is left of an answer to a compiler that was killed.
    seen = b""
    while not seen.endswith(identity):
        seen = seen[-len(identity) :] + receive(1)
    code, printed, complained = _REPLY.unpack(receive(_REPLY.size))
    sys.stdout.buffer.write(receive(printed))
    sys.stderr.buffer.write(receive(complained))
    return int(code)


def answer(place: Path, program: Path, request: bytes, contents: bytes, kept: dict[str, bytes]) -> _Answer:
    """What the compiler makes of a request, its files below `place`. `kept`: files of earlier requests."""
    directory, arguments, files = json.loads(request)
    # Always the same place, for it gets into what is compiled; and nothing in it that another request left.
    shutil.rmtree(place, ignore_errors=True)
    for path, key, length in files:
        if length is not None:
            kept[key], contents = contents[:length], contents[length:]
        target = place / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(kept[key])
    here = place / directory.lstrip("/")
    here.mkdir(parents=True, exist_ok=True)

    def moved(argument: str) -> str:
        option = "-I" if argument.startswith("-I") else ""
        path = argument.removeprefix(option)
        return f"{option}{place}{path}" if path.startswith("/") else argument

    done = subprocess.run([program, *map(moved, arguments)], cwd=here, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


def serve(connection: socket.socket, place: Path, program: Path) -> None:
    """Answer requests, one after the other, until the machine has ended."""
    stream, kept = connection.makefile("rb"), dict[str, bytes]()
    with contextlib.suppress(OSError):
        while len(head := stream.read(_REQUEST.size)) == _REQUEST.size:
            identity, length, size = _REQUEST.unpack(head)
            request, contents = stream.read(length), stream.read(size)
            status, output, errors = answer(place, program, request, contents, kept)
            connection.sendall(identity + _REPLY.pack(status, len(output), len(errors)) + output + errors)


@contextlib.contextmanager
def _port() -> Iterator[int]:
    """The way out of the machine: for one at a time."""
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        port = os.open(next(Path("/dev").glob(PORTS)), os.O_RDWR)
        try:
            yield port
        finally:
            os.close(port)


def main() -> int:
    with _port() as port:

        def send(data: bytes) -> None:
            while data:
                data = data[os.write(port, data) :]

        def receive(size: int) -> bytes:
            data = b""
            while len(data) < size:
                data += os.read(port, size - len(data))
            return data

        return ask(sys.argv[1:], SENT, send, receive)


if __name__ == "__main__":
    sys.exit(main())
