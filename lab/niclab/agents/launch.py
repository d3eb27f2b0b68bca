"""Makes the room of one node and holds it open: its network, host name, run directory, bpffs and cgroup.

Run as a program of its own. What enters the room sees the host's files with private mounts on top. What an agent would
write for the whole machine is out of its reach: `/proc/sys` is read-only but for `net` (the node's own), `/run` is the
node's own, and so are the only bpffs and the cgroup it can see. Nothing here is undone, for nothing needs to be: mounts
and names end with the last process of the room.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET = 0x20000, 0x4000000, 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_CGROUP_TARGET = "/run/cilium/cgroupv2"
READY = ".room"
"""Appears in the run directory when the room stands."""


@dataclass(frozen=True)
class Room:
    """What a program on a node is to see. Paths are the host's; `binds` are shown under the same name in the room."""

    netns: str
    hostname: str
    run: str
    """Becomes /run/cilium; lives as long as the node."""
    cgroup: str
    binds: tuple[str, ...] = ()
    root: str = ""
    """A root file system (an unpacked image) to run in; empty: the host's. It is never written to:"""
    layer: str = ""
    """what a program changes in it goes here, to an overlay's upper directory."""

    def command(self) -> list[str]:
        """The argument list that makes the room and holds it open."""
        return [sys.executable, "-I", "-S", __file__, json.dumps(asdict(self))]


_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    name, words = (text.encode() if text else None for text in (kind, data))
    _check(_libc.mount(source.encode(), target.encode(), name, flags, words), f"mount {source} on {target}")


def _bind(source: str, target: str, *, recursive: bool = True) -> None:
    _mount(source, target, None, _MS_BIND | (_MS_REC if recursive else 0))


def enter(room: Room) -> None:
    """Move this process into a new room. Raises OSError with the step that failed."""
    handle = os.open(room.netns, os.O_RDONLY)
    _check(_libc.setns(handle, _CLONE_NEWNET), f"enter {room.netns}")
    os.close(handle)
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _check(_libc.sethostname(room.hostname.encode(), len(room.hostname)), "sethostname")
    _forget_bpf_mounts()
    handles = {path: os.open(path, os.O_PATH) for path in {room.run, room.cgroup, *room.binds}}
    sources = {path: f"/proc/self/fd/{handle}" for path, handle in handles.items()}
    if room.root:
        _into_root(room.root, room.layer)
    # A fresh sysfs shows the node's network devices; the cgroup mounts of the host vanish under it.
    _mount("sysfs", "/sys", "sysfs", 0)
    _mount("bpf", "/sys/fs/bpf", "bpf", 0)
    _mount("tmpfs", "/run", "tmpfs", 0)
    for path in room.binds:
        Path(path).mkdir(parents=True, exist_ok=True)
        _bind(sources[path], path)
    Path("/run/cilium").mkdir()
    _bind(sources[room.run], "/run/cilium")
    Path(_CGROUP_TARGET).mkdir(exist_ok=True)
    _bind(sources[room.cgroup], _CGROUP_TARGET)
    _shield()
    for handle in handles.values():
        os.close(handle)


def _forget_bpf_mounts() -> None:
    """Cilium's tools take the first bpffs in the list of mounts for theirs: the host's must not be in it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "bpf":
            _libc.umount2(fields.split()[4].encode(), _MNT_DETACH)


def _into_root(root: str, layer: str) -> None:
    """Make an image's root file system the root, under a layer of the node's, with the kernel's file systems."""
    upper, work, merged = (f"{layer}/{name}" for name in ("upper", "work", "merged"))
    for path in (upper, work, merged):
        Path(path).mkdir(parents=True, exist_ok=True)
    _mount("overlay", merged, "overlay", 0, f"lowerdir={root},upperdir={upper},workdir={work}")
    for name in ("proc", "sys", "dev", "run"):
        Path(merged, name).mkdir(exist_ok=True)
    for name in ("proc", "dev"):
        _bind(f"/{name}", f"{merged}/{name}")
    os.chroot(merged)
    os.chdir("/")


def _shield() -> None:
    """Read-only /proc/sys, except net: the rest belongs to the machine."""
    _bind("/proc/sys", "/proc/sys", recursive=False)
    _bind("/proc/sys/net", "/proc/sys/net", recursive=False)
    _mount("none", "/proc/sys", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def main(arguments: Sequence[str]) -> None:
    """`ROOM-AS-JSON`: make the room, say so in its run directory, and stay until told to end."""
    description = json.loads(arguments[0])
    description["binds"] = tuple(description["binds"])
    try:
        enter(Room(**description))
        Path("/run/cilium", READY).touch()
    except OSError as error:
        print(f"cannot make the room of node {description['hostname']}: {error}", file=sys.stderr)
        sys.exit(125)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    # Blocked at once: a signal that comes while the room is made must not be lost, and ends it when it stands.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(sys.argv[1:])
