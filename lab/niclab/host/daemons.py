"""Programs that a lab owns and that run until it ends.

A program is started held: it waits on a pipe until the ledger has its pid and start time, and ends by itself when its
parent dies before. So a lab that is killed leaves no process that no ledger knows.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from niclab.errors import lab_error
from niclab.host import ledgers, syscalls
from niclab.host.ledgers import Ledger
from niclab.host.process import GRACE, Adopted, environment, start_time

SANDBOX = "sandbox of "
"""What the name of a process that holds a node's sandbox open begins with; the node's name follows."""

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
    process: subprocess.Popen[bytes] | Adopted
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
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        self.kill()

    def kill(self) -> None:
        """End it at once: it has nothing to save."""
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
    with contextlib.ExitStack() as undo, lab_error(f"cannot start {name}"):
        reading, writing = os.pipe()
        undo.callback(os.close, reading)
        undo.callback(os.close, writing)
        with contextlib.ExitStack() as inside:
            if netns is not None:
                inside.enter_context(syscalls.entered(netns))
            output = inside.enter_context(log.open("ab"))
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
    return Daemon(name, process, log, tuple(arguments))


def adopt(ledger: Ledger, name: str, *, log: Path) -> Daemon | None:
    """The program that a kept lab's ledger has by this name; None when it has ended, or was never started."""
    process = ledgers.processes(ledger.path).get(name)
    return Daemon(name, process, log, ()) if process is not None else None


def entrance(pid: int) -> list[str]:
    """What to put before a command that is to run in the sandbox that process holds open."""
    return ["nsenter", f"--target={pid}", "--mount", "--uts", "--net", "--root", "--wd", "--"]
