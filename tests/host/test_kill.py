"""`kill -9` at any step of a lab's life: a sweep, or the next lab, leaves nothing of it and touches nothing else.

The life runs in a forked process in which every call that changes something counts as a step, and which kills itself
before a given one.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from niclab.host import ledgers, netlink, netns, syscalls
from niclab.lab import Lab

from tests.support import arena

pytestmark = arena.able

POINTS = 30
ACTS: list[tuple[Any, str]] = [
    *((os, name) for name in ("open", "write", "close", "mkdir", "rmdir", "unlink", "rename")),
    *((syscalls, name) for name in ("unshare_network", "set_network", "mount", "unmount")),
    (netlink.Channel, "_send_batch"),
    (subprocess, "Popen"),
]


def plain() -> None:
    with Lab.deploy("two-nic", lab_id="doomed") as lab:
        lab.send("pod1", "pod2", count=1)


def kept() -> None:
    with Lab.deploy("two-nic", lab_id="doomed") as lab:
        lab.keep()
    Lab.attach("doomed").close()
    ledgers.remove("doomed")


def counted(life: Callable[[], None], fatal: int | None = None) -> int:
    """Live, and count the steps; before the `fatal` one the process dies."""
    steps = 0

    def noted(act: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **keywords: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments, **keywords)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ACTS:
            patch.setattr(owner, name, noted(getattr(owner, name)))
        life()
    return steps


def sweep() -> None:
    swept = ledgers.sweep(kept=True)
    assert set(swept.labs) <= {"doomed"}
    assert (swept.foreign, swept.stuck) == ((), ())


def next_lab() -> None:
    """The next lab sweeps first; its own id may be that of the dead one. Kept labs are meant to stay."""
    if not any(lab.kept for lab in ledgers.labs()):
        Lab.deploy("single-nic", lab_id="doomed").close()
    sweep()


@pytest.mark.parametrize("life", [plain, kept])
def test_killed_anywhere(life: Callable[[], None]) -> None:
    def work() -> int:
        netns.makes("macvlan")  # a process asks once: all lives shall have the same steps
        host, sysctls, before = arena.state(), arena.sysctls(), arena.remains()
        living, total = arena.forked(lambda: counted(life))
        assert living, total
        assert isinstance(total, int)
        fatal = sorted({1 + number * (total - 1) // (POINTS - 1) for number in range(POINTS)})
        wounded = 0
        for number, step in enumerate(fatal):
            survived, how = arena.forked(partial(counted, life, step))
            assert (survived, how) == (False, "ended with status -9"), step
            wounded += arena.remains() != before
            (sweep, next_lab)[number % 2]()
            assert arena.differences(before, arena.remains()) == "", f"killed before step {step} of {total}"
        assert arena.differences(host, arena.state()) == ""
        assert arena.sysctls() == sysctls
        # Most deaths leave something, or this proves nothing.
        assert wounded > POINTS * 3 // 4
        return total

    assert arena.in_arena(work) > 100
