"""Tests on a busy machine: bounds are on the work that is done, and what is waited for has all the time it needs."""

from __future__ import annotations

import resource
import time
import timeit
from collections.abc import Callable

from niclab.host.waiting import wait_until

PATIENCE = 100.0
"""Seconds: more than anything here takes, also where ten others want the same processor."""


def wait_for(check: Callable[[], object]) -> None:
    """Wait until `check` is true; the test fails when it never is."""
    assert wait_until(check, PATIENCE, done=bool), f"not after {PATIENCE:g} s: {check}"


def processor_time(work: Callable[[], object]) -> float:
    """Seconds of processor time that `work` takes, in this process and in those that it starts and waits for."""
    before = _used()
    work()
    return _used() - before


def quickest(work: Callable[[], object], times: int = 3) -> float:
    """The shortest time that `work` takes of a few times: for what must not wait."""
    took = []
    for _ in range(times):
        started = time.monotonic()
        work()
        took.append(time.monotonic() - started)
    return min(took)


def _used() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def loops(work: Callable[[], object], number: int = 100) -> float:
    """What `work` costs, in runs of a plain loop that are measured beside it: a busy processor slows both alike."""

    def cost(work: Callable[[], object]) -> float:
        return timeit.timeit(work, timer=time.process_time, number=number)

    pairs = [(cost(work), cost(_loop)) for _ in range(15)]
    return min(each for each, _ in pairs) / min(each for _, each in pairs)


def _loop() -> int:
    total = 0
    for number in range(200):
        total += number * number
    return total
