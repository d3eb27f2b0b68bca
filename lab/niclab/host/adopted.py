"""Processes that another process has started, known by pid and start time: a number may be somebody else's by now."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

UNKNOWN = 1000
"""The exit status of a program that another process has started: only that one is told it."""


class Process(Protocol):
    """As `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


@dataclass(frozen=True)
class Adopted:
    """A process that another one has started, known by its pid and start time."""

    pid: int
    started: int

    def poll(self) -> int | None:
        return None if is_alive(self.pid, self.started) else UNKNOWN

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        with self._handle() as handle:
            if handle is not None and not select.select([handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return UNKNOWN

    def _signal(self, number: signal.Signals) -> None:
        with self._handle() as handle, contextlib.suppress(ProcessLookupError):
            if handle is not None:
                signal.pidfd_send_signal(handle, number)

    @contextlib.contextmanager
    def _handle(self) -> Iterator[int | None]:
        """A pidfd; None when the process has ended, also when its number is another's by now."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield handle if is_alive(self.pid, self.started) else None
        finally:
            os.close(handle)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (/proc/PID/stat, field 22); None when it is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def is_alive(pid: int, start: int | None) -> bool:
    """Is it still that process, and not a zombie?"""
    if start is None or start_time(pid) != start:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False
