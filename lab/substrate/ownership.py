"""Who made what: a ledger per lab, written beside each act, so that `kill -9` at any moment leaves nothing unaccounted.

A lab's directory holds `ledger` (one JSON object a line, appended before and after each act) and `lock` (held with
flock(2) as long as the lab's process lives; the kernel releases it when the process dies). Clean-up goes by the ledger,
never by a pattern of names, and checks that what stands under a name is still what was made: the namespace's inode.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.substrate import namespace

STATE = Path("/run/niclab")
NAMED = Path("/run/netns")
_NETNS_DIRECTORY_MADE = "made-netns-directory"


@dataclass(frozen=True, slots=True)
class Owned:
    """One lab as its ledger tells it. `alive`: its process holds the lock; `kept`: it is meant to outlive its process."""

    id: str
    path: Path
    alive: bool
    kept: bool

    @property
    def about(self) -> dict[str, Any]:
        """What the lab said of itself when it was deployed (topology, settings …); {} when it never got that far."""
        try:
            found = json.loads((self.path / "lab.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def namespaces(self) -> dict[str, str]:
        """Role → name of the namespaces it made."""
        return {entry["role"]: entry["name"] for entry in _entries(self.path) if entry["act"] == "made namespace"}


class Ledger:
    """The open ledger of a living lab."""

    def __init__(self, lab_id: str, path: Path, lock: int, log: int) -> None:
        self.id = lab_id
        self.path = path
        self._lock = lock
        self._log = log
        self.kept = (path / "kept").exists()

    @classmethod
    def open_new(cls, lab_id: str | None = None) -> Ledger:
        """A ledger for a new lab; without an id a free random one. Raises LabError when the id is taken."""
        with _state() as state:
            chosen = lab_id or _free_id(state)
            path = state / chosen
            try:
                path.mkdir(mode=0o700)
            except FileExistsError:
                raise LabError(
                    f"there is a lab {chosen!r} already", mend=f"niclab down {chosen}, or choose another --id"
                ) from None
            return cls._open(chosen, path)

    @classmethod
    def open_existing(cls, lab_id: str) -> Ledger:
        """The ledger of a kept lab, taken over by this process. Raises LabError when there is none or it is in use."""
        with _state() as state:
            path = state / lab_id
            if not path.is_dir() or "/" in lab_id:
                raise LabError(f"there is no lab {lab_id!r}", mend="niclab ls shows the labs of this machine")
            return cls._open(lab_id, path)

    @classmethod
    def _open(cls, lab_id: str, path: Path) -> Ledger:
        lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise LabError(f"lab {lab_id!r} is in use by another process") from None
        log = os.open(path / "ledger", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return cls(lab_id, path, lock, log)

    def write(self, act: str, **details: Any) -> None:
        """Append one act. A line reaches the kernel before the call returns, so it survives the process."""
        os.write(self._log, json.dumps({"act": act, **details}).encode() + b"\n")

    def keep(self) -> None:
        """Let the lab outlive its process; `niclab down` ends it."""
        (self.path / "kept").touch()
        self.kept = True

    def describe(self, about: dict[str, Any]) -> None:
        """Leave what other commands want to know of the lab; whole or not at all."""
        draft = self.path / "lab.json.new"
        draft.write_text(json.dumps(about, indent=1))
        draft.rename(self.path / "lab.json")

    def release(self) -> None:
        """Stop owning: everything is cleaned up, unless the lab is to be kept."""
        try:
            if not self.kept:
                with _state() as state:
                    _clean(self.path)
                    _leave(state)
        finally:
            os.close(self._log)
            os.close(self._lock)


@contextmanager
def _state() -> Iterator[Path]:
    """The directory of all ledgers, locked; made when missing, and gone again when the last lab is."""
    while True:
        try:
            STATE.mkdir(mode=0o755, exist_ok=True)
            directory = os.open(STATE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LabError(
                f"cannot write {STATE}",
                why=error.strerror or str(error),
                mend="run as root, or let niclab enter a room",
            ) from None
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            # The last lab to leave may have removed the directory between our open and our lock.
            if _same_directory(directory, STATE):
                yield STATE
                return
        finally:
            os.close(directory)


def _same_directory(handle: int, path: Path) -> bool:
    try:
        return os.fstat(handle).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _leave(state: Path) -> None:
    """Remove the shared directories when no lab is left; only those a lab made."""
    if any(path.is_dir() for path in state.iterdir()):
        return
    if (state / _NETNS_DIRECTORY_MADE).exists():
        with contextlib.suppress(OSError):
            NAMED.rmdir()
    shutil.rmtree(state, ignore_errors=True)


def _free_id(state: Path) -> str:
    while True:
        lab_id = "lab" + secrets.token_hex(3)
        if not (state / lab_id).exists() and not any(NAMED.glob(f"{lab_id}-*")):
            return lab_id


def named_directory(ledger: Ledger) -> Path:
    """The directory of named namespaces, made (and noted) when this machine has none yet."""
    if not NAMED.exists():
        (ledger.path.parent / _NETNS_DIRECTORY_MADE).touch()
        NAMED.mkdir(mode=0o755, exist_ok=True)
    return NAMED


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        lines = (path / "ledger").read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line may be cut short by a kill
            found.append(json.loads(line))
    return found


def _clean(path: Path) -> list[str]:
    """Undo everything the ledger tells, newest first; what is no longer ours is left and named."""
    foreign: list[str] = []
    made = {entry["name"]: entry["inode"] for entry in _entries(path) if entry["act"] == "made namespace"}
    for entry in reversed(_entries(path)):
        if entry["act"] == "making namespace" and not _remove_namespace(entry["name"], made.get(entry["name"])):
            foreign.append(entry["name"])
    shutil.rmtree(path, ignore_errors=True)
    return foreign


def _remove_namespace(name: str, inode: int | None) -> bool:
    """Unmount and unlink a named namespace. False when another namespace stands under the name now."""
    path = NAMED / name
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    if inode is not None and found.st_ino != inode and _is_mounted(path):
        return False
    with contextlib.suppress(OSError):  # killed between the file and the mount: nothing is mounted
        namespace.unmount(str(path))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return True


def _is_mounted(path: Path) -> bool:
    return path.stat().st_dev != path.parent.stat().st_dev


def labs() -> list[Owned]:
    """Every lab of this machine, by id."""
    if not STATE.is_dir():
        return []
    with _state() as state:
        return _labs(state)


def _labs(state: Path) -> list[Owned]:
    return [
        Owned(path.name, path, _is_locked(path / "lock"), (path / "kept").exists())
        for path in sorted(state.iterdir())
        if path.is_dir()
    ]


def _is_locked(lock: Path) -> bool:
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: labs cleaned up, and names left because something else stands under them now."""

    labs: tuple[str, ...]
    foreign: tuple[str, ...]


def sweep(*, kept: bool = False) -> Swept:
    """Clean up after every lab whose process is gone; with `kept` also those that were meant to stay."""
    if not STATE.is_dir():
        return Swept((), ())
    cleaned: list[str] = []
    foreign: list[str] = []
    with _state() as state:
        for owned in _labs(state):
            if owned.alive or (owned.kept and not kept):
                continue
            foreign += _clean(owned.path)
            cleaned.append(owned.id)
        _leave(state)
    return Swept(tuple(cleaned), tuple(foreign))


def remove(lab_id: str) -> None:
    """End a kept lab. Raises LabError when there is none, or its process still runs."""
    ledger = Ledger.open_existing(lab_id)
    ledger.kept = False
    ledger.release()
