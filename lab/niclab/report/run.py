"""One test run's directory and its run.json: what was reported, expected and observed, test by test."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from niclab.errors import LabError, lab_error

_RECORDS = "pytest lab/ writes one: artifacts/run-N/run.json; niclab trace -o json prints one"


def directory(parent: Path, shared: str | None = None) -> Path:
    """The first of `run-1`, `run-2` … that is not there yet; made here, so that two runs never share one.

    `shared`: what processes of one run have in common: whichever asks first makes the directory of all.
    """
    if shared is None:
        with lab_error(f"cannot make a directory for this run in {parent}", fix="--artifacts DIR names another place"):
            parent.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                with contextlib.suppress(FileExistsError):
                    (parent / f"run-{number}").mkdir()
                    return parent / f"run-{number}"
    link = _link(parent, shared)
    if not link.is_symlink():
        made = directory(parent)
        try:
            link.symlink_to(made.name)
        except FileExistsError:
            made.rmdir()
    return parent / link.readlink()


def end_sharing(parent: Path, run: str) -> None:
    _link(parent, run).unlink(missing_ok=True)


def _link(parent: Path, shared: str | None) -> Path:
    return parent / f".{shared}"


def read(path: Path) -> dict[str, Any]:
    """A run's record, with its `tests`. Raises LabError for a file that is none."""
    record = parsed(path)
    if not isinstance(record, dict) or not isinstance(tests := record.get("tests"), list):
        raise LabError(f"{path} is no run's record", why="it has no tests", fix=_RECORDS)
    for number, test in enumerate(tests):
        check_test(path, test, f"test {number + 1}")
    return record


def parsed(path: Path) -> Any:
    """A file of JSON. Raises LabError."""
    try:
        with lab_error(f"cannot read {path}"):
            return json.loads(path.read_text())
    except ValueError as error:
        raise LabError(f"{path} is no record", why=str(error), fix=_RECORDS) from None


def check_test(path: Path, test: object, where: str) -> None:
    """Raises LabError unless this is one measured lab, as `niclab trace -o json` prints it, whatever more it has."""
    from pydantic import ValidationError

    from niclab.report.record import Record

    try:
        if isinstance(test, dict):
            test = {key: value for key, value in test.items() if key in Record.model_fields}
        Record.model_validate(test)
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
    with lab_error(f"cannot write the record {path}"):
        path.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
