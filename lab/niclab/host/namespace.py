"""Entering network namespaces: by file descriptor, for one thread, and back again."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare_network() -> None:
    """Give the calling thread a new network namespace (unshare(2)). Raises OSError."""
    _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")


def set_network(fd: int) -> None:
    """Move the calling thread to the network namespace behind `fd` (setns(2)). Raises OSError."""
    _check(_libc.setns(fd, CLONE_NEWNET), "setns")


def bind_current_network(path: str) -> None:
    """Give the calling thread's network namespace a name: a bind mount on `path`, as ip-netns(8) does."""
    _check(_libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), None, _MS_BIND, None), f"mount on {path}")


def mount(kind: str, path: str) -> None:
    """Mount a new file system of `kind` (bpf, tmpfs …) on `path`. Raises OSError."""
    _check(_libc.mount(kind.encode(), os.fsencode(path), kind.encode(), 0, None), f"mount {kind} on {path}")


def unmount(path: str) -> None:
    """Detach what is mounted on `path`. Raises OSError."""
    _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"umount {path}")


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
