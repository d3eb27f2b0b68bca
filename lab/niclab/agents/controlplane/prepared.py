"""Prepared data: an etcd directory that holds the definitions Cilium needs, made once, copied for every lab.

The operator creates its definitions at about one a second; copying them takes a hundredth of that. A directory appears
under its key by rename, so it is whole or not there; what a killed process has left half made is removed by the next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from niclab.errors import LabError

FORMAT = 1
"""Part of every key: raise it when labs are to forget what earlier versions of this module prepared."""
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_DRAFT = ".new-"
_DATA = "etcd"
_KEPT = 12
"""Directories to keep, of 5 MB each; those that were used longest ago go."""


def fingerprint(program: Path) -> str:
    """Tells builds of a program apart, also those that give themselves the same version. Raises LabError."""
    try:
        found = program.stat()
    except OSError as error:
        raise LabError(f"cannot read {program}", why=error.strerror or str(error)) from None
    return f"{found.st_size}-{found.st_mtime_ns}"


def key(parts: Mapping[str, object]) -> str:
    """A short name for everything that the data depends on."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Store:
    """The prepared directories below a home."""

    def __init__(self, where: Path) -> None:
        self._path = where / "prepared"

    def restore(self, name: str, target: Path) -> bool:
        """Copy prepared data to `target`, which must not exist; False when there is none. Raises LabError."""
        source = self._path / name / _DATA
        if not source.is_dir():
            return False
        try:
            _copy_tree(source, target)
            os.utime(source.parent)
        except OSError as error:
            shutil.rmtree(target, ignore_errors=True)
            if isinstance(error, FileNotFoundError):  # discarded by another lab meanwhile
                return False
            raise LabError(f"cannot copy {source} to {target}", why=error.strerror or str(error)) from None
        return True

    def save(self, name: str, data: Path) -> bool:
        """Keep a copy of etcd's directory, which nothing writes meanwhile. False when it cannot be kept: no matter."""
        try:
            with self._draft() as draft:
                _copy_tree(data, draft / _DATA)
                _sync(draft)
                try:
                    draft.rename(self._path / name)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise  # otherwise another lab was faster, and made the same
            self._trim()
        except OSError:
            return False
        return True

    def discard(self, name: str) -> None:
        """Forget prepared data that turned out to be of no use."""
        with contextlib.suppress(OSError), self._draft() as grave:
            (self._path / name).rename(grave / _DATA)

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Path]:
        """A locked directory beside the prepared ones, gone after the block unless it was renamed. Raises OSError."""
        self._path.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        draft, lock = self._new_draft()
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            os.close(lock)

    def _new_draft(self) -> tuple[Path, int]:
        while True:
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._path))
            lock = _locked(draft)
            if lock is not None:  # otherwise another lab took it for abandoned before it was locked
                return draft, lock

    def _trim(self) -> None:
        found = [path for path in self._path.iterdir() if not path.name.startswith(_DRAFT)]
        for path in sorted(found, key=lambda one: one.stat().st_mtime, reverse=True)[_KEPT:]:
            self.discard(path.name)

    def _remove_abandoned(self) -> None:
        for draft in self._path.glob(f"{_DRAFT}*"):
            lock = _locked(draft)
            if lock is not None:
                shutil.rmtree(draft, ignore_errors=True)
                os.close(lock)


def _locked(directory: Path) -> int | None:
    """A handle that holds the directory's lock; None when another process holds it, or has removed the directory."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if directory.stat().st_ino == os.fstat(handle).st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


def _copy_tree(source: Path, target: Path) -> None:
    """Copy, leaving holes for zeros: most of a write-ahead log is space allocated beforehand. Raises OSError."""
    target.mkdir(mode=0o700, parents=True)
    for entry in source.iterdir():
        if entry.is_dir():
            _copy_tree(entry, target / entry.name)
        elif entry.suffix != ".tmp":  # logs to come; etcd makes them again
            _copy_file(entry, target / entry.name)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        os.fchmod(writing.fileno(), 0o600)
        size = os.fstat(reading.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(reading.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nothing but a hole follows
                    raise
                break
            chunk = os.pread(reading.fileno(), _CHUNK, at)
            if not chunk:
                break
            if chunk != _ZEROS[: len(chunk)]:
                os.pwrite(writing.fileno(), chunk, at)
            at += len(chunk)
        os.ftruncate(writing.fileno(), size)


def _sync(path: Path) -> None:
    """A rename must not reach the disk before what was renamed."""
    for entry in (path, *path.rglob("*")):
        handle = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
