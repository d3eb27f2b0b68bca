"""Running without root: the same command line again, as mapped root in a user namespace of its own.

With it come a network and a mount namespace with an empty /run and lo up. What is made in there goes with its last
process, and files written from there belong to the user who started it. It lasts as long as one command, or
(*persistent*) as long as a sleeping process, the *holder*, keeps it: so `niclab up` works without root, and `niclab
exec` finds its lab again. The holder's pid and start time are recorded in a directory that only its user can read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from niclab.errors import LabError
from niclab.host import process
from niclab.host.process import Adopted, search_path
from niclab.host.waiting import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import pytest

MARK = "NICLAB_USERNS"
"""Set in the environment of everything that runs in a user namespace of ours: its holder, or "transient"."""

# /run is a tmpfs of its own because `ip netns` keeps its names there. The user's runtime directory lies under /run as
# well: programs that look for it shall find an empty one. The script is fixed; the command comes as "$@".
_SET_UP = """\
set -e
mount -t tmpfs -o mode=755 tmpfs /run
[ -z "$XDG_RUNTIME_DIR" ] || mkdir -p -m 700 "$XDG_RUNTIME_DIR"
ip link set lo up
exec "$@"
"""
_CAPABILITIES = 1 << 12 | 1 << 21
"""NET_ADMIN and SYS_ADMIN (linux/capability.h)."""
PROC_SYS = Path("/proc/sys")
_AS_ROOT = "run it as root (sudo)"
_RECORD = "holder.json"
_PATIENCE = 5.0


# Is one needed, and is this process in one?


def is_able() -> bool:
    """Whether this process may make network namespaces and mounts right here.

    Being uid 0 is not enough: root in an ordinary container lacks both capabilities and is no better off than a user.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return os.geteuid() == 0 and int(fields["CapEff"], 16) & _CAPABILITIES == _CAPABILITIES


def is_inside() -> bool:
    return MARK in os.environ


# Going in


def enter(*, persistent: bool = False) -> None:
    """Replace this process by the same command line in a user namespace; return when it is in one or needs none.

    The exit status, signals and pid stay those of this process. `persistent`: in the one of this user's
    holder, which is started when there is none.
    """
    if is_able():
        return
    # By the very same interpreter; right for `python -m pytest …` and for console scripts alike.
    command = [sys.executable, *sys.orig_argv[1:]]
    if persistent and not is_inside():
        held = holder()
        _execute(enter_command(held, command), mark=f"{held.pid}:{held.started}")
    check()
    _execute(unshare_command(command), mark="transient")


def enter_pytest(config: pytest.Config, *, persistent: bool = False) -> None:
    """`enter` from a pytest hook: give the terminal back first, or the new run would print into the capture file of
    the old one and find /dev/null as its standard input."""
    if is_able() or hasattr(config, "workerinput"):
        return
    check()
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is not None:
        manager.stop_global_capturing()
    enter(persistent=persistent)


def unshare_command(command: Sequence[str], *, own_user: bool = True) -> list[str]:
    """`command` as an argument list that runs it in new namespaces; root needs no user namespace of its own."""
    user = ("--user", "--map-root-user") if own_user else ()
    return ["unshare", *user, "--net", "--mount", "--", "sh", "-c", _SET_UP, "niclab-userns", *command]


def enter_command(held: Adopted, command: Sequence[str]) -> list[str]:
    """`command` in the holder's namespaces, as a line that can be pasted. Entering a mount namespace changes to its
    root: env goes back to where we are."""
    where = ["--preserve-credentials", "--user", "--mount", "--net", "--target", str(held.pid)]
    return ["nsenter", *where, "--", "env", f"--chdir={Path.cwd()}", *command]


def entrance() -> list[str]:
    """What stands before a command that is pasted outside the user namespace this process is in; [] when in none."""
    if not is_inside():
        return []
    held = find_holder() or process.adopted(os.getpid())
    return enter_command(held, []) if held else []


def environment(mark: str) -> dict[str, str]:
    """What a command that goes in has in its environment beside what is there."""
    # Programs that ask for the user's name, as pytest does for its directory in /tmp, would take us for root in there.
    named = any(os.environ.get(name) for name in ("LOGNAME", "USER"))
    name = {} if named or os.geteuid() == 0 else {"LOGNAME": f"uid{os.geteuid()}"}
    return {MARK: mark, "PATH": search_path(), **name}


def _execute(command: Sequence[str], *, mark: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(command[0], list(command), os.environ | environment(mark))


# Whether the kernel allows it


def check() -> None:
    """Make a user namespace and leave it at once; LabError says why this kernel refuses."""
    if is_inside():
        raise LabError(
            "this process is in a user namespace of the lab's, and may not make network namespaces in it",
            why=f"${MARK} is set, but the capabilities NET_ADMIN and SYS_ADMIN are missing",
            fix=f"unset {MARK} when you set it yourself; else {_AS_ROOT}",
        )
    if tool := missing_tool():
        raise LabError(
            f"cannot run without root: the command {tool} is missing",
            fix=f"apt-get install {'iproute2' if tool == 'ip' else 'util-linux mount'}",
        )
    try:
        tried = subprocess.run(
            unshare_command(["true"]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env=os.environ | environment("trial"),
        )
    except subprocess.TimeoutExpired as error:
        raise LabError("cannot run without root: making a user namespace hangs", fix=_AS_ROOT) from error
    if tried.returncode != 0:
        raise explain_refusal(tried.stderr.strip())


def missing_tool() -> str:
    """A command that setting up a user namespace needs and this machine has not; empty when all are there."""
    return next((tool for tool in ("unshare", "mount", "ip") if not shutil.which(tool, path=search_path())), "")


def explain_refusal(reported: str, *, sysctls: Path = PROC_SYS) -> LabError:
    """Why a user namespace could not be made, from the kernel's switches; `reported` is unshare's own complaint."""
    refusing = refusing_sysctl(sysctls)
    if refusing is not None:
        name, value, wanted = refusing
        return LabError(
            f"cannot run without root: {name} is {value}, so the kernel refuses user namespaces",
            why=reported,
            fix=f"sudo sysctl -w {name}={wanted}, or {_AS_ROOT}",
        )
    return LabError(
        "cannot run without root: the kernel refuses user namespaces, and no sysctl says why",
        why=reported,
        fix=f"{_AS_ROOT}; in a container: start that with --privileged, as its seccomp filter forbids unshare",
    )


def refusing_sysctl(sysctls: Path = PROC_SYS) -> tuple[str, str, str] | None:
    """The first sysctl that keeps users from making namespaces: its name, its value, the value it should have."""
    for name, refuses, wanted in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
        ("user.max_net_namespaces", "0", "10000"),
        ("user.max_mnt_namespaces", "0", "10000"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        with contextlib.suppress(OSError):
            if sysctls.joinpath(*name.split(".")).read_text().strip() == refuses:
                return name, refuses, wanted
    return None


# The holder


def find_holder() -> Adopted | None:
    """This user's living holder: from outside by its record, from inside by the mark."""
    return _marked() if is_inside() else _read(_directory() / _RECORD)


def holder() -> Adopted:
    """This user's holder, started when there is none."""
    directory = _directory()
    with locked(directory):
        held = _read(directory / _RECORD)
        if held is None:
            held = _start()
            _write(directory / _RECORD, held)
        return held


def end_holder() -> bool:
    """End the holder and whatever was started in its user namespace. Says whether there was one.

    Called from inside, it spares the caller and its parents: the namespaces end with them.
    """
    held = find_holder()
    if held is None:
        return False
    inside = _user_namespace(held.pid)
    members = {held.pid, *_members(inside)} - set(_ancestry())
    process.end([member for pid in members if (member := process.adopted(pid)) and _user_namespace(pid) == inside])
    if not is_inside():
        (_directory() / _RECORD).unlink(missing_ok=True)
    return True


def end_if_unused(labs: Callable[[], Collection[object]]) -> None:
    """End the holder when no lab needs it any more; outside of a user namespace there is nothing to end."""
    if is_inside() and find_holder() and not labs():
        end_holder()


def _start() -> Adopted:
    # setsid --fork hands the holder to init, so that it neither dies with our terminal nor stays our zombie.
    # It prints its pid as soon as its namespaces are set up, and closes the pipe.
    announce = ["sh", "-c", 'echo $$; exec "$@" >/dev/null 2>&1', "niclab-userns", "sleep", "infinity"]
    try:
        started = subprocess.run(
            ["setsid", "--fork", *unshare_command(announce)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            cwd="/",
            env=os.environ | environment("holder"),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError("cannot start a process that holds a user namespace open", why=str(error)) from error
    pid = started.stdout.strip()
    held = process.adopted(int(pid)) if pid.isdigit() else None
    if held is None:
        raise explain_refusal(started.stderr.strip())
    return held


def _marked() -> Adopted | None:
    pid, _, started = os.environ[MARK].partition(":")
    held = process.adopted(int(pid)) if pid.isdigit() else None
    return held if held and str(held.started) == started else None


def _read(record: Path) -> Adopted | None:
    """A start time counts from the boot, so that is recorded, too."""
    try:
        recorded = json.loads(record.read_text())
        held = process.adopted(recorded["pid"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return held if held and {**asdict(held), "boot": _boot()} == recorded else None


def _write(record: Path, held: Adopted) -> None:
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps({**asdict(held), "boot": _boot()}))
    fresh.replace(record)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _directory() -> Path:
    """Where this user's holder is recorded. Anybody can make a directory in /tmp: ours must be ours alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(runtime)
    own = bool(runtime) and base.is_dir() and base.stat().st_uid == os.geteuid() and os.access(base, os.W_OK)
    directory = base / "niclab" if own else Path(f"/tmp/niclab-{os.geteuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    made = directory.lstat()
    if not stat.S_ISDIR(made.st_mode) or made.st_uid != os.geteuid() or made.st_mode & 0o077:
        raise LabError(
            f"{directory} is not a directory of yours alone",
            why="the lab reads there which process to enter, so nobody else may write there",
            fix=f"remove it, or chmod 700 {directory}",
        )
    return directory


def _user_namespace(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/ns/user").readlink().name
    except OSError:
        return ""


def _members(namespace: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and namespace and _user_namespace(int(entry.name)) == namespace:
            yield int(entry.name)


def _ancestry() -> Iterator[int]:
    pid = os.getpid()
    while pid > 1:
        yield pid
        fields = process.status(pid)
        pid = int(fields[1]) if fields else 0
