"""A host of the tests' own: a network and a mount namespace with an empty /run, in which nobody else works.

Sysctls like kernel.* and vm.* are still the machine's; links, routes, rules, mounts and files are its own, so that
tests can run beside each other and still compare everything before and after.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from niclab.host import syscalls
from niclab.host.process import environment, run
from niclab.host.userns import is_able
from niclab.host.waiting import wait_until

able = pytest.mark.skipif(not is_able(), reason="needs root: makes network and mount namespaces")

T = TypeVar("T")


def in_arena(work: Callable[[], T]) -> T:
    """Run `work` in a forked process in an arena; its result (pickled), or this test fails with its traceback."""
    succeeded, answer = forked(lambda: _in_arena(work))
    if not succeeded:
        pytest.fail(str(answer), pytrace=False)
    returned: T = answer
    return returned


def forked(work: Callable[[], object]) -> tuple[bool, Any]:
    """Run `work` in a forked process: (True, its result), or (False, its traceback or how it died)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            try:
                reported: tuple[bool, object] = (True, work())
            except BaseException:
                reported = (False, traceback.format_exc())
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(reported, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    answer: tuple[bool, object] = pickle.loads(data) if data else (False, f"ended with status {status}")
    return answer


def _in_arena(work: Callable[[], T]) -> T:
    syscalls.unshare_network()
    syscalls.own_mounts()
    # Copies of mounts of others would keep their namespaces alive, and go when those others end.
    for mount in reversed(syscalls.mounts()):
        if mount.point.startswith(("/run/netns", "/tmp/")):
            with contextlib.suppress(OSError):
                syscalls.unmount(mount.point)
    syscalls.mount("tmpfs", "/run", "tmpfs")
    Path("/run/tmp").mkdir()
    tempfile.tempdir = "/run/tmp"
    os.environ["TMPDIR"] = "/run/tmp"
    # Something of each kind, so that there is something to lose.
    for line in (
        "link set lo up",
        "link add up0 type veth peer name up1",
        "link set up0 addrgenmode none",
        "link set up1 addrgenmode none",
        "link set up0 up",
        "link set up1 up",
        "address add 192.0.2.1/24 dev up0",
        "address add 2001:db8::1/64 dev up0 nodad",
        "route add 198.51.100.0/24 via 192.0.2.2 metric 7",
        "route add blackhole 203.0.113.0/24 table 77",
        "rule add from 192.0.2.1 lookup 77 priority 1000",
        "neighbour add 192.0.2.2 lladdr 02:00:00:00:00:09 dev up0 nud permanent",
    ):
        run(["ip", *line.split()])
    run(["nft", "-f", "-"], stdin="table inet mine {\n chain input {\n type filter hook input priority 0;\n }\n}\n")
    assert wait_until(_settled, 5)
    return work()


def _settled() -> bool:
    """The kernel brings links up, and IPv6 addresses to life, a moment later."""
    links = json.loads(run(["ip", "-json", "link", "show", "type", "veth"]))
    local = run(["ip", "-6", "route", "show", "table", "local"])
    return {link["operstate"] for link in links} == {"UP"} and "2001:db8::1" in local


_STATE = (
    ["ip", "-details", "-json", "link"],
    ["ip", "-json", "address"],
    ["ip", "-4", "-json", "route", "show", "table", "all"],
    ["ip", "-6", "-json", "route", "show", "table", "all"],
    ["ip", "-4", "-json", "rule"],
    ["ip", "-6", "-json", "rule"],
    ["ip", "-json", "neighbour", "show", "nud", "permanent"],
    ["nft", "list", "ruleset"],
)

_VOLATILE = (
    "abi/",
    "fs/aio-nr",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "kernel/ns_last_pid",
    "kernel/perf_event_max_sample_rate",  # the kernel lowers it by itself
    "kernel/pty/nr",
    "kernel/random/",
    "kernel/tainted",
    "net/netfilter/nf_conntrack_count",
    "vm/stat_refresh",
)


def remains() -> dict[str, str]:
    """Mounts and files of the arena."""
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "files": "\n".join(sorted(str(path) for path in Path("/run").rglob("*"))),
    }


def state() -> dict[str, str]:
    """Links, addresses, routes, rules, neighbours, nftables, mounts and files of the arena."""
    printed = {
        " ".join(command): subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
        for command in _STATE
    }
    printed["cgroup"] = Path("/proc/self/cgroup").read_text()
    return printed | remains()


def sysctls() -> dict[str, bytes]:
    """Every readable sysctl, except those that change by themselves."""
    values = {}
    root = Path("/proc/sys")
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            key = str(path.relative_to(root))
            if not key.startswith(_VOLATILE):
                try:
                    values[key] = path.read_bytes()
                except OSError:  # write-only, or not set (stable_secret)
                    continue
    return values


def differences(before: dict[str, str], after: dict[str, str]) -> str:
    """What is not the same, as lines a person can read; empty when all is."""
    return "\n".join(
        f"{key}:\n- {old}\n+ {new}"
        for key in before | after
        for old, new in itertools.zip_longest(
            before.get(key, "").splitlines(), after.get(key, "").splitlines(), fillvalue=""
        )
        if old != new
    )
