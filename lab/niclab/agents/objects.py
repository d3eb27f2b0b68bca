"""The eBPF objects that agents had compiled, kept for the agents of later labs: most of an agent's start is clang.

`compile.sh` stands before the compiler on an agent's PATH. It looks up what the compiler would read — the preprocessed
text with its line markers, the arguments, the working directory, the compiler's identity — and hands over the object
compiled from exactly that, else compiles and keeps it. Failures and compilations with warnings are not kept, and of
two agents that need the same object one waits for the other. Only one thing is left out of the key: the directory of
an agent's templates, `templates/HASH`. It is named by a hash over all of the node's configuration, also of what does
not reach the source, and nothing that a program is loaded from depends on it.

ccache does not do it: it passes over compilations to standard output, which is how agents call clang, and behind a
wrapper that gives them a file it still misses `bpf_host` and `bpf_lxc` in every new lab, for it takes `templates/HASH`
into its key with the line markers. Nor does it let one of two wait.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from pathlib import Path

from niclab.agents.bundle.store import home
from niclab.errors import LabError

VARIABLE = "NICLAB_OBJECTS"
"""A directory to keep objects in instead of niclab's own; `off`: every agent compiles all by itself."""
LIMIT = 512 << 20
"""Bytes to keep, about five hundred objects; those that were used longest ago go."""
_ABANDONED = 3600.0
"""Seconds after which a draft or a lock belongs to nobody: the longest compilation takes a few."""
_SCRIPT = "compile.sh"
# Distributions link clang against its libraries: /usr/lib/llvm-19/bin/clang against those in /usr/lib/llvm-19/lib.
_LIBRARIES = ("../lib/libLLVM*.so*", "../lib/libclang-cpp*.so*")


def directory() -> Path | None:
    """Where objects are kept, made; None when they are not: switched off, or the place cannot be written."""
    chosen = os.environ.get(VARIABLE)
    if chosen == "off":
        return None
    found = Path(chosen).absolute() if chosen else home() / "objects"
    with contextlib.suppress(OSError):
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        trim(found)
    return found if os.access(found, os.W_OK) else None


def trim(where: Path, limit: int = LIMIT) -> None:
    """Remove what was used longest ago until `limit` bytes are left, and what killed compilations left. Raises OSError.

    Agents may use the directory meanwhile: an object that goes while it is wanted is compiled again.
    """
    kept = 0
    now = time.time()
    for path, found in sorted(_entries(where), key=lambda one: one[1].st_mtime, reverse=True):
        if path.suffix == ".o":
            kept += found.st_size
            if kept > limit:
                path.unlink(missing_ok=True)
        elif now - found.st_mtime > _ABANDONED:
            _remove(path)


def _entries(where: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in where.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append((path, path.stat()))
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            child.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def identity(compiler: Path) -> str:
    """Tells builds of a compiler apart, also those that call themselves the same: it, and the libraries it is made of.

    `compiler` is a path of the host's, also when it lies in an image. Raises LabError.
    """
    try:
        real = compiler.resolve(strict=True)
        parts = [real, *sorted(path for pattern in _LIBRARIES for path in real.parent.glob(pattern))]
        found = [(path, path.stat()) for path in parts]
    except OSError as error:
        raise LabError(f"cannot read {compiler}", why=error.strerror or str(error)) from None
    return " ".join(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in found)


def wrapper(compiler: Path, named: str, objects: Path) -> str:
    """The program that stands before a compiler; `compiler` and `objects` are paths of the agent's sandbox."""
    settings = {"real": str(compiler), "identity": named, "objects": str(objects)}
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    return f"#!/bin/sh\n{assignments}\n{Path(__file__).with_name(_SCRIPT).read_text()}"
