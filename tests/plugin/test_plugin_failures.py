"""After a failed or interrupted test: labs that are kept, runs that wait for a person, and nothing else left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.busy import PATIENCE
from tests.support.command import niclab
from tests.support.inner import FAILING, standing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")


def test_a_kept_lab_stands_and_the_printed_lines_work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)
    done = pytester.runpytest_subprocess("--keep", "-s")
    done.assert_outcomes(passed=1, failed=1)
    text = done.stdout.str()
    ids = dict(re.findall(r"(wrong|right): (lab\w+)", text))
    try:
        assert standing(ids["wrong"])
        assert not standing(ids["right"])
        (line,) = re.findall(r"^node1: (ip netns exec .*) …$", text, re.MULTILINE)
        routes = subprocess.run([*line.split(), "ip", "route"], capture_output=True, text=True, check=True).stdout
        assert "default via 10.0.0.254 dev eth0" in routes
        (inspect,) = re.findall(r"^kept: (niclab inspect --id lab\w+) · niclab down lab", text, re.MULTILINE)
        told = niclab(*inspect.split()[1:])
        assert "devices [eth1]" in told.out
    finally:
        assert niclab("down", ids["wrong"]).status == 0
    assert not standing(ids["wrong"])


def test_a_failed_test_can_wait_for_a_person(pytester: pytest.Pytester) -> None:
    """With the output captured, as it is by default; what is typed reaches nobody else."""
    pytester.makepyfile(FAILING)
    command = [sys.executable, "-m", "pytest", "--pause-on-error", "-p", "no:cacheprovider"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin and run.stdout
        shown = ""
        while "press Enter" not in shown:
            line = run.stdout.readline()
            assert line, shown
            shown += line
        (name,) = re.findall(r"^node1: ip netns exec (\S+) …$", shown, re.MULTILINE)
        assert "left node1 by eth1, not by eth0" in shown
        assert Path("/run/netns", name).exists()
        rest = run.communicate("\n", timeout=PATIENCE)[0]
    assert "1 failed, 1 passed" in rest
    assert not Path("/run/netns", name).exists()


def test_nobody_to_wait_for_is_no_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)
    command = [sys.executable, "-m", "pytest", "--pause-on-error", "-p", "no:cacheprovider"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout
    refused = pytester.runpytest_subprocess("--pause-on-error", "-n", "2")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["ERROR: --pause-on-error needs the terminal*"])


def test_an_interrupted_run_leaves_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import signal
        def test_it(lab):
            lab.send("pod1", "pod2")
            with open("standing", "w") as file:
                file.write(lab.id)
            signal.pause()
    """)
    os.mkfifo(pytester.path / "standing")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        lab_id = (pytester.path / "standing").read_text()
        assert standing(lab_id)
        run.send_signal(signal.SIGINT)
        text = run.communicate(timeout=PATIENCE)[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED, text
    assert "KeyboardInterrupt" in text
    assert not standing(lab_id)
