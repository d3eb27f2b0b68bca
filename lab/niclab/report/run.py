"""One test run's directory and its run.json: what was reported, expected and observed, test by test."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from niclab.errors import LabError

_RECORDS = "pytest lab/ writes one: artifacts/run-N/run.json; niclab trace -o json prints one"


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


def read(path: Path) -> dict[str, Any]:
    """A run's record, with its `tests`. Raises LabError for a file that is none."""
    try:
        record: Any = json.loads(path.read_text())
    except OSError as error:
        raise LabError(f"cannot read {path}", why=error.strerror or str(error)) from None
    except ValueError as error:
        raise LabError(f"{path} is no record", why=str(error), fix=_RECORDS) from None
    if not isinstance(record, dict) or not isinstance(tests := record.get("tests"), list):
        raise LabError(f"{path} is no run's record", why="it has no tests", fix=_RECORDS)
    for number, test in enumerate(tests):
        check_test(path, test, f"test {number + 1}")
    return record


def check_test(path: Path, test: object, where: str) -> None:
    """Raises LabError unless this is one measured lab, as `niclab trace -o json` prints it, whatever more it has."""
    from pydantic import ValidationError

    from niclab.report.record import Record

    known = (
        {key: value for key, value in test.items() if key in Record.model_fields} if isinstance(test, dict) else test
    )
    try:
        Record.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise LabError(f"{path} is no record", why=why, fix=_RECORDS) from None


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
