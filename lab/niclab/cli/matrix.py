"""`niclab matrix`: every NIC matrix of a run's record, shares as bars, and the flows that were not as predicted."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from niclab.cli import PASS
from niclab.report import run as run_record
from niclab.report import summary


def run(options: argparse.Namespace) -> int:
    """Print what a run measured, in full. Raises LabError for a file that is no record."""
    tests = run_record.read(Path(options.record))["tests"]
    for line in summary.whole(tests, width=max(100, shutil.get_terminal_size().columns)):
        print(line)
    return PASS
