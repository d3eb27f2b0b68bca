"""The compiler that agents of a directory bundle find on their PATH: they call `clang` and `llc`, whatever it is.

Distributions name the newest ones `clang-19`; the plain name may be an older one that refuses Cilium's sources.
"""

from __future__ import annotations

import re
from pathlib import Path

from lab.errors import LabError
from lab.process import environment

PROGRAMS = ("clang", "llc")
OLDEST = 17
"""pkg/datapath/linux/requirements.go and the sources' own flags; 1.18 and later are built with 19."""


def links(directory: Path, path: str | None = None) -> Path:
    """Make `directory` hold links by the plain names to the newest versions on PATH. Raises LabError."""
    directory.mkdir(parents=True, exist_ok=True)
    search = path if path is not None else environment()["PATH"]
    for name in PROGRAMS:
        target = newest(name, search)
        if target is None:
            if name == "clang":
                raise LabError(
                    f"no clang of version {OLDEST} or later is installed",
                    why="agents of a directory bundle compile their programs with the host's",
                    mend="apt-get install clang-19 llvm-19, or use an image bundle: niclab cilium pull",
                )
            continue
        link = directory / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return directory


def newest(name: str, path: str) -> Path | None:
    """The program with the highest version in its name that is new enough, else the plain one."""
    found: list[tuple[int, Path]] = []
    plain: Path | None = None
    for directory in map(Path, path.split(":")):
        if not directory.is_dir():
            continue
        for candidate in directory.glob(f"{name}*"):
            match = re.fullmatch(re.escape(name) + r"(?:-(\d+))?", candidate.name)
            if match is None or not candidate.exists():
                continue
            if match[1] is None:
                plain = plain or candidate
            elif int(match[1]) >= OLDEST:
                found.append((int(match[1]), candidate))
    return max(found)[1] if found else plain
