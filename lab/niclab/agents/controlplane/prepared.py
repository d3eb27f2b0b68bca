"""Prepared data: an etcd directory that holds the definitions Cilium needs, made once, copied for every lab.

The operator creates its definitions at about one a second; copying them takes a hundredth of that.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from niclab.agents.drafts import PREFIX, draft
from niclab.errors import LabError, lab_error

FORMAT = 1
"""Part of every key: raise it when labs are to forget what earlier versions of this module prepared."""
_ZEROS = bytes(1 << 16)
_DATA = "etcd"
_KEPT = 12
"""Directories to keep, of 5 MB each; those that were used longest ago go."""


def fingerprint(program: Path) -> str:
    """Tells builds of a program apart, also those that give themselves the same version. Raises LabError."""
    with lab_error(f"cannot read {program}"):
        found = program.stat()
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
            _copy(source, target)
            os.utime(source.parent)
        except OSError as error:
            shutil.rmtree(target, ignore_errors=True)
            if not source.is_dir():  # discarded by another lab meanwhile
                return False
            raise LabError(f"cannot copy {source} to {target}", why=error.strerror or str(error)) from None
        return True

    def save(self, name: str, data: Path) -> bool:
        """Keep a copy of etcd's directory, which nothing writes meanwhile. False when it cannot be kept: no matter."""
        try:
            with draft(self._path) as made:
                _copy(data, made / _DATA)
                _sync(made)
                try:
                    made.rename(self._path / name)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise  # otherwise another lab was faster, and made the same
            found = [path for path in self._path.iterdir() if not path.name.startswith(PREFIX)]
            for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
                self.discard(path.name)
        except OSError:
            return False
        return True

    def discard(self, name: str) -> None:
        """Forget prepared data that turned out to be of no use."""
        with contextlib.suppress(OSError), draft(self._path) as grave:
            (self._path / name).rename(grave / _DATA)


def _copy(source: Path, target: Path) -> None:
    """Copy a tree but for logs to come, which etcd makes again. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, copy_function=_copy_file, ignore=shutil.ignore_patterns("*.tmp"))


def _copy_file(source: str, target: str) -> None:
    """Leaving holes for zeros: most of a write-ahead log is space allocated beforehand."""
    with Path(source).open("rb") as reading, Path(target).open("wb") as writing:
        while chunk := reading.read(len(_ZEROS)):
            if chunk == _ZEROS[: len(chunk)]:
                writing.seek(len(chunk), os.SEEK_CUR)
            else:
                writing.write(chunk)
        writing.truncate()


def _sync(path: Path) -> None:
    """A rename must not reach the disk before what was renamed."""
    for entry in (path, *path.rglob("*")):
        handle = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
