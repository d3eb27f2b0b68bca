"""The child of `niclab.host.features.kernel`: tries what standard input asks for, in the namespaces it was started in.

Run by its path and on its own (`python -I -S trial.py`), so it imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD, _BPF_LINK_CREATE = 5, 28
_BPF_PROG_TYPE_SCHED_CLS, _BPF_TCX_INGRESS = 3, 46
_ETH_P_ALL = 3


class _ProgLoad(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_char_p),
        ("license", ctypes.c_char_p),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_char_p),
    )


class _LinkCreate(ctypes.Structure):
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


def _bpf(command: int, attributes: ctypes.Structure) -> int:
    number = _BPF_SYSCALL.get(os.uname().machine)
    if number is None:
        raise OSError(0, f"the number of bpf(2) on {os.uname().machine} is not known here")
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.syscall(number, command, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return descriptor


def _load_program() -> int:
    """r0 = 0; exit"""
    program = bytes.fromhex("b7000000000000009500000000000000")
    return _bpf(_BPF_PROG_LOAD, _ProgLoad(_BPF_PROG_TYPE_SCHED_CLS, 2, program, b"GPL"))


def _try_ebpf() -> None:
    os.close(_load_program())


def _try_tcx() -> None:
    program = _load_program()
    try:
        os.close(_bpf(_BPF_LINK_CREATE, _LinkCreate(program, socket.if_nametoindex("p0"), _BPF_TCX_INGRESS)))
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
