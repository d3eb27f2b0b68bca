"""A cgroup of the lab's own, below the host's: where agents attach their socket load-balancer, and nowhere above it."""

from __future__ import annotations

from pathlib import Path

from niclab.errors import LabError
from niclab.host.ledgers import Ledger


def hierarchy(mounts: str | None = None) -> Path:
    """Where the host has mounted cgroup v2. Raises LabError when nowhere."""
    text = mounts if mounts is not None else Path("/proc/self/mounts").read_text()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1])
    raise LabError(
        "no cgroup v2 hierarchy is mounted",
        why="Cilium attaches its socket load-balancer to a cgroup",
        fix="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
    )


def lab_cgroup(ledger: Ledger) -> Path:
    """The lab's cgroup, made; its nodes' cgroups are below it."""
    return ledger.make_cgroup(hierarchy() / f"niclab-{ledger.id}")
