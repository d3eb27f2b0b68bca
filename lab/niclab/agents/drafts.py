"""Directories that are made beside others and renamed to their place when they are whole, so that there are no halves.

A draft belongs to whoever holds its lock; the lock dies with its process, and the next draft's maker removes the rest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from niclab.host.waiting import lock, locked

PREFIX = ".new-"


@contextlib.contextmanager
def draft(parent: Path) -> Iterator[Path]:
    """A directory in `parent`, gone after the block unless it was renamed. Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), locked(path, 0):
            erase(path)
    while True:
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Otherwise another process took it for abandoned before it was locked.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            handle = lock(made)
            break
    try:
        yield made
    finally:
        erase(made)
        os.close(handle)


def erase(path: Path) -> None:
    """Remove a tree, also one with directories that their owner may not write, as images have them."""
    for directory, children, _files in os.walk(path):
        for child in children:
            below = Path(directory, child)
            if not below.is_symlink():
                with contextlib.suppress(OSError):
                    below.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
