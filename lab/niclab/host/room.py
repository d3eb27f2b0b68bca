"""A room that outlives the command that made it: `niclab up` works without root, and `niclab exec` finds it again.

A *holder* — one sleeping process — keeps the room's namespaces alive; its pid and start time are recorded in a
directory only its user can read. When the holder and all that was started in the room are gone, so is the room.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import stat
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from niclab.errors import LabError
from niclab.host import rootless

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_RECORD = "holder.json"
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Holder:
    """The pid alone may be anybody's by now: start time and boot say whether it is still the same process."""

    pid: int
    started: int
    boot: str

    @property
    def mark(self) -> str:
        return f"{self.pid}:{self.started}"


def enter_room(argv: Sequence[str] | None = None, *, persistent: bool) -> None:
    """Replace this process by the same command line in a room; return when it is there or needs none.

    `persistent`: in the room of this user's holder, which is started when there is none; else in one of its own.
    """
    if not persistent or rootless.is_able() or rootless.in_room():
        rootless.reenter_unprivileged(argv)
        return
    held = holder()
    rootless.exec_command(enter_command(held, rootless.own_command(argv)), mark=held.mark)


def enter_command(held: Holder, command: Sequence[str]) -> list[str]:
    """`command` in the holder's room, as a line that can be pasted. Entering a mount namespace changes to its root:
    env goes back to where we are."""
    where = ["--preserve-credentials", "--user", "--mount", "--net", "--target", str(held.pid)]
    return ["nsenter", *where, "--", "env", f"--chdir={Path.cwd()}", *command]


def find_holder() -> Holder | None:
    """This user's living holder: asked from outside by its record, from inside the room by the mark."""
    if rootless.in_room():
        return _marked()
    return _read(_directory() / _RECORD)


def holder() -> Holder:
    """This user's holder, started when there is none."""
    directory = _directory()
    with _locked(directory):
        held = _read(directory / _RECORD)
        if held is None:
            held = _start()
            _write(directory / _RECORD, held)
        return held


def end_holder() -> bool:
    """End the room: its holder and whatever was started in it, told apart by the user namespace they are in.

    Says whether there was one. Called inside the room, it spares the caller and its parents: the room ends with them.
    """
    held = find_holder()
    if held is None:
        return False
    room = _user_namespace(held.pid)
    for pid in {held.pid, *_members(room)} - set(_ancestry()):
        _end(pid, room)
    if not rootless.in_room():
        (_directory() / _RECORD).unlink(missing_ok=True)
    return True


def entrance() -> list[str]:
    """What stands before a command that is pasted outside the room this process is in; nothing when it is in none."""
    if not rootless.in_room():
        return []
    held = find_holder() or _identify(os.getpid())
    return enter_command(held, []) if held else []


def end_if_empty() -> None:
    """Without root labs stand in a room that a process of this user's holds open: not longer than they need it."""
    from niclab.host import ownership

    if rootless.in_room() and find_holder() and not ownership.labs():
        end_holder()


def _start() -> Holder:
    # setsid --fork hands the holder to init, so that it neither dies with our terminal nor stays our zombie.
    # It says its pid as soon as the room is furnished, and closes the pipe.
    announce = ["sh", "-c", 'echo $$; exec "$@" >/dev/null 2>&1', "niclab-room", "sleep", "infinity"]
    try:
        started = subprocess.run(
            ["setsid", "--fork", *rootless.room_command(announce)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            cwd="/",
            env=os.environ | rootless.room_environment("holder"),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError("cannot start a process that holds the lab's room", why=str(error)) from error
    pid = started.stdout.strip()
    held = _identify(int(pid)) if pid.isdigit() else None
    if held is None:
        raise rootless.explain_refusal(started.stderr.strip())
    return held


def _identify(pid: int) -> Holder | None:
    """What tells the process from a later one with its pid; None when it is dead or a zombie."""
    try:
        fields = _status(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    return Holder(pid, int(fields[19]), Path("/proc/sys/kernel/random/boot_id").read_text().strip())


def _status(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before it may hold blanks and parentheses of its own."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _marked() -> Holder | None:
    pid, _, started = os.environ[rootless.MARK].partition(":")
    held = _identify(int(pid)) if pid.isdigit() else None
    return held if held and str(held.started) == started else None


def _read(record: Path) -> Holder | None:
    try:
        recorded = Holder(**json.loads(record.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return recorded if _identify(recorded.pid) == recorded else None


def _write(record: Path, held: Holder) -> None:
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(held)))
    fresh.replace(record)


def _directory() -> Path:
    """Where this user's holder is recorded. Anybody can make a directory in /tmp: ours must be ours alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(runtime)
    own = bool(runtime) and base.is_dir() and base.stat().st_uid == os.geteuid() and os.access(base, os.W_OK)
    directory = base / "niclab" if own else Path(f"/tmp/niclab-{os.geteuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise LabError(
            f"{directory} is not a directory of yours alone",
            why="it would tell the lab which process to enter, so nobody else may write there",
            fix=f"remove it, or chmod 700 {directory}",
        )
    return directory


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _user_namespace(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/ns/user").readlink().name
    except OSError:
        return ""


def _members(room: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and room and _user_namespace(int(entry.name)) == room:
            yield int(entry.name)


def _ancestry() -> Iterator[int]:
    pid = os.getpid()
    while pid > 1:
        yield pid
        pid = int(_status(pid)[1])


def _end(pid: int, room: str) -> None:
    """Ask, wait, then insist; through a pidfd, so that it is this process and no later one with its pid."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _user_namespace(pid) != room:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(process, number)
            if select.select([process], [], [], _PATIENCE)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(process)
