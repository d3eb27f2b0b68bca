"""Where output goes: full disks, readers that leave, closed and old-fashioned terminals, and completion."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from niclab.cli import COULD_NOT_RUN, PASS
from niclab.cli.arguments import parser

VERBS = [
    (verb, action)
    for group in parser()._actions
    if group.choices and isinstance(group.choices, dict)
    for verb, action in group.choices.items()
]


def shell(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`niclab` in a shell, with its output sent somewhere."""
    line = f"{sys.executable} -m niclab.cli {words}"
    command = ["env", *(f"{key}={value}" for key, value in environment.items()), "bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")


@pytest.mark.parametrize("words", ["validate --schema", "explain two-nic", "predict two-nic -o json", "behaviours"])
def test_a_full_disk_is_one_error(words: str) -> None:
    done = shell(f"{words} >/dev/full")
    assert (done.returncode, done.stderr) == (
        COULD_NOT_RUN,
        "niclab: cannot write the output: No space left on device\n",
    )


@pytest.mark.parametrize("words", ["validate --schema", "explain two-nic", "predict two-nic -o json", "behaviours"])
def test_a_reader_that_has_seen_enough_is_no_error(words: str) -> None:
    done = shell(f"{words} | head -n 1 >/dev/null")
    assert (done.returncode, done.stderr) == (PASS, "")


def test_a_closed_output_is_no_error() -> None:
    done = shell("explain two-nic >&-")
    assert (done.returncode, done.stderr) == (PASS, "")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("words", ["explain two-nic", "predict two-nic", "graph two-nic", "explain nothing"])
def test_a_terminal_without_our_signs_gets_others(words: str, encoding: str) -> None:
    done = shell(words, PYTHONIOENCODING=encoding)
    assert "Traceback" not in done.stderr
    assert done.returncode == (COULD_NOT_RUN if "nothing" in words else PASS)


def test_every_verb_has_its_function() -> None:
    assert VERBS
    for verb, command in VERBS:
        run = command.get_default("run")
        if run is None:  # a group of verbs
            continue
        module, _, function = run.partition(".")
        assert callable(getattr(importlib.import_module(f"niclab.cli.{module}"), function)), verb


@pytest.mark.parametrize("name", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_verb(name: str) -> None:
    done = shell(f"completion {name}")
    assert done.returncode == PASS
    assert [verb for verb, _ in VERBS if verb not in done.stdout] == []


def test_bash_takes_the_completion() -> None:
    script = shell("completion bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
