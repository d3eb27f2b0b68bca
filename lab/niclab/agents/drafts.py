"""Directories that are made beside others and renamed to their place when they are whole, so that there are no halves.

A draft belongs to whoever holds its lock; the lock dies with its process, and the next draft's maker removes the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".new-"


@contextlib.contextmanager
def draft(parent: Path) -> Iterator[Path]:
    """A directory in `parent`, gone after the block unless it was renamed. Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob(f"{PREFIX}*"):
        if (handle := locked(path)) is not None:
            erase(path)
            os.close(handle)
    while True:
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Otherwise another process took it for abandoned before it was locked.
        if (lock := locked(made)) is not None:
            break
    try:
        yield made
    finally:
        erase(made)
        os.close(lock)


def locked(path: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int | None:
    """A handle that holds a file's or directory's lock; None when another process has it, or has removed the file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(handle, how)
        if path.stat().st_ino == os.fstat(handle).st_ino:
            return handle
    os.close(handle)
    return None


def erase(path: Path) -> None:
    """Remove a tree, also one with directories that their owner may not write, as images have them."""
    for directory, children, _files in os.walk(path):
        for child in children:
            below = Path(directory, child)
            if not below.is_symlink():
                with contextlib.suppress(OSError):
                    below.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
