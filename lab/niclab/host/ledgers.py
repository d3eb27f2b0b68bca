"""Who made what: a ledger per lab, written beside each act, so that `kill -9` at any moment leaves nothing unaccounted.

A lab's directory holds `ledger` (one JSON object a line, appended before and after each act) and `lock` (held with
flock(2) as long as the lab's process lives; the kernel releases it when the process dies). Clean-up goes by the ledger,
never by a pattern of names, and checks that what is there is still what was made: a namespace's inode, a process's
start time.

The directory of all ledgers is locked while labs come, go and are swept; a lab is locked before that lock is let go, so
a sweep sees either nothing of a starting lab or that it lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niclab.errors import LabError, lab_error
from niclab.host import namespace, process
from niclab.host.process import Adopted
from niclab.host.waiting import lock, locked, try_until

STATE = Path("/run/niclab")
PATIENCE = 30.0
"""Seconds to wait while other labs come, go and are swept."""
_ID = re.compile("[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Owned:
    """One lab as its ledger has it. `alive`: its process holds the lock; `kept`: it is to outlive its process."""

    id: str
    path: Path
    alive: bool
    kept: bool

    @property
    def about(self) -> dict[str, Any]:
        """What the lab wrote of itself when it was deployed (topology, settings …); {} when it never got that far."""
        try:
            about = json.loads((self.path / "lab.json").read_text())
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}

    def processes(self) -> dict[str, Adopted]:
        return processes(self.path)

    def namespaces(self) -> dict[str, str]:
        """Role → name of the namespaces it made."""
        return {entry["role"]: entry["name"] for entry in _entries(self.path) if entry["act"] == "made namespace"}


class Ledger:
    """The open ledger of a living lab."""

    def __init__(self, lab_id: str, path: Path, held: int, log: int) -> None:
        self.id = lab_id
        self.path = path
        self._lock = held
        self._log = log
        self._released = False
        self._prepared = False
        self.kept = (path / "kept").exists()

    @classmethod
    def open_new(cls, lab_id: str | None = None) -> Ledger:
        """A ledger for a new lab; without an id a free random one. Raises LabError when the id is bad or taken."""
        if lab_id is not None:
            check_id(lab_id)
        with _state() as state:
            chosen = _free_id(state) if lab_id is None else lab_id
            path = state / chosen
            if path.exists():
                raise LabError(
                    f"there is a lab {chosen!r} already", fix=f"niclab down {chosen}, or choose another --id"
                )
            with lab_error(f"cannot make {path}"):
                path.mkdir(mode=0o700)
            return cls._open(chosen, path)

    @classmethod
    def open_existing(cls, lab_id: str) -> Ledger:
        """The ledger of a kept lab, taken over by this process. Raises LabError when there is none or it is in use."""
        check_id(lab_id)
        with _state() as state:
            path = state / lab_id
            if not path.is_dir():
                raise LabError(f"there is no lab {lab_id!r}", fix="niclab ls shows the labs of this machine")
            return cls._open(lab_id, path)

    @classmethod
    def _open(cls, lab_id: str, path: Path) -> Ledger:
        with contextlib.ExitStack() as undo, lab_error(f"cannot open the ledger of lab {lab_id!r}"):
            (path / "lock").touch(0o600)
            try:
                held = lock(path / "lock")
            except BlockingIOError:
                raise LabError(f"lab {lab_id!r} is in use by another process") from None
            undo.callback(os.close, held)
            log = os.open(path / "ledger", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
            undo.pop_all()
        return cls(lab_id, path, held, log)

    def write(self, act: str, **details: Any) -> None:
        """Append one act. A line reaches the kernel before the call returns, so it survives the process.

        Raises LabError when it cannot be written whole; then the act must not be done.
        """
        # The newline comes first as well: it ends a line that a full disk has cut short.
        line = b"\n" + json.dumps({"act": act, **details}).encode() + b"\n"
        with lab_error(f"cannot write the ledger {self.path / 'ledger'}"):
            if os.write(self._log, line) != len(line):
                raise OSError("it was cut short: no space left")

    def named_directory(self) -> Path:
        """The directory of named namespaces, made for names when this machine has not had any yet. Raises LabError."""
        if not self._prepared:
            with lab_error(f"cannot have names in {namespace.NAMED}"):
                namespace.prepare(self.path.parent)
            self._prepared = True
        return namespace.NAMED

    def make_cgroup(self, path: Path) -> Path:
        """A cgroup of the lab's. Raises LabError."""
        self.write("making cgroup", path=str(path))
        with lab_error(f"cannot make the cgroup {path}"):
            path.mkdir(exist_ok=True)
        return path

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
        """Stop owning: everything is cleaned up, unless the lab is to be kept. A second call does nothing.

        Raises LabError when something could not be removed; a sweep tries again.
        """
        if self._released:
            return
        self._released = True
        try:
            if not self.kept:
                with _state():
                    _foreign, stuck = _clean(self.path)
                if stuck:
                    raise LabError(f"lab {self.id} is not gone", why="; ".join(stuck), fix="niclab sweep")
        finally:
            os.close(self._log)
            os.close(self._lock)


def check_id(lab_id: str) -> None:
    """Raises LabError when a lab cannot have this id."""
    if not _ID.fullmatch(lab_id):
        raise LabError(
            f"{lab_id!r} cannot be a lab's id",
            why="it becomes part of the names of files and namespaces",
            fix="1 to 32 of a-z, 0-9 and -, and no - at either end",
        )


@contextmanager
def _state() -> Iterator[Path]:
    """The directory of all ledgers, locked; made when missing, and gone again when no lab is left in it.

    Raises LabError when it cannot be had, or is not let go by others within PATIENCE seconds.
    """
    with lab_error(f"cannot write {STATE}", fix="run as root, or let niclab enter a user namespace"):
        try:
            directory = try_until(_lock_state, PATIENCE, every=0.002, retry=(BlockingIOError, FileNotFoundError))
        except BlockingIOError:
            why = "another niclab comes, goes or sweeps"
            raise LabError(f"{STATE} has been locked for {PATIENCE:g} s", why=why, fix="try again") from None
    try:
        yield STATE
    finally:
        try:
            _leave(STATE)
        finally:
            os.close(directory)


def _lock_state() -> int:
    with contextlib.suppress(FileExistsError):  # mkdir's exist_ok fails when it is gone again a moment later
        STATE.mkdir(mode=0o755)
    # The last lab to leave may have removed the directory between our open and our lock.
    return lock(STATE)


def _leave(state: Path) -> None:
    """Remove the shared directories when no lab is left; only those a lab made."""
    if any(path.is_dir() for path in state.iterdir()):
        return
    with contextlib.suppress(OSError):
        namespace.leave(state)
    shutil.rmtree(state, ignore_errors=True)


def _free_id(state: Path) -> str:
    while True:
        lab_id = "lab" + secrets.token_hex(3)
        if not (state / lab_id).exists() and not any(namespace.NAMED.glob(f"{lab_id}-*")):
            return lab_id


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        lines = (path / "ledger").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line) if line else None
        except ValueError:  # cut short; the act was not done then
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def inodes(path: Path) -> dict[str, int]:
    """Name → inode of the namespaces that a lab made, by its directory."""
    return {entry["name"]: entry["inode"] for entry in _entries(path) if entry["act"] == "made namespace"}


def processes(path: Path) -> dict[str, Adopted]:
    """Name → process, of those that a lab started and that still run."""
    started = {entry["name"]: _process(entry) for entry in _entries(path) if entry["act"] == "started process"}
    return {name: running for name, running in started.items() if running.poll() is None}


def _process(entry: dict[str, Any]) -> Adopted:
    # No start time: it had ended before its line was written.
    return Adopted(entry["pid"], -1 if entry["start"] is None else entry["start"])


def _clean(path: Path) -> tuple[list[str], list[str]]:
    """Undo everything in the ledger, newest first: processes, then cgroups, then namespaces.

    Returns the names of what is no longer the lab's, which is left alone, and, with the reason, what could not be
    removed: the ledger stays then.
    """
    (path / "kept").unlink(missing_ok=True)  # killed half-way from here on, it is a sweep's business
    entries = _entries(path)[::-1]
    started = [entry for entry in entries if entry["act"] == "started process"]
    outright, gently = (
        [_process(entry) for entry in started if bool(entry.get("outright")) is so] for so in (True, False)
    )
    stuck = [f"process {running.pid}" for running in process.end(gently, outright)]
    for entry in entries:
        if entry["act"] == "making cgroup" and not _remove_cgroup(Path(entry["path"])):
            stuck.append(f"cgroup {entry['path']}")
    made = inodes(path)
    never = {entry["name"] for entry in entries if entry["act"] == "not making namespace"}
    foreign: list[str] = []
    for name in [entry["name"] for entry in entries if entry["act"] == "making namespace"]:
        try:
            if name not in never and not namespace.remove(name, made.get(name)):
                foreign.append(name)
        except OSError as error:
            stuck.append(f"{namespace.NAMED / name}: {error.strerror}")
    if not stuck:
        shutil.rmtree(path, ignore_errors=True)
    return foreign, stuck


def _remove_cgroup(path: Path) -> bool:
    """Remove a cgroup and those below it. rmdir(2) fails with EBUSY for a moment after the last process has gone."""
    if not path.is_dir():
        return True
    for child in path.iterdir():
        if child.is_dir():
            _remove_cgroup(child)
    try:
        try_until(path.rmdir, process.GRACE, retry=OSError)
    except OSError:
        return False
    return True


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
        if path.is_dir() and _ID.fullmatch(path.name)
    ]


def _is_locked(file: Path) -> bool:
    try:
        with locked(file, 0):
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: labs cleaned up, names left because something else stands under them, and what is stuck."""

    labs: tuple[str, ...]
    foreign: tuple[str, ...]
    stuck: tuple[str, ...] = ()


def sweep(*, kept: bool = False) -> Swept:
    """Clean up after every lab whose process is gone; with `kept` also those that were meant to stay."""
    if not STATE.is_dir():
        return Swept((), ())
    swept = Swept((), ())
    with _state() as state:
        for owned in _labs(state):
            if owned.alive or (owned.kept and not kept):
                continue
            left, failed = _clean(owned.path)
            cleaned = () if failed else (owned.id,)
            swept = Swept((*swept.labs, *cleaned), (*swept.foreign, *left), (*swept.stuck, *failed))
    return swept


def remove(lab_id: str) -> None:
    """End a kept lab. Raises LabError when there is none, or its process still runs."""
    ledger = Ledger.open_existing(lab_id)
    ledger.kept = False
    ledger.release()
