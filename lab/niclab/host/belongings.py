"""What a lab owns besides namespaces: processes and cgroups. Recorded before they act, undone by the ledger.

A process is recorded by pid and start time, so that a number the kernel has given to someone else is never signalled.
It is started held: it waits on a pipe until its line is in the ledger, and ends by itself when its parent dies before.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tenacity

from niclab.errors import LabError
from niclab.host import namespace
from niclab.host.adopted import Adopted, Process, is_alive, start_time
from niclab.host.process import environment

if TYPE_CHECKING:
    from niclab.host.ownership import Ledger

GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL."""

ROOM = "room of "
"""What the name of a process that holds a node's room open begins with; the node's name follows."""

_HELD = (
    "import os, sys\n"
    "hold = int(sys.argv[1])\n"
    "if os.read(hold, 1) != b'g': sys.exit(125)\n"
    "os.close(hold)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)
"""What a held process runs first: wait for the word, then become the program."""


@dataclass(frozen=True)
class Daemon:
    """A running program of the lab's. Its output goes to `log`."""

    name: str
    process: Process
    log: Path
    arguments: tuple[str, ...]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; as `subprocess` counts: negative for a signal."""
        return self.process.poll()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def stop(self) -> None:
        """End it: asked first, then killed after GRACE seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def start(
    ledger: Ledger,
    name: str,
    arguments: Sequence[str],
    *,
    log: Path,
    extra_environment: Mapping[str, str] | None = None,
    netns: int | None = None,
    pass_fds: Sequence[int] = (),
    outright: bool = False,
) -> Daemon:
    """Start a program that the lab owns, in the network namespace behind `netns` if given. Raises LabError.

    It inherits the descriptors in `pass_fds`, under their numbers here. `outright`: it has nothing to save and is
    killed without being asked to end.
    """
    reading, writing = os.pipe()
    try:
        with contextlib.ExitStack() as undo:
            if netns is not None:
                undo.enter_context(namespace.entered(netns))
            output = undo.enter_context(log.open("ab"))
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _HELD, str(reading), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(reading, *pass_fds),
                env=environment(extra_environment),
                # A Ctrl-C is the lab's to answer: it takes everything down in order.
                start_new_session=True,
            )
        details = {"name": name, "pid": process.pid, "start": start_time(process.pid), "outright": outright}
        ledger.write("started process", **details)
        os.write(writing, b"g")
    except OSError as error:
        raise LabError(f"cannot start {name}", why=error.strerror or str(error)) from None
    finally:
        os.close(reading)
        os.close(writing)
    return Daemon(name, process, log, tuple(arguments))


def adopt(ledger: Ledger, name: str, *, log: Path) -> Daemon | None:
    """The program that a kept lab's ledger has by this name; None when it has ended, or was never started."""
    found = [entry for entry in ledger.entries() if entry["act"] == "started process" and entry["name"] == name]
    if not found or not is_alive(found[-1]["pid"], found[-1]["start"]):
        return None
    return Daemon(name, Adopted(found[-1]["pid"], found[-1]["start"]), log, ())


def entrance(pid: int) -> list[str]:
    """What to put before a command that is to run in the room that process holds open."""
    return ["nsenter", f"--target={pid}", "--mount", "--uts", "--net", "--root", "--wd", "--"]


def rooms(entries: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Node → the process that holds its room open, of those that a ledger lists and that live."""
    return {
        entry["name"].removeprefix(ROOM): entry["pid"]
        for entry in entries
        if entry["act"] == "started process"
        and entry["name"].startswith(ROOM)
        and is_alive(entry["pid"], entry["start"])
    }


def make_cgroup(ledger: Ledger, path: Path) -> Path:
    """A cgroup of the lab's. Raises LabError."""
    ledger.write("making cgroup", path=str(path))
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot make the cgroup {path}", why=error.strerror or str(error)) from None
    return path


def undo(entries: Iterable[dict[str, Any]]) -> list[str]:
    """End every process, then remove the cgroups that the ledger lists, newest first; what could not be undone."""
    newest = list(entries)[::-1]
    started = [entry for entry in newest if entry["act"] == "started process"]
    left = _end(
        [(e["pid"], e["start"]) for e in started if not e.get("outright")],
        [(e["pid"], e["start"]) for e in started if e.get("outright")],
    )
    for entry in newest:
        if entry["act"] == "making cgroup":
            left += _remove_cgroup(Path(entry["path"]))
    return left


def _end(gently: list[tuple[int, int | None]], outright: list[tuple[int, int | None]]) -> list[str]:
    """First those that are asked, for they may need the others to end in order."""
    running = gently
    for number, more in ((signal.SIGTERM, []), (signal.SIGKILL, outright)):
        running = [(pid, start) for pid, start in [*running, *more] if is_alive(pid, start)]
        for pid, _ in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        _wait_for_end(running, GRACE)
    return [f"process {pid}" for pid, start in running if is_alive(pid, start)]


def _wait_for_end(running: list[tuple[int, int | None]], patience: float) -> None:
    deadline = time.monotonic() + patience
    for pid, start in running:
        while is_alive(pid, start) and time.monotonic() < deadline:
            try:
                handle = os.pidfd_open(pid)
            except OSError:
                break
            try:
                # Readable when the process has ended.
                select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            finally:
                os.close(handle)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _remove_cgroup(path: Path) -> list[str]:
    """rmdir(2) says EBUSY for a moment after the last process has gone."""
    if not path.is_dir():
        return []
    for child in path.iterdir():
        if child.is_dir():
            _remove_cgroup(child)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(OSError),
        wait=tenacity.wait_fixed(0.01),
        stop=tenacity.stop_after_delay(GRACE),
        retry_error_callback=lambda _: False,
    )

    def remove() -> bool:
        path.rmdir()
        return True

    return [] if retrying(remove) else [f"cgroup {path}"]
