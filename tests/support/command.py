"""Running `niclab`: in a process of its own, or in this one."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from niclab.cli import main

from tests.support.busy import PATIENCE

TINY = """\
name: tiny
fabrics: {f0: , f1: }
nodes:
  node1:
    nics:
      eth0: {fabric: f0, addresses: 10.0.0.1/24, mtu: 1500}
      eth1: {fabric: f1, addresses: 10.0.1.1/24}
    routes: [default via 10.0.0.100 dev eth0]
    pod_cidrs: 10.244.1.0/24
    pods: [pod1]
  node2:
    nics:
      eth0: {fabric: f0, addresses: 10.0.0.2/24}
    routes: [default via 10.0.0.100 dev eth0]
    pod_cidrs: 10.244.2.0/24
    pods: [pod2]
externals:
  ext0: {nics: {eth0: {fabric: f0, addresses: 10.0.0.100/24}}, routes: [10.244.1.0/24 via 10.0.0.1]}
"""


@dataclass(frozen=True)
class Done:
    """One finished command."""

    status: int
    out: str
    err: str
    left: tuple[str, ...] = ()


def niclab(*arguments: str, stdin: str = "") -> Done:
    command = [sys.executable, "-m", "niclab.cli", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return Done(done.returncode, done.stdout, done.stderr)


def here(*arguments: str) -> Done:
    """The same in this process, which saves the imports."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    left = (*Path("/run").glob("niclab*"), *Path("/run").glob("netns*"))
    return Done(status, out.getvalue(), err.getvalue(), tuple(map(str, left)))
