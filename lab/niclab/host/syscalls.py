"""Every system call the lab makes that Python has no function for, by ctypes; only the standard library.

It is a program as well, to be started by its path with `python -I -S`: it gives itself namespaces and mounts of its
own, step by step, and then becomes another program. See `command`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# linux/sched.h, linux/mount.h
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x20000, 0x4000000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 1, 32, 4096, 16384, 1 << 18, 1 << 20
_MNT_DETACH = 2
# asm/socket.h, linux/sockios.h, linux/ethtool.h
_SO_ATTACH_FILTER = 26
_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0x0A
# asm/unistd.h, linux/bpf.h
_BPF = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD, _BPF_LINK_CREATE = 5, 28

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


# Namespaces


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces (unshare(2)). Raises OSError, as everything here."""
    _check(_libc.unshare(flags), "unshare")


def unshare_network() -> None:
    """Give the calling thread a new network namespace."""
    unshare(CLONE_NEWNET)


def set_network(fd: int) -> None:
    """Move the calling thread to the network namespace behind `fd` (setns(2))."""
    _check(_libc.setns(fd, CLONE_NEWNET), "setns")


@contextmanager
def home_restored() -> Iterator[None]:
    """Whatever the block does to the thread's network namespace, the thread comes back to where it was."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            set_network(home)
        finally:
            os.close(home)


@contextmanager
def entered(fd: int) -> Iterator[None]:
    """Run the block with the calling thread in the network namespace behind `fd`."""
    with home_restored():
        set_network(fd)
        yield


# Mounts


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    words = [os.fsencode(word) if word else None for word in (source, target, kind)]
    _check(_libc.mount(*words, flags, data.encode() if data else None), f"mount {source} on {target}")


def bind(source: str, target: str, *, recursive: bool = False) -> None:
    """Show `source` at `target` as well."""
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))


def unmount(target: str) -> None:
    """Detach what is mounted on `target`."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"umount {target}")


def own_mounts() -> None:
    """Give this process a mount namespace; what it mounts is seen by nobody else."""
    unshare(CLONE_NEWNS)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/PID/mountinfo (proc(5)): `root` is the part of its file system that is shown at `point`."""

    id: int
    parent: int
    root: str
    point: str
    kind: str
    shared: bool


def mounts(process: str = "self") -> list[Mount]:
    """The mounts of a process, also those that others cover: `mounted_at` says which one a path leads to."""
    entries = []
    for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        number, parent, _, root, point, _, *tags = fields.split(" ")
        shared = any(tag.startswith("shared:") for tag in tags)
        entries.append(Mount(int(number), int(parent), _plain(root), _plain(point), rest.split(" ")[0], shared))
    return entries


def mounted_at(path: str) -> list[Mount]:
    """The mount on a directory, if it is a mount point, and those on what is in it. Covered ones are not counted."""
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        fields = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{handle}").read_text().splitlines())
    finally:
        os.close(handle)
    number = int(fields["mnt_id"])
    on_it = [entry for entry in mounts() if entry.id == number and entry.point == path]
    return on_it + [entry for entry in mounts() if entry.parent == number and entry.point.startswith(f"{path}/")]


def _plain(path: str) -> str:
    """The kernel writes blanks and backslashes as octal numbers."""
    return path.encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")


# Sockets


def bind_packet(sock: socket.socket, protocol: int, interface: int) -> None:
    """Bind an AF_PACKET socket to one interface, or with 0 to all: Python's own bind() takes no 0."""
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(protocol), interface, 0, 0, 0, b"")
    _check(_libc.bind(sock.fileno(), address, len(address)), "bind")


def attach_filter(sock: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Attach a classic BPF program, `struct sock_filter` by `struct sock_filter` (SO_ATTACH_FILTER)."""
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    # struct sock_fprog, padded as its pointer wants it
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(packed)))


def has_carrier(sock: socket.socket, interface: str) -> bool:
    """Whether the driver of an interface sees a carrier (ETHTOOL_GLINK), asked through any socket of its namespace."""
    answer = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GLINK, 0), 8)
    request = struct.pack("@16sP", interface.encode(), ctypes.addressof(answer))
    fcntl.ioctl(sock, _SIOCETHTOOL, request.ljust(40, b"\0"))
    return bool(struct.unpack("=II", answer.raw)[1])


# eBPF


def bpf_load(kind: int, program: bytes) -> int:
    """The descriptor of a loaded eBPF program (BPF_PROG_LOAD)."""
    instructions, license_ = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
    pointers = ctypes.addressof(instructions), ctypes.addressof(license_)
    return _bpf(_BPF_PROG_LOAD, struct.pack("@IIPPIIP", kind, len(program) // 8, *pointers, 0, 0, 0))


def bpf_link(program: int, interface: int, attach_type: int) -> int:
    """The descriptor of a link that attaches a loaded program to an interface (BPF_LINK_CREATE)."""
    return _bpf(_BPF_LINK_CREATE, struct.pack("@IIII", program, interface, attach_type, 0))


def _bpf(command: int, attributes: bytes) -> int:
    machine = os.uname().machine
    if machine not in _BPF:
        raise OSError(0, f"the number of bpf(2) on {machine} is not known here")
    return _check(_libc.syscall(_BPF[machine], command, attributes, len(attributes)), "bpf")


# The program


Step = tuple[str, ...]
"""The name of a method of `_Sandbox`, and its arguments."""


def command(steps: Sequence[Step], program: Sequence[str] = (), *, purpose: str) -> list[str]:
    """The argument list that takes these steps and then becomes `program`; without one it waits to be ended.

    A step that fails ends it with status 125 and one line that begins with "cannot " and `purpose`.
    """
    return [sys.executable, "-I", "-S", __file__, purpose, json.dumps(list(steps)), *program]


class _Sandbox:
    """The steps a process can take for itself; their order matters."""

    own_mounts = staticmethod(own_mounts)
    bind = staticmethod(bind)

    def __init__(self) -> None:
        self._opened: dict[str, int] = {}

    def network(self, path: str) -> None:
        """Enter a network namespace."""
        handle = os.open(path, os.O_RDONLY)
        set_network(handle)
        os.close(handle)

    def hostname(self, name: str) -> None:
        """Have a host name of its own."""
        unshare(CLONE_NEWUTS)
        socket.sethostname(name)

    def forget(self, kind: str) -> None:
        """Unmount every file system of this kind."""
        for one in reversed(mounts()):
            if one.kind == kind:
                with suppress(OSError):  # another mount covers it: nobody sees it
                    unmount(one.point)

    def open(self, *paths: str) -> None:
        """Keep hold of what lies at these paths now; `show` shows it after something else covers them."""
        self._opened |= {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths}

    def show(self, path: str, target: str) -> None:
        """Show at `target` what was opened at `path`, and what is mounted below that."""
        Path(target).mkdir(parents=True, exist_ok=True)
        bind(f"/proc/self/fd/{self._opened[path]}", target, recursive=True)

    def fresh(self, kind: str, target: str) -> None:
        """Cover a directory by a file system of its own: tmpfs, sysfs, bpf."""
        mount(kind, target, kind)

    def root(self, image: str, layer: str) -> None:
        """Live in an image's root file system, with the kernel's own ones. Changes go to `layer`, not to the image."""
        upper, work, merged = (f"{layer}/{name}" for name in ("upper", "work", "merged"))
        for path in (upper, work, merged):
            Path(path).mkdir(parents=True, exist_ok=True)
        mount("overlay", merged, "overlay", data=f"lowerdir={image},upperdir={upper},workdir={work}")
        for name in ("proc", "sys", "dev", "run"):
            Path(merged, name).mkdir(exist_ok=True)
        for name in ("proc", "dev"):
            bind(f"/{name}", f"{merged}/{name}", recursive=True)
        os.chroot(merged)
        os.chdir("/")

    def read_only(self, path: str, *but: str) -> None:
        """Nothing below `path` can be written, except below `but`."""
        for one in (path, *but):
            bind(one, one)
        mount("none", path, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)

    def file(self, path: str, text: str) -> None:
        """Write a file."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    def uncover(self, path: str) -> None:
        """Unmount all that is mounted on a directory, however often, and then all that is mounted below it."""
        while any(one.point == path for one in mounted_at(path)):
            unmount(path)
        for one in reversed(mounted_at(path)):
            unmount(one.point)

    def unlink(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def done(self) -> None:
        for handle in self._opened.values():
            os.close(handle)


def main(purpose: str, steps: str, *program: str) -> None:
    """`PURPOSE STEPS [PROGRAM ARGUMENT …]`, as `command` puts them together."""
    # Without a program: a signal that comes before all steps are taken ends this afterwards.
    signal.pthread_sigmask(signal.SIG_BLOCK if not program else signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    sandbox = _Sandbox()
    try:
        for name, *arguments in json.loads(steps):
            getattr(sandbox, name)(*arguments)
        sandbox.done()
        if program:
            os.execvp(program[0], program)
    except OSError as error:
        print(f"cannot {purpose}: {error}", file=sys.stderr)
        sys.exit(125)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main(*sys.argv[1:])
