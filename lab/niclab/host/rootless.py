"""Running without root: the same command line again, as mapped root in a *room* of its own.

A room is a user, network and mount namespace with an empty /run and lo up. Whatever is made in it
vanishes with its last process, and files written from it belong to the user who started it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from niclab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest

MARK = "NICLAB_ROOM"
"""Set in the environment of everything that runs in a room."""

# /run is a tmpfs of the room's own because `ip netns` keeps its names there. The user's runtime directory lies under
# /run as well: programs that look for it shall find an empty one. The script is fixed; the command comes as "$@".
_FURNISHING = """\
set -e
mount -t tmpfs -o mode=755 tmpfs /run
[ -z "$XDG_RUNTIME_DIR" ] || mkdir -p -m 700 "$XDG_RUNTIME_DIR"
ip link set lo up
exec "$@"
"""
_FURNISH = ("sh", "-c", _FURNISHING, "niclab-room")

_CAP_NET_ADMIN = 1 << 12
_CAP_SYS_ADMIN = 1 << 21

PROC_SYS = Path("/proc/sys")

_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")

_AS_ROOT = "run it as root (sudo)"


def is_able() -> bool:
    """Whether this process may make network namespaces and mounts right here.

    Being uid 0 is not enough: root in an ordinary container lacks both capabilities and is no better off than a user.
    """
    wanted = _CAP_NET_ADMIN | _CAP_SYS_ADMIN
    return os.geteuid() == 0 and _effective_capabilities() & wanted == wanted


def in_room() -> bool:
    return MARK in os.environ


def room_command(command: Sequence[str], *, own_user: bool = True) -> list[str]:
    """`command` as an argument list that runs it in a new room; root needs no user namespace of its own."""
    user = ("--user", "--map-root-user") if own_user else ()
    return ["unshare", *user, "--net", "--mount", "--", *_FURNISH, *command]


def reenter_unprivileged(argv: Sequence[str] | None = None) -> None:
    """Replace this process by the same command line in a room; return when that is not needed.

    `argv` is the whole command line, interpreter first (default: `sys.orig_argv`, which is right for
    `python -m pytest …` and for console scripts alike). The exit status, signals and pid stay those of this process.
    """
    if is_able():
        return
    check_room()
    exec_command(room_command(own_command(argv)), mark="transient")


def reenter_pytest(config: pytest.Config, enter: Callable[[], None] | None = None) -> None:
    """`reenter_unprivileged`, or what is given to `enter`, from a pytest hook: give the terminal back first, or the new
    run would print into the capture file of the old one and find /dev/null as its standard input."""
    if is_able() or hasattr(config, "workerinput"):
        return
    check_room()
    manager = config.pluginmanager.getplugin("capturemanager")
    if manager is not None:
        cast("_CaptureManager", manager).stop_global_capturing()
    (enter or reenter_unprivileged)()


class _CaptureManager(Protocol):
    def stop_global_capturing(self) -> None: ...


def own_command(argv: Sequence[str] | None = None) -> list[str]:
    """The command line that runs this program once more, by the very same interpreter."""
    arguments = sys.orig_argv if argv is None else argv
    return [sys.executable, *arguments[1:]]


def exec_command(command: Sequence[str], *, mark: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(command[0], list(command), os.environ | room_environment(mark))


def room_environment(mark: str) -> dict[str, str]:
    # Programs that ask for the user's name, as pytest does for its directory in /tmp, would take us for root in there.
    named = any(os.environ.get(name) for name in ("LOGNAME", "USER"))
    name = {} if named or os.geteuid() == 0 else {"LOGNAME": f"uid{os.geteuid()}"}
    return {MARK: mark, "PATH": room_path(), **name}


def room_path() -> str:
    """In the room we are root, and need what root finds: a user's PATH on Debian has no sbin, where nft lives."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*path, *(sbin for sbin in _SBIN if sbin not in path)])


def check_room() -> None:
    """Make a room and leave it at once; LabError says why this kernel does not let us."""
    if in_room():
        raise LabError(
            "this process is in a room of the lab's, and may not make network namespaces in it",
            why=f"${MARK} is set, but the capabilities NET_ADMIN and SYS_ADMIN are missing",
            fix=f"unset {MARK} when you set it yourself; else {_AS_ROOT}",
        )
    for tool in ("unshare", "mount", "ip"):
        if shutil.which(tool, path=room_path()) is None:
            raise LabError(
                f"cannot run without root: the command {tool} is missing",
                fix=f"apt-get install {'iproute2' if tool == 'ip' else 'util-linux mount'}",
            )
    try:
        tried = subprocess.run(
            room_command(["true"]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env=os.environ | room_environment("trial"),
        )
    except subprocess.TimeoutExpired as error:
        raise LabError("cannot run without root: making a user namespace hangs", fix=_AS_ROOT) from error
    if tried.returncode != 0:
        raise explain_refusal(tried.stderr.strip())


def explain_refusal(reported: str, *, sysctls: Path = PROC_SYS) -> LabError:
    """Why a room could not be made, from the kernel's switches; `said` is unshare's own complaint."""
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
        if _sysctl(sysctls, name) == refuses:
            return name, refuses, wanted
    return None


def _sysctl(root: Path, name: str) -> str | None:
    try:
        return root.joinpath(*name.split(".")).read_text().strip()
    except OSError:
        return None


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
