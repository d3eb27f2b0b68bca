"""The compiler that agents find on their PATH: they call `clang` and `llc`, whatever it is.

Distributions name the newest ones `clang-19`; the plain name may be an older one that refuses Cilium's sources. Before
the compiler stands what keeps its objects for later labs (`objects`).
"""

from __future__ import annotations

import re
from pathlib import Path

from niclab.agents import objects
from niclab.agents.bundle import CiliumBundle
from niclab.agents.bundle.rootfs import inside
from niclab.errors import LabError
from niclab.host.process import environment

PROGRAMS = ("clang", "llc")
OLDEST = 17
"""pkg/datapath/linux/requirements.go and the sources' own flags; 1.18 and later are built with 19."""


def provide(directory: Path, bundle: CiliumBundle, kept: Path | None) -> Path:
    """Make `directory` hold what an agent is to find first on its PATH; objects are kept in `kept`. Raises LabError.

    For a directory bundle links by the plain names to the newest versions of the host; for an image nothing but what
    stands before its own compiler.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        (directory / name).unlink(missing_ok=True)
    if bundle.root is not None:
        inner = bundle.program("clang")
        outer = inside(bundle.root, inner) if inner else None
        if inner and outer and kept:
            _stand_before(directory / "clang", inner, objects.identity(outer), kept)
        return directory
    search = environment()["PATH"]
    clang, llc = newest("clang", search), newest("llc", search)
    if clang is None:
        raise LabError(
            f"no clang of version {OLDEST} or later is installed",
            why="agents of a directory bundle compile their programs with the host's",
            fix="apt-get install clang-19 llvm-19, or use an image bundle: niclab cilium pull",
        )
    if kept:
        _stand_before(directory / "clang", clang, objects.identity(clang), kept)
    else:
        (directory / "clang").symlink_to(clang)
    if llc:
        (directory / "llc").symlink_to(llc)
    return directory


def _stand_before(path: Path, compiler: Path, identity: str, kept: Path) -> None:
    path.write_text(objects.wrapper(compiler, identity, kept))
    path.chmod(0o755)


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
