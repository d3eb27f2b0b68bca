"""`niclab matrix`, `diff`, `claims` and `issues`: what runs measured, what changed between them, what they prove.

Without a record the scenarios that answer claims or issues are run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import niclab
from niclab.cli import FAIL, PASS
from niclab.errors import LabError
from niclab.report import claims as answers
from niclab.report import diff as difference
from niclab.report import run, summary


def matrix(options: argparse.Namespace) -> int:
    """Every NIC matrix, shares as bars, and the flows that were not as predicted. Raises LabError."""
    tests = run.read(Path(options.record))["tests"]
    print(*summary.whole(tests, width=max(100, shutil.get_terminal_size().columns)), sep="\n")
    return PASS


def diff(options: argparse.Namespace) -> int:
    """Exit 0: nothing changed; 1: something did. One record of two versions is compared with itself."""
    before = difference.read(Path(options.before))
    if options.after is not None:
        after = difference.read(Path(options.after))
    else:
        versions = difference.versions(before)
        if len(versions) != 2:
            raise LabError(
                f"{options.before} has {len(versions)} Cilium version{'' if len(versions) == 1 else 's'}",
                why=f"{', '.join(versions) or 'none'}; one record is compared with itself when it has two",
                fix="name a second record",
            )
        before, after = ([test for test in before if test["cilium_version"] == version] for version in versions)
    changed = difference.compare(before, after)
    if not changed.compared:
        raise LabError("the records have no flow in common", why="they differ in topology or settings")
    if options.output == "json":
        print(json.dumps(asdict(changed), indent=2, ensure_ascii=False))
    else:
        nics, then = _nics(before), _nics(after)
        said = ("", "") if nics == then else (f", {nics} NICs", f", {then} NICs")
        print(f"{_title(before)}{said[0]} → {_title(after)}{said[1]}")
        print(difference.render(changed))
    return FAIL if changed.changes else PASS


def _title(tests: list[dict[str, Any]]) -> str:
    datapaths = sorted({str(test["datapath"]) for test in tests})
    return f"{'+'.join(datapaths)} {'+'.join(difference.versions(tests))}"


def _nics(tests: list[dict[str, Any]]) -> str:
    """What the nodes' NICs were; before there was a choice all were veth."""
    return "+".join(sorted({str(test.get("nics", "veth")) for test in tests}))


_KINDS = {"claims": ("claim", "The article's claims"), "issues": ("issue", "Issues of Cilium's users")}
_NOTHING_RAN = 5
"""pytest's exit status when no test was collected."""


def claims(options: argparse.Namespace) -> int:
    """0 when every claim is proved, 1 when one is not. Raises LabError when they could not be run."""
    kind, title = _KINDS[options.verb]
    record = run.read(Path(options.record)) if options.record else _measured(options, kind)
    proofs = answers.proofs(record["tests"], kind)
    if numbers := getattr(options, "number", ()):
        proofs = [proof for proof in proofs if proof.claim["number"] in numbers]
    if not proofs:
        raise LabError(f"the record has no {kind}s", fix=f"niclab {options.verb} without --record runs them")
    if options.output == "json":
        print(json.dumps(answers.as_json(proofs), indent=2, ensure_ascii=False))
    elif options.output == "markdown":
        print(answers.markdown(proofs, title=title, measured=_provenance(record)), end="")
    else:
        print(answers.text(proofs))
    return PASS if all(proof.proved for proof in proofs) else FAIL


def _measured(options: argparse.Namespace, kind: str) -> Mapping[str, Any]:
    """The record of a run of the scenarios that answer them."""
    chosen = " or ".join(f"issue_{number}" for number in getattr(options, "number", ())) or kind
    with tempfile.TemporaryDirectory(prefix="niclab-") as directory:
        command = [sys.executable, "-m", "pytest", str(_scenarios()), "-q", "-m", chosen, "--artifacts", directory]
        command += ["-p", "no:cacheprovider", "-o", "addopts="]
        for name in ("datapath", "control_plane"):
            if getattr(options, name):
                command += [f"--{name.replace('_', '-')}", getattr(options, name)]
        for version in options.cilium or ():
            command += ["--cilium", version]
        # What pytest prints goes beside the answer, where a person sees it and a program does not read it.
        status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        if status == _NOTHING_RAN:
            raise LabError(f"no scenario answers {chosen}", fix=f"niclab {options.verb} lists them all")
        records = sorted(Path(directory).glob("run-*/run.json"))
        if not records:
            raise LabError(f"the scenarios could not be run (pytest ended with status {status})")
        return run.read(records[-1])


def _scenarios() -> Path:
    """Where the shipped scenarios are: in the wheel beside the modules, in a clone beside the package."""
    package = Path(niclab.__file__).parent
    shipped = package / "_scenarios"
    return shipped if shipped.is_dir() else package.parent / "scenarios"


def _provenance(record: Mapping[str, Any]) -> str:
    versions = list(dict.fromkeys(str(test["cilium_version"]) for test in record["tests"]))
    day = record.get("date") or datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    whose = "real agents" if record["datapath"] == "cilium" else "the built-in model"
    return (
        f"Generated by `niclab` {record['niclab']} from a record: measured on {day} with {whose}, "
        f"Cilium {' and '.join(versions)}, Linux {str(record['kernel']).partition('-')[0]}."
    )
