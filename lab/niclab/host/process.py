"""Processes: programs that are run and waited for, and processes that somebody else has started.

Programs get argument lists only; a failure is shown once, as a line that can be pasted. Another's process is known by
its pid and start time: its pid alone may be somebody else's by now.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from niclab.errors import LabError
from niclab.host.waiting import patient

_SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")
UNKNOWN = 1000
"""The exit status of a process that another one has started: only its parent learns it."""
GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL."""


def search_path() -> str:
    """PATH with the system directories, which a user's shell may lack: Debian has nft there."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*path, *(sbin for sbin in _SYSTEM_PATH if sbin not in path)])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with `search_path` as PATH."""
    return {**os.environ, "PATH": search_path(), **(extra or {})}


def run(
    arguments: Sequence[str],
    *,
    stdin: str | None = None,
    timeout: float = 30,
    namespace: str | None = None,
    extra_environment: Mapping[str, str] | None = None,
) -> str:
    """The program's standard output. Raises LabError when it is missing, fails or takes over `timeout` seconds (see
    `patient`).

    `namespace`: the named network namespace the calling thread is in, for the line that is shown.
    """
    entering = ["ip", "netns", "exec", namespace] if namespace else []
    line = shlex.join([*entering, *arguments])
    timeout = patient(timeout)
    try:
        done = subprocess.run(
            list(arguments),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment(extra_environment),
            check=False,
        )
    except FileNotFoundError:
        raise LabError(
            f"the program {arguments[0]!r} is not installed", fix="niclab check says which package brings it"
        ) from None
    except OSError as error:
        raise LabError(f"cannot run: {line}", why=error.strerror or str(error)) from None
    except subprocess.TimeoutExpired:
        raise LabError(f"took over {timeout:g} s: {line}") from None
    if done.returncode != 0:
        reported = (done.stderr or done.stdout).strip()
        raise LabError(f"failed with status {done.returncode}: {line}", why=reported)
    return done.stdout


@dataclass(frozen=True)
class Adopted:
    """A process that another one has started, to be used as `subprocess.Popen` is."""

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
            # Readable when the process has ended.
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


def status(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (proc(5)); None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name before the state may hold blanks and parentheses of its own.
    return text.rpartition(")")[2].split()


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is not there."""
    fields = status(pid)
    return int(fields[19]) if fields is not None else None


def is_alive(pid: int, started: int | None) -> bool:
    """Whether it is still that process, and not a zombie."""
    fields = status(pid)
    return fields is not None and started == int(fields[19]) and fields[0] not in ("Z", "X")


def adopted(pid: int) -> Adopted | None:
    """The process that has this pid now; None when there is none, or only a zombie."""
    started = start_time(pid)
    return Adopted(pid, started) if started is not None and is_alive(pid, started) else None


def end(gently: Iterable[Adopted], outright: Iterable[Adopted] = ()) -> list[Adopted]:
    """End processes: those to be ended `gently` first, for they may need the others. Returns what still runs."""
    running = list(gently)
    for number, more in ((signal.SIGTERM, ()), (signal.SIGKILL, outright)):
        running = [process for process in [*running, *more] if process.poll() is None]
        for process in running:
            process.terminate() if number == signal.SIGTERM else process.kill()
        deadline = time.monotonic() + GRACE
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ChildProcessError):  # a child of ours would stay a zombie
                os.waitpid(process.pid, os.WNOHANG)
    return [process for process in running if process.poll() is None]
