"""A user without root: commands are really run as somebody else, with a readable copy of what they need."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import niclab
import pytest

from tests.support.busy import PATIENCE

# Nobody else has this uid: tests that run at the same time must not share a user namespace.
NOBODY = 200_000 + os.getpid()
# The env is no decoration: setpriv still has root's capabilities when it looks up what it executes.
BECOME = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env"]


@dataclass(frozen=True)
class User:
    """An unprivileged user with a world-readable copy of what is tested, wherever the project itself lies."""

    home: Path
    python: str

    def command(self, *arguments: str) -> list[str]:
        clean = ["-i", "PATH=/usr/bin:/bin", f"HOME={self.home}", f"PYTHONPATH={self.home}/lib"]
        # pytest names its directories after the user, and this one has no name; none can put compiled modules in `lib`.
        places = [f"PYTEST_DEBUG_TEMPROOT={self.home}/work", f"PYTHONPYCACHEPREFIX={self.home}/work/compiled"]
        return [*BECOME, *clean, *places, self.python, *arguments]

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd=self.home / "work",
        )

    def code(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("-c", "from niclab.host.userns import *\n" + code, *arguments)

    def clean(self) -> None:
        """End the user namespace that outlives a command."""
        self.code("end_holder()")
        shutil.rmtree(f"/tmp/niclab-{NOBODY}", ignore_errors=True)


PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")


@contextmanager
def unprivileged(*distributions: str) -> Iterator[User]:
    """A user whose home has niclab, its topologies and these distributions in `lib`, and a directory `work` of its own.
    Skips the test where this is not root."""
    if os.geteuid() != 0 or subprocess.run([*BECOME, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root, to become another user")
    package = Path(niclab.__file__).parent
    home = Path(tempfile.mkdtemp(prefix="niclab-test-", dir="/tmp"))
    try:
        library = home / "lib"
        for name in distributions:
            _copy_distribution(name, library)
        shutil.copytree(package, library / "niclab", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        shutil.copytree(package.parents[1] / "topologies", library / "niclab" / "_topologies", dirs_exist_ok=True)
        for name in ("work", "run"):
            (home / name).mkdir(mode=0o700)
            os.chown(home / name, NOBODY, NOBODY)
        subprocess.run(["chmod", "-R", "a+rX", str(library)], check=True)
        home.chmod(0o755)
        yield User(home, _public_python())
    finally:
        shutil.rmtree(home)


def _copy_distribution(name: str, library: Path) -> None:
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            target = library.joinpath(*file.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(distribution.locate_file(file)), target)


def _public_python() -> str:
    """This interpreter may lie in root's home: then any other that everybody may run."""
    here = os.path.realpath(sys.executable)
    for candidate in (here, *(f"/usr/bin/python3{minor}" for minor in ("", ".14", ".13", ".12", ".11"))):
        question = [*BECOME, candidate, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(question, capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip("no Python ≥ 3.11 here that other users may run")
