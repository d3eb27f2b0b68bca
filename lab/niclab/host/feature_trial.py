"""The child of `niclab.host.features`: tries what standard input asks for, in the namespaces it was started in.

Run by its path and on its own (`python -I -S`), so all it imports is the standard library and `syscalls`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))

from niclab.host import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

_BPF_PROG_TYPE_SCHED_CLS, _BPF_TCX_INGRESS = 3, 46
_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")
_ETH_P_ALL = 3


def _try_ebpf() -> None:
    os.close(syscalls.bpf_load(_BPF_PROG_TYPE_SCHED_CLS, _RETURN_0))


def _try_tcx() -> None:
    program = syscalls.bpf_load(_BPF_PROG_TYPE_SCHED_CLS, _RETURN_0)
    try:
        os.close(syscalls.bpf_link(program, socket.if_nametoindex("p0"), _BPF_TCX_INGRESS))
    finally:
        os.close(program)


def _try_af_packet() -> None:
    """A frame of our own must be seen at the other end of the cable."""
    protocol = socket.htons(_ETH_P_ALL)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol) as sender,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol) as tap,
    ):
        sender.bind(("p0", _ETH_P_ALL))
        tap.bind(("p1", _ETH_P_ALL))
        tap.settimeout(1)
        frame = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + b"niclab probe".ljust(50, b".")
        sender.send(frame)
        while frame not in tap.recv(2048):  # the kernel's own neighbour discovery may come first
            pass


def _try_cgroup2() -> None:
    if "\tcgroup2\n" not in Path("/proc/filesystems").read_text():
        raise OSError(0, "cgroup2 is not in /proc/filesystems")


_BUILTIN: dict[str, Callable[[], None]] = {
    "builtin:af_packet": _try_af_packet,
    "builtin:cgroup2": _try_cgroup2,
    "builtin:ebpf": _try_ebpf,
    "builtin:tcx": _try_tcx,
}


def _failure(words: list[str]) -> str:
    """Why the command fails, or nothing when it does not."""
    try:
        if words[0] in _BUILTIN:
            _BUILTIN[words[0]]()
            return ""
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=15, check=False)
    except FileNotFoundError:
        return f"not tried: the command {words[0]} is missing"
    except subprocess.TimeoutExpired:
        return f"{' '.join(words)}: no answer within 15 s"
    except OSError as error:
        return str(error.strerror or error)
    if done.returncode == 0:
        return ""
    reported = done.stderr.strip().splitlines()
    return reported[0].removeprefix("Error: ") if reported else f"{words[0]} exited with {done.returncode}"


def main() -> None:
    answers = {
        name: next((why for why in map(_failure, commands) if why), "") for name, commands in json.load(sys.stdin)
    }
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
