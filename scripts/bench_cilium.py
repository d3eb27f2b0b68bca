"""What real agents cost: from nothing to the first verdict, and from a change of settings to the next, step by step.

Every lab is deployed by a new process, whose start and imports count. Each round is one lab without a compiled object
at hand (cold) and the same again (warm). CPU seconds are those of everything the lab started: on a busy machine
they say more than the clock does.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from niclab import Lab
    from niclab.agents.controlplane import Kind

BARS = {"kvstore": 6.0, "kubernetes": 12.0}
"""Seconds to the first verdict."""
CHANGE_BAR = 4.0
_FIRST, _NEXT = "first verdict", "next verdict"

Run = dict[str, float]
"""Step → seconds on the clock; the totals under `first verdict` and `next verdict`; `CPU`."""


class _Clock(logging.Handler):
    """Writes down how long each of the lab's steps took."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.steps: Run = {}
        self.begin(start, "")

    def begin(self, at: float, prefix: str) -> None:
        self._start = self._last = at
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        self.step(record.getMessage())

    def step(self, name: str) -> None:
        now = time.time()
        self.steps[f"{self._prefix}{name}"] = now - self._last
        self._last = now

    def total(self, name: str) -> None:
        self.step("probes")
        self.steps[name] = self._last - self._start


def one(start: float, version: str, control_plane: str) -> Run:
    """One lab, and one change of its settings. `start` is when its process was asked for."""
    clock = _Clock(start)
    from niclab import LAB_BASELINE, Lab, Settings

    logger = logging.getLogger("niclab.steps")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(clock)
    clock.step("Python")
    kind: Kind = "kubernetes" if control_plane == "kubernetes" else "kvstore"
    settings = LAB_BASELINE.merged(Settings.of(devices="eth0"))
    with Lab.deploy("two-nic", settings, datapath="cilium", cilium_version=version, control_plane=kind) as lab:
        _carried(lab)
        clock.total(_FIRST)
        clock.begin(time.time(), "change: ")
        lab.change(settings.merged(Settings.of(devices="eth0,eth1")))
        _carried(lab)
        clock.total(_NEXT)
    return clock.steps


def _carried(lab: Lab) -> None:
    result = lab.send("pod1", "pod2")
    if result.verdict != "carried":
        raise SystemExit(f"pod1 -> pod2 is {result.verdict}: what was measured means nothing")


def _measure(version: str, control_plane: str, objects: Path) -> Run:
    """`one` in a process of its own."""
    reading, writing = os.pipe()
    arguments = [sys.executable, __file__, str(writing), repr(time.time()), version, control_plane]
    os.set_inheritable(writing, True)
    child = os.posix_spawn(sys.executable, arguments, {**os.environ, "NICLAB_OBJECTS": str(objects)})
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if status or not told:
        raise SystemExit(f"a lab of Cilium {version} failed: {os.waitstatus_to_exitcode(status)}")
    found: Run = json.loads(told)
    return {**found, "CPU": usage.ru_utime + usage.ru_stime}


def run(versions: Sequence[str] | None, control_plane: str, *, rounds: int, as_json: bool) -> int:
    """Measure and print. 1 when a warm lab misses a bar."""
    from niclab.agents import bundle

    wanted = versions or [found.name for found in bundle.every(bundle.CILIUM)]
    missed = False
    everything = {}
    for version in wanted:
        cold, warm = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="niclab-bench-") as objects:
                cold.append(_measure(version, control_plane, Path(objects)))
                warm.append(_measure(version, control_plane, Path(objects)))
        everything[version] = {"cold": cold, "warm": warm}
        bars = {_FIRST: BARS[control_plane], _NEXT: CHANGE_BAR}
        missed |= any(statistics.median(run[step] for run in warm) > bar for step, bar in bars.items())
        if not as_json:
            _table(f"Cilium {version} · {control_plane} · load {os.getloadavg()[0]:.1f}", cold, warm, bars)
    if as_json:
        print(json.dumps(everything, indent=1))
    return int(missed)


def _table(title: str, cold: Sequence[Run], warm: Sequence[Run], bars: Mapping[str, float]) -> None:
    """Medians of each step, and the totals' runs beside their bars."""
    print(f"\n{title:<52}{'cold':>8}{'warm':>8}     bar   (seconds, medians of {len(cold)})")
    for step in cold[0]:
        medians = [statistics.median(one[step] for one in runs) for runs in (cold, warm)]
        line = f"  {step:<50}{medians[0]:8.2f}{medians[1]:8.2f}"
        if step in bars:
            met = medians[1] <= bars[step]
            runs = " / ".join(" ".join(f"{one[step]:.1f}" for one in runs) for runs in (cold, warm))
            line += f"{bars[step]:8.0f}   {'met' if met else 'NOT MET'} warm   {runs}"
        print(line)


if __name__ == "__main__":
    descriptor, began, which, plane = sys.argv[1:]
    with os.fdopen(int(descriptor), "w") as answer:
        answer.write(json.dumps(one(float(began), which, plane)))
