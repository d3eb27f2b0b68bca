"""Waiting for a program of the control plane: it is ready, it has ended, or the deadline has passed."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

from niclab.errors import LabError
from niclab.host.daemons import Daemon
from niclab.host.waiting import wait_until

INTERVAL = 0.02
"""Seconds between two looks."""
_LONGEST = 300
# klog (E0102 …, F0102 …), zap and slog in JSON, logfmt, and what cobra prints.
_TELLING = re.compile(r"^[EF]\d{4} |\b(error|fatal|panic)\b", re.I)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\uffef]+")


def until_ready(daemon: Daemon, state: Callable[[], str], *, deadline: float) -> None:
    """Return when `state` says nothing more ("": ready). Raises LabError when the program ends or is late.

    `state` says in words what is still missing.
    """

    def look() -> str:
        found = state()
        if found and daemon.exit_status is not None:
            raise LabError(
                f"{daemon.name} ended {_how(daemon.exit_status)} before it was ready", why=last_words(daemon)
            )
        return found

    missing = wait_until(look, deadline, done=operator.not_, every=INTERVAL)
    if missing:
        words = last_words(daemon)
        raise LabError(
            f"{daemon.name} was not ready after {deadline:g} s: {missing}",
            why=f"it said last: {words}" if words else "it said nothing",
            fix="is the machine overloaded? try again",
        )


def last_words(daemon: Daemon) -> str:
    """The line of a program's log that tells most: the last that speaks of an error, else the last."""
    lines = [line for line in map(_printable, daemon.tail(40).splitlines()) if line]
    telling = [line for line in lines if _TELLING.search(line)]
    return (telling or lines or [""])[-1]


def end(daemon: Daemon) -> None:
    """End a program that has nothing to save, at once."""
    daemon.process.kill()
    daemon.process.wait()


def _printable(line: str) -> str:
    line = _UNPRINTABLE.sub(" ", line).strip()
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def _how(status: int) -> str:
    return f"by signal {-status}" if status < 0 else f"with status {status}"
