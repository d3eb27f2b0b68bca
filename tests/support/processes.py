"""What is left of a process."""

from __future__ import annotations

from niclab.host.process import is_alive, start_time


def runs(pid: int) -> bool:
    """Is there such a process, not counting one that has ended and that nobody has asked about yet?"""
    return is_alive(pid, start_time(pid))
