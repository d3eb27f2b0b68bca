"""The compiler that agents find on their PATH, and what keeps its objects for the agents of later labs.

Agents call `clang` and `llc`, whatever it is. Distributions name the newest ones `clang-19`; the plain name may be an
older one that refuses Cilium's sources. Most of an agent's start is clang: so `compile.sh` stands before it. It looks
up what the compiler would read — the preprocessed text with its line markers, the arguments, the working directory, the
compiler's identity — and hands over the object compiled from exactly that, else compiles and keeps it. Failures and
compilations with warnings are not kept, and of two agents that need the same object one waits for the other. Only one
thing is left out of the key: the directory of an agent's templates, `templates/HASH`. It is named by a hash over all of
the node's configuration, also of what does not reach the source, and nothing that a program is loaded from depends on
it.

ccache does not do it: it passes over compilations to standard output, which is how agents call clang, and behind a
wrapper that gives them a file it still misses `bpf_host` and `bpf_lxc` in every new lab, for it takes `templates/HASH`
into its key with the line markers. Nor does it let one of two wait.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import time
from pathlib import Path

from niclab.agents.bundle import Bundle
from niclab.agents.bundle.store import home
from niclab.errors import LabError, lab_error
from niclab.host.process import environment

PROGRAMS = ("clang", "llc")
OLDEST = 17
"""pkg/datapath/linux/requirements.go and the sources' own flags; 1.18 and later are built with 19."""
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
    kept, found = 0, []
    for path in where.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat(), path))
    for status, path in sorted(found, key=lambda pair: pair[0].st_mtime, reverse=True):
        if path.suffix == ".o":
            kept += status.st_size
            if kept > limit:
                path.unlink(missing_ok=True)
        elif time.time() - status.st_mtime > _ABANDONED:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def identity(compiler: Path) -> str:
    """Tells builds of a compiler apart, also those that call themselves the same: it, and the libraries it is made of.

    `compiler` is a path of the host's, also when it lies in an image. Raises LabError.
    """
    with lab_error(f"cannot read {compiler}"):
        real = compiler.resolve(strict=True)
        parts = [real, *sorted(path for pattern in _LIBRARIES for path in real.parent.glob(pattern))]
        found = [(path, path.stat()) for path in parts]
    return " ".join(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in found)


def wrapper(compiler: Path, named: str, objects: Path) -> str:
    """The program that stands before a compiler; `compiler` and `objects` are paths of the agent's sandbox."""
    settings = {"real": str(compiler), "identity": named, "objects": str(objects)}
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    return f"#!/bin/sh\n{assignments}\n{Path(__file__).with_name(_SCRIPT).read_text()}"


def provide(directory: Path, bundle: Bundle, kept: Path | None) -> Path:
    """Make `directory` hold what an agent is to find first on its PATH; objects are kept in `kept`. Raises LabError.

    For a directory bundle links by the plain names to the newest versions of the host; for an image nothing but what
    stands before its own compiler.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        (directory / name).unlink(missing_ok=True)
    if bundle.root is not None:
        named = bundle.program("clang")
        clang = bundle.outside(named)
    else:
        search = environment()["PATH"]
        named = clang = newest("clang", search)
        if clang is None:
            raise LabError(
                f"no clang of version {OLDEST} or later is installed",
                why="agents of a directory bundle compile their programs with the host's",
                fix="apt-get install clang-19 llvm-19, or use an image bundle: niclab cilium pull",
            )
        if llc := newest("llc", search):
            (directory / "llc").symlink_to(llc)
    if named and clang and kept:
        (directory / "clang").write_text(wrapper(named, identity(clang), kept))
        (directory / "clang").chmod(0o755)
    elif clang and bundle.root is None:
        (directory / "clang").symlink_to(clang)
    return directory


def newest(name: str, path: str) -> Path | None:
    """The program with the highest version in its name that is new enough, else the plain one."""
    pattern = re.compile(re.escape(name) + r"(?:-(\d+))?")
    there = (candidate for directory in path.split(":") for candidate in Path(directory).glob(f"{name}*"))
    found = [(match, program) for program in there if (match := pattern.fullmatch(program.name)) and program.exists()]
    numbered = [(int(match[1]), program) for match, program in found if match[1] and int(match[1]) >= OLDEST]
    return max(numbered)[1] if numbered else next((program for match, program in found if not match[1]), None)
