"""One test run's directory and its run.json: what was said, expected and observed, test by test."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from niclab.errors import LabError


def new_directory(parent: Path) -> Path:
    """The first of `run-1`, `run-2` … that is not there yet; made here, so that two runs never share one."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / f"run-{number}"
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
            number += 1
    except OSError as error:
        raise LabError(
            f"cannot make a directory for this run in {parent}",
            why=error.strerror or str(error),
            fix="--artifacts DIR names another place",
        ) from None


def shared_directory(parent: Path, run: str) -> Path:
    """The same new directory for every process of one run; whichever asks first makes it."""
    link = _link(parent, run)
    if not link.is_symlink():
        made = new_directory(parent)
        try:
            link.symlink_to(made.name)
        except FileExistsError:
            made.rmdir()
    return parent / link.readlink()


def end_sharing(parent: Path, run: str) -> None:
    _link(parent, run).unlink(missing_ok=True)


def _link(parent: Path, run: str) -> Path:
    return parent / f".{run}"


def write(path: Path, *, datapath: str, tests: list[dict[str, Any]]) -> None:
    """Write run.json. Raises LabError."""
    run = {
        "version": 1,
        "niclab": metadata.version("niclab"),
        "kernel": platform.release(),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "datapath": datapath,
        "tests": tests,
    }
    try:
        path.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise LabError(f"cannot write the record {path}", why=error.strerror or str(error)) from None
