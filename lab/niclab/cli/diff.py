"""`niclab diff`: which flows moved to another NIC or changed source from one record to another."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from niclab.cli import FAIL, PASS
from niclab.errors import LabError
from niclab.report import diff


def run(options: argparse.Namespace) -> int:
    """Exit 0: nothing changed; 1: something did. One record of two versions is compared with itself."""
    before = diff.read(Path(options.before))
    if options.after is not None:
        after = diff.read(Path(options.after))
    else:
        found = diff.versions(before)
        if len(found) != 2:
            raise LabError(
                f"{options.before} has {len(found)} Cilium version{'' if len(found) == 1 else 's'}",
                why=f"{', '.join(found) or 'none'}; one record is compared with itself when it has two",
                fix="name a second record",
            )
        both = before
        before = [test for test in both if test["cilium_version"] == found[0]]
        after = [test for test in both if test["cilium_version"] == found[1]]
    difference = diff.compare(before, after)
    if not difference.compared:
        raise LabError("the records have no flow in common", why="they differ in topology or settings")
    if options.output == "json":
        print(json.dumps(asdict(difference), indent=2, ensure_ascii=False))
    else:
        print(f"{_title(before)} → {_title(after)}")
        print(diff.render(difference))
    return FAIL if difference.changes else PASS


def _title(tests: list[dict[str, object]]) -> str:
    datapaths = sorted({str(test["datapath"]) for test in tests})
    return f"{'+'.join(datapaths)} {'+'.join(diff.versions(tests))}"
