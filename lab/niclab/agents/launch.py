"""A node's sandbox: the namespaces and mounts that an agent on the node lives in, held open by a process of its own.

What is in it sees the host's files with private mounts on top. What an agent would write for the whole machine is out
of its reach: `/proc/sys` is read-only but for `net` (the node's own), `/run` is the node's own, and so are the only
bpffs and the cgroup it can see. Nothing of it is undone, for nothing needs to be: mounts and names end with the last
process in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from niclab.host import syscalls

_CGROUP_TARGET = "/run/cilium/cgroupv2"
READY = ".sandbox"
"""Appears in the run directory when the sandbox stands."""


@dataclass(frozen=True)
class Sandbox:
    """What a program on a node is to see. Paths are the host's; `binds` are shown under the same name inside."""

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
        """The argument list that makes the sandbox and holds it open."""
        steps: list[syscalls.Step] = [
            ("network", self.netns),
            ("own_mounts",),
            ("hostname", self.hostname),
            # Cilium's tools take the first bpffs in the list of mounts for theirs: the host's must not be in it.
            ("forget", "bpf"),
            ("open", self.run, self.cgroup, *self.binds),
            *([("root", self.root, self.layer)] if self.root else []),
            # A fresh sysfs shows the node's network devices; the cgroup mounts of the host vanish under it.
            ("fresh", "sysfs", "/sys"),
            ("fresh", "bpf", "/sys/fs/bpf"),
            ("fresh", "tmpfs", "/run"),
            *(("show", path, path) for path in self.binds),
            ("show", self.run, "/run/cilium"),
            ("show", self.cgroup, _CGROUP_TARGET),
            # All of it but `net` belongs to the machine.
            ("read_only", "/proc/sys", "/proc/sys/net"),
            ("file", f"/run/cilium/{READY}", ""),
        ]
        return syscalls.command(steps, purpose=f"make the sandbox of node {self.hostname}")
